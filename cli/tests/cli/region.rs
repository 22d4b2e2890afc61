//! `nacre region serve`: a member as whoever runs it meets it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use nacre_blobstore::Digest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::node::Node;

const USAGE: i32 = 2;
const BUSY: i32 = 11;

/// A running member.
pub(crate) struct Member {
    process: Child,
    address: String,
}

impl Member {
    fn start(node: &Node) -> Self {
        Self::spawn(node.command(&arguments(node)))
    }

    /// Starts a member by a command with [`arguments`].
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        Self {
            process,
            address: told["listen"].as_str().unwrap().to_owned(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).unwrap();
        self.process.wait().unwrap().code()
    }

    /// Returns the head and the body of the answer to a request for bytes.
    fn get(&self, key: &str, range: &str) -> (String, Vec<u8>) {
        self.get_with(key, range, "")
    }

    /// The same with further lines of its head.
    pub(crate) fn get_with(&self, key: &str, range: &str, lines: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = format!(
            "GET /{key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes={range}\r\n{lines}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head, answer[end + 4..].to_vec())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // An error says that it has ended already.
        self.process.kill().unwrap_or(());
        drop(self.process.wait());
    }
}

pub(crate) fn arguments(node: &Node) -> Vec<String> {
    let disk = node.path("disk").display().to_string();
    [
        "--json",
        "region",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--disk",
        &disk,
    ]
    .into_iter()
    .chain(["--disk-size", "64M", "--memory", "64M"])
    .map(str::to_owned)
    .collect()
}

#[test]
fn what_is_on_its_disk_is_there_after_any_end() {
    let node = Node::new();
    let key = format!("packs/{}", Digest::of(b"pack"));
    let object = node.path("root/store").join(&key);
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    let body: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&object, &body).unwrap();
    let member = Member::start(&node);
    let (head, read) = member.get(&key, "5-2799999");
    assert!(head.starts_with("HTTP/1.1 206"), "{head}");
    assert!(read == body[5..]);
    assert_eq!(member.end(Signal::TERM), Some(0));
    // The store has it no more.
    std::fs::remove_file(&object).unwrap();
    for signal in [Signal::KILL, Signal::KILL, Signal::TERM] {
        let member = Member::start(&node);
        let (head, read) = member.get(&key, "1048575-1048580");
        assert!(head.contains("x-nacre-cache: disk"), "{head}");
        assert_eq!(read, body[1_048_575..1_048_581]);
        member.end(signal);
    }
}

#[test]
fn a_disk_has_one_member_and_wrong_settings_are_told() {
    let node = Node::new();
    std::fs::create_dir_all(node.path("root/store")).unwrap();
    let member = Member::start(&node);
    let second = arguments(&node);
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    node.fails(BUSY, &second);
    member.end(Signal::TERM);
    let tokens = node.path("tokens");
    std::fs::write(&tokens, "a short r *").unwrap();
    let listen = ["region", "serve", "--listen", "127.0.0.1:0"];
    let error = node.fails(
        1,
        &[&listen[..], &["--tokens", tokens.to_str().unwrap()]].concat(),
    );
    assert!(error.contains("line 1 of the token file"), "{error}");
    node.fails(USAGE, &[&listen[..], &["--memory", "1M"]].concat());
}
