//! Need root and Linux 6.12, as `make test` has.

use std::os::unix::fs::FileExt as _;

use nacre_blobstore::{Attributes, Digest, SystemClock};

use super::*;
use crate::erofs::ImageBuilder;
use crate::mount::{Lower, OverlaySpec, mounts_below, overlay};

struct Scene {
    folder: tempfile::TempDir,
    mounts: MetadataMounts,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            mounts: open(folder.path()),
            folder,
        }
    }

    fn image_file(&self, tree: TreeId) -> PathBuf {
        self.folder.path().join("images").join(tree.to_string())
    }

    fn points(&self) -> Vec<PathBuf> {
        mounts_below(&self.folder.path().canonicalize().unwrap()).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for point in self.points() {
            umount(&point, Umount::Detach).unwrap();
        }
    }
}

fn open(folder: &Path) -> MetadataMounts {
    MetadataMounts::open(folder, Arc::new(SystemClock::new())).unwrap()
}

fn image(number: u8) -> (TreeId, Vec<u8>) {
    let (mut image, root) = ImageBuilder::new([number; 16], &Attributes::default());
    image.write_directory(root, &[]).unwrap();
    (TreeId::new(Digest::of(&[number])), image.finish())
}

fn whole(bytes: &[u8]) -> impl FnOnce(&mut dyn Write) -> Result<(), MetadataImageError> {
    |out| out.write_all(bytes).map_err(MetadataImageError::Write)
}

#[test]
fn an_image_is_mounted_once_and_found_again() {
    let scene = Scene::new();
    let (tree, bytes) = image(1);
    assert_eq!(scene.mounts.mounted(tree).unwrap(), None);
    let at = scene.mounts.mount(tree, whole(&bytes)).unwrap();
    assert_eq!(scene.mounts.mount(tree, whole(&bytes)).unwrap(), at);
    assert_eq!(open(scene.folder.path()).mounted(tree).unwrap(), Some(at));
    assert_eq!(scene.points().len(), 1);
    umount(&scene.points()[0], Umount::IfIdle).unwrap();
    assert!(
        scene.mounts.mounted(tree).unwrap().is_some(),
        "the disk has it"
    );
    assert_eq!(scene.points().len(), 1);
}

#[test]
fn an_image_that_changed_on_the_disk_is_not_mounted() {
    let (tree, bytes) = image(1);
    let sealed = [&bytes[..], Digest::of(&bytes).as_bytes()].concat();
    for cut in [0, 31, 32, 1024, sealed.len() - 1, sealed.len()] {
        let scene = Scene::new();
        let mut damaged = sealed.clone();
        damaged.truncate(cut);
        if cut == sealed.len() {
            damaged[1024] ^= 1;
        }
        fs::write(scene.image_file(tree), damaged).unwrap();
        assert_eq!(scene.mounts.mounted(tree).unwrap(), None, "{cut}");
        assert!(!scene.image_file(tree).exists());
        scene.mounts.mount(tree, whole(&bytes)).unwrap();
    }
}

#[test]
fn a_check_drops_bad_images_and_leaves_right_ones() {
    let scene = Scene::new();
    let ((tree, bytes), (other, other_bytes)) = (image(1), image(2));
    let shard = tree.as_bytes()[0];
    assert_ne!(other.as_bytes()[0], shard);
    let at = scene.mounts.mount(tree, whole(&bytes)).unwrap();
    scene.mounts.mount(other, whole(&other_bytes)).unwrap();
    assert_eq!(scene.mounts.verify_shard(shard).unwrap(), []);
    for damaged in [tree, other] {
        let path = scene.image_file(damaged);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"rot", 100).unwrap();
    }
    assert_eq!(scene.mounts.verify_shard(shard).unwrap(), [tree]);
    assert!(!scene.image_file(tree).exists() && scene.image_file(other).exists());
    assert_eq!(scene.mounts.verify_shard(shard).unwrap(), []);
    assert_eq!(
        scene.mounts.mounted(tree).unwrap(),
        Some(at),
        "it is in use"
    );
}

#[test]
fn an_image_that_cannot_be_written_whole_is_dropped() {
    let scene = Scene::new();
    let (tree, bytes) = image(1);
    for is_damaged in [true, false] {
        let failed = scene.mounts.mount(tree, |out| {
            out.write_all(&bytes[..100]).unwrap();
            Err(if is_damaged {
                MetadataImageError::Malformed("half of it".to_owned())
            } else {
                MetadataImageError::Write(io::Error::other("full"))
            })
        });
        let told = match failed.unwrap_err() {
            MetadataMountError::Image(_) => true,
            MetadataMountError::Io { .. } => false,
            other @ MetadataMountError::Mount(_) => panic!("{other}"),
        };
        assert_eq!(told, is_damaged);
        assert!(!scene.image_file(tree).exists());
    }
    assert_eq!(scene.points(), [] as [PathBuf; 0]);
    scene.mounts.mount(tree, whole(&bytes)).unwrap();
}

#[test]
fn an_image_that_is_being_written_holds_up_no_other() {
    let scene = Scene::new();
    let [(tree, bytes), (other, other_bytes)] = [image(1), image(2)];
    assert_ne!(tree.as_bytes()[0], other.as_bytes()[0]);
    let written = scene.mounts.mount(tree, |out| {
        out.write_all(&bytes[..100]).unwrap();
        scene.mounts.mount(other, whole(&other_bytes)).unwrap();
        scene.mounts.sweep(Duration::ZERO).unwrap();
        assert_eq!(scene.points(), [] as [PathBuf; 0], "the other was swept");
        assert!(scene.mounts.mounted(other).unwrap().is_some());
        out.write_all(&bytes[100..]).unwrap();
        Ok(())
    });
    written.unwrap();
    assert_eq!(scene.points().len(), 2);
}

#[test]
fn a_mount_goes_away_with_its_last_overlay_and_not_before() {
    let scene = Scene::new();
    let (tree, bytes) = image(1);
    let at = scene.mounts.mount(tree, whole(&bytes)).unwrap();
    let (target, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spec = OverlaySpec {
        lower: Lower {
            layers: vec![at],
            data: vec![data.path().to_owned()],
        },
        upper: None,
        target: target.path().to_owned(),
        options: Vec::new(),
    };
    overlay(&spec).unwrap();
    scene.mounts.sweep(Duration::ZERO).unwrap();
    let (named, here) = (scene.points().len(), scene.mounts.count());
    umount(target.path(), Umount::IfIdle).unwrap();
    assert_eq!((named, here), (1, 1));
    scene.mounts.sweep(MetadataMounts::UNUSED_GRACE).unwrap();
    assert_eq!(scene.points().len(), 1, "it was asked for just now");
    scene.mounts.sweep(Duration::ZERO).unwrap();
    assert_eq!((scene.points().len(), scene.mounts.count()), (0, 0));
    assert!(scene.image_file(tree).exists());
}
