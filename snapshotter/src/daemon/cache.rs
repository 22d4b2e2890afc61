//! The node's cache as the control API shows it.

use std::sync::{Arc, Weak};

use nacre_blobstore::Clock;
use nacre_fs::NodeCache;

use super::api::{CacheCheck, CachePrune, CacheStats, TierCount};
use super::node::{Node, NodeError};

impl Node {
    /// Counts where reads were served from, and what is on the disk.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
    pub fn cache_stats(&self) -> CacheStats {
        let cache = self.cache.stats();
        let fetched = self.reader.stats();
        let tier = |t: nacre_blobstore::TierStats| TierCount {
            reads: t.reads,
            bytes: t.bytes,
        };
        CacheStats {
            page_cache_unknown: TierCount::default(),
            node: TierCount {
                reads: cache.node_reads,
                bytes: cache.node_bytes,
            },
            region: tier(fetched.region),
            origin: tier(fetched.origin),
            corrupt: fetched.region.corrupt + fetched.origin.corrupt,
            failed_reads: cache.failed_reads,
            waits_ms_p50: cache.wait_p50_us as f64 / 1000.0,
            waits_ms_p99: cache.wait_p99_us as f64 / 1000.0,
            bytes_read_by_sandbox: cache.node_bytes + cache.fetched_bytes,
            bytes_fetched: fetched.region.bytes + fetched.origin.bytes,
            contents: cache.contents,
            bytes: cache.bytes,
            counted: cache.loaded,
            quota: cache.bytes_max,
            quota_in_force: cache.bytes_in_force,
            quota_files: cache.files_max,
            evicted: cache.evicted,
            evicted_bytes: cache.evicted_bytes,
            unstored: cache.unstored,
            rechecked: cache.rechecked,
            rotten: cache.rotten,
            region_cache: self.options.region.as_ref().map(|region| region.stats()),
        }
    }

    /// Checks the complete contents on this node whose ids begin with the byte `shard`, and the metadata
    /// images of such trees, and drops the bad ones.
    ///
    /// # Errors
    /// [`NodeError::Cache`], [`NodeError::Metadata`].
    pub async fn verify_cache(&self, shard: u8) -> Result<CacheCheck, NodeError> {
        let check = self.cache.verify_shard(shard).await?;
        let mut corrupt: Vec<_> = check.corrupt.iter().map(ToString::to_string).collect();
        corrupt.extend(self.verify_metadata(shard).await?);
        let checked = check.checked;
        Ok(CacheCheck { checked, corrupt })
    }

    /// Evicts a part of what is above `to_bytes` from the node's disk.
    pub async fn prune_cache(&self, to_bytes: u64) -> CachePrune {
        let prune = self.cache.prune(to_bytes).await;
        CachePrune {
            contents: prune.contents,
            bytes: prune.bytes,
            done: prune.done,
        }
    }
}

/// Looks for rot in a cache, for as long as there is one.
pub(super) async fn recheck(cache: Weak<NodeCache>, clock: Arc<dyn Clock>) {
    let mut slot = 0;
    loop {
        clock.sleep(NodeCache::RECHECK_EVERY).await;
        let Some(cache) = cache.upgrade() else {
            return;
        };
        slot = cache.recheck_some(slot).await;
    }
}
