//! `nacre region`: the cache in front of a region's store.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse_bytes;

#[derive(Debug, Subcommand)]
pub(crate) enum RegionVerb {
    /// Serve the store's immutable objects from memory and disk, as a member of a region's cache
    Serve(RegionServe),
}

#[derive(Debug, Args)]
pub(crate) struct RegionServe {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    pub(crate) listen: SocketAddr,
    /// Directory of the disk tier; without it there is memory alone
    #[arg(long, value_name = "DIR", requires = "disk_size")]
    pub(crate) disk: Option<PathBuf>,
    /// Size of the disk tier, such as 500G
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, requires = "disk")]
    pub(crate) disk_size: Option<u64>,
    /// Limit of all blocks in memory, such as 8G
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "1G")]
    pub(crate) memory: u64,
    /// Requests to the store under way at once
    #[arg(long, value_name = "N", default_value_t = nacre_region_cache::ORIGIN_REQUESTS)]
    pub(crate) origin_requests: usize,
    /// File that says which token may read and write what; without it everybody may everything
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
    /// Certificate and its chain, as PEM; without it the member speaks plain HTTP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// Key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Other members, whose shares the status page shows
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub(crate) peers: Vec<String>,
    /// Length of a block, for measurements
    #[arg(long, hide = true, value_parser = parse_bytes)]
    pub(crate) block_size: Option<u64>,
}
