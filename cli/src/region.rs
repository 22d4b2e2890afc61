//! `nacre region`: one file a verb.

mod prime;
mod serve;

use crate::args::RegionVerb;
use crate::failure::Failure;
use crate::settings::Settings;

pub(crate) async fn region(settings: &Settings, verb: RegionVerb) -> Result<(), Failure> {
    match verb {
        RegionVerb::Prime(arguments) => prime::prime(settings, &arguments).await,
        RegionVerb::Serve(serve) => serve::serve(settings, serve).await,
    }
}
