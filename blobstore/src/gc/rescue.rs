//! The writers' side of collection: making sure, right before a ref is changed, that all its record
//! names is there and stays.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};

use super::GcError;
use super::condemned::{self, Collected, Note, Noted};
use super::epoch::{Epoch, read_epoch};
use super::moved::Moves;
use super::sweep::DOOM_ENDS_MS;
use crate::{BlobStore, Clock, Key, Record, RecordId, StoreError};

/// How long what [`secure`] found may be relied on. Less than any sensible hold.
pub const SECURED_FOR: Duration = Duration::from_secs(60);
/// How long a writer waits for a collector that is deleting what it needs.
const DOOMED_WAIT: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const DOOMED_POLL: Duration = Duration::from_millis(500);
/// Times that other writers may change a note first.
const ATTEMPTS_MAX: usize = 64;
/// Objects that are looked for at once at most.
const LOOKS_MAX: usize = 32;

/// Why a record may not be named by a ref.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// Something that it names was deleted since it was found. Bring the index up to date, and
    /// store again what is missing.
    #[error("{0} was collected meanwhile")]
    Gone(Key),
    /// A collector is deleting something that it names, or died while doing so. It is over after
    /// some minutes.
    #[error("{0} is being collected")]
    Busy(Key),
    /// Too much time has passed since it was looked at.
    #[error("took too long to change the ref")]
    Late,
    /// The notes or the store cannot be read or changed.
    #[error(transparent)]
    Gc(#[from] GcError),
}

impl From<StoreError> for SecureError {
    fn from(error: StoreError) -> Self {
        Self::Gc(error.into())
    }
}

/// Says that a record may be named by a ref, for [`SECURED_FOR`].
#[derive(Debug, Clone, Copy)]
pub struct Secured {
    until: Duration,
}

impl Secured {
    /// Says whether that still holds. To be asked right before the ref is changed.
    ///
    /// # Errors
    /// [`SecureError::Late`] when it does not.
    pub fn check(&self, clock: &dyn Clock) -> Result<(), SecureError> {
        if clock.elapsed() < self.until {
            Ok(())
        } else {
            Err(SecureError::Late)
        }
    }
}

/// Makes sure that a stored record, the packs that it needs and its metadata images are there and
/// that no collector deletes them before a ref names the record: takes them off the notes of what
/// is condemned.
///
/// `since` was read before the caller looked what is in the store; `None` when it did not look, and
/// each object is looked for. The caller holds a lease that it acquired before that. Costs two requests, one for each note, and one or two for each
/// object when a collector deleted anything since.
///
/// # Errors
/// [`SecureError`]. No ref may then be changed to name the record.
pub async fn secure(
    store: &dyn BlobStore,
    clock: &dyn Clock,
    id: RecordId,
    record: &Record,
    since: Option<Epoch>,
) -> Result<Secured, SecureError> {
    secure_needs(store, clock, &Needs::Record(id, record), since).await
}

/// Does for stored objects what [`secure`] does for a record.
pub(super) async fn secure_objects(
    store: &dyn BlobStore,
    clock: &dyn Clock,
    objects: &BTreeSet<Collected>,
) -> Result<Secured, SecureError> {
    secure_needs(store, clock, &Needs::Objects(objects), None).await
}

/// What must stay.
enum Needs<'a> {
    /// A record, with what it needs as the notes of what moved tell now.
    Record(RecordId, &'a Record),
    Objects(&'a BTreeSet<Collected>),
}

async fn secure_needs(
    store: &dyn BlobStore,
    clock: &dyn Clock,
    needs: &Needs<'_>,
    since: Option<Epoch>,
) -> Result<Secured, SecureError> {
    let started = clock.elapsed();
    let mut attempts = 0;
    loop {
        let looked = clock.elapsed();
        let Noted { notes, moved } = condemned::read_noted(store).await?;
        let needs = match needs {
            Needs::Objects(objects) => (*objects).clone(),
            Needs::Record(id, record) => {
                // After the other notes: a record that is taken off these is on one of those
                // before.
                let moves = Moves::read_for(store, &moved, &record.packs).await?;
                Collected::of_record(*id, record, &moves)
            }
        };
        match take_off_notes(store, clock, notes, &needs).await? {
            Outcome::Free => {
                // After the notes were read: whoever deleted something has advanced the epoch
                // before it took that off its note.
                let epoch = read_epoch(store).await?;
                if since.is_none_or(|since| !since.nothing_deleted_until(epoch)) {
                    look_for(store, &needs).await?;
                }
                let until = looked + SECURED_FOR;
                return Ok(Secured { until });
            }
            Outcome::Doomed(key) if clock.elapsed() >= started + DOOMED_WAIT => {
                return Err(SecureError::Busy(key));
            }
            Outcome::Doomed(_) => clock.sleep(DOOMED_POLL).await,
            Outcome::Raced(key) => {
                attempts += 1;
                if attempts > ATTEMPTS_MAX {
                    return Err(SecureError::Busy(key));
                }
            }
        }
    }
}

enum Outcome {
    /// No note has any of the objects.
    Free,
    /// A collector is deleting one of them.
    Doomed(Key),
    /// Someone changed a note first.
    Raced(Key),
}

async fn take_off_notes(
    store: &dyn BlobStore,
    clock: &dyn Clock,
    notes: Vec<Note>,
    needs: &BTreeSet<Collected>,
) -> Result<Outcome, SecureError> {
    for mut note in notes {
        let Some(needed) = needs.intersection(&note.says.objects).next() else {
            continue;
        };
        if is_doomed(&note, clock.now_ms()) {
            let key = needed.keys().pop().unwrap_or(note.key);
            return Ok(Outcome::Doomed(key));
        }
        note.says.objects.retain(|object| !needs.contains(object));
        if !note.replace(store).await? {
            return Ok(Outcome::Raced(note.key));
        }
    }
    Ok(Outcome::Free)
}

/// Tells whether a collector may be deleting what is on a note.
fn is_doomed(note: &Note, now_ms: u64) -> bool {
    let doomed_ms = note.says.doomed_ms;
    doomed_ms.is_some_and(|at| now_ms < at.saturating_add(DOOM_ENDS_MS))
}

/// Checks that all objects are there with all their parts.
async fn look_for(store: &dyn BlobStore, objects: &BTreeSet<Collected>) -> Result<(), SecureError> {
    let keys = objects.iter().flat_map(Collected::keys);
    let mut looks = stream::iter(keys)
        .map(|key| async move { (store.size(&key).await, key) })
        .buffer_unordered(LOOKS_MAX);
    while let Some((size, key)) = looks.next().await {
        match size {
            Ok(_) => {}
            Err(StoreError::NotFound(_)) => return Err(SecureError::Gone(key)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
