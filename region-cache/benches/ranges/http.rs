//! A client that does as little as it can: one request at a time, the body read and dropped.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Bytes of a body that are read at once.
const BUFFER_BYTES: usize = 256 << 10;
const HEAD_BYTES_MAX: usize = 16 << 10;

pub(crate) struct Connection {
    stream: TcpStream,
    target: String,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(target: &str) -> Self {
        let stream = TcpStream::connect(target).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            target: target.to_owned(),
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Asks for a range and returns its first word.
    pub(crate) fn get(&mut self, path: &str, offset: u64, len: u64) -> u64 {
        let last = offset + len - 1;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nRange: bytes={offset}-{last}\r\n\r\n",
            self.target
        );
        self.stream.write_all(request.as_bytes()).unwrap();
        let (head_len, mut filled) = self.head();
        let head = String::from_utf8_lossy(&self.buffer[..head_len]).to_lowercase();
        assert!(head.starts_with("http/1.1 206"), "{head}");
        let announced = format!("content-length: {len}\r\n");
        assert!(head.contains(&announced), "{head}");
        while filled < head_len + size_of::<u64>() {
            filled += self.stream.read(&mut self.buffer[filled..]).unwrap();
        }
        let word = self.buffer[head_len..].first_chunk().unwrap();
        let word = u64::from_le_bytes(*word);
        let mut left = len - (filled - head_len) as u64;
        while left > 0 {
            let read = self.stream.read(&mut self.buffer).unwrap();
            assert!(read > 0, "the body ends early");
            left -= read as u64;
        }
        word
    }

    /// Reads the head of an answer. Returns where it ends, and where what was read ends.
    fn head(&mut self) -> (usize, usize) {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "the connection was closed");
            filled += read;
            let seen = &self.buffer[..filled.min(HEAD_BYTES_MAX)];
            if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                return (end + 4, filled);
            }
            assert!(filled < HEAD_BYTES_MAX, "a head without an end");
        }
    }
}
