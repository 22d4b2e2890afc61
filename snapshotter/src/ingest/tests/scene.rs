//! Images in layouts, nodes that add them, and what a reader then sees.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use nacre_blobstore::testing::memory_store;
use nacre_blobstore::{
    CHUNK_BYTES_AVERAGE, FsckOptions, FsckReport, Node, Origin, Reader, ReaderOptions, SystemClock,
    fsck, load_packs,
};
use serde_json::{Value, json};

use super::super::*;
use crate::image::Image;
use crate::oci::LayoutDirectory;

/// The regular files of an image, by path.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// How a layer's blob is made from its tar.
#[derive(Debug, Clone, Copy)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn pack(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => tar.to_vec(),
            Self::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(tar).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::bulk::compress(tar, 1).unwrap(),
        }
    }
}

/// Incompressible bytes that depend on `seed` alone.
pub(super) fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Makes files of noise: names and lengths.
pub(super) fn files(described: &[(&str, usize)]) -> Files {
    described
        .iter()
        .map(|(path, len)| ((*path).to_owned(), noise(path, *len)))
        .collect()
}

pub(super) fn tar(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An image in an OCI layout of its own.
pub(super) struct Layout {
    directory: tempfile::TempDir,
    /// The digests of the layers.
    pub(super) layers: Vec<OciDigest>,
}

impl Layout {
    pub(super) fn new(layers: &[(Packing, Vec<u8>)]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|(_, tar)| OciDigest::of(tar)).collect();
        Self::with_diff_ids(layers, &diff_ids)
    }

    pub(super) fn with_diff_ids(layers: &[(Packing, Vec<u8>)], diff_ids: &[OciDigest]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let blobs = directory.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let blob = |media_type: &str, bytes: &[u8]| -> Value {
            let digest = OciDigest::of(bytes);
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let described: Vec<Value> = layers
            .iter()
            .map(|(p, tar)| blob(p.media_type(), &p.pack(tar)))
            .collect();
        let digest = |layer: &Value| layer["digest"].as_str().unwrap().parse().unwrap();
        let digests = described.iter().map(digest).collect();
        let host = Platform::host();
        let config = json!({
            "os": host.os(), "architecture": host.architecture(), "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let config_type = "application/vnd.oci.image.config.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type,
            "config": blob(config_type, config.to_string().as_bytes()), "layers": described,
        });
        let index = json!({
            "schemaVersion": 2,
            "manifests": [blob(manifest_type, manifest.to_string().as_bytes())],
        });
        let root = directory.path();
        std::fs::write(
            root.join("oci-layout"),
            r#"{"imageLayoutVersion": "1.0.0"}"#,
        )
        .unwrap();
        std::fs::write(root.join("index.json"), index.to_string()).unwrap();
        Self {
            directory,
            layers: digests,
        }
    }

    pub(super) fn source(&self) -> AddSource {
        AddSource::Image(Arc::new(LayoutDirectory::new(
            self.directory.path().into(),
            None,
        )))
    }

    /// Changes the blob of a layer in place.
    pub(super) fn damage(&self, layer: usize, damage: impl FnOnce(&mut Vec<u8>)) {
        let file = self
            .directory
            .path()
            .join("blobs/sha256")
            .join(self.layers[layer].hex());
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(file, bytes).unwrap();
    }
}

/// A node: an index of its own over a store.
pub(super) struct Adder {
    _directory: tempfile::TempDir,
    pub(super) ingest: Ingest,
}

impl Adder {
    pub(super) fn new() -> Self {
        Self::over(memory_store())
    }

    pub(super) fn over(store: Arc<dyn BlobStore>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let index = Arc::new(ChunkIndex::open(directory.path()).unwrap());
        let ingest = Ingest {
            store,
            index,
            clock: Arc::new(SystemClock::new()),
            limits: LayerLimits::default(),
            layers_at_once: 2,
            chunk_bytes: CHUNK_BYTES_AVERAGE,
            writer: WriterOptions {
                threads: 2,
                ..WriterOptions::default()
            },
            holder: "test".to_owned(),
        };
        Self {
            _directory: directory,
            ingest,
        }
    }

    pub(super) async fn try_add(
        &self,
        name: &str,
        source: AddSource,
    ) -> Result<AddedImage, IngestError> {
        self.ingest
            .add(name, source, &Platform::host(), Arc::new(NoProgress))
            .await
    }

    pub(super) async fn add(&self, name: &str, layout: &Layout) -> AddedImage {
        self.try_add(name, layout.source()).await.unwrap()
    }

    /// Adds what cannot be added and returns the error with its causes.
    pub(super) async fn refused_as(&self, name: &str, layout: &Layout) -> String {
        let error = self.try_add(name, layout.source()).await.unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}

/// Lists the keys below a folder.
pub(super) async fn keys(store: &Arc<dyn BlobStore>, folder: &str) -> Vec<String> {
    let listed: Vec<_> = store.list(folder).try_collect().await.unwrap();
    listed
        .into_iter()
        .map(|object| object.key.to_string())
        .collect()
}

/// Checks a store, with all its data, from a node that knows nothing.
pub(super) async fn check(store: &Arc<dyn BlobStore>) -> FsckReport {
    let node = Adder::over(Arc::clone(store));
    let options = FsckOptions {
        read_data: true,
        rebuild_index: false,
    };
    let report = fsck(Arc::clone(store), Arc::clone(&node.ingest.index), options)
        .await
        .unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    report
}

/// Reads an image as a node does that knows only the packs of its record.
pub(super) async fn read(store: &Arc<dyn BlobStore>, name: &str) -> Files {
    let image = Image::find(&**store, name).await.unwrap();
    let node = Adder::over(Arc::clone(store));
    let index = Arc::clone(&node.ingest.index);
    load_packs(store, &index, &image.record.packs)
        .await
        .unwrap();
    let origin = Arc::new(Origin::new(Arc::clone(store)));
    let reader = Reader::new(index, vec![origin], ReaderOptions::default());
    let root = reader.tree(image.tree().unwrap()).await.unwrap();
    let mut left = vec![(String::new(), root.as_root().unwrap().1)];
    let mut files = Files::new();
    while let Some((above, tree)) = left.pop() {
        for entry in reader.tree(tree).await.unwrap().entries() {
            let path = Path::new(&above).join(std::str::from_utf8(&entry.name).unwrap());
            let path = path.to_str().unwrap().to_owned();
            match entry.node {
                Node::Directory(below) => left.push((path, below)),
                Node::File {
                    content,
                    size_bytes,
                } => {
                    let list = reader.chunk_list(content, size_bytes).await.unwrap();
                    let mut bytes = Vec::new();
                    for extent in list.extents() {
                        bytes.extend_from_slice(reader.chunk(extent.id).await.unwrap().bytes());
                    }
                    files.insert(path, bytes);
                }
                _ => panic!("{path} is no file"),
            }
        }
    }
    files
}
