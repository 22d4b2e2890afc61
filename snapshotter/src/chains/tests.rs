use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nacre_blobstore::testing::memory_store;
use nacre_blobstore::{ChunkIndex, FsckOptions, SystemClock, fsck};

use super::*;
use crate::image::image_ref;

fn layer(seed: &str) -> ImageLayer {
    let digest = OciDigest::of(seed.as_bytes());
    ImageLayer {
        digest: digest.clone(),
        diff_id: digest.clone(),
        chain_id: digest,
        tree: "0".repeat(64),
    }
}

/// Adds an image of these layers, by name.
async fn image(store: &dyn BlobStore, name: &str, layers: &[&str]) -> RecordId {
    let layers: Vec<_> = layers.iter().map(|seed| layer(seed)).collect();
    let payload = ImagePayload {
        manifest: name.to_owned(),
        manifest_digest: OciDigest::of(name.as_bytes()),
        media_type: String::new(),
        config: String::new(),
        layers: layers.clone(),
        files: 0,
        bytes_compressed: 0,
        bytes_plain: 0,
    };
    let record = Record {
        kind: RecordKind::Image,
        trees: Vec::new(),
        packs: BTreeSet::new(),
        metadata_images: BTreeMap::new(),
        payload: serde_json::to_vec(&payload).unwrap(),
    };
    let id = record.write(store).await.unwrap();
    let target = Ref {
        record: id,
        changed_ms: 1,
    };
    let name = image_ref(name).unwrap();
    write_ref(store, &name, target, None).await.unwrap();
    let clock = SystemClock::new();
    link_chains(store, &clock, id, &layers).await.unwrap();
    id
}

async fn found(store: &dyn BlobStore, seed: &str) -> Option<RecordId> {
    let chain_id = layer(seed).chain_id.to_string();
    find_chain(store, &chain_id).await.unwrap()
}

async fn remove(store: &dyn BlobStore, name: &str) {
    delete_ref(store, &image_ref(name).unwrap()).await.unwrap();
    relink_chains(store, &SystemClock::new()).await.unwrap();
}

#[tokio::test]
async fn layers_are_found_for_as_long_as_an_image_that_has_them_has_a_name() {
    let store = memory_store();
    let first = image(&*store, "first", &["low", "first"]).await;
    let second = image(&*store, "second", &["low", "second"]).await;
    assert_eq!(found(&*store, "low").await, Some(first));
    assert_eq!(found(&*store, "second").await, Some(second));
    assert_eq!(found(&*store, "none").await, None);
    remove(&*store, "first").await;
    assert_eq!(found(&*store, "low").await, Some(second));
    assert_eq!(found(&*store, "first").await, None);
    remove(&*store, "second").await;
    assert_eq!(found(&*store, "low").await, None);
    let left = list_refs(&*store, Some(CHAINS_NAMESPACE)).await.unwrap();
    assert!(left.is_empty());
}

#[tokio::test]
async fn chains_that_are_missing_are_made() {
    let store = memory_store();
    let id = image(&*store, "image", &["low", "high"]).await;
    for name in list_refs(&*store, Some(CHAINS_NAMESPACE)).await.unwrap() {
        delete_ref(&*store, &name).await.unwrap();
    }
    let layers = [layer("low"), layer("high")];
    assert!(!are_linked(&*store, &layers).await.unwrap());
    relink_chains(&*store, &SystemClock::new()).await.unwrap();
    assert!(are_linked(&*store, &layers).await.unwrap());
    assert_eq!(found(&*store, "low").await, Some(id));
}

#[tokio::test]
async fn what_only_a_chain_names_is_garbage_and_no_damage() {
    let store = memory_store();
    let id = image(&*store, "image", &["low"]).await;
    delete_ref(&*store, &image_ref("image").unwrap())
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let check = async || {
        let index = Arc::new(ChunkIndex::open(folder.path()).unwrap());
        let options = FsckOptions {
            read_data: true,
            rebuild_index: false,
        };
        fsck(Arc::clone(&store), index, options).await.unwrap()
    };
    let report = check().await;
    assert_eq!(report.records, 0);
    assert_eq!(report.garbage, [id.key().to_string()]);
    store.delete(&id.key()).await.unwrap();
    assert!(check().await.problems.is_empty());
}

#[tokio::test]
async fn what_is_no_digest_is_no_layer() {
    let store = memory_store();
    for text in ["", "..", "sha256:", "a b", "images/x"] {
        assert_eq!(find_chain(&*store, text).await.unwrap(), None, "{text}");
    }
}
