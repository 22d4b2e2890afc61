//! Sandboxes: OCI bundles run by runc, crun or runsc.
