//! The suite that every [`BlobStore`] must pass: each promise of the trait, checked from outside.
//!
//! A broken promise panics with what was broken. The suite works below a folder of its own and
//! removes what it wrote.

#![expect(
    clippy::panic,
    reason = "a broken promise fails the test that runs the suite"
)]

mod objects;
mod races;

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::{BlobStore, Key, ObjectInfo, StoreError};

/// Largest body that the suite reads whole, in bytes.
const LIMIT: u64 = 1 << 20;
/// Requests that prepare or clean up, under way at once.
const PREPARING_MAX: usize = 16;

/// How much of the suite to run; real servers are slow at some of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConformanceOptions {
    /// Folder that the suite works in; must be empty.
    pub folder: String,
    /// Callers that race in each round.
    pub racers: usize,
    /// Rounds of each kind of race.
    pub rounds: usize,
    /// Objects in the large listing; S3 returns at most 1,000 at once.
    pub list_objects: usize,
    /// Length of the body that is larger than one buffer, in bytes.
    pub large_body_bytes: usize,
}

impl Default for ConformanceOptions {
    fn default() -> Self {
        Self {
            folder: "conformance".to_owned(),
            racers: 32,
            rounds: 8,
            list_objects: 1100,
            large_body_bytes: 9 << 20,
        }
    }
}

/// Runs the whole suite against `store`.
///
/// # Panics
/// When the store breaks a promise.
pub async fn conformance(store: Arc<dyn BlobStore>) {
    conformance_with(store, &ConformanceOptions::default()).await;
}

/// Runs the suite against `store`, as `options` say.
///
/// # Panics
/// When the store breaks a promise.
pub async fn conformance_with(store: Arc<dyn BlobStore>, options: &ConformanceOptions) {
    let suite = Suite {
        store,
        options: options.clone(),
    };
    assert!(
        suite.list("").await.is_empty(),
        "the folder {:?} is not empty",
        options.folder
    );
    suite.absent_objects().await;
    suite.puts_and_gets().await;
    suite.ranges().await;
    suite.parts().await;
    suite.keys().await;
    suite.large_body().await;
    suite.creates_and_replaces().await;
    suite.deletes().await;
    suite.listings().await;
    suite.creators_race().await;
    suite.replacers_race().await;
    suite.counters_race().await;
    suite.clean_up("").await;
}

struct Suite {
    store: Arc<dyn BlobStore>,
    options: ConformanceOptions,
}

impl Suite {
    fn key(&self, name: &str) -> Key {
        Key::new(format!("{}/{name}", self.options.folder)).expect("a valid key")
    }

    async fn put(&self, name: &str, body: impl Into<Bytes>) -> Key {
        let key = self.key(name);
        self.store.put(&key, body.into()).await.expect("put");
        key
    }

    async fn read(&self, key: &Key) -> Bytes {
        self.store.get(key, LIMIT).await.expect("get").0
    }

    /// Lists the objects below a folder of the suite's, sorted by key.
    async fn list(&self, folder: &str) -> Vec<ObjectInfo> {
        let folder = match folder {
            "" => self.options.folder.clone(),
            folder => format!("{}/{folder}", self.options.folder),
        };
        let listing = self.store.list(&folder).try_collect::<Vec<_>>().await;
        let mut objects = listing.expect("list");
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects
    }

    async fn clean_up(&self, folder: &str) {
        let objects = self.list(folder).await;
        futures::stream::iter(&objects)
            .for_each_concurrent(PREPARING_MAX, |object| async {
                self.store.delete(&object.key).await.expect("delete");
            })
            .await;
        assert_eq!(
            self.list(folder).await,
            [],
            "deleted objects are still listed"
        );
    }
}

/// Checks that `outcome` is the error of the given pattern.
macro_rules! assert_error {
    ($outcome:expr, $pattern:pat $(if $guard:expr)?) => {
        match $outcome {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}
use assert_error;
