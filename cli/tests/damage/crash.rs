//! Writers that are killed: the store stays consistent, and the next one goes on from there.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nacre_blobstore::CrashPoint;
use serde_json::{Value, json};

use super::scene::{Files, Scene, noise, sleep, write_layout};

/// Kills at random moments in a normal run, and in a long one (`NACRE_TEST_LONG=1`).
const RANDOM_KILLS: u64 = 8;
const RANDOM_KILLS_LONG: u64 = 50;

/// Three data packs: large files that do not compress, and many small ones.
fn source() -> Files {
    let large = (0..6).map(|number| (format!("large/{number}"), 12 << 20));
    let small = (0..400).map(|number| (format!("small/{}/{number}", number % 7), number * 53));
    large
        .chain(small)
        .map(|(path, len)| (path.clone(), noise(&path, len)))
        .collect()
}

fn scene(files: &Files) -> Scene {
    let scene = Scene::new();
    write_layout(&scene.path("layout"), files, &["small", "large"]);
    scene
}

fn layout(scene: &Scene) -> String {
    format!("oci:{}", scene.path("layout").display())
}

/// Packs with a copy of their index: those that the next writer can rely on.
fn landed(scene: &Scene) -> usize {
    let copies = scene.objects("index/packs");
    scene
        .objects("packs")
        .iter()
        .filter(|pack| copies.contains(pack))
        .count()
}

/// Adds the image again and checks that everything is as if nothing had happened.
fn goes_on(scene: &Scene, files: &Files, what: &str) -> Value {
    let landed = landed(scene);
    let named = !scene.objects("refs/images").is_empty();
    let report = scene.fsck("root");
    let garbage: Vec<&str> = report["garbage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key.as_str().unwrap())
        .collect();
    for folder in ["packs", "trees", "records"] {
        for name in scene.objects(folder) {
            let key = format!("{folder}/{name}");
            assert_eq!(garbage.contains(&&*key), !named, "{what}: {key}");
        }
    }
    let garbage_bytes: u64 = garbage
        .iter()
        .map(|key| scene.path("store").join(key).metadata().unwrap().len())
        .sum();
    assert_eq!(report["bytes_garbage"], json!(garbage_bytes), "{what}");

    let added = scene.ok("root", &["image", "add", &layout(scene), "--name", "a"]);
    assert_eq!(added["unchanged"], json!(named), "{what}");
    let known = added["chunks_known"].as_u64().unwrap();
    let new = added["chunks_new"].as_u64().unwrap();
    if !named {
        assert_eq!(
            known > 0,
            landed > 0,
            "{what}: {landed} packs, {known} chunks known"
        );
        assert_eq!(
            new == 0,
            landed == 3,
            "{what}: {landed} packs, {new} chunks new"
        );
    }
    let report = scene.fsck("root");
    assert_eq!(report["refs"], json!(1), "{what}");
    let staged = |folder: &str| {
        let entries = std::fs::read_dir(scene.path("store").join(folder)).unwrap();
        entries
            .map(|e| e.unwrap().file_name())
            .filter(|n| n.as_encoded_bytes()[0] == b'#')
            .count()
    };
    assert_eq!(
        (staged("packs"), staged("trees"), staged("records")),
        (0, 0, 0),
        "{what}"
    );
    let mounted = scene.mount("reader", "auto", "a").unwrap();
    for (path, bytes) in files {
        assert!(
            std::fs::read(mounted.at.join(path)).unwrap() == *bytes,
            "{what}: {path}"
        );
    }
    added
}

#[test]
fn a_writer_may_be_killed_at_every_point() {
    let files = source();
    let mut points: Vec<_> = CrashPoint::ALL
        .iter()
        .map(|point| (point.name(), 1))
        .collect();
    for point in [
        CrashPoint::PackPutBefore,
        CrashPoint::PackPutAfter,
        CrashPoint::IndexPutAfter,
    ] {
        // Three data packs, and that of the trees.
        points.extend([2, 3, 4].map(|count| (point.name(), count)));
    }
    for (point, count) in points {
        let scene = scene(&files);
        let mut writer = scene.command("root", &["image", "add", &layout(&scene), "--name", "a"]);
        let output = writer
            .env("NACRE_CRASH_AT", format!("{point}:{count}"))
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(9), "{point}:{count}");
        let named = !scene.objects("refs/images").is_empty();
        assert_eq!(
            named,
            point == CrashPoint::RefChanged.name(),
            "{point}:{count}"
        );
        goes_on(&scene, &files, &format!("{point}:{count}"));
    }
}

#[test]
fn a_writer_may_be_killed_at_any_moment() {
    let files = source();
    // Of several, for the first one reads files that are not yet in memory.
    let durations = [(); 3].map(|()| {
        let scene = scene(&files);
        let added = scene.ok("root", &["image", "add", &layout(&scene), "--name", "a"]);
        assert_eq!(scene.objects("packs").len(), 3);
        Duration::from_secs_f64(added["seconds"].as_f64().unwrap())
    });
    let mut whole = durations.into_iter().min().unwrap();
    let long = std::env::var_os("NACRE_TEST_LONG").is_some();
    let kills = if long {
        RANDOM_KILLS_LONG
    } else {
        RANDOM_KILLS
    };
    let first = std::env::var_os("NACRE_TEST_SEED").map_or_else(
        || u64::from(std::process::id()),
        |seed| seed.to_str().unwrap().parse().unwrap(),
    );
    let mut killed = 0;
    for seed in first..first + kills {
        let draw = *blake3::hash(&seed.to_le_bytes()).as_bytes();
        let share = f64::from(u16::from_le_bytes([draw[0], draw[1]])) / 65_536.0;
        let scene = scene(&files);
        let mut writer = scene.command("root", &["image", "add", &layout(&scene), "--name", "a"]);
        let mut writer = writer.stdout(std::process::Stdio::null()).spawn().unwrap();
        let delay = whole.mul_f64(share);
        sleep(delay);
        writer.kill().unwrap();
        let status = writer.wait().unwrap();
        let what = format!("NACRE_TEST_SEED={seed}, killed after {delay:?}");
        let landed = landed(&scene);
        let again = goes_on(&scene, &files, &what);
        println!(
            "{what}: {status}, {landed} packs, {} chunks known",
            again["chunks_known"]
        );
        if status.signal() == Some(9) {
            killed += 1;
        } else {
            // It was faster: later ones are killed a little sooner.
            whole = whole.mul_f64(0.95);
        }
    }
    assert!(
        killed * 2 > kills,
        "only {killed} of {kills} writers were still at work"
    );
}
