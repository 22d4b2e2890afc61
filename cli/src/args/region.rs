//! `nacre region`: the cache in front of a region's store.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse_bytes;

// How every verb reaches the cache of its region, and the store of another one. Not a comment for
// clap, which would take it for what the program is about.
#[derive(Debug, Args)]
pub(crate) struct RegionFlags {
    /// Members of the region's cache: HOST:PORT, https://HOST:PORT, file:PATH, dns:NAME:PORT
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_REGION_CACHE",
        value_name = "HOST:PORT,...",
        value_delimiter = ','
    )]
    pub(crate) region_cache: Vec<String>,
    /// File with the token that members of the region's cache want
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_REGION_TOKEN",
        value_name = "FILE"
    )]
    pub(crate) region_token: Option<PathBuf>,
    /// Certificates (PEM) that those of members may be signed by, besides the system's
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_REGION_CA",
        value_name = "FILE"
    )]
    pub(crate) region_ca: Option<PathBuf>,
    /// Folder in which those members find this store's objects, if not at the root of their store
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_REGION_PREFIX",
        value_name = "PREFIX"
    )]
    pub(crate) region_prefix: Option<String>,
    /// Object store of the region that has what this region's store has not
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_HOME_STORE",
        value_name = "URL"
    )]
    pub(crate) home_store: Option<String>,
    /// Folders of the store that never come from the home store
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "NACRE_HOME_EXCEPT",
        value_name = "FOLDER,...",
        value_delimiter = ','
    )]
    pub(crate) home_except: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegionVerb {
    /// Serve the store's immutable objects from memory and disk, as a member of a region's cache
    Serve(RegionServe),
    /// Have the region's cache fetch what starts of an image read, before they do
    Prime(RegionPrime),
}

#[derive(Debug, Args)]
pub(crate) struct RegionPrime {
    /// Name or id of the image, snapshot or volume
    pub(crate) name: String,
    /// Fetch all of it
    #[arg(long)]
    pub(crate) all: bool,
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
