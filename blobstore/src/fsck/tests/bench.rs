//! Stores with small images in them, and what to do to them.

use bytes::Bytes;
use tokio::runtime::Handle;

use super::super::*;
use crate::MetadataImageId;
use crate::testing::memory_store;
use crate::{
    Attributes, Chunk, ContentId, Entry, Hints, Key, Node, PackWriter, RecordKind, Ref, RefName,
    Tree, WriterOptions, encode_metadata_image, write_ref,
};

pub(crate) struct Bench {
    pub(crate) _dir: tempfile::TempDir,
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) index: Arc<ChunkIndex>,
}

/// An image that a [`Bench`] stored.
pub(crate) struct Stored {
    pub(crate) reference: RefName,
    pub(crate) record: RecordId,
    pub(crate) data: PackName,
    pub(crate) tree: PackName,
    pub(crate) metadata: MetadataImageId,
}

pub(crate) fn chunk(number: u8) -> Chunk {
    let mut bytes = vec![0; 60_000];
    blake3::Hasher::new()
        .update(&[number])
        .finalize_xof()
        .fill(&mut bytes);
    Chunk::of(bytes.into())
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::over(memory_store())
    }

    /// Another node with the same store.
    pub(crate) fn over(store: Arc<dyn BlobStore>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = Arc::new(ChunkIndex::open(dir.path()).unwrap());
        Self {
            _dir: dir,
            store,
            index,
        }
    }

    async fn write(&self, kind: PackKind, items: Vec<(ItemKind, Bytes)>) {
        let (store, index) = (Arc::clone(&self.store), Arc::clone(&self.index));
        let options = WriterOptions {
            frame_bytes: 256 << 10,
            ..WriterOptions::default()
        };
        let writer = PackWriter::new(kind, store, index, Handle::current(), options);
        let write = move || {
            let mut stream = writer.stream();
            for (item, bytes) in items {
                stream.add_metadata(item, &bytes).unwrap();
            }
            stream.flush().unwrap();
            drop(stream);
            writer.finish().unwrap();
        };
        tokio::task::spawn_blocking(write).await.unwrap();
    }

    /// Stores an image of one file for each number: a data pack with one chunk a file, four to a
    /// frame, a tree pack, a metadata image, the record and the ref.
    pub(crate) async fn image(&self, name: &str, numbers: std::ops::Range<u8>) -> Stored {
        let before = self.index.packs().unwrap();
        let chunks: Vec<_> = numbers.map(chunk).collect();
        let item = |chunk: &Chunk| (ItemKind::Chunk(chunk.id()), chunk.bytes().clone());
        self.write(PackKind::Data, chunks.iter().map(item).collect())
            .await;
        let file = |(number, chunk): (usize, &Chunk)| Entry {
            name: format!("{name}-{number}").into_bytes().into(),
            attributes: Attributes::default(),
            node: Node::File {
                content: ContentId::new(*chunk.id().digest()),
                size_bytes: chunk.bytes().len() as u64,
            },
            hard_link: None,
        };
        let (top, top_bytes) = Tree::new(chunks.iter().enumerate().map(file).collect())
            .unwrap()
            .encode()
            .unwrap();
        let (root, root_bytes) = Tree::root(Attributes::default(), top)
            .unwrap()
            .encode()
            .unwrap();
        let trees = [(top, top_bytes), (root, root_bytes)];
        let items = trees
            .map(|(id, bytes)| (ItemKind::Tree(id), bytes.into()))
            .to_vec();
        self.write(PackKind::Tree, items).await;

        let kinds = chunks.iter().map(|chunk| ItemKind::Chunk(chunk.id()));
        let (packs, missing) = self
            .index
            .packs_of(kinds.chain([ItemKind::Tree(top), ItemKind::Tree(root)]))
            .unwrap();
        assert!(missing.is_empty());
        // The pack that was written for this image, unless all was known.
        let of = |kind| {
            let mut packs = packs.iter().filter(|pack| pack.kind == kind);
            *packs
                .clone()
                .find(|pack| !before.contains(pack))
                .or_else(|| packs.next())
                .unwrap()
        };
        let (data, tree) = (of(PackKind::Data), of(PackKind::Tree));
        let (metadata, bytes) =
            encode_metadata_image(root, name.as_bytes(), &Hints::default()).unwrap();
        self.store.put(&metadata.key(), bytes.into()).await.unwrap();
        let record = Record {
            kind: RecordKind::Image,
            trees: vec![root],
            packs,
            metadata_images: [(root, metadata)].into(),
            payload: Vec::new(),
        };
        let record = record.write(&*self.store).await.unwrap();
        let reference: RefName = format!("images/{name}").parse().unwrap();
        let target = Ref {
            record,
            changed_ms: 0,
        };
        write_ref(&*self.store, &reference, target, None)
            .await
            .unwrap();
        Stored {
            reference,
            record,
            data,
            tree,
            metadata,
        }
    }

    pub(crate) async fn fsck(&self, options: FsckOptions) -> FsckReport {
        fsck(Arc::clone(&self.store), Arc::clone(&self.index), options)
            .await
            .unwrap()
    }

    pub(crate) async fn bytes(&self, key: &Key) -> Vec<u8> {
        self.store.get(key, 1 << 30).await.unwrap().0.to_vec()
    }

    /// Changes an object in place.
    pub(crate) async fn damage(&self, key: &Key, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes(key).await;
        damage(&mut bytes);
        self.store.put(key, bytes.into()).await.unwrap();
    }

    pub(crate) async fn frames(
        &self,
        pack: PackName,
    ) -> Vec<(std::ops::Range<u64>, Vec<ItemKind>)> {
        let packed = catalog::fetch_copy(&self.store, pack).await.unwrap();
        let mut frames: Vec<_> = packed
            .frames()
            .iter()
            .map(|f| (f.range(), Vec::new()))
            .collect();
        for (frame, _, item) in packed.items() {
            frames[frame as usize].1.push(item.kind);
        }
        frames.iter_mut().for_each(|frame| frame.1.sort_unstable());
        frames
    }
}
