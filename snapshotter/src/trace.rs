//! Traces on a node: what a start reads is recorded, and the next start finds it there already.
//!
//! ```text
//! reads --> Recorder --(pid: tree)--> Recording --(over)--> merged into the stored trace
//! open of an image --> stored trace --> ranges of packs --> node cache, ahead of the reads
//! ```
//! All of it is off the path of reads: what fails is logged and costs speed, never an error, and
//! a read never waits for its being recorded.
//!
//! What was streamed to the disk is read without our knowledge. So now and then a start is *checked* for a
//! part of its trace: that comes into memory only, and to the disk when it is read. What of it is not on the
//! node when the start is over was not read. Entries that few starts read are no longer streamed:
//! one start that read the whole image does not make all others fetch it.

mod attribution;
mod coverage;
mod kin;
mod merge;
mod optimize;
mod part;
mod paths;
mod publisher;
mod recorder;
mod recording;
mod stream;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nacre_blobstore::{
    BlobStore, Clock, Hints, PackName, Reader, Trace, TraceError, TreeId, read_trace, trace_ref,
};
use nacre_fs::NodeCache;
use tokio::task::{JoinHandle, JoinSet};

use crate::hints::Follower;

use kin::Followed;
pub(crate) use kin::Kin;
pub(crate) use optimize::chunks_of;
pub use optimize::{OptimizeError, optimize_image};
use part::Part;
pub use paths::content_paths;
use publisher::{Publisher, Start};
use recorder::Recorder;

/// How long after a trace was streamed the same one is not streamed again: what it names is on
/// the node, unless it was evicted.
const STREAM_AGAIN_AFTER: Duration = Duration::from_secs(300);
/// Trees whose streaming is remembered; beyond them all is forgotten.
const STREAMED_MAX: usize = 4096;
/// How long the end of the daemon may wait for what was recorded to be stored.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Records and replays starts on one node.
#[derive(Debug)]
pub(crate) struct Traces {
    store: Arc<dyn BlobStore>,
    reader: Arc<Reader>,
    cache: Arc<NodeCache>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    follower: Arc<Follower>,
    tasks: Mutex<JoinSet<()>>,
    streamed: Mutex<HashMap<TreeId, Duration>>,
    check_one_in: u32,
}

/// A trace on its way from the store.
#[derive(Debug)]
pub(crate) struct Coming {
    tree: TreeId,
    checked: Option<Part>,
    borrowed: Arc<OnceLock<Followed>>,
    loading: JoinHandle<Option<Loaded>>,
}

/// A trace, and whether it is that of the tree.
type Loaded = (Followed, bool);

impl Traces {
    /// Observes the reads of `cache`, and checks one start in `check_one_in`. Must be called in a
    /// runtime.
    pub(crate) fn new(
        store: Arc<dyn BlobStore>,
        reader: Arc<Reader>,
        cache: Arc<NodeCache>,
        clock: Arc<dyn Clock>,
        follower: Follower,
        check_one_in: u32,
    ) -> Self {
        let publisher = Publisher {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            cache: Some(Arc::clone(&cache)),
        };
        let recorder = Recorder::start(publisher);
        cache.observe_with(recorder.observer());
        Self {
            store,
            reader,
            cache,
            clock,
            recorder,
            follower: Arc::new(follower),
            tasks: Mutex::default(),
            streamed: Mutex::default(),
            check_one_in,
        }
    }

    /// Begins to record a start of `tree`, and to load its trace, if that was not streamed lately.
    /// A tree without a trace of its own borrows those of its kin.
    pub(crate) fn opening(&self, tree: TreeId, kin: Kin) -> Option<Coming> {
        let is_streamed = self.is_streamed(tree);
        let checked = Part::by_chance(self.check_one_in).filter(|_| !is_streamed);
        let borrowed = Arc::default();
        let start = Start {
            kin: kin.clone(),
            entries: Vec::new(),
            checked,
            borrowed: Arc::clone(&borrowed),
        };
        self.recorder.begin(tree, start);
        if is_streamed {
            return None;
        }
        let store = Arc::clone(&self.store);
        let loading = tokio::spawn(async move {
            match load(&*store, tree).await {
                Some(own) => Some((own, true)),
                None => Some((kin.borrow_trace(&*store).await?, false)),
            }
        });
        Some(Coming {
            tree,
            checked,
            borrowed,
            loading,
        })
    }

    /// Streams a trace to the node, once `packs`, the packs of the image, are loaded. Without one
    /// that was recorded with this very tree, reads are followed by what `hints` say, if they come.
    /// With one, these are not waited for.
    pub(crate) fn opened(
        &self,
        coming: Coming,
        packs: BTreeSet<PackName>,
        hints: impl Future<Output = Option<Hints>> + Send + 'static,
    ) {
        self.note_streamed(coming.tree);
        let follower = Arc::clone(&self.follower);
        let stream = stream::Streamer {
            store: Arc::clone(&self.store),
            reader: Arc::clone(&self.reader),
            cache: Arc::clone(&self.cache),
            packs,
            checked: coming.checked,
        };
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let loaded = coming.loading.await.ok().flatten();
            let is_own = loaded.as_ref().is_some_and(|(_, own)| *own);
            // Who could tell them sees that they are not wanted.
            let hints = (!is_own).then_some(hints);
            let follow = async {
                if let Some(hints) = hints
                    && let Some(hints) = hints.await
                {
                    follower.add(coming.tree, hints);
                }
            };
            let stream = async {
                match loaded {
                    Some((own, true)) => stream.run(own).await,
                    Some((borrowed, false)) => {
                        let fitting = stream.fit(borrowed).await;
                        stream
                            .run(coming.borrowed.get_or_init(|| fitting).clone())
                            .await;
                    }
                    None => {}
                }
            };
            tokio::join!(follow, stream);
        });
    }

    fn note_streamed(&self, tree: TreeId) {
        let mut streamed = lock(&self.streamed);
        if streamed.len() >= STREAMED_MAX {
            streamed.clear();
        }
        streamed.insert(tree, self.clock.elapsed());
    }

    fn is_streamed(&self, tree: TreeId) -> bool {
        let since = lock(&self.streamed).get(&tree).copied();
        let now = self.clock.elapsed();
        since.is_some_and(|since| now.saturating_sub(since) < STREAM_AGAIN_AFTER)
    }

    /// Ends the recording of a tree now and stores it. `false` when nothing new was read.
    ///
    /// # Errors
    /// [`TraceError`] when it cannot be stored.
    pub(crate) async fn finish(&self, tree: TreeId) -> Result<bool, TraceError> {
        self.recorder.finish(tree).await
    }

    /// Ends all streaming, and all recordings after storing them as far as there is time.
    pub(crate) async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        self.follower.stop();
        self.recorder.stop(STOP_DEADLINE).await;
    }
}

/// Adds the entries of `trace` to the trace of `tree`. `false` when they are known.
///
/// # Errors
/// [`TraceError`] when it cannot be read or stored.
pub async fn import_trace(
    store: &Arc<dyn BlobStore>,
    clock: &Arc<dyn Clock>,
    tree: TreeId,
    trace: &Trace,
) -> Result<bool, TraceError> {
    let publisher = Publisher {
        store: Arc::clone(store),
        clock: Arc::clone(clock),
        cache: None,
    };
    let start = Start {
        entries: trace.entries.clone(),
        ..Start::default()
    };
    publisher.publish(tree, &start).await
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the trace of a tree; one that cannot be read is as good as none.
async fn load(store: &dyn BlobStore, tree: TreeId) -> Option<Followed> {
    let read = read_trace(store, &trace_ref(tree.digest())).await;
    let read = read.inspect_err(|error| tracing::warn!(%tree, %error, "start without a trace"));
    Some(read.ok()??.into())
}
