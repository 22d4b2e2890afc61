//! Lazily served file systems: the FUSE mount, the node cache, overlay mounts.
