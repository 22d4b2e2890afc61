use std::sync::Arc;

use nacre_blobstore::{SystemClock, TreeId};
use tempfile::TempDir;

use super::*;
use crate::testing::MemoryReader;
use crate::testing::model::{Model, ModelNode};
use crate::{Attr, Kind, Lookup, NodeCache, ROOT_INO};

const CHUNK_BYTES: usize = 64 << 10;
const SESSION: u64 = 5;

/// Processes that serve one session, one after the other.
struct Generations {
    reader: Arc<MemoryReader>,
    folder: TempDir,
    tree: TreeId,
}

impl Generations {
    fn new() -> Self {
        let mut model = Model::default();
        model.insert("/", ModelNode::directory(0o755));
        for folder in ["/a", "/a/b", "/a/b/c", "/z"] {
            model.insert(folder, ModelNode::directory(0o750));
        }
        for path in ["/a/f", "/a/b/g", "/a/b/c/h", "/z/large"] {
            let len = if path == "/z/large" { 1 << 21 } else { 10 };
            model.insert(
                path,
                ModelNode::file(0o644, vec![u8::try_from(path.len()).unwrap(); len]),
            );
        }
        let mut linked = ModelNode::file(0o600, "linked");
        linked.group = Some(9);
        model.insert("/a/link", linked.clone());
        model.insert("/z/link", linked);
        model.insert("/z/symlink", ModelNode::new(Kind::Symlink, 0o777, "to"));
        let reader = Arc::new(MemoryReader::default());
        let tree = model.store(&reader, CHUNK_BYTES);
        Self {
            reader,
            folder: tempfile::tempdir().unwrap(),
            tree,
        }
    }

    fn view(&self, name: &str) -> View {
        let cache = self.folder.path().join(name);
        let clock = Arc::new(SystemClock::new());
        let contents = NodeCache::open(&cache, Arc::clone(&self.reader) as _, clock);
        View::new(Arc::new(contents.unwrap()))
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("inodes.log")
    }

    fn first(&self) -> View {
        let view = self.view("first");
        view.log_inodes(&self.log(), SESSION).unwrap();
        view
    }

    fn next(&self, name: &str) -> View {
        let view = self.view(name);
        view.resume_inodes(&self.log(), SESSION).unwrap();
        view
    }

    /// Looks a path up, as the kernel does, in one of the two views of the tree.
    async fn walk(&self, view: &View, folder: &str, path: &str) -> Attr {
        let mut attr = view.getattr(ROOT_INO).await.unwrap();
        let tree = self.tree.to_string();
        let names = [folder, &tree].into_iter().chain(path.split('/'));
        for name in names.filter(|name| !name.is_empty()) {
            let Lookup::Found(found) = view.lookup(attr.ino, name.as_bytes()).await.unwrap() else {
                panic!("{path} is not there");
            };
            attr = found;
        }
        attr
    }
}

const PATHS: [&str; 10] = [
    "",
    "a",
    "a/b",
    "a/b/c",
    "a/f",
    "a/b/g",
    "a/b/c/h",
    "z/large",
    "z/link",
    "z/symlink",
];

#[tokio::test]
async fn every_number_means_the_same_to_the_next_process_whatever_is_asked_first() {
    let generations = Generations::new();
    let first = generations.first();
    let mut attrs = Vec::new();
    for folder in ["trees", "lower"] {
        for path in PATHS {
            attrs.push(generations.walk(&first, folder, path).await);
        }
    }
    drop(first);
    for (name, start) in [("forwards", 0), ("backwards", 19), ("leaf", 6)] {
        let next = generations.next(name);
        for step in 0..attrs.len() {
            let attr = &attrs[(start + step * 7) % attrs.len()];
            assert_eq!(next.getattr(attr.ino).await.unwrap(), *attr);
            match attr.kind {
                Kind::File => {
                    let bytes = next.read(attr.ino, 0, 1 << 20).await.unwrap();
                    assert_eq!(bytes.len() as u64, attr.size_bytes.min(1 << 20));
                }
                Kind::Symlink => assert_eq!(next.readlink(attr.ino).await.unwrap(), b"to"),
                _ => assert_eq!(next.listxattr(attr.ino).await.unwrap(), b""),
            }
        }
        for path in PATHS {
            let again = generations.walk(&next, "trees", path).await;
            assert!(attrs.contains(&again), "{path}");
        }
        let unknown = next.getattr(5000).await;
        assert!(matches!(unknown, Err(FsError::Stale(5000))));
    }
}

#[tokio::test]
async fn many_ask_for_one_inode_and_get_one_directory() {
    let generations = Generations::new();
    let first = generations.first();
    let deep = generations.walk(&first, "trees", "a/b/c/h").await;
    drop(first);
    let next = generations.next("next");
    let before = generations.reader.tree_reads();
    let asked = (0..20).map(|_| next.getattr(deep.ino));
    for attr in futures::future::join_all(asked).await {
        assert_eq!(attr.unwrap(), deep);
    }
    let reads = generations.reader.tree_reads() - before;
    next.getattr(deep.ino).await.unwrap();
    assert_eq!(
        generations.reader.tree_reads() - before,
        reads,
        "read again"
    );
}

#[tokio::test]
async fn a_hard_link_is_found_when_the_directory_of_its_first_name_is_forgotten() {
    let generations = Generations::new();
    let first = generations.first();
    let by_a = generations.walk(&first, "trees", "a/link").await;
    let by_z = generations.walk(&first, "trees", "z/link").await;
    assert_eq!(by_a.ino, by_z.ino);
    let a = generations.walk(&first, "trees", "a").await;
    first.forget(a.ino, 2);
    first.forget(by_a.ino, 1);
    drop(first);
    let next = generations.next("next");
    assert!(matches!(next.getattr(a.ino).await, Err(FsError::Stale(_))));
    assert_eq!(&next.read(by_a.ino, 0, 100).await.unwrap()[..], b"linked");
    assert_eq!(next.getattr(by_a.ino).await.unwrap(), by_a);
    assert_eq!(generations.walk(&next, "trees", "z/link").await, by_z);
}

#[tokio::test]
async fn an_inherited_inode_goes_when_more_is_forgotten_than_was_counted_here() {
    let generations = Generations::new();
    let first = generations.first();
    let f = generations.walk(&first, "trees", "a/f").await;
    let known = first.inodes_known();
    drop(first);
    let next = generations.next("next");
    assert_eq!(next.inodes_known(), known);
    generations.walk(&next, "trees", "a/f").await;
    generations.walk(&next, "trees", "a/f").await;
    // One of the two answers was of no use to the kernel.
    next.forget(f.ino, 1);
    assert_eq!(next.getattr(f.ino).await.unwrap(), f);
    // The first process' lookup and the one left here.
    next.forget(f.ino, 2);
    assert!(matches!(next.getattr(f.ino).await, Err(FsError::Stale(_))));
    drop(next);
    let third = generations.next("third");
    assert_eq!(third.inodes_known(), known - 1, "forgotten for good");
    assert!(matches!(third.getattr(f.ino).await, Err(FsError::Stale(_))));
    let again = generations.walk(&third, "trees", "a/f").await;
    assert_eq!(again, f);
    third.forget(f.ino, 1);
    assert_eq!(third.inodes_known(), known - 1, "its own counts are exact");
}

#[tokio::test]
async fn a_tree_that_cannot_be_read_fails_for_now_only() {
    let generations = Generations::new();
    let first = generations.first();
    let deep = generations.walk(&first, "trees", "a/b/c/h").await;
    drop(first);
    let next = generations.next("next");
    generations.reader.set_unavailable(true);
    assert!(matches!(
        next.read(deep.ino, 0, 10).await,
        Err(FsError::Read(_))
    ));
    generations.reader.set_unavailable(false);
    assert_eq!(next.read(deep.ino, 0, 10).await.unwrap().len(), 10);
}
