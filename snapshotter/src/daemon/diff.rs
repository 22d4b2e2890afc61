//! The differences of two trees, as lines of JSON.
//!
//! Memory is bounded whatever the trees are: the walk goes on as far as its reader takes lines, and
//! ends when that goes away.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{FutureExt as _, SinkExt as _, Stream, StreamExt as _, future, stream};
use nacre_blobstore::{
    Diff, Difference, Entry, Modified, Node as Kind, Operation, ReadError, TreePath,
};

use super::api::{Change, DiffLine, DiffRequest, DiffSummary};
use super::named::TreeName;
use super::node::{Node, NodeError};
use super::server::refusal;
use crate::patch::{Body, PATCH_FILE_BYTES_MAX, content_of, patch};

/// Lines are sent when there are so many bytes of them.
const BATCH_BYTES: usize = 64 << 10;
/// Batches that wait to be sent.
const BATCHES_MAX: usize = 2;

impl Node {
    /// Compares two file systems, or what is at paths of them, and returns the differences as lines
    /// of JSON, each a [`DiffLine`]: in the order of a walk, and last the summary or what went wrong.
    /// Directories with equal ids are not read.
    ///
    /// # Errors
    /// [`NodeError`] when what is named is not to be had.
    pub(super) async fn diff(
        self: Arc<Self>,
        request: DiffRequest,
    ) -> Result<impl Stream<Item = Bytes> + Send + use<>, NodeError> {
        let began = self.options.clock.elapsed();
        let before: TreeName = request.before.parse()?;
        let after: TreeName = request.after.parse()?;
        let (old, new) =
            future::try_join(self.find_entry(&before), self.find_entry(&after)).await?;
        let (lines, sent) = mpsc::channel(BATCHES_MAX);
        let walk = Walk {
            node: self,
            place: Place::of(&before, &after),
            request,
            began,
            lines,
            batch: Vec::new(),
            summary: DiffSummary::default(),
        };
        // The walk runs as long as the stream is asked for more, and is dropped with it.
        let walk = walk.run(old, new).into_stream().map(|()| None);
        let lines = stream::select(sent.map(Some), walk);
        Ok(lines.filter_map(future::ready))
    }
}

/// How paths are shown.
#[derive(Debug)]
struct Place {
    /// What stands before every path: where both sides were looked for, if that is one place.
    above: TreePath,
    /// The name of what is compared, where that is no directory.
    name: TreePath,
    /// Whether groups of hard links may have the same names on both sides.
    same: bool,
}

impl Place {
    fn of(before: &TreeName, after: &TreeName) -> Self {
        let same = before.path == after.path;
        let above = if same {
            after.path.clone()
        } else {
            TreePath::root()
        };
        let name = after.path.split().or_else(|| before.path.split());
        let name = name.map_or_else(TreePath::root, |(_, name)| TreePath::root().join(name));
        Self { above, name, same }
    }

    /// Returns the bytes of the path that is shown for a difference, absolute.
    fn shown(&self, difference: &Difference) -> Vec<u8> {
        let is_directory = |entry: &Entry| matches!(entry.node, Kind::Directory(_));
        let sides = [&difference.before, &difference.after];
        let leaf = sides.into_iter().flatten().all(|e| !is_directory(e));
        let path = match (difference.path.is_root(), self.same) {
            (true, false) if leaf => &self.name,
            _ => &difference.path,
        };
        let parts = self.above.names().chain(path.names());
        let mut shown = Vec::new();
        for name in parts {
            shown.push(b'/');
            shown.extend_from_slice(name);
        }
        if shown.is_empty() {
            shown.push(b'/');
        }
        shown
    }
}

/// A walk under way.
struct Walk {
    node: Arc<Node>,
    place: Place,
    request: DiffRequest,
    began: Duration,
    lines: mpsc::Sender<Bytes>,
    batch: Vec<u8>,
    summary: DiffSummary,
}

impl Walk {
    async fn run(mut self, before: Entry, after: Entry) {
        let last = match self.walk(&before, &after).await {
            Ok(()) => {
                let elapsed = self.node.options.clock.elapsed();
                let elapsed = elapsed.saturating_sub(self.began);
                self.summary.total_ms = elapsed.as_secs_f64() * 1000.0;
                DiffLine::Summary(self.summary)
            }
            Err(error) => DiffLine::Error(refusal(&error).1),
        };
        self.put(&last);
        self.send().await;
    }

    async fn walk(&mut self, before: &Entry, after: &Entry) -> Result<(), NodeError> {
        let reader = Arc::clone(&self.node.reader);
        let mut diff = Diff::of_entries(&*reader, Some(before), Some(after));
        while let Some(difference) = diff.next().await? {
            if !self.place.same && is_other_link(&difference) {
                continue;
            }
            self.count(&difference);
            if self.request.stat {
                continue;
            }
            let line = self.line(difference).await?;
            self.put(&line);
            if self.batch.len() >= BATCH_BYTES {
                self.send().await;
            }
        }
        Ok(())
    }

    fn count(&mut self, difference: &Difference) {
        let summary = &mut self.summary;
        let (paths, bytes) = match difference.operation() {
            Operation::Added => (&mut summary.added, &mut summary.bytes_added),
            Operation::Modified => (&mut summary.modified, &mut summary.bytes_modified),
            Operation::Removed => (&mut summary.removed, &mut summary.bytes_removed),
        };
        *paths += 1;
        *bytes = bytes.saturating_add(difference.bytes());
    }

    async fn line(&self, difference: Difference) -> Result<DiffLine, NodeError> {
        let path = self.place.shown(&difference);
        let operation = difference.operation();
        let text = String::from_utf8_lossy(&path).into_owned();
        let mut change = Change {
            path_base64: (text.as_bytes() != path).then(|| STANDARD.encode(&path)),
            path: text,
            kind: kind_of(&difference).to_owned(),
            bytes: difference.bytes(),
            changed: changed(difference.modified()),
            patch: None,
        };
        if self.request.patch {
            change.patch = Some(self.patch(path, difference).await?);
        }
        Ok(match operation {
            Operation::Added => DiffLine::Added(change),
            Operation::Modified => DiffLine::Modified(change),
            Operation::Removed => DiffLine::Removed(change),
        })
    }

    async fn patch(&self, path: Vec<u8>, difference: Difference) -> Result<String, NodeError> {
        let same = difference.operation() == Operation::Modified
            && !difference.modified().kind
            && !difference.modified().content;
        let read = |entry: &Option<Entry>| {
            let content = entry.as_ref().and_then(content_of);
            async move {
                match content {
                    None => Ok(None),
                    // Equal on both sides.
                    Some(_) if same => Ok(Some(Body::Whole(Bytes::new()))),
                    Some((content, size)) => self.body(content, size).await.map(Some),
                }
            }
        };
        let (before, after) =
            future::try_join(read(&difference.before), read(&difference.after)).await?;
        let text = tokio::task::spawn_blocking(move || patch(&path, &difference, before, after));
        text.await.map_err(|_| NodeError::Stopped)
    }

    async fn body(
        &self,
        content: nacre_blobstore::ContentId,
        size_bytes: u64,
    ) -> Result<Body, ReadError> {
        match u32::try_from(size_bytes) {
            Ok(len) if size_bytes <= PATCH_FILE_BYTES_MAX => {
                let bytes = self.node.cache.read(content, size_bytes, 0, len).await;
                bytes.map(Body::Whole)
            }
            _ => Ok(Body::TooLarge),
        }
    }

    fn put(&mut self, line: &DiffLine) {
        serde_json::to_writer(&mut self.batch, line).expect("strings and numbers are JSON");
        self.batch.push(b'\n');
    }

    async fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        // The other end is dropped together with this walk.
        drop(self.lines.send(batch.into()).await);
    }
}

/// Tells whether nothing differs but how a group of links is called, which comes from its paths.
fn is_other_link(difference: &Difference) -> bool {
    let only_links = Modified {
        links: true,
        ..Modified::default()
    };
    let count = |entry: &Option<Entry>| entry.as_ref().and_then(|e| e.hard_link).map(|l| l.count);
    difference.modified() == only_links && count(&difference.before) == count(&difference.after)
}

/// Names the kind of what is there now, or was.
fn kind_of(difference: &Difference) -> &'static str {
    let entry = difference.after.as_ref().or(difference.before.as_ref());
    match entry.map(|entry| &entry.node) {
        Some(Kind::File { .. }) | None => "file",
        Some(Kind::Directory(_)) => "directory",
        Some(Kind::Symlink(_)) => "symlink",
        Some(Kind::CharDevice(_)) => "char-device",
        Some(Kind::BlockDevice(_)) => "block-device",
        Some(Kind::Fifo) => "fifo",
        Some(Kind::Socket) => "socket",
    }
}

fn changed(modified: Modified) -> Vec<String> {
    let all = [
        ("kind", modified.kind),
        ("content", modified.content),
        ("mode", modified.mode),
        ("owner", modified.owner),
        ("mtime", modified.mtime),
        ("xattrs", modified.xattrs),
        ("links", modified.links),
    ];
    let names = all.into_iter().filter(|(_, differs)| *differs);
    names.map(|(name, _)| name.to_owned()).collect()
}
