//! How the daemon's allocator gives memory back.

#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "mallopt(3) has no safe wrapper")
)]

/// Allocations of at least so many bytes, which are frames, chunks and indexes of packs, are
/// mappings of their own.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 256 << 10;

/// Has the kernel take large allocations back when they are freed. By default glibc keeps them for
/// the next one of each of its arenas, of which there are eight a core: after the index of one image
/// was loaded and its start read, that was 150 MiB which nothing used (`docs/BENCHMARKS.md`). Other
/// allocators are left as they are.
pub(super) fn return_large_allocations() {
    #[cfg(target_env = "gnu")]
    // SAFETY: an option of the allocator, which takes a lock of its own to set it.
    let taken = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) } == 1;
    #[cfg(target_env = "gnu")]
    if !taken {
        tracing::debug!("the allocator keeps large allocations");
    }
}
