//! Memory of frames that is used again.
//!
//! The allocator gives a buffer of this size back to the kernel when it is freed, and gets each page of
//! the next one zeroed: a third of what decompressing itself takes.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of buffers that nobody uses: what a dozen frames take.
const SPARE_BYTES_MAX: usize = 4 << 20;
/// Buffers are multiples of this.
const STEP_BYTES: usize = 64 << 10;
/// A buffer may be larger than what it is to hold by one part in this many, and a step.
const SLACK_SHARE: usize = 4;

static SPARE: Spare = Spare(Mutex::new(Vec::new()));

/// Buffers that nobody uses, the latest last.
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self, len_bytes: usize) -> Vec<u8> {
        let most_bytes = len_bytes + len_bytes / SLACK_SHARE + STEP_BYTES;
        let fits = |spare: &Vec<u8>| (len_bytes..=most_bytes).contains(&spare.capacity());
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spare.iter().rposition(fits);
        let found = found.map(|place| spare.remove(place));
        drop(spare);
        found.unwrap_or_else(|| Vec::with_capacity(len_bytes.next_multiple_of(STEP_BYTES)))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(buffer);
        let mut bytes: usize = spare.iter().map(Vec::capacity).sum();
        let mut gone = 0;
        while bytes > SPARE_BYTES_MAX {
            bytes -= spare[gone].capacity();
            gone += 1;
        }
        let gone: Vec<_> = spare.drain(..gone).collect();
        drop(spare);
        drop(gone);
    }
}

/// A buffer that is used again once nobody reads it.
struct Plain(Vec<u8>);

impl AsRef<[u8]> for Plain {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        SPARE.give(std::mem::take(&mut self.0));
    }
}

/// Returns what `fill` writes to an empty buffer that has room for `len_bytes`.
pub(super) fn filled<E>(
    len_bytes: usize,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<Bytes, E> {
    let mut plain = Plain(SPARE.take(len_bytes));
    fill(&mut plain.0)?;
    Ok(Bytes::from_owner(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_by_what_fits_it_and_few_are_kept() {
        let spare = Spare(Mutex::default());
        let buffer = spare.take(100_000);
        assert_eq!(buffer.capacity(), 2 * STEP_BYTES);
        let place = buffer.as_ptr();
        spare.give(buffer);
        for other_bytes in [10_000, 2 * STEP_BYTES + 1] {
            let other = spare.take(other_bytes);
            assert_ne!(other.as_ptr(), place, "much too large, or too small");
        }
        let buffer = spare.take(120_000);
        assert!(buffer.as_ptr() == place && buffer.is_empty());
        assert_eq!(spare.0.lock().unwrap().len(), 0);
        for number in 1..=8 {
            spare.give(Vec::with_capacity(number << 20));
        }
        assert!(
            spare.0.lock().unwrap().is_empty(),
            "the last is too large alone"
        );
        for number in 0..80_u8 {
            spare.give(vec![number; STEP_BYTES]);
        }
        let kept: Vec<usize> = spare.0.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(kept, [0; SPARE_BYTES_MAX / STEP_BYTES]);
    }

    #[test]
    fn what_is_read_is_not_written_to() {
        let fill = |byte| {
            move |buffer: &mut Vec<u8>| {
                buffer.resize(70_000, byte);
                Ok::<_, u8>(())
            }
        };
        let first = filled(70_000, fill(1)).unwrap();
        let part = first.slice(60_000..);
        drop(first);
        let second = filled(70_000, fill(2)).unwrap();
        assert!(part.iter().all(|byte| *byte == 1) && part.len() == 10_000);
        assert!(second.iter().all(|byte| *byte == 2));
        assert_eq!(filled(70_000, |_| Err(3)), Err(3));
    }
}
