//! Looking at all that the cache holds: how much it is, and whether it is still right.

use std::io;
use std::sync::Arc;

use nacre_blobstore::ContentId;

use super::eviction::LOAD_WAIT;
use super::local::off_reactor;
use super::{NodeCache, NodeCacheError};

/// Contents that one call evicts at most.
const PRUNE_MAX: u64 = 4096;

/// What is on the disk, in bytes that it takes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCacheUsage {
    /// Complete contents that are trusted.
    pub contents: u64,
    /// Bytes of those.
    pub content_bytes: u64,
    /// Large contents of which some chunks are there.
    pub partials: u64,
    /// Bytes of those, holes not counted.
    pub partial_bytes: u64,
    /// Contents of before an unclean stop that were not read since.
    pub unverified: u64,
    /// Bytes of those.
    pub unverified_bytes: u64,
}

/// What [`NodeCache::verify_shard`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeCacheCheck {
    /// Contents that were checked.
    pub checked: u64,
    /// Those that were bad, and are dropped.
    pub corrupt: Vec<ContentId>,
}

/// What [`NodeCache::prune`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCachePrune {
    /// Contents that were evicted.
    pub contents: u64,
    /// Bytes of those, on the disk.
    pub bytes: u64,
    /// Whether there is nothing more to evict for the same call.
    pub done: bool,
}

impl NodeCache {
    /// Counts what is on the disk. Walks all of it.
    ///
    /// # Errors
    /// [`NodeCacheError::Io`].
    pub async fn usage(&self) -> Result<NodeCacheUsage, NodeCacheError> {
        let inner = Arc::clone(&self.inner);
        let walk = move || {
            let mut usage = NodeCacheUsage::default();
            let mut add = |contents: Vec<(ContentId, u64)>, count: fn(&mut _) -> Counts<'_>| {
                for (_, on_disk_bytes) in contents {
                    let (number, bytes) = count(&mut usage);
                    *number += 1;
                    *bytes += on_disk_bytes;
                }
            };
            for shard in 0..=u8::MAX {
                add(inner.layout.list("store", shard)?, complete);
                add(inner.layout.list("unverified", shard)?, unverified);
            }
            add(inner.layout.list_partial()?, partial);
            add(inner.layout.list_ahead()?, complete);
            Ok(usage)
        };
        self.surveyed(off_reactor(walk).await)
    }

    /// Checks the complete contents whose ids begin with the byte `shard`, and drops the bad ones.
    /// Those that were not trusted are, if they are right. Reads all of them.
    ///
    /// # Errors
    /// [`NodeCacheError::Io`].
    pub async fn verify_shard(&self, shard: u8) -> Result<NodeCacheCheck, NodeCacheError> {
        let mut check = NodeCacheCheck::default();
        for folder in ["store", "unverified"] {
            let inner = Arc::clone(&self.inner);
            let listed = off_reactor(move || inner.layout.list(folder, shard)).await;
            for (content, _) in self.surveyed(listed)? {
                let right = self.verify(content).await;
                check.checked += u64::from(right.is_some());
                check
                    .corrupt
                    .extend((right == Some(false)).then_some(content));
            }
        }
        Ok(check)
    }

    /// Evicts until at most `bytes_left` are there. Does a part of it, so that callers can show
    /// progress: call it until it is done. What was used in the last seconds stays, and so does
    /// what is being read.
    pub async fn prune(&self, bytes_left: u64) -> NodeCachePrune {
        let inner = Arc::clone(&self.inner);
        let prune = move || {
            let mut prune = NodeCachePrune::default();
            if !inner.quota.wait_loaded(LOAD_WAIT) {
                return prune;
            }
            while prune.contents < PRUNE_MAX {
                let evicted = (inner.quota.level().bytes > bytes_left)
                    .then(|| inner.evict_one(false))
                    .flatten();
                let Some(bytes) = evicted else {
                    prune.done = true;
                    break;
                };
                prune.contents += 1;
                prune.bytes += bytes;
            }
            prune
        };
        off_reactor(prune).await.unwrap_or_default()
    }

    fn surveyed<T>(&self, result: Option<io::Result<T>>) -> Result<T, NodeCacheError> {
        let stopped = || Err(io::Error::other("the runtime is shutting down"));
        result.unwrap_or_else(stopped).map_err(|source| {
            let folder = self.inner.folder.clone();
            NodeCacheError::Io {
                verb: "look through",
                folder,
                source,
            }
        })
    }
}

/// A number of contents and their bytes.
type Counts<'a> = (&'a mut u64, &'a mut u64);

const fn complete(usage: &mut NodeCacheUsage) -> Counts<'_> {
    (&mut usage.contents, &mut usage.content_bytes)
}

const fn partial(usage: &mut NodeCacheUsage) -> Counts<'_> {
    (&mut usage.partials, &mut usage.partial_bytes)
}

const fn unverified(usage: &mut NodeCacheUsage) -> Counts<'_> {
    (&mut usage.unverified, &mut usage.unverified_bytes)
}
