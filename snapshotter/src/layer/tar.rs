//! Streaming decoder of tar in all the dialects that layers are written in: v7, ustar, star, GNU
//! and PAX.
//!
//! Where readers differ this one does what Go's `archive/tar` does, since containerd and Docker
//! read layers with it: links, directories and devices carry no data whatever their size says, a
//! GNU long name wins over a PAX path, `\0` is a directory when its name ends in `/`, and a missing
//! end marker is tolerated. Global PAX headers are applied as POSIX has them.

mod body;
mod header;
mod input;
mod pax;
mod sparse;

use std::io::Read;
use std::mem;

use nacre_blobstore::{Attributes, Device, TARGET_BYTES_MAX, Timestamp};

use self::body::Body;
use self::header::{BLOCK_BYTES, Header};
use self::input::Input;
use self::pax::Pax;
use self::sparse::Layout;
use super::error::{Fault, LayerError, LayerPosition};
use super::path::Marker;
use super::{EntryKind, EntrySource, LayerEntry, LayerLimits, LayerPath};

/// Reads the entries of a tar stream.
///
/// After the end marker the rest of the stream is read too, so that checksums and digests of the
/// readers below have seen every byte when [`EntrySource::next_entry`] returns `None`.
#[derive(Debug)]
pub struct TarReader<R> {
    input: Input<R>,
    layer: String,
    limits: LayerLimits,
    global: Pax,
    global_bytes: u64,
    body: Body,
    entry_name: Vec<u8>,
    entries: u64,
    files_bytes: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Failed,
}

/// An entry's header with everything that the headers before it say.
struct Member {
    header: Header,
    pax: Pax,
    block: [u8; BLOCK_BYTES],
}

impl<R: Read> TarReader<R> {
    /// Reads the layer called `layer` from its plain bytes.
    pub fn new(plain: R, layer: &str, limits: LayerLimits) -> Self {
        Self {
            input: Input::new(plain),
            layer: layer.into(),
            limits,
            global: Pax::default(),
            global_bytes: 0,
            body: Body::default(),
            entry_name: Vec::new(),
            entries: 0,
            files_bytes: 0,
            state: State::Reading,
        }
    }

    /// Returns the reader of the plain bytes. What it was read ahead is lost.
    pub fn into_inner(self) -> R {
        self.input.into_inner()
    }

    fn fail(&mut self, fault: Fault) -> LayerError {
        self.state = State::Failed;
        let entry = String::from_utf8_lossy(&self.entry_name).into_owned();
        fault.at(LayerPosition {
            layer: self.layer.clone(),
            entry,
        })
    }

    fn scan(&mut self) -> Result<Option<LayerEntry>, Fault> {
        self.check_state()?;
        while self.state == State::Reading {
            self.body.skip(&mut self.input)?;
            self.entry_name.clear();
            let Some(mut member) = self.next_member()? else {
                self.input.skip_to_end()?;
                self.state = State::Ended;
                break;
            };
            self.entries += 1;
            Fault::check_limit(self.entries, self.limits.entries_max, "entries")?;
            self.entry_name.clone_from(&member.header.name);
            let size_bytes = self.start_data(&mut member)?;
            if let Some(entry) = self.entry(member, size_bytes)? {
                if !matches!(entry.kind, EntryKind::File { .. }) {
                    // A whiteout may be written with data, which is nobody's.
                    self.body.skip(&mut self.input)?;
                }
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn check_state(&self) -> Result<(), Fault> {
        match self.state {
            State::Failed => Err(Fault::malformed("read on after an error")),
            State::Reading | State::Ended => Ok(()),
        }
    }

    /// Reads headers up to that of the next entry; `None` at the end marker or the end of input.
    fn next_member(&mut self) -> Result<Option<Member>, Fault> {
        let mut pax = None;
        let mut long_name = None;
        let mut long_link = None;
        loop {
            let Some(block) = self.next_block()? else {
                if pax.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(Fault::malformed(
                        "ends after a header that announces an entry",
                    ));
                }
                return Ok(None);
            };
            let mut header = Header::decode(&block)?;
            match header.type_flag {
                b'L' => long_name = Some(self.read_long_name(&header)?),
                b'K' => long_link = Some(self.read_long_name(&header)?),
                b'x' => {
                    let records = self.read_pax(&header)?;
                    let mut local = self.global.clone();
                    local.read_local(&records, &self.limits)?;
                    pax = Some(local);
                }
                b'g' => {
                    self.global_bytes = self.global_bytes.saturating_add(header.size_bytes);
                    let (total, max) = (self.global_bytes, self.limits.pax_header_bytes_max);
                    Fault::check_limit(total, max, "bytes of global PAX headers")?;
                    let records = self.read_pax(&header)?;
                    self.global.read_global(&records, &self.limits)?;
                }
                _ => {
                    let mut pax = pax.unwrap_or_else(|| self.global.clone());
                    header.apply(&mut pax);
                    header.name = long_name.unwrap_or(header.name);
                    header.link_name = long_link.unwrap_or(header.link_name);
                    return Ok(Some(Member { header, pax, block }));
                }
            }
        }
    }

    /// Reads the block of the next header; `None` at the end marker or the end of input.
    fn next_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Fault> {
        let not_zero = |block: &[u8; BLOCK_BYTES]| *block != [0; BLOCK_BYTES];
        if let Some(block) = self.input.read_block()?.filter(not_zero) {
            return Ok(Some(block));
        }
        match self.input.read_block()?.filter(not_zero) {
            Some(_) => Err(Fault::malformed("entry after a single zero block")),
            None => Ok(None),
        }
    }

    fn read_long_name(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let max = self.limits.long_name_bytes_max as u64;
        Fault::check_limit(header.size_bytes, max, "bytes in a GNU long name")?;
        let mut name = self.input.read_padded(header.size_bytes)?;
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn read_pax(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let max = self.limits.pax_header_bytes_max;
        Fault::check_limit(header.size_bytes, max, "bytes in a PAX header")?;
        self.input.read_padded(header.size_bytes)
    }

    /// Finds out where the entry's data lies, makes it the data to be read or skipped, and returns
    /// its length with holes.
    fn start_data(&mut self, member: &mut Member) -> Result<u64, Fault> {
        let header = &mut member.header;
        let sparse = mem::take(&mut member.pax.sparse);
        let layout = match header.type_flag {
            b'S' => Layout::of_old_gnu(header, &member.block, &mut self.input, &self.limits)?,
            _ if !header.has_data() => Layout::dense(0),
            _ => match sparse {
                Some(mut records) => {
                    header.name = records
                        .name
                        .take()
                        .unwrap_or_else(|| mem::take(&mut header.name));
                    records.layout(header.size_bytes, &mut self.input, &self.limits)?
                }
                None => Layout::dense(header.size_bytes),
            },
        };
        Fault::check_limit(
            layout.size_bytes,
            self.limits.file_bytes_max,
            "bytes in a file",
        )?;
        self.files_bytes = self.files_bytes.saturating_add(layout.size_bytes);
        let max = self.limits.plain_bytes_max;
        Fault::check_limit(self.files_bytes, max, "bytes in all files")?;
        let size_bytes = layout.size_bytes;
        self.body.start(layout);
        Ok(size_bytes)
    }

    /// Makes an entry of a member; `None` for what is no part of the layer's content.
    fn entry(&self, member: Member, size_bytes: u64) -> Result<Option<LayerEntry>, Fault> {
        let Member {
            header, mut pax, ..
        } = member;
        let path = LayerPath::parse(&header.name, &self.limits)?;
        let (path, kind) = match path.marker()? {
            Marker::None => {
                let kind = self.kind(&header, &pax, size_bytes)?;
                (path, kind)
            }
            Marker::Whiteout(path) => (path, EntryKind::Whiteout),
            Marker::Opaque(path) => (path, EntryKind::OpaqueDirectory),
            Marker::Aufs => return Ok(None),
        };
        if path.is_root() && !matches!(kind, EntryKind::Directory | EntryKind::OpaqueDirectory) {
            return Err(Fault::malformed("the root is not a directory"));
        }
        let id = |id, reason| u32::try_from(id).map_err(|_| Fault::malformed(reason));
        let mtime = Timestamp {
            seconds: header.mtime_seconds,
            nanoseconds: 0,
        };
        let attributes = Attributes {
            mode: header.mode,
            uid: id(header.uid, "uid is not within 32 bits")?,
            gid: id(header.gid, "gid is not within 32 bits")?,
            mtime: pax.mtime.unwrap_or(mtime),
            xattrs: pax.take_xattrs()?,
        };
        Ok(Some(LayerEntry {
            path,
            kind,
            attributes,
        }))
    }

    fn kind(&self, header: &Header, pax: &Pax, size_bytes: u64) -> Result<EntryKind, Fault> {
        let device = || -> Result<Device, Fault> {
            let number = |pax: Option<u32>, header: Option<u32>| {
                pax.or(header)
                    .ok_or_else(|| Fault::malformed("device number is not within 32 bits"))
            };
            let major = number(pax.device_major, header.device_major)?;
            Ok(Device {
                major,
                minor: number(pax.device_minor, header.device_minor)?,
            })
        };
        Ok(match header.type_flag {
            0 if header.name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File { size_bytes },
            b'1' => {
                let target = LayerPath::parse(&header.link_name, &self.limits)?;
                if target.is_root() {
                    return Err(Fault::malformed("hard link to the root"));
                }
                EntryKind::HardLink(target)
            }
            b'2' => EntryKind::Symlink(symlink_target(&header.link_name)?),
            b'3' => EntryKind::CharDevice(device()?),
            b'4' => EntryKind::BlockDevice(device()?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let what = format!("entry of type {:?}", char::from(other));
                return Err(Fault::Unsupported(what.into()));
            }
        })
    }
}

fn symlink_target(target: &[u8]) -> Result<Box<[u8]>, Fault> {
    if target.is_empty() || target.contains(&0) {
        return Err(Fault::malformed("symlink target is empty or has a NUL"));
    }
    let max = TARGET_BYTES_MAX as u64;
    Fault::check_limit(target.len() as u64, max, "bytes in a symlink target")?;
    Ok(target.into())
}

impl<R: Read> EntrySource for TarReader<R> {
    fn next_entry(&mut self) -> Result<Option<LayerEntry>, LayerError> {
        self.scan().map_err(|fault| self.fail(fault))
    }

    fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        self.check_state()
            .and_then(|()| self.body.read(&mut self.input, buffer))
            .map_err(|fault| self.fail(fault))
    }
}

#[cfg(test)]
mod archive;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
