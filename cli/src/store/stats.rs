//! `nacre store stats`: how much is stored.

use nacre_blobstore::FsckOptions;

use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

pub(super) async fn stats(settings: &Settings) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let index = settings.open_index().await?;
    let url = settings.store.to_string();
    let found = nacre_blobstore::fsck(store, index, FsckOptions::default()).await;
    let found = found.map_err(Failure::of("measure store", &url))?;
    if settings.json {
        return output::json(&serde_json::json!({
            "packs": found.packs,
            "chunks": found.items,
            "bytes": found.bytes,
            "bytes_garbage": found.bytes_garbage,
            "images": found.refs,
        }));
    }
    output::line(&format!(
        "{} images in {} packs of {} with {} chunks; {} garbage",
        found.refs,
        found.packs,
        human_bytes(found.bytes),
        found.items,
        human_bytes(found.bytes_garbage)
    ))
}
