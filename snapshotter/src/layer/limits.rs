//! What a layer may ask for before it is refused.

use nacre_blobstore::NAME_BYTES_MAX;

/// Bounds on one layer. The defaults are far above every real image and low enough that a layer
/// within them can neither exhaust memory nor run for hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerLimits {
    /// Entries of one layer, ignored ones included.
    pub entries_max: u64,
    /// Bytes of the decompressed layer, and also the sum of its files' sizes with their holes.
    pub plain_bytes_max: u64,
    /// Bytes of one file, holes included.
    pub file_bytes_max: u64,
    /// Plain bytes for each compressed byte, once past [`Self::expansion_free_bytes`].
    ///
    /// Deflate cannot pass 1,032, so a gzip layer never meets this limit: layers with
    /// gibibytes of zeros are real (disk images, preallocated databases) and already bounded by
    /// the size of their blob. Zstd reaches 32,000 and more, and there it binds.
    pub expansion_max: u64,
    /// Plain bytes that a layer may have however small its compressed form.
    pub expansion_free_bytes: u64,
    /// Components of a path.
    pub depth_max: usize,
    /// Bytes of a path, normalised.
    pub path_bytes_max: usize,
    /// Bytes of one component of a path.
    pub name_bytes_max: usize,
    /// Bytes of a path or link target before it is normalised: of a GNU long name or a PAX record.
    pub long_name_bytes_max: usize,
    /// Bytes of one PAX header (Go's limit, and so containerd's), and of all global ones together.
    pub pax_header_bytes_max: u64,
    /// Records of one PAX header.
    pub pax_records_max: u64,
    /// Data segments of one sparse file; each takes 16 bytes of memory.
    pub sparse_segments_max: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self {
            entries_max: 4 << 20,
            plain_bytes_max: 256 << 30,
            file_bytes_max: 128 << 30,
            expansion_max: 2_000,
            expansion_free_bytes: 4 << 30,
            depth_max: 256,
            path_bytes_max: 4_096,
            name_bytes_max: NAME_BYTES_MAX,
            long_name_bytes_max: 64 << 10,
            pax_header_bytes_max: 1 << 20,
            pax_records_max: 64 << 10,
            sparse_segments_max: 1 << 20,
        }
    }
}
