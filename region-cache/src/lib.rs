//! The region tier: frames over plain HTTP range requests.
//!
//! Any HTTP cache that serves `GET /packs/ID` and `GET /trees/ID` with `Range` from the object
//! store can stand here; the server is one that was made for it. The client chooses a member by
//! rendezvous hashing (Thaler and Ravishankar 1998), so that all nodes of a region ask the same
//! member for a pack, and a member that is gone costs its share of hits and no error: the reader
//! then asks the store.

mod client;
mod server;
mod trace_context;

pub use client::{
    PATIENCE_MAX, Primed, RegionCache, RegionCacheError, RegionMembers, RegionOptions, RegionStats,
    RegionStore, WRITE_MEMBERS,
};
pub use server::{
    BLOCK_BYTES, BLOCK_BYTES_MAX, CacheOptions, DiskError, MEMORY_BYTES_MIN, ORIGIN_REQUESTS,
    RANGES_MAX, RangeError, RangeSpec, RegionServer, ServerError, ServerOptions, Tls, TlsError,
    TokenFileError, TokensError, parse_ranges,
};
