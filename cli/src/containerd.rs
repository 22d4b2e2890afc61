//! `nacre containerd`: the node as containerd's snapshotter.

mod config;
mod setup;
mod version;

use nacre_snapshotter::{Client, ClientError};

use crate::args::ContainerdVerb;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(crate) async fn containerd(settings: &Settings, verb: ContainerdVerb) -> Result<(), Failure> {
    match verb {
        ContainerdVerb::Setup(arguments) => setup::setup(settings, &arguments),
        ContainerdVerb::Stats => stats(settings).await,
    }
}

async fn stats(settings: &Settings) -> Result<(), Failure> {
    let stats = Client::new(settings.socket()).containerd_stats().await;
    let stats = stats.map_err(|error| match error {
        error @ ClientError::NotRunning(_) => Failure::new("reach", "the daemon", &error)
            .with_hint("start it: nacre daemon".to_owned()),
        error => Failure::of("reach", "the daemon")(error),
    })?;
    if settings.json {
        return output::json(&stats);
    }
    output::line(&format!(
        "layers: {} attached; unpacked by containerd: {} not in the store, {} that could not be asked for",
        stats.layers_attached, stats.layers_ordinary_unknown, stats.layers_ordinary_failed
    ))?;
    output::line(&format!(
        "images: {} added for a pull, {} that could not be",
        stats.images_added, stats.images_add_failed
    ))
}
