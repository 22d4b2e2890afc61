//! `nacre store`: the object store as a whole.

mod check;
mod fsck;
mod gc;
mod stats;

use crate::args::StoreVerb;
use crate::failure::Failure;
use crate::settings::Settings;

pub(crate) async fn store(settings: &Settings, verb: StoreVerb) -> Result<(), Failure> {
    match verb {
        StoreVerb::Fsck(arguments) => fsck::fsck(settings, &arguments).await,
        StoreVerb::Gc(arguments) => gc::gc(settings, &arguments).await,
        StoreVerb::Stats => stats::stats(settings).await,
        StoreVerb::Check => check::check(settings).await,
    }
}
