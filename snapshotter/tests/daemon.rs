//! A node behind its control API, with a real mount: to be run as root.

#![cfg(test)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nacre_blobstore::testing::{Fault, FaultKind, FaultStore, HookStore, memory_store};
use nacre_blobstore::{
    BlobStore, CHUNK_BYTES_AVERAGE, ChunkIndex, Record, RecordKind, Ref, RetryPolicy, RetryStore,
    SystemClock, WriterOptions, write_ref,
};
use nacre_fs::mount::{OverlaySpec, Umount, overlay, umount};
use nacre_snapshotter::layer::LayerLimits;
use nacre_snapshotter::oci::Platform;
use nacre_snapshotter::{
    AddSource, AddedImage, Client, ClientError, Image, ImageError, Ingest, NoProgress, Node,
    NodeOptions, image_ref, serve,
};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

async fn add(store: &Arc<dyn BlobStore>, name: &str, directory: &Path) -> AddedImage {
    let index = tempfile::tempdir().unwrap();
    let ingest = Ingest {
        store: Arc::clone(store),
        index: Arc::new(ChunkIndex::open(index.path()).unwrap()),
        clock: Arc::new(SystemClock::new()),
        limits: LayerLimits::default(),
        layers_at_once: 1,
        chunk_bytes: CHUNK_BYTES_AVERAGE,
        writer: WriterOptions::default(),
        holder: "test".to_owned(),
    };
    let source = AddSource::Directory(directory.into());
    ingest
        .add(name, source, &Platform::host(), Arc::new(NoProgress))
        .await
        .unwrap()
}

fn image(content: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("etc")).unwrap();
    // Too large for the metadata image.
    let padded = format!("{content:2000}");
    std::fs::write(directory.path().join("etc/name"), padded).unwrap();
    directory
}

fn start(store: &Arc<dyn BlobStore>, root: &Path) -> Arc<Node> {
    let options = NodeOptions {
        root: root.into(),
        index: root.join("index"),
        store: Arc::clone(store),
        store_url: "memory:".to_owned(),
        cache: nacre_fs::NodeCacheOptions::default(),
        region: None,
        wait_max: nacre_blobstore::READ_WAIT_MAX,
        check_one_in: 0,
        writes_through: None,
        pending_bytes_max: u64::MAX,
        clock: Arc::new(SystemClock::new()),
        crash: nacre_blobstore::CrashHook::default(),
        keeper: None,
    };
    Arc::new(Node::start(options, Handle::current()).unwrap())
}

async fn read(path: std::path::PathBuf) -> std::io::Result<String> {
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
    Ok(read.await.unwrap()?.trim_end_matches(' ').to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_by_name_and_by_id() {
    let store = memory_store();
    let (left, right) = (image("left"), image("right"));
    let (a, b) = (
        add(&store, "a", left.path()).await,
        add(&store, "host:5000/b:v2", right.path()).await,
    );
    let named = Image::find(&*store, "a:latest").await.unwrap();
    assert_eq!((named.id, named.name.as_deref()), (a.id, Some("a:latest")));
    assert_eq!(named.tree(), Some(a.tree));
    let by_id = Image::find(&*store, &b.id.to_string()).await.unwrap();
    assert_eq!((by_id.id, by_id.name, by_id.changed_ms), (b.id, None, 0));
    let names: Vec<_> = Image::list(&*store)
        .await
        .unwrap()
        .into_iter()
        .map(|i| i.name.unwrap())
        .collect();
    assert_eq!(names, ["a:latest", "host:5000/b:v2"]);

    let missing = [
        ("none", "none"),
        ("a:v1", "a:v1"),
        ("host:5000/b", "host:5000/b"),
    ];
    for (asked, told) in missing {
        let error = Image::find(&*store, asked).await.unwrap_err();
        assert!(matches!(error, ImageError::NotFound(name) if name == told));
    }
    let other_id = a.id.to_string().replace(['0', '1', '2', '3'], "4");
    assert!(matches!(
        Image::find(&*store, &other_id).await,
        Err(ImageError::NotFound(_))
    ));
    assert!(matches!(
        Image::find(&*store, "a/../b").await,
        Err(ImageError::Name(_))
    ));

    Image::remove(&*store, "a").await.unwrap();
    assert!(matches!(
        Image::remove(&*store, "a").await,
        Err(ImageError::NotFound(_))
    ));
    assert_eq!(Image::list(&*store).await.unwrap().len(), 1);
    assert_eq!(
        Image::find(&*store, &a.id.to_string())
            .await
            .unwrap()
            .tree(),
        Some(a.tree)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_is_told_from_what_is_not_there() {
    let store = memory_store();
    let added = add(&store, "a", image("x").path()).await;
    let record = Record::read(&*store, added.id).await.unwrap();
    for (name, kind, payload) in [
        ("snapshot", RecordKind::Snapshot, record.payload.clone()),
        ("garbled", RecordKind::Image, b"{}".to_vec()),
        ("empty", RecordKind::Image, Vec::new()),
    ] {
        let record = Record {
            kind,
            payload,
            ..record.clone()
        }
        .write(&*store)
        .await
        .unwrap();
        let target = Ref {
            record,
            changed_ms: 0,
        };
        write_ref(&*store, &image_ref(name).unwrap(), target, None)
            .await
            .unwrap();
        assert!(
            matches!(Image::find(&*store, name).await, Err(ImageError::Kind(_))),
            "{name}"
        );
    }
    store.delete(&added.id.key()).await.unwrap();
    let lost = Image::find(&*store, "a").await;
    assert!(
        matches!(lost, Err(ImageError::Record { .. })),
        "a name without its record is damage"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_images_over_its_socket_and_starts_again() {
    let store = memory_store();
    let faults = Arc::new(FaultStore::new(Arc::clone(&store)));
    let seen: Arc<dyn BlobStore> = Arc::clone(&faults) as _;
    let added = add(&store, "a", image("left").path()).await;
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("nacre.sock");
    let client = Client::new(socket.clone());
    assert!(matches!(
        client.info().await,
        Err(ClientError::NotRunning(_))
    ));
    // The second start meets what a killed daemon leaves: its socket.
    for run in 0..2 {
        let node = start(&seen, root.path());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = {
            let (node, socket) = (Arc::clone(&node), socket.clone());
            tokio::spawn(async move { serve(node, &socket, async { drop(stopped.await) }).await })
        };
        let mut info = client.info().await;
        while matches!(
            info,
            Err(ClientError::NotRunning(_) | ClientError::Connection(_))
        ) {
            tokio::task::yield_now().await;
            info = client.info().await;
        }
        let info = info.unwrap();
        assert_eq!(
            (info.pid, info.store.as_str()),
            (std::process::id(), "memory:")
        );
        assert_eq!(info.packs, run * 2, "the index outlives the process");

        let opened = client.open_image("a", None).await.unwrap();
        assert_eq!(
            (opened.image, opened.tree),
            (added.id.to_string(), added.tree.to_string())
        );
        assert_eq!(read(opened.view.join("etc/name")).await.unwrap(), "left");
        assert_eq!(client.info().await.unwrap().packs, 2);
        let stats = client.cache_stats().await.unwrap();
        assert_eq!((stats.corrupt, stats.failed_reads), (0, 0));

        for (name, code) in [("none", 10), ("a b", 2)] {
            let refused = client.open_image(name, None).await.unwrap_err();
            assert!(
                matches!(refused, ClientError::Refused { code: c, .. } if c == code),
                "{name}"
            );
        }
        faults.set_partitioned(true);
        let refused = client.open_image("a", None).await.unwrap_err();
        assert!(
            matches!(refused, ClientError::Refused { code: 1, ref error } if error.contains("injected"))
        );
        assert_eq!(
            read(opened.view.join("etc/name")).await.unwrap(),
            "left",
            "cached"
        );
        faults.heal();
        client.open_image("a", None).await.unwrap();

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        Arc::try_unwrap(node).unwrap().stop().await.unwrap();
        assert!(matches!(
            client.info().await,
            Err(ClientError::NotRunning(_))
        ));
        assert!(socket.exists(), "the socket is left for the caller");
    }
}

/// The overlay of an image, unmounted when it is dropped; beside it the view of the same tree.
struct Mounted {
    target: tempfile::TempDir,
    view: std::path::PathBuf,
}

impl Mounted {
    async fn new(node: &Node, image: &str) -> Self {
        let opened = node.open_image(image, None).await.unwrap();
        assert_eq!(opened.mode, nacre_snapshotter::MountMode::Kernel);
        let target = tempfile::tempdir().unwrap();
        let spec = OverlaySpec {
            lower: opened.lower,
            upper: None,
            target: target.path().to_owned(),
            options: Vec::new(),
        };
        tokio::task::spawn_blocking(move || overlay(&spec))
            .await
            .unwrap()
            .unwrap();
        Self {
            target,
            view: opened.view,
        }
    }

    /// Reads through the gate.
    fn read(&self) -> tokio::task::JoinHandle<std::io::Result<String>> {
        tokio::spawn(read(self.target.path().join("etc/name")))
    }

    /// Reads through the view.
    fn view(&self) -> tokio::task::JoinHandle<std::io::Result<String>> {
        tokio::spawn(read(self.view.join("etc/name")))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(umount(self.target.path(), Umount::Detach));
    }
}

async fn read_file(mounted: &Mounted) -> [std::io::Result<String>; 2] {
    let (gate, view) = tokio::join!(mounted.read(), mounted.view());
    [gate.unwrap(), view.unwrap()]
}

fn assert_eio(reads: [std::io::Result<String>; 2]) {
    for read in reads {
        assert_eq!(read.unwrap_err().raw_os_error(), Some(5), "EIO");
    }
}

fn assert_reads(reads: [std::io::Result<String>; 2], content: &str) {
    for read in reads {
        assert_eq!(read.unwrap(), content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_is_answered_before_the_indexes_of_its_packs_and_reads_wait_for_them() {
    let store = memory_store();
    add(&store, "a", image("left").path()).await;
    let (gate, requests) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
    let seen: Arc<dyn BlobStore> = {
        let (gate, requests) = (Arc::clone(&gate), Arc::clone(&requests));
        Arc::new(HookStore::new(store, move |_, key| {
            requests.fetch_add(1, Ordering::SeqCst);
            let (gate, is_index) = (Arc::clone(&gate), key.starts_with("index/"));
            Box::pin(async move {
                if is_index {
                    gate.acquire().await.unwrap().forget();
                }
            })
        }))
    };
    let root = tempfile::tempdir().unwrap();
    let node = start(&seen, root.path());
    let mounted = Mounted::new(&node, "a").await;
    assert!(mounted.target.path().join("etc").is_dir());
    while requests.load(Ordering::SeqCst) < 8 {
        // The name, the record, the metadata image, three traces that are not there: its own, its
        // repository's and that of what began with it, two indexes.
        tokio::task::yield_now().await;
    }
    for opened in 1..4 {
        node.open_image("a", None).await.unwrap();
        // Its own trace and those of its kin are looked for again only after a while.
        let requests = requests.load(Ordering::SeqCst);
        assert_eq!(requests, 8 + opened, "the name, and nothing else twice");
    }
    let reads = [mounted.read(), mounted.view()];
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(reads.iter().all(|read| !read.is_finished()));
    let info = node.info().unwrap();
    assert_eq!((info.packs, info.packs_awaited), (0, 2));

    gate.add_permits(2);
    for read in reads {
        assert_eq!(read.await.unwrap().unwrap(), "left");
    }
    let info = node.info().unwrap();
    assert_eq!((info.packs, info.packs_awaited), (2, 0));
    drop(mounted);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_had_is_eio_for_its_files_until_it_can() {
    let store = memory_store();
    add(&store, "a", image("left").path()).await;
    add(&store, "b", image("right").path()).await;
    let faults = Arc::new(FaultStore::new(Arc::clone(&store)));
    let seen: Arc<dyn BlobStore> = Arc::clone(&faults) as _;
    let root = tempfile::tempdir().unwrap();
    let node = start(&seen, root.path());
    let other = Mounted::new(&node, "b").await;
    assert_reads(read_file(&other).await, "right");
    faults.inject(Fault::new(FaultKind::FailBefore).below("index/"));
    let mounted = Mounted::new(&node, "a").await;
    assert_eio(read_file(&mounted).await);
    assert_eio(read_file(&mounted).await);
    assert_reads(read_file(&other).await, "right");
    faults.heal();
    assert_reads(read_file(&mounted).await, "left");
    assert_eq!(node.info().unwrap().packs_awaited, 0);
    drop((mounted, other));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_store_is_eio_after_its_time() {
    let store = memory_store();
    add(&store, "a", image("left").path()).await;
    let faults = Arc::new(FaultStore::new(store));
    let policy = RetryPolicy {
        deadline: Duration::from_millis(300),
        ..RetryPolicy::default()
    };
    let clock = Arc::new(SystemClock::new());
    let seen: Arc<dyn BlobStore> =
        Arc::new(RetryStore::new(Arc::clone(&faults) as _, clock, policy, 1));
    let root = tempfile::tempdir().unwrap();
    let node = start(&seen, root.path());
    faults.inject(Fault::new(FaultKind::Delay(Duration::from_secs(3600))).below("index/"));
    let mounted = Mounted::new(&node, "a").await;
    assert_eio(read_file(&mounted).await);
    assert!(node.info().unwrap().packs_awaited > 0);
    drop(mounted);
    node.stop().await.unwrap();
}

/// A module of its own frame, which imports another.
fn module(imports: &str) -> String {
    let noise = blake3::Hasher::new()
        .update(imports.as_bytes())
        .finalize_xof();
    let mut bytes = vec![0; 400_000];
    std::io::Read::read_exact(&mut { noise }, &mut bytes).unwrap();
    let noise: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{imports}\n# {noise}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_module_imports_comes_with_it() {
    let directory = image("passwd");
    let modules = [
        ("main", "import one"),
        ("one", "from two import x"),
        ("two", ""),
        ("other", "x = 1"),
    ];
    for (name, imports) in modules {
        let path = directory.path().join(format!("etc/{name}.py"));
        std::fs::write(path, module(imports)).unwrap();
    }
    let store = memory_store();
    add(&store, "a", directory.path()).await;
    let faults = Arc::new(FaultStore::new(store));
    let seen: Arc<dyn BlobStore> = Arc::clone(&faults) as _;
    let root = tempfile::tempdir().unwrap();
    let node = start(&seen, root.path());
    let mounted = Mounted::new(&node, "a").await;
    let file = |name: &str| read(mounted.target.path().join(format!("etc/{name}.py")));
    assert_eq!(file("main").await.unwrap(), module("import one"));
    // One frame was asked for; two more come by themselves.
    while node.cache_stats().origin.reads < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    faults.set_partitioned(true);
    assert_eq!(file("two").await.unwrap(), module(""));
    assert_eq!(file("one").await.unwrap(), module("from two import x"));
    assert!(file("other").await.is_err(), "nothing imports it");
    faults.set_partitioned(false);
    assert_eq!(file("other").await.unwrap(), module("x = 1"));
    drop(mounted);
    node.stop().await.unwrap();
}
