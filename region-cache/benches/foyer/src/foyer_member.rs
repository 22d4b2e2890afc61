//! foyer behind HTTP: what a member would be that had its tiers from there, and nothing else.
//!
//! It does less for a request than a member does: no tokens, no conditions, no metrics, no limit
//! on what answers hold, and one range that lies within a block.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use foyer::{
    BlockEngineBuilder, DeviceBuilder as _, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCacheEntry, HybridCachePolicy, IoEngine, IoEngineBuilder as _, PsyncIoEngineBuilder,
    RecoverMode, RuntimeOptions, S3FifoConfig, Statistics, StorageFilter, StorageFilterCondition,
    StorageFilterResult, TokioRuntimeOptions, UringIoEngineBuilder,
};
use futures::stream::Iter;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use nacre_region_cache::{BLOCK_BYTES, parse_ranges};
use tokio::net::{TcpListener, TcpStream};

use crate::origin::{OBJECT_BYTES, Origin};
use crate::serve::Quota;

/// What an entry takes beyond its bytes: foyer aligns entries to pages.
const PAGE_BYTES: usize = 4 << 10;
/// Entries of a block's length that are evicted as one: foyer's 16 MiB, such that they fit.
const ENTRIES_OF_A_REGION: usize = 16;
/// Of the memory tier. More would make its queues a few entries long.
const SHARDS: usize = 4;

type Entries = HybridCache<u64, Vec<u8>>;
type Pieces = Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;
type Body = Either<Full<Bytes>, StreamBody<Pieces>>;

/// How foyer is used; see the list at the program's head.
#[derive(Debug)]
pub(crate) struct Settings {
    small: bool,
    again: bool,
    direct: bool,
    uring: bool,
    runtime: bool,
}

impl Settings {
    pub(crate) fn parse(text: &str) -> Self {
        let has = |word: &str| text.split('+').any(|setting| setting == word);
        let known = ["", "64k", "again", "direct", "uring", "runtime"];
        assert!(text.split('+').all(|setting| known.contains(&setting)));
        Self {
            small: has("64k"),
            again: has("again"),
            direct: has("direct"),
            uring: has("uring"),
            runtime: has("runtime"),
        }
    }

    const fn entry_bytes(&self) -> u64 {
        if self.small {
            64 << 10
        } else {
            BLOCK_BYTES as u64
        }
    }
}

/// Entries that were read since they were written.
#[derive(Debug, Default, Clone)]
struct Uses(Arc<Mutex<HashSet<u64>>>);

impl StorageFilterCondition for Uses {
    fn filter(&self, _: &Arc<Statistics>, hash: u64, _: usize) -> StorageFilterResult {
        if self.0.lock().unwrap().remove(&hash) {
            StorageFilterResult::Admit
        } else {
            StorageFilterResult::Reject
        }
    }
}

#[derive(Debug)]
pub(crate) struct Member {
    entries: Entries,
    entry_bytes: u64,
    uses: Option<Uses>,
    origin: Arc<Origin>,
}

/// Opens foyer in a folder, with what it kept there.
pub(crate) async fn open(
    settings: Settings,
    folder: &Path,
    quota: Quota,
    origin: Arc<Origin>,
) -> Arc<Member> {
    let len = |bytes: u64| usize::try_from(bytes).unwrap();
    let device = FsDeviceBuilder::new(folder)
        .with_capacity(len(quota.disk_bytes))
        .with_direct(settings.direct)
        .build()
        .unwrap();
    let block_bytes = usize::try_from(BLOCK_BYTES).unwrap();
    let region_bytes = ENTRIES_OF_A_REGION * (block_bytes + PAGE_BYTES) + PAGE_BYTES;
    let mut engine = BlockEngineBuilder::new(device).with_block_size(region_bytes);
    let uses = settings.again.then(Uses::default);
    if let Some(uses) = &uses {
        let filter = StorageFilter::new().with_condition(uses.clone());
        engine = engine.with_reinsertion_filter(filter);
    }
    let mut storage = HybridCacheBuilder::new()
        // As a member does. What is written when it leaves the memory is lost when it is killed.
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .memory(len(quota.tier_bytes()))
        .with_shards(SHARDS)
        .with_eviction_config(S3FifoConfig::default())
        .with_weighter(|_: &u64, bytes: &Vec<u8>| bytes.len())
        .storage()
        .with_io_engine(io_engine(&settings).await)
        .with_engine_config(engine)
        .with_recover_mode(RecoverMode::Quiet);
    if settings.runtime {
        let runtime = RuntimeOptions::Unified(TokioRuntimeOptions::default());
        storage = storage.with_runtime_options(runtime);
    }
    Arc::new(Member {
        entries: storage.build().await.unwrap(),
        entry_bytes: settings.entry_bytes(),
        uses,
        origin,
    })
}

async fn io_engine(settings: &Settings) -> Arc<dyn IoEngine> {
    let built = if settings.uring {
        UringIoEngineBuilder::new().build().await
    } else {
        PsyncIoEngineBuilder::new().build().await
    };
    built.unwrap()
}

/// Serves for ever.
pub(crate) async fn serve(member: Arc<Member>, listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        drop(tokio::spawn(exchange(Arc::clone(&member), stream)));
    }
}

async fn exchange(member: Arc<Member>, stream: TcpStream) {
    let service = service_fn(|request| {
        let member = Arc::clone(&member);
        async move { Ok::<_, Infallible>(member.answer(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder
        .serve_connection(TokioIo::new(stream), service)
        .await
    {
        eprintln!("connection ended: {error}");
    }
}

impl Member {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, _) = request.into_parts();
        let object = self.origin.number(head.uri.path()).unwrap();
        let header = head.headers.get(RANGE).unwrap().to_str().unwrap();
        let range = parse_ranges(header).unwrap()[0]
            .resolve(OBJECT_BYTES)
            .unwrap();
        let pieces = self.read(object, range.clone()).await;
        let mut response = Response::new(body(pieces));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let (start, last, len) = (range.start, range.end - 1, range.end - range.start);
        let text = format!("bytes {start}-{last}/{OBJECT_BYTES}");
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
        headers.insert(CONTENT_RANGE, HeaderValue::try_from(text).unwrap());
        let octets = HeaderValue::from_static("application/octet-stream");
        headers.insert(CONTENT_TYPE, octets);
        response
    }

    /// Reads the entries that a range touches, all at once.
    async fn read(&self, object: u64, range: Range<u64>) -> Vec<Bytes> {
        let size = self.entry_bytes;
        let numbers = range.start / size..range.end.div_ceil(size);
        let pieces = numbers.map(|number| {
            let start = number * size;
            let within = range.start.max(start) - start..range.end.min(start + size) - start;
            self.piece(object, number, within)
        });
        futures::future::join_all(pieces).await
    }

    async fn piece(&self, object: u64, number: u64, within: Range<u64>) -> Bytes {
        let key = (object << 32) | number;
        let was_missing = Arc::new(AtomicBool::new(false));
        let fetch = {
            let (origin, was_missing) = (Arc::clone(&self.origin), Arc::clone(&was_missing));
            let start = number * self.entry_bytes;
            let bytes = start..start + self.entry_bytes;
            || async move {
                was_missing.store(true, Ordering::Relaxed);
                Ok(origin.fetch(object, bytes).await)
            }
        };
        let entry = self.entries.fetch(key, fetch).await.unwrap();
        if let Some(uses) = &self.uses
            && !was_missing.load(Ordering::Relaxed)
        {
            uses.0.lock().unwrap().insert(entry.hash());
        }
        let len = |bytes: u64| usize::try_from(bytes).unwrap();
        let within = len(within.start)..len(within.end);
        Bytes::from_owner(Piece { entry, within })
    }
}

/// A part of an entry, which stays in memory for as long as that.
struct Piece {
    entry: HybridCacheEntry<u64, Vec<u8>>,
    within: Range<usize>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.entry.value()[self.within.clone()]
    }
}

fn body(mut pieces: Vec<Bytes>) -> Body {
    if pieces.len() == 1 {
        return Either::Left(Full::new(pieces.remove(0)));
    }
    let frames = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
    let frames = frames.collect::<Vec<_>>();
    Either::Right(StreamBody::new(futures::stream::iter(frames)))
}
