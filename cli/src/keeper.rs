//! `nacre keeper`: holds the mounts of a root while no daemon does. Started by the daemon.

use nacre_fs::keep;

use crate::failure::Failure;
use crate::settings::Settings;

pub(crate) fn keeper(settings: &Settings) -> Result<(), Failure> {
    let root = settings.root.display().to_string();
    let fail = |error: &dyn std::fmt::Display| Failure::new("keep the mounts of", &root, error);
    // Neither the terminal's interrupts nor the end of the daemon's session are for the keeper.
    rustix::process::setsid().map_err(|error| fail(&error))?;
    keep(&settings.keeper_socket(), &*settings.clock).map_err(|error| fail(&error))
}
