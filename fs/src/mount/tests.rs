//! The tests that mount need root, as `make test` has.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::mountinfo::{parse, parse_overlays};
use super::*;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for point in mounts_below(&self.0.path().canonicalize().unwrap()).unwrap() {
            umount(&point, Umount::Detach).unwrap();
        }
    }
}

fn spec(lower: &Path, top: &Scratch) -> OverlaySpec {
    OverlaySpec {
        lower: Lower::directory(lower.to_owned()),
        upper: Some(UpperDirs {
            upper: top.dir("upper"),
            work: top.dir("work"),
        }),
        target: top.dir("merged"),
        options: vec!["metacopy=off".to_owned()],
    }
}

fn layers(layers: &[&Path]) -> Lower {
    Lower {
        layers: layers.iter().map(|layer| layer.to_path_buf()).collect(),
        data: Vec::new(),
    }
}

#[test]
fn options_escape_what_overlayfs_splits_at() {
    let spec = OverlaySpec {
        lower: Lower {
            layers: vec!["/a:b".into(), "/c,d".into()],
            data: vec!["/x:".into(), "/y".into()],
        },
        upper: Some(UpperDirs {
            upper: "/e\\f".into(),
            work: "/w".into(),
        }),
        target: "/t".into(),
        options: vec!["index=off".to_owned()],
    };
    let expected =
        br"lowerdir=/a\:b:/c\,d::/x\:::/y,metacopy=on,upperdir=/e\\f,workdir=/w,index=off";
    assert_eq!(spec.option_bytes(), expected);
}

#[test]
fn overlay_with_hostile_path_names_keeps_the_lower_untouched() {
    let scratch = Scratch::new();
    let lower = scratch.dir(r"lo:w,er\x");
    fs::write(lower.join("f"), "old").unwrap();
    let mut spec = spec(&lower, &scratch);
    spec.upper = Some(UpperDirs {
        upper: scratch.dir(r"up:p,er\"),
        work: scratch.dir("w,:k"),
    });
    overlay(&spec).unwrap();
    fs::write(spec.target.join("f"), "new").unwrap();
    assert_eq!(fs::read(lower.join("f")).unwrap(), b"old");
    assert_eq!(
        fs::read(scratch.dir(r"up:p,er\").join("f")).unwrap(),
        b"new"
    );
}

#[test]
fn overlay_without_upper_is_read_only_and_a_layer_twice_is_refused() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.dir("a"), scratch.dir("b"));
    let mut spec = OverlaySpec {
        lower: layers(&[&a, &b]),
        upper: None,
        ..spec(&a, &scratch)
    };
    overlay(&spec).unwrap();
    let refused = fs::write(spec.target.join("f"), "").unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
    spec.lower = layers(&[&a, &a]);
    assert_eq!(overlay(&spec).unwrap_err().errno(), Some(Errno::LOOP));
}

#[test]
fn options_beyond_one_page_are_refused_before_the_kernel_truncates_them() {
    let mut spec = spec(Path::new("/nowhere"), &Scratch::new());
    spec.lower.layers = (0..100).map(|i| format!("/{:0>60}", i).into()).collect();
    assert!(matches!(overlay(&spec), Err(MountError::Options { .. })));
    spec.lower.layers = vec!["/a\0b".into()];
    assert!(matches!(overlay(&spec), Err(MountError::Options { .. })));
}

#[test]
fn umount_reports_a_mount_in_use_and_detach_takes_it_away() {
    let scratch = Scratch::new();
    let spec = spec(&scratch.dir("lower"), &scratch);
    overlay(&spec).unwrap();
    let user = fs::File::create(spec.target.join("open")).unwrap();
    assert!(matches!(
        umount(&spec.target, Umount::IfIdle),
        Err(MountError::Busy { .. })
    ));
    assert!(is_mount_point(&spec.target).unwrap());
    umount(&spec.target, Umount::Detach).unwrap();
    assert!(!is_mount_point(&spec.target).unwrap());
    drop(user);
    let nothing = umount(&spec.target, Umount::IfIdle).unwrap_err();
    assert_eq!(nothing.errno(), Some(Errno::INVAL));
}

#[test]
fn bind_honours_read_only_and_takes_mounts_below_along() {
    let scratch = Scratch::new();
    let (source, below, target) = (scratch.dir("s"), scratch.dir("s/below"), scratch.dir("t"));
    let inner = scratch.dir("inner");
    fs::write(inner.join("f"), "x").unwrap();
    bind(&inner, &below, false).unwrap();
    bind(&source, &target, true).unwrap();
    assert_eq!(fs::read(target.join("below/f")).unwrap(), b"x");
    let refused = fs::write(target.join("g"), "").unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
    fs::write(source.join("g"), "").unwrap();
    let missing = bind(&scratch.0.path().join("none"), &target, false).unwrap_err();
    assert_eq!(missing.errno(), Some(Errno::NOENT));
}

#[test]
fn mounts_below_lists_the_newest_first() {
    let scratch = Scratch::new();
    let (top, inside, name) = (
        scratch.dir("top"),
        scratch.dir("top/in"),
        scratch.dir("a b\\c"),
    );
    for target in [&inside, &top, &name] {
        bind(scratch.dir("source/in").parent().unwrap(), target, false).unwrap();
    }
    let over = scratch.dir("top/in");
    bind(&scratch.dir("source"), &over, false).unwrap();
    assert_eq!(
        mounts_below(&top).unwrap(),
        [inside.clone(), top.clone(), inside]
    );
    assert_eq!(mounts_below(&name).unwrap(), [name]);
    assert!(mounts_below(&top.with_file_name("to")).unwrap().is_empty());
}

#[test]
fn an_overlay_looks_again_for_what_nobody_has_open() {
    for is_read_only in [false, true] {
        let scratch = Scratch::new();
        let (near, far) = (scratch.dir("near"), scratch.dir("far"));
        fs::create_dir(far.join("d")).unwrap();
        for name in ["closed", "open", "d/f"] {
            fs::write(far.join(name), "far").unwrap();
        }
        let mut spec = OverlaySpec {
            lower: layers(&[&near, &far]),
            ..spec(&far, &scratch)
        };
        if is_read_only {
            spec.upper = None;
        }
        overlay(&spec).unwrap();
        if !is_read_only {
            fs::write(spec.target.join("written"), "kept").unwrap();
        }
        let read = |name: &str| fs::read_to_string(spec.target.join(name)).unwrap_or_default();
        let names = ["closed", "open", "d/f", "written"];
        let before = names.map(read);
        let open = fs::File::open(spec.target.join("open")).unwrap();
        for name in ["closed", "open"] {
            fs::write(near.join(name), "near").unwrap();
        }
        assert_eq!(names.map(read), before, "what is known is not looked for");

        let listed = overlays().unwrap();
        let listed = listed.into_iter().find(|found| found.target == spec.target);
        let found = listed.unwrap();
        assert_eq!(found.is_read_only(), is_read_only);
        forget_unused(&found).unwrap();
        assert_eq!(names.map(read), ["near", "far", "far", &before[3]]);
        drop(open);
        forget_unused(&found).unwrap();
        assert_eq!(read("open"), "near");
        let refused = fs::write(spec.target.join("new"), "").is_err();
        assert_eq!(refused, is_read_only, "it is as it was");

        umount(&spec.target, Umount::IfIdle).unwrap();
        let gone = forget_unused(&found).unwrap_err();
        assert_eq!(gone.errno(), Some(Errno::STALE));
    }
}

#[test]
fn an_overlay_is_listed_once_with_its_place_and_options() {
    let text = b"40 25 0:50 / /m\\040x rw shared:3 - overlay overlay ro,lowerdir=/a::/b\n\
        41 25 0:50 / /again rw - overlay overlay ro,lowerdir=/a::/b\n\
        42 25 0:51 / /t rw - tmpfs overlay rw\n43 25 x:1 / /m rw - overlay\n\xff 1 0:9 \n";
    let expected = Overlay {
        device: rustix::fs::makedev(0, 50),
        target: "/m x".into(),
        options: "ro,lowerdir=/a::/b".to_owned(),
    };
    assert_eq!(parse_overlays(text), [expected]);
}

#[test]
fn mountinfo_parser_takes_any_bytes() {
    let text = b"36 35 98:0 /m1 /mnt\\0402\\134x\\011\\9\\777\\0 rw - ext4 d rw\n1 2 3\n\n";
    assert_eq!(parse(text), [PathBuf::from("/mnt 2\\x\t\\9\\777\\0")]);
    assert!(parse(b"\xff \\ \\1").is_empty());
}
