//! `nacre snapshot`: what sandboxes wrote.

pub(crate) mod create;
mod diff;
pub(crate) mod export;
mod inspect;
mod ls;
mod pending;
mod rm;
mod tag;
mod wait;

use nacre_snapshotter::SnapshotError;

use crate::args::SnapshotVerb;
use crate::failure::{BUSY, CORRUPT, Class, Classed, FAILED, Failure, NOT_FOUND, USAGE};
use crate::settings::Settings;

pub(crate) async fn snapshot(settings: &Settings, verb: SnapshotVerb) -> Result<(), Failure> {
    match verb {
        SnapshotVerb::Create(arguments) => create::create(settings, arguments).await,
        SnapshotVerb::Ls => ls::ls(settings).await,
        SnapshotVerb::Inspect(named) => inspect::inspect(settings, &named.name).await,
        SnapshotVerb::Rm(named) => rm::rm(settings, &named.name).await,
        SnapshotVerb::Wait(arguments) => wait::wait(settings, &arguments).await,
        SnapshotVerb::Tag(arguments) => tag::tag(settings, &arguments).await,
        SnapshotVerb::Diff(arguments) => diff::diff(settings, arguments).await,
        SnapshotVerb::Export(arguments) => export::export(settings, &arguments).await,
    }
}

impl Classed for SnapshotError {
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) => (
                NOT_FOUND,
                Some("`nacre snapshot ls` lists them; only its node knows one that is not durable"),
            ),
            Self::NoVolume(_) => (NOT_FOUND, Some("`nacre volume ls` lists the volumes")),
            Self::NoVersion { .. } => (NOT_FOUND, Some("`nacre volume log` lists the versions")),
            Self::NotDirectory(_) => (NOT_FOUND, None),
            Self::Invalid(_) | Self::Name(_) => (USAGE, None),
            Self::Taken(_) | Self::Stuck { .. } => (BUSY, None),
            Self::Changed(_) | Self::Freeze { .. } | Self::Moved(_) | Self::Pending(_) => {
                (BUSY, Some("run the command again"))
            }
            Self::Missing(_) => (CORRUPT, None),
            Self::Secure(error) => error.class(),
            Self::Ref(error) => error.class(),
            Self::Record(error) => error.class(),
            Self::Store(error) => error.class(),
            _ => (FAILED, None),
        }
    }
}
