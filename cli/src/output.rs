//! What users see: data on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use tracing::Subscriber;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, registry};

use crate::args::Global;
use crate::failure::Failure;
use crate::telemetry::SpanLayer;

/// Starts logging to stderr; `RUST_LOG` overrules the flags. What `spans` takes is not logged for
/// that.
pub(crate) fn start_logging(global: &Global, spans: Option<SpanLayer>) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        // fuser warns of every request that a read-only file system rightly does not know.
        EnvFilter::new(format!("{level},fuser=error"))
    });
    match spans {
        // One filter before all: what is not logged costs nothing.
        None => registry().with(filter).with(lines()).init(),
        Some(spans) => registry()
            .with(spans)
            .with(lines().with_filter(filter))
            .init(),
    }
}

/// Writes lines of log.
fn lines<S: Subscriber + for<'span> LookupSpan<'span>>() -> impl Layer<S> {
    tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
}

/// Prints a line of data. A reader that has gone away ends the command quietly.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("write", "output", &error))
        }
        _ => Ok(()),
    }
}

/// Prints an object as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value);
    line(&text.map_err(|error| Failure::new("write", "output", &error))?)
}

/// Tells the user something in passing.
#[expect(clippy::print_stderr, reason = "notes to users are not log lines")]
pub(crate) fn note(text: &str) {
    eprintln!("nacre: {text}");
}

/// Writes a number of bytes as people read it.
pub(crate) fn human_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
