//! What a sandbox does to its files has the same effect as on an ordinary directory: random
//! operations on a writable mount in kernel mode and on an unpacked copy, compared after each
//! sequence in all that an image says of a file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags, lremovexattr, lsetxattr,
    renameat_with, utimensat,
};
use serde_json::json;

use crate::compare::{Exceptions, compare};
use crate::layout::{self, Layer, Packing};
use crate::node::Node;
use crate::tar::{Entry, archive};

/// Sequences, in the normal run and with `NACRE_TEST_LONG=1`.
const SEQUENCES: u64 = 25;
const SEQUENCES_LONG: u64 = 200;
/// Operations of a sequence.
const OPERATIONS: usize = 60;
/// Longer than a chunk: a file that the gate serves.
pub(crate) const LARGE_BYTES: usize = 3 << 20;

/// Marsaglia's xorshift64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    /// A path that may or may not exist, of any kind.
    fn path(&mut self) -> PathBuf {
        const DIRECTORIES: [&str; 6] = ["", "a", "b", "a/c", "a/c/d", "new"];
        const NAMES: [&str; 9] = [
            "f0", "f1", "f2", "small", "empty", "link", "large", "c", "new",
        ];
        let directory = DIRECTORIES[self.below(DIRECTORIES.len())];
        Path::new(directory).join(NAMES[self.below(NAMES.len())])
    }
}

/// One change, with all that it needs to be the same anywhere.
#[derive(Debug)]
pub(crate) enum Change {
    Write {
        path: PathBuf,
        offset: u64,
        bytes: Vec<u8>,
    },
    Append {
        path: PathBuf,
        bytes: Vec<u8>,
    },
    Create {
        path: PathBuf,
    },
    Truncate {
        path: PathBuf,
        length: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        exchange: bool,
    },
    Unlink {
        path: PathBuf,
    },
    RemoveAll {
        path: PathBuf,
    },
    MakeDirectory {
        path: PathBuf,
    },
    RemoveDirectory {
        path: PathBuf,
    },
    Chmod {
        path: PathBuf,
        mode: u32,
    },
    Chown {
        path: PathBuf,
        owner: u32,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Symlink {
        path: PathBuf,
    },
    SetXattr {
        path: PathBuf,
    },
    RemoveXattr {
        path: PathBuf,
    },
}

impl Change {
    pub(crate) fn random(random: &mut Random) -> Self {
        let path = random.path();
        let bytes = vec![u8::try_from(random.below(256)).unwrap(); 1 + random.below(9000)];
        match random.below(17) {
            0 | 1 => {
                let offset = [0, 5, 4096, LARGE_BYTES / 2][random.below(4)] as u64;
                Self::Write {
                    path,
                    offset,
                    bytes,
                }
            }
            2 => Self::Append { path, bytes },
            3 => Self::Create { path },
            4 => Self::Truncate {
                path,
                length: random.below(8192) as u64,
            },
            5..=7 => Self::Rename {
                from: path,
                to: random.path(),
                exchange: random.below(4) == 0,
            },
            8 => Self::Unlink { path },
            9 if random.below(4) == 0 => Self::RemoveAll { path },
            9 => Self::Create { path },
            10 => Self::MakeDirectory { path },
            11 => Self::RemoveDirectory { path },
            12 => Self::Chmod {
                path,
                mode: [0o600, 0o755, 0o4711, 0o1777][random.below(4)],
            },
            13 => Self::Chown {
                path,
                owner: [0, 7, 1000][random.below(3)],
            },
            14 => Self::Link {
                from: path,
                to: random.path(),
            },
            15 => Self::Symlink { path },
            _ if random.below(2) == 0 => Self::SetXattr { path },
            _ => Self::RemoveXattr { path },
        }
    }

    /// Applies the change below a root; the outcome must not depend on the file system.
    pub(crate) fn apply(&self, root: &Path) -> Result<(), i32> {
        let at = |path: &PathBuf| root.join(path);
        let done = match self {
            Self::Write {
                path,
                offset,
                bytes,
            } => OpenOptions::new()
                .write(true)
                .open(at(path))
                .and_then(|file| file.write_all_at(bytes, *offset)),
            Self::Append { path, bytes } => OpenOptions::new()
                .append(true)
                .open(at(path))
                .and_then(|mut file| file.write_all(bytes)),
            Self::Create { path } => File::create_new(at(path)).map(drop),
            Self::Truncate { path, length } => OpenOptions::new()
                .write(true)
                .open(at(path))
                .and_then(|file| file.set_len(*length)),
            Self::Rename { from, to, exchange } => {
                let flags = if *exchange {
                    RenameFlags::EXCHANGE
                } else {
                    RenameFlags::empty()
                };
                renameat_with(CWD, at(from), CWD, at(to), flags).map_err(Into::into)
            }
            Self::Unlink { path } => fs::remove_file(at(path)),
            Self::RemoveAll { path } => fs::remove_dir_all(at(path)),
            Self::MakeDirectory { path } => fs::create_dir(at(path)),
            Self::RemoveDirectory { path } => fs::remove_dir(at(path)),
            // chmod(2) follows symlinks, on both sides alike.
            Self::Chmod { path, mode } => {
                fs::set_permissions(at(path), Permissions::from_mode(*mode))
            }
            Self::Chown { path, owner } => lchown(at(path), Some(*owner), Some(*owner)),
            Self::Link { from, to } => fs::hard_link(at(from), at(to)),
            Self::Symlink { path } => symlink("f0", at(path)),
            Self::SetXattr { path } => {
                lsetxattr(at(path), "user.test", b"value", XattrFlags::empty()).map_err(Into::into)
            }
            Self::RemoveXattr { path } => lremovexattr(at(path), "user.test").map_err(Into::into),
        };
        done.map_err(|error: io::Error| error.raw_os_error().unwrap_or(0))
    }
}

/// Gives everything below `root` the same mtime: those of what was changed depend on when it was.
fn level_times(root: &Path) {
    let time = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 1,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let mut pending = vec![root.to_owned()];
    let mut directories = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else {
                utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            }
        }
        directories.push(directory);
    }
    for directory in directories {
        utimensat(CWD, directory, &times, AtFlags::empty()).unwrap();
    }
}

pub(crate) fn image() -> Vec<Entry> {
    let mut entries = vec![Entry::directory("./")];
    for directory in ["a", "b", "a/c", "a/c/d"] {
        entries.push(Entry::directory(&format!("./{directory}/")));
        for name in ["f0", "f1", "f2"] {
            let bytes = format!("{directory}/{name} ").repeat(300);
            entries.push(Entry::file(&format!("./{directory}/{name}"), bytes));
        }
        // It stands in the metadata image itself.
        entries.push(Entry::file(&format!("./{directory}/small"), directory));
        entries.push(Entry::file(&format!("./{directory}/empty"), ""));
        entries.push(Entry::symlink(&format!("./{directory}/link"), "f1"));
    }
    let large: Vec<u8> = (0..LARGE_BYTES)
        .map(|i| (i / 997 % 251).try_into().unwrap())
        .collect();
    entries.push(Entry::file("./a/large", large));
    entries
}

#[test]
fn random_writes_have_the_effect_that_they_have_on_an_unpacked_copy() {
    let node = Node::new();
    let layer = Layer::new(&archive(&image()), Packing::Gzip);
    layout::write(&node.path("layout"), &[layer], &json!({}));
    let source = format!("oci:{}:v1", node.path("layout").display());
    node.ok(&["image", "add", &source, "--name", "box"]);
    let (mount, copy) = (node.empty("mount"), node.path("copy"));
    let target = mount.to_str().unwrap();
    node.ok(&["mount", "--mode", "kernel", "box", target]);
    node.ok(&["umount", target]);

    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    let (mut applied, mut refused) = (0, 0);
    for seed in 1..=if long { SEQUENCES_LONG } else { SEQUENCES } {
        node.ok(&["mount", "--mode", "kernel", "--rw", "box", target]);
        let copied = Command::new("cp")
            .arg("-a")
            .args([&mount, &copy])
            .status()
            .unwrap();
        assert!(copied.success());
        let mut random = Random::seeded(seed);
        let mut log = Vec::new();
        for _ in 0..OPERATIONS {
            let change = Change::random(&mut random);
            let [here, there] = [&mount, &copy].map(|root| change.apply(root));
            log.push(format!("{change:.120?} -> {here:?}"));
            assert_eq!(here, there, "seed {seed}:\n{}", log.join("\n"));
            *(if here.is_ok() {
                &mut applied
            } else {
                &mut refused
            }) += 1;
        }
        level_times(&mount);
        level_times(&copy);
        let found = compare(&copy, &mount, &Exceptions::default()).unwrap();
        found.assert_equal(&format!("seed {seed}:\n{}", log.join("\n")));
        node.ok(&["umount", target]);
        fs::remove_dir_all(&copy).unwrap();
    }
    println!("{applied} changes made, {refused} refused alike");
    assert!(
        applied > refused / 2,
        "the changes are hardly ever possible"
    );
}
