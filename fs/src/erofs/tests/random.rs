//! Random trees, alone and as changes of each other.

use nacre_blobstore::{Attributes, Device, Timestamp, Xattr};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::assert_round_trip;
use super::delta::assert_stacks;
use crate::Kind;
use crate::erofs::takes_delta;
use crate::testing::model::{Model, ModelNode, ModelPath, pseudo_random};

/// Most steps that build one tree.
const STEPS_MAX: usize = 60;

fn attributes() -> impl Strategy<Value = Attributes> {
    let name = select(vec![
        "security.x",
        "trusted.overlay.metacopy",
        "trusted.overlay.opaque",
        "trusted.overlay.overlay.x",
        "trusted.overlay.redirect",
        "trusted.overlay.whiteout",
        "trusted.x",
        "user.x",
        "user.y",
    ]);
    let len = prop_oneof![20 => 0..30_usize, 1 => 3_500..4_200_usize, 1 => 0..65_536_usize];
    let xattrs = prop::collection::btree_map(name, (len, any::<u64>()), 0..4);
    let mtime = (any::<i64>(), 0..1_000_000_000_u32);
    let owner = 0..u32::MAX;
    (0..=0o7777_u16, owner.clone(), owner, mtime, xattrs).prop_map(
        |(mode, uid, gid, (seconds, nanoseconds), xattrs)| Attributes {
            mode,
            uid,
            gid,
            mtime: Timestamp {
                seconds,
                nanoseconds,
            },
            xattrs: (xattrs.into_iter())
                .map(|(name, (len, seed))| Xattr {
                    name: name.as_bytes().into(),
                    value: pseudo_random(len, seed).into(),
                })
                .collect(),
        },
    )
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| {
        if byte == 0 || byte == b'/' {
            b'.'
        } else {
            byte
        }
    });
    let any_bytes = prop::collection::vec(byte, 1..=255_usize);
    prop_oneof![3 => "[a-c.-]{1,3}".prop_map(String::into_bytes), 1 => any_bytes]
        .prop_filter("not a name", |name| name != b"." && name != b"..")
}

#[derive(Debug, Clone)]
struct Step {
    /// Picks one of the directories made so far, or the file to be linked.
    pick: Index,
    name: Vec<u8>,
    kind: u8,
    size: usize,
    attributes: Attributes,
}

/// Builds a model step by step; what collides with an existing name is left out.
fn model() -> impl Strategy<Value = Model> {
    let size = prop_oneof![1 => Just(0), 5 => 1..300_usize, 1 => 3_000..9_000_usize];
    let step = (any::<Index>(), name(), 0..12_u8, size, attributes()).prop_map(
        |(pick, name, kind, size, attributes)| Step {
            pick,
            name,
            kind,
            size,
            attributes,
        },
    );
    let steps = prop::collection::vec(step, 0..STEPS_MAX);
    (attributes(), steps).prop_map(|(root, steps)| {
        let mut model = Model::default();
        let root = ModelNode {
            attributes: root,
            ..ModelNode::directory(0)
        };
        model.0.insert(Vec::new(), root);
        for (number, step) in (0..).zip(steps) {
            apply(&mut model, number, step);
        }
        model
    })
}

fn apply(model: &mut Model, number: u8, step: Step) {
    let of_kind = |kind| -> Vec<ModelPath> {
        let nodes = model.0.iter().filter(|(_, node)| node.kind == kind);
        nodes.map(|(path, _)| path.clone()).collect()
    };
    let mut path = step.pick.get(&of_kind(Kind::Directory)).clone();
    path.push(step.name);
    if model.0.contains_key(&path) {
        return;
    }
    let files = of_kind(Kind::File);
    let kind = match step.kind {
        0..=3 => Kind::Directory,
        4 => Kind::Symlink,
        5 => Kind::CharDevice,
        6 => Kind::BlockDevice,
        7 => Kind::Fifo,
        8 => Kind::Socket,
        9 if !files.is_empty() => {
            let file = model.0.get_mut(step.pick.get(&files)).unwrap();
            file.group.get_or_insert(number);
            let linked = file.clone();
            model.0.insert(path, linked);
            return;
        }
        _ => Kind::File,
    };
    let bytes = match kind {
        Kind::File => pseudo_random(step.size, u64::from(number)),
        Kind::Symlink => vec![b't'; 1 + step.size % 4095],
        _ => Vec::new(),
    };
    let mut node = ModelNode::new(kind, 0, bytes);
    node.device = Device {
        major: 1 + u32::from(number),
        minor: u32::try_from(step.size * 97).unwrap() % (1 << 20),
    };
    node.attributes = step.attributes;
    if !matches!(kind, Kind::File | Kind::Directory) {
        // Linux shows `user.` attributes of no other kinds (xattr(7)).
        let xattrs = &mut node.attributes.xattrs;
        xattrs.retain(|xattr| !xattr.name.starts_with(b"user."));
    }
    model.0.insert(path, node);
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_mounted_image_equals_its_tree(model in model()) {
        block_on(assert_round_trip(&model));
    }

    #[test]
    fn a_stacked_delta_equals_its_target(base in model(), target in model(), opaque in any::<u64>()) {
        prop_assume!(takes_delta(base.children(&[]).map(|(name, _)| name)));
        let is_opaque = |path: &ModelPath| {
            let len: usize = path.iter().map(Vec::len).sum();
            opaque >> (len % 64) & 1 == 1
        };
        block_on(assert_stacks(&base, &target, is_opaque));
    }
}
