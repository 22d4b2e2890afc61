//! Range requests against an HTTP cache, as fast as it answers: what `scripts/bench-region.sh`
//! measures nginx and a region member with.
//!
//! ```text
//! ranges make DIR COUNT BYTES                      objects of a `file://` store
//! ranges run HOST:PORT COUNT BYTES RANGE CONNECTIONS SECONDS
//! ```
//! With 0 seconds every range is asked for once, in random order; else at random for that time.
//! Who is turned away with 503 comes back when it was told to. Prints one JSON object. Each connection is a thread with a blocking socket; the first bytes of
//! each body are compared with what was made.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program"
)]

mod http;
mod objects;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Connection;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().unwrap();
    match words.as_slice() {
        ["make", folder, count, bytes] => {
            objects::make(folder.as_ref(), number(count), number(bytes));
        }
        ["run", target, count, bytes, range, connections, seconds] => run(&Load {
            target: (*target).to_owned(),
            count: number(count),
            bytes: number(bytes),
            range: number(range),
            connections: number(connections),
            duration: Duration::from_secs(number(seconds)),
        }),
        // As `cargo bench` and `cargo test` call it.
        _ => println!(
            "ranges make DIR COUNT BYTES | ranges run HOST:PORT COUNT BYTES RANGE CONNECTIONS SECONDS"
        ),
    }
}

struct Load {
    target: String,
    count: u64,
    bytes: u64,
    range: u64,
    connections: u64,
    duration: Duration,
}

fn run(load: &Load) {
    let per_object = load.bytes / load.range;
    let ranges = load.count * per_object;
    let order = Arc::new(objects::shuffled(ranges));
    let (next, shed) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let waits: Vec<Vec<(Duration, Duration)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..load.connections)
            .map(|number| {
                let (order, next, shed) = (Arc::clone(&order), &next, &shed);
                scope.spawn(move || {
                    let mut connection = Connection::open(&load.target, number);
                    let mut random = objects::Random::new(number);
                    let mut waits = Vec::new();
                    loop {
                        let pick = if load.duration.is_zero() {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            let Some(range) = order.get(usize::try_from(index).unwrap()) else {
                                return waits;
                            };
                            *range
                        } else if start.elapsed() < load.duration {
                            random.below(ranges)
                        } else {
                            return waits;
                        };
                        let (object, offset) = (pick / per_object, pick % per_object * load.range);
                        let asked = Instant::now();
                        let path = objects::path(object);
                        let first = loop {
                            match connection.get(&path, offset, load.range) {
                                Ok(first) => break first,
                                Err(wait) => {
                                    shed.fetch_add(1, Ordering::Relaxed);
                                    std::thread::sleep(wait);
                                }
                            }
                        };
                        waits.push((start.elapsed(), asked.elapsed()));
                        assert_eq!(first, objects::word(object, offset), "a wrong byte");
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let (ends, mut waits): (Vec<_>, Vec<_>) = waits.into_iter().flatten().unzip();
    waits.sort();
    let part = |at: &Duration| usize::try_from(at.as_secs() / 10).unwrap();
    let mut parts = vec![0; ends.iter().map(part).max().unwrap() + 1];
    ends.iter().for_each(|end| parts[part(end)] += 1);
    let at = |share: usize| waits[(waits.len() - 1) * share / 100].as_micros();
    let requests = waits.len() as f64;
    println!(
        "{{\"requests\":{requests},\"seconds\":{seconds:.3},\"requests_per_s\":{:.0},\
         \"mb_per_s\":{:.0},\"p50_us\":{},\"p99_us\":{},\"turned_away\":{},\
         \"requests_in_10_s\":{parts:?}}}",
        requests / seconds,
        requests * load.range as f64 / seconds / 1e6,
        at(50),
        at(99),
        shed.into_inner(),
    );
}
