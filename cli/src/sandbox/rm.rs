//! `nacre rm`: removes a sandbox with all it wrote.

use super::launcher;
use crate::args::Rm;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(crate) async fn rm(settings: &Settings, arguments: &Rm) -> Result<(), Failure> {
    let name = &arguments.sandbox;
    launcher(settings)?
        .remove(name, arguments.force)
        .await
        .map_err(Failure::of("remove", name))?;
    if settings.json {
        output::json(&serde_json::json!({ "sandbox": name, "status": "removed" }))
    } else {
        output::line(name)
    }
}
