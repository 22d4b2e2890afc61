//! `hot LABEL=DIR... [--rounds N] [--json FILE] [--svg FILE]`: the speed of mounts of one image, once
//! all that is read is in memory.
//!
//! Every operation is run on each mount in turn, round after round, each of which begins with the
//! next mount (A B C, B C A), after one that does not count; medians are printed, and the ratio to
//! the first mount. Needs root, for chroot(2); the image needs `/bin/true` and `python3`.

mod operations;
mod report;
mod subject;

use std::path::PathBuf;

use operations::OPERATIONS;
use report::Report;
use subject::Subject;

/// Rounds that count, unless told otherwise.
const ROUNDS: usize = 7;

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
    for operation in OPERATIONS {
        for round in 0..=rounds {
            for turn in 0..mounts.len() {
                let number = (round + turn) % mounts.len();
                let rate = (operation.run)(&mounts[number].1, &subject)?;
                if round > 0 {
                    report.add(operation, number, rate);
                }
            }
        }
        eprintln!("{}", report.line(operation));
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
