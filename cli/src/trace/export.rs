//! `nacre trace export`: a trace as a file.

use crate::args::TraceFile;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

pub(super) async fn export(settings: &Settings, arguments: &TraceFile) -> Result<(), Failure> {
    let TraceFile { name, file } = arguments;
    let store = settings.open_store()?;
    let (_, tree) = super::find(&*store, "export the trace of", name).await?;
    let stored = super::find_trace(&*store, "export the trace of", name, tree).await?;
    std::fs::write(file, stored.trace.to_file())
        .map_err(|error| Failure::new("write", &file.display().to_string(), &error))?;
    if settings.json {
        let entries = stored.trace.entries.len();
        return output::json(&serde_json::json!({ "name": name, "entries": entries }));
    }
    Ok(())
}
