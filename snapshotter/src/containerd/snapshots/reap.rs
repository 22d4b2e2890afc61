//! Removing directories behind the answers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::super::disk::Disk;

/// Directories that may wait to be removed; whoever removes more snapshots waits.
const QUEUE_MAX: usize = 1024;

enum Message {
    Remove(u64),
    Tell(oneshot::Sender<()>),
}

/// Removes directories on a thread of its own, for as long as it lives.
#[derive(Debug)]
pub(super) struct Reaper {
    queue: mpsc::Sender<Message>,
}

impl Reaper {
    pub(super) fn start(disk: Arc<Disk>) -> Self {
        let (queue, mut messages) = mpsc::channel(QUEUE_MAX);
        drop(tokio::task::spawn_blocking(move || {
            while let Some(message) = messages.blocking_recv() {
                match message {
                    Message::Remove(number) => disk.remove(number),
                    // Who asked may have gone away.
                    Message::Tell(done) => drop(done.send(())),
                }
            }
        }));
        Self { queue }
    }

    /// Has a directory removed.
    pub(super) async fn remove(&self, number: u64) {
        // Without the thread it is left to a cleanup.
        drop(self.queue.send(Message::Remove(number)).await);
    }

    /// Waits until all that was handed over before is removed.
    pub(super) async fn wait(&self) {
        let (done, told) = oneshot::channel();
        if self.queue.send(Message::Tell(done)).await.is_ok() {
            drop(told.await);
        }
    }
}
