//! Single flight: one run of a piece of work for all who want its result at the same time.
//!
//! A run is either a reader's own, whose result all who wait share, or one that was announced ahead
//! of any reader. An announced run that fails says nothing: those who wait for it start a run of
//! their own. Neither does one that failed for a reason that may have passed since it began: those
//! who came later take part in one more, whose result is theirs whatever it is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tracing::Instrument as _;

use super::lock;

/// Runs under way, by key. Clones share them.
pub(super) struct SingleFlight<K, T> {
    running: Arc<Mutex<HashMap<K, Run<T>>>>,
}

struct Run<T> {
    result: watch::Receiver<Option<T>>,
    announced: bool,
}

/// How a reader takes part in a run.
enum Entered<K: Eq + Hash, T> {
    Landed(T),
    Joined {
        result: watch::Receiver<Option<T>>,
        announced: bool,
    },
    Started {
        result: watch::Receiver<Option<T>>,
        sender: watch::Sender<Option<T>>,
        landing: Landing<K, T>,
    },
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

impl<K, T> Clone for SingleFlight<K, T> {
    fn clone(&self) -> Self {
        Self {
            running: Arc::clone(&self.running),
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
    /// Returns the result of `work`, or of the run for `key` that is under way, or what `landed`
    /// finds to have ended just before. The work runs as a task of its own: a caller that gives
    /// up does not stop it for the others. `may_have_passed` says so of a failure. `stopped` is
    /// returned when the task ended without a result, by a panic or at shut-down.
    pub(super) async fn run(
        &self,
        key: K,
        landed: impl Fn() -> Option<T>,
        work: impl Future<Output = T> + Send + 'static,
        may_have_passed: impl Fn(&T) -> bool,
        stopped: impl FnOnce() -> T,
    ) -> T {
        let mut was_late = false;
        loop {
            match self.enter(key, &landed) {
                Entered::Landed(value) => return value,
                Entered::Joined { result, announced } => match wait(result).await {
                    Some(value) if !was_late && may_have_passed(&value) => was_late = true,
                    Some(value) => return value,
                    None if announced => {}
                    None => return stopped(),
                },
                Entered::Started {
                    result,
                    sender,
                    landing,
                } => {
                    let run = async move {
                        let value = work.await;
                        // Landed before told: who comes now starts a new run.
                        drop(landing);
                        sender.send_replace(Some(value));
                    };
                    // What it asks of tiers is because of the reader that was first.
                    tokio::spawn(run.in_current_span());
                    return wait(result).await.unwrap_or_else(stopped);
                }
            }
        }
    }

    /// Joins the run for `key` or starts one.
    fn enter(&self, key: K, landed: &impl Fn() -> Option<T>) -> Entered<K, T> {
        match lock(&self.running).entry(key) {
            Entry::Occupied(entry) => Entered::Joined {
                result: entry.get().result.clone(),
                announced: entry.get().announced,
            },
            Entry::Vacant(entry) => {
                if let Some(value) = landed() {
                    return Entered::Landed(value);
                }
                let (sender, result) = watch::channel(None);
                entry.insert(Run {
                    result: result.clone(),
                    announced: false,
                });
                Entered::Started {
                    result,
                    sender,
                    landing: self.landing(key),
                }
            }
        }
    }

    /// Returns the result of the run for `key` that is under way, if there is one and it has any.
    pub(super) async fn join(&self, key: K) -> Option<T> {
        let result = lock(&self.running).get(&key).map(|run| run.result.clone());
        wait(result?).await
    }

    /// Announces a run for `key`, unless one is under way or `landed` finds that one has ended.
    pub(super) fn announce(&self, key: K, landed: impl Fn() -> bool) -> Option<Announced<K, T>> {
        let mut running = lock(&self.running);
        let Entry::Vacant(entry) = running.entry(key) else {
            return None;
        };
        if landed() {
            return None;
        }
        let (sender, result) = watch::channel(None);
        entry.insert(Run {
            result,
            announced: true,
        });
        drop(running);
        Some(Announced {
            landing: self.landing(key),
            sender,
        })
    }

    fn landing(&self, key: K) -> Landing<K, T> {
        Landing {
            running: Arc::clone(&self.running),
            key,
        }
    }
}

async fn wait<T: Clone>(mut result: watch::Receiver<Option<T>>) -> Option<T> {
    match result.wait_for(Option::is_some).await {
        Ok(value) => value.clone(),
        Err(_) => None,
    }
}

/// A run that was announced. Dropped without [`land`](Self::land), it sets those free who wait
/// for it. The fields are dropped in this order: who is set free must find the place vacant.
pub(super) struct Announced<K: Eq + Hash, T> {
    landing: Landing<K, T>,
    sender: watch::Sender<Option<T>>,
}

impl<K: Copy + Eq + Hash, T> Announced<K, T> {
    /// Tells whether anybody waits for the result.
    pub(super) fn is_awaited(&self) -> bool {
        // One receiver is in the list of runs.
        self.sender.receiver_count() > 1
    }

    /// Returns the key that was announced.
    pub(super) const fn key(&self) -> K {
        self.landing.key
    }

    /// Gives the result to all who wait.
    pub(super) fn land(self, value: T) {
        drop(self.landing);
        self.sender.send_replace(Some(value));
    }
}

/// Takes a run off the list when it ends, however it ends.
struct Landing<K: Eq + Hash, T> {
    running: Arc<Mutex<HashMap<K, Run<T>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}
