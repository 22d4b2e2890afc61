//! `nacre trace show`: a trace for people.

use std::collections::HashSet;
use std::sync::Arc;

use nacre_blobstore::{Tier, TraceEntry, Traced, load_packs};
use nacre_snapshotter::content_paths;
use serde::Serialize;

use super::html;
use crate::args::TraceShow;
use crate::failure::Failure;
use crate::output::{self, human_bytes};
use crate::settings::Settings;

const VERB: &str = "show the trace of";

/// One read as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// Path of the file, or id of the directory.
    pub(super) what: String,
    pub(super) kind: &'static str,
    pub(super) offset_bytes: u64,
    pub(super) len_bytes: u64,
    pub(super) size_bytes: u64,
    pub(super) at_ms: f64,
    pub(super) waited_ms: f64,
    pub(super) tier: String,
    pub(super) starts: u32,
    pub(super) unread: u32,
}

pub(super) async fn show(settings: &Settings, arguments: &TraceShow) -> Result<(), Failure> {
    let name = &arguments.name;
    let store = settings.open_store()?;
    let (image, tree) = super::find(&*store, VERB, name).await?;
    let stored = super::find_trace(&*store, VERB, name, tree).await?;
    let reader = super::reader(settings, Arc::clone(&store)).await?;
    load_packs(&store, reader.index(), &image.record.packs)
        .await
        .map_err(Failure::of(VERB, name))?;
    let contents: HashSet<_> = stored
        .trace
        .entries
        .iter()
        .filter_map(|entry| match entry.what {
            Traced::Content { content, .. } => Some(content),
            Traced::Tree(_) => None,
        })
        .collect();
    let paths = content_paths(&reader, tree, contents)
        .await
        .map_err(Failure::of(VERB, name))?;
    let path = |entry: &TraceEntry| match entry.what {
        Traced::Content { content, .. } => paths.get(&content).cloned(),
        Traced::Tree(_) => None,
    };
    let shown: Vec<Shown> = stored
        .trace
        .entries
        .iter()
        .map(|entry| Shown::of(entry, path(entry)))
        .collect();
    let starts = stored.trace.starts;
    if let Some(file) = &arguments.html {
        let page = html::page(name, starts, &shown);
        return std::fs::write(file, page)
            .map_err(|error| Failure::new("write", &file.display().to_string(), &error));
    }
    if settings.json {
        return output::json(&serde_json::json!({
            "name": name,
            "tree": tree.to_string(),
            "starts": starts,
            "boot_packs": stored.record.packs.len(),
            "entries": shown,
        }));
    }
    output::line(&format!(
        "{:>10} {:>10}  {:<7} {:>12}  FILE",
        "AT", "WAITED", "TIER", "BYTES"
    ))?;
    shown.iter().try_for_each(|read| {
        output::line(&format!(
            "{:>7.1} ms {:>7.1} ms  {:<7} {:>12}  {}",
            read.at_ms,
            read.waited_ms,
            read.tier,
            human_bytes(read.len_bytes),
            read.what
        ))
    })
}

impl Shown {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
    fn of(entry: &TraceEntry, path: Option<String>) -> Self {
        let (what, kind, size_bytes, offset_bytes, len_bytes) = match entry.what {
            Traced::Content {
                content,
                size_bytes,
                offset_bytes,
                len_bytes,
            } => {
                let what = path.unwrap_or_else(|| content.to_string());
                (what, "file", size_bytes, offset_bytes, len_bytes)
            }
            Traced::Tree(tree) => (format!("directory {tree}"), "directory", 0, 0, 0),
        };
        Self {
            what,
            kind,
            offset_bytes,
            len_bytes,
            size_bytes,
            at_ms: entry.at_us as f64 / 1000.0,
            waited_ms: entry.waited_us as f64 / 1000.0,
            tier: match entry.tier {
                Tier::Node => "node",
                Tier::Region => "region",
                Tier::Origin => "origin",
            }
            .to_owned(),
            starts: entry.starts,
            unread: entry.unread,
        }
    }
}
