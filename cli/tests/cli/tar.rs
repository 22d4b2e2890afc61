//! Writes tar archives by hand, so that nothing keeps a test from writing a wrong one.
//!
//! ustar headers with a pax header before each that needs one (POSIX.1-2017, pax, "ustar
//! Interchange Format"; extended attributes as `SCHILY.xattr.*`, as all tools of OCI have them).

const BLOCK_BYTES: usize = 512;
const NAME_BYTES_MAX: usize = 100;

/// What an entry is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    HardLink(String),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// An entry with attributes that most tests do not care about.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970 as decimal text, which pax does not limit.
    pub(crate) mtime: String,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    pub(crate) fn new(path: &str, kind: Kind) -> Self {
        let mode = if matches!(kind, Kind::Directory) {
            0o755
        } else {
            0o644
        };
        let (path, mtime) = (path.to_owned(), "1700000000".to_owned());
        Self {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: Vec::new(),
        }
    }

    pub(crate) fn file(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Kind::File(body.into()))
    }

    pub(crate) fn directory(path: &str) -> Self {
        Self::new(path, Kind::Directory)
    }

    pub(crate) fn symlink(path: &str, target: &str) -> Self {
        Self::new(path, Kind::Symlink(target.to_owned()))
    }

    pub(crate) fn hard_link(path: &str, target: &str) -> Self {
        Self::new(path, Kind::HardLink(target.to_owned()))
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    pub(crate) fn mtime(self, mtime: &str) -> Self {
        Self {
            mtime: mtime.to_owned(),
            ..self
        }
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}

/// Returns an archive of the entries, in their order.
pub(crate) fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        append(&mut bytes, entry);
    }
    bytes.resize(bytes.len() + 2 * BLOCK_BYTES, 0);
    bytes
}

fn append(bytes: &mut Vec<u8>, entry: &Entry) {
    let pax = pax_records(entry);
    if !pax.is_empty() {
        bytes.extend(header(
            "pax",
            b'x',
            "",
            &pax,
            (0, 0),
            &Entry::file("pax", ""),
        ));
        append_padded(bytes, &pax);
    }
    let (flag, link, body, device): (u8, &str, &[u8], _) = match &entry.kind {
        Kind::File(body) => (b'0', "", body, (0, 0)),
        Kind::HardLink(target) => (b'1', target, &[], (0, 0)),
        Kind::Symlink(target) => (b'2', target, &[], (0, 0)),
        Kind::CharDevice(major, minor) => (b'3', "", &[], (*major, *minor)),
        Kind::BlockDevice(major, minor) => (b'4', "", &[], (*major, *minor)),
        Kind::Directory => (b'5', "", &[], (0, 0)),
        Kind::Fifo => (b'6', "", &[], (0, 0)),
    };
    bytes.extend(header(&entry.path, flag, link, body, device, entry));
    append_padded(bytes, body);
}

fn append_padded(bytes: &mut Vec<u8>, body: &[u8]) {
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
}

fn pax_records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &str, value: &[u8]| {
        let rest = key.len() + value.len() + " =\n".len();
        // A record's length counts its own digits.
        let length = (1..)
            .map(|digits| rest + digits)
            .find(|l| l.to_string().len() == l - rest);
        records.extend(format!("{} {key}=", length.unwrap()).bytes());
        records.extend(value);
        records.push(b'\n');
    };
    if entry.path.len() > NAME_BYTES_MAX {
        add("path", entry.path.as_bytes());
    }
    if let Kind::Symlink(target) | Kind::HardLink(target) = &entry.kind
        && target.len() > NAME_BYTES_MAX
    {
        add("linkpath", target.as_bytes());
    }
    if entry.mtime.parse::<u32>().is_err() {
        add("mtime", entry.mtime.as_bytes());
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if id > 0o7_777_777 {
            add(key, id.to_string().as_bytes());
        }
    }
    for (name, value) in &entry.xattrs {
        add(&format!("SCHILY.xattr.{name}"), value);
    }
    records
}

fn header(
    path: &str,
    flag: u8,
    link: &str,
    body: &[u8],
    device: (u32, u32),
    entry: &Entry,
) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, length: usize, text: &[u8]| {
        let text = &text[..text.len().min(length)];
        block[at..at + text.len()].copy_from_slice(text);
    };
    let octal = |number: u64, digits: usize| format!("{number:0digits$o}");
    let small = |id: u64| if id > 0o7_777_777 { 0 } else { id };
    put(0, NAME_BYTES_MAX, path.as_bytes());
    put(100, 8, octal(entry.mode.into(), 7).as_bytes());
    put(108, 8, octal(small(entry.uid), 7).as_bytes());
    put(116, 8, octal(small(entry.gid), 7).as_bytes());
    put(124, 12, octal(body.len() as u64, 11).as_bytes());
    let mtime = entry.mtime.parse::<u32>().unwrap_or(0);
    put(136, 12, octal(mtime.into(), 11).as_bytes());
    put(148, 8, b"        ");
    put(156, 1, &[flag]);
    put(157, NAME_BYTES_MAX, link.as_bytes());
    put(257, 8, b"ustar\x0000");
    put(329, 8, octal(device.0.into(), 7).as_bytes());
    put(337, 8, octal(device.1.into(), 7).as_bytes());
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
