//! A client that does as little as it can: one request at a time, the body read and dropped.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Bytes of a body that are read at once.
const BUFFER_BYTES: usize = 256 << 10;
const HEAD_BYTES_MAX: usize = 16 << 10;

pub(crate) struct Connection {
    stream: TcpStream,
    target: String,
    client: u64,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(target: &str, client: u64) -> Self {
        let stream = TcpStream::connect(target).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            target: target.to_owned(),
            client,
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Asks for a range and returns its first word, or after which time to ask again.
    pub(crate) fn get(&mut self, path: &str, offset: u64, len: u64) -> Result<u64, Duration> {
        let last = offset + len - 1;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nX-Nacre-Client: {}\r\n\
             Range: bytes={offset}-{last}\r\n\r\n",
            self.target, self.client
        );
        self.stream.write_all(request.as_bytes()).unwrap();
        let (head_len, mut filled) = self.head();
        let head = String::from_utf8_lossy(&self.buffer[..head_len]).to_lowercase();
        if head.starts_with("http/1.1 503") {
            let body = number(&head, "content-length: ").unwrap();
            assert_eq!(filled as u64, head_len as u64 + body);
            let seconds = number(&head, "retry-after: ").unwrap();
            return Err(Duration::from_secs(seconds));
        }
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
        Ok(word)
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

/// Reads a number off a header.
fn number(head: &str, name: &str) -> Option<u64> {
    let value = head.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}
