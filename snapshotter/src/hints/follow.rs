//! Fetching ahead along hints: a read that must wait for a content brings what is read with it.
//!
//! ```text
//! node cache --read of what is not here--> HintedReader --queue--> Follower --> Bringer
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nacre_blobstore::{
    Chunk, ChunkId, ChunkList, ContentId, Hinted, Hints, HintsWalk, ReadError, Reader, Tier, Tree,
    TreeId, TreeReader,
};
use nacre_fs::{ContentReader, NodeCache};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::bring::{Bringer, SMALL_BYTES_MAX, Wanted};

/// Reads that wait to be looked at; what is beyond brings nothing ahead.
const QUEUE_MAX: usize = 4096;
/// File systems whose hints are in memory, some megabytes each.
const FOLLOWED_MAX: usize = 16;
/// Plain bytes that one read brings.
const BYTES_MAX: u64 = 64 << 20;
/// Reads whose company is on its way at once; that of others waits.
const FETCHES_MAX: usize = 32;

#[derive(Debug)]
enum Message {
    Read(ContentId),
    Follow(TreeId, Box<Hints>),
}

/// A reader that tells of what is read.
#[derive(Debug)]
pub(crate) struct HintedReader {
    reader: Arc<Reader>,
    queue: mpsc::Sender<Message>,
    /// There are hints to follow.
    active: Arc<AtomicBool>,
    messages: Mutex<Option<mpsc::Receiver<Message>>>,
}

/// The task that fetches ahead.
#[derive(Debug)]
pub(crate) struct Follower {
    queue: mpsc::Sender<Message>,
    active: Arc<AtomicBool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl HintedReader {
    /// Reads as `reader` does.
    pub(crate) fn new(reader: Arc<Reader>) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        Self {
            reader,
            queue,
            active: Arc::default(),
            messages: Mutex::new(Some(messages)),
        }
    }

    /// Follows hints for what is read through this reader; `cache` is in front of it. Must be called
    /// in a runtime, and has an effect once.
    pub(crate) fn follow(&self, cache: Weak<NodeCache>) -> Follower {
        let messages = self.messages.lock();
        let messages = messages.unwrap_or_else(PoisonError::into_inner).take();
        let worker = Worker {
            bringer: Bringer::new(Arc::clone(&self.reader), cache),
            followed: VecDeque::new(),
            fetches: JoinSet::new(),
        };
        let task = messages.map(|messages| tokio::spawn(worker.run(messages)));
        Follower {
            queue: self.queue.clone(),
            active: Arc::clone(&self.active),
            task: Mutex::new(task),
        }
    }

    fn reads(&self, content: ContentId) {
        if self.active.load(Ordering::Relaxed) {
            // A full queue costs a round trip later.
            drop(self.queue.try_send(Message::Read(content)));
        }
    }
}

impl Follower {
    /// Follows the hints of a file system from now on.
    pub(crate) fn add(&self, tree: TreeId, hints: Hints) {
        if hints.is_empty() {
            return;
        }
        let message = Message::Follow(tree, Box::new(hints));
        if self.queue.try_send(message).is_ok() {
            self.active.store(true, Ordering::Relaxed);
        }
    }

    /// Ends all fetching ahead.
    pub(crate) fn stop(&self) {
        let task = self.task.lock();
        if let Some(task) = task.unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

#[async_trait::async_trait]
impl TreeReader for HintedReader {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        self.reader.tree(id).await
    }
}

#[async_trait::async_trait]
impl ContentReader for HintedReader {
    async fn chunk(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        // Of a content of one chunk both have the same digest.
        self.reads(ContentId::new(*id.digest()));
        self.reader.chunk(id).await
    }

    async fn chunk_list(
        &self,
        content: ContentId,
        size_bytes: u64,
    ) -> Result<Arc<ChunkList>, ReadError> {
        self.reads(content);
        self.reader.chunk_list(content, size_bytes).await
    }

    async fn content_size(&self, content: ContentId) -> Result<Option<u64>, ReadError> {
        ContentReader::content_size(&*self.reader, content).await
    }

    fn expect(&self, chunks: Vec<ChunkId>) {
        self.reader.expect(chunks);
    }

    fn is_foretold(&self, chunk: ChunkId) -> bool {
        self.reader.is_foretold(chunk)
    }

    fn comes_for(&self, content: ContentId) {
        self.reads(content);
    }

    fn guesses_after(&self) -> Option<u64> {
        self.reader.guesses_after()
    }

    fn tier_of(&self, chunk: ChunkId) -> Option<Tier> {
        self.reader.tier_of(chunk)
    }
}

struct Worker {
    bringer: Bringer,
    followed: VecDeque<(TreeId, Hints, HintsWalk)>,
    fetches: JoinSet<()>,
}

impl Worker {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.recv().await {
            while self.fetches.try_join_next().is_some() {}
            match message {
                Message::Follow(tree, hints) => {
                    self.followed.retain(|(followed, ..)| *followed != tree);
                    if self.followed.len() >= FOLLOWED_MAX {
                        self.followed.pop_front();
                    }
                    let mut walk = HintsWalk::default();
                    let hinted = hints.read_at_start(&mut walk, BYTES_MAX);
                    let wanted = hinted.iter().map(Wanted::of).collect();
                    self.followed.push_back((tree, *hints, walk));
                    self.bring(wanted).await;
                }
                Message::Read(content) => {
                    let mut wanted = Vec::new();
                    for (_, hints, walk) in &mut self.followed {
                        let hinted = hints.read_with(content, walk, BYTES_MAX);
                        // It is being read, all of it if it is small.
                        let is_other = |hinted: &&Hinted<'_>| {
                            hinted.content != content || hinted.size_bytes > SMALL_BYTES_MAX
                        };
                        wanted.extend(hinted.iter().filter(is_other).map(Wanted::of));
                    }
                    self.bring(wanted).await;
                }
            }
        }
    }

    async fn bring(&mut self, wanted: Vec<Wanted>) {
        if wanted.is_empty() {
            return;
        }
        // It was given out and will not be again.
        while self.fetches.len() >= FETCHES_MAX {
            self.fetches.join_next().await;
        }
        self.fetches.spawn(self.bringer.clone().run(wanted));
    }
}
