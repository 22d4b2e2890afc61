//! A store over any `object_store::ObjectStore`: S3, GCS, Azure, memory.
//!
//! Translates; adds nothing but the promises of [`BlobStore`] that `object_store` leaves open:
//! bodies are bounded before they are read, ranges are exact, deletes are idempotent. Retries are
//! the business of [`RetryStore`](super::RetryStore), so clients are built with theirs turned off.
//!
//! Every object is written by one PUT. The largest are packs of 64 MiB, far below the 5 GB that S3
//! takes at once, and one PUT is what makes an object appear wholly or not at all.

mod patience;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Error, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutResult, UpdateVersion,
};

use super::{BlobStore, Key, ObjectInfo, StoreError, Version, check_prefix};
use crate::Clock;
use patience::Patience;

/// S3's answer (with status 409) to a conditional PUT that met another one under way: nothing was
/// decided, the caller should try again.
const UNDECIDED: &str = "ConditionalRequestConflict";

/// No range that is asked for ends later: servers keep offsets in 64 bits with a sign, and answer
/// 416 to what they cannot parse (`SeaweedFS`).
const END_MAX: u64 = i64::MAX.unsigned_abs();

/// A [`BlobStore`] over an object store client. A version is the object's `ETag` and, where the
/// store has one (GCS compares only that), its generation.
#[derive(Debug)]
pub struct ObjectBackend {
    store: PrefixStore<Arc<dyn ObjectStore>>,
    patience: Option<Patience>,
}

impl ObjectBackend {
    /// Stores objects below the folder `prefix` of `store`; an empty prefix is its root.
    ///
    /// # Errors
    /// [`StoreError::InvalidKey`] for a prefix that is no [`Key`].
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self, StoreError> {
        check_prefix(prefix)?;
        Ok(Self {
            store: PrefixStore::new(store, path(prefix)?),
            patience: None,
        })
    }

    /// Waits in vain for no more than a part of `deadline`, which a call may take. A request for bytes
    /// or a size that nobody answers is made again, after 2 seconds or an eighth of it and then each
    /// time after twice the time before; at most two of a call are under way. An answer that has begun
    /// is awaited, however slow, unless nothing of it comes for a quarter of `deadline`: that is an
    /// error, which may pass.
    pub fn with_deadline(mut self, clock: Arc<dyn Clock>, deadline: Duration) -> Self {
        self.patience = Some(Patience::new(clock, deadline));
        self
    }

    /// Makes an empty store in memory.
    pub fn memory() -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        Self {
            store: PrefixStore::new(store, Path::ROOT),
            patience: None,
        }
    }

    /// Asks for an object, as often as it takes to be answered.
    async fn ask(
        &self,
        key: &Key,
        options: GetOptions,
    ) -> Result<object_store::Result<GetResult>, StoreError> {
        let location = path(key.as_str())?;
        let ask = || self.store.get_opts(&location, options.clone());
        Ok(match &self.patience {
            Some(patience) => patience.answer(ask).await,
            None => ask().await,
        })
    }

    /// Reads a body of exactly `expected` bytes. A body of any other length was cut off on the
    /// way, as its length was announced; that may pass.
    async fn collect(
        &self,
        call: Call<'_>,
        result: GetResult,
        expected: u64,
    ) -> Result<Bytes, StoreError> {
        let mut body = result.into_stream();
        let mut parts = Vec::new();
        let mut actual = 0_u64;
        loop {
            let next = match &self.patience {
                Some(patience) => patience.part(body.try_next()).await,
                None => Some(body.try_next().await),
            };
            let Some(next) = next else {
                let cause = format!("nothing comes after {actual} of {expected} bytes");
                return Err(StoreError::unavailable(call.verb, call.key, cause));
            };
            let Some(part) = next.map_err(|error| call.error(error))? else {
                break;
            };
            actual += part.len() as u64;
            if actual > expected {
                break;
            }
            parts.push(part);
        }
        if actual != expected {
            let cause = format!("body has {actual} bytes where {expected} were announced");
            return Err(StoreError::unavailable(call.verb, call.key, cause));
        }
        Ok(join(parts))
    }

    async fn write(
        &self,
        call: Call<'_>,
        body: Bytes,
        mode: PutMode,
    ) -> Result<Version, StoreError> {
        let conditional = matches!(mode, PutMode::Update(_));
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        let location = path(call.key.as_str())?;
        let result = self.store.put_opts(&location, body.into(), options).await;
        match result {
            Ok(PutResult { e_tag, version, .. }) => Ok(to_version(e_tag, version)),
            // Only the bucket can be missing here: `replace` answers for the object.
            Err(error @ Error::NotFound { .. }) if !conditional => Err(StoreError::Unsupported(
                format!("{} {}: {error}", call.verb, call.key),
            )),
            Err(error) => Err(call.error(error)),
        }
    }
}

#[async_trait::async_trait]
impl BlobStore for ObjectBackend {
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Version), StoreError> {
        let call = Call { verb: "get", key };
        let result = self.ask(key, GetOptions::new()).await?;
        let result = result.map_err(|e| call.error(e))?;
        let actual = result.meta.size;
        if actual > limit_bytes {
            return Err(call.size(limit_bytes, actual));
        }
        let version = to_version(result.meta.e_tag.clone(), result.meta.version.clone());
        Ok((self.collect(call, result, actual).await?, version))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let call = Call {
            verb: "get range of",
            key,
        };
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
        match self.ask(key, options).await? {
            Ok(result) if result.range == range => {
                self.collect(call, result, range.end - range.start).await
            }
            Ok(result) => Err(call.size(range.end, result.meta.size)),
            // A range that starts past the end is an error without a kind of its own.
            Err(error @ Error::Generic { .. }) => match self.size(key).await {
                Ok(actual) if actual < range.end => Err(call.size(range.end, actual)),
                _ => Err(call.error(error)),
            },
            Err(error) => Err(call.error(error)),
        }
    }

    async fn get_part(&self, key: &Key, range: Range<u64>) -> Result<(Bytes, u64), StoreError> {
        let call = Call {
            verb: "get part of",
            key,
        };
        // One byte at least: HTTP has no empty ranges. And no end that a server may fail to parse.
        let asked = range.start..range.end.min(END_MAX).max(range.start.saturating_add(1));
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(asked.clone())));
        match self.ask(key, options).await? {
            Ok(result) => {
                let (given, actual) = (result.range.clone(), result.meta.size);
                if given.start != asked.start || given.end != asked.end.min(actual) {
                    let cause = format!("bytes {given:?} of {actual} came for {asked:?}");
                    return Err(StoreError::unavailable(call.verb, key, cause));
                }
                let mut body = self.collect(call, result, given.end - given.start).await?;
                if range.is_empty() {
                    body.clear();
                }
                Ok((body, actual))
            }
            // A range that starts past the end is an error without a kind of its own.
            Err(error @ Error::Generic { .. }) => match self.size(key).await {
                Ok(actual) if actual <= asked.start => Err(call.size(asked.start + 1, actual)),
                _ => Err(call.error(error)),
            },
            Err(error) => Err(call.error(error)),
        }
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        let call = Call {
            verb: "get size of",
            key,
        };
        let answer = self.ask(key, GetOptions::new().with_head(true)).await?;
        Ok(answer.map_err(|error| call.error(error))?.meta.size)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.write(Call { verb: "put", key }, body, PutMode::Overwrite)
            .await
            .map(drop)
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Version, StoreError> {
        self.write(
            Call {
                verb: "create",
                key,
            },
            body,
            PutMode::Create,
        )
        .await
    }

    async fn replace(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, StoreError> {
        let mode = PutMode::Update(to_update_version(expected));
        match self
            .write(
                Call {
                    verb: "replace",
                    key,
                },
                body,
                mode,
            )
            .await
        {
            Err(StoreError::NotFound(key) | StoreError::Exists(key)) => {
                Err(StoreError::Conflict(key))
            }
            outcome => outcome,
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.store.delete(&path(key.as_str())?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Call {
                verb: "delete",
                key,
            }
            .error(error)),
        }
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let location = match check_prefix(prefix).and_then(|()| path(prefix)) {
            Ok(location) => location,
            Err(error) => return futures::stream::iter([Err(error)]).boxed(),
        };
        let prefix = prefix.to_owned();
        self.store
            .list(Some(&location))
            .map_err(move |error| translate("list", &prefix, None, error))
            .try_filter_map(|meta| std::future::ready(Ok(to_info(meta))))
            .boxed()
    }
}

/// What is being done to which object, for errors.
#[derive(Clone, Copy)]
struct Call<'a> {
    verb: &'static str,
    key: &'a Key,
}

impl Call<'_> {
    fn error(self, error: Error) -> StoreError {
        translate(self.verb, self.key.as_str(), Some(self.key), error)
    }

    fn size(self, expected: u64, actual: u64) -> StoreError {
        StoreError::Size {
            key: self.key.clone(),
            expected,
            actual,
        }
    }
}

/// Joins the parts of a body; a single part is not copied.
fn join(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 {
        return parts.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}

fn path(text: &str) -> Result<Path, StoreError> {
    Path::parse(text).map_err(|_| StoreError::InvalidKey(text.to_owned()))
}

/// `None` for a name that is no key: someone else's object.
fn to_info(meta: ObjectMeta) -> Option<ObjectInfo> {
    let key = Key::new(String::from(meta.location)).ok()?;
    let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
    Some(ObjectInfo {
        key,
        size_bytes: meta.size,
        modified_ms,
    })
}

/// Neither part can hold a line feed: both come from HTTP headers.
fn to_version(e_tag: Option<String>, generation: Option<String>) -> Version {
    Version(format!(
        "{}\n{}",
        e_tag.unwrap_or_default(),
        generation.unwrap_or_default()
    ))
}

fn to_update_version(version: &Version) -> UpdateVersion {
    let (e_tag, generation) = version.0.split_once('\n').unwrap_or((&version.0, ""));
    let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    UpdateVersion {
        e_tag: part(e_tag),
        version: part(generation),
    }
}

/// Translates an error of `operation` on `target`, which is `key` if it is one object.
fn translate(operation: &'static str, target: &str, key: Option<&Key>, error: Error) -> StoreError {
    match (error, key) {
        (Error::AlreadyExists { source, .. } | Error::Precondition { source, .. }, _)
            if source.to_string().contains(UNDECIDED) =>
        {
            StoreError::unavailable(operation, target, source)
        }
        (Error::NotFound { .. }, Some(key)) => StoreError::NotFound(key.clone()),
        (Error::AlreadyExists { .. }, Some(key)) => StoreError::Exists(key.clone()),
        (Error::Precondition { .. }, Some(key)) => StoreError::Conflict(key.clone()),
        (error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }), _) => {
            StoreError::Denied(format!("{target}: {error}"))
        }
        (
            error @ (Error::NotImplemented { .. }
            | Error::NotSupported { .. }
            | Error::InvalidPath { .. }
            | Error::UnknownConfigurationKey { .. }),
            _,
        ) => StoreError::Unsupported(format!("{operation} {target}: {error}")),
        (error, _) => StoreError::unavailable(operation, target, error),
    }
}

#[cfg(test)]
mod tests;
