//! From streams and threads to plain readers: the queues between the stages of a layer.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Blocks that wait between two stages at most.
const BLOCKS_QUEUED_MAX: usize = 8;
/// Plain bytes that are handed from one stage to the next at once.
pub(super) const BLOCK_BYTES: usize = 512 << 10;

/// The sending end of a queue of bytes.
pub(super) type BlockSender = mpsc::Sender<io::Result<Bytes>>;

/// Makes a queue of bytes. The reader ends when the sender is dropped, so a sender that gives up
/// must send an error.
pub(super) fn queue() -> (BlockSender, BlockReader) {
    let (sender, receiver) = mpsc::channel(BLOCKS_QUEUED_MAX);
    (
        sender,
        BlockReader {
            receiver,
            block: Bytes::new(),
        },
    )
}

/// Reads what was sent; blocks, so not for the reactor.
#[derive(Debug)]
pub(super) struct BlockReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    block: Bytes,
}

impl Read for BlockReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            match self.receiver.blocking_recv() {
                Some(block) => self.block = block?,
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.block.len());
        self.block.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

/// Reads `input` to its end into `sender`, in blocks of [`BLOCK_BYTES`]. Ends early when nobody
/// receives any more.
pub(super) fn pump(mut input: impl Read, sender: &BlockSender) {
    loop {
        let mut block = vec![0; BLOCK_BYTES];
        let mut filled = 0;
        let error = loop {
            match input.read(&mut block[filled..]) {
                Ok(0) => break None,
                Ok(read) => {
                    filled += read;
                    if filled == BLOCK_BYTES {
                        break None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        block.truncate(filled);
        if filled > 0 && sender.blocking_send(Ok(block.into())).is_err() {
            return;
        }
        if let Some(error) = error {
            // A receiver that is gone needs no error.
            drop(sender.blocking_send(Err(error)));
            return;
        }
        if filled < BLOCK_BYTES {
            return;
        }
    }
}
