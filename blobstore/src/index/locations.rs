//! Where an item is: in each pack that holds it, the one that was inserted last at the end.
//!
//! ```text
//! (pack uvarint | frame uvarint | item uvarint)*      at most LOCATIONS_MAX
//! ```
//! Each pack appends its own location by a merge, which needs no read of what is there. The first
//! pack and the last ones stay: the first is an image's own as a rule, the last are boot packs.

use rocksdb::MergeOperands;

use super::Location;
use crate::wire::{Put, Truncated, Wire};

/// Packs that an item is known to be in at most.
pub(crate) const LOCATIONS_MAX: usize = 8;

pub(super) fn encode(location: Location) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    put(&mut out, location);
    out
}

fn put(out: &mut Vec<u8>, location: Location) {
    out.put_uvarint(location.pack.into());
    out.put_uvarint(location.frame.into());
    out.put_uvarint(location.item.into());
}

pub(super) fn decode(value: &[u8]) -> Result<Vec<Location>, Truncated> {
    let mut wire = Wire::new(value);
    let mut locations = Vec::with_capacity(1);
    while !wire.is_empty() {
        locations.push(Location {
            pack: wire.uvarint32()?,
            frame: wire.uvarint32()?,
            item: wire.uvarint32()?,
        });
    }
    Ok(locations)
}

/// Appends locations. The same gives the same however the appends are grouped.
pub(super) fn merge(_: &[u8], there: Option<&[u8]>, more: &MergeOperands) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    for value in there.into_iter().chain(more) {
        // What is damaged is found when it is read; nothing may get lost behind it.
        let Ok(locations) = decode(value) else {
            return Some(value.to_vec());
        };
        all.extend(locations);
    }
    let mut kept: Vec<Location> = Vec::with_capacity(all.len());
    for (number, location) in all.iter().enumerate() {
        let is_last = !all[number + 1..].iter().any(|l| l.pack == location.pack);
        if is_last {
            kept.push(*location);
        }
    }
    if kept.len() > LOCATIONS_MAX {
        kept.drain(1..=kept.len() - LOCATIONS_MAX);
    }
    let mut out = Vec::with_capacity(kept.len() * 8);
    kept.into_iter()
        .for_each(|location| put(&mut out, location));
    Some(out)
}
