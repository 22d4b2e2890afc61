//! `nacre image`: what is in the store.

pub(crate) mod add;
mod inspect;
mod ls;
mod optimize;
mod register;
mod rm;

use crate::args::ImageVerb;
use crate::failure::Failure;
use crate::settings::Settings;

pub(crate) async fn image(settings: &Settings, verb: ImageVerb) -> Result<(), Failure> {
    match verb {
        ImageVerb::Add(arguments) => add::add(settings, arguments).await,
        ImageVerb::Ls => ls::ls(settings).await,
        ImageVerb::Inspect(named) => inspect::inspect(settings, &named.name).await,
        ImageVerb::Optimize(named) => optimize::optimize(settings, &named.name).await,
        ImageVerb::Register(arguments) => register::register(settings, &arguments).await,
        ImageVerb::Rm(named) => rm::rm(settings, &named.name).await,
    }
}
