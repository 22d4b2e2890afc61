//! The region tier: frames over plain HTTP range requests.
//!
//! Any HTTP cache that serves `GET /packs/ID` and `GET /trees/ID` with `Range` from the object
//! store can stand here. This crate has the client only; it chooses a member by rendezvous hashing
//! (Thaler and Ravishankar 1998), so that all nodes of a region ask the same member for a pack,
//! and a member that is gone costs its share of hits and no error: the reader then asks the store.

mod client;

pub use client::{RegionCache, RegionCacheError};
