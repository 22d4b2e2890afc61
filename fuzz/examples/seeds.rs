//! Makes seeds from the objects of a store in a directory.
//!
//! ```text
//! seeds STORE_DIR OUT_DIR [SEEDS_MAX [BYTES_MAX]]
//! ```
//! Writes at most `SEEDS_MAX` files of at most `BYTES_MAX` bytes to `OUT_DIR/TARGET` for every
//! target that decodes what a store holds: every n-th by length, so that not only the shortest
//! are there, and named by their hash, so that a second run adds nothing.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use nacre_blobstore::{
    Collected, CollectedKind, Condemned, Digest, FrameEntry, ItemKind, Key, LeaseRecord,
    MetadataImageId, Moved, PackId, PackIndex, PackKind, PackName, Record, RecordId, RecordKind,
    RefName, Trace, TreeId, UnverifiedBytes, encode_metadata_image,
};
use nacre_fuzz::{decode_metadata_image, join_frame};

type Failure = Box<dyn Error>;

const SEEDS_MAX: usize = 200;
const BYTES_MAX: usize = 16 << 10;
/// Bytes that are left of a metadata image: EROFS's superblock and its first inodes.
const METADATA_IMAGE_BYTES: usize = 1536;

/// The seeds of one target, shortest first.
#[derive(Default)]
struct Seeds(BTreeSet<(usize, Vec<u8>)>);

impl Seeds {
    fn add(&mut self, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.0.insert((bytes.len(), bytes));
    }

    fn write(mut self, folder: &Path, seeds_max: usize, bytes_max: usize) -> Result<(), Failure> {
        self.0.retain(|(len, _)| *len <= bytes_max);
        fs::create_dir_all(folder)?;
        let step = self.0.len().div_ceil(seeds_max).max(1);
        for (_, bytes) in self.0.iter().step_by(step) {
            let name = Digest::of(bytes).to_string();
            fs::write(folder.join(&name[..16]), bytes)?;
        }
        Ok(())
    }
}

/// Everything that a walk over a store finds.
#[derive(Default)]
struct Found {
    chunk_lists: Seeds,
    condemned: Seeds,
    frames: Seeds,
    hints: Seeds,
    inode_logs: Seeds,
    keeper_messages: Seeds,
    leases: Seeds,
    metadata_images: Seeds,
    pack_indexes: Seeds,
    records: Seeds,
    refs: Seeds,
    snapshots: Seeds,
    traces: Seeds,
    trees: Seeds,
}

impl Found {
    fn walk(store: &Path) -> Result<Self, Failure> {
        let mut found = Self::default();
        for kind in PackKind::ALL {
            for index_file in files(&store.join(kind.index_folder()))? {
                let encoded = fs::read(&index_file)?;
                let pack = fs::read(
                    store
                        .join(kind.folder())
                        .join(index_file.file_name().unwrap()),
                )?;
                let (_, index) = PackIndex::decode_unnamed(&encoded)?;
                found.pack_indexes.add(encoded);
                found.add_frames(&index, &pack)?;
            }
        }
        for record in files(&store.join("records"))? {
            let bytes = fs::read(&record)?;
            let id = record
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let record = id.and_then(|id| Record::decode(id, &bytes).ok());
            match record.map(|record| (record.kind, record.payload)) {
                Some((RecordKind::Trace, payload)) => {
                    found.traces.add(Trace::decode(&payload)?.to_file());
                    found.traces.add(payload);
                }
                Some((RecordKind::Snapshot, payload)) => found.snapshots.add(payload),
                Some((RecordKind::Image, _)) | None => {}
            }
            found.records.add(bytes);
        }
        for image in files(&store.join("metadata"))? {
            found.add_metadata_image(&fs::read(&image)?)?;
        }
        for file in files(&store.join("refs"))? {
            let key = file
                .strip_prefix(store)?
                .to_str()
                .ok_or("key is not text")?;
            found.refs.add(fs::read(&file)?);
            found.refs.add(key);
            if let Some(name) = RefName::from_key(&Key::new(key)?) {
                found.refs.add(name.as_str());
            }
        }
        // The store may have none.
        found.snapshots.add(
            r#"{"kind":"directory","path":"/a","parent":"p","base":"b","sandbox":"s",
            "created_ms":1,"expires_ms":2,"key":"k","labels":{"l":"v"},"config":"{}",
            "bytes_changed":7}"#,
        );
        // A store at rest has no leases.
        for holder in ["node-1 ingest", "", "h\u{f6}st"] {
            let record = LeaseRecord {
                token: 1,
                acquired_ms: 1 << 39,
                expires_ms: 1 << 40,
                holder: holder.into(),
            };
            found.leases.add(record.encode());
        }
        found.add_notes();
        found.add_node_formats();
        Ok(found)
    }

    fn add_metadata_image(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        // Neither is compared under `cfg(fuzzing)`.
        let tree = TreeId::new(Digest::of(b""));
        let any_id = MetadataImageId::new(Digest::of(b""));
        let (mut plain, hints) = decode_metadata_image(tree, any_id, bytes)?;
        self.hints.add(hints.encode().unwrap_or_default());
        plain.truncate(METADATA_IMAGE_BYTES);
        self.metadata_images
            .add(encode_metadata_image(tree, &plain, &hints)?.1);
        Ok(())
    }

    /// Notes of what is condemned, which a store seldom has.
    fn add_notes(&mut self) {
        let kinds = [
            CollectedKind::Record,
            CollectedKind::MetadataImage,
            CollectedKind::TreePack,
            CollectedKind::DataPack,
        ];
        for (doomed_ms, len) in [(None, 0), (None, 1), (Some(1 << 40), 4)] {
            let objects = kinds.iter().take(len).map(|kind| Collected {
                kind: *kind,
                id: Digest::of(b"object"),
            });
            let note = Condemned {
                condemned_ms: 1 << 40,
                doomed_ms,
                objects: objects.collect(),
            };
            self.condemned.add(note.encode());
        }
        let pack = |kind| PackName {
            kind,
            id: PackId::new(Digest::of(b"pack")),
        };
        let moved = Moved {
            records: [RecordId::new(Digest::of(b"record"))].into(),
            packs: PackKind::ALL.map(pack).into(),
        };
        self.condemned.add(moved.encode());
        self.condemned.add(Moved::default().encode());
    }

    /// What a node writes and a store never holds.
    fn add_node_formats(&mut self) {
        let check = |bytes: &[u8]| Digest::of(bytes).as_bytes()[..4].to_vec();
        let session = 7_u64.to_le_bytes();
        let header = [&b"NACRINOD\x01\0"[..], &session].concat();
        let mut log = [&header[..], &check(&header)].concat();
        self.inode_logs.add(&log[..]);
        // Kinds of records and the lengths of their bodies. The inode is the first byte's number.
        for (kind, body_len) in [(1, 33), (2, 12), (3, 61), (4, 40), (5, 0)] {
            let mut record = vec![0; 9 + body_len];
            record[..2].copy_from_slice(&[kind, kind % 4]);
            log.extend([&record[..], &check(&record)].concat());
            self.inode_logs.add(&log[..]);
        }
        let command = b"\x02\0\x05\0\0\0nacre\x06\0\0\0daemon";
        let session = [7; 36];
        for message in [
            [&[1, 1][..], &session, command].concat(),
            [&[1, 2][..], command].concat(),
            [&[1, 17][..], &session].concat(),
        ] {
            self.keeper_messages.add(message);
        }
        for kind in [3, 4, 18, 19, 20] {
            self.keeper_messages.add([1, kind]);
        }
    }

    fn add_frames(&mut self, index: &PackIndex, pack: &[u8]) -> Result<(), Failure> {
        let stored = |entry: &FrameEntry| {
            let range = entry.range();
            pack.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
        };
        for entry in index.frames() {
            let stored = stored(entry).ok_or("frame is not in its pack")?;
            join_frame(entry, stored)
                .into_iter()
                .for_each(|input| self.frames.add(input));
        }
        if index.kind() == PackKind::Data {
            return Ok(());
        }
        for (frame, number, item) in index.items() {
            let entry = &index.frames()[frame as usize];
            let stored = stored(entry).ok_or("frame is not in its pack")?.to_vec();
            let plain = entry.decode(UnverifiedBytes::new(stored.into()))?;
            let bytes = plain
                .item(number)
                .ok_or("item is not in its frame")?
                .into_untrusted();
            match item.kind {
                ItemKind::Tree(_) => self.trees.add(bytes),
                ItemKind::ChunkList(_) => self.chunk_lists.add(bytes),
                ItemKind::Chunk(_) => {}
            }
        }
        Ok(())
    }
}

/// Returns the files below a folder, none when it is not there.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    if !folder.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, out, limits @ ..] = &arguments[..] else {
        return Err("usage: seeds STORE_DIR OUT_DIR [SEEDS_MAX [BYTES_MAX]]".into());
    };
    let limit = |at: usize, default| limits.get(at).map_or(Ok(default), |text| text.parse());
    let (seeds_max, bytes_max) = (limit(0, SEEDS_MAX)?, limit(1, BYTES_MAX)?);
    let found = Found::walk(Path::new(store))?;
    for (target, seeds) in [
        ("chunk_list", found.chunk_lists),
        ("condemned", found.condemned),
        ("frame", found.frames),
        ("hints", found.hints),
        ("inode_log", found.inode_logs),
        ("keeper_message", found.keeper_messages),
        ("lease_record", found.leases),
        ("metadata_image", found.metadata_images),
        ("pack_index", found.pack_indexes),
        ("record", found.records),
        ("ref_name", found.refs),
        ("snapshot_record", found.snapshots),
        ("trace", found.traces),
        ("tree", found.trees),
    ] {
        seeds.write(&Path::new(out).join(target), seeds_max, bytes_max)?;
    }
    Ok(())
}
