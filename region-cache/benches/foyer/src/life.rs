//! What a cache goes through, in a process of its own and with an empty disk at first.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nacre_region_cache::BLOCK_BYTES;

use crate::load::{self, Get};
use crate::origin::OBJECT_BYTES;
use crate::serve::Quota;
use crate::table::Table;

const SMALL_BYTES: u64 = 64 << 10;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// How long ranges are read from memory.
const MEMORY_TIME: Duration = Duration::from_secs(4);
/// Passes after which all has to be on the disk.
const FILLS_MAX: usize = 5;
/// How long what was read may take to be on the disk, too.
const WRITE_WAIT: Duration = Duration::from_secs(1);
/// Within two seconds a member takes all uses of a block for one.
const USE_WAIT: Duration = Duration::from_millis(2100);
/// What is hot is one part of the disk in so many; what is scanned so many times the disk.
const HOT_SHARE: u64 = 4;
const SCAN_DISKS: u64 = 10;
/// Of getconf(1).
const TICKS_PER_S: f64 = 100.0;

/// A cache that runs.
struct Server {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    target: String,
}

impl Server {
    fn start(cache: &str, folder: &Path, disk_mib: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serve", cache])
            .arg(folder)
            .arg(disk_mib.to_string())
            .env("GLIBC_TUNABLES", tunables(cache))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let asks = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut port = String::new();
        answers.read_line(&mut port).unwrap();
        let target = format!("127.0.0.1:{}", port.trim());
        Self {
            child,
            asks,
            answers,
            target,
        }
    }

    /// Returns how many requests the origin had for what is between these bytes of all objects.
    fn origin_gets(&mut self, bytes: &Range<u64>) -> u64 {
        let (from, to) = (bytes.start / OBJECT_BYTES, bytes.end / OBJECT_BYTES);
        writeln!(self.asks, "{from} {to}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim().parse().unwrap()
    }

    fn of_proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    fn peak_mib(&self) -> f64 {
        let status = self.of_proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<f64>().unwrap() / 1024.0
    }

    fn cpu_s(&self) -> f64 {
        let stat = self.of_proc("stat");
        // After the program's name, which is in parentheses.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks
            .map(|ticks| ticks.parse::<f64>().unwrap())
            .sum::<f64>()
            / TICKS_PER_S
    }

    fn measure(&self, cache: &str, name: &str, table: &mut Table, gets: &[Get], timed: bool) {
        let before = self.cpu_s();
        let figures = load::run(&self.target, gets, timed.then_some(MEMORY_TIME));
        let cpu_s = self.cpu_s() - before;
        let mut add = |unit: &str, figure| table.add(cache, &format!("{name}, {unit}"), figure);
        add("MB/s", figures.mb_per_s);
        add("p50 ms", figures.p50_us / 1e3);
        add("p99 ms", figures.p99_us / 1e3);
        add("CPU s/GB", cpu_s / (figures.bytes as f64 / 1e9));
    }

    /// Reads ranges, and returns which share of those between these bytes did not reach the origin.
    /// Each costs it one request at most.
    fn hits(&mut self, gets: &[Get], bytes: &Range<u64>) -> f64 {
        let before = self.origin_gets(bytes);
        load::run(&self.target, gets, None);
        percent(self.origin_gets(bytes) - before, gets, bytes)
    }

    /// Kills it and starts it again on what it left on the disk.
    fn restart(self, cache: &str, folder: &Path, disk_mib: u64, table: &mut Table) -> Self {
        drop(self);
        let start = Instant::now();
        let server = Self::start(cache, folder, disk_mib);
        let ms = start.elapsed().as_secs_f64() * 1e3;
        table.add(cache, "killed, until it serves again, ms", ms);
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By SIGKILL.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Returns how glibc allocates for a cache: for a member as the units in deploy/ have it. foyer
/// allocates each entry that it reads from the disk, and by default many of those end with memory that
/// goes back to the kernel: 64 KiB from the disk were 350 MB/s so, and 750 like this.
fn tunables(cache: &str) -> &'static str {
    if cache == "nacre" {
        "glibc.malloc.hugetlb=1"
    } else {
        "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:\
         glibc.malloc.trim_threshold=4294967296"
    }
}

/// Returns which share of the ranges between these bytes was not missed.
fn percent(missed: u64, gets: &[Get], bytes: &Range<u64>) -> f64 {
    let begins = |get: &&Get| bytes.contains(&(get.object * OBJECT_BYTES + get.offset));
    let count = gets.iter().filter(begins).count();
    100.0 * (1.0 - missed as f64 / count as f64)
}

/// Ranges from memory and from the disk; then it is killed and started again.
pub(crate) fn ranges(folder: &Path, cache: &str, disk_mib: u64, table: &mut Table) {
    let folder = empty(folder, cache);
    let quota = Quota::new(disk_mib);
    let mut server = Server::start(cache, &folder, disk_mib);
    let in_memory = (quota.tier_bytes() / 2).next_multiple_of(OBJECT_BYTES);
    load::run(&server.target, &load::every(in_memory, BLOCK), None);
    let small = load::every(in_memory, SMALL_BYTES);
    server.measure(cache, "memory, 64 KiB", table, &small, true);

    // What fits with foyer, too, which has room for some less.
    let stored = 0..quota.disk_bytes / 8 * 7 / OBJECT_BYTES * OBJECT_BYTES;
    let blocks = load::every(stored.end, BLOCK);
    let mut fills = Vec::new();
    while fills.len() < FILLS_MAX && fills.last() != Some(&0) {
        let before = server.origin_gets(&stored);
        load::run(&server.target, &blocks, None);
        std::thread::sleep(WRITE_WAIT);
        fills.push(server.origin_gets(&stored) - before);
    }
    let again = 100.0 * fills[1] as f64 / fills[0] as f64;
    table.add(cache, "read once, then fetched again, %", again);
    sync();
    let before = server.origin_gets(&stored);
    let small = load::every(stored.end, SMALL_BYTES);
    server.measure(cache, "disk, 64 KiB", table, &small, false);
    server.measure(cache, "disk, 1 MiB", table, &blocks, false);
    let gets = server.origin_gets(&stored) - before;
    table.add(cache, "requests at the origin meanwhile", gets as f64);
    table.add(cache, "peak memory, MiB", server.peak_mib());

    let mut server = server.restart(cache, &folder, disk_mib, table);
    let beginnings = load::beginnings(stored.end / BLOCK, BLOCK, SMALL_BYTES);
    table.add(cache, "hits then, %", server.hits(&beginnings, &stored));
}

/// What is hot, before and beside a scan of ten times the disk, and after the cache was killed with
/// the last of the scan on its way to the disk.
pub(crate) fn scan(folder: &Path, cache: &str, disk_mib: u64, table: &mut Table) {
    let folder = empty(folder, cache);
    let disk_bytes = Quota::new(disk_mib).disk_bytes;
    let hot = 0..disk_bytes / HOT_SHARE;
    let (often, seldom) = (0..hot.end / 2, hot.end / 2..hot.end);
    let mut server = Server::start(cache, &folder, disk_mib);
    let beginnings = load::beginnings(hot.end / BLOCK, BLOCK, SMALL_BYTES);
    for _ in 0..2 {
        load::run(&server.target, &beginnings, None);
        std::thread::sleep(USE_WAIT);
    }
    table.add(cache, "hits before, %", server.hits(&beginnings, &hot));

    let turnover = disk_bytes / BLOCK;
    let blocks = SCAN_DISKS * turnover;
    let gets = load::scan(hot.end / BLOCK, blocks, turnover, BLOCK, SMALL_BYTES);
    let before = [&often, &seldom].map(|bytes| server.origin_gets(bytes));
    let figures = load::run(&server.target, &gets, None);
    let after = [&often, &seldom].map(|bytes| server.origin_gets(bytes));
    let name = "hits of what is read 4 times a turnover, %";
    table.add(cache, name, percent(after[0] - before[0], &gets, &often));
    let name = "hits of what is read once a turnover, %";
    table.add(cache, name, percent(after[1] - before[1], &gets, &seldom));
    table.add(cache, "scan, MB/s", figures.mb_per_s);
    table.add(cache, "peak memory, MiB", server.peak_mib());

    let mut server = server.restart(cache, &folder, disk_mib, table);
    table.add(cache, "hits then, %", server.hits(&beginnings, &hot));
}

/// Empties the folder of a cache.
fn empty(folder: &Path, cache: &str) -> PathBuf {
    let folder = folder.join(cache);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// What is still to be written must not disturb what is measured.
fn sync() {
    assert!(Command::new("sync").status().unwrap().success());
}
