//! Tests with a real mount. They need root and `/dev/fuse`.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nacre_blobstore::SystemClock;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{ContentMount, ContentSession};
use crate::testing::MemoryReader;
use crate::testing::model::{Model, ModelNode, pseudo_random};
use crate::{Kind, NodeCache, View};

const CHUNK_BYTES: usize = 256 << 10;

/// A mounted view of a reader in memory.
struct Mounted {
    reader: Arc<MemoryReader>,
    session: ContentSession,
    _folder: TempDir,
    _runtime: Runtime,
}

impl Mounted {
    fn new() -> Self {
        let reader = Arc::new(MemoryReader::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::new());
        let cache = folder.path().join("cache");
        let contents = Arc::new(NodeCache::open(&cache, Arc::clone(&reader) as _, clock).unwrap());
        let view = Arc::new(View::new(contents));
        let mount_point = folder.path().join("mount");
        fs::create_dir(&mount_point).unwrap();
        let handle = runtime.handle().clone();
        let session = ContentMount::mount(&mount_point, view, handle).unwrap();
        Self {
            reader,
            session,
            _folder: folder,
            _runtime: runtime,
        }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.session.mount_point().join(path)
    }
}

#[test]
fn a_small_tree_is_listed_and_read() {
    let mut mounted = Mounted::new();
    let mut model = Model::default();
    let big = pseudo_random(3_000_001, 1);
    model.insert("/", ModelNode::directory(0o755));
    model.insert("/dir", ModelNode::directory(0o750));
    model.insert("/dir/small", ModelNode::file(0o644, "hello"));
    model.insert("/dir/empty", ModelNode::file(0o644, ""));
    model.insert("/big", ModelNode::file(0o644, big.clone()));
    model.insert("/link", ModelNode::new(Kind::Symlink, 0o777, "dir/small"));
    let tree = model.store(&mounted.reader, CHUNK_BYTES);
    let root = mounted.path(format!("trees/{tree}"));
    assert_eq!(fs::read(root.join("link")).unwrap(), b"hello");
    assert_eq!(fs::read(root.join("dir/empty")).unwrap(), b"");
    assert_eq!(fs::read(root.join("big")).unwrap(), big);
    assert_eq!(fs::metadata(&root).unwrap().nlink(), 3);
    let names = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["big", "dir", "link"]);
    let content = model.content("/big").to_string();
    let gate = fs::File::open(mounted.path(format!("content/{}/{}", &content[..2], &content[2..])));
    let mut middle = [0; 1000];
    gate.unwrap().read_exact_at(&mut middle, 1_000_000).unwrap();
    assert_eq!(middle, big[1_000_000..1_001_000]);
    mounted.session.unmount().unwrap();
    assert_eq!(
        fs::read_dir(mounted.session.mount_point()).unwrap().count(),
        0
    );
}
