//! Counting what is on the disk after a start, behind the back of those who read already.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use super::fetch::Inner;

/// The walk over the cache's folders. Dropping it stops it and waits.
#[derive(Debug)]
pub(super) struct Walk {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Walk {
    /// Starts to walk: fills the table, takes the second names of the last run away and deletes
    /// what is trash; then evicts what is above the quota.
    pub(super) fn start(inner: Arc<Inner>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let walk = move || {
            if let Err(error) = walk(&inner, &stopped) {
                // What was not found is not counted: the disk being full is the limit then.
                tracing::warn!(%error, "look through the node cache");
            }
            if !stopped.load(Ordering::Relaxed) {
                inner.quota.loaded();
            }
            while !stopped.load(Ordering::Relaxed) && inner.quota.is_exceeded() {
                if inner.evict_one(true).is_none() {
                    break;
                }
            }
        };
        let thread = Builder::new().name("cache-walk".into()).spawn(walk)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the walk over the node cache ended early");
        }
    }
}

fn walk(inner: &Inner, stop: &AtomicBool) -> io::Result<()> {
    for (content, bytes) in inner.layout.list_partial()? {
        inner.quota.with(|table| table.insert_found(content, bytes));
    }
    for shard in 0..=u8::MAX {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        for folder in ["store", "unverified"] {
            for (content, bytes) in inner.layout.list(folder, shard)? {
                inner.quota.with(|table| table.insert_found(content, bytes));
            }
        }
        inner.layout.empty_trash(shard)?;
        for (content, bytes) in inner.layout.list("arrivals", shard)? {
            let _names = inner.names.lock(content);
            let now = inner.now();
            // A kernel may be about to open what was placed since the start.
            let recent = inner.quota.with(|table| {
                table.insert_found(content, bytes);
                table.is_recent(content, now)
            });
            if !recent {
                inner.layout.unlink_arrival(content)?;
            }
        }
    }
    Ok(())
}
