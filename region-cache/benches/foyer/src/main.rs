//! The tiers of a region member beside foyer, a hybrid cache of memory and disk: the same requests
//! by the same client over HTTP to two servers, in turns. `scripts/bench-foyer.sh` runs it.
//!
//! ```text
//! bench-foyer run DIR ROUNDS DISK_MIB [CACHE...]
//! bench-foyer serve CACHE DIR DISK_MIB          what `run` starts, one at a time
//! ```
//! A CACHE is `nacre`, or `foyer` with any of these:
//! - `+64k`     entries of 64 KiB, as long as the small ranges, where they are else a block long
//! - `+again`   what was read since it was written is written again when its turn to go has come
//! - `+direct`  `O_DIRECT`, where reads and writes else go through the page cache
//! - `+uring`   `io_uring`, where threads else read and write
//! - `+runtime` a runtime for the disk alone
//!
//! Each cache may have DISK_MIB on the disk and an eighth of that in memory, of which a quarter is
//! for what is on its way. The origin is in the server's process and makes bytes up, so it takes
//! little time and counts what it is asked for.

#![expect(clippy::disallowed_methods, reason = "a measuring program")]

mod foyer_member;
#[path = "../../ranges/http.rs"]
mod http;
mod life;
mod load;
#[expect(dead_code, reason = "`ranges` makes files, too")]
#[path = "../../ranges/objects.rs"]
mod objects;
mod origin;
mod serve;
mod table;

use std::path::Path;

use table::Table;

/// What is asked for ranges when nothing is named, and what is scanned.
const RANGES: [&str; 3] = ["nacre", "foyer", "foyer+64k"];
const SCANS: [&str; 3] = ["nacre", "foyer", "foyer+again"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", folder, rounds, disk_mib, caches @ ..] => {
            let (ranges, scans) = if caches.is_empty() {
                (RANGES.as_slice(), SCANS.as_slice())
            } else {
                (caches, caches)
            };
            let (rounds, disk_mib) = (rounds.parse().unwrap(), disk_mib.parse().unwrap());
            run(folder.as_ref(), rounds, disk_mib, ranges, scans);
        }
        ["serve", cache, folder, disk_mib] => {
            serve::serve(cache, folder.as_ref(), disk_mib.parse().unwrap());
        }
        _ => println!("bench-foyer run DIR ROUNDS DISK_MIB [CACHE...]"),
    }
}

fn run(folder: &Path, rounds: u32, disk_mib: u64, ranges: &[&str], scans: &[&str]) {
    let (mut of_ranges, mut of_scans) = (Table::new(ranges), Table::new(scans));
    for round in 1..=rounds {
        for cache in ranges {
            eprintln!("round {round} of {rounds}: ranges, {cache}");
            life::ranges(folder, cache, disk_mib, &mut of_ranges);
        }
        for cache in scans {
            eprintln!("round {round} of {rounds}: scan, {cache}");
            life::scan(folder, cache, disk_mib, &mut of_scans);
        }
    }
    println!("{of_ranges}\n{of_scans}");
}
