//! Progress of an ingest: bars on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use nacre_snapshotter::{NoProgress, Progress};

use crate::args::ProgressKind;
use crate::output;

/// Returns what shows progress in the way asked for.
pub(crate) fn of_kind(kind: ProgressKind) -> Arc<dyn Progress> {
    match kind {
        ProgressKind::Auto if std::io::stderr().is_terminal() => Arc::new(Bars::default()),
        ProgressKind::Plain => Arc::new(Lines::default()),
        ProgressKind::Auto | ProgressKind::None => Arc::new(NoProgress),
    }
}

/// A bar for each layer.
#[derive(Debug, Default)]
struct Bars {
    bars: OnceLock<Vec<ProgressBar>>,
}

impl Bars {
    fn bar(&self, layer: usize) -> Option<&ProgressBar> {
        self.bars.get()?.get(layer)
    }
}

impl Progress for Bars {
    fn started(&self, layer_bytes: &[u64]) {
        let style = "{prefix:>9} [{bar:30}] {bytes:>10}/{total_bytes:<10} {bytes_per_sec}";
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = |(number, bytes): (usize, &u64)| {
            let bar = all.add(ProgressBar::new(*bytes));
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.with_prefix(format!("layer {}", number + 1))
        };
        // An ingest starts once.
        drop(
            self.bars
                .set(layer_bytes.iter().enumerate().map(bar).collect()),
        );
    }

    fn read(&self, layer: usize, bytes: u64) {
        if let Some(bar) = self.bar(layer) {
            bar.inc(bytes);
        }
    }

    fn finished(&self, layer: usize) {
        if let Some(bar) = self.bar(layer) {
            bar.finish();
        }
    }
}

/// Lines for logs, at most one in some seconds.
#[derive(Debug, Default)]
struct Lines {
    total: OnceLock<ProgressBar>,
}

/// Between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

impl Progress for Lines {
    fn started(&self, layer_bytes: &[u64]) {
        let bar = ProgressBar::hidden();
        bar.set_length(layer_bytes.iter().sum());
        drop(self.total.set(bar));
    }

    fn read(&self, _layer: usize, bytes: u64) {
        let Some(bar) = self.total.get() else { return };
        let before = bar.elapsed().as_secs() / LINE_INTERVAL.as_secs();
        bar.inc(bytes);
        // The message carries when the last line was written.
        if bar.message() != before.to_string() {
            bar.set_message(before.to_string());
            let (done, total) = (bar.position(), bar.length().unwrap_or(0));
            let rate = done.checked_div(bar.elapsed().as_secs()).unwrap_or(done);
            output::note(&format!(
                "read {} of {} ({}/s)",
                output::human_bytes(done),
                output::human_bytes(total),
                output::human_bytes(rate)
            ));
        }
    }

    fn finished(&self, layer: usize) {
        output::note(&format!("layer {} is read", layer + 1));
    }
}

/// Progress through a known number of parts; goes away when it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    bar: ProgressBar,
    /// What to write lines about, where there are lines.
    lines: Option<&'static str>,
}

/// Lines of one [`Counted`].
const COUNTED_LINES: u64 = 10;

impl Counted {
    /// Shows progress in the way asked for.
    pub(crate) fn new(kind: ProgressKind, what: &'static str, parts: u64) -> Self {
        let on_terminal = kind == ProgressKind::Auto && std::io::stderr().is_terminal();
        let bar = if on_terminal {
            ProgressBar::with_draw_target(Some(parts), ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        bar.set_length(parts);
        Self {
            bar,
            lines: (kind == ProgressKind::Plain).then_some(what),
        }
    }

    /// Counts one part as done.
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
        let (done, parts) = (self.bar.position(), self.bar.length().unwrap_or(1));
        if let Some(what) = self.lines
            && done * COUNTED_LINES / parts > (done - 1) * COUNTED_LINES / parts
        {
            output::note(&format!("{what} {} %", done * 100 / parts));
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
