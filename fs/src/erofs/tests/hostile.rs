//! Directories that no file system has.

use nacre_blobstore::{Attributes, ContentId, Device, Digest, Timestamp, Xattr};
use proptest::prelude::*;

use super::mounted::assert_fsck_accepts;
use crate::erofs::{ErofsError, ImageBuilder, ImageEntry, ImageInode};

/// An entry of which any part may be wrong.
#[derive(Debug, Clone)]
struct Wild {
    name: Vec<u8>,
    attributes: Attributes,
    kind: u8,
    bytes: Vec<u8>,
    number: u64,
    group: Option<u8>,
}

impl Wild {
    fn entry(&self) -> ImageEntry<'_> {
        let device = Device {
            major: u32::try_from(self.number >> 32).unwrap(),
            minor: u32::try_from(self.number & 0xffff_ffff).unwrap(),
        };
        let inode = match self.kind {
            0 | 1 => ImageInode::Directory {
                opaque: self.kind == 1,
            },
            2 => ImageInode::Symlink(&self.bytes),
            3 => ImageInode::CharDevice(device),
            4 => ImageInode::BlockDevice(device),
            5 => ImageInode::Fifo,
            6 => ImageInode::Socket,
            7 => ImageInode::Whiteout,
            _ => ImageInode::File {
                content: ContentId::new(Digest::of(&self.bytes)),
                size_bytes: self.number,
            },
        };
        ImageEntry {
            name: &self.name,
            attributes: &self.attributes,
            inode,
            hard_link: self.group.map(|group| [group; 16]),
        }
    }
}

/// Mostly what is right, now and then anything.
fn rarely<T: std::fmt::Debug + Clone>(
    right: impl Strategy<Value = T>,
    any: impl Strategy<Value = T>,
) -> impl Strategy<Value = T> {
    prop_oneof![200 => right, 1 => any]
}

fn any_bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn xattrs() -> impl Strategy<Value = Vec<Xattr>> {
    let right = "(user|trusted|trusted.overlay|security)\\.[a-z]{1,9}";
    let name = rarely(right.prop_map(String::into_bytes), any_bytes(300));
    let acl = Just(b"system.posix_acl_access".to_vec());
    let name = prop_oneof![40 => name, 1 => acl];
    let value = prop_oneof![
        20 => any_bytes(20),
        1 => (0..70_000_usize).prop_map(|len| vec![7; len]),
    ];
    let xattr = (name, value).prop_map(|(name, value)| Xattr {
        name: name.into(),
        value: value.into(),
    });
    prop::collection::vec(xattr, 0..3)
}

fn wild() -> impl Strategy<Value = Wild> {
    let attributes = (
        rarely(0..=0o7777_u16, any::<u16>()),
        any::<u32>(),
        any::<u32>(),
        (any::<i64>(), rarely(0..1_000_000_000_u32, any::<u32>())),
        xattrs(),
    );
    let attributes = attributes.prop_map(|(mode, uid, gid, (seconds, nanoseconds), xattrs)| {
        let mtime = Timestamp {
            seconds,
            nanoseconds,
        };
        Attributes {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        }
    });
    let name = rarely("[a-z]{1,40}".prop_map(String::into_bytes), any_bytes(300));
    let symlink = (1..4096_usize).prop_map(|len| vec![b't'; len]);
    let target = rarely(symlink, any_bytes(5000));
    let number = rarely(1..1_u64 << 20, any::<u64>());
    let group = prop::option::weighted(0.05, 0..3_u8);
    (name, attributes, 0..10_u8, target, number, group).prop_map(
        |(name, attributes, kind, bytes, number, group)| Wild {
            name,
            attributes,
            kind,
            bytes,
            number,
            group: group.filter(|group| kind > 1 || *group == 0),
        },
    )
}

/// Writes one directory after the other, each to the one that was promised last.
fn write(root: &Attributes, directories: &[Vec<Wild>]) -> Result<Vec<u8>, ErofsError> {
    let (mut image, root) = ImageBuilder::new([9; 16], root);
    let mut pending = vec![root];
    let mut directories = directories.iter();
    while let Some(directory) = pending.pop() {
        let entries: Vec<_> = directories.next().into_iter().flatten().collect();
        let entries: Vec<_> = entries.into_iter().map(Wild::entry).collect();
        pending.extend(image.write_directory(directory, &entries)?);
    }
    Ok(image.finish())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_is_given_the_image_is_sound_or_refused(
        root in wild(),
        mut directories in prop::collection::vec(prop::collection::vec(wild(), 0..12), 0..12),
        sorted in prop::bool::weighted(0.95),
    ) {
        for directory in directories.iter_mut().filter(|_| sorted) {
            directory.sort_by(|a, b| a.name.cmp(&b.name));
        }
        match write(&root.attributes, &directories) {
            Ok(image) => {
                assert_eq!(image, write(&root.attributes, &directories).unwrap());
                assert_fsck_accepts(&image);
            }
            Err(error) => assert!(matches!(error, ErofsError::Unrepresentable { .. })),
        }
    }
}
