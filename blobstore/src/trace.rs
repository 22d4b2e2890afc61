//! Traces: what starts of a file system read, in which order, so that the next can be ahead of it.
//!
//! A trace is the payload of a record and named by a ref of its own, `traces/` and the tree's id.
//! It names contents and trees, not packs, so it serves whatever image shares them. It keeps
//! nothing alive but the packs that its record lists: copies of what it names, in its order.
//!
//! ```text
//! "NTC2" | starts uvarint | count uvarint | entry*                          at most 4 MiB
//! entry: 1 u8 | content id | size uvarint | offset uvarint | length uvarint
//!        2 u8 | tree id
//!        then starts uvarint | unread uvarint | at uvarint, us | waited uvarint, us
//!             | tier u8 (0 node, 1 region, 2 origin)
//! ```
//!
//! In the first form, "NTC1", which is read as well, no entry has `unread`.

use crate::envelope::{self, EnvelopeError};
use crate::refs::RefError;
use crate::wire::{Put, Truncated, Wire};
use crate::{
    BlobStore, ContentId, Digest, LeaseError, Record, RecordError, RecordId, RecordKind, RefName,
    SecureError, StoreError, Tier, TreeId, Version, read_ref,
};

const MAGIC: &[u8; 4] = b"NTC2";
const MAGIC_FIRST: &[u8; 4] = b"NTC1";
/// Most entries of a trace.
pub const TRACE_ENTRIES_MAX: usize = 1 << 15;
/// Largest trace, in bytes.
pub(crate) const TRACE_BYTES_MAX: usize = 4 << 20;
/// Least bytes of an entry.
const ENTRY_BYTES_MIN: usize = 1 + Digest::LEN + 4;
/// How many times as many starts may leave an entry unread as read it for it to be brought ahead of the next.
const UNREAD_TIMES_MAX: u32 = 3;
/// Namespace of the refs of traces.
pub(crate) const TRACES_NAMESPACE: &str = "traces";

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Traced {
    /// A range of a content, not empty.
    Content {
        /// The content.
        content: ContentId,
        /// Its length.
        size_bytes: u64,
        /// Where the range starts.
        offset_bytes: u64,
        /// Length of the range.
        len_bytes: u64,
    },
    /// A tree.
    Tree(TreeId),
}

/// One element of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceEntry {
    /// What was read.
    pub what: Traced,
    /// How many of the recorded starts were seen to read it.
    pub starts: u32,
    /// How many were seen not to.
    pub unread: u32,
    /// When it was read, in microseconds after the first read of the start that saw it first.
    pub at_us: u64,
    /// How long that read took, in microseconds.
    pub waited_us: u64,
    /// Where it was served from.
    pub tier: Tier,
}

/// What starts of a file system read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// How many starts were recorded.
    pub starts: u32,
    /// What they read, in the order in which it is needed.
    pub entries: Vec<TraceEntry>,
}

/// Why a trace is refused, not found or not kept.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The bytes are not in the format.
    #[error("malformed trace: {0}")]
    Malformed(&'static str),
    /// The file is damaged or of a later version.
    #[error("trace: {0}")]
    Envelope(#[from] EnvelopeError),
    /// Its record cannot be read, or is of another kind.
    #[error("trace: {0}")]
    Record(#[from] RecordError),
    /// Its ref cannot be read or changed.
    #[error("trace: {0}")]
    Ref(#[from] RefError),
    /// The store failed.
    #[error("write trace: {0}")]
    Store(#[from] StoreError),
    /// The lease under which it is written was not had or was lost.
    #[error("write trace: {0}")]
    Lease(#[from] LeaseError),
    /// What its record names was collected, or is being.
    #[error("write trace: {0}")]
    Secure(#[from] SecureError),
    /// The system has no random numbers.
    #[error("write trace: no random numbers")]
    Random,
}

impl From<Truncated> for TraceError {
    fn from(error: Truncated) -> Self {
        Self::Malformed(error.0)
    }
}

impl TraceEntry {
    /// Tells whether it is worth bringing ahead of a start: one in four of those that tell read it.
    pub fn is_wanted(&self) -> bool {
        self.unread <= self.starts.saturating_mul(UNREAD_TIMES_MAX)
    }
}

impl Trace {
    /// Returns the entries that are worth bringing ahead of a start, in their order.
    pub fn wanted(&self) -> impl Iterator<Item = &TraceEntry> {
        self.entries.iter().filter(|entry| entry.is_wanted())
    }

    /// Encodes the trace; entries beyond [`TRACE_ENTRIES_MAX`] are left out.
    pub fn encode(&self) -> Vec<u8> {
        let entries = &self.entries[..self.entries.len().min(TRACE_ENTRIES_MAX)];
        let mut out = Vec::with_capacity(16 + entries.len() * 56);
        out.put(MAGIC);
        out.put_uvarint(self.starts.into());
        out.put_uvarint(entries.len() as u64);
        for entry in entries {
            match entry.what {
                Traced::Content {
                    content,
                    size_bytes,
                    offset_bytes,
                    len_bytes,
                } => {
                    out.put_u8(1);
                    out.put(content.as_bytes());
                    out.put_uvarint(size_bytes);
                    out.put_uvarint(offset_bytes);
                    out.put_uvarint(len_bytes);
                }
                Traced::Tree(tree) => {
                    out.put_u8(2);
                    out.put(tree.as_bytes());
                }
            }
            out.put_uvarint(entry.starts.into());
            out.put_uvarint(entry.unread.into());
            out.put_uvarint(entry.at_us);
            out.put_uvarint(entry.waited_us);
            out.put_u8(match entry.tier {
                Tier::Node => 0,
                Tier::Region => 1,
                Tier::Origin => 2,
            });
        }
        out
    }

    /// Encodes the trace as a file of its own, with a checksum.
    pub fn to_file(&self) -> Vec<u8> {
        envelope::seal(*b"TRCE", &self.encode()).1
    }

    /// Decodes what [`to_file`](Self::to_file) gave.
    ///
    /// # Errors
    /// [`TraceError`] for damage, and whatever is no trace.
    pub fn from_file(bytes: &[u8]) -> Result<Self, TraceError> {
        Self::decode(envelope::open(*b"TRCE", bytes)?.1)
    }

    /// Decodes a trace.
    ///
    /// # Errors
    /// [`TraceError::Malformed`] for anything but the encoding of a valid trace.
    pub fn decode(bytes: &[u8]) -> Result<Self, TraceError> {
        if bytes.len() > TRACE_BYTES_MAX {
            return Err(TraceError::Malformed("too long"));
        }
        let mut wire = Wire::new(bytes);
        let magic = wire.array()?;
        if magic != *MAGIC && magic != *MAGIC_FIRST {
            return Err(TraceError::Malformed("not a trace"));
        }
        let starts = wire.uvarint32()?;
        let count = wire.count(ENTRY_BYTES_MIN)?;
        if count > TRACE_ENTRIES_MAX {
            return Err(TraceError::Malformed("number of entries"));
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(decode_entry(&mut wire, magic == *MAGIC)?);
        }
        wire.finish()?;
        Ok(Self { starts, entries })
    }
}

fn decode_entry(wire: &mut Wire<'_>, has_unread: bool) -> Result<TraceEntry, TraceError> {
    let kind = wire.u8()?;
    let id = Digest::from_bytes(wire.array()?);
    let what = match kind {
        1 => {
            let (size_bytes, offset_bytes) = (wire.uvarint()?, wire.uvarint()?);
            let len_bytes = wire.uvarint()?;
            let inside = offset_bytes
                .checked_add(len_bytes)
                .is_some_and(|end| end <= size_bytes);
            if !inside || len_bytes == 0 {
                return Err(TraceError::Malformed("range outside its content"));
            }
            Traced::Content {
                content: ContentId::new(id),
                size_bytes,
                offset_bytes,
                len_bytes,
            }
        }
        2 => Traced::Tree(TreeId::new(id)),
        _ => return Err(TraceError::Malformed("kind of an entry")),
    };
    Ok(TraceEntry {
        what,
        starts: wire.uvarint32()?,
        unread: if has_unread { wire.uvarint32()? } else { 0 },
        at_us: wire.uvarint()?,
        waited_us: wire.uvarint()?,
        tier: match wire.u8()? {
            0 => Tier::Node,
            1 => Tier::Region,
            2 => Tier::Origin,
            _ => return Err(TraceError::Malformed("tier")),
        },
    })
}

/// Returns the ref of the trace of a tree, or of whatever else has a digest.
pub fn trace_ref(of: &Digest) -> RefName {
    let name = format!("{TRACES_NAMESPACE}/{of}");
    name.parse().expect("hexadecimal digits make a name")
}

/// A trace as it is stored, with what is needed to replace it.
#[derive(Debug, Clone)]
pub struct StoredTrace {
    /// The trace.
    pub trace: Trace,
    /// Its record, which may list packs with copies of what the trace names.
    pub record: Record,
    /// The state of the ref that named it.
    pub version: Version,
}

/// Reads the trace that a ref names; `None` when there is none. Two requests.
///
/// # Errors
/// [`TraceError`].
pub async fn read_trace(
    store: &dyn BlobStore,
    name: &RefName,
) -> Result<Option<StoredTrace>, TraceError> {
    let Some((target, version)) = read_ref(store, name).await? else {
        return Ok(None);
    };
    StoredTrace::read(store, target.record, version)
        .await
        .map(Some)
}

impl StoredTrace {
    /// Reads the trace that a ref was found to name when it was in the state `version`. One request.
    ///
    /// # Errors
    /// [`TraceError`].
    pub async fn read(
        store: &dyn BlobStore,
        id: RecordId,
        version: Version,
    ) -> Result<Self, TraceError> {
        let record = Record::read(store, id).await?;
        if record.kind != RecordKind::Trace {
            return Err(TraceError::Malformed("record of another kind"));
        }
        Ok(Self {
            trace: Trace::decode(&record.payload)?,
            record,
            version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let content = |number: u8, offset_bytes| TraceEntry {
            what: Traced::Content {
                content: ContentId::new(Digest::of(&[number])),
                size_bytes: 5_000_000,
                offset_bytes,
                len_bytes: 4096,
            },
            starts: 2,
            unread: 5,
            at_us: 1_000_000 * u64::from(number),
            waited_us: 21_000,
            tier: Tier::Origin,
        };
        let tree = TraceEntry {
            what: Traced::Tree(TreeId::new(Digest::of(b"t"))),
            tier: Tier::Node,
            ..content(1, 0)
        };
        Trace {
            starts: 3,
            entries: vec![content(1, 0), tree, content(2, 4_995_904)],
        }
    }

    #[test]
    fn round_trips_and_refuses_every_cut() {
        let bytes = trace().encode();
        assert_eq!(Trace::decode(&bytes).unwrap(), trace());
        for end in 0..bytes.len() {
            assert!(Trace::decode(&bytes[..end]).is_err());
        }
        assert!(Trace::decode(&[&bytes[..], b"x"].concat()).is_err());
        let mut file = trace().to_file();
        assert_eq!(Trace::from_file(&file).unwrap(), trace());
        file[60] ^= 1;
        assert!(matches!(
            Trace::from_file(&file),
            Err(TraceError::Envelope(_))
        ));
    }

    #[test]
    fn the_first_form_is_read() {
        let mut old = b"NTC1".to_vec();
        old.extend([3, 1, 2]);
        old.extend(Digest::of(b"t").as_bytes());
        old.extend([2, 7, 9, 1]);
        let read = Trace::decode(&old).unwrap();
        let [entry] = read.entries[..] else {
            panic!("one entry");
        };
        assert_eq!((read.starts, entry.starts, entry.unread), (3, 2, 0));
        assert_eq!(
            (entry.at_us, entry.waited_us, entry.tier),
            (7, 9, Tier::Region)
        );
    }

    #[test]
    fn golden_bytes() {
        let digest = Digest::of(&trace().encode()).to_string();
        let golden = "a2e39be1d64313bc91f0eda4c82f88cf9b9bcee52483f2a50fde012f97f18c21";
        assert_eq!(digest, golden);
    }

    #[test]
    fn ranges_outside_their_content_are_refused() {
        for (offset_bytes, len_bytes) in [(0, 0), (1, 5_000_000), (u64::MAX, 2), (5_000_000, 1)] {
            let mut trace = trace();
            trace.entries[0].what = Traced::Content {
                content: ContentId::new(Digest::of(b"x")),
                size_bytes: 5_000_000,
                offset_bytes,
                len_bytes,
            };
            assert!(matches!(
                Trace::decode(&trace.encode()),
                Err(TraceError::Malformed(_))
            ));
        }
    }

    #[test]
    fn too_many_entries_are_neither_written_nor_read() {
        let mut trace = trace();
        trace.entries = vec![trace.entries[1]; TRACE_ENTRIES_MAX + 1];
        let bytes = trace.encode();
        let decoded = Trace::decode(&bytes).unwrap();
        assert_eq!(decoded.entries.len(), TRACE_ENTRIES_MAX);
        let mut more = MAGIC.to_vec();
        more.put_uvarint(1);
        more.put_uvarint(TRACE_ENTRIES_MAX as u64 + 1);
        more.extend_from_slice(&[2; 40 * (TRACE_ENTRIES_MAX + 1)]);
        assert!(matches!(
            Trace::decode(&more),
            Err(TraceError::Malformed("number of entries"))
        ));
    }
}
