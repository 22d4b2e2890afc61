//! Sandboxes: OCI bundles run by runc, crun or runsc.
//!
//! A sandbox is an overlay over a read-only root file system, and one process with its
//! descendants in namespaces and a cgroup of its own. [`Launcher`] needs root, and the runtime's
//! program in the search path.
//!
//! Limits: there is no seccomp filter and no user namespace, so use runsc for code that may attack
//! the kernel; the logs of detached sandboxes grow without a limit.

mod attach;
mod bundle;
mod console;
mod enter;
mod error;
mod launcher;
mod runtime;
mod sandbox;
mod spec;
mod streams;
mod sys;
mod user;
mod wait;

pub use error::LaunchError;
pub use launcher::{
    Launcher, LockedMounts, MountInfo, Prepared, RunOutcome, SandboxInfo, Started, Status,
};
pub use spec::{
    ExecSpec, ExtraMount, ImageDefaults, Network, ProcessOverrides, RuntimeKind, SandboxSpec,
    TreeMount, VolumeVersion,
};
pub use streams::Streams;
