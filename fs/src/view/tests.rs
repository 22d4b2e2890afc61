//! The view with subtrees that cannot be read, and who is told what.

mod reference;

use std::time::Duration;

use nacre_blobstore::SystemClock;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::testing::MemoryReader;
use crate::testing::model::{Model, ModelNode, pseudo_random};

const CHUNK_BYTES: usize = 96 << 10;

struct Fixture {
    reader: Arc<MemoryReader>,
    view: View,
    _folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let reader = Arc::new(MemoryReader::default());
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::new());
        let contents = NodeCache::open(folder.path(), Arc::clone(&reader) as _, clock).unwrap();
        let view = View::new(Arc::new(contents));
        Self {
            reader,
            view,
            _folder: folder,
        }
    }

    async fn find(&self, parent: u64, name: &[u8]) -> Result<Attr, FsError> {
        match self.view.lookup(parent, name).await? {
            Lookup::Found(attr) => Ok(attr),
            Lookup::Absent { .. } => Err(FsError::NotFound),
        }
    }

    async fn root(&self, flavor: Flavor, tree: TreeId) -> Attr {
        let folder = if flavor == Flavor::Plain {
            "trees"
        } else {
            "lower"
        };
        let folder = self.find(ROOT_INO, folder.as_bytes()).await.unwrap();
        self.find(folder.ino, tree.to_string().as_bytes())
            .await
            .unwrap()
    }

    /// Lists a directory at most `piece` entries at a time: names with numbers.
    async fn list(&self, ino: u64, piece: usize) -> Vec<(Vec<u8>, u64, Kind)> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let (before, from) = (all.len(), offset);
            let add = |entry: &DirectoryEntry<'_>| {
                if all.len() == before + piece {
                    return Taken::Full;
                }
                all.push((entry.name.to_vec(), entry.ino, entry.kind));
                offset = entry.next_offset;
                Taken::Yes
            };
            self.view.readdir(ino, from, add).await.unwrap();
            if all.len() == before {
                return all;
            }
        }
    }

    async fn list_plus(&self, ino: u64, piece: usize) -> Vec<(Vec<u8>, Option<Attr>)> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let (before, from) = (all.len(), offset);
            let add = |entry: &DirectoryEntry<'_>, attr: Option<&Attr>| {
                if all.len() == before + piece {
                    return Taken::Full;
                }
                all.push((entry.name.to_vec(), attr.copied()));
                offset = entry.next_offset;
                Taken::Yes
            };
            self.view.readdir_plus(ino, from, add).await.unwrap();
            if all.len() == before {
                return all;
            }
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn two_directories() -> Model {
    let mut model = Model::default();
    model.insert("/", ModelNode::directory(0o755));
    model.insert("/bad", ModelNode::directory(0o700));
    model.insert("/bad/file", ModelNode::file(0o644, "lost"));
    model.insert("/good", ModelNode::directory(0o755));
    model.insert("/good/file", ModelNode::file(0o644, "kept"));
    model
}

#[tokio::test]
async fn an_unreadable_subtree_fails_alone_and_heals() {
    let fixture = Fixture::new();
    let model = two_directories();
    let tree = model.store(&fixture.reader, CHUNK_BYTES);
    let bad = model.subtree("/bad");
    fixture.reader.corrupt(*bad.digest());
    let root = fixture.root(Flavor::Plain, tree).await;
    let listed = fixture.list_plus(root.ino, 100).await;
    assert_eq!(listed.len(), 4);
    let bad_attr = listed[2].1.unwrap();
    assert_eq!((bad_attr.mode, bad_attr.valid), (0o700, Duration::ZERO));
    let error = fixture.find(bad_attr.ino, b"file").await.unwrap_err();
    assert_eq!(error.errno(), rustix::io::Errno::IO);
    let error = fixture
        .view
        .readdir(bad_attr.ino, 2, |_| Taken::Yes)
        .await
        .unwrap_err();
    assert_eq!(error.errno(), rustix::io::Errno::IO);
    let good = fixture
        .find(listed[3].1.unwrap().ino, b"file")
        .await
        .unwrap();
    assert_eq!(fixture.view.read(good.ino, 0, 9).await.unwrap(), "kept");
    fixture.reader.heal(*bad.digest());
    let lost = fixture.find(bad_attr.ino, b"file").await.unwrap();
    assert_eq!(fixture.view.read(lost.ino, 0, 9).await.unwrap(), "lost");
    assert_eq!(
        fixture.view.getattr(bad_attr.ino).await.unwrap().valid,
        IMMUTABLE_VALID
    );
}

#[tokio::test]
async fn only_ids_of_known_roots_and_contents_are_found_and_misses_are_not_kept() {
    let fixture = Fixture::new();
    let model = two_directories();
    let tree = model.store(&fixture.reader, CHUNK_BYTES).to_string();
    let trees = fixture.find(ROOT_INO, b"trees").await.unwrap().ino;
    let not_kept = Lookup::Absent {
        valid: Duration::ZERO,
    };
    let subtree = model.subtree("/bad").to_string();
    let upper = tree.to_uppercase();
    for name in [
        "",
        "x",
        &tree[1..],
        &upper,
        &subtree,
        &"0".repeat(64),
        "\u{e9}",
    ] {
        assert_eq!(
            fixture.view.lookup(trees, name.as_bytes()).await.unwrap(),
            not_kept,
            "{name}"
        );
    }
    let bytes = pseudo_random(2 << 20, 1);
    let content = fixture.reader.add_content(&bytes, CHUNK_BYTES).to_string();
    let folder = fixture.find(ROOT_INO, b"content").await.unwrap();
    let shard = fixture
        .find(folder.ino, &content.as_bytes()[..2])
        .await
        .unwrap();
    let file = fixture
        .find(shard.ino, &content.as_bytes()[2..])
        .await
        .unwrap();
    let read = fixture.view.read(file.ino, 1, 2).await.unwrap();
    assert_eq!(read, bytes[1..3]);
    let missed = fixture
        .view
        .lookup(shard.ino, &content.as_bytes()[1..63])
        .await
        .unwrap();
    assert_eq!(missed, not_kept);
    for name in ["", "0", "000", "g0", "AB"] {
        let found = fixture
            .view
            .lookup(folder.ino, name.as_bytes())
            .await
            .unwrap();
        assert_eq!(
            found,
            Lookup::Absent {
                valid: IMMUTABLE_VALID
            },
            "{name}"
        );
    }
    assert_eq!(fixture.list(ROOT_INO, 2).await.len(), 6);
    assert_eq!(fixture.list(folder.ino, 2).await.len(), 2);
    assert!(matches!(
        fixture.view.getattr(999_999).await,
        Err(FsError::Stale(999_999))
    ));
}

#[tokio::test]
async fn the_gate_places_small_contents_where_the_kernel_looks_next() {
    let fixture = Fixture::new();
    let content = fixture.reader.add_content(b"small", CHUNK_BYTES);
    let hex = content.to_string();
    let gate = fixture.find(ROOT_INO, b"content").await.unwrap();
    let shard = fixture.find(gate.ino, &hex.as_bytes()[..2]).await.unwrap();
    let lookup = async || fixture.view.lookup(shard.ino, &hex.as_bytes()[2..]).await;
    fixture.reader.corrupt(*content.digest());
    assert!(matches!(lookup().await, Err(FsError::Read(_))));
    fixture.reader.heal(*content.digest());
    let valid = Duration::ZERO;
    assert_eq!(lookup().await.unwrap(), Lookup::Absent { valid });
    for layer in fixture.view.contents().layers() {
        let file = layer.join(&hex[..2]).join(&hex[2..]);
        assert_eq!(std::fs::read(file).unwrap(), b"small");
    }
    assert_eq!(fixture.view.inodes_known(), 0);
}

#[tokio::test]
async fn readers_of_one_directory_share_its_fetch() {
    let fixture = Fixture::new();
    let tree = two_directories().store(&fixture.reader, CHUNK_BYTES);
    let root = fixture.root(Flavor::Plain, tree).await;
    let before = fixture.reader.tree_reads();
    fixture.reader.delay(Duration::from_millis(10));
    let lookups = (0..32).map(|_| fixture.find(root.ino, b"good"));
    for found in futures::future::join_all(lookups).await {
        found.unwrap();
    }
    assert_eq!(fixture.reader.tree_reads(), before + 1);
}
