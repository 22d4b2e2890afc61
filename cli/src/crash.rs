//! Dying where a test says so.

use nacre_blobstore::{CrashHook, CrashPoint};

/// Dies at the point, or its n-th passing, that `NACRE_CRASH_AT=POINT[:N]` names: a test's aid.
pub(crate) fn crash_hook() -> CrashHook {
    let Some(at) = std::env::var_os("NACRE_CRASH_AT").and_then(|at| at.into_string().ok()) else {
        return CrashHook::default();
    };
    let (name, count) = at.split_once(':').unwrap_or((&at, "1"));
    let left = std::sync::atomic::AtomicU64::new(count.parse().unwrap_or(1));
    let point = CrashPoint::ALL
        .into_iter()
        .chain(CrashPoint::PENDING)
        .chain(CrashPoint::COLLECTION)
        .chain([CrashPoint::VersionKept])
        .find(|point| point.name() == name);
    CrashHook::new(move |reached| {
        use std::sync::atomic::Ordering;
        if Some(reached) == point && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let me = rustix::process::getpid();
            // Nothing is left to do when even that fails.
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap_or(());
        }
    })
}
