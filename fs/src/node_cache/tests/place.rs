//! Placing contents for a kernel that waits for them.

use super::*;

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_content_has_two_names_when_the_answer_comes() {
    let node = Node::new();
    node.reader.delay(Duration::from_millis(20));
    let bytes = pseudo_random(10_000, 1);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    let place = async || {
        let placed = node.cache.place(content, 10_000).await.unwrap();
        assert_eq!(placed, Placed::Local);
        assert_eq!(fs::read(node.file("arrivals", content)).unwrap(), bytes);
    };
    // Those that read and those that place share one fetch.
    let reads = (0..8).map(|_| node.cache.read(content, 10_000, 5, 10));
    let (_, reads) = tokio::join!(join_all((0..8).map(|_| place())), join_all(reads));
    for read in reads {
        assert_eq!(read.unwrap(), bytes[5..15]);
    }
    assert_eq!(node.reader.chunk_reads(), 1);
    let [store, arrival] = ["store", "arrivals"].map(|folder| node.file(folder, content));
    assert_eq!(inode(&store), inode(&arrival));
    // What a read brought in is only linked.
    let read = node.reader.add_content(b"read", CHUNK_BYTES);
    node.read_all(read, 4).await.unwrap();
    node.settle().await;
    assert_eq!(node.cache.place(read, 4).await.unwrap(), Placed::Local);
    assert_eq!(fs::read(node.file("arrivals", read)).unwrap(), b"read");
    assert_eq!(node.reader.chunk_reads(), 2);
}

#[tokio::test]
async fn a_placement_that_joins_a_read_gives_both_names_too() {
    let node = Node::new();
    node.loaded();
    node.reader.delay(Duration::from_millis(20));
    let content = node.reader.add_content(b"read first", CHUNK_BYTES);
    let read = node.cache.read(content, 10, 0, 10);
    // Polled in this order, so that the fetch is the read's, which needs one name.
    let (read, placed) = tokio::join!(biased; read, node.cache.place(content, 10));
    assert_eq!(read.unwrap(), b"read first"[..]);
    assert_eq!(placed.unwrap(), Placed::Local);
    for folder in ["store", "arrivals"] {
        assert_eq!(fs::read(node.file(folder, content)).unwrap(), b"read first");
    }
    assert_eq!(node.reader.chunk_reads(), 1);
}

#[tokio::test]
async fn arrivals_are_empty_after_a_start_and_garbled_ones_are_fetched_again() {
    let node = Node::new();
    let contents: Vec<_> = (0..3).map(|seed| pseudo_random(5_000, seed)).collect();
    let ids: Vec<_> = contents
        .iter()
        .map(|c| node.reader.add_content(c, CHUNK_BYTES))
        .collect();
    for id in &ids {
        node.cache.place(*id, 5_000).await.unwrap();
    }
    let garbled = fs::File::options()
        .write(true)
        .open(node.file("arrivals", ids[0]));
    garbled.unwrap().write_all_at(b"garbled", 7).unwrap();
    fs::remove_file(node.file("store", ids[1])).unwrap();
    let node = node.lose_power_and_restart().await;
    for (id, content) in ids.iter().zip(&contents) {
        assert!(!node.file("arrivals", *id).exists());
        assert_eq!(node.cache.place(*id, 5_000).await.unwrap(), Placed::Local);
        for folder in ["store", "arrivals"] {
            assert_eq!(fs::read(node.file(folder, *id)).unwrap(), *content);
        }
    }
    // The garbled one, and the one that was left in the arrivals alone.
    assert_eq!(node.reader.chunk_reads(), 3 + 2);
    node.settle().await;
    node.cache.close().await.unwrap();
    let Node {
        folder,
        reader,
        cache,
    } = node;
    drop(cache);
    let cache = open(folder.path(), &reader);
    let node = Node {
        folder,
        reader,
        cache,
    };
    node.loaded();
    assert!(!node.file("arrivals", ids[2]).exists());
    assert_eq!(fs::read(node.file("store", ids[2])).unwrap(), contents[2]);
}

#[tokio::test]
async fn errors_of_a_placement_are_those_of_a_read() {
    let node = Node::new();
    let bad = node.reader.add_content(b"bad", CHUNK_BYTES);
    node.reader.corrupt(*bad.digest());
    let placed = node.cache.place(bad, 3).await;
    assert!(matches!(placed, Err(ReadError::Corrupt { .. })));
    let unknown = ContentId::new(Digest::of(b"unknown"));
    let placed = node.cache.place(unknown, 7).await;
    assert!(matches!(placed, Err(ReadError::NotFound(_))));
    node.reader.heal(*bad.digest());
    let placed = node.cache.place(bad, 4).await;
    assert!(matches!(placed, Err(ReadError::Corrupt { .. })), "length");
    assert_eq!(node.cache.place(bad, 3).await.unwrap(), Placed::Local);
    let empty = ContentId::new(Digest::of(b""));
    assert_eq!(node.cache.place(empty, 0).await.unwrap(), Placed::Local);
    assert_eq!(fs::read(node.file("arrivals", empty)).unwrap(), b"");
}

/// Needs root, to mount a small tmpfs.
#[tokio::test]
async fn what_the_disk_does_not_take_is_unstored_and_readable() {
    let disk = SmallDisk::new(c"size=300k");
    let mut node = Node::new();
    node.cache = open(&disk.path().join("cache"), &node.reader);
    let bytes = pseudo_random(400_000, 1);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    let placed = node.cache.place(content, 400_000).await;
    assert_eq!(placed.unwrap(), Placed::Unstored);
    assert_eq!(node.read_all(content, bytes.len()).await.unwrap(), bytes);
}
