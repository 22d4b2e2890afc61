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
mod merge;
mod optimize;
mod part;
mod paths;
mod publisher;
mod recorder;
mod recording;
mod stream;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nacre_blobstore::{
    BlobStore, Clock, Digest, Hints, PackName, Reader, StoredTrace, Trace, TraceError, TreeId,
    read_trace, trace_ref,
};
use nacre_fs::NodeCache;
use tokio::task::{JoinHandle, JoinSet};

use crate::hints::Follower;

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
    loading: JoinHandle<Option<Loaded>>,
}

/// A trace, and whether it is that of the tree.
type Loaded = (StoredTrace, bool);

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
    /// An image without a trace of its own borrows that of another with its name but for the tag.
    pub(crate) fn opening(&self, tree: TreeId, image: &str) -> Option<Coming> {
        let repository = repository_key(image);
        let is_streamed = self.is_streamed(tree);
        let checked = Part::by_chance(self.check_one_in).filter(|_| !is_streamed);
        self.recorder.begin(tree, repository, checked);
        if is_streamed {
            return None;
        }
        let store = Arc::clone(&self.store);
        let loading = tokio::spawn(async move {
            let own = load(&store, tree.digest());
            let borrowed = async {
                match &repository {
                    Some(repository) => load(&store, repository).await,
                    None => None,
                }
            };
            let (own, borrowed) = tokio::join!(own, borrowed);
            let own = own.map(|own| (own, true));
            own.or_else(|| borrowed.map(|borrowed| (borrowed, false)))
        });
        Some(Coming {
            tree,
            checked,
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
                if let Some((stored, _)) = loaded {
                    stream.run(stored).await;
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

/// Reads a trace; one that cannot be read is as good as none.
async fn load(store: &Arc<dyn BlobStore>, of: &Digest) -> Option<StoredTrace> {
    let name = trace_ref(of);
    read_trace(&**store, &name)
        .await
        .inspect_err(|error| tracing::warn!(%name, %error, "start without a trace"))
        .ok()
        .flatten()
}

/// Returns under which digest the images of one name share a trace, whatever their tags; `None`
/// for an image that was opened by its id.
fn repository_key(image: &str) -> Option<Digest> {
    if image.parse::<Digest>().is_ok() {
        return None;
    }
    let (folder, last) = image.rsplit_once('/').unwrap_or(("", image));
    let repository = last.split([':', '@']).next()?;
    Some(Digest::of(
        format!("repository {folder}/{repository}").as_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_one_repository_share_a_key() {
        let key = repository_key("host:5000/a/b:v1");
        assert!(key.is_some());
        assert_eq!(key, repository_key("host:5000/a/b"));
        assert_eq!(key, repository_key("host:5000/a/b@sha256:00"));
        assert_ne!(key, repository_key("host:5000/a/c:v1"));
        assert_ne!(repository_key("b:v1"), key);
        assert_eq!(repository_key(&Digest::of(b"x").to_string()), None);
    }
}
