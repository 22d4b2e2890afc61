//! The snapshots' records on the disk, and the one place of this crate that names `rocksdb`.
//!
//! ```text
//! name of the snapshot -> record
//! ```
//! All changes go through one thread, which writes those that wait together and syncs them once
//! (group commit). They are written in the order in which they were handed over. When a write
//! fails, all that were handed over after it fail, too, until [`SnapshotIndex::reload`]: none of
//! them was made on top of what the disk has.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rocksdb::{DB, DBCompressionType, IteratorMode, Options, WriteBatch, WriteOptions};
use tokio::sync::oneshot;

use super::error::SnapshotsError;

/// Changes that may wait to be written.
const QUEUE_MAX: usize = 4096;
/// Changes that are written at once at most.
const GROUP_MAX: usize = 512;
/// Memory for records that are not yet in a table, in bytes.
const WRITE_BUFFER_BYTES: usize = 4 << 20;
/// Memory for cached blocks, in bytes: records are read at the start only.
const BLOCK_CACHE_BYTES: usize = 1 << 20;
/// Logs that are written over instead of being made anew.
const LOGS_RECYCLED: usize = 2;
/// Files that are kept open at most.
const OPEN_FILES_MAX: i32 = 64;

/// What to do with the record of a name.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(String, Vec<u8>),
    Delete(String),
}

/// Told when a change is durable.
pub(super) type Written = oneshot::Receiver<Result<(), SnapshotsError>>;

enum Message {
    Write(Vec<Change>, oneshot::Sender<Result<(), SnapshotsError>>),
    Reload(oneshot::Sender<Result<Vec<Row>, SnapshotsError>>),
    /// Writes nothing until the other end is gone.
    #[cfg(test)]
    Hold(Receiver<()>),
}

/// A name and its record, encoded.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// The index.
#[derive(Debug)]
pub(super) struct SnapshotIndex {
    /// `None` once it is closed.
    queue: Mutex<Option<SyncSender<Message>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SnapshotIndex {
    /// Opens the index in the folder `path`, or makes an empty one.
    pub(super) fn open(path: &Path) -> Result<Self, SnapshotsError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_keep_log_file_num(2);
        // A sync of a log that grows writes its length, too.
        options.set_recycle_log_file_num(LOGS_RECYCLED);
        options.set_compression_type(DBCompressionType::None);
        let mut table = rocksdb::BlockBasedOptions::default();
        table.set_block_cache(&rocksdb::Cache::new_lru_cache(BLOCK_CACHE_BYTES));
        options.set_block_based_table_factory(&table);
        let db = DB::open(&options, path).map_err(|error| failed("open", &error))?;
        let (queue, messages) = sync_channel(QUEUE_MAX);
        let writer = std::thread::Builder::new()
            .name("snapshots".to_owned())
            .spawn(move || write_all(&Arc::new(db), &messages))
            .map_err(|error| SnapshotsError::disk("start a thread", &error))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Hands changes over, to be written together. Never waits.
    ///
    /// # Errors
    /// [`SnapshotsError::Unavailable`] when too many wait.
    pub(super) fn hand_over(&self, changes: Vec<Change>) -> Result<Written, SnapshotsError> {
        let (done, written) = oneshot::channel();
        self.send(Message::Write(changes, done))?;
        Ok(written)
    }

    /// Returns all rows as the disk has them. What was handed over before and fails is not in there.
    pub(super) fn reload(&self) -> Result<Vec<Row>, SnapshotsError> {
        let (done, rows) = oneshot::channel();
        self.send(Message::Reload(done))?;
        rows.blocking_recv().unwrap_or_else(|_| Err(closed()))
    }

    /// Has nothing written until what is returned is dropped.
    #[cfg(test)]
    pub(super) fn hold(&self) -> SyncSender<()> {
        let (held, holds) = sync_channel(0);
        self.send(Message::Hold(holds)).unwrap();
        held
    }

    /// Waits for what was handed over and closes the database.
    pub(super) fn close(&self) {
        drop(lock(&self.queue).take());
        if let Some(writer) = lock(&self.writer).take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the snapshot index panicked");
        }
    }

    fn send(&self, message: Message) -> Result<(), SnapshotsError> {
        let queue = lock(&self.queue);
        match queue.as_ref().map(|queue| queue.try_send(message)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(SnapshotsError::Unavailable(
                "too many changes wait for the disk".to_owned(),
            )),
            Some(Err(TrySendError::Disconnected(_))) | None => Err(closed()),
        }
    }
}

impl Drop for SnapshotIndex {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> SnapshotsError {
    SnapshotsError::Unavailable("the snapshot index is closed".to_owned())
}

fn failed(verb: &str, error: &rocksdb::Error) -> SnapshotsError {
    let text = format!("{verb} snapshot index: {error}");
    if text.contains("No space left") {
        SnapshotsError::Exhausted(text)
    } else {
        SnapshotsError::Internal(text)
    }
}

/// The thread: writes until the queue is closed.
fn write_all(db: &Arc<DB>, messages: &Receiver<Message>) {
    let mut broken: Option<SnapshotsError> = None;
    let mut next = messages.recv().ok();
    while let Some(message) = next.take() {
        match message {
            Message::Reload(done) => {
                broken = None;
                drop(done.send(read_all(db)));
            }
            #[cfg(test)]
            Message::Hold(holds) => drop(holds.recv()),
            Message::Write(changes, done) => {
                let mut group = vec![(changes, done)];
                while group.len() < GROUP_MAX {
                    match messages.try_recv() {
                        Ok(Message::Write(changes, done)) => group.push((changes, done)),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                let written = match &broken {
                    Some(error) => Err(error.clone()),
                    None => write_group(db, &group),
                };
                if let Err(error) = &written {
                    broken = Some(error.clone());
                }
                for (_, done) in group {
                    // Who asked may have gone away.
                    drop(done.send(written.clone()));
                }
            }
        }
        if next.is_none() {
            next = messages.recv().ok();
        }
    }
}

type Group = [(Vec<Change>, oneshot::Sender<Result<(), SnapshotsError>>)];

fn write_group(db: &DB, group: &Group) -> Result<(), SnapshotsError> {
    let mut batch = WriteBatch::default();
    for change in group.iter().flat_map(|(changes, _)| changes) {
        match change {
            Change::Put(name, record) => batch.put(name, record),
            Change::Delete(name) => batch.delete(name),
        }
    }
    let mut options = WriteOptions::default();
    options.set_sync(true);
    db.write_opt(batch, &options)
        .map_err(|error| failed("write", &error))
}

fn read_all(db: &DB) -> Result<Vec<Row>, SnapshotsError> {
    let mut rows = Vec::new();
    for row in db.iterator(IteratorMode::Start) {
        let (name, record) = row.map_err(|error| failed("read", &error))?;
        rows.push((name.into_vec(), record.into_vec()));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_restart_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let index = SnapshotIndex::open(folder.path()).unwrap();
        let put = |name: &str, value: u8| Change::Put(name.to_owned(), vec![value]);
        let mut waits = Vec::new();
        for round in 0..200 {
            let changes = vec![put("a", round), put(&format!("n{round}"), round)];
            waits.push(index.hand_over(changes).unwrap());
        }
        waits.push(
            index
                .hand_over(vec![Change::Delete("n7".to_owned())])
                .unwrap(),
        );
        for written in waits {
            written.await.unwrap().unwrap();
        }
        index.close();
        assert!(matches!(
            index.hand_over(Vec::new()),
            Err(SnapshotsError::Unavailable(_))
        ));
        let (rows, other) = tokio::task::spawn_blocking(move || {
            let index = SnapshotIndex::open(folder.path()).unwrap();
            let other = SnapshotIndex::open(folder.path()).err();
            (index.reload().unwrap(), other)
        })
        .await
        .unwrap();
        assert_eq!(rows.len(), 200);
        assert_eq!(rows[0], (b"a".to_vec(), vec![199]));
        assert!(!rows.iter().any(|(name, _)| name == b"n7"));
        assert!(other.is_some(), "one process has it");
    }
}
