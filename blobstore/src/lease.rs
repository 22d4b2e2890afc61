//! Leases: time-bounded holds in the store, with a fencing token.
//!
//! Whoever relies on chunks that are already in the store holds a lease while doing so; collection
//! deletes nothing that it condemned while a lease that is older than that is live. A name that is
//! taken over after its expiry gets a larger token, so that a late holder can be told from the
//! present one.
//!
//! ```text
//! leases/NAME: envelope "LEAS": token u64 | acquired u64 | expires u64 | holder bytes
//! ```
//! Times are milliseconds since 1970 by the holder's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use tokio::task::JoinHandle;

use crate::envelope::{self, EnvelopeError};
use crate::wire::{Put, Truncated, Wire};
use crate::{BlobStore, Clock, Key, StoreError, Version};

/// The folder of all leases in a store.
pub(crate) const LEASES_FOLDER: &str = "leases";
const LEASE_BYTES_MAX: u64 = 4096;
const HOLDER_BYTES_MAX: usize = 1024;
/// How long a lease holds without being renewed.
pub const LEASE_TTL: Duration = Duration::from_secs(120);
/// Clocks of nodes may differ by this much; an expired lease is respected for as long.
pub(crate) const CLOCK_SKEW_MAX_MS: u64 = 30_000;

/// Why a lease was not had, or was lost.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Someone else has it.
    #[error("lease {name} is held by {holder}")]
    Held {
        /// The lease.
        name: String,
        /// Who holds it.
        holder: String,
    },
    /// It could not be renewed in time; what was done under it since may be undone.
    #[error("lease {name} was lost")]
    Lost {
        /// The lease.
        name: String,
    },
    /// The object is damaged or of a later version.
    #[error("lease {name}: {source}")]
    Envelope {
        /// The lease.
        name: String,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// The store failed.
    #[error("lease {name}: {source}")]
    Store {
        /// The lease.
        name: String,
        /// The store's error.
        source: StoreError,
    },
}

/// What the object of a lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Grows with each holder of the name.
    pub token: u64,
    /// When this holder got it, in milliseconds since 1970.
    pub acquired_ms: u64,
    /// When it ends unless renewed, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Who holds it, for people.
    pub holder: String,
}

impl LeaseRecord {
    /// Encodes the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u64(self.token);
        body.put_u64(self.acquired_ms);
        body.put_u64(self.expires_ms);
        body.put_bytes(self.holder.as_bytes());
        envelope::seal(*b"LEAS", &body).1
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`EnvelopeError`] for damage or a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (_, body) = envelope::open(*b"LEAS", bytes)?;
        let mut wire = Wire::new(body);
        let (token, acquired_ms, expires_ms) = (wire.u64()?, wire.u64()?, wire.u64()?);
        let holder = wire.bytes(HOLDER_BYTES_MAX)?;
        let holder = String::from_utf8(holder.to_vec()).map_err(|_| Truncated("holder"))?;
        wire.finish()?;
        Ok(Self {
            token,
            acquired_ms,
            expires_ms,
            holder,
        })
    }

    /// Tells whether others must still respect the lease at `now_ms` by their clock.
    pub const fn is_live(&self, now_ms: u64) -> bool {
        now_ms < self.expires_ms.saturating_add(CLOCK_SKEW_MAX_MS)
    }
}

/// A held lease; renews itself until released. Dropped without release, it expires by itself.
#[derive(Debug)]
pub struct Lease {
    name: String,
    token: u64,
    store: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    state: Arc<State>,
    renewal: JoinHandle<()>,
}

/// What the renewal tells the holder.
#[derive(Debug)]
struct State {
    lost: AtomicBool,
    expires_ms: AtomicU64,
}

impl Lease {
    /// Takes the lease `name`, or takes it over when it has expired. Must be called in a runtime.
    ///
    /// # Errors
    /// [`LeaseError::Held`] while another holder's is live.
    pub async fn acquire(
        store: Arc<dyn BlobStore>,
        clock: Arc<dyn Clock>,
        name: &str,
        holder: &str,
    ) -> Result<Self, LeaseError> {
        let failed = |source| LeaseError::Store {
            name: name.to_owned(),
            source,
        };
        let key = Key::new(format!("{LEASES_FOLDER}/{name}")).map_err(failed)?;
        let held = |holder: &str| LeaseError::Held {
            name: name.into(),
            holder: holder.into(),
        };
        let mut record = LeaseRecord {
            token: 1,
            acquired_ms: clock.now_ms(),
            expires_ms: expiry(&*clock),
            holder: holder.into(),
        };
        let version = match store.create(&key, record.encode().into()).await {
            Ok(version) => version,
            Err(StoreError::Exists(_)) => {
                let (bytes, seen) = store.get(&key, LEASE_BYTES_MAX).await.map_err(failed)?;
                let envelope = |source| LeaseError::Envelope {
                    name: name.into(),
                    source,
                };
                let old = LeaseRecord::decode(&bytes).map_err(envelope)?;
                if old.is_live(clock.now_ms()) {
                    return Err(held(&old.holder));
                }
                record.token = old.token.saturating_add(1);
                match store.replace(&key, record.encode().into(), &seen).await {
                    Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => {
                        return Err(held("someone who was faster"));
                    }
                    replaced => replaced.map_err(failed)?,
                }
            }
            Err(source) => return Err(failed(source)),
        };
        let state = Arc::new(State {
            lost: AtomicBool::new(false),
            expires_ms: AtomicU64::new(record.expires_ms),
        });
        let token = record.token;
        let renewal = Renewal {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            key,
            record,
            version,
        };
        let renewal = tokio::spawn(renewal.run(Arc::clone(&state)));
        Ok(Self {
            name: name.to_owned(),
            token,
            store,
            clock,
            state,
            renewal,
        })
    }

    /// Returns the fencing token.
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// Says whether the lease still holds. To be asked right before a ref is changed.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] when it could not be renewed in time, also when that is because this
    /// process did not run.
    pub fn check(&self) -> Result<(), LeaseError> {
        let expired = self.clock.now_ms() >= self.state.expires_ms.load(Ordering::Acquire);
        if expired || self.state.lost.load(Ordering::Acquire) {
            Err(LeaseError::Lost {
                name: self.name.clone(),
            })
        } else {
            Ok(())
        }
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// [`LeaseError::Store`]; the lease then expires by itself.
    pub async fn release(self) -> Result<(), LeaseError> {
        self.renewal.abort();
        let failed = |source| LeaseError::Store {
            name: self.name.clone(),
            source,
        };
        let key = Key::new(format!("{LEASES_FOLDER}/{}", self.name)).map_err(failed)?;
        if self.state.lost.load(Ordering::Acquire) {
            return Ok(());
        }
        self.store.delete(&key).await.map_err(failed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// The task that keeps a lease alive.
struct Renewal {
    store: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    key: Key,
    record: LeaseRecord,
    version: Version,
}

impl Renewal {
    async fn run(mut self, state: Arc<State>) {
        loop {
            self.clock.sleep(LEASE_TTL / 4).await;
            // One that has expired is not to be revived: it protected nothing meanwhile.
            if self.clock.now_ms() >= self.record.expires_ms {
                tracing::error!(key = %self.key, "lost lease");
                state.lost.store(true, Ordering::Release);
                return;
            }
            let renewed = LeaseRecord {
                expires_ms: expiry(&*self.clock),
                ..self.record.clone()
            };
            let body = renewed.encode().into();
            match self.store.replace(&self.key, body, &self.version).await {
                Ok(version) => {
                    state
                        .expires_ms
                        .store(renewed.expires_ms, Ordering::Release);
                    (self.record, self.version) = (renewed, version);
                }
                Err(error)
                    if error.is_retryable() && self.clock.now_ms() < self.record.expires_ms =>
                {
                    tracing::warn!(key = %self.key, %error, "could not renew lease");
                }
                Err(error) => {
                    tracing::error!(key = %self.key, %error, "lost lease");
                    state.lost.store(true, Ordering::Release);
                    return;
                }
            }
        }
    }
}

/// Returns the leases that are in a store, live or not, by name. One that is released or taken
/// over meanwhile may be among them or not.
///
/// # Errors
/// [`LeaseError`] when the store fails or a lease is damaged.
pub async fn list_leases(store: &dyn BlobStore) -> Result<Vec<(String, LeaseRecord)>, LeaseError> {
    let prefix_len = LEASES_FOLDER.len() + 1;
    let mut objects = store.list(LEASES_FOLDER);
    let mut leases = Vec::new();
    loop {
        let object = match objects.try_next().await {
            Ok(Some(object)) => object,
            Ok(None) => break,
            Err(source) => {
                let name = "*".to_owned();
                return Err(LeaseError::Store { name, source });
            }
        };
        let name = object.key.as_str().get(prefix_len..).unwrap_or_default();
        let name = name.to_owned();
        let bytes = match store.get(&object.key, LEASE_BYTES_MAX).await {
            Ok((bytes, _)) => bytes,
            Err(StoreError::NotFound(_)) => continue,
            Err(source) => return Err(LeaseError::Store { name, source }),
        };
        match LeaseRecord::decode(&bytes) {
            Ok(record) => leases.push((name, record)),
            Err(source) => return Err(LeaseError::Envelope { name, source }),
        }
    }
    leases.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(leases)
}

fn expiry(clock: &dyn Clock) -> u64 {
    clock.now_ms().saturating_add(millis(LEASE_TTL))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
