//! The inode log: what every inode number that the kernel knows stands for, in a file.
//!
//! The kernel names inodes by numbers for as long as a FUSE session lasts, and the session can
//! outlive the daemon. A number is noted before the kernel hears of it, by one write(2): what was
//! written survives the death of the process. The machine's death ends the session too, so nothing
//! is ever synced.
//!
//! ```text
//! header   magic "NACRINOD" | version u16 = 1 | session u64 | check u32
//! record   kind u8 | ino u64 | body | check u32
//!   1 Root     flavor u8 | tree 32
//!   2 Entry    parent u64 | index u32
//!   3 Link     root u64 | group 16 | flavor u8 | tree 32 | index u32
//!   4 Content  content 32 | size u64
//!   5 Forgotten
//! ```
//! All integers are little-endian; a check is the first four bytes of the BLAKE3 of the bytes before
//! it in the header or record. Reading ends at the first record that is cut or wrong: what follows
//! was not written by a daemon that goes on after a failed write.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nacre_blobstore::{ContentId, Digest, TreeId};

use super::place::{Flavor, Origin};

const MAGIC: &[u8; 8] = b"NACRINOD";
const VERSION: u16 = 1;
const CHECK_BYTES: usize = 4;
/// Longest record, in bytes.
const RECORD_BYTES_MAX: usize = 1 + 8 + 8 + 16 + 1 + 32 + 4 + CHECK_BYTES;
/// Longest log that is read, in bytes: some ten million inodes.
const LOG_BYTES_MAX: u64 = 256 << 20;
/// Records beyond twice the inodes that are known with which a log is rewritten.
const SPARE_RECORDS: usize = 64 << 10;
/// Changes that are not noted after a failed write, until the log is tried to be rewritten.
const RETRY_AFTER: usize = 1024;

/// One change of the inode table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The kernel is about to hear of this inode.
    Known(u64, Origin),
    /// The kernel forgot it.
    Forgotten(u64),
}

/// Why an inode log cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum InodeLogError {
    /// The file cannot be read or written.
    #[error("use inode log {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is none, is of another session, or is longer than any should be.
    #[error("inode log {0} is not of this session")]
    Foreign(PathBuf),
}

impl Change {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        let head = |bytes: &mut Vec<u8>, kind: u8, ino: &u64| {
            bytes.push(kind);
            bytes.extend(ino.to_le_bytes());
        };
        match self {
            Self::Known(ino, Origin::Root(flavor, tree)) => {
                head(bytes, 1, ino);
                bytes.push(flavor_byte(*flavor));
                bytes.extend(tree.as_bytes());
            }
            Self::Known(ino, Origin::Entry { parent_ino, index }) => {
                head(bytes, 2, ino);
                bytes.extend(parent_ino.to_le_bytes());
                bytes.extend(index.to_le_bytes());
            }
            Self::Known(
                ino,
                Origin::Link {
                    root_ino,
                    group,
                    flavor,
                    tree,
                    index,
                },
            ) => {
                head(bytes, 3, ino);
                bytes.extend(root_ino.to_le_bytes());
                bytes.extend(group);
                bytes.push(flavor_byte(*flavor));
                bytes.extend(tree.as_bytes());
                bytes.extend(index.to_le_bytes());
            }
            Self::Known(
                ino,
                Origin::Content {
                    content,
                    size_bytes,
                },
            ) => {
                head(bytes, 4, ino);
                bytes.extend(content.as_bytes());
                bytes.extend(size_bytes.to_le_bytes());
            }
            Self::Forgotten(ino) => head(bytes, 5, ino),
        }
        let check = check(&bytes[start..]);
        bytes.extend(check);
    }

    /// Takes a record off the front of `bytes`; `None` when there is no right one.
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut rest = *bytes;
        let [kind] = array(&mut rest)?;
        let ino = u64::from_le_bytes(array(&mut rest)?);
        let change = match kind {
            1 => {
                let flavor = flavor(array(&mut rest)?)?;
                Self::Known(ino, Origin::Root(flavor, TreeId::new(digest(&mut rest)?)))
            }
            2 => {
                let parent_ino = u64::from_le_bytes(array(&mut rest)?);
                let index = u32::from_le_bytes(array(&mut rest)?);
                Self::Known(ino, Origin::Entry { parent_ino, index })
            }
            3 => Self::Known(
                ino,
                Origin::Link {
                    root_ino: u64::from_le_bytes(array(&mut rest)?),
                    group: array(&mut rest)?,
                    flavor: flavor(array(&mut rest)?)?,
                    tree: TreeId::new(digest(&mut rest)?),
                    index: u32::from_le_bytes(array(&mut rest)?),
                },
            ),
            4 => Self::Known(
                ino,
                Origin::Content {
                    content: ContentId::new(digest(&mut rest)?),
                    size_bytes: u64::from_le_bytes(array(&mut rest)?),
                },
            ),
            5 => Self::Forgotten(ino),
            _ => return None,
        };
        let checked = &bytes[..bytes.len() - rest.len()];
        if array(&mut rest)? != check(checked) && !cfg!(fuzzing) {
            return None;
        }
        *bytes = rest;
        Some(change)
    }
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

fn digest(bytes: &mut &[u8]) -> Option<Digest> {
    array(bytes).map(Digest::from_bytes)
}

const fn flavor_byte(flavor: Flavor) -> u8 {
    match flavor {
        Flavor::Plain => 0,
        Flavor::Lower => 1,
    }
}

const fn flavor([byte]: [u8; 1]) -> Option<Flavor> {
    match byte {
        0 => Some(Flavor::Plain),
        1 => Some(Flavor::Lower),
        _ => None,
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::hash(bytes);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hash.as_bytes()[..CHECK_BYTES]);
    check
}

fn header(session: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(session.to_le_bytes());
    let check = check(&bytes);
    bytes.extend(check);
    bytes
}

/// What a log says, after all its changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) inodes: HashMap<u64, Origin>,
    /// Bytes at the end that are no records.
    pub(crate) torn_bytes: usize,
}

/// Reads the bytes of a log; `None` when they are none of the session.
pub(crate) fn decode(bytes: &[u8], session: u64) -> Option<Restored> {
    let mut rest = bytes.strip_prefix(&*header(session))?;
    let mut restored = Restored::default();
    while let Some(change) = Change::take(&mut rest) {
        match change {
            Change::Known(ino, origin) => drop(restored.inodes.insert(ino, origin)),
            Change::Forgotten(ino) => drop(restored.inodes.remove(&ino)),
        }
    }
    restored.torn_bytes = rest.len();
    Some(restored)
}

/// Encodes a log of inodes that are known.
pub(crate) fn encode(session: u64, known: impl Iterator<Item = (u64, Origin)>) -> Vec<u8> {
    let mut bytes = header(session);
    known.for_each(|(ino, origin)| Change::Known(ino, origin).encode(&mut bytes));
    bytes
}

/// Reads any bytes as the log of a session, and encodes what they say as resuming it would, in the
/// order of the inode numbers; returns that and how many bytes at the end are no records. `None`
/// when the bytes are no log of the session.
#[cfg(any(test, feature = "testing"))]
pub fn recode_inode_log(bytes: &[u8], session: u64) -> Option<(Vec<u8>, usize)> {
    let restored = decode(bytes, session)?;
    let known: std::collections::BTreeMap<_, _> = restored.inodes.into_iter().collect();
    Some((encode(session, known.into_iter()), restored.torn_bytes))
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct InodeLog {
    path: PathBuf,
    session: u64,
    file: File,
    len_bytes: u64,
    records: usize,
    /// Changes that could not be noted.
    missing: usize,
}

impl InodeLog {
    /// Begins the log of a new session in place of any that is there.
    pub(crate) fn create(path: &Path, session: u64) -> io::Result<Self> {
        Self::write(path, session, std::iter::empty())
    }

    /// Reads the log of a session that goes on, and compacts it.
    pub(crate) fn resume(path: &Path, session: u64) -> Result<(Self, Restored), InodeLogError> {
        let fail = |source| InodeLogError::Io {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(fail)?;
        let len = file
            .take(LOG_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        let restored = decode(&bytes, session).filter(|_| (len as u64) < LOG_BYTES_MAX);
        let restored = restored.ok_or_else(|| InodeLogError::Foreign(path.to_owned()))?;
        let known = restored.inodes.iter().map(|(ino, origin)| (*ino, *origin));
        let log = Self::write(path, session, known).map_err(fail)?;
        Ok((log, restored))
    }

    /// Writes a whole log and gives it its name: a process that dies leaves this or the old one.
    fn write(
        path: &Path,
        session: u64,
        known: impl Iterator<Item = (u64, Origin)>,
    ) -> io::Result<Self> {
        let mut records = 0;
        let bytes = encode(session, known.inspect(|_| records += 1));
        let staging = path.with_extension("new");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&staging)?;
        file.write_all(&bytes)?;
        rustix::fs::rename(&staging, path)?;
        Ok(Self {
            path: path.to_owned(),
            session,
            file,
            len_bytes: bytes.len() as u64,
            records,
            missing: 0,
        })
    }

    /// Notes a change of the table, whose inodes `known` returns. When that fails, the inode is not
    /// found after a takeover; the log is complete again as soon as it can be written.
    pub(crate) fn note<K: Iterator<Item = (u64, Origin)>>(
        &mut self,
        change: &Change,
        known_len: usize,
        known: impl FnOnce() -> K,
    ) {
        let too_long = self.records > 2 * known_len + SPARE_RECORDS;
        if too_long || self.missing >= RETRY_AFTER {
            // The table has the change already.
            match Self::write(&self.path, self.session, known()) {
                Ok(written) => *self = written,
                Err(error) => self.miss(&error),
            }
        } else if self.missing > 0 {
            self.missing += 1;
        } else if let Err(error) = self.append(change) {
            self.miss(&error);
        }
    }

    fn append(&mut self, change: &Change) -> io::Result<()> {
        let mut record = Vec::with_capacity(RECORD_BYTES_MAX);
        change.encode(&mut record);
        if let Err(error) = self.file.write_all(&record) {
            // Half a record would hide those after it.
            self.file.set_len(self.len_bytes)?;
            self.file.seek(SeekFrom::Start(self.len_bytes))?;
            return Err(error);
        }
        self.len_bytes += record.len() as u64;
        self.records += 1;
        Ok(())
    }

    fn miss(&mut self, error: &io::Error) {
        tracing::error!(path = %self.path.display(), %error, "inodes are not noted");
        self.missing = 1;
    }
}

#[cfg(test)]
mod tests;
