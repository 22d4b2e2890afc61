//! Damaged objects: a reader gets right bytes or an error, and a check names what is damaged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::scene::{Files, Scene, noise, write_layout};

const EIO: i32 = 5;
/// Larger files are in packs alone.
const SMALL_FILE_BYTES_MAX: usize = 1024;
/// A check that found damage exits so.
const CORRUPT: i32 = 12;

/// Files of at most 1 MiB, which are one chunk each, named by the hash of their bytes; some share
/// frames, some fill several, some compress. And one that has a list of chunks.
fn source() -> Files {
    let small = (0..300).map(|number| (format!("small/{}/{number}", number % 5), number * 211 + 1));
    let large = (0..40).map(|number| (format!("large/{number}"), 300_000 + number * 18_000));
    let mut files: Files = small
        .chain(large)
        .map(|(path, len)| (path.clone(), noise(&path, len)))
        .collect();
    for number in 0..50_usize {
        let line = format!("line {number} of a text that compresses well\n");
        files.insert(
            format!("text/{number}"),
            line.repeat(number * 100 + 1).into_bytes(),
        );
    }
    files.insert("empty".to_owned(), Vec::new());
    files.insert(LISTED.to_owned(), noise(LISTED, 9_000_000));
    files
}

const LISTED: &str = "listed";

fn scene(files: &Files) -> Scene {
    let scene = Scene::new();
    write_layout(&scene.path("layout"), files, &[""]);
    let source = format!("oci:{}", scene.path("layout").display());
    scene.ok("writer", &["image", "add", &source, "--name", "a"]);
    scene.fsck("writer");
    scene
}

fn chunk_of(bytes: &[u8]) -> String {
    format!("chunk {}", blake3::hash(bytes))
}

fn flip(file: &Path, at: impl Iterator<Item = usize>) -> usize {
    let mut bytes = std::fs::read(file).unwrap();
    let flipped = at.map(|at| bytes[at] ^= 0x20).count();
    std::fs::write(file, bytes).unwrap();
    flipped
}

fn packs(scene: &Scene, folder: &str) -> Vec<PathBuf> {
    let path = |name| scene.path("store").join(folder).join(name);
    scene.objects(folder).into_iter().map(path).collect()
}

/// Reads every file from nodes without a cache, in both modes of mounting. Returns those that
/// could not be read, which must be the same, but for small ones, which kernel mode has in the metadata
/// image; all others must be right.
fn unreadable(scene: &Scene, files: &Files) -> BTreeSet<String> {
    let [kernel, fuse] = ["kernel", "fuse"].map(|mode| unreadable_in(scene, mode, files));
    let is_large = |path: &&String| files[*path].len() > SMALL_FILE_BYTES_MAX;
    let large: BTreeSet<_> = fuse.iter().filter(is_large).cloned().collect();
    assert_eq!(kernel, large);
    fuse
}

fn unreadable_in(scene: &Scene, mode: &str, files: &Files) -> BTreeSet<String> {
    let mounted = scene.mount(mode, mode, "a").unwrap();
    let mut failed = BTreeSet::new();
    for (path, expected) in files {
        match std::fs::read(mounted.at.join(path)) {
            Ok(bytes) => assert!(bytes == *expected, "{path} is silently wrong"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "{path}: {error}");
                failed.insert(path.clone());
            }
        }
    }
    failed
}

/// Checks all data with a node of its own. Returns what it finds damaged.
fn corrupt(scene: &Scene) -> BTreeSet<String> {
    let (output, report): (_, Value) = scene.output("checker", &["store", "fsck", "--read-data"]);
    assert_eq!(output.status.code(), Some(CORRUPT), "{report}");
    let items = report["corrupt"].as_array().unwrap().iter();
    items
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// Compares what a reader met with what a check says.
fn assert_agree(files: &Files, failed: &BTreeSet<String>, corrupt: &BTreeSet<String>) {
    let single = files
        .iter()
        .filter(|file| *file.0 != LISTED && !file.1.is_empty());
    let expected: BTreeSet<_> = single
        .clone()
        .filter(|file| failed.contains(file.0))
        .map(|file| chunk_of(file.1))
        .collect();
    let known: BTreeSet<_> = single.map(|file| chunk_of(file.1)).collect();
    let found: BTreeSet<_> = corrupt.intersection(&known).cloned().collect();
    assert_eq!(found, expected);
    let pieces = corrupt.difference(&known).count();
    assert_eq!(
        pieces > 0,
        failed.contains(LISTED),
        "{pieces} chunks of the listed file"
    );
    assert!(!failed.contains("empty"));
}

#[test]
fn damage_all_over_the_packs_is_never_served() {
    let files = source();
    let scene = scene(&files);
    let mut flipped = 0;
    for pack in packs(&scene, "packs") {
        let len = usize::try_from(pack.metadata().unwrap().len()).unwrap();
        flipped += flip(
            &pack,
            (0..len)
                .step_by(64 << 10)
                .map(|at| (at + 31_000).min(len - 1)),
        );
    }
    let (failed, corrupt) = (unreadable(&scene, &files), corrupt(&scene));
    assert_agree(&files, &failed, &corrupt);
    assert!(failed.len() > 50);
    println!(
        "{flipped} bytes: {} of {} files, {} chunks",
        failed.len(),
        files.len(),
        corrupt.len()
    );
}

#[test]
fn one_flipped_byte_costs_the_files_of_its_frame() {
    let files = source();
    let scene = scene(&files);
    let pack = packs(&scene, "packs").remove(0);
    let middle = usize::try_from(pack.metadata().unwrap().len() / 2).unwrap();
    flip(&pack, std::iter::once(middle));
    let (failed, corrupt) = (unreadable(&scene, &files), corrupt(&scene));
    assert_agree(&files, &failed, &corrupt);
    assert!(
        !failed.is_empty() && failed.len() < files.len() / 2,
        "{failed:?}"
    );
    println!(
        "1 byte: {} of {} files, {} chunks",
        failed.len(),
        files.len(),
        corrupt.len()
    );
}

#[test]
fn damage_where_readers_do_not_look_is_found_by_a_check() {
    let files = source();
    let scene = scene(&files);
    let pack = packs(&scene, "packs").remove(0);
    let len = usize::try_from(pack.metadata().unwrap().len()).unwrap();
    for at in [3, len - 40, len - 1] {
        flip(&pack, std::iter::once(at));
        assert_eq!(corrupt(&scene), BTreeSet::new(), "{at}");
        flip(&pack, std::iter::once(at));
    }
    flip(&pack, [3, len - 40].into_iter());
    assert_eq!(
        unreadable(&scene, &files),
        BTreeSet::new(),
        "the copy of the index is right"
    );
}

/// Compares a directory with the image as far as it can be read. Returns how many could not be.
fn compare(at: &Path, above: &str, files: &Files) -> usize {
    let names = std::fs::read_dir(at).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let names = match names {
        Ok(names) => names,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(EIO), "{above}: {error}");
            return 1;
        }
    };
    let below = files.keys().filter_map(|path| path.strip_prefix(above));
    let expected: BTreeSet<_> = below.map(|path| path.split('/').next().unwrap()).collect();
    let names: Vec<_> = names
        .iter()
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        names.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        expected,
        "{above}"
    );
    let mut failed = 0;
    for name in names {
        let path = format!("{above}{name}");
        match files.get(&path) {
            None => failed += compare(&at.join(name), &format!("{path}/"), files),
            Some(bytes) => match std::fs::read(at.join(name)) {
                Ok(read) => assert!(read == *bytes, "{path}"),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(EIO), "{path}");
                    failed += 1;
                }
            },
        }
    }
    failed
}

#[test]
fn a_damaged_tree_hides_and_never_misleads() {
    let files = source();
    let scene = scene(&files);
    let pack = packs(&scene, "trees").remove(0);
    flip(&pack, std::iter::once(40));
    let failed = scene
        .mount("reader", "fuse", "a")
        .map(|mounted| compare(&mounted.at, "", &files));
    assert_ne!(failed, Some(0), "something cannot be read");
    let (output, report) = scene.output("checker", &["store", "fsck"]);
    assert_eq!(output.status.code(), Some(CORRUPT));
    let items = report["corrupt"].as_array().unwrap();
    assert!(
        items
            .iter()
            .any(|item| item.as_str().unwrap().starts_with("tree ")),
        "{report}"
    );
    assert!(corrupt(&scene).len() >= items.len());
}
