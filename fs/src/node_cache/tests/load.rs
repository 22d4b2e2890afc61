//! Several readers at once, of more than the cache may hold.

use super::*;

const CONTENTS: u64 = 200;
const READERS: u64 = 4;

/// A content's bytes, of 0 to 150,000; each tenth is a large one.
fn bytes_of(number: u64) -> Vec<u8> {
    let len = if number.is_multiple_of(10) {
        1_200_000 + number * 1_000
    } else {
        number * 750
    };
    pseudo_random(usize::try_from(len).unwrap(), number)
}

/// Runs for two seconds, or for five minutes with `NACRE_TEST_LONG=1`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_three_times_the_quota_get_right_bytes_and_it_holds() {
    let seconds = if std::env::var_os("NACRE_TEST_LONG").is_some() {
        300
    } else {
        2
    };
    let folder = tempfile::tempdir().unwrap();
    let reader = Arc::<MemoryReader>::default();
    let clock = Arc::<TestClock>::default();
    let contents: Vec<_> = (0..CONTENTS)
        .map(|number| reader.add_content(&bytes_of(number), CHUNK_BYTES))
        .collect();
    let working_set_bytes: usize = (0..CONTENTS).map(|number| bytes_of(number).len()).sum();
    let quota_bytes = working_set_bytes as u64 * 3 / 10;
    let cache = Arc::new(open_limited(folder.path(), &reader, &clock, quota_bytes));
    let time = Arc::<tokio::sync::RwLock<()>>::default();
    let readers = (0..READERS).map(|reader| {
        let (cache, contents) = (Arc::clone(&cache), contents.clone());
        let time = Arc::clone(&time);
        let folder = folder.path().to_owned();
        tokio::spawn(async move {
            let mut state = reader;
            loop {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(97);
                // Half of all reads go to a tenth of the contents.
                let range = if state >> 63 == 0 {
                    CONTENTS / 10
                } else {
                    CONTENTS
                };
                let number = (state >> 33) % range;
                let content = contents[usize::try_from(number).unwrap()];
                let bytes = bytes_of(number);
                let size = bytes.len() as u64;
                // Time stands still until the kernel has opened what it was told of.
                let _now = time.read().await;
                let placed = cache.place(content, size).await.unwrap();
                if placed == Placed::Local {
                    let arrival = file(&folder, "arrivals", content);
                    assert_eq!(fs::read(arrival).unwrap(), bytes, "as the kernel reads it");
                }
                let offset = (state >> 20) % (size + 1);
                let read = cache.read(content, size, offset, 200_000).await.unwrap();
                let start = usize::try_from(offset).unwrap();
                assert_eq!(read, bytes[start..bytes.len().min(start + 200_000)]);
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    let most_bytes = 1_400_000;
    let timer = SystemClock::new();
    while timer.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let passing = time.write().await;
        clock.advance(Duration::from_secs(3));
        drop(passing);
        let stats = cache.stats();
        assert!(stats.bytes <= quota_bytes + most_bytes, "{stats:?}");
        assert!(readers.iter().all(|reader| !reader.is_finished()));
    }
    for reader in readers {
        reader.abort();
        assert!(reader.await.unwrap_err().is_cancelled());
    }
    settle(&cache).await;
    let (stats, usage) = (cache.stats(), cache.usage().await.unwrap());
    let on_disk_bytes = usage.content_bytes + usage.partial_bytes;
    assert!(on_disk_bytes <= quota_bytes + most_bytes, "{usage:?}");
    assert_eq!(stats.bytes, on_disk_bytes);
    assert!(stats.evicted > 0 && stats.node_reads > 0, "{stats:?}");
    assert_eq!(stats.failed_reads, 0);
}
