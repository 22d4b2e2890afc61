//! The seam through which readers reach bytes of packs, wherever those are.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::{BlobStore, Key, PackName, StoreError};

/// A place that bytes are served from, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The node's own disk or memory.
    Node,
    /// The region's cache.
    Region,
    /// The object store.
    Origin,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Region => "region",
            Self::Origin => "origin",
        })
    }
}

/// Bytes of a pack as some place gave them. They say nothing until they are checked against a
/// hash, which is why this type offers no way to them but [`UnverifiedBytes::into_untrusted`].
#[derive(Clone)]
pub struct UnverifiedBytes {
    bytes: Bytes,
    giver: Option<Arc<str>>,
}

impl UnverifiedBytes {
    /// Marks bytes as not yet checked.
    pub const fn new(bytes: Bytes) -> Self {
        Self { bytes, giver: None }
    }

    /// Marks bytes as not yet checked, and who is to be told when they are wrong.
    pub const fn given_by(bytes: Bytes, giver: Arc<str>) -> Self {
        let giver = Some(giver);
        Self { bytes, giver }
    }

    /// Returns who gave the bytes, for [`ChunkSource::report`].
    pub fn giver(&self) -> Option<&str> {
        self.giver.as_deref()
    }

    /// Returns a part of the bytes, no less unchecked; `None` when they do not reach so far.
    pub(crate) fn slice(&self, range: Range<usize>) -> Option<Self> {
        let inside = range.start <= range.end && range.end <= self.bytes.len();
        inside.then(|| Self {
            bytes: self.bytes.slice(range),
            giver: self.giver.clone(),
        })
    }

    /// Copies the bytes, so that what they are a part of can go.
    pub(crate) fn to_owned_part(&self) -> Self {
        Self {
            bytes: Bytes::copy_from_slice(&self.bytes),
            giver: self.giver.clone(),
        }
    }

    /// Returns the bytes for checking or decoding. Never serve them.
    pub fn into_untrusted(self) -> Bytes {
        self.bytes
    }
}

impl fmt::Debug for UnverifiedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnverifiedBytes({} bytes)", self.bytes.len())
    }
}

/// A tier that has packs.
#[async_trait::async_trait]
pub trait ChunkSource: fmt::Debug + Send + Sync + 'static {
    /// Tells which tier this is.
    fn tier(&self) -> Tier;

    /// Returns exactly the bytes of `range` of a pack, unchecked, or an error; never fewer.
    async fn fetch(&self, pack: PackName, range: Range<u64>)
    -> Result<UnverifiedBytes, StoreError>;

    /// Returns the bytes as [`fetch`](Self::fetch) does, if no tier behind this one has to be asked
    /// for them: nobody may ever read them.
    async fn fetch_cached(
        &self,
        pack: PackName,
        range: Range<u64>,
    ) -> Result<UnverifiedBytes, StoreError> {
        self.fetch(pack, range).await
    }

    /// Says that what `giver` gave for `range` of a pack was wrong. Returns whether another one
    /// of this tier can be asked.
    async fn report(&self, _pack: PackName, _range: Range<u64>, _giver: &str) -> bool {
        false
    }
}

/// A region's cache that takes what a node writes before the store has it.
#[async_trait::async_trait]
pub trait RegionWriter: fmt::Debug + Send + Sync + 'static {
    /// Gives an object, whose name is derived from its bytes, to two members at least. When this
    /// returns it outlives any one of them, and the region can read it. Doing it twice is harmless.
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError>;
}

/// A store as a tier: the object store as the last one, or what is staged on this node.
#[derive(Debug, Clone)]
pub struct Origin {
    store: Arc<dyn BlobStore>,
    tier: Tier,
}

impl Origin {
    /// Serves from the object store.
    pub const fn new(store: Arc<dyn BlobStore>) -> Self {
        let tier = Tier::Origin;
        Self { store, tier }
    }

    /// Serves from a store on this node.
    pub const fn on_node(store: Arc<dyn BlobStore>) -> Self {
        let tier = Tier::Node;
        Self { store, tier }
    }
}

#[async_trait::async_trait]
impl ChunkSource for Origin {
    fn tier(&self) -> Tier {
        self.tier
    }

    async fn fetch(
        &self,
        pack: PackName,
        range: Range<u64>,
    ) -> Result<UnverifiedBytes, StoreError> {
        let bytes = self.store.get_range(&pack.key(), range).await;
        bytes.map(UnverifiedBytes::new)
    }
}
