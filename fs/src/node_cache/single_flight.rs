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
    /// way. The task may go on after its answer; until it ends, those who come share the answer,
    /// unless that is a failure. A task that ends without an answer gives `stopped`.
    pub(super) fn join<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        key: K,
        tasks: &TaskTracker,
        stopped: V,
        start: impl FnOnce(Answer<K, V>) -> F,
    ) -> Flight<V> {
        let mut flights = self.lock();
        if let Some((flight, _)) = flights.get(&key) {
            return flight.clone();
        }
        let (sender, answered) = oneshot::channel();
        let flight = answered
            .map(|answer| answer.unwrap_or(stopped))
            .boxed()
            .shared();
        let (landing, landed) = oneshot::channel();
        let landed = landed.map(drop).boxed().shared();
        flights.insert(key, (flight.clone(), landed));
        drop(flights);
        let listed = || Listed {
            flights: Arc::clone(self),
            key,
            flight: flight.clone(),
        };
        let work = start(Answer {
            listed: listed(),
            sender,
        });
        let landing = Landing {
            listed: listed(),
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

/// The place of a flight in the list.
struct Listed<K, V> {
    flights: Arc<SingleFlight<K, V>>,
    key: K,
    flight: Flight<V>,
}

impl<K: Eq + Hash, V> Listed<K, V> {
    /// Takes the flight off the list, if it is there and not another of its key.
    fn leave(&self) {
        let mut flights = self.flights.lock();
        let found = flights.get(&self.key);
        let gone = if found.is_some_and(|(flight, _)| flight.ptr_eq(&self.flight)) {
            flights.remove(&self.key)
        } else {
            None
        };
        drop(flights);
        drop(gone);
    }
}

/// Where the answer of a piece of work goes.
pub(super) struct Answer<K, V> {
    listed: Listed<K, V>,
    sender: oneshot::Sender<V>,
}

impl<K: Eq + Hash, T, E> Answer<K, Result<T, E>> {
    /// Gives an answer; whoever asked may be gone. Who comes after a failure was told has a flight of
    /// his own.
    pub(super) fn send(self, value: Result<T, E>) {
        if value.is_err() {
            self.listed.leave();
        }
        drop(self.sender.send(value));
    }
}

/// Takes a flight off the list when its task ends, in whatever way.
struct Landing<K: Eq + Hash, V> {
    listed: Listed<K, V>,
    /// Wakes those who wait for the end, by being dropped after the flight was taken off.
    _landed: oneshot::Sender<()>,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.listed.leave();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    /// Joins a flight whose task answers with `answer` and goes on until `end` has a permit.
    fn join(
        flights: &Arc<SingleFlight<u8, Result<u8, u8>>>,
        tasks: &TaskTracker,
        end: &Arc<Semaphore>,
        answer: Result<u8, u8>,
    ) -> Flight<Result<u8, u8>> {
        let end = Arc::clone(end);
        flights.join(1, tasks, Err(0), |to| async move {
            to.send(answer);
            end.acquire().await.unwrap().forget();
        })
    }

    #[tokio::test]
    async fn an_answer_is_shared_until_the_end_and_a_failure_is_not() {
        let (flights, tasks) = (Arc::default(), TaskTracker::new());
        let end = Arc::new(Semaphore::new(0));
        let joined = |answer| join(&flights, &tasks, &end, answer);
        assert_eq!(joined(Err(1)).await, Err(1));
        assert_eq!(joined(Err(2)).await, Err(2), "the first was told");
        assert_eq!(joined(Ok(3)).await, Ok(3));
        assert_eq!(joined(Ok(4)).await, Ok(3), "it goes on");
        // The ends of those that failed leave the one alone that is under way.
        end.add_permits(2);
        while tasks.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(joined(Ok(4)).await, Ok(3));
        end.add_permits(1);
        flights.landed(1).await;
        assert_eq!(joined(Ok(5)).await, Ok(5));
    }

    #[tokio::test]
    async fn a_task_without_an_answer_is_told() {
        let (flights, tasks) = (Arc::<SingleFlight<u8, _>>::default(), TaskTracker::new());
        let joined = flights.join(1, &tasks, Err::<u8, u8>(7), |to| async move { drop(to) });
        assert_eq!(joined.await, Err(7));
    }
}
