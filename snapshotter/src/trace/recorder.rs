//! Recording starts: sorting reads by the file system of who reads, and storing what was new.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nacre_blobstore::{
    BlobStore, Clock, Digest, Lease, Record, RecordKind, Ref, RefError, SecureError, StoreError,
    StoredTrace, Trace, TraceEntry, TraceError, TreeId, Version, read_epoch, read_ref, read_trace,
    secure, trace_ref, write_ref,
};
use nacre_fs::{Access, AccessObserver};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::attribution::{Attribution, look_up};
use super::lock;
use super::merge::merge;
use super::recording::Recording;

/// Reads that wait to be sorted at most; those beyond are not recorded.
const QUEUE_MAX: usize = 4096;
/// Starts that are recorded at once at most; those beyond are not.
const RECORDINGS_MAX: usize = 64;
/// How often recordings are looked at whether they are over.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a trace is merged again because another node changed it meanwhile.
const MERGES_MAX: usize = 4;

/// Records starts in a task of its own.
#[derive(Debug)]
pub(super) struct Recorder {
    queue: mpsc::Sender<Message>,
    active: Arc<AtomicUsize>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Message {
    Begin(TreeId, Option<Digest>),
    Access(Access),
    Finish(TreeId, oneshot::Sender<Result<bool, TraceError>>),
    Stop,
}

impl Recorder {
    /// Starts the task; what it records goes to `store`.
    pub(super) fn start(store: Arc<dyn BlobStore>, clock: Arc<dyn Clock>) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let active = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            publisher: Publisher { store, clock },
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

    /// Begins to record a start of `tree`, unless one is being recorded.
    pub(super) fn begin(&self, tree: TreeId, repository: Option<Digest>) {
        // Counted here, so that the very first reads are seen; the task counts exactly.
        self.active.fetch_add(1, Ordering::Relaxed);
        if self
            .queue
            .try_send(Message::Begin(tree, repository))
            .is_err()
        {
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
    recordings: HashMap<TreeId, (Recording, Option<Digest>)>,
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
                Some(Message::Begin(tree, repository)) => self.begin(tree, repository),
                Some(Message::Finish(tree, done)) => self.finish(tree, Some(done)),
                Some(Message::Stop) | None => break,
            }
        }
        let trees: Vec<TreeId> = self.recordings.keys().copied().collect();
        trees.into_iter().for_each(|tree| self.finish(tree, None));
        while self.publishing.join_next().await.is_some() {}
    }

    fn begin(&mut self, tree: TreeId, repository: Option<Digest>) {
        self.finish_those_over();
        if self.recordings.len() < RECORDINGS_MAX {
            let now = self.publisher.clock.elapsed();
            let begun = self.recordings.entry(tree);
            begun.or_insert_with(|| (Recording::new(now), repository));
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
                Some((recording, repository)) => {
                    let entries = recording.into_entries();
                    publisher.publish(tree, repository.as_ref(), &entries).await
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

/// Stores what was recorded.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Publisher {
    /// Merges a start into the trace of its tree, and lets the images of its repository borrow the
    /// result. `false` when nothing in it is new.
    pub(super) async fn publish(
        &self,
        tree: TreeId,
        repository: Option<&Digest>,
        entries: &[TraceEntry],
    ) -> Result<bool, TraceError> {
        if entries.is_empty() || self.merged(tree, repository, entries).await?.0.is_none() {
            return Ok(false);
        }
        // What the record relies on, the copies of an older trace and itself, may be condemned.
        let random = getrandom::u64().map_err(|_| TraceError::Random)?;
        let lease = format!("trace-{random:016x}");
        let holder = format!("process {}", std::process::id());
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let lease = Lease::acquire(store, clock, &lease, &holder).await?;
        let published = self.publish_under(&lease, tree, repository, entries).await;
        if let Err(error) = lease.release().await {
            tracing::warn!(%error, "could not release lease");
        }
        published
    }

    async fn publish_under(
        &self,
        lease: &Lease,
        tree: TreeId,
        repository: Option<&Digest>,
        entries: &[TraceEntry],
    ) -> Result<bool, TraceError> {
        let store = &*self.store;
        let name = trace_ref(tree.digest());
        let mut without_copies = false;
        for _ in 0..MERGES_MAX {
            let since = read_epoch(store).await.map_err(SecureError::Gc)?;
            let (record, seen) = self.merged(tree, repository, entries).await?;
            let Some(mut record) = record else {
                return Ok(false);
            };
            if without_copies {
                record.packs.clear();
            }
            let id = record.write(store).await?;
            let secured = match secure(store, &*self.clock, id, &record, Some(since)).await {
                Err(SecureError::Gone(_)) => {
                    without_copies = true;
                    continue;
                }
                secured => secured?,
            };
            let still_secured = || {
                lease.check()?;
                Ok::<_, TraceError>(secured.check(&*self.clock)?)
            };
            let target = Ref {
                record: id,
                changed_ms: self.clock.now_ms(),
            };
            still_secured()?;
            match write_ref(store, &name, target, seen.as_ref()).await {
                Err(RefError::Store {
                    source: StoreError::Exists(_) | StoreError::Conflict(_),
                    ..
                }) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    tracing::info!(%tree, bytes = record.payload.len(), "recorded a start");
                    if let Some(repository) = repository
                        && still_secured().is_ok()
                    {
                        self.lend(repository, target).await;
                    }
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Merges a start into the trace of its tree as it is now; returns the record of the result,
    /// `None` when nothing in the start is new, and the state of the trace's ref.
    async fn merged(
        &self,
        tree: TreeId,
        repository: Option<&Digest>,
        entries: &[TraceEntry],
    ) -> Result<(Option<Record>, Option<Version>), TraceError> {
        let stored = read_trace(&*self.store, &trace_ref(tree.digest())).await?;
        let seen = stored.as_ref().map(|stored| stored.version.clone());
        let base = match (stored, repository) {
            (Some(stored), _) => Some(stored),
            // Only what was not on the node is seen, and that the borrowed trace brought there.
            (None, Some(repository)) => self.borrowed(repository).await,
            (None, None) => None,
        };
        let (mut trace, packs) = base.map_or_else(Default::default, |base: StoredTrace| {
            (base.trace, base.record.packs)
        });
        let has_news = merge(&mut trace, entries);
        Ok((has_news.then(|| trace_record(&trace, packs)), seen))
    }

    async fn borrowed(&self, repository: &Digest) -> Option<StoredTrace> {
        let read = read_trace(&*self.store, &trace_ref(repository)).await;
        read.ok().flatten()
    }

    /// Lets a repository's ref name a record. If someone else is faster, theirs is as good.
    async fn lend(&self, repository: &Digest, target: Ref) {
        let name = trace_ref(repository);
        let lent = async {
            let seen = read_ref(&*self.store, &name).await?;
            let seen = seen.as_ref().map(|(_, version)| version);
            write_ref(&*self.store, &name, target, seen).await
        };
        if let Err(error) = lent.await {
            tracing::debug!(%name, %error, "lend a trace");
        }
    }
}

/// Makes the record of a trace with copies in `packs`.
pub(super) fn trace_record(
    trace: &Trace,
    packs: std::collections::BTreeSet<nacre_blobstore::PackName>,
) -> Record {
    Record {
        kind: RecordKind::Trace,
        trees: Vec::new(),
        packs,
        metadata_images: Default::default(),
        payload: trace.encode(),
    }
}
