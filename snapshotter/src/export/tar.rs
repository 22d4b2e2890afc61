//! Headers of a tar, the same bytes for the same entry always.
//!
//! POSIX.1-2017's `pax` format: a ustar block, before it a block of extended records for what that
//! cannot say. Extended attributes are `SCHILY.xattr.NAME`, as star, GNU tar and Go's `archive/tar`
//! have them.

use std::collections::BTreeMap;

use nacre_blobstore::{Attributes, Device, Timestamp};

/// Everything in a tar starts at a multiple of this.
pub(super) const BLOCK_BYTES: usize = 512;

const NAME_BYTES: usize = 100;
/// Octal digits of the fields for modes, owners and devices, and of those for sizes and times.
const SHORT_DIGITS: usize = 7;
const LONG_DIGITS: usize = 11;
/// What extended records are called; no reader shows it.
const PAX_NAME: &[u8] = b"PaxHeaders/0";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    File { size_bytes: u64 },
    Directory,
    Symlink(&'a [u8]),
    HardLink(&'a [u8]),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// Returns the blocks that stand before the data of an entry. `path` has no slash at either end and
/// is empty for the root.
///
/// # Errors
/// The reason why a tar cannot hold the entry.
pub(super) fn header(
    path: &[u8],
    kind: Kind<'_>,
    attributes: &Attributes,
) -> Result<Vec<u8>, &'static str> {
    let mut block = Block::new(path, kind);
    block.number(100, SHORT_DIGITS, attributes.mode.into(), "");
    block.number(108, SHORT_DIGITS, attributes.uid.into(), "uid");
    block.number(116, SHORT_DIGITS, attributes.gid.into(), "gid");
    block.mtime(attributes.mtime);
    if !matches!(kind, Kind::HardLink(_)) {
        for xattr in &attributes.xattrs {
            if xattr.name.contains(&b'=') {
                return Err("a tar has no attributes with `=` in their names");
            }
            let key = [b"SCHILY.xattr.", &*xattr.name].concat();
            block.records.insert(key, xattr.value.to_vec());
        }
    }
    Ok(block.finish())
}

/// Returns how many zeros follow data of `size_bytes`.
pub(super) fn padding_bytes(size_bytes: u64) -> usize {
    let over = size_bytes % BLOCK_BYTES as u64;
    let over = usize::try_from(over).expect("below a block");
    (BLOCK_BYTES - over) % BLOCK_BYTES
}

/// An entry's block under construction, and what does not fit it.
struct Block {
    bytes: [u8; BLOCK_BYTES],
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Block {
    fn new(path: &[u8], kind: Kind<'_>) -> Self {
        let mut block = Self {
            bytes: [0; BLOCK_BYTES],
            records: BTreeMap::new(),
        };
        block.bytes[257..265].copy_from_slice(b"ustar\x0000");
        let none = Device { major: 0, minor: 0 };
        let (flag, size_bytes, link, device): (u8, u64, &[u8], Device) = match kind {
            Kind::File { size_bytes } => (b'0', size_bytes, b"", none),
            Kind::HardLink(target) => (b'1', 0, target, none),
            Kind::Symlink(target) => (b'2', 0, target, none),
            Kind::CharDevice(device) => (b'3', 0, b"", device),
            Kind::BlockDevice(device) => (b'4', 0, b"", device),
            Kind::Directory => (b'5', 0, b"", none),
            Kind::Fifo => (b'6', 0, b"", none),
        };
        let path = match (path, kind) {
            (b"", _) => b"./".to_vec(),
            (path, Kind::Directory) => [path, b"/"].concat(),
            (path, _) => path.to_vec(),
        };
        block.name(0, &path, "path");
        block.name(157, link, "linkpath");
        block.bytes[156] = flag;
        block.number(124, LONG_DIGITS, size_bytes, "size");
        block.number(329, SHORT_DIGITS, device.major.into(), "SCHILY.devmajor");
        block.number(337, SHORT_DIGITS, device.minor.into(), "SCHILY.devminor");
        block
    }

    fn name(&mut self, at: usize, name: &[u8], key: &str) {
        let fits = name.len() <= NAME_BYTES;
        let kept = &name[..name.len().min(NAME_BYTES)];
        self.bytes[at..at + kept.len()].copy_from_slice(kept);
        // Readers differ in what they take names beyond ASCII for.
        if !fits || !name.is_ascii() {
            self.records.insert(key.into(), name.to_vec());
        }
    }

    fn number(&mut self, at: usize, digits: usize, value: u64, key: &str) {
        let mut text = format!("{value:0digits$o}");
        if text.len() > digits {
            self.records.insert(key.into(), value.to_string().into());
            text = "0".repeat(digits);
        }
        self.bytes[at..at + digits].copy_from_slice(text.as_bytes());
    }

    fn mtime(&mut self, time: Timestamp) {
        let Timestamp {
            seconds,
            nanoseconds,
        } = time;
        let whole = u64::try_from(seconds).unwrap_or(0);
        self.number(136, LONG_DIGITS, whole, "mtime");
        if nanoseconds == 0 && seconds >= 0 {
            return;
        }
        let text = match (seconds, nanoseconds) {
            (0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
            (_, 0) => seconds.to_string(),
            // A quarter before 1970 are the seconds -1 and three quarters.
            (_, nanoseconds) => {
                let whole = (seconds + 1).unsigned_abs();
                format!("-{whole}.{:09}", 1_000_000_000 - nanoseconds)
            }
        };
        self.records.insert(b"mtime".into(), text.into());
    }

    fn finish(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let records: Vec<u8> = (self.records.iter())
            .flat_map(|(key, value)| record(key, value))
            .collect();
        if !records.is_empty() {
            let size_bytes = records.len() as u64;
            let mut extended = Self::new(PAX_NAME, Kind::File { size_bytes });
            extended.bytes[156] = b'x';
            for (at, digits) in [
                (100, SHORT_DIGITS),
                (108, SHORT_DIGITS),
                (116, SHORT_DIGITS),
            ] {
                extended.number(at, digits, 0, "");
            }
            extended.number(136, LONG_DIGITS, 0, "");
            all.extend_from_slice(extended.summed());
            all.extend_from_slice(&records);
            all.resize(all.len() + padding_bytes(size_bytes), 0);
        }
        all.extend_from_slice(self.summed());
        all
    }

    fn summed(&mut self) -> &[u8; BLOCK_BYTES] {
        self.bytes[148..156].fill(b' ');
        let sum: u32 = self.bytes.iter().map(|byte| u32::from(*byte)).sum();
        let text = format!("{sum:06o}\0 ");
        self.bytes[148..156].copy_from_slice(text.as_bytes());
        &self.bytes
    }
}

/// Writes `LEN KEY=VALUE\n`, where LEN counts itself, too.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests;
