//! `nacre image ls`: the images that have names.

use nacre_snapshotter::Image;

use super::inspect::Shown;
use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

pub(super) async fn ls(settings: &Settings) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let images = Image::list(&*store)
        .await
        .map_err(Failure::of("list", "images"))?;
    if settings.json {
        return images
            .iter()
            .try_for_each(|image| output::json(&Shown::of(image)));
    }
    output::line(&format!("{:<40} {:<14} {:>12}", "NAME", "IMAGE", "PLAIN"))?;
    images.iter().try_for_each(|image| {
        let shown = Shown::of(image);
        let plain = human_bytes(shown.bytes_plain);
        output::line(&format!(
            "{:<40} {:<14} {plain:>12}",
            shown.name,
            &shown.image[..12]
        ))
    })
}
