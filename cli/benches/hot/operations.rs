//! What is measured, each as a rate: more is better.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::ops::AddAssign;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memmap2::Mmap;

use crate::subject::Subject;

const BUFFER_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;
const RANDOM_READS: usize = 100_000;
const MAPPINGS: usize = 500;
const FAULTS_PER_MAPPING: usize = 64;
const MISSES_PER_DIRECTORY: usize = 4;
const EXECS: usize = 200;
const PYTHONS: usize = 2;

/// Something done to a mount.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) run: fn(&Path, &Subject) -> io::Result<Work>,
}

/// How much was done, and in what time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    amount: f64,
    time: Duration,
}

impl Work {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn new(amount: usize, time: Duration) -> Self {
        Self {
            amount: amount as f64,
            time,
        }
    }

    fn since(start: Instant, amount: usize) -> Self {
        Self::new(amount, start.elapsed())
    }

    pub(crate) fn rate(self) -> f64 {
        self.amount / self.time.as_secs_f64()
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, more: Self) {
        self.amount += more.amount;
        self.time += more.time;
    }
}

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "lstat walk",
        unit: "entries/s",
        run: walk,
    },
    Operation {
        name: "lstat of what is not there",
        unit: "1/s",
        run: miss,
    },
    Operation {
        name: "open, read, close of small files",
        unit: "files/s",
        run: small,
    },
    Operation {
        name: "open, close of large files",
        unit: "files/s",
        run: open_large,
    },
    Operation {
        name: "sequential read of large files",
        unit: "MB/s",
        run: sequential,
    },
    Operation {
        name: "random reads of 4 KiB",
        unit: "1/s",
        run: random,
    },
    Operation {
        name: "random faults of a mapping",
        unit: "1/s",
        run: faults,
    },
    Operation {
        name: "start of /bin/true",
        unit: "1/s",
        run: exec,
    },
    Operation {
        name: "start of python with 6 imports",
        unit: "1/s",
        run: python,
    },
];

#[expect(clippy::disallowed_methods, reason = "the one clock of the benchmark")]
fn now() -> Instant {
    Instant::now()
}

fn walk(root: &Path, _: &Subject) -> io::Result<Work> {
    let start = now();
    let mut seen = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            seen += 1;
            if fs::symlink_metadata(&path)?.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(Work::since(start, seen))
}

fn miss(root: &Path, subject: &Subject) -> io::Result<Work> {
    let paths: Vec<_> = subject
        .directories
        .iter()
        .flat_map(|d| {
            (0..MISSES_PER_DIRECTORY).map(move |i| root.join(d).join(format!("none-{i}")))
        })
        .collect();
    let start = now();
    let missing = paths
        .iter()
        .filter(|path| fs::symlink_metadata(path).is_err());
    assert_eq!(missing.count(), paths.len());
    Ok(Work::since(start, paths.len()))
}

fn small(root: &Path, subject: &Subject) -> io::Result<Work> {
    let paths: Vec<_> = subject.small.iter().map(|path| root.join(path)).collect();
    let mut buffer = vec![0; 1 << 16];
    let start = now();
    for path in &paths {
        let mut file = File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(Work::since(start, paths.len()))
}

fn open_large(root: &Path, subject: &Subject) -> io::Result<Work> {
    const TIMES: usize = 500;
    let paths: Vec<_> = subject
        .large
        .iter()
        .map(|(path, _)| root.join(path))
        .collect();
    let start = now();
    for _ in 0..TIMES {
        for path in &paths {
            drop(File::open(path)?);
        }
    }
    Ok(Work::since(start, TIMES * paths.len()))
}

fn sequential(root: &Path, subject: &Subject) -> io::Result<Work> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    let start = now();
    for (path, _) in &subject.large {
        let mut file = File::open(root.join(path))?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => bytes += read,
            }
        }
    }
    let work = Work::since(start, bytes);
    Ok(Work {
        amount: work.amount / 1e6,
        ..work
    })
}

/// Pages of a file in an order that looks random and is always the same (Knuth's MMIX generator).
fn pages(file_bytes: u64) -> impl Iterator<Item = u64> {
    let mut state = 1_u64;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % (file_bytes / PAGE_BYTES as u64) * PAGE_BYTES as u64
    })
}

fn largest<'a>(root: &Path, subject: &'a Subject) -> io::Result<(File, u64)> {
    let (path, bytes): &'a (_, _) = subject.large.first().ok_or(io::ErrorKind::NotFound)?;
    Ok((File::open(root.join(path))?, *bytes))
}

fn random(root: &Path, subject: &Subject) -> io::Result<Work> {
    let (file, bytes) = largest(root, subject)?;
    let mut page = [0; PAGE_BYTES];
    let start = now();
    for offset in pages(bytes).take(RANDOM_READS) {
        file.read_exact_at(&mut page, offset)?;
    }
    Ok(Work::since(start, RANDOM_READS))
}

fn faults(root: &Path, subject: &Subject) -> io::Result<Work> {
    let (file, bytes) = largest(root, subject)?;
    let mut pages = pages(bytes);
    let mut sum = 0_u64;
    let start = now();
    for _ in 0..MAPPINGS {
        #[expect(unsafe_code, reason = "there is no safe way to map a file")]
        // SAFETY: nobody changes a file of an image while it is mapped.
        let mapping = unsafe { Mmap::map(&file)? };
        for offset in pages.by_ref().take(FAULTS_PER_MAPPING) {
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            sum = sum.wrapping_add(u64::from(mapping[offset]));
        }
    }
    black_box(sum);
    Ok(Work::since(start, MAPPINGS * FAULTS_PER_MAPPING))
}

fn exec(root: &Path, _: &Subject) -> io::Result<Work> {
    spawn(root, EXECS, &["/bin/true"])
}

fn python(root: &Path, _: &Subject) -> io::Result<Work> {
    let imports = "import json, re, ssl, sqlite3, asyncio, email";
    spawn(root, PYTHONS, &["python3", "-c", imports])
}

fn spawn(root: &Path, times: usize, command: &[&str]) -> io::Result<Work> {
    let output = Command::new(std::env::current_exe()?)
        .arg("--spawn")
        .arg(root)
        .arg(times.to_string())
        .args(command)
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds = text.trim().parse().map_err(io::Error::other)?;
    Ok(Work::new(times, Duration::from_secs_f64(seconds)))
}

/// Changes into a mount as its root, starts a command so many times, one after the other, and
/// prints the seconds it took.
pub(crate) fn spawn_here(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [root, times, program, arguments @ ..] = arguments else {
        return Err("DIR, TIMES and a command are wanted".into());
    };
    // The mount has no devices.
    let null = File::open("/dev/null")?;
    rustix::process::chroot(root.as_str())?;
    std::env::set_current_dir("/")?;
    let times: usize = times.parse()?;
    let start = now();
    for _ in 0..times {
        let status = Command::new(program)
            .args(arguments)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(null.try_clone()?)
            .status()?;
        if !status.success() {
            return Err(format!("{program} ended with {status}").into());
        }
    }
    Ok(writeln!(io::stdout(), "{}", start.elapsed().as_secs_f64())?)
}
