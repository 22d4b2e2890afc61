//! The view against the reference model.

use std::collections::HashMap;

use nacre_blobstore::{Attributes, Device, Timestamp, Xattr};
use proptest::prelude::*;

use super::*;
use crate::testing::model::ModelPath;

/// Compares a view with a model and takes back every lookup it made.
struct Comparison<'a> {
    fixture: &'a Fixture,
    model: &'a Model,
    flavor: Flavor,
    piece: usize,
    seen: HashMap<ModelPath, Attr>,
    lookups: Vec<u64>,
}

impl Comparison<'_> {
    async fn run(&mut self, tree: TreeId) {
        let root = self.fixture.root(self.flavor, tree).await;
        self.lookups.push(root.ino);
        self.seen.insert(Vec::new(), root);
        for (path, node) in &self.model.0 {
            if let Some((name, parent)) = path.split_last() {
                let parent = self.seen[parent].ino;
                let attr = self.fixture.find(parent, name).await.unwrap();
                self.lookups.push(attr.ino);
                self.seen.insert(path.clone(), attr);
            }
            let attr = self.seen[path];
            self.compare_attr(path, node, &attr);
            assert_eq!(self.fixture.view.getattr(attr.ino).await.unwrap(), attr);
            self.compare_xattrs(node, attr.ino).await;
            self.compare_kind(node, attr.ino).await;
        }
        for (path, node) in &self.model.0 {
            if node.kind == Kind::Directory {
                self.compare_listing(path).await;
            }
        }
        self.compare_numbers();
        for ino in self.lookups.drain(..) {
            self.fixture.view.forget(ino, 1);
        }
        assert_eq!(self.fixture.view.inodes_known(), 0);
    }

    fn compare_attr(&self, path: &ModelPath, node: &ModelNode, attr: &Attr) {
        let attributes = &node.attributes;
        let size = if node.kind == Kind::Directory {
            4096
        } else {
            node.bytes.len() as u64
        };
        let is_device = matches!(node.kind, Kind::CharDevice | Kind::BlockDevice);
        let expected = Attr {
            ino: attr.ino,
            kind: node.kind,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            nlink: self.model.nlink(path),
            size_bytes: size,
            blocks: size.div_ceil(512),
            device: is_device.then_some(node.device),
            valid: IMMUTABLE_VALID,
        };
        assert_eq!(*attr, expected);
    }

    async fn compare_xattrs(&self, node: &ModelNode, ino: u64) {
        let view = &self.fixture.view;
        let shown = |name: &[u8]| match name.strip_prefix(b"trusted.overlay.") {
            Some(rest) if self.flavor == Flavor::Lower => {
                [b"trusted.overlay.overlay.", rest].concat()
            }
            _ => name.to_vec(),
        };
        let mut names = Vec::new();
        for xattr in &node.attributes.xattrs {
            let name = shown(&xattr.name);
            assert_eq!(view.getxattr(ino, &name).await.unwrap(), *xattr.value);
            names.extend_from_slice(&name);
            names.push(0);
        }
        assert_eq!(view.listxattr(ino).await.unwrap(), names);
        assert!(matches!(
            view.getxattr(ino, b"user.absent").await,
            Err(FsError::NoXattr)
        ));
    }

    async fn compare_kind(&self, node: &ModelNode, ino: u64) {
        let view = &self.fixture.view;
        match node.kind {
            Kind::File => {
                let len = node.bytes.len();
                for (offset, size) in [(0, len + 1), (len / 2, 1 + len / 3), (len, 9), (len + 9, 1)]
                {
                    let end = len.min(offset + size);
                    let expected = node.bytes.get(offset..end).unwrap_or_default();
                    let size = u32::try_from(size).unwrap();
                    assert_eq!(view.read(ino, offset as u64, size).await.unwrap(), expected);
                }
            }
            Kind::Symlink => assert_eq!(view.readlink(ino).await.unwrap(), node.bytes),
            Kind::Directory => {
                let absent = view.lookup(ino, b"no-such-name").await.unwrap();
                assert_eq!(
                    absent,
                    Lookup::Absent {
                        valid: IMMUTABLE_VALID
                    }
                );
                assert!(matches!(
                    view.read(ino, 0, 1).await,
                    Err(FsError::IsDirectory)
                ));
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {
                assert!(matches!(
                    view.read(ino, 0, 1).await,
                    Err(FsError::WrongKind)
                ));
            }
        }
        if node.kind != Kind::Directory {
            assert!(matches!(
                view.lookup(ino, b"x").await,
                Err(FsError::NotDirectory)
            ));
            let listed = view.readdir(ino, 0, |_| Taken::Yes).await;
            assert!(matches!(listed, Err(FsError::NotDirectory)));
        }
        if node.kind != Kind::Symlink {
            assert!(matches!(view.readlink(ino).await, Err(FsError::WrongKind)));
        }
    }

    async fn compare_listing(&mut self, path: &ModelPath) {
        let ino = self.seen[path].ino;
        let listed = self.fixture.list(ino, self.piece).await;
        let plus = self.fixture.list_plus(ino, self.piece).await;
        let child = |name: &[u8]| self.seen[&[path.as_slice(), &[name.to_vec()]].concat()];
        let children: Vec<_> = self.model.children(path).collect();
        assert_eq!(listed.len(), children.len() + 2);
        assert_eq!(plus.len(), children.len() + 2);
        assert_eq!(listed[0], (b".".to_vec(), ino, Kind::Directory));
        assert_eq!(
            (&listed[1].0, listed[1].2),
            (&b"..".to_vec(), Kind::Directory)
        );
        if let Some((_, parent)) = path.split_last() {
            assert_eq!(listed[1].1, self.seen[parent].ino);
        }
        for (i, (name, node)) in children.into_iter().enumerate() {
            assert_eq!(listed[i + 2], (name.to_vec(), child(name).ino, node.kind));
            assert_eq!(plus[i + 2], (name.to_vec(), Some(child(name))));
            self.lookups.push(child(name).ino);
        }
    }

    /// Names of one group share a number, all others have their own.
    fn compare_numbers(&self) {
        for (a, a_attr) in &self.seen {
            for (b, b_attr) in &self.seen {
                let (a_group, b_group) = (self.model.0[a].group, self.model.0[b].group);
                let same = a == b || (a_group.is_some() && a_group == b_group);
                assert_eq!(a_attr.ino == b_attr.ino, same, "{a:?} {b:?}");
            }
        }
    }
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let name = prop::sample::select(vec![
        "security.capability",
        "trusted.overlay.opaque",
        "trusted.overlay.overlay.x",
        "trusted.x",
        "user.x",
    ]);
    let xattrs = prop::collection::btree_map(name, prop::collection::vec(any::<u8>(), 0..9), 0..4);
    let mtime = (any::<i64>(), 0..1_000_000_000_u32);
    (0..=0o7777_u16, any::<u32>(), any::<u32>(), mtime, xattrs).prop_map(
        |(mode, uid, gid, (seconds, nanoseconds), xattrs)| {
            let mtime = Timestamp {
                seconds,
                nanoseconds,
            };
            let xattrs = xattrs
                .into_iter()
                .map(|(n, value)| Xattr {
                    name: n.as_bytes().into(),
                    value: value.into(),
                })
                .collect();
            Attributes {
                mode,
                uid,
                gid,
                mtime,
                xattrs,
            }
        },
    )
}

/// Builds a model: each step puts a node into one of the directories made so far, or links one of
/// the files; what collides with an existing name is left out.
fn model() -> impl Strategy<Value = Model> {
    let name = "[a-c]{1,3}";
    let size = prop_oneof![9 => 0..255_usize, 1 => (1_usize << 20) - 2..(1 << 20) + 300_000];
    let step = (
        any::<prop::sample::Index>(),
        name,
        0..9_u8,
        size,
        attributes(),
    );
    (attributes(), prop::collection::vec(step, 0..24)).prop_map(|(root, steps)| {
        let mut model = Model::default();
        let root = ModelNode {
            attributes: root,
            ..ModelNode::directory(0)
        };
        model.0.insert(Vec::new(), root);
        for (number, (pick, name, kind, size, attributes)) in (0..).zip(steps) {
            let of_kind = |kind| {
                let nodes = model.0.iter().filter(move |(_, node)| node.kind == kind);
                nodes.map(|(path, _)| path.clone()).collect::<Vec<_>>()
            };
            let directories = of_kind(Kind::Directory);
            let mut path = pick.get(&directories).clone();
            path.push(name.into_bytes());
            if model.0.contains_key(&path) {
                continue;
            }
            let bytes = pseudo_random(size, u64::from(number));
            let files = of_kind(Kind::File);
            let node = match kind {
                0 | 1 => ModelNode::directory(0),
                2 => ModelNode::new(Kind::Symlink, 0, vec![b't'; 1 + size % 4095]),
                3 => ModelNode::new(Kind::CharDevice, 0, ""),
                4 => ModelNode::new(Kind::BlockDevice, 0, ""),
                5 => ModelNode::new(
                    if size % 2 == 0 {
                        Kind::Fifo
                    } else {
                        Kind::Socket
                    },
                    0,
                    "",
                ),
                6 if !files.is_empty() => {
                    let file = model.0.get_mut(pick.get(&files)).unwrap();
                    file.group.get_or_insert(number);
                    let linked = file.clone();
                    model.0.insert(path, linked);
                    continue;
                }
                _ => ModelNode::file(0, bytes),
            };
            // What the 32 bits of the FUSE protocol hold.
            let device = Device {
                major: u32::try_from(size).unwrap() % 4096,
                minor: u32::try_from(size).unwrap() % (1 << 20),
            };
            model.0.insert(
                path,
                ModelNode {
                    attributes,
                    device,
                    ..node
                },
            );
        }
        model
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_view_equals_the_model(model in model(), piece in 1..9_usize) {
        runtime().block_on(async {
            let fixture = Fixture::new();
            let tree = model.store(&fixture.reader, CHUNK_BYTES);
            for flavor in [Flavor::Plain, Flavor::Lower] {
                let (seen, lookups) = (HashMap::new(), Vec::new());
                let fixture = &fixture;
                let model = &model;
                Comparison { fixture, model, flavor, piece, seen, lookups }.run(tree).await;
            }
        });
    }
}
