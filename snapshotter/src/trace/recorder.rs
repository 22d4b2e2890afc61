//! Recording starts: sorting reads by the file system of who reads, and storing what was new.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nacre_blobstore::{TraceError, TreeId};
use nacre_fs::{Access, AccessObserver};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::attribution::{Attribution, look_up};
use super::lock;
use super::publisher::{Publisher, Start};
use super::recording::Recording;

/// Reads that wait to be sorted at most; those beyond are not recorded.
const QUEUE_MAX: usize = 4096;
/// Starts that are recorded at once at most; those beyond are not.
const RECORDINGS_MAX: usize = 64;
/// How often recordings are looked at whether they are over.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Records starts in a task of its own.
#[derive(Debug)]
pub(super) struct Recorder {
    queue: mpsc::Sender<Message>,
    active: Arc<AtomicUsize>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Message {
    Begin(TreeId, Start),
    Access(Access),
    Finish(TreeId, oneshot::Sender<Result<bool, TraceError>>),
    Stop,
}

impl Recorder {
    /// Starts the task; what it records goes to `publisher`.
    pub(super) fn start(publisher: Publisher) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let active = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            publisher,
            active: Arc::clone(&active),
            recordings: HashMap::new(),
            attribution: Attribution::default(),
            publishing: JoinSet::new(),
        };
        let task = tokio::spawn(worker.run(messages));
        Self {
            queue,
            active,
            task: Mutex::new(Some(task)),
        }
    }

    /// Returns what takes note of reads.
    pub(super) fn observer(&self) -> Arc<dyn AccessObserver> {
        Arc::new(Observer {
            queue: self.queue.clone(),
            active: Arc::clone(&self.active),
        })
    }

    /// Begins to record a start of `tree`, unless one is being recorded: what it reads is added to
    /// `start`.
    pub(super) fn begin(&self, tree: TreeId, start: Start) {
        // Counted here, so that the very first reads are seen; the task counts exactly.
        self.active.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(Message::Begin(tree, start)).is_err() {
            tracing::debug!(%tree, "a start is not recorded");
        }
    }

    /// Ends the recording of `tree` and stores it. `false` when nothing new was read.
    pub(super) async fn finish(&self, tree: TreeId) -> Result<bool, TraceError> {
        let (done, finished) = oneshot::channel();
        if self.queue.send(Message::Finish(tree, done)).await.is_err() {
            return Ok(false);
        }
        finished.await.unwrap_or(Ok(false))
    }

    /// Ends all recordings and the task, after storing them or at the deadline.
    pub(super) async fn stop(&self, deadline: Duration) {
        let task = lock(&self.task).take();
        let Some(mut task) = task else { return };
        let stopped = async {
            if self.queue.send(Message::Stop).await.is_ok() {
                drop((&mut task).await);
            }
        };
        if tokio::time::timeout(deadline, stopped).await.is_err() {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Observer {
    queue: mpsc::Sender<Message>,
    active: Arc<AtomicUsize>,
}

impl AccessObserver for Observer {
    fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    fn accessed(&self, access: Access) {
        // A full queue costs an entry of a trace, which another start may add.
        drop(self.queue.try_send(Message::Access(access)));
    }
}

#[derive(Debug)]
struct Worker {
    publisher: Publisher,
    active: Arc<AtomicUsize>,
    recordings: HashMap<TreeId, (Recording, Start)>,
    attribution: Attribution,
    publishing: JoinSet<()>,
}

impl Worker {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        loop {
            let message = if self.recordings.is_empty() {
                messages.recv().await
            } else {
                match tokio::time::timeout(LOOK_INTERVAL, messages.recv()).await {
                    Ok(message) => message,
                    Err(_) => {
                        self.finish_those_over();
                        continue;
                    }
                }
            };
            match message {
                Some(Message::Access(access)) => self.sort(access).await,
                Some(Message::Begin(tree, start)) => self.begin(tree, start),
                Some(Message::Finish(tree, done)) => self.finish(tree, Some(done)),
                Some(Message::Stop) | None => break,
            }
        }
        let trees: Vec<TreeId> = self.recordings.keys().copied().collect();
        trees.into_iter().for_each(|tree| self.finish(tree, None));
        while self.publishing.join_next().await.is_some() {}
    }

    fn begin(&mut self, tree: TreeId, start: Start) {
        self.finish_those_over();
        if self.recordings.len() < RECORDINGS_MAX {
            let now = self.publisher.clock.elapsed();
            let begun = self.recordings.entry(tree);
            begun.or_insert_with(|| (Recording::new(now), start));
        }
        self.active.store(self.recordings.len(), Ordering::Relaxed);
    }

    /// Adds a read to the recording that it belongs to.
    async fn sort(&mut self, access: Access) {
        let tree = match self.attribution.get(access.pid, access.at) {
            Some(tree) => tree,
            None => {
                let pid = access.pid;
                let looked_up = tokio::task::spawn_blocking(move || look_up(pid)).await;
                let tree = looked_up.ok().flatten();
                self.attribution.insert(pid, tree, access.at);
                tree
            }
        };
        let recording = match tree {
            Some(tree) => self.recordings.get_mut(&tree),
            // Whoever prepares a sandbox reads before it is in one. While only one start is
            // recorded, it is that one's.
            None if self.recordings.len() == 1 => self.recordings.values_mut().next(),
            None => None,
        };
        if let Some((recording, _)) = recording {
            recording.add(&access);
        }
    }

    fn finish_those_over(&mut self) {
        let now = self.publisher.clock.elapsed();
        let over = self.recordings.iter().filter(|(_, (r, _))| r.is_over(now));
        let over: Vec<TreeId> = over.map(|(tree, _)| *tree).collect();
        over.into_iter().for_each(|tree| self.finish(tree, None));
    }

    fn finish(&mut self, tree: TreeId, done: Option<oneshot::Sender<Result<bool, TraceError>>>) {
        let finished = self.recordings.remove(&tree);
        self.active.store(self.recordings.len(), Ordering::Relaxed);
        while self.publishing.try_join_next().is_some() {}
        let publisher = self.publisher.clone();
        self.publishing.spawn(async move {
            let published = match finished {
                Some((recording, start)) => {
                    let entries = recording.into_entries();
                    let start = Start { entries, ..start };
                    publisher.publish(tree, &start).await
                }
                None => Ok(false),
            };
            match (done, published) {
                (Some(done), published) => drop(done.send(published)),
                (None, Err(error)) => tracing::warn!(%tree, %error, "a start is not recorded"),
                (None, Ok(_)) => {}
            }
        });
    }
}
