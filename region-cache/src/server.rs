//! A member of a region's cache: serves ranges of the store's immutable objects over HTTP.
//!
//! ```text
//! request -> http (ranges, conditions) -> cache -> memory (S3-FIFO)
//!                                               -> disk   (slots of one file, S3-FIFO)
//!                                               -> flight -> fair queue -> origin (any store)
//! ```
//! What it serves is not verified against the ids of the objects: it has no index of theirs. What
//! is on its disk is checked against checksums that were taken when it came from the origin;
//! readers check all that they get, and report wrong bytes (`POST /report`).
//!
//! Connections are spread over threads, each with a runtime of its own (`workers`).
//!
//! Memory: all blocks, wherever they are, stay within one limit (`budget`). Beside that a disk tier
//! has 16 MiB of buffers to read into (`disk`) and some 450 bytes for each MiB of it, and a connection
//! costs some 20 KiB and what the kernel buffers.

mod access;
mod block;
mod budget;
mod bursts;
mod cache;
mod disk;
mod fair;
mod hottest;
mod http;
mod metrics;
mod object;
mod prometheus;
mod range;
mod s3_fifo;
mod status;
mod tls;
mod workers;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use nacre_blobstore::{BlobStore, Clock};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use self::access::TokenFile;
pub use self::access::{TokenFileError, TokensError};
pub use self::block::{BLOCK_BYTES, BLOCK_BYTES_MAX};
use self::bursts::Bursts;
use self::cache::Cache;
pub use self::cache::{CacheOptions, MEMORY_BYTES_MIN, ORIGIN_REQUESTS};
pub use self::disk::DiskError;
use self::hottest::Hottest;
use self::metrics::Tier;
pub use self::range::{RANGES_MAX, RangeError, RangeSpec, parse_ranges};
use self::status::{Peers, SAMPLE_EVERY, Samples};
pub use self::tls::{Tls, TlsError};
use self::workers::Workers;

/// Connections that are served at once; the next wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16_384;
/// Requests whose answer has not begun at once; more are turned away.
const REQUESTS_MAX: usize = 8192;
/// Reports that are taken in a second, on average, and at once.
const REPORTS_PER_S: f64 = 10.0;
const REPORTS_MAX: f64 = 100.0;
/// How long a connection may be silent before and within the head of a request.
const HEAD_WAIT: Duration = Duration::from_secs(75);
/// How long a TLS handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long is cut off: it holds memory.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// How long answers may take once the member was told to end.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// After an error of accept(2) that is not one connection's, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a member serves, and to whom.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// What it keeps, and where.
    pub cache: CacheOptions,
    /// Who may read and write what; without it everybody everything.
    pub tokens: Option<PathBuf>,
    /// Certificate and key; without them it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Threads that serve connections, each with a runtime of its own. With 0 the runtime that it is
    /// served in does that.
    pub threads: usize,
    /// The other members, each `HOST:PORT`, whose shares `/status` shows.
    pub peers: Vec<String>,
}

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The disk tier cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The token file cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A thread cannot be started.
    #[error("start threads: {0}")]
    Threads(#[source] io::Error),
    /// The client that asks the other members cannot be made.
    #[error("set up client: {0}")]
    Client(#[from] reqwest::Error),
}

/// A member that is not listening yet.
#[derive(Debug)]
pub struct RegionServer {
    member: Arc<Member>,
    workers: Workers,
}

/// What all connections of a member share.
#[derive(Debug)]
struct Member {
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    requests: Semaphore,
    puts: Semaphore,
    tokens: Option<TokenFile>,
    tls: Option<Tls>,
    hottest: Hottest,
    hottest_images: Hottest,
    bursts: Bursts,
    samples: Samples,
    peers: Peers,
    reports: Mutex<Allowance>,
    draining: AtomicBool,
}

/// A token bucket.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Duration,
}

impl RegionServer {
    /// Opens the tiers of a member that caches `store`.
    ///
    /// # Errors
    /// [`ServerError`] when the disk tier or the token file cannot be used at all.
    pub fn open(
        options: ServerOptions,
        store: Arc<dyn BlobStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServerError> {
        let tokens = options.tokens.as_deref().map(TokenFile::open).transpose()?;
        let peers = Peers::new(options.peers)?;
        let cache = Cache::open(&options.cache, store, Arc::clone(&clock))?;
        let reports = Mutex::new(Allowance {
            left: REPORTS_MAX,
            at: clock.elapsed(),
        });
        Ok(Self {
            workers: Workers::start(options.threads).map_err(ServerError::Threads)?,
            member: Arc::new(Member {
                cache: Arc::new(cache),
                clock,
                requests: Semaphore::new(REQUESTS_MAX),
                puts: Semaphore::new(http::PUTS_MAX),
                tokens,
                tls: options.tls,
                hottest: Hottest::default(),
                hottest_images: Hottest::default(),
                bursts: Bursts::default(),
                samples: Samples::default(),
                peers,
                reports,
                draining: AtomicBool::new(false),
            }),
        })
    }

    /// Serves until `stop` is done; then finishes what is under way, for half a minute at most.
    ///
    /// # Errors
    /// Never for one connection's sake.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let keeps_house = Arc::clone(&self.member);
        let housekeeping = tokio::spawn(async move { keeps_house.keep_house().await });
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = async {
                let turn = Arc::clone(&connections).acquire_owned().await;
                (turn, listener.accept().await)
            };
            let (turn, accepted) = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (member, watcher) = (Arc::clone(&self.member), graceful.watcher());
                    let served = self.workers.serve(stream, move |stream| async move {
                        member.connection(stream, peer.ip(), watcher).await;
                        drop(turn);
                    });
                    if let Err(error) = served {
                        tracing::warn!(%error, "hand over connection");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accept connection");
                    self.member.clock.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        housekeeping.abort();
        self.member.draining.store(true, Ordering::Relaxed);
        tracing::info!("draining");
        tokio::select! {
            biased;
            () = graceful.shutdown() => {}
            () = self.member.clock.sleep(DRAIN_MAX) => {
                tracing::warn!("end in the middle of answers");
            }
        }
        self.member.cache.settle().await;
        Ok(())
    }
}

impl Member {
    /// Takes samples for the status page, and notices changed tokens.
    async fn keep_house(&self) {
        loop {
            let metrics = &self.cache.metrics;
            let bytes = |tier| metrics.tier(tier).bytes.get();
            let all = Tier::ALL.into_iter().map(bytes).sum();
            self.samples
                .take((all, bytes(Tier::Origin)), &self.peers)
                .await;
            if let Some(tokens) = &self.tokens {
                tokens.refresh();
            }
            self.clock.sleep(SAMPLE_EVERY).await;
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, peer: IpAddr, watcher: Watcher) {
        self.cache.metrics.connections.add(1);
        let stall_ms = u32::try_from(STALL_MAX.as_millis()).unwrap_or(u32::MAX);
        // Both are to the better, and not needed.
        drop(stream.set_nodelay(true));
        set_tcp_user_timeout(&stream, stall_ms).unwrap_or_default();
        match &self.tls {
            None => self.exchange(stream, peer, watcher).await,
            Some(tls) => {
                let handshake = tls.acceptor().accept(stream);
                match tokio::time::timeout(HANDSHAKE_WAIT, handshake).await {
                    Ok(Ok(stream)) => self.exchange(stream, peer, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
                }
            }
        }
        self.cache.metrics.connections_closed.add(1);
    }

    /// Answers the requests of a connection.
    async fn exchange<S>(self: &Arc<Self>, stream: S, peer: IpAddr, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| http::handle(Arc::clone(self), peer, request));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(STALL_MAX)
            .max_concurrent_streams(STREAMS_MAX);
        let served = builder.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(served).await {
            tracing::debug!(%error, %peer, "connection ended");
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Takes one of the reports that are allowed now.
    fn may_report(&self) -> bool {
        let now = self.clock.elapsed();
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_sub(reports.at).as_secs_f64();
        reports.left = (reports.left + passed * REPORTS_PER_S).min(REPORTS_MAX);
        reports.at = now;
        let may = reports.left >= 1.0;
        if may {
            reports.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests;
