//! Any bytes as the tar stream of a layer.
//!
//! Invariants: no panic; a file yields exactly as many bytes as its entry says and no other kind
//! yields any; no path leaves the root or passes a limit; xattrs are sorted and unique; an error is
//! final; and the whole ends, since every limit below is small.
//!
//! The header checksums are repaired first, or next to no mutation would get past them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_snapshotter::layer::{EntryKind, EntrySource, LayerEntry, LayerLimits, TarReader};

const BLOCK_BYTES: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;

const fn limits() -> LayerLimits {
    LayerLimits {
        entries_max: 64,
        plain_bytes_max: 1 << 20,
        file_bytes_max: 1 << 18,
        expansion_max: 1_000,
        expansion_free_bytes: 1 << 20,
        depth_max: 8,
        path_bytes_max: 256,
        name_bytes_max: 64,
        long_name_bytes_max: 512,
        pax_header_bytes_max: 4_096,
        pax_records_max: 64,
        sparse_segments_max: 64,
    }
}

fn repair_checksum(block: &mut [u8]) {
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn check_entry(entry: &LayerEntry) {
    let limits = limits();
    for path in [Some(&entry.path), hard_link_target(entry)]
        .into_iter()
        .flatten()
    {
        assert!(path.as_bytes().len() <= limits.path_bytes_max);
        assert!(path.components().count() <= limits.depth_max);
        for name in path.components() {
            assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&0));
            assert!(name.len() <= limits.name_bytes_max);
        }
    }
    let directory = matches!(
        entry.kind,
        EntryKind::Directory | EntryKind::OpaqueDirectory
    );
    assert!(directory || !entry.path.is_root());
    assert!(entry.attributes.mode <= 0o7777);
    assert!(entry.attributes.mtime.nanoseconds < 1_000_000_000);
    assert!(entry.attributes.xattrs.is_sorted_by(|a, b| a.name < b.name));
}

const fn hard_link_target(entry: &LayerEntry) -> Option<&nacre_snapshotter::layer::LayerPath> {
    match &entry.kind {
        EntryKind::HardLink(target) => Some(target),
        _ => None,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut repaired = bytes.to_vec();
    for block in repaired.chunks_exact_mut(BLOCK_BYTES) {
        if block.iter().any(|byte| *byte != 0) {
            repair_checksum(block);
        }
    }
    for bytes in [bytes, &repaired] {
        let mut reader = TarReader::new(bytes, "fuzz", limits());
        let mut buffer = [0; 4_096];
        while let Ok(Some(entry)) = reader.next_entry() {
            check_entry(&entry);
            let mut data_bytes = 0;
            let complete = loop {
                match reader.read_data(&mut buffer) {
                    Ok(0) => break true,
                    Ok(len) => data_bytes += len as u64,
                    Err(_) => break false,
                }
            };
            match entry.kind {
                EntryKind::File { size_bytes } if complete => assert_eq!(data_bytes, size_bytes),
                EntryKind::File { .. } => assert!(reader.next_entry().is_err()),
                _ => assert!(complete && data_bytes == 0),
            }
        }
    }
});
