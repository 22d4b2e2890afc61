//! Promises to callers that race.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use super::{LIMIT, StoreError, Suite};
use crate::{BlobStore, Key, Version};

impl Suite {
    /// Of racing creators exactly one succeeds, and its bytes are there.
    pub(super) async fn creators_race(&self) {
        for round in 0..self.options.rounds {
            let key = self.key(&format!("race/created-{round}"));
            let racers = self.race(round, &key, |store, key, body| {
                tokio::spawn(async move { store.create(&key, body).await })
            });
            let winner = one_winner(racers.await, &key);
            assert_eq!(self.store.get(&key, LIMIT).await.expect("get"), winner);
        }
    }

    /// Of racing replacers of one version exactly one succeeds, and its bytes are there.
    pub(super) async fn replacers_race(&self) {
        let key = self.key("race/replaced");
        let mut version = self
            .store
            .create(&key, "start".into())
            .await
            .expect("create");
        for round in 0..self.options.rounds {
            let expected = version.clone();
            let racers = self.race(round, &key, |store, key, body| {
                let expected = expected.clone();
                tokio::spawn(async move { store.replace(&key, body, &expected).await })
            });
            let winner = one_winner(racers.await, &key);
            assert_eq!(self.store.get(&key, LIMIT).await.expect("get"), winner);
            version = winner.1;
        }
    }

    /// Callers that each count one up, and try again when somebody was faster, lose no count.
    pub(super) async fn counters_race(&self) {
        let key = self.key("race/counter");
        self.store.create(&key, "0".into()).await.expect("create");
        let counters = (0..self.options.racers).map(|_| {
            let (store, key) = (Arc::clone(&self.store), key.clone());
            tokio::spawn(async move { count_up(&*store, &key).await })
        });
        for counter in join_all(counters).await {
            counter.expect("a counter panicked");
        }
        assert_eq!(
            self.read(&key).await,
            self.options.racers.to_string(),
            "a count was lost"
        );
    }

    /// Starts all racers, each with bytes of its own, and returns how each of them ended.
    async fn race(
        &self,
        round: usize,
        key: &Key,
        start: impl Fn(
            Arc<dyn BlobStore>,
            Key,
            Bytes,
        ) -> tokio::task::JoinHandle<Result<Version, StoreError>>,
    ) -> Vec<(Bytes, Result<Version, StoreError>)> {
        let bodies = (0..self.options.racers)
            .map(|racer| Bytes::from(format!("racer {racer} in round {round}")));
        let running: Vec<_> = bodies
            .map(|body| {
                (
                    body.clone(),
                    start(Arc::clone(&self.store), key.clone(), body),
                )
            })
            .collect();
        let mut ended = Vec::new();
        for (body, racer) in running {
            ended.push((body, racer.await.expect("a racer panicked")));
        }
        ended
    }
}

async fn count_up(store: &dyn BlobStore, key: &Key) {
    loop {
        let (bytes, version) = store.get(key, LIMIT).await.expect("get the counter");
        let text = std::str::from_utf8(&bytes).expect("digits");
        let count: usize = text.parse().expect("a number");
        match store
            .replace(key, (count + 1).to_string().into(), &version)
            .await
        {
            Ok(_) => return,
            Err(StoreError::Conflict(_)) => {}
            Err(error) => panic!("replace the counter: {error}"),
        }
    }
}

fn one_winner(ended: Vec<(Bytes, Result<Version, StoreError>)>, key: &Key) -> (Bytes, Version) {
    let mut winners = Vec::new();
    for (body, outcome) in ended {
        match outcome {
            Ok(version) => winners.push((body, version)),
            Err(StoreError::Exists(k) | StoreError::Conflict(k)) => assert_eq!(k, *key),
            Err(error) => panic!("a racer for {key} ended with {error}"),
        }
    }
    assert_eq!(winners.len(), 1, "racers that won {key}: {winners:?}");
    winners.swap_remove(0)
}
