//! The disk and the origin at their worst: never a wrong byte of the member's making, and service
//! goes on.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;

use nacre_blobstore::testing::{Fault, FaultKind};

use super::*;

/// Opens a file of the disk tier as whoever damages it does.
pub(super) fn damaged(folder: &TempDir, name: &str) -> File {
    let path = folder.path().join(name);
    File::options().read(true).write(true).open(path).unwrap()
}

/// Fills the disk with an object of so many blocks, and nothing else.
pub(super) async fn on_disk(lab: &Lab, blocks: u64) -> ObjectName {
    let name = lab.put(1, blocks * BLOCK_U64).await;
    lab.read(&name, 0..blocks * BLOCK_U64).await.unwrap();
    lab.landed().await;
    lab.empty_memory();
    name
}

#[tokio::test]
async fn flipped_bytes_on_the_disk_are_fetched_anew() {
    let folder = TempDir::new().unwrap();
    let lab = Lab::disk(&folder, 100);
    let name = on_disk(&lab, 50).await;
    let file = damaged(&folder, "blocks");
    for block in (0..50).step_by(3) {
        let at = block * BLOCK_U64 + block * 601 % BLOCK_U64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << (block % 8)], at)
            .unwrap();
    }
    let gets = lab.gets();
    for _ in 0..2 {
        let bytes = lab.read(&name, 0..50 * BLOCK_U64).await.unwrap();
        assert_eq!(bytes, body(1, 50 * BLOCK_U64));
        lab.landed().await;
        lab.empty_memory();
    }
    let disk = lab.cache.disk().unwrap();
    assert_eq!(disk.counters.corrupt.load(Ordering::Relaxed), 17);
    assert!(lab.gets() > gets);
}

#[tokio::test]
async fn files_that_are_cut_off_while_it_runs_cost_what_was_lost() {
    for (file, len) in [("blocks", 10 * BLOCK_U64 + 5), ("blocks", 0), ("table", 0)] {
        let folder = TempDir::new().unwrap();
        let lab = Lab::disk(&folder, 100);
        let name = on_disk(&lab, 30).await;
        damaged(&folder, file).set_len(len).unwrap();
        for _ in 0..2 {
            let bytes = lab.read(&name, 0..30 * BLOCK_U64).await.unwrap();
            assert_eq!(bytes, body(1, 30 * BLOCK_U64));
            lab.landed().await;
            lab.empty_memory();
        }
    }
}

#[tokio::test]
async fn another_blocks_bytes_are_not_served() {
    let folder = TempDir::new().unwrap();
    let lab = Lab::disk(&folder, 100);
    let name = on_disk(&lab, 4).await;
    let file = damaged(&folder, "blocks");
    let mut block = vec![0; BLOCK as usize];
    file.read_exact_at(&mut block, 2 * BLOCK_U64).unwrap();
    file.write_all_at(&block, 0).unwrap();
    let bytes = lab.read(&name, 0..4 * BLOCK_U64).await.unwrap();
    assert_eq!(bytes, body(1, 4 * BLOCK_U64));
}

#[tokio::test]
async fn a_body_of_another_length_is_an_error() {
    let lab = Lab::memory();
    let extent = u64::from(ORIGIN_GET_BYTES_MAX);
    let name = lab.put(1, extent).await;
    for (wanted, len) in [
        (BLOCK_U64, 0),
        (BLOCK_U64, BLOCK as usize - 1),
        (extent, 1),
        (extent, BLOCK as usize),
        (extent, ORIGIN_GET_BYTES_MAX as usize - 1),
    ] {
        lab.store.truncate_next_gets(1, len);
        let outcome = lab.read(&name, 0..wanted).await;
        assert!(
            matches!(outcome, Err(CacheError::Unavailable(_))),
            "{outcome:?}"
        );
    }
    assert!(lab.read(&name, 0..extent).await.unwrap() == body(1, extent));
}

#[tokio::test]
async fn an_origin_that_is_gone_and_back_is_an_error_and_then_none() {
    let folder = TempDir::new().unwrap();
    let lab = Lab::disk(&folder, 100);
    let here = on_disk(&lab, 3).await;
    let missing = lab.put(2, BLOCK_U64).await;
    lab.store.set_partitioned(true);
    let bytes = lab.read(&here, 0..3 * BLOCK_U64).await.unwrap();
    assert_eq!(bytes, body(1, 3 * BLOCK_U64));
    let outcome = lab.read(&missing, 0..1).await;
    assert!(
        matches!(outcome, Err(CacheError::Unavailable(_))),
        "{outcome:?}"
    );
    lab.store.heal();
    assert_eq!(lab.read(&missing, 0..1).await.unwrap(), part_of(2, 0..1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_origin_delays_only_who_waits_for_it() {
    let clock = Arc::new(nacre_blobstore::testing::TokioClock::new());
    let lab = Lab::new(&options(None), clock);
    let hot = lab.put(1, BLOCK_U64).await;
    lab.read(&hot, 0..BLOCK_U64).await.unwrap();
    let slow = lab.put(2, BLOCK_U64).await;
    let delay = Fault::new(FaultKind::Delay(Duration::from_secs(60)));
    lab.store.inject(delay.below(slow.key().as_str()));
    let waits = lab.read(&slow, 0..1);
    let mut waits = std::pin::pin!(waits);
    assert!(futures::poll!(&mut waits).is_pending());
    let before = lab.cache.clock.elapsed();
    lab.read(&hot, 0..BLOCK_U64).await.unwrap();
    assert_eq!(lab.cache.clock.elapsed(), before);
    assert_eq!(waits.await.unwrap(), part_of(2, 0..1));
    assert!(lab.cache.clock.elapsed() >= Duration::from_secs(60));
}
