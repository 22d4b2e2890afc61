//! A registry of OCI layouts that fails as it is told to.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::layout;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// It answers nothing but errors.
    Down,
    /// It takes requests for layers and never answers.
    Silent,
    /// Tokens are good for so many requests in all; it issues more, which are not.
    Expires(usize),
    /// It has lost the layers.
    NoLayers,
    /// Layers have another last byte.
    Damaged,
    /// It demands `user` with the password `secret`.
    Private,
}

/// `user:secret` in base64.
const CREDENTIALS: &str = "Basic dXNlcjpzZWNyZXQ=";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The server; it ends with the process.
#[derive(Debug)]
pub(super) struct FaultyRegistry {
    pub(super) address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
}

impl FaultyRegistry {
    /// Serves the layouts `PREFIX-NAME` as the images `NAME:v1`.
    pub(super) fn start(prefix: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fault = Arc::<Mutex<Fault>>::default();
        let shared = Arc::clone(&fault);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (fault, prefix) = (Arc::clone(&shared), prefix.clone());
                // Whoever goes away in the middle has nobody to tell.
                std::thread::spawn(move || answer(&connection?, &prefix, address, &fault));
            }
        });
        Self { address, fault }
    }

    pub(super) fn fail(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
}

/// Answers one request.
fn answer(
    connection: &TcpStream,
    prefix: &Path,
    address: SocketAddr,
    fault: &Mutex<Fault>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut authorization = String::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            value.clone_into(&mut authorization);
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (now, refused) = {
        let mut fault = fault.lock().unwrap();
        let refused = refused(&mut fault, path, &authorization, address);
        (*fault, refused)
    };
    if let Some(challenge) = refused {
        return respond(connection, method, "401 Unauthorized", &challenge, b"");
    }
    if now == Fault::Down {
        return respond(connection, method, "503 Service Unavailable", "", b"");
    }
    let Some((kind, body)) = content(prefix, path) else {
        return respond(connection, method, "404 Not Found", "", b"");
    };
    let is_layer = path.contains("/blobs/") && body.first() != Some(&b'{');
    match now {
        Fault::Silent if is_layer => loop {
            std::thread::park();
        },
        Fault::NoLayers if is_layer => respond(connection, method, "404 Not Found", "", b""),
        Fault::Damaged if is_layer => {
            let mut body = body;
            *body.last_mut().unwrap() ^= 1;
            respond(connection, method, "200 OK", &kind, &body)
        }
        _ => respond(connection, method, "200 OK", &kind, &body),
    }
}

/// Returns the header by which a request is refused, if it is, and counts it.
fn refused(fault: &mut Fault, path: &str, shown: &str, address: SocketAddr) -> Option<String> {
    match fault {
        Fault::Private if shown != CREDENTIALS => {
            Some("WWW-Authenticate: Basic realm=\"test\"\r\n".to_owned())
        }
        Fault::Expires(left) if path != "/token" => {
            if shown.starts_with("Bearer ") && *left > 0 {
                *left -= 1;
                return None;
            }
            Some(format!(
                "WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"test\"\r\n"
            ))
        }
        _ => None,
    }
}

/// Returns what is at a path, with the headers that describe it.
fn content(prefix: &Path, path: &str) -> Option<(String, Vec<u8>)> {
    let path = path.split('?').next()?;
    if path == "/token" {
        return Some((String::new(), br#"{"token": "t"}"#.to_vec()));
    }
    let path = path.strip_prefix("/v2/")?;
    if path.is_empty() {
        return Some((String::new(), Vec::new()));
    }
    let mut words = path.split('/');
    let (name, kind, reference) = (words.next()?, words.next()?, words.next()?);
    let mut folder = prefix.as_os_str().to_owned();
    folder.push(format!("-{name}"));
    let folder = PathBuf::from(folder);
    let digest = if reference == "v1" {
        let index = std::fs::read(folder.join("index.json")).ok()?;
        let index: Value = serde_json::from_slice(&index).ok()?;
        index["manifests"][0]["digest"].as_str()?.to_owned()
    } else {
        reference.to_owned()
    };
    let body = std::fs::read(layout::blob_path(&folder, &digest)).ok()?;
    let media_type = if kind == "manifests" {
        MANIFEST
    } else {
        "application/octet-stream"
    };
    let headers = format!("Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n");
    Some((headers, body))
}

fn respond(
    mut connection: &TcpStream,
    method: &str,
    status: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    )?;
    if method == "HEAD" {
        return Ok(());
    }
    connection.write_all(body)
}
