//! `nacre trace import`: adds what another store's starts read.

use std::fs::File;
use std::io::Read;

use nacre_blobstore::Trace;
use nacre_snapshotter::import_trace;

use crate::args::TraceFile;
use crate::failure::Failure;
use crate::output;
use crate::settings::Settings;

/// Largest file that is read: more than any trace needs.
const FILE_BYTES_MAX: u64 = 8 << 20;

pub(super) async fn import(settings: &Settings, arguments: &TraceFile) -> Result<(), Failure> {
    let TraceFile { name, file } = arguments;
    let path = file.display().to_string();
    let fail = |error: std::io::Error| Failure::new("read", &path, &error);
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(fail)?;
    let mut opened = opened.take(FILE_BYTES_MAX);
    opened.read_to_end(&mut bytes).map_err(fail)?;
    let trace = Trace::from_file(&bytes).map_err(Failure::of("read", &path))?;
    let store = settings.open_store()?;
    let (_, tree) = super::find(&*store, "import a trace for", name).await?;
    let news = import_trace(&store, &settings.clock, tree, &trace)
        .await
        .map_err(Failure::of("import a trace for", name))?;
    if settings.json {
        return output::json(&serde_json::json!({
            "name": name, "entries": trace.entries.len(), "news": news,
        }));
    }
    Ok(())
}
