//! The region tier: a source of frames over plain HTTP range requests.
