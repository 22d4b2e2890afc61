//! One piece of work per key, however many wait for it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// A wait that others may share. Dropping it does not stop the work.
pub(super) type Flight<V> = Shared<BoxFuture<'static, V>>;

/// Work under way, by key.
pub(super) struct SingleFlight<K, V> {
    flights: Mutex<Flights<K, V>>,
}

/// The answer of each work, and its end.
type Flights<K, V> = HashMap<K, (Flight<V>, Flight<()>)>;

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self {
            flights: Mutex::default(),
        }
    }
}

impl<K, V> fmt::Debug for SingleFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SingleFlight")
    }
}

impl<K, V> SingleFlight<K, V> {
    fn lock(&self) -> MutexGuard<'_, Flights<K, V>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// Waits for the work of `key`, which `start` begins as a task of `tasks` if none is under
    /// way. The task may go on after its answer; until it ends, those who come share the answer.
    /// A task that ends without an answer gives `stopped`.
    pub(super) fn join<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        key: K,
        tasks: &TaskTracker,
        stopped: V,
        start: impl FnOnce(oneshot::Sender<V>) -> F,
    ) -> Flight<V> {
        let mut flights = self.lock();
        if let Some((flight, _)) = flights.get(&key) {
            return flight.clone();
        }
        let (answer, answered) = oneshot::channel();
        let flight = answered
            .map(|answer| answer.unwrap_or(stopped))
            .boxed()
            .shared();
        let (landing, landed) = oneshot::channel();
        let landed = landed.map(drop).boxed().shared();
        flights.insert(key, (flight.clone(), landed));
        drop(flights);
        let work = start(answer);
        let landing = Landing {
            flights: Arc::clone(self),
            key,
            _landed: landing,
        };
        drop(tasks.spawn(async move {
            work.await;
            drop(landing);
        }));
        flight
    }

    /// Waits for the end of the work of `key`, which comes after its answer.
    pub(super) async fn landed(&self, key: K) {
        let landed = self.lock().get(&key).map(|(_, landed)| landed.clone());
        if let Some(landed) = landed {
            landed.await;
        }
    }
}

/// Takes a flight off the list when its task ends, in whatever way.
struct Landing<K: Eq + Hash + Copy, V> {
    flights: Arc<SingleFlight<K, V>>,
    key: K,
    /// Wakes those who wait for the end, by being dropped after the flight was taken off.
    _landed: oneshot::Sender<()>,
}

impl<K: Eq + Hash + Copy, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let landed = self.flights.lock().remove(&self.key);
        drop(landed);
    }
}
