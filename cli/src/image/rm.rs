//! `nacre image rm`: takes an image's name away.

use nacre_snapshotter::Image;

use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(super) async fn rm(settings: &Settings, name: &str) -> Result<(), Failure> {
    let store = settings.open_store()?;
    Image::remove(&*store, name)
        .await
        .map_err(Failure::of("remove image", name))?;
    if settings.json {
        output::json(&serde_json::json!({ "name": name }))
    } else {
        output::line(name)
    }
}
