//! The keeper: a process that holds the descriptor of the node's FUSE session, so that mounts
//! outlive the daemon which serves them.
//!
//! ```text
//!             starts, Put(session, descriptor)
//!   daemon A ----------------------------------> keeper
//!             kill -9                              |  starts daemon B by A's command line
//!   daemon B <-------------------------------------+
//!             Take -> session, descriptor
//! ```
//! While no daemon serves, what the kernel asks waits. A daemon that goes on purpose says `Leave`,
//! and nothing is started until someone starts the next; one that has unmounted says `End`. The
//! daemon in turn starts a new keeper when its own is gone. When both are gone the session is: reads
//! end in `ENOTCONN`.
//!
//! The keeper does nothing else, so that nothing else can end it. It holds no state on disk.

mod link;
mod message;
mod server;
mod socket;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

pub(super) use link::{Link, Taken};
#[cfg(any(test, feature = "testing"))]
pub use message::recode_keeper_message;
pub(super) use message::{Negotiated, SessionRecord};
pub use server::keep;

/// What a daemon needs to know to have its session kept.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// Where the keeper listens; in a directory that others cannot enter.
    pub socket: PathBuf,
    /// The file in which inode numbers are noted.
    pub inode_log: PathBuf,
    /// Takes what the keeper, and daemons that it starts, say.
    pub log: PathBuf,
    /// The command line that runs [`keep`]. It must not end with the daemon's session or group.
    pub keeper: Vec<OsString>,
    /// The command line of a daemon that takes over.
    pub daemon: Vec<OsString>,
}

/// Why a keeper does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Its socket cannot be made or talked to.
    #[error("use keeper socket {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be started.
    #[error("start keeper {program:?}: {source}")]
    Start {
        /// The program.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// It answers something else than it should.
    #[error("the keeper refuses")]
    Refused,
}
