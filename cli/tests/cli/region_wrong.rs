//! A node beside a member that is wrong: no reader sees it, and all reads are answered. Needs root
//! and FUSE.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::files::noise;
use crate::layout::{self, Layer, Packing};
use crate::node::{Node, pause};
use crate::region_nodes::{MEMORY, Member};
use crate::tar::{Entry, archive};

const FILES: u32 = 40;
/// Incompressible: each layer is a pack or more of its own bytes.
const FILE_BYTES: usize = 300_000;
/// Looks of 50 ms that a slow member takes for an answer.
const SLOW_POLLS: u32 = 10;

/// What is wrong with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// One bit of each answer.
    Flips,
    /// It gives what another object has there.
    MixesUp,
    /// It announces more than it sends.
    CutsOff,
    /// It says that all is well and sends something else.
    Babbles,
    /// It does not speak HTTP.
    Garbles,
    /// It takes its time.
    IsSlow,
    /// It fails at everything.
    Fails,
}

const FLAWS: [Flaw; 7] = [
    Flaw::Flips,
    Flaw::MixesUp,
    Flaw::CutsOff,
    Flaw::Babbles,
    Flaw::Garbles,
    Flaw::IsSlow,
    Flaw::Fails,
];

/// A member that has what a store has, and a flaw. It ends with the process.
struct WrongMember {
    address: String,
    requests: Arc<AtomicU32>,
}

impl WrongMember {
    fn start(store: &Path, flaw: Flaw) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicU32::new(0));
        let (store, counted) = (store.to_owned(), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (store, counted) = (store.clone(), Arc::clone(&counted));
                // Who has left hears nothing.
                std::thread::spawn(move || answer(&stream.unwrap(), &store, flaw, &counted));
            }
        });
        Self { address, requests }
    }
}

/// Answers one request, and closes the connection. `None` when the client has left.
fn answer(mut stream: &TcpStream, store: &Path, flaw: Flaw, counted: &AtomicU32) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    let mut range = None;
    for line in lines {
        let line = line.ok()?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(text) = line.strip_prefix("range: bytes=") {
            let (start, last) = text.split_once('-')?;
            range = Some(start.parse::<usize>().ok()?..last.parse::<usize>().ok()? + 1);
        }
    }
    counted.fetch_add(1, Ordering::Relaxed);
    let object = match flaw {
        Flaw::MixesUp => another(&store.join(path)),
        _ => Some(store.join(path)),
    };
    let whole = object.and_then(|object| fs::read(object).ok());
    let Some(whole) = whole.filter(|_| flaw != Flaw::Fails) else {
        return stream
            .write_all(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ok();
    };
    let status = if range.is_some() { "206 X" } else { "200 OK" };
    let mut body = match range {
        Some(range) => whole
            .get(range.start..range.end.min(whole.len()))
            .unwrap_or_default()
            .to_vec(),
        None => whole,
    };
    let announced = body.len();
    match flaw {
        Flaw::Flips if announced > 0 => body[announced / 2] ^= 4,
        Flaw::CutsOff => body.truncate(announced / 2),
        Flaw::Babbles => body.fill(b'x'),
        Flaw::Garbles => return stream.write_all(b"\x16\x03\x01 no\r\n\r\n").ok(),
        Flaw::IsSlow => (0..SLOW_POLLS).for_each(|_| pause()),
        _ => {}
    }
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}

/// Returns another object of the same folder, of the largest there.
fn another(object: &Path) -> Option<PathBuf> {
    let folder = fs::read_dir(object.parent()?).ok()?;
    let others = folder.filter_map(|entry| Some(entry.ok()?.path()));
    let others = others.filter(|path| path != object);
    others.max_by_key(|path| path.metadata().map_or(0, |data| data.len()))
}

fn content(seed: u32) -> Vec<u8> {
    noise(u64::from(seed), FILE_BYTES)
}

/// Adds an image, in layers that are packs of their own, and another one to be mixed up with it.
fn add_images(home: &Node) {
    for (name, first) in [("app", 0), ("other", 1000)] {
        let entries = (0..FILES).map(|n| Entry::file(&format!("f{n:02}"), content(first + n)));
        let layer = Layer::new(&archive(&entries.collect::<Vec<_>>()), Packing::Plain);
        layout::write(&home.path(name), &[layer], &json!({}));
        let source = format!("oci:{}:v1", home.path(name).display());
        home.ok(&["image", "add", &source, "--name", name]);
    }
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn no_reader_sees_what_is_wrong_with_a_member() {
    let home = Node::new();
    add_images(&home);
    let store = home.path("root/store");
    let url = format!("file://{}", store.display());
    let right = Member::start(&home, &["--store", &url], MEMORY);
    for flaw in FLAWS {
        let wrong = WrongMember::start(&store, flaw);
        let region = read_through(&url, &wrong.address, flaw);
        assert!(wrong.requests.load(Ordering::Relaxed) > 0, "{flaw:?}");
        let told = number(&region["reported"]);
        match flaw {
            Flaw::Flips | Flaw::MixesUp | Flaw::Babbles => assert!(told > 0, "{flaw:?}: {region}"),
            Flaw::CutsOff | Flaw::Garbles | Flaw::Fails => {
                assert!(number(&region["failed"]) > 0, "{flaw:?}: {region}");
            }
            Flaw::IsSlow => assert_eq!(told, 0, "{region}"),
        }
        // Beside one that is right it has some of the objects, or none.
        read_through(&url, &format!("{},{}", wrong.address, right.address), flaw);
    }
}

/// Reads all of an image on a node that has nothing, and returns what its client counted.
fn read_through(url: &str, members: &str, flaw: Flaw) -> Value {
    let node = Node::new();
    let flags = ["--store", url, "--region-cache", members];
    let on = |arguments: &[&str]| node.json(&[&flags[..], arguments].concat());
    let mount = node.empty("mount");
    on(&["mount", "app", mount.to_str().unwrap()]);
    for n in 0..FILES {
        let read = fs::read(mount.join(format!("f{n:02}")));
        assert!(read.unwrap() == content(n), "{flaw:?}: f{n:02} differs");
    }
    on(&["umount", mount.to_str().unwrap()]);
    on(&["cache", "stats"])["region_cache"].clone()
}
