//! Restarts after stops of each kind, and damage that is found later.

use super::*;

#[tokio::test]
async fn what_was_garbled_before_an_unclean_start_is_never_served() {
    let mut node = Node::new();
    let contents: Vec<_> = (0..4).map(|seed| pseudo_random(5_000, seed)).collect();
    let ids: Vec<_> = contents
        .iter()
        .map(|c| node.reader.add_content(c, CHUNK_BYTES))
        .collect();
    for id in &ids {
        node.read_all(*id, 5_000).await.unwrap();
    }
    node.settle().await;
    let file = |i: usize| {
        fs::File::options()
            .write(true)
            .open(node.file("store", ids[i]))
            .unwrap()
    };
    file(0).write_all_at(b"garbled", 100).unwrap();
    file(1).set_len(4_999).unwrap();
    file(2).set_len(0).unwrap();
    for restarts in 1..3 {
        node = node.lose_power_and_restart().await;
        assert!(
            !node.file("store", ids[3]).exists(),
            "overlayfs must not see it unchecked"
        );
        for (id, content) in ids.iter().zip(&contents) {
            assert_eq!(node.read_all(*id, 5_000).await.unwrap(), *content);
        }
        node.settle().await;
        assert_eq!(node.reader.chunk_reads(), 4 + 3, "restart {restarts}");
        assert_eq!(fs::read(node.file("store", ids[3])).unwrap(), contents[3]);
    }
}

#[tokio::test]
async fn a_partial_content_is_checked_chunk_by_chunk_after_a_restart() {
    let node = Node::new();
    let bytes = pseudo_random(16 * CHUNK_BYTES, 6);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    for chunk in [3, 9, 12] {
        let offset = (chunk * CHUNK_BYTES + 1) as u64;
        node.cache
            .read(content, bytes.len() as u64, offset, 10)
            .await
            .unwrap();
    }
    node.settle().await;
    let file = fs::File::options()
        .write(true)
        .open(node.file("partial", content))
        .unwrap();
    file.write_all_at(b"x", (9 * CHUNK_BYTES + 500) as u64)
        .unwrap();
    let node = node.kill_and_restart().await;
    assert_eq!(node.read_all(content, bytes.len()).await.unwrap(), bytes);
    node.settle().await;
    assert_eq!(
        node.reader.chunk_reads(),
        3 + 14,
        "all but the two that are right"
    );
    assert_eq!(fs::read(node.file("store", content)).unwrap(), bytes);
}

#[tokio::test]
async fn after_an_orderly_close_nothing_is_fetched_or_moved() {
    let node = Node::new();
    let content = node.reader.add_content(b"kept", CHUNK_BYTES);
    node.read_all(content, 4).await.unwrap();
    node.cache.close().await.unwrap();
    let Node {
        folder,
        reader,
        cache,
    } = node;
    drop(cache);
    let arrived = reader.add_content(b"arrived", CHUNK_BYTES);
    let node = Node {
        cache: open(folder.path(), &reader),
        folder,
        reader,
    };
    let file = node.file("arrivals", arrived);
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(file, b"arrived").unwrap();
    assert!(node.file("store", content).exists());
    node.reader.set_unavailable(true);
    assert_eq!(node.read_all(content, 4).await.unwrap(), "kept");
    node.cache.close().await.unwrap();
    let Node {
        folder,
        reader,
        cache,
    } = node;
    drop(cache);
    let node = Node {
        cache: open(folder.path(), &reader),
        folder,
        reader,
    };
    node.loaded();
    assert_eq!(fs::read(node.file("store", arrived)).unwrap(), b"arrived");
    assert_eq!(node.read_all(arrived, 7).await.unwrap(), "arrived");
}

#[tokio::test]
async fn two_processes_cannot_share_a_cache() {
    let node = Node::new();
    let clock = Arc::new(SystemClock::new());
    let second = NodeCache::open(node.folder.path(), Arc::clone(&node.reader) as _, clock);
    assert!(matches!(second, Err(NodeCacheError::Busy(_))));
}

#[tokio::test]
async fn bit_rot_found_by_verify_and_files_cut_while_open_are_fetched_again() {
    let node = Node::new();
    let bytes = pseudo_random(9_000, 7);
    let content = node.reader.add_content(&bytes, CHUNK_BYTES);
    assert_eq!(node.cache.verify(content).await, None);
    node.read_all(content, 9_000).await.unwrap();
    node.settle().await;
    assert_eq!(node.cache.verify(content).await, Some(true));
    let file = fs::File::options()
        .write(true)
        .open(node.file("store", content))
        .unwrap();
    file.write_all_at(b"rot", 8_000).unwrap();
    assert_eq!(node.cache.verify(content).await, Some(false));
    assert_eq!(node.read_all(content, 9_000).await.unwrap(), bytes);
    node.settle().await;
    let file = fs::File::options()
        .write(true)
        .open(node.file("store", content))
        .unwrap();
    file.set_len(10).unwrap();
    assert_eq!(node.read_all(content, 9_000).await.unwrap(), bytes);
    assert_eq!(node.reader.chunk_reads(), 3);
}

#[tokio::test]
async fn a_survey_counts_what_is_there_and_drops_what_is_bad() {
    let node = Node::new();
    let contents: Vec<_> = (0..5).map(|seed| pseudo_random(5_000, seed)).collect();
    let ids: Vec<_> = contents
        .iter()
        .map(|c| node.reader.add_content(c, CHUNK_BYTES))
        .collect();
    for id in &ids {
        node.read_all(*id, 5_000).await.unwrap();
    }
    let large = pseudo_random(10 * CHUNK_BYTES, 9);
    let partial = node.reader.add_content(&large, CHUNK_BYTES);
    let offset = 5 * CHUNK_BYTES as u64;
    node.cache
        .read(partial, large.len() as u64, offset, 1)
        .await
        .unwrap();
    let node = node.lose_power_and_restart().await;
    for id in &ids[..3] {
        node.read_all(*id, 5_000).await.unwrap();
    }
    let usage = node.cache.usage().await.unwrap();
    assert_eq!(
        (usage.contents, usage.unverified, usage.partials),
        (3, 2, 1)
    );
    assert_eq!(
        (usage.content_bytes, usage.unverified_bytes),
        (3 * 8192, 2 * 8192)
    );
    assert!((CHUNK_BYTES as u64..offset).contains(&usage.partial_bytes));
    let file = fs::File::options()
        .write(true)
        .open(node.file("store", ids[1]))
        .unwrap();
    file.write_all_at(b"rot", 3_000).unwrap();
    let mut check = NodeCacheCheck::default();
    for shard in 0..=u8::MAX {
        let of_shard = node.cache.verify_shard(shard).await.unwrap();
        check.checked += of_shard.checked;
        check.corrupt.extend(of_shard.corrupt);
    }
    let corrupt = vec![ids[1]];
    assert_eq!(
        check,
        NodeCacheCheck {
            checked: 5,
            corrupt
        }
    );
    let usage = node.cache.usage().await.unwrap();
    assert_eq!((usage.contents, usage.unverified), (4, 0));
}
