//! Any text as the `Range` header of a request to a region member.
//!
//! Invariants: no panic; there are never more ranges than the limit; a range that resolves lies
//! within the object and is not empty; and what was read, written again, reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_region_cache::{RANGES_MAX, RangeSpec, parse_ranges};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(specs) = parse_ranges(text) else {
        return;
    };
    assert!(!specs.is_empty() && specs.len() <= RANGES_MAX);
    for spec in &specs {
        for len in [0, 1, 1000, u64::from(u32::MAX), u64::MAX] {
            if let Some(range) = spec.resolve(len) {
                assert!(range.start < range.end && range.end <= len);
            }
        }
    }
    let parts = specs.iter().map(|spec| match spec {
        RangeSpec::Bounded(first, last) => format!("{first}-{last}"),
        RangeSpec::From(first) => format!("{first}-"),
        RangeSpec::Suffix(count) => format!("-{count}"),
    });
    let again = format!("bytes={}", parts.collect::<Vec<_>>().join(","));
    // What is written without blanks is no longer than what was read, but for leading zeros.
    if again.len() <= text.len() {
        assert_eq!(parse_ranges(&again), Ok(specs));
    }
});
