//! A cache behind HTTP, in a process of its own: it can be killed, and its memory is its own.
//!
//! Prints its port. For each line `FROM TO` on its standard input it prints how many requests the
//! origin had for the objects FROM up to TO. Ends with its standard input.

use std::path::Path;
use std::sync::Arc;

use nacre_blobstore::SystemClock;
use nacre_region_cache::{CacheOptions, RegionServer, ServerOptions};
use tokio::net::TcpListener;

use crate::foyer_member;
use crate::origin::Origin;

/// As `nacre region serve` has it.
const EVENT_INTERVAL: u32 = 4;

/// What a cache may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quota {
    pub(crate) disk_bytes: u64,
    pub(crate) memory_bytes: u64,
}

impl Quota {
    pub(crate) const fn new(disk_mib: u64) -> Self {
        Self {
            disk_bytes: disk_mib << 20,
            memory_bytes: (disk_mib << 20) / 8,
        }
    }

    /// Returns how much memory is for blocks that stay: a member keeps a quarter free for others.
    pub(crate) const fn tier_bytes(&self) -> u64 {
        self.memory_bytes / 4 * 3
    }
}

pub(crate) fn serve(cache: &str, folder: &Path, disk_mib: u64) {
    // Enough for a scan of ten times the disk, and what is hot beside it.
    let origin = Arc::new(Origin::new(disk_mib));
    let quota = Quota::new(disk_mib);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.event_interval(EVENT_INTERVAL).enable_all();
    let runtime = runtime.build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    if let Some(settings) = cache.strip_prefix("foyer") {
        let settings = foyer_member::Settings::parse(settings);
        let member = foyer_member::open(settings, folder, quota, Arc::clone(&origin));
        let member = runtime.block_on(member);
        drop(runtime.spawn(foyer_member::serve(member, listener)));
    } else {
        assert_eq!(cache, "nacre", "an unknown cache");
        let server = nacre(folder, quota, Arc::clone(&origin));
        drop(runtime.spawn(server.serve(listener, std::future::pending())));
    }
    println!("{port}");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (from, to) = line.split_once(' ').unwrap();
        println!(
            "{}",
            origin.gets(from.parse().unwrap()..to.parse().unwrap())
        );
    }
}

fn nacre(folder: &Path, quota: Quota, origin: Arc<Origin>) -> RegionServer {
    let options = ServerOptions {
        cache: CacheOptions {
            memory_bytes: quota.memory_bytes,
            disk: Some((folder.to_owned(), quota.disk_bytes)),
            ..CacheOptions::default()
        },
        ..ServerOptions::default()
    };
    RegionServer::open(options, origin, Arc::new(SystemClock::new())).unwrap()
}
