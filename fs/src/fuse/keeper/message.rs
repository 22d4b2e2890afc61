//! What daemon and keeper tell each other: one message a packet.
//!
//! ```text
//! version u8 = 1 | kind u8 | body
//! request 1 Put     session | command line     with the descriptor
//!         2 Take    command line
//!         3 Leave
//!         4 End
//! answer 17 Session session                    with the descriptor
//!        18 Empty
//!        19 Done
//!        20 Refused
//! session       id u64 | device u64 | abi u32 u32 | max_readahead u32 | flags u64
//! command line  count u16, and for each argument: length u32 | bytes
//! ```
//! All integers are little-endian. A keeper outlives the daemon's upgrades, so a daemon speaks
//! every version that a running keeper may have.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

const VERSION: u8 = 1;
/// Longest message, in bytes; below what a packet socket takes by default.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Arguments of a command line.
const ARGUMENTS_MAX: usize = 256;

/// What the kernel and the daemon that mounted agreed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::fuse) struct Negotiated {
    /// Major and minor version of the kernel's protocol.
    pub(in crate::fuse) abi: (u32, u32),
    /// Read-ahead that the kernel offered, in bytes.
    pub(in crate::fuse) max_readahead_bytes: u32,
    /// The flags of `FUSE_INIT` that both sides have.
    pub(in crate::fuse) flags: u64,
}

/// A FUSE session as it is handed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::fuse) struct SessionRecord {
    /// Random; that of the session's inode log.
    pub(in crate::fuse) id: u64,
    /// The file system's device number, `st_dev`.
    pub(in crate::fuse) device: u64,
    pub(in crate::fuse) negotiated: Negotiated,
}

/// What a daemon asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Keep this session, and start a daemon with this command line when I am gone.
    Put(SessionRecord, Vec<OsString>),
    /// Give me the session; start a daemon like this when I am gone.
    Take(Vec<OsString>),
    /// I go on purpose, and another daemon comes: start none.
    Leave,
    /// The session is over.
    End,
}

/// What the keeper answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The session.
    Session(SessionRecord),
    /// There is none.
    Empty,
    /// It is done.
    Done,
    /// The request makes no sense.
    Refused,
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self {
            Self::Put(session, command) => {
                bytes.push(1);
                put_session(&mut bytes, session);
                put_command(&mut bytes, command);
            }
            Self::Take(command) => {
                bytes.push(2);
                put_command(&mut bytes, command);
            }
            Self::Leave => bytes.push(3),
            Self::End => bytes.push(4),
        }
        bytes
    }

    /// Decodes a message; `None` when it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, mut body) = open(bytes)?;
        let request = match kind {
            1 => Self::Put(take_session(&mut body)?, take_command(&mut body)?),
            2 => Self::Take(take_command(&mut body)?),
            3 => Self::Leave,
            4 => Self::End,
            _ => return None,
        };
        body.is_empty().then_some(request)
    }
}

impl Answer {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self {
            Self::Session(session) => {
                bytes.push(17);
                put_session(&mut bytes, &session);
            }
            Self::Empty => bytes.push(18),
            Self::Done => bytes.push(19),
            Self::Refused => bytes.push(20),
        }
        bytes
    }

    /// Decodes a message; `None` when it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, mut body) = open(bytes)?;
        let answer = match kind {
            17 => Self::Session(take_session(&mut body)?),
            18 => Self::Empty,
            19 => Self::Done,
            20 => Self::Refused,
            _ => return None,
        };
        body.is_empty().then_some(answer)
    }
}

/// Decodes any bytes as a request or an answer, and encodes that; `None` when they are neither.
#[cfg(any(test, feature = "testing"))]
pub fn recode_keeper_message(bytes: &[u8]) -> Option<Vec<u8>> {
    let request = Request::decode(bytes).map(|request| request.encode());
    request.or_else(|| Answer::decode(bytes).map(Answer::encode))
}

fn open(bytes: &[u8]) -> Option<(u8, &[u8])> {
    match bytes {
        [VERSION, kind, body @ ..] => Some((*kind, body)),
        _ => None,
    }
}

fn put_session(bytes: &mut Vec<u8>, session: &SessionRecord) {
    let SessionRecord {
        id,
        device,
        negotiated,
    } = session;
    bytes.extend(id.to_le_bytes());
    bytes.extend(device.to_le_bytes());
    bytes.extend(negotiated.abi.0.to_le_bytes());
    bytes.extend(negotiated.abi.1.to_le_bytes());
    bytes.extend(negotiated.max_readahead_bytes.to_le_bytes());
    bytes.extend(negotiated.flags.to_le_bytes());
}

fn take_session(body: &mut &[u8]) -> Option<SessionRecord> {
    Some(SessionRecord {
        id: u64::from_le_bytes(take(body)?),
        device: u64::from_le_bytes(take(body)?),
        negotiated: Negotiated {
            abi: (
                u32::from_le_bytes(take(body)?),
                u32::from_le_bytes(take(body)?),
            ),
            max_readahead_bytes: u32::from_le_bytes(take(body)?),
            flags: u64::from_le_bytes(take(body)?),
        },
    })
}

/// Writes what fits; a command line that is longer than any the daemon is started with is cut,
/// and then refused by whoever reads it.
fn put_command(bytes: &mut Vec<u8>, command: &[OsString]) {
    let count = u16::try_from(command.len()).unwrap_or(u16::MAX);
    bytes.extend(count.to_le_bytes());
    for argument in command {
        let len = u32::try_from(argument.len()).unwrap_or(u32::MAX);
        bytes.extend(len.to_le_bytes());
        bytes.extend(argument.as_bytes());
    }
}

fn take_command(body: &mut &[u8]) -> Option<Vec<OsString>> {
    let count = usize::from(u16::from_le_bytes(take(body)?));
    if count > ARGUMENTS_MAX {
        return None;
    }
    let mut command = Vec::with_capacity(count);
    for _ in 0..count {
        let len = usize::try_from(u32::from_le_bytes(take(body)?)).ok()?;
        let (argument, rest) = body.split_at_checked(len)?;
        *body = rest;
        command.push(OsString::from_vec(argument.to_vec()));
    }
    Some(command)
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> SessionRecord {
        SessionRecord {
            id: 1 << 60,
            device: 49,
            negotiated: Negotiated {
                abi: (7, 45),
                max_readahead_bytes: 1 << 20,
                flags: 1 << 39 | 1,
            },
        }
    }

    #[test]
    fn messages_come_back_and_no_cut_or_longer_one_does() {
        let command: Vec<OsString> = vec![
            "/bin/nacre".into(),
            "".into(),
            OsString::from_vec(vec![0xff]),
        ];
        let requests = [
            Request::Put(session(), command.clone()),
            Request::Take(command),
            Request::Leave,
            Request::End,
        ];
        for request in requests {
            let mut bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Some(request));
            for len in 0..bytes.len() {
                assert_eq!(Request::decode(&bytes[..len]), None);
            }
            assert_eq!(Answer::decode(&bytes), None);
            bytes.push(0);
            assert_eq!(Request::decode(&bytes), None);
        }
        let answers = [
            Answer::Session(session()),
            Answer::Empty,
            Answer::Done,
            Answer::Refused,
        ];
        for answer in answers {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
            assert_eq!(Request::decode(&answer.encode()), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_canonical_message_or_none(bytes: Vec<u8>, kind in 0_u8..22) {
            for bytes in [bytes.clone(), [&[VERSION, kind][..], &bytes].concat()] {
                if let Some(encoded) = recode_keeper_message(&bytes) {
                    prop_assert_eq!(encoded, bytes);
                }
            }
        }
    }
}
