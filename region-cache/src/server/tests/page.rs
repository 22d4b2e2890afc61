//! The status page in a browser, as whoever runs a member sees it.

mod png;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

use self::png::Picture;
use super::*;
use crate::server::metrics::Tier;

/// Names under which distributions install one that takes the flags below.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Pixels of a colour that are a line and not the edge of a letter.
const LINE_PIXELS: usize = 100;
/// Lines of the charts: hits and memory, disk, origin.
const COLOURS: [[u8; 3]; 3] = [[0x00, 0x9e, 0x73], [0x00, 0x72, 0xb2], [0xd5, 0x5e, 0x00]];

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut all = BROWSERS
        .iter()
        .flat_map(|name| folders.iter().map(move |f| f.join(name)));
    all.find(|path| path.is_file())
}

/// Shows the page to a browser without a window.
async fn open(browser: &Path, address: SocketAddr, flag: &str) -> Output {
    let profile = TempDir::new().unwrap();
    let mut command = tokio::process::Command::new(browser);
    command
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
        ])
        .args(["--force-color-profile=srgb", "--enable-logging=stderr"])
        .arg("--window-size=1100,1500")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(flag)
        .arg(format!("http://{address}/status"))
        .env("HOME", profile.path());
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

/// A member that has served from all tiers for an hour, beside another one and one that is down.
async fn busy_member() -> (Lab, Lab, [String; 2]) {
    let other = Lab::start().await;
    let options = ServerOptions {
        peers: vec![other.address.to_string(), "127.0.0.1:1".to_owned()],
        ..ServerOptions::default()
    };
    let store = Arc::new(FaultStore::new(memory_store()));
    let lab = Lab::serving(options, store, Arc::new(SystemClock::new())).await;
    let path = other.object().await;
    lab.object().await;
    for member in [&lab, &other] {
        assert_eq!(member.get(&path, &[]).await.status, StatusCode::OK);
    }
    let record = format!("/records/{}", Digest::of(b"image"));
    let key = Key::new(&record[1..]).unwrap();
    lab.store.put(&key, body()).await.unwrap();
    assert_eq!(lab.get(&record, &[]).await.status, StatusCode::OK);
    let (metrics, samples) = (&lab.member.cache.metrics, &lab.member.samples);
    for (tier, first_us) in [
        (Tier::Memory, 30),
        (Tier::Disk, 300),
        (Tier::Origin, 30_000),
    ] {
        for step in 0..50 {
            let wait = Duration::from_micros(first_us * (1 + step * step / 20));
            metrics.served(tier, 1 << 20, wait);
        }
    }
    for number in 0..200_u64 {
        let all = number * 1000;
        samples
            .take((all, all / 3 + 20 * number % 7), &lab.member.peers)
            .await;
    }
    (lab, other, [path, record])
}

#[tokio::test]
async fn a_browser_shows_the_page() {
    let Some(browser) = browser() else {
        // Not by a macro: those are silent in tests that pass.
        let line = "SKIPPED: a_browser_shows_the_page: there is no chromium";
        writeln!(io::stderr(), "{line}").unwrap();
        return;
    };
    let (lab, other, paths) = busy_member().await;
    let shown = open(&browser, lab.address, "--dump-dom").await;
    let (page, log) = (
        String::from_utf8(shown.stdout).unwrap(),
        String::from_utf8_lossy(&shown.stderr).into_owned(),
    );
    assert!(!log.contains("CONSOLE"), "the browser complains: {log}");
    for wanted in [
        "this one",
        &other.address.to_string(),
        "does not answer",
        &paths[0][1..],
        &paths[1][1..],
    ] {
        assert!(page.contains(wanted), "no {wanted}: {page}");
    }
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("page.png");
    open(
        &browser,
        lab.address,
        &format!("--screenshot={}", file.display()),
    )
    .await;
    let picture = Picture::decode(&std::fs::read(&file).unwrap());
    for colour in COLOURS {
        let pixels = picture.count(colour);
        assert!(pixels > LINE_PIXELS, "{pixels} pixels of {colour:x?}");
    }
    // Both charts have a line of this colour, one below the other.
    let rows = picture.rows(COLOURS[0]);
    assert!(rows.end - rows.start > 200, "{rows:?}");
}
