//! `nacre store fsck`: whether every image reaches only what is there and right.

use nacre_blobstore::FsckOptions;
use serde::Serialize;

use crate::args::Fsck;
use crate::failure::{CORRUPT, Failure};
use crate::output::{self, human_bytes};
use crate::settings::Settings;

#[derive(Debug, Serialize)]
struct Report {
    refs: u64,
    records: u64,
    packs: u64,
    chunks: u64,
    bytes: u64,
    bytes_garbage: u64,
    garbage: Vec<String>,
    condemned: Vec<String>,
    corrupt: Vec<String>,
    problems: Vec<String>,
}

pub(super) async fn fsck(settings: &Settings, arguments: &Fsck) -> Result<(), Failure> {
    let store = settings.open_store()?;
    let index = settings.open_index().await?;
    let options = FsckOptions {
        read_data: arguments.read_data,
        rebuild_index: arguments.rebuild_index,
    };
    let url = settings.store.to_string();
    let found = nacre_blobstore::fsck(store, index, options).await;
    let found = found.map_err(Failure::of("check store", &url))?;
    let report = Report {
        refs: found.refs,
        records: found.records,
        packs: found.packs,
        chunks: found.items,
        bytes: found.bytes,
        bytes_garbage: found.bytes_garbage,
        garbage: found.garbage,
        condemned: found.condemned,
        corrupt: found.corrupt.iter().map(ToString::to_string).collect(),
        problems: found.problems,
    };
    if settings.json {
        output::json(&report)?;
    } else {
        report
            .problems
            .iter()
            .try_for_each(|problem| output::line(problem))?;
        output::line(&format!(
            "{} refs, {} packs, {}; {} garbage in {} objects, {} of them condemned; {} corrupt",
            report.refs,
            report.packs,
            human_bytes(report.bytes),
            human_bytes(report.bytes_garbage),
            report.garbage.len() + report.condemned.len(),
            report.condemned.len(),
            report.corrupt.len()
        ))?;
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    let cause = format!("{} problems were found", report.problems.len());
    Err(Failure::new("vouch for store", &url, &cause).with_code(CORRUPT))
}
