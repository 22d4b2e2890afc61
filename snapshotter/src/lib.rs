//! Images: OCI sources, layers, ingest and the node daemon.

pub mod layer;
pub mod oci;
