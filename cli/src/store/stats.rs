//! `nacre store stats`: how much is stored.

use std::sync::Arc;

use nacre_blobstore::{FsckOptions, GcOptions, RootUsage};

use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

pub(super) async fn stats(settings: &Settings) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let index = settings.open_index().await?;
    let url = settings.store.to_string();
    let found = nacre_blobstore::fsck(Arc::clone(&store), index, FsckOptions::default()).await;
    let found = found.map_err(Failure::of("measure store", &url))?;
    let usage = nacre_blobstore::usage(&store).await;
    let usage = usage.map_err(Failure::of("measure store", &url))?;
    let dry = GcOptions {
        dry_run: true,
        ..GcOptions::default()
    };
    let sparse = nacre_blobstore::gc(store, Arc::clone(&settings.clock), dry).await;
    let sparse = sparse.map_err(Failure::of("measure store", &url))?;
    let root = |root: &RootUsage| {
        serde_json::json!({
            "name": root.name.as_str(),
            "record": root.record.to_string(),
            "bytes": root.bytes,
            "bytes_alone": root.bytes_alone,
        })
    };
    if settings.json {
        return output::json(&serde_json::json!({
            "packs": found.packs,
            "chunks": found.items,
            "bytes": found.bytes,
            "bytes_garbage": found.bytes_garbage,
            "packs_sparse": sparse.sparse,
            "bytes_sparse": sparse.bytes_sparse,
            "images": found.refs,
            "roots": usage.roots.iter().map(root).collect::<Vec<_>>(),
        }));
    }
    for root in &usage.roots {
        output::line(&format!(
            "{}: {}, of which {} alone",
            root.name,
            human_bytes(root.bytes),
            human_bytes(root.bytes_alone)
        ))?;
    }
    output::line(&format!(
        "{} images in {} packs of {} with {} chunks; {} garbage, {} more in {} sparse packs",
        found.refs,
        found.packs,
        human_bytes(found.bytes),
        found.items,
        human_bytes(found.bytes_garbage),
        human_bytes(sparse.bytes_sparse),
        sparse.sparse
    ))
}
