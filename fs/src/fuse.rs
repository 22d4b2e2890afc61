//! The FUSE adapter: turns requests of the kernel into operations of a [`View`] and their results
//! into replies. The only place that names `fuser`.
//!
//! A request is first tried on the thread that read it; what must wait for a fetch goes on as a
//! task of the runtime, so that no FUSE thread ever waits. Opens cost no message (`OPEN` and
//! `OPENDIR` are answered with `ENOSYS` once), so there is no state per open file, and the page
//! cache keeps what was read. A process that is killed while it waits is let go at once, and nobody
//! waits for longer than the session allows.
//!
//! The session can outlive the process: see [`keeper`].

mod handshake;
mod in_use;
mod keeper;
mod pending;
mod reply;
mod session;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

#[cfg(any(test, feature = "testing"))]
pub use keeper::recode_keeper_message;
pub use keeper::{KeeperError, KeeperOptions, keep};
pub use session::{ContentMount, ContentSession, SessionError};

use crate::access::on_behalf_of;
use crate::{FsError, Lookup, Taken, View};
use keeper::Negotiated;
use pending::{Pending, Refuse, killed};
use reply::{absent, errno, file_attr, file_type};

/// Largest read or directory reply that the kernel is offered, in bytes. Linux's default
/// `fs.fuse.max_pages_limit` is the same.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Read-ahead requests that the kernel sends at once.
const BACKGROUND_MAX: u16 = 64;

/// What is asked of the kernel, each where it has it. It has no cache for extended attributes:
/// those cost a request each time.
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_HAS_RESEND,
];

/// What a session and its reading threads share.
#[derive(Debug, Clone, Default)]
struct Shared {
    /// Requests that wait.
    tasks: TaskTracker,
    /// Set once this process answers nothing new, as the next one will.
    is_left: Arc<AtomicBool>,
    /// What the handshake gave.
    negotiated: Arc<OnceLock<Negotiated>>,
}

/// One mount's side of the kernel's connection.
#[derive(Debug)]
struct Adapter {
    view: Arc<View>,
    runtime: Handle,
    shared: Shared,
    wait_max: Duration,
    /// Whether the kernel takes `ENOSYS` to mean that opens need no message.
    no_open: bool,
    no_opendir: bool,
}

impl Adapter {
    fn new(view: Arc<View>, runtime: Handle, shared: Shared, wait_max: Duration) -> Self {
        Self {
            wait_max,
            view,
            runtime,
            shared,
            no_open: false,
            no_opendir: false,
        }
    }

    /// Runs `work` on this thread as far as it goes without waiting, and the rest as a task.
    fn answer<R: Refuse, W: Future<Output = ()> + Send + 'static>(
        &self,
        request: &Request,
        reply: R,
        work: impl FnOnce(Pending<R>) -> W,
    ) {
        let reply = Pending::new(reply, &self.shared.is_left);
        // In this order: whoever leaves waits for the tokens that were there before.
        let token = self.shared.tasks.token();
        if self.shared.is_left.load(Ordering::SeqCst) {
            drop(token);
            drop(reply);
            loop {
                std::thread::park();
            }
        }
        let mut work = Box::pin(on_behalf_of(request.pid(), work(reply.clone())));
        let entered = self.runtime.enter();
        // The task polls again with a waker of its own, so nothing is lost with this one.
        let first = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(entered);
        if first.is_ready() {
            return;
        }
        let (thread, wait_max) = (request.pid(), self.wait_max);
        let rest = async move {
            tokio::select! {
                biased;
                () = &mut work => return,
                () = killed(thread) => reply.interrupt(),
                () = tokio::time::sleep(wait_max) => {
                    tracing::warn!(seconds = wait_max.as_secs(), "a request waits in vain");
                    reply.give_up();
                }
            }
            work.await;
        };
        drop(self.shared.tasks.spawn_on(rest, &self.runtime));
    }

    fn open_stateless(unneeded: bool, reply: ReplyOpen, flags: FopenFlags) {
        if unneeded {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), flags);
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut flags = InitFlags::empty();
        for wanted in WANTED {
            // The kernel may be older: each is an improvement, none is needed.
            let given = config.add_capabilities(*wanted).is_ok();
            flags.set(*wanted, given);
            match *wanted {
                InitFlags::FUSE_NO_OPEN_SUPPORT => self.no_open = given,
                InitFlags::FUSE_NO_OPENDIR_SUPPORT => self.no_opendir = given,
                _ => {}
            }
        }
        let limits = [
            config.set_max_write(REQUEST_BYTES_MAX).is_ok(),
            config.set_max_background(BACKGROUND_MAX).is_ok(),
        ];
        debug_assert!(limits.iter().all(|ok| *ok), "the limits are within fuser's");
        let fuser::Version(major, minor) = config.kernel_abi();
        // More than the kernel offers is refused, with what it offers.
        let max_readahead_bytes = config.set_max_readahead(u32::MAX).unwrap_or_else(|max| max);
        let negotiated = Negotiated {
            abi: (major, minor),
            max_readahead_bytes,
            flags: flags.bits(),
        };
        self.shared.negotiated.get_or_init(|| negotiated);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let view = Arc::clone(&self.view);
        let name = name.as_bytes().to_vec();
        self.answer(request, reply, |reply| async move {
            let found = view.lookup(parent.0, &name).await;
            let Some(reply) = reply.take() else {
                // The kernel never hears of what was counted for it.
                if let Ok(Lookup::Found(attr)) = found {
                    view.forget(attr.ino, 1);
                }
                return;
            };
            match found {
                Ok(Lookup::Found(attr)) => {
                    reply.entry(&attr.valid, &file_attr(&attr), Generation(0));
                }
                Ok(Lookup::Absent { valid }) if valid.is_zero() => {
                    reply.error(errno(&FsError::NotFound));
                }
                Ok(Lookup::Absent { valid }) => reply.entry(&valid, &absent(), Generation(0)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.view.forget(ino.0, count);
    }

    fn getattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let view = Arc::clone(&self.view);
        self.answer(request, reply, |reply| async move {
            let attr = view.getattr(ino.0).await;
            match (attr, reply.take()) {
                (Ok(attr), Some(reply)) => reply.attr(&attr.valid, &file_attr(&attr)),
                (Err(error), Some(reply)) => reply.error(errno(&error)),
                (_, None) => {}
            }
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let view = Arc::clone(&self.view);
        self.answer(request, reply, |reply| async move {
            let target = view.readlink(ino.0).await;
            match (target, reply.take()) {
                (Ok(target), Some(reply)) => reply.data(&target),
                (Err(error), Some(reply)) => reply.error(errno(&error)),
                (_, None) => {}
            }
        });
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        Self::open_stateless(self.no_open, reply, FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        Self::open_stateless(self.no_opendir, reply, flags);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let view = Arc::clone(&self.view);
        self.answer(request, reply, |reply| async move {
            let bytes = view.read(ino.0, offset, size.min(REQUEST_BYTES_MAX)).await;
            match (bytes, reply.take()) {
                (Ok(bytes), Some(reply)) => reply.data(&bytes),
                (Err(error), Some(reply)) => reply.error(errno(&error)),
                (_, None) => {}
            }
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let view = Arc::clone(&self.view);
        self.answer(request, reply, |reply| async move {
            let listed = view.readdir(ino.0, offset, |entry| {
                let name = OsStr::from_bytes(entry.name);
                let kind = file_type(entry.kind);
                let add = |reply: &mut ReplyDirectory| {
                    reply.add(INodeNo(entry.ino), entry.next_offset, kind, name)
                };
                let full = reply.with(|reply| reply.as_mut().is_none_or(add));
                if full { Taken::Full } else { Taken::Yes }
            });
            match (listed.await, reply.take()) {
                (Ok(()), Some(reply)) => reply.ok(),
                (Err(error), Some(reply)) => reply.error(errno(&error)),
                (_, None) => {}
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let view = Arc::clone(&self.view);
        self.answer(request, reply, |reply| async move {
            let mut counted = Vec::new();
            let listed = view.readdir_plus(ino.0, offset, |entry, attr| {
                let name = OsStr::from_bytes(entry.name);
                // The kernel takes no attributes of `.` and `..` and counts no lookup for them.
                let (valid, file_attr) = match attr {
                    Some(attr) => (attr.valid, file_attr(attr)),
                    None => (Default::default(), reply::dot(entry.ino)),
                };
                let add = |reply: &mut ReplyDirectoryPlus| {
                    let (ino, next) = (INodeNo(entry.ino), entry.next_offset);
                    reply.add(ino, next, name, &valid, &file_attr, Generation(0))
                };
                if reply.with(|reply| reply.as_mut().is_none_or(add)) {
                    return Taken::Full;
                }
                counted.extend(attr.map(|attr| attr.ino));
                Taken::Yes
            });
            let listed = listed.await;
            match (listed, reply.take()) {
                (Ok(()), Some(reply)) => return reply.ok(),
                (Err(error), Some(reply)) => reply.error(errno(&error)),
                (_, None) => {}
            }
            // The kernel never hears of what was counted for it.
            counted.into_iter().for_each(|ino| view.forget(ino, 1));
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let statfs = self.view.statfs();
        let block_bytes = statfs.block_bytes;
        let (inodes, name_max) = (statfs.inodes, statfs.name_bytes_max);
        reply.statfs(0, 0, 0, inodes, 0, block_bytes, name_max, block_bytes);
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let view = Arc::clone(&self.view);
        let name = name.as_bytes().to_vec();
        self.answer(request, reply, |reply| async move {
            let value = view.getxattr(ino.0, &name).await;
            if let Some(reply) = reply.take() {
                reply::xattr(value, size, reply);
            }
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let view = Arc::clone(&self.view);
        self.answer(request, reply, |reply| async move {
            let names = view.listxattr(ino.0).await;
            if let Some(reply) = reply.take() {
                reply::xattr(names, size, reply);
            }
        });
    }
}

#[cfg(test)]
mod tests;
