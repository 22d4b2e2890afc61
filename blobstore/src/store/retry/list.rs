//! Repeating a listing that broke off in the middle.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{Attempts, Shared};
use crate::store::{BlobStore, Key, ObjectInfo, StoreError};

/// What is known of a listing under way.
struct Listing {
    inner: Arc<dyn BlobStore>,
    shared: Arc<Shared>,
    prefix: String,
    objects: BoxStream<'static, Result<ObjectInfo, StoreError>>,
    /// Hashes of the keys told so far. Store listings have no order in common to go on from.
    told: HashSet<u128>,
}

pub(super) fn list(
    inner: Arc<dyn BlobStore>,
    shared: Arc<Shared>,
    prefix: &str,
) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
    let objects = inner.list(prefix);
    let prefix = prefix.to_owned();
    let listing = Listing {
        inner,
        shared,
        prefix,
        objects,
        told: HashSet::new(),
    };
    stream::try_unfold(listing, |mut listing| async move {
        Ok(listing.next().await?.map(|object| (object, listing)))
    })
    .boxed()
}

impl Listing {
    /// Returns the next object that was not told yet.
    async fn next(&mut self) -> Result<Option<ObjectInfo>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let mut attempts = Attempts::start(&shared);
        loop {
            let object = tokio::select! {
                biased;
                object = self.objects.next() => object,
                () = attempts.deadline() => return Err(self.timed_out()),
            };
            match object {
                Some(Ok(object)) if self.told.insert(hash(&object.key)) => return Ok(Some(object)),
                Some(Ok(_)) => {}
                Some(Err(error)) if error.is_retryable() => {
                    attempts.wait(error).await?;
                    self.objects = self.inner.list(&self.prefix);
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(None),
            }
        }
    }

    fn timed_out(&self) -> StoreError {
        let seconds = self.shared.policy.deadline.as_secs();
        StoreError::unavailable(
            "list",
            &self.prefix,
            format!("no answer within {seconds} s"),
        )
    }
}

/// Half a BLAKE3: two keys never share it.
fn hash(key: &Key) -> u128 {
    let hash = blake3::hash(key.as_str().as_bytes());
    let (half, _) = hash.as_bytes().split_at(16);
    half.iter()
        .fold(0, |hash, byte| hash << 8 | u128::from(*byte))
}
