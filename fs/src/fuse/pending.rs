//! Replies of requests that wait, and what becomes of them when nobody waits for them any more.
//!
//! The kernel lets no process go while a request of it is unanswered that the daemon has read, not
//! even by SIGKILL. So whoever waits for a fetch is looked at from time to time, and once it is
//! being killed its request is answered with `EINTR`; the fetch goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{
    Errno, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyXattr,
};

/// How long a request waits before the process that made it is looked at, and between two looks.
const KILL_POLL: Duration = Duration::from_millis(100);
/// SIGKILL in the signal masks of `/proc/PID/status`.
const SIGKILL_BIT: u64 = 1 << 8;

/// A reply that can say that the request failed.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {$(
        impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refuse!(
    ReplyAttr,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEntry,
    ReplyXattr
);

/// A reply that is given once: by the work, or by whoever finds that nobody waits for it.
///
/// One that is dropped tells the kernel `EIO`, unless the session was left: then the next daemon
/// answers, as the kernel sends the request again.
#[derive(Debug)]
pub(super) struct Pending<R> {
    reply: Arc<Mutex<Option<R>>>,
    is_left: Arc<AtomicBool>,
}

impl<R> Clone for Pending<R> {
    fn clone(&self) -> Self {
        Self {
            reply: Arc::clone(&self.reply),
            is_left: Arc::clone(&self.is_left),
        }
    }
}

impl<R> Pending<R> {
    pub(super) fn new(reply: R, is_left: &Arc<AtomicBool>) -> Self {
        Self {
            reply: Arc::new(Mutex::new(Some(reply))),
            is_left: Arc::clone(is_left),
        }
    }

    /// Takes the reply, unless the request was answered already.
    pub(super) fn take(&self) -> Option<R> {
        self.with(Option::take)
    }

    /// Works on the reply, unless the request was answered already.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Option<R>) -> T) -> T {
        work(&mut self.reply.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<R: Refuse> Pending<R> {
    /// Answers that the request was interrupted.
    pub(super) fn interrupt(&self) {
        if let Some(reply) = self.take() {
            reply.refuse(Errno::EINTR);
        }
    }

    /// Answers that what is needed is not to be had.
    pub(super) fn give_up(&self) {
        if let Some(reply) = self.take() {
            reply.refuse(Errno::EIO);
        }
    }
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        let is_left = self.is_left.load(Ordering::SeqCst);
        if let Some(reply) = Arc::get_mut(&mut self.reply).filter(|_| is_left) {
            // Its own drop would answer.
            std::mem::forget(
                reply
                    .get_mut()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
        }
    }
}

/// Waits until the thread is gone or must go. For ever when the kernel does not name it: it is in a
/// process namespace that cannot be seen from here.
pub(super) async fn killed(thread: u32) {
    if thread == 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(KILL_POLL).await;
        match std::fs::read_to_string(format!("/proc/{thread}/status")) {
            Ok(status) if !has_sigkill(&status) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Tells whether SIGKILL waits for a thread of this status.
fn has_sigkill(status: &str) -> bool {
    let masks = ["SigPnd:", "ShdPnd:"].map(|name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
    });
    masks.iter().flatten().any(|mask| mask & SIGKILL_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_kill_is_seen_and_nothing_else() {
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(!has_sigkill(&own));
        let status = |thread, shared| format!("Name:\tx\nSigPnd:\t{thread}\nShdPnd:\t{shared}\n");
        let (none, term, kill) = ("0000000000000000", "0000000000004000", "0000000000004100");
        assert!(!has_sigkill(&status(none, term)));
        assert!(has_sigkill(&status(kill, none)));
        assert!(has_sigkill(&status(none, kill)));
        assert!(!has_sigkill("SigPnd:\tnothing\n"));
    }

    #[test]
    fn a_reply_is_taken_once() {
        let pending = Pending::new(1, &Arc::default());
        let other = pending.clone();
        assert_eq!((other.take(), pending.take()), (Some(1), None));
    }

    #[test]
    fn a_reply_is_dropped_unless_the_session_was_left() {
        for left in [false, true] {
            let reply = Arc::new(());
            let is_left = Arc::new(AtomicBool::new(false));
            let pending = Pending::new(Arc::clone(&reply), &is_left);
            is_left.store(left, Ordering::SeqCst);
            drop(pending);
            assert_eq!(Arc::strong_count(&reply), if left { 2 } else { 1 });
        }
    }
}
