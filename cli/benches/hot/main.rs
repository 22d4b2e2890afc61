//! `hot LABEL=DIR... [--rounds N] [--json FILE] [--svg FILE]`: the speed of mounts of one image, once
//! all that is read is in memory.
//!
//! A round begins with an empty page cache, since it matters where the pages of a file come to lie. Then
//! every operation is run on each mount once, which does not count, and in short turns, each of which begins
//! with the next mount (A B C, B C A): what else the machine does falls on all of them. The sample of a round
//! is all its turns; medians of the rounds are printed, and the ratio to the first mount. Needs root, for
//! chroot(2) and the page cache; the image needs `/bin/true` and `python3`.

mod operations;
mod report;
mod subject;

use std::path::PathBuf;

use operations::{OPERATIONS, Work};
use report::Report;
use subject::Subject;

/// Rounds that count, unless told otherwise.
const ROUNDS: usize = 7;
/// Turns of each mount that make a sample.
const TURNS: usize = 8;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program with a report"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (mut rounds, mut json, mut svg) = (ROUNDS, None, None);
    let mut mounts: Vec<(String, PathBuf)> = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--rounds" => rounds = arguments.next().ok_or("how many?")?.parse()?,
            "--json" => json = arguments.next(),
            "--svg" => svg = arguments.next(),
            // Runs a command many times in a mount: this program again, as its own child.
            "--spawn" => return operations::spawn_here(&arguments.collect::<Vec<_>>()),
            _ => {
                let (label, directory) = argument.split_once('=').ok_or("LABEL=DIR is wanted")?;
                mounts.push((label.to_owned(), directory.into()));
            }
        }
    }
    let Some((_, first)) = mounts.first() else {
        println!("hot LABEL=DIR... [--rounds N] [--json FILE] [--svg FILE]");
        return Ok(());
    };
    let subject = Subject::find(first)?;
    eprintln!("{subject}");
    let mut report = Report::new(mounts.iter().map(|(label, _)| label.clone()).collect());
    for round in 0..rounds {
        drop_pages()?;
        for operation in OPERATIONS {
            for (_, mount) in &mounts {
                (operation.run)(mount, &subject)?;
            }
            let mut work = vec![Work::default(); mounts.len()];
            for turn in 0..TURNS {
                for next in 0..mounts.len() {
                    let number = (round + turn + next) % mounts.len();
                    work[number] += (operation.run)(&mounts[number].1, &subject)?;
                }
            }
            for (number, work) in work.iter().enumerate() {
                report.add(operation, number, work.rate());
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    print!("{}", report.markdown());
    if let Some(file) = json {
        std::fs::write(file, report.json())?;
    }
    if let Some(file) = svg {
        std::fs::write(file, report.svg())?;
    }
    Ok(())
}

/// Empties the page cache. Inodes stay, and with them what FUSE serves.
fn drop_pages() -> std::io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "1")
}
