//! Requests, as fast as they are answered, by threads with blocking sockets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::http::Connection;
use crate::objects::{Random, path, shuffled, word};
use crate::origin::OBJECT_BYTES;

const CONNECTIONS: u64 = 8;

/// A range of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Get {
    pub(crate) object: u64,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// How it went.
pub(crate) struct Figures {
    pub(crate) bytes: u64,
    pub(crate) mb_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Returns each range of this length of the first `bytes` of all objects, in random order.
pub(crate) fn every(bytes: u64, len: u64) -> Vec<Get> {
    let order = shuffled(bytes / len).into_iter();
    order.map(|number| at(number * len, len)).collect()
}

/// Returns the beginning of each of these blocks, in random order.
pub(crate) fn beginnings(blocks: u64, block_bytes: u64, len: u64) -> Vec<Get> {
    let order = shuffled(blocks).into_iter();
    order.map(|number| at(number * block_bytes, len)).collect()
}

/// Returns the range that begins so far into all objects.
pub(crate) const fn at(position: u64, len: u64) -> Get {
    Get {
        object: position / OBJECT_BYTES,
        offset: position % OBJECT_BYTES,
        len,
    }
}

/// Asks for ranges in their order; again and again for `time`, if there is one.
pub(crate) fn run(target: &str, gets: &[Get], time: Option<Duration>) -> Figures {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let take = || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        match time {
            Some(time) => (start.elapsed() < time).then(|| gets[index % gets.len()]),
            None => gets.get(index).copied(),
        }
    };
    let client = |number| {
        let mut connection = Connection::open(target, number);
        let mut waits = Vec::new();
        let mut bytes = 0;
        while let Some(get) = take() {
            let asked = Instant::now();
            let path = path(get.object);
            let first = loop {
                match connection.get(&path, get.offset, get.len) {
                    Ok(first) => break first,
                    Err(wait) => std::thread::sleep(wait),
                }
            };
            waits.push(asked.elapsed());
            bytes += get.len;
            assert_eq!(first, word(get.object, get.offset), "a wrong byte");
        }
        (waits, bytes)
    };
    let (mut waits, mut bytes) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let clients = (0..CONNECTIONS).map(|number| scope.spawn(move || client(number)));
        for thread in clients.collect::<Vec<_>>() {
            let (some, read) = thread.join().unwrap();
            waits.extend(some);
            bytes += read;
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    waits.sort();
    let at = |share: usize| waits[(waits.len() - 1) * share / 100].as_secs_f64() * 1e6;
    Figures {
        bytes,
        mb_per_s: bytes as f64 / seconds / 1e6,
        p50_us: at(50),
        p99_us: at(99),
    }
}

/// Returns a scan of `blocks` blocks after `hot` ones that are read beside it: of one half of these
/// each is read four times while the scan passes over `turnover` blocks, of the other half once.
pub(crate) fn scan(hot: u64, blocks: u64, turnover: u64, block_bytes: u64, len: u64) -> Vec<Get> {
    let half = hot / 2;
    let (often, seldom) = (turnover / (4 * half), turnover / half);
    let mut random = Random::new(blocks);
    let mut gets = Vec::new();
    for number in 0..blocks {
        gets.push(at((hot + number) * block_bytes, block_bytes));
        if number % often == 0 {
            gets.push(at(random.below(half) * block_bytes, len));
        }
        if number % seldom == 1 {
            gets.push(at((half + random.below(half)) * block_bytes, len));
        }
    }
    gets
}
