//! A scan of ten times the cache beside a hot set.

use nacre_blobstore::testing::TokioClock;

use super::*;

/// Reads of the hot set that needed no origin, of 1,000.
async fn hot_hits(lab: &Lab, hot: &[ObjectName], mut scan: &mut dyn Iterator<Item = u32>) -> u64 {
    let mut hits = 0;
    for round in 0..20 {
        tokio::time::advance(Duration::from_secs(3)).await;
        for (index, name) in hot.iter().enumerate() {
            let gets = lab.gets();
            let range = 0..BLOCK_U64;
            let bytes = lab.read(name, range.clone()).await.unwrap();
            assert_eq!(
                bytes,
                part_of(u32::try_from(index).unwrap(), range),
                "{round}"
            );
            hits += u64::from(lab.gets() == gets);
            for number in Iterator::by_ref(&mut scan).take(SCANNED_PER_READ) {
                let name = lab.put(number, BLOCK_U64).await;
                // In pieces, as readers do.
                for start in (0..BLOCK_U64).step_by(8 << 10) {
                    lab.read(&name, start..start + (8 << 10)).await.unwrap();
                }
                lab.store.delete(name.key()).await.unwrap();
            }
        }
    }
    hits
}

const SCANNED_PER_READ: usize = 16;

#[tokio::test(start_paused = true)]
async fn a_scan_leaves_the_hot_set_in_memory() {
    let lab = Lab::new(&options(None), Arc::new(TokioClock::new()));
    // The tier has 48 MiB, of which the hot set takes a few; the scan is of ten times the tier.
    let tier_blocks = lab.cache.budget.tier_bytes() / BLOCK_U64;
    let mut hot = Vec::new();
    for number in 0..50 {
        hot.push(lab.put(number, BLOCK_U64).await);
    }
    hot_hits(&lab, &hot, &mut std::iter::empty()).await;
    let before = hot_hits(&lab, &hot, &mut std::iter::empty()).await;
    let mut scan = 1_000..1_000 + u32::try_from(10 * tier_blocks).unwrap();
    let during = hot_hits(&lab, &hot, &mut scan).await;
    assert_eq!(scan.len(), 0, "all of it was scanned");
    assert_eq!(before, 1000);
    assert!(during >= before - 50, "{during} hits of {before}");
}

#[tokio::test(start_paused = true)]
async fn what_is_hot_in_memory_stays_on_the_disk_beside_a_scan() {
    let folder = TempDir::new().unwrap();
    let disk_blocks = 100;
    let disk = Some((folder.path().to_owned(), disk_blocks * BLOCK_U64));
    let lab = Lab::new(&options(disk), Arc::new(TokioClock::new()));
    let mut hot = Vec::new();
    for number in 0..20 {
        hot.push(lab.put(number, BLOCK_U64).await);
    }
    let gets = lab.gets();
    let mut scan = 1_000..;
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(3)).await;
        for name in &hot {
            lab.read(name, 0..BLOCK_U64).await.unwrap();
            lab.landed().await;
        }
        for number in scan.by_ref().take(50) {
            let name = lab.put(number, BLOCK_U64).await;
            lab.read(&name, 0..BLOCK_U64).await.unwrap();
            lab.landed().await;
        }
    }
    // The memory has room for all of this, so that the disk is never asked.
    assert_eq!(lab.gets() - gets, 20 + 20 * 50);
    lab.empty_memory();
    for name in &hot {
        lab.read(name, 0..BLOCK_U64).await.unwrap();
    }
    assert_eq!(lab.gets() - gets, 20 + 20 * 50, "all that is hot is here");
}
