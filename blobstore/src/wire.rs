//! Reading and writing the primitives of the stored formats: little-endian integers, LEB128
//! uvarints in their shortest form, and length-prefixed bytes, all bounded before they are used.

/// The bytes end too early, or a value is out of its bounds or not in its shortest form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Truncated(pub(crate) &'static str);

/// Reads primitives off the front of some bytes.
#[derive(Debug)]
pub(crate) struct Wire<'a> {
    rest: &'a [u8],
}

impl<'a> Wire<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Truncated("ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Truncated("ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Truncated> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn uvarint(&mut self) -> Result<u64, Truncated> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Truncated("integer above 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest {
                    Ok(value)
                } else {
                    Err(Truncated("padded integer"))
                };
            }
        }
        Err(Truncated("integer above 64 bits"))
    }

    pub(crate) fn uvarint32(&mut self) -> Result<u32, Truncated> {
        u32::try_from(self.uvarint()?).map_err(|_| Truncated("integer above 32 bits"))
    }

    /// Reads how many items of at least `item_bytes_min` follow, and refuses more than fit, so
    /// that the caller may allocate for them.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize, Truncated> {
        let count = self.uvarint()?;
        let fits = self.rest.len() / item_bytes_min;
        usize::try_from(count)
            .ok()
            .filter(|c| *c <= fits)
            .ok_or(Truncated("count above the rest"))
    }

    /// Reads length-prefixed bytes of at most `len_max`.
    pub(crate) fn bytes(&mut self, len_max: usize) -> Result<&'a [u8], Truncated> {
        let len = self.uvarint()?;
        let len = usize::try_from(len).ok().filter(|len| *len <= len_max);
        self.take(len.ok_or(Truncated("length above its limit"))?)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Says that nothing may follow.
    pub(crate) const fn finish(self) -> Result<(), Truncated> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Truncated("bytes after the end"))
        }
    }
}

/// Writes primitives to the end of a buffer.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }

    fn put_uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8((value & 0x7f) as u8);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_uvarint(bytes.len() as u64);
        self.put(bytes);
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uvarints_round_trip_and_are_canonical() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut out = Vec::new();
            out.put_uvarint(value);
            let mut wire = Wire::new(&out);
            assert_eq!(wire.uvarint(), Ok(value));
            assert_eq!(wire.finish(), Ok(()));
        }
        for bad in [&[0x80, 0][..], &[0x80], &[0xff; 10], &[0xff; 11]] {
            assert!(Wire::new(bad).uvarint().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_bounded_before_use() {
        assert!(Wire::new(&[5, 1, 2]).bytes(10).is_err());
        assert!(Wire::new(&[3, 1, 2, 3]).bytes(2).is_err());
        assert!(Wire::new(&[200, 1, 0]).count(1).is_err());
    }
}
