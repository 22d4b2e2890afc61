//! Where the members of a tar are, so that they can be read in place and in any order.
//!
//! The headers are walked here and not by the `tar` crate's iterator: that one reads long names
//! into memory whatever length they claim. Only the layout of a header block is taken from it.

use std::collections::HashMap;

use tar::{EntryType, Header, PaxExtensions};

use super::error::OciError;
use super::file_range::FileRange;

/// Bytes in a block of a tar.
const BLOCK_BYTES: u64 = 512;

/// Most members of an archive: an image of [`LAYERS_MAX`](super::LAYERS_MAX) layers has about
/// four per layer, and one archive may hold several images.
const MEMBERS_MAX: usize = 100_000;

/// Longest extension header (long name or pax records), in bytes.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// Most symbolic links followed to one file.
const LINKS_MAX: usize = 8;

/// First bytes of compressed files, and how they are called.
const COMPRESSED: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (b"BZh", "bzip2"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
];

/// The members of a tar file by name.
#[derive(Debug)]
pub(crate) struct TarIndex {
    file: FileRange,
    members: HashMap<String, Member>,
}

#[derive(Debug, Clone)]
enum Member {
    File {
        offset: u64,
        len: u64,
    },
    /// A link to another name, already relative to the top of the archive.
    Link(String),
}

/// What extension headers say of the member that follows them.
#[derive(Debug, Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    len: Option<u64>,
}

impl TarIndex {
    /// Walks the headers of a tar. Blocks.
    pub(crate) fn read(file: FileRange) -> Result<Self, OciError> {
        let mut index = Self {
            file,
            members: HashMap::new(),
        };
        index.refuse_compressed()?;
        let mut extensions = Extensions::default();
        let mut at = 0;
        while at < index.file.len() {
            let mut block = *Header::new_old().as_bytes();
            if index.file.len() - at < BLOCK_BYTES {
                return Err(index.malformed("ends inside a header"));
            }
            index.file.read_exact_at(&mut block, at)?;
            if block.iter().all(|byte| *byte == 0) {
                break;
            }
            let header = Header::from_byte_slice(&block);
            at = index.member(header, at + BLOCK_BYTES, &mut extensions)?;
        }
        Ok(index)
    }

    /// Records the member whose header ends at `offset` and returns where the next one starts.
    fn member(
        &mut self,
        header: &Header,
        offset: u64,
        extensions: &mut Extensions,
    ) -> Result<u64, OciError> {
        if !checksum_matches(header) {
            return Err(self.malformed("has a broken header"));
        }
        let kind = header.entry_type();
        let own_len = header
            .entry_size()
            .map_err(|error| self.malformed(&error.to_string()))?;
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
        let len = if is_file {
            extensions.len.unwrap_or(own_len)
        } else {
            own_len
        };
        let data = self
            .file
            .part(offset, len)
            .ok_or_else(|| self.malformed("is cut off"))?;
        let padded = len.checked_next_multiple_of(BLOCK_BYTES);
        let end = padded.and_then(|padded| offset.checked_add(padded));
        let end = end.ok_or_else(|| self.malformed("is cut off"))?;
        match kind {
            EntryType::GNULongName => extensions.name = Some(self.long_text(&data)?),
            EntryType::GNULongLink => extensions.link = Some(self.long_text(&data)?),
            EntryType::XHeader => self.pax(&data, extensions)?,
            EntryType::XGlobalHeader => {}
            EntryType::GNUSparse => return Err(self.malformed("has a sparse member")),
            _ => self.insert(header, (offset, len), std::mem::take(extensions))?,
        }
        Ok(end)
    }

    fn insert(
        &mut self,
        header: &Header,
        (offset, len): (u64, u64),
        extensions: Extensions,
    ) -> Result<(), OciError> {
        let name = extensions
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let name = self.text(name)?;
        let link = extensions
            .link
            .or_else(|| header.link_name_bytes().map(|l| l.into_owned()));
        let link = link.unwrap_or_default();
        let member = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => Member::File { offset, len },
            EntryType::Link => Member::Link(normalized("", &self.text(link)?)),
            EntryType::Symlink => {
                let name = normalized("", &name);
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                Member::Link(normalized(directory, &self.text(link)?))
            }
            _ => return Ok(()),
        };
        if self.members.len() >= MEMBERS_MAX {
            let message = format!("{} has more than {MEMBERS_MAX} members", self.label());
            return Err(OciError::Unsupported(message));
        }
        // As when a tar is extracted, the last member of a name counts.
        self.members.insert(normalized("", &name), member);
        Ok(())
    }

    /// Returns the file of this name, following links inside the archive.
    pub(crate) fn find(&self, name: &str) -> Result<FileRange, OciError> {
        let missing = || OciError::NotFound(format!("{name} in {}", self.label()));
        let mut target = normalized("", name);
        for _ in 0..=LINKS_MAX {
            match self.members.get(&target).ok_or_else(missing)? {
                Member::Link(next) => target.clone_from(next),
                Member::File { offset, len } => {
                    return self.file.part(*offset, *len).ok_or_else(missing);
                }
            }
        }
        Err(self.malformed("has links that go round in circles"))
    }

    /// Names the archive in errors.
    pub(crate) fn label(&self) -> String {
        self.file.path().display().to_string()
    }

    fn refuse_compressed(&self) -> Result<(), OciError> {
        let mut head = [0; 8];
        if self.file.len() < BLOCK_BYTES {
            return Err(self.malformed("not a tar"));
        }
        self.file.read_exact_at(&mut head, 0)?;
        match COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
            Some((_, kind)) => Err(OciError::Unsupported(format!(
                "{} is compressed by {kind}, decompress it first",
                self.label()
            ))),
            None => Ok(()),
        }
    }

    fn extension(&self, data: &FileRange) -> Result<Vec<u8>, OciError> {
        let what = format!("an extension header of {}", self.label());
        data.read_all(&what, EXTENSION_BYTES_MAX)
            .map(|bytes| bytes.to_vec())
    }

    fn long_text(&self, data: &FileRange) -> Result<Vec<u8>, OciError> {
        let mut text = self.extension(data)?;
        text.truncate(
            text.iter()
                .position(|byte| *byte == 0)
                .unwrap_or(text.len()),
        );
        Ok(text)
    }

    fn pax(&self, data: &FileRange, extensions: &mut Extensions) -> Result<(), OciError> {
        let records = self.extension(data)?;
        for record in PaxExtensions::new(&records) {
            let record = record.map_err(|error| self.malformed(&error.to_string()))?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => extensions.name = Some(value.to_owned()),
                b"linkpath" => extensions.link = Some(value.to_owned()),
                b"size" => {
                    let len = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    let len = len.ok_or_else(|| self.malformed("has a size that is no number"))?;
                    extensions.len = Some(len);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn text(&self, bytes: Vec<u8>) -> Result<String, OciError> {
        String::from_utf8(bytes).map_err(|_| self.malformed("has a name that is not UTF-8"))
    }

    fn malformed(&self, message: &str) -> OciError {
        OciError::malformed(self.label(), message)
    }
}

/// Compares a header's checksum: the sum of its bytes, its own field counted as spaces.
fn checksum_matches(header: &Header) -> bool {
    let (before, rest) = header.as_bytes().split_at(148);
    let sum: u32 = before
        .iter()
        .chain(&rest[8..])
        .map(|byte| u32::from(*byte))
        .sum();
    header
        .cksum()
        .is_ok_and(|stated| stated == sum + 8 * u32::from(b' '))
}

/// Resolves `path`, found in `directory`, to a name without `.`, `..` and doubled slashes. A path
/// that climbs out of the archive stays at its top, as in a chroot.
fn normalized(directory: &str, path: &str) -> String {
    let directory = if path.starts_with('/') { "" } else { directory };
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests;
