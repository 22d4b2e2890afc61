//! `nacre volume`: named trees that sandboxes share, version by version.

mod change;
mod commit;
mod reload;
mod show;

use crate::args::VolumeVerb;
use crate::failure::Failure;
use crate::settings::Settings;

pub(crate) async fn volume(settings: &Settings, verb: VolumeVerb) -> Result<(), Failure> {
    match verb {
        VolumeVerb::Create(arguments) => change::create(settings, &arguments).await,
        VolumeVerb::Ls => show::ls(settings).await,
        VolumeVerb::Inspect(named) => show::inspect(settings, &named.volume).await,
        VolumeVerb::Log(named) => show::log(settings, &named.volume).await,
        VolumeVerb::Rm(named) => change::rm(settings, &named.volume).await,
        VolumeVerb::Commit(arguments) => commit::commit(settings, &arguments).await,
        VolumeVerb::Reload(arguments) => reload::reload(settings, &arguments).await,
        VolumeVerb::Snapshot(arguments) => change::snapshot(settings, &arguments).await,
        VolumeVerb::Fork(arguments) => change::fork(settings, &arguments).await,
        VolumeVerb::Restore(arguments) => change::restore(settings, &arguments).await,
    }
}
