//! Tests with a real mount. They need root and `/dev/fuse`.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{ContentMount, ContentSession};
use crate::testing::MemoryReader;
use crate::testing::model::{Model, ModelNode};
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
        let contents = NodeCache::without_disk(Arc::clone(&reader) as _);
        let view = Arc::new(View::new(Arc::new(contents)));
        let handle = runtime.handle().clone();
        let session = ContentMount::mount(folder.path(), view, handle).unwrap();
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

fn pseudo_random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33).to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(next).take(len).collect()
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
