//! Archives for tests, byte by byte.

use super::TarReader;
use super::header::BLOCK_BYTES;
use crate::layer::tests::read_all;
use crate::layer::{LayerEntry, LayerError, LayerLimits};

/// Builds archives header by header.
#[derive(Debug, Default)]
pub(in crate::layer) struct Archive(Vec<u8>);

impl Archive {
    /// Appends a ustar header, changed by `edit`, with its checksum, and then `data`.
    pub(in crate::layer) fn edited(
        mut self,
        (type_flag, name, data): (u8, &str, &[u8]),
        edit: impl FnOnce(&mut [u8]),
    ) -> Self {
        let mut block = [0; BLOCK_BYTES];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        block[136..147].copy_from_slice(b"00000000017");
        block[156] = type_flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(type_flag, b'1' | b'2') {
            block[157..163].copy_from_slice(b"target");
        }
        edit(&mut block);
        seal(&mut block);
        self.0.extend_from_slice(&block);
        self.raw(data)
    }

    pub(in crate::layer) fn entry(self, type_flag: u8, name: &str, data: &[u8]) -> Self {
        self.edited((type_flag, name, data), |_| ())
    }

    pub(in crate::layer) fn long_name(self, type_flag: u8, name: &[u8]) -> Self {
        self.entry(type_flag, "././@LongLink", &[name, b"\0"].concat())
    }

    pub(in crate::layer) fn pax(self, type_flag: u8, records: &[(&[u8], &[u8])]) -> Self {
        let records: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        self.entry(type_flag, "PaxHeaders/x", &records)
    }

    /// Appends bytes, padded to a block.
    pub(in crate::layer) fn raw(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK_BYTES), 0);
        self
    }

    pub(in crate::layer) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK_BYTES, 0);
        self.0
    }
}

/// Writes the checksum into a block.
pub(in crate::layer) fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

pub(in crate::layer) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut len = rest.len();
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    [len.to_string().as_bytes(), &rest].concat()
}

pub(super) fn read(bytes: &[u8]) -> Result<Vec<(LayerEntry, Vec<u8>)>, LayerError> {
    read_all(&mut TarReader::new(
        bytes,
        "sha256:abc",
        LayerLimits::default(),
    ))
}

/// Reads an archive of one entry.
pub(super) fn one(archive: Archive) -> LayerEntry {
    let mut entries = read(&archive.finish()).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0).0
}

pub(super) fn malformed(bytes: &[u8]) -> String {
    match read(bytes).unwrap_err() {
        LayerError::Malformed { reason, .. } => reason.into_owned(),
        other => panic!("not malformed: {other:?}"),
    }
}

pub(super) fn limit(bytes: &[u8], limits: LayerLimits) -> &'static str {
    match read_all(&mut TarReader::new(bytes, "l", limits)).unwrap_err() {
        LayerError::Limit { what, .. } => what,
        other => panic!("no limit: {other:?}"),
    }
}
