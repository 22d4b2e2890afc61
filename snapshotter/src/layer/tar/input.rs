//! Reads blocks and whole fields from the plain stream.

use std::io::{self, BufRead, BufReader, Read};

use super::header::BLOCK_BYTES;
use crate::layer::error::Fault;

/// Bytes read from the stream at once; larger reads of data pass the buffer by.
const BUFFER_BYTES: usize = 128 << 10;

/// The plain stream of a layer, buffered.
#[derive(Debug)]
pub(super) struct Input<R>(BufReader<R>);

impl<R: Read> Input<R> {
    pub(super) fn new(plain: R) -> Self {
        Self(BufReader::with_capacity(BUFFER_BYTES, plain))
    }

    pub(super) fn into_inner(self) -> R {
        self.0.into_inner()
    }

    /// Reads what is there, again after an interruption; 0 only at the end.
    pub(super) fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Ok(result?),
            }
        }
    }

    /// Reads one block; `None` at the end of the stream.
    pub(super) fn read_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Fault> {
        let mut block = [0; BLOCK_BYTES];
        let mut len = 0;
        while len < BLOCK_BYTES {
            match self.read_some(&mut block[len..])? {
                0 if len == 0 => return Ok(None),
                0 => return Err(Fault::malformed("ends inside a block")),
                more => len += more,
            }
        }
        Ok(Some(block))
    }

    /// Reads `len_bytes`, which the caller has bounded, and the padding to a whole block.
    pub(super) fn read_padded(&mut self, len_bytes: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        let read = self.0.by_ref().take(len_bytes).read_to_end(&mut bytes)?;
        if (read as u64) < len_bytes {
            return Err(Fault::malformed("ends inside a header"));
        }
        self.skip(padding(len_bytes))?;
        Ok(bytes)
    }

    /// Skips `len_bytes`.
    pub(super) fn skip(&mut self, len_bytes: u64) -> Result<(), Fault> {
        if self.discard(len_bytes)? < len_bytes {
            return Err(Fault::malformed("ends inside an entry"));
        }
        Ok(())
    }

    /// Reads the stream to its end.
    pub(super) fn skip_to_end(&mut self) -> Result<(), Fault> {
        self.discard(u64::MAX).map(|_| ())
    }

    /// Drops at most `len_bytes`, fewer only at the end, and returns how many.
    fn discard(&mut self, len_bytes: u64) -> Result<u64, Fault> {
        let mut left = len_bytes;
        while left > 0 {
            let available = match self.0.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?.len(),
            };
            if available == 0 {
                break;
            }
            let len = usize::try_from(left).map_or(available, |left| left.min(available));
            self.0.consume(len);
            left -= len as u64;
        }
        Ok(len_bytes - left)
    }
}

/// Returns how many bytes follow `len_bytes` up to a whole block.
pub(super) const fn padding(len_bytes: u64) -> u64 {
    let block_bytes = BLOCK_BYTES as u64;
    (block_bytes - len_bytes % block_bytes) % block_bytes
}
