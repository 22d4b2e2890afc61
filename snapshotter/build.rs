//! Makes the stubs of containerd's service from its definition.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/snapshots.proto");
    // In Rust, with the definitions of google.protobuf in it: no protoc to be installed.
    let definition = protox::compile(["snapshots.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Only tests are clients.
        .client_mod_attribute(".", "#[cfg(test)]")
        .compile_fds(definition)?;
    Ok(())
}
