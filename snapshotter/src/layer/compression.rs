//! The plain bytes of a compressed layer, with a bound on how far they expand.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flate2::bufread::GzDecoder;

use super::error::{Fault, LayerError, LayerPosition};
use super::limits::LayerLimits;

/// Bytes of compressed input read at once.
const INPUT_BUFFER_BYTES: usize = 256 << 10;
/// Largest zstd window, as a power of two: 128 MiB, what `zstd --long` and RFC 8878 suggest.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Skippable zstd frames start with this, its low 4 bits free (RFC 8878, 3.1.2).
const ZSTD_SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar.
    None,
    /// Gzip, of any number of members.
    Gzip,
    /// Zstandard, of any number of frames.
    Zstd,
}

impl Compression {
    /// Returns the compression that a layer's media type declares, OCI's and Docker's alike, or
    /// `None` for a type that is no layer or in a form not known here (encrypted, foreign codec).
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        const LAYERS: [&str; 4] = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ];
        match LAYERS
            .iter()
            .find_map(|layer| media_type.strip_prefix(layer))?
        {
            "" => Some(Self::None),
            "+gzip" | ".gzip" => Some(Self::Gzip),
            "+zstd" | ".zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns the compression that a blob's first bytes show.
    pub fn of_magic(head: &[u8]) -> Self {
        let skippable = |magic: [u8; 4]| [magic[0] & 0xf0, magic[1], magic[2], magic[3]];
        match head.first_chunk::<4>() {
            _ if head.starts_with(&GZIP_MAGIC) => Self::Gzip,
            Some(&magic) if magic == ZSTD_MAGIC => Self::Zstd,
            Some(&magic) if skippable(magic) == ZSTD_SKIPPABLE_MAGIC => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Reads a layer's plain bytes.
///
/// Memory is bounded: by 32 KiB for gzip and by a window of 128 MiB for zstd. An error of the input
/// passes through unchanged; a corrupt or truncated stream and a broken limit come out of
/// [`TarReader`](super::TarReader) as [`LayerError::Malformed`] and [`LayerError::Limit`].
pub struct Decompressor {
    decoder: Box<dyn Read + Send>,
    compression: Compression,
    input: Arc<InputMeter>,
    plain_bytes: u64,
    plain_bytes_max: u64,
    expansion_max: u64,
    expansion_free_bytes: u64,
}

impl Decompressor {
    /// Opens the blob of the layer called `layer`, whose media type declares `declared`, if known.
    ///
    /// The first bytes decide, as for containerd: registries hold gzip layers declared as zstd and
    /// plain ones declared as gzip. Only a compressed blob declared as plain tar is refused, which
    /// containerd does not unpack either.
    ///
    /// # Errors
    /// [`LayerError::Io`] when the first bytes cannot be read, [`LayerError::Malformed`] for an
    /// empty blob that is declared as compressed or a compressed one that is declared as plain.
    pub fn new(
        input: impl Read + Send + 'static,
        layer: &str,
        declared: Option<Compression>,
        limits: &LayerLimits,
    ) -> Result<Self, LayerError> {
        Self::open(input, declared, limits).map_err(|fault| {
            fault.at(LayerPosition {
                layer: layer.into(),
                entry: String::new(),
            })
        })
    }

    fn open(
        input: impl Read + Send + 'static,
        declared: Option<Compression>,
        limits: &LayerLimits,
    ) -> Result<Self, Fault> {
        let meter = Arc::new(InputMeter::default());
        let mut input = MeteredInput {
            inner: input,
            meter: Arc::clone(&meter),
        };
        let mut head = Vec::with_capacity(ZSTD_MAGIC.len());
        input
            .by_ref()
            .take(ZSTD_MAGIC.len() as u64)
            .read_to_end(&mut head)?;
        let compression = Compression::of_magic(&head);
        match declared {
            Some(Compression::Gzip | Compression::Zstd) if head.is_empty() => {
                return Err(Fault::malformed("compressed blob is empty"));
            }
            Some(Compression::None) if compression != Compression::None => {
                return Err(Fault::malformed(
                    "blob is compressed, its media type says plain tar",
                ));
            }
            _ => {}
        }
        let input = Cursor::new(head).chain(input);
        let buffered = |input| BufReader::with_capacity(INPUT_BUFFER_BYTES, input);
        let decoder: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(GzipMembers::new(Box::new(buffered(input)))),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(buffered(input))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        Ok(Self {
            decoder,
            compression,
            input: meter,
            plain_bytes: 0,
            plain_bytes_max: limits.plain_bytes_max,
            expansion_max: limits.expansion_max,
            expansion_free_bytes: limits.expansion_free_bytes,
        })
    }

    /// Returns how the blob is compressed, by its first bytes.
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    fn check_expansion(&self) -> Result<(), Fault> {
        Fault::check_limit(self.plain_bytes, self.plain_bytes_max, "plain bytes")?;
        if self.plain_bytes <= self.expansion_free_bytes {
            return Ok(());
        }
        let compressed_bytes = self.input.bytes.load(Ordering::Relaxed).max(1);
        let what = "plain bytes for each compressed byte";
        Fault::check_limit(
            self.plain_bytes / compressed_bytes,
            self.expansion_max,
            what,
        )
    }
}

impl Read for Decompressor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = match self.decoder.read(buffer) {
            Ok(len) => len,
            Err(error) if self.input.failed.load(Ordering::Relaxed) => return Err(error),
            Err(error) => {
                return Err(Fault::Malformed(format!("compressed stream: {error}").into()).into());
            }
        };
        self.plain_bytes += len as u64;
        self.check_expansion()?;
        Ok(len)
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor")
            .field("compression", &self.compression)
            .field("plain_bytes", &self.plain_bytes)
            .finish_non_exhaustive()
    }
}

/// What a decoder has taken from its input, readable while the decoder owns that input.
#[derive(Debug, Default)]
struct InputMeter {
    bytes: AtomicU64,
    /// Tells an error of the input from one of the decoder, which may look the same.
    failed: AtomicBool,
}

struct MeteredInput<R> {
    inner: R,
    meter: Arc<InputMeter>,
}

impl<R: Read> Read for MeteredInput<R> {
    /// Reads again after an interruption, so that no decoder has to.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Ok(len) => {
                    self.meter.bytes.fetch_add(len as u64, Ordering::Relaxed);
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.meter.failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    }
}

/// Decodes gzip members one after another, up to the end of the input or to zeros.
///
/// flate2's own multi-member decoder refuses zero padding after the last member, which tools that
/// write whole blocks leave and gzip(1) and pigz ignore.
struct GzipMembers {
    member: GzDecoder<Box<dyn BufRead + Send>>,
    ended: bool,
}

impl GzipMembers {
    fn new(input: Box<dyn BufRead + Send>) -> Self {
        Self {
            member: GzDecoder::new(input),
            ended: false,
        }
    }

    /// Goes on to the next member; returns whether there is one.
    fn next_member(&mut self) -> io::Result<bool> {
        let input = self.member.get_mut();
        match input.fill_buf()?.first() {
            None => return Ok(false),
            Some(0) => return skip_zeros(input).map(|()| false),
            Some(_) => {}
        }
        let input = mem::replace(input, Box::new(io::empty()));
        drop(self.member.reset(input));
        Ok(true)
    }
}

impl Read for GzipMembers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let len = self.member.read(buffer)?;
            if len > 0 {
                return Ok(len);
            }
            self.ended = !self.next_member()?;
        }
        Ok(0)
    }
}

fn skip_zeros(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        let len = bytes.len();
        if len == 0 {
            return Ok(());
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes after the gzip members",
            ));
        }
        input.consume(len);
    }
}

#[cfg(test)]
mod tests;
