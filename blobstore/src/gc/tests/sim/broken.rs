//! Writers and collectors with a step left out: each is found by the simulation.

use super::*;

/// Returns the first seed with which a ref reaches what is gone.
fn found_by(broken: Broken) -> u64 {
    let seed = (0..BROKEN_SEEDS).find(|seed| run(*seed, Some(broken)).is_err());
    let seed = seed.unwrap_or_else(|| panic!("{broken:?} is not found"));
    println!("{broken:?}: seed {seed}");
    seed
}

#[test]
fn a_writer_that_does_not_read_the_notes_is_found() {
    found_by(Broken::NoSecure);
}

#[test]
fn a_writer_that_does_not_look_for_what_it_needs_is_found() {
    found_by(Broken::NoLook);
}

#[test]
fn a_writer_that_does_not_check_its_lease_is_found() {
    found_by(Broken::NoLeaseCheck);
}

#[test]
fn a_collector_that_deletes_for_too_long_is_found() {
    found_by(Broken::EndlessDoom);
}
