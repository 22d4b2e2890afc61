use std::collections::HashMap;

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::*;
use crate::oci::manifest::{DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST};
use crate::oci::testing::{TestImage, describe};

/// Blobs in memory, the first document among them.
#[derive(Debug, Default)]
struct Memory {
    root: Bytes,
    blobs: HashMap<OciDigest, Bytes>,
}

impl Memory {
    fn with_root(mut self, root: &Bytes) -> Self {
        self.root = root.clone();
        self
    }

    fn add(&mut self, blob: &Bytes) {
        self.blobs.insert(OciDigest::of(blob), blob.clone());
    }

    /// Stores an image and returns the entry of an index for it.
    fn image(&mut self, platform: &str, layer_bytes: usize) -> (TestImage, Value) {
        let image = TestImage::new(platform, &[layer_bytes]);
        image
            .blobs()
            .iter()
            .chain([&image.manifest])
            .for_each(|blob| self.add(blob));
        let mut entry = describe(OCI_MANIFEST, &image.manifest);
        let (os, architecture) = platform.split_once('/').unwrap();
        entry["platform"] = json!({"os": os, "architecture": architecture});
        (image, entry)
    }

    fn index(&mut self, entries: &[&Value]) -> Bytes {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        let index = Bytes::from(index.to_string());
        self.add(&index);
        index
    }

    async fn find(&self, platform: &str) -> Result<ResolvedImage, OciError> {
        self.resolve(&platform.parse().unwrap()).await
    }
}

#[async_trait::async_trait]
impl BlobProvider for Memory {
    async fn root(&self) -> Result<Root, OciError> {
        let (bytes, media_type) = (self.root.clone(), String::new());
        Ok(Root {
            digest: OciDigest::of(&bytes),
            bytes,
            media_type,
        })
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<BlobStream, OciError> {
        self.blob(&descriptor.digest, descriptor.size_bytes).await
    }

    async fn blob(&self, digest: &OciDigest, _size_bytes: u64) -> Result<BlobStream, OciError> {
        let missing = || OciError::NotFound(digest.to_string());
        let bytes = self.blobs.get(digest).ok_or_else(missing)?.clone();
        Ok(futures::stream::iter([Ok(bytes)]).boxed())
    }
}

#[tokio::test]
async fn an_index_gives_the_image_of_the_platform() {
    let mut memory = Memory::default();
    let (amd64, amd64_entry) = memory.image("linux/amd64", 1);
    let (arm64, arm64_entry) = memory.image("linux/arm64", 2);
    let attestation = json!({
        "mediaType": OCI_MANIFEST, "digest": OciDigest::of(b"gone"), "size": 4,
        "platform": {"os": "unknown", "architecture": "unknown"},
    });
    let index = memory.index(&[&attestation, &arm64_entry, &amd64_entry]);
    let memory = memory.with_root(&index);
    let found = memory.find("linux/amd64").await.unwrap();
    assert_eq!(
        (found.manifest, found.config),
        (amd64.manifest, amd64.config)
    );
    assert_eq!(
        memory.find("linux/arm64/v8").await.unwrap().manifest,
        arm64.manifest
    );
    match memory.find("linux/riscv64").await {
        Err(OciError::NoPlatform { offered, .. }) => {
            assert_eq!(offered, "linux/amd64, linux/arm64");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_best_variant_wins_whatever_the_order() {
    let mut memory = Memory::default();
    let (_, mut v6) = memory.image("linux/arm", 1);
    v6["platform"]["variant"] = "v6".into();
    let (v7_image, mut v7) = memory.image("linux/arm", 2);
    v7["platform"]["variant"] = "v7".into();
    for entries in [[&v6, &v7], [&v7, &v6]] {
        let index = memory.index(&entries);
        memory.root = index;
        let found = memory.find("linux/arm64").await.unwrap();
        assert_eq!(found.manifest, v7_image.manifest);
    }
    // The config says no variant, which would mean v7; the index knows better.
    assert_ne!(
        memory.find("linux/arm/v6").await.unwrap().manifest,
        v7_image.manifest
    );
}

#[tokio::test]
async fn indexes_may_be_nested_and_leave_platforms_out() {
    let mut memory = Memory::default();
    let (_, mut other) = memory.image("linux/s390x", 1);
    other.as_object_mut().unwrap().remove("platform");
    let (image, entry) = memory.image("linux/amd64", 2);
    let inner = memory.index(&[&entry]);
    let inner_entry = describe(DOCKER_INDEX, &inner);
    // Announced as docker's, OCI's by its text: both are indexes.
    let outer = memory.index(&[&other, &inner_entry]);
    let memory = memory.with_root(&outer);
    assert_eq!(
        memory.find("linux/amd64").await.unwrap().manifest,
        image.manifest
    );
    assert!(matches!(
        memory.find("linux/arm64").await,
        Err(OciError::NoPlatform { .. })
    ));
}

#[tokio::test]
async fn a_walk_over_endless_indexes_ends() {
    let mut memory = Memory::default();
    let mut index = memory.index(&[]);
    for _ in 0..DOCUMENTS_MAX {
        let entry = describe(OCI_INDEX, &index);
        index = memory.index(&[&entry]);
    }
    let memory = memory.with_root(&index);
    assert!(matches!(
        memory.find("linux/amd64").await,
        Err(OciError::Unsupported(_))
    ));
}

#[tokio::test]
async fn layers_and_diff_ids_must_agree() {
    let mut memory = Memory::default();
    let (image, _) = memory.image("linux/amd64", 1);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    let layer = manifest["layers"][0].clone();
    manifest["layers"].as_array_mut().unwrap().push(layer);
    let memory = memory.with_root(&manifest.to_string().into());
    let error = memory.find("linux/amd64").await.unwrap_err();
    assert!(
        error.to_string().contains("1 diff_ids for 2 layers"),
        "{error}"
    );
}

#[tokio::test]
async fn documents_are_bounded_before_they_are_read() {
    let mut memory = Memory::default();
    let (image, mut entry) = memory.image("linux/amd64", 1);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["config"]["size"] = (CONFIG_BYTES_MAX + 1).into();
    let root = Bytes::from(manifest.to_string());
    let memory = memory.with_root(&root);
    assert!(matches!(
        memory.find("linux/amd64").await,
        Err(OciError::TooLarge { .. })
    ));
    entry["size"] = (MANIFEST_BYTES_MAX + 1).into();
    let mut memory = memory;
    let index = memory.index(&[&entry]);
    let memory = memory.with_root(&index);
    assert!(matches!(
        memory.find("linux/amd64").await,
        Err(OciError::TooLarge { .. })
    ));
}

#[tokio::test]
async fn an_entry_of_an_index_pins_its_manifest() {
    let mut memory = Memory::default();
    let (image, entry) = memory.image("linux/amd64", 1);
    let changed: Bytes = image
        .manifest
        .iter()
        .map(|b| if *b == b'v' { b'w' } else { *b })
        .collect();
    memory.blobs.insert(OciDigest::of(&image.manifest), changed);
    let index = memory.index(&[&entry]);
    let memory = memory.with_root(&index);
    assert!(matches!(
        memory.find("linux/amd64").await,
        Err(OciError::Corrupt { .. })
    ));
}
