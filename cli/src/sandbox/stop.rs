//! `nacre stop`: ends a sandbox's processes.

use std::time::Duration;

use super::launcher;
use crate::args::Stop;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(crate) async fn stop(settings: &Settings, arguments: &Stop) -> Result<(), Failure> {
    let (name, grace) = (&arguments.sandbox, Duration::from_secs(arguments.time));
    launcher(settings)?
        .stop(name, grace)
        .await
        .map_err(Failure::of("stop", name))?;
    if settings.json {
        output::json(&serde_json::json!({ "sandbox": name, "status": "stopped" }))
    } else {
        output::line(name)
    }
}
