//! An empty cache under ten times the demand that its origin carries.

use std::sync::atomic::{AtomicU64, Ordering};

use nacre_blobstore::LimitStore;
use nacre_blobstore::testing::TokioClock;

use super::*;

/// What the origin lets through at once, and what each request takes.
const ORIGIN_REQUESTS: usize = 20;
const ORIGIN_DELAY: Duration = Duration::from_millis(40);
/// Distinct blocks that are asked for in a second: ten times what the origin carries.
const DEMAND_PER_S: u32 = 5_000;
const DEMAND_S: u32 = 12;
const CLIENTS: u32 = 100;

/// Asks until it is served, coming back when it was told to. Returns when that was.
async fn client(lab: Arc<Lab>, number: u32) -> Duration {
    let asker = asker(&format!("node {}", number % CLIENTS));
    let name = name(number);
    loop {
        match lab.read_as(&name, 0..SMALL, &asker).await {
            Ok(bytes) => {
                assert_eq!(bytes, part_of(number, 0..SMALL));
                return lab.cache.clock.elapsed();
            }
            Err(CacheError::Shed { retry_after_s }) => {
                tokio::time::sleep(Duration::from_secs(retry_after_s)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Length of each object: what matters here are requests.
const SMALL: u64 = 64;

#[tokio::test(start_paused = true)]
async fn goodput_does_not_collapse_and_all_are_served() {
    // A minute of demand takes a minute of CPU time.
    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    let demand_s = if long { 60 } else { DEMAND_S };
    let memory = memory_store();
    for number in 0..DEMAND_PER_S * demand_s {
        memory
            .put(name(number).key(), body(number, SMALL))
            .await
            .unwrap();
    }
    let faults = FaultStore::new(memory);
    faults.delay(ORIGIN_DELAY);
    let faults = Arc::new(faults);
    let limited = LimitStore::new(Arc::clone(&faults) as Arc<dyn BlobStore>, ORIGIN_REQUESTS);
    let options = CacheOptions {
        // More than the origin takes at once, as nobody knows what that is.
        origin_requests: ORIGIN_REQUESTS,
        ..options(None)
    };
    let cache = Cache::open(&options, Arc::new(limited), Arc::new(TokioClock::new())).unwrap();
    let lab = Arc::new(Lab {
        store: faults,
        cache: Arc::new(cache),
    });
    let memory_max = Arc::new(AtomicU64::new(0));
    let start = lab.cache.clock.elapsed();
    let mut clients = tokio::task::JoinSet::new();
    // In steps of 20 ms, evenly.
    let per_step = DEMAND_PER_S / 50;
    for step in 0..50 * demand_s {
        for number in step * per_step..(step + 1) * per_step {
            clients.spawn(client(Arc::clone(&lab), number));
        }
        memory_max.fetch_max(lab.cache.budget.bytes(), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut served = clients.join_all().await;
    served.iter_mut().for_each(|at| *at -= start);
    let within = |from: u64, to: u64| {
        let range = Duration::from_secs(from)..Duration::from_secs(to);
        served.iter().filter(|at| range.contains(at)).count()
    };
    let end = u64::from(demand_s);
    let part = end / 6;
    let (first, last) = (within(0, part), within(end - part, end));
    assert!(
        last >= first,
        "{last} in the last {part} s, {first} in the first"
    );
    // The origin carries 500 a second.
    let least = usize::try_from(part * 480).unwrap();
    assert!(first >= least, "{first} in the first {part} s");
    assert!(memory_max.load(Ordering::Relaxed) <= MEMORY_BYTES_MIN);
    // Nothing was fetched twice, and the origin was hardly ever idle: at 500 a second this takes
    // ten times as long as the demand.
    assert_eq!(lab.gets(), u64::from(DEMAND_PER_S * demand_s));
    let took = served.iter().max().unwrap().as_secs();
    let least = 10 * end;
    assert!((least..least + 60).contains(&took), "it took {took} s");
}
