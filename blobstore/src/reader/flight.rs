//! Single flight: one run of a piece of work for all who want its result at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::lock;

/// Runs under way, by key.
pub(super) struct SingleFlight<K, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

impl<K, T> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SingleFlight({} running)", lock(&self.running).len())
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Copy + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Returns the result of `work`, or of the run for `key` that is under way. The work runs as a
    /// task of its own: a caller that gives up does not stop it for the others. `stopped` is
    /// returned when the task ended without a result, by a panic or at shut-down.
    pub(super) async fn run(
        &self,
        key: K,
        work: impl Future<Output = T> + Send + 'static,
        stopped: impl FnOnce() -> T,
    ) -> T {
        let mut result = match lock(&self.running).entry(key) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => {
                let (sender, receiver) = watch::channel(None);
                entry.insert(receiver.clone());
                let landing = Landing {
                    running: Arc::clone(&self.running),
                    key,
                };
                tokio::spawn(async move {
                    let value = work.await;
                    // Landed before told: who comes now starts a new run.
                    drop(landing);
                    sender.send_replace(Some(value));
                });
                receiver
            }
        };
        let value = match result.wait_for(Option::is_some).await {
            Ok(value) => value.clone(),
            Err(_) => None,
        };
        value.unwrap_or_else(stopped)
    }
}

/// Takes a run off the list when it ends, however it ends.
struct Landing<K: Eq + Hash, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}
