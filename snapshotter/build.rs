//! Makes the stubs of containerd's services from their definitions.

use std::error::Error;

/// Those that nacre serves, and those that it asks.
const DEFINITIONS: [&str; 8] = [
    "snapshots.proto",
    "diff.proto",
    "content.proto",
    "leases.proto",
    "images.proto",
    "containers.proto",
    "tasks.proto",
    "version.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // In Rust, with the definitions of google.protobuf in it: no protoc to be installed.
    let definition = protox::compile(DEFINITIONS, ["proto"])?;
    tonic_prost_build::configure().compile_fds(definition)?;
    Ok(())
}
