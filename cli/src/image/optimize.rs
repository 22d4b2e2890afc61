//! `nacre image optimize`: a boot pack for an image.

use std::sync::Arc;

use nacre_snapshotter::{Image, optimize_image};

use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;
use crate::trace::reader;

pub(super) async fn optimize(settings: &Settings, name: &str) -> Result<(), Failure> {
    let began = settings.clock.elapsed();
    let store = settings.open_store_in_region()?;
    let image = Image::find(&*store, name)
        .await
        .map_err(Failure::of("optimize image", name))?;
    let reader = reader(settings, Arc::clone(&store)).await?;
    let scratch = settings
        .root
        .join("index")
        .join(format!("boot-{:x}", settings.seed()));
    let optimized = optimize_image(&store, &reader, &settings.clock, &image, &scratch).await;
    // A scratch index that cannot be removed costs some disk.
    drop(std::fs::remove_dir_all(&scratch));
    let stats = optimized.map_err(Failure::of("optimize image", name))?;
    let seconds = settings.clock.elapsed().saturating_sub(began).as_secs_f64();
    if settings.json {
        return output::json(&serde_json::json!({
            "name": name,
            "chunks": stats.chunks_new,
            "bytes_plain": stats.bytes_new_plain,
            "bytes_stored": stats.bytes_stored,
            "packs": stats.packs,
            "seconds": seconds,
        }));
    }
    output::line(&format!(
        "copied {} chunks into {} packs of {}",
        stats.chunks_new,
        stats.packs,
        human_bytes(stats.bytes_stored)
    ))
}
