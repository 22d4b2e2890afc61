//! Files of this node that tell whether they are whole: a hash, a newline, and what it is of.

use nacre_blobstore::Digest;

/// Puts the hash of `bytes` before them.
pub(crate) fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = Digest::of(bytes).to_string().into_bytes();
    sealed.push(b'\n');
    sealed.extend(bytes);
    sealed
}

/// Returns what was sealed; `None` when it is not whole.
pub(crate) fn open(sealed: &[u8]) -> Option<&[u8]> {
    let end = sealed.iter().position(|byte| *byte == b'\n')?;
    let bytes = &sealed[end + 1..];
    (Digest::of(bytes).to_string().as_bytes() == &sealed[..end]).then_some(bytes)
}
