//! `nacre image inspect`: one image in full.

use nacre_snapshotter::{Image, ImageLayer};
use serde::Serialize;

use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

/// An image as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) image: String,
    tree: String,
    manifest_digest: String,
    config: serde_json::Value,
    created: serde_json::Value,
    added_ms: u64,
    files: u64,
    bytes_compressed: u64,
    pub(super) bytes_plain: u64,
    packs: usize,
    layers: Vec<ImageLayer>,
}

impl Shown {
    pub(super) fn of(image: &Image) -> Self {
        let config: serde_json::Value =
            serde_json::from_str(&image.payload.config).unwrap_or_default();
        Self {
            name: image.name.clone().unwrap_or_default(),
            image: image.id.to_string(),
            tree: image
                .tree()
                .map(|tree| tree.to_string())
                .unwrap_or_default(),
            manifest_digest: image.payload.manifest_digest.to_string(),
            created: config.get("created").cloned().unwrap_or_default(),
            config,
            added_ms: image.changed_ms,
            files: image.payload.files,
            bytes_compressed: image.payload.bytes_compressed,
            bytes_plain: image.payload.bytes_plain,
            packs: image.record.packs.len(),
            layers: image.payload.layers.clone(),
        }
    }
}

pub(super) async fn inspect(settings: &Settings, name: &str) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let image = Image::find(&*store, name)
        .await
        .map_err(Failure::of("inspect image", name))?;
    let shown = Shown::of(&image);
    if settings.json {
        return output::json(&shown);
    }
    let text = serde_json::to_string_pretty(&shown);
    output::line(&text.map_err(|error| Failure::new("inspect image", name, &error))?)
}
