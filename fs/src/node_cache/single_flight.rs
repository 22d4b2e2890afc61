//! One piece of work per key, however many wait for it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use nacre_blobstore::ReadError;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// A wait that others may share.
type Flight<V> = Shared<BoxFuture<'static, V>>;

/// A place in a flight. Dropping it does not stop the work.
pub(super) struct Joined<V> {
    flight: Flight<V>,
    /// Whether the work was under way before.
    is_late: bool,
}

impl<T: Clone> Joined<Result<T, ReadError>> {
    /// Waits for the answer. Where work that was under way before fails for a reason that may have
    /// passed since, that says nothing of now: the answer is that of the flight that is joined
    /// `again`.
    pub(super) async fn answer(self, again: impl FnOnce() -> Self) -> Result<T, ReadError> {
        match self.flight.await {
            Err(error) if self.is_late && error.may_have_passed() => again().flight.await,
            answer => answer,
        }
    }
}

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
    ) -> Joined<V> {
        let mut flights = self.lock();
        if let Some((flight, _)) = flights.get(&key) {
            return Joined {
                flight: flight.clone(),
                is_late: true,
            };
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
        Joined {
            flight,
            is_late: false,
        }
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
    use nacre_blobstore::{Key, StoreError};
    use tokio::sync::Semaphore;

    use super::*;

    type Answered = Result<u8, ReadError>;

    /// Joins a flight whose task answers with `answer` and goes on until `end` has a permit.
    fn join(
        flights: &Arc<SingleFlight<u8, Answered>>,
        tasks: &TaskTracker,
        end: &Arc<Semaphore>,
        answer: Answered,
    ) -> Flight<Answered> {
        let end = Arc::clone(end);
        let stopped = ReadError::Stopped(String::new());
        let joined = flights.join(1, tasks, Err(stopped), |to| async move {
            to.send(answer);
            end.acquire().await.unwrap().forget();
        });
        joined.flight
    }

    fn corrupt() -> ReadError {
        ReadError::Corrupt {
            what: String::new(),
            reason: String::new(),
        }
    }

    fn unavailable() -> ReadError {
        let source = StoreError::TimedOut {
            operation: "get",
            key: Key::new("k").unwrap(),
            seconds: 1,
        };
        ReadError::Unavailable {
            what: String::new(),
            source: Arc::new(source),
        }
    }

    #[tokio::test]
    async fn an_answer_is_shared_until_the_end_and_a_failure_is_not() {
        let (flights, tasks) = (Arc::default(), TaskTracker::new());
        let end = Arc::new(Semaphore::new(0));
        let joined = |answer| join(&flights, &tasks, &end, answer);
        joined(Err(corrupt())).await.unwrap_err();
        let second = joined(Err(unavailable())).await;
        let second = second.unwrap_err();
        assert!(second.may_have_passed(), "the first was told: {second}");
        assert_eq!(joined(Ok(3)).await.unwrap(), 3);
        assert_eq!(joined(Ok(4)).await.unwrap(), 3, "it goes on");
        // The ends of those that failed leave the one alone that is under way.
        end.add_permits(2);
        while tasks.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(joined(Ok(4)).await.unwrap(), 3);
        end.add_permits(1);
        flights.landed(1).await;
        assert_eq!(joined(Ok(5)).await.unwrap(), 5);
    }

    /// Has two wait for work that fails with `error`, and returns what they are told. Work that is
    /// begun after that succeeds.
    async fn share(error: ReadError) -> (Answered, Answered) {
        let (flights, tasks) = (Arc::<SingleFlight<u8, _>>::default(), TaskTracker::new());
        let start = |answer: Answered| {
            flights.join(1, &tasks, Err(corrupt()), |to| async move {
                tokio::task::yield_now().await;
                to.send(answer);
            })
        };
        let (first, second) = (start(Err(error)), start(Ok(2)));
        let first = first.answer(|| panic!("it began the work")).await;
        (first, second.answer(|| start(Ok(3))).await)
    }

    #[tokio::test]
    async fn who_came_after_the_start_is_not_told_what_may_have_passed() {
        let (first, second) = share(unavailable()).await;
        assert!(first.unwrap_err().may_have_passed());
        assert_eq!(second.unwrap(), 3);
        let (first, second) = share(corrupt()).await;
        assert!(matches!(first, Err(ReadError::Corrupt { .. })));
        assert!(matches!(second, Err(ReadError::Corrupt { .. })));
    }

    #[tokio::test]
    async fn a_task_without_an_answer_is_told() {
        let (flights, tasks) = (Arc::<SingleFlight<u8, _>>::default(), TaskTracker::new());
        let stopped: Answered = Err(ReadError::Stopped("told".into()));
        let joined = flights.join(1, &tasks, stopped, |to| async move { drop(to) });
        let answer = joined.flight.await;
        assert!(matches!(answer, Err(ReadError::Stopped(why)) if why == "told"));
    }
}
