//! `nacre region serve`: a member of a region's cache.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use nacre_region_cache::{
    BLOCK_BYTES, CacheOptions, DiskError, MEMORY_BYTES_MIN, RegionServer, ServerError,
    ServerOptions, Tls,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::RegionServe;
use crate::failure::{BUSY, Failure, USAGE};
use crate::output;
use crate::settings::Settings;

/// Returns how many threads serve connections: the kernel's network, the disk and the origin want a
/// processor, too. One serves more than the network of so small a machine carries.
fn threads() -> usize {
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    (cores - 1).max(1)
}

pub(crate) async fn serve(settings: &Settings, arguments: RegionServe) -> Result<(), Failure> {
    let object = arguments.listen.to_string();
    let fail = |error: &dyn std::fmt::Display| Failure::new("serve", &object, error);
    if arguments.memory < MEMORY_BYTES_MIN {
        let least = format!("--memory is less than {} MiB", MEMORY_BYTES_MIN >> 20);
        return Err(fail(&least).with_code(USAGE));
    }
    let block_bytes = match arguments.block_size {
        Some(bytes) => u32::try_from(bytes).map_err(|error| fail(&error).with_code(USAGE))?,
        None => BLOCK_BYTES,
    };
    let tls = arguments.tls_certificate.zip(arguments.tls_key);
    let tls = tls.map(|(certificate, key)| Tls::read(&certificate, &key));
    let options = ServerOptions {
        cache: CacheOptions {
            memory_bytes: arguments.memory,
            disk: arguments.disk.zip(arguments.disk_size),
            block_bytes,
            origin_requests: arguments.origin_requests,
        },
        tokens: arguments.tokens,
        tls: tls.transpose().map_err(|error| fail(&error))?,
        threads: threads(),
        peers: arguments.peers,
    };
    // First of all, so that a member that cannot listen does not take the disk from one that does.
    let listener = TcpListener::bind(arguments.listen).await;
    let listener = listener.map_err(|error| fail(&error))?;
    let address = listener.local_addr().map_err(|error| fail(&error))?;
    let store = settings.open_store_with_home()?;
    let clock = Arc::clone(&settings.clock);
    let server = tokio::task::spawn_blocking(move || RegionServer::open(options, store, clock));
    let server = server.await.map_err(|error| fail(&error))?;
    let server = server.map_err(|error| match &error {
        ServerError::Disk(DiskError::Busy(_)) => fail(&error).with_code(BUSY),
        _ => fail(&error),
    })?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| fail(&error))?;
    let stop = async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    // Whoever starts it with port 0 learns which one it got, and when it serves.
    if settings.json {
        output::json(&serde_json::json!({ "listen": address.to_string() }))?;
    } else {
        output::line(&format!("serving on {address}"))?;
    }
    server
        .serve(listener, stop)
        .await
        .map_err(|error| fail(&error))
}
