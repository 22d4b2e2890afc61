//! `nacre snapshot diff`: what differs between two trees.

use std::io::{self, BufWriter, ErrorKind, Stdout, Write as _};

use nacre_snapshotter::{
    Change, ClientError, DiffLine, DiffLines, DiffRequest, DiffSummary, quote_path,
};

use crate::args::SnapshotDiff;
use crate::failure::Failure;
use crate::node;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

pub(super) async fn diff(settings: &Settings, arguments: SnapshotDiff) -> Result<(), Failure> {
    let SnapshotDiff {
        before,
        after,
        stat,
        patch,
    } = arguments;
    let object = format!("{before} with {after}");
    let fail = Failure::of("compare", &object);
    let request = DiffRequest {
        before,
        after,
        stat,
        patch,
    };
    let client = node::client(settings).await?;
    let lines = client.diff(&request).await.map_err(&fail)?;
    let shown = Shown {
        out: BufWriter::new(io::stdout()),
        json: settings.json,
        stat,
        patch,
    };
    match shown.all(lines).await {
        Ok(()) => Ok(()),
        // Whoever reads has seen enough.
        Err(Broken::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(Broken::Output(error)) => Err(Failure::new("write", "output", &error)),
        Err(Broken::Input(error)) => Err(fail(error)),
    }
}

/// Which end of the pipe broke.
enum Broken {
    Input(ClientError),
    Output(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

struct Shown {
    out: BufWriter<Stdout>,
    json: bool,
    stat: bool,
    patch: bool,
}

impl Shown {
    async fn all(mut self, mut lines: DiffLines) -> Result<(), Broken> {
        loop {
            let line = lines.next().await;
            // What was found before an error is found.
            let line = match line {
                Err(error) => {
                    self.out.flush()?;
                    return Err(Broken::Input(error));
                }
                Ok(None) => return Ok(self.out.flush()?),
                Ok(Some(line)) => line,
            };
            if self.json {
                serde_json::to_writer(&mut self.out, &line).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
                continue;
            }
            match line {
                DiffLine::Summary(summary) => self.summary(&summary)?,
                DiffLine::Added(change) => self.change('A', &change)?,
                DiffLine::Modified(change) => self.change('M', &change)?,
                DiffLine::Removed(change) => self.change('D', &change)?,
                DiffLine::Error(_) => {}
            }
        }
    }

    fn change(&mut self, letter: char, change: &Change) -> io::Result<()> {
        if self.patch {
            let patch = change.patch.as_deref().unwrap_or_default();
            return self.out.write_all(patch.as_bytes());
        }
        writeln!(self.out, "{letter} {}", quote_path(&change.path_bytes()))
    }

    fn summary(&mut self, summary: &DiffSummary) -> io::Result<()> {
        let counted = [
            (summary.added, "added", summary.bytes_added),
            (summary.modified, "modified", summary.bytes_modified),
            (summary.removed, "removed", summary.bytes_removed),
        ];
        let part = |(paths, what, bytes): (u64, &str, u64)| {
            format!("{paths} {what} ({})", human_bytes(bytes))
        };
        let text = counted.map(part).join(", ");
        if self.stat {
            return writeln!(self.out, "{text}");
        }
        self.out.flush()?;
        output::note(&text);
        Ok(())
    }
}
