//! Looking at all that the cache holds: how much it is, and whether it is still right.

use std::io;
use std::sync::Arc;

use nacre_blobstore::ContentId;

use super::local::off_reactor;
use super::{NodeCache, NodeCacheError};

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

/// What [`NodeCache::verify_all`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeCacheCheck {
    /// Contents that were checked.
    pub checked: u64,
    /// Those that were bad, and are dropped.
    pub corrupt: Vec<ContentId>,
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
            Ok(usage)
        };
        self.surveyed(off_reactor(walk).await)
    }

    /// Checks every complete content that is trusted and drops the bad ones. Reads all of them.
    ///
    /// # Errors
    /// [`NodeCacheError::Io`].
    pub async fn verify_all(&self) -> Result<NodeCacheCheck, NodeCacheError> {
        let mut check = NodeCacheCheck::default();
        for shard in 0..=u8::MAX {
            let inner = Arc::clone(&self.inner);
            let listed = off_reactor(move || inner.layout.list("store", shard)).await;
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
