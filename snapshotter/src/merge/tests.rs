//! Random layers against a model; what the ids of trees depend on; what is refused.

mod model;

use std::collections::HashMap;

use nacre_blobstore::{Digest, Entry, Timestamp, Tree, TreeError, TreeId};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use model::{Model, Thing, model};

/// Every tree that was ever given to the sink, and how many the last encoding gave.
#[derive(Default)]
struct Trees {
    all: HashMap<TreeId, Vec<u8>>,
    last: usize,
}

impl Trees {
    fn encode(&mut self, merged: &mut MergedTree) -> TreeId {
        self.last = 0;
        let root = merged.encode(&mut |id, bytes: &[u8]| {
            self.last += 1;
            let tree = Tree::decode(id, bytes)?;
            for entry in tree.entries() {
                if let Node::Directory(below) = entry.node {
                    assert!(
                        self.all.contains_key(&below),
                        "children come before their parents"
                    );
                }
            }
            self.all.insert(id, bytes.to_vec());
            Ok::<_, TreeError>(())
        });
        root.unwrap()
    }

    fn tree(&self, id: TreeId) -> Tree {
        Tree::decode(id, &self.all[&id]).unwrap()
    }

    /// Reads a whole file system back, in the terms of the model.
    fn read(&self, root: TreeId) -> (Attributes, Model) {
        let root = self.tree(root);
        let (attributes, top) = root.as_root().unwrap();
        let mut links = HashMap::new();
        let mut read = Model::new();
        self.visit(top, "", &mut links, &mut read);
        for (count, names) in links.values() {
            assert!(*count > 1, "{names:?}");
            assert_eq!(usize::try_from(*count).unwrap(), names.len(), "{names:?}");
        }
        (attributes.clone(), read)
    }

    fn visit(
        &self,
        at: TreeId,
        above: &str,
        links: &mut HashMap<[u8; 16], (u32, Vec<String>)>,
        read: &mut Model,
    ) {
        for Entry {
            name,
            attributes,
            node,
            hard_link,
        } in self.tree(at).entries()
        {
            let path = format!("{above}{}", String::from_utf8_lossy(name));
            let leaf = match node {
                Node::Directory(below) => {
                    self.visit(*below, &format!("{path}/"), links, read);
                    read.insert(path, Thing::Directory(attributes.clone()));
                    continue;
                }
                Node::File {
                    content,
                    size_bytes,
                } => Leaf::File {
                    content: *content,
                    size_bytes: *size_bytes,
                },
                other => Leaf::Other(other.clone()),
            };
            let mut inode = read.len() + 1_000_000;
            if let Some(link) = hard_link {
                let (count, names) = links.entry(link.group).or_insert((link.count, Vec::new()));
                assert_eq!(*count, link.count);
                names.push(path.clone());
                inode = usize::from_le_bytes(link.group[..8].try_into().unwrap());
            }
            read.insert(path, Thing::Inode(inode, attributes.clone(), leaf));
        }
    }
}

/// Numbers inodes in the order of their first names, so that two file systems can be compared.
fn renumbered(model: Model) -> Model {
    let mut numbers = HashMap::new();
    let renumber = |(path, thing)| match thing {
        Thing::Inode(inode, attributes, leaf) => {
            let next = numbers.len();
            (
                path,
                Thing::Inode(*numbers.entry(inode).or_insert(next), attributes, leaf),
            )
        }
        directory @ Thing::Directory(_) => (path, directory),
    };
    model.into_iter().map(renumber).collect()
}

/// One item of a layer, as a test writes it.
#[derive(Debug, Clone)]
enum Item {
    Directory(String, u8),
    File(String, u8),
    Symlink(String, u8),
    Fifo(String, u8),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

use Item::{Directory as Dir, Fifo, File, HardLink as Link, Opaque, Symlink, Whiteout};

fn attributes(seed: u8) -> Attributes {
    let mtime = Timestamp {
        seconds: i64::from(seed) - 2,
        nanoseconds: 7,
    };
    Attributes {
        mode: 0o600 + u16::from(seed),
        uid: seed.into(),
        mtime,
        ..Attributes::default()
    }
}

fn push(layer: &mut LayerDiff, item: &Item) {
    let inode = |seed: &u8, leaf| StoredKind::Inode(attributes(*seed), leaf);
    let (path, what) = match item {
        Whiteout(path) => return layer.whiteouts.push(LayerPath::of(path)),
        Opaque(path) => return layer.opaques.push(LayerPath::of(path)),
        Dir(path, seed) => (path, StoredKind::Directory(attributes(*seed))),
        File(path, seed) => {
            let content = ContentId::new(Digest::of(&[*seed]));
            (
                path,
                inode(
                    seed,
                    Leaf::File {
                        content,
                        size_bytes: u64::from(*seed) + 1,
                    },
                ),
            )
        }
        Symlink(path, seed) => {
            let target = format!("../{seed}").into_bytes().into();
            (path, inode(seed, Leaf::Other(Node::Symlink(target))))
        }
        Fifo(path, seed) => (path, inode(seed, Leaf::Other(Node::Fifo))),
        Link(path, target) => (path, StoredKind::HardLink(LayerPath::of(target))),
    };
    layer.entries.push(StoredEntry {
        path: LayerPath::of(path),
        what,
    });
}

fn layer(items: &[Item]) -> LayerDiff {
    let mut layer = LayerDiff::default();
    items.iter().for_each(|item| push(&mut layer, item));
    layer
}

fn copy(layer: &LayerDiff) -> LayerDiff {
    let LayerDiff {
        whiteouts,
        opaques,
        entries,
    } = layer;
    LayerDiff {
        whiteouts: whiteouts.clone(),
        opaques: opaques.clone(),
        entries: entries.clone(),
    }
}

/// Writes a file system as one layer.
fn flattened(model: &Model) -> LayerDiff {
    let mut first_names = HashMap::new();
    let mut layer = LayerDiff::default();
    for (path, thing) in model {
        let what = match thing {
            Thing::Directory(attributes) => StoredKind::Directory(attributes.clone()),
            Thing::Inode(inode, attributes, leaf) => match first_names.get(inode) {
                Some(first) => StoredKind::HardLink(LayerPath::clone(first)),
                None => {
                    first_names.insert(*inode, LayerPath::of(path));
                    StoredKind::Inode(attributes.clone(), leaf.clone())
                }
            },
        };
        layer.entries.push(StoredEntry {
            path: LayerPath::of(path),
            what,
        });
    }
    layer
}

fn path() -> impl Strategy<Value = String> {
    // `a.` sorts before `a/` as text and after it by components.
    let name = select(vec!["a", "a.", "b", "c"]);
    prop::collection::vec(name, 1..=3).prop_map(|names| names.join("/"))
}

fn item() -> impl Strategy<Value = Item> {
    let seed = 0_u8..3;
    prop_oneof![
        3 => (path(), seed.clone()).prop_map(|(path, seed)| Dir(path, seed)),
        4 => (path(), seed.clone()).prop_map(|(path, seed)| File(path, seed)),
        1 => (path(), seed.clone()).prop_map(|(path, seed)| Symlink(path, seed)),
        1 => (path(), seed).prop_map(|(path, seed)| Fifo(path, seed)),
        4 => (path(), path()).prop_map(|(path, target)| Link(path, target)),
        3 => path().prop_map(Whiteout),
        1 => prop_oneof![Just(String::new()), path()].prop_map(Opaque),
    ]
}

/// Builds layers of items. Of those that do not fit, all but the last few are left out: otherwise
/// hardly any stack of layers would fit.
fn fitting(stack: &[Vec<(Item, bool)>]) -> Vec<LayerDiff> {
    let mut layers: Vec<LayerDiff> = Vec::new();
    for items in stack {
        layers.push(LayerDiff::default());
        for (item, forced) in items {
            let last = layers.len() - 1;
            let before = copy(&layers[last]);
            push(&mut layers[last], item);
            if !forced && model(&layers).is_none() {
                layers[last] = before;
            }
        }
    }
    layers
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn layers_mean_what_the_model_says(
        stack in prop::collection::vec(
            prop::collection::vec((item(), prop::bool::weighted(0.01)), 0..14),
            1..5,
        ),
    ) {
        let layers = fitting(&stack);
        let mut merged = MergedTree::new();
        let mut trees = Trees::default();
        for number in 0..layers.len() {
            let expected = model(&layers[..=number]);
            let applied = merged.apply(copy(&layers[number]));
            let Some(expected) = expected else {
                prop_assert!(applied.is_err(), "the model refuses layer {}", number);
                break;
            };
            applied.unwrap();
            let root = trees.encode(&mut merged);
            let (_, read) = trees.read(root);
            prop_assert_eq!(renumbered(read), renumbered(expected.clone()));
            let names = expected.values().filter(|t| matches!(t, Thing::Inode(..))).count();
            prop_assert_eq!(merged.count().0, names as u64);

            let mut at_once = MergedTree::new();
            at_once.apply(flattened(&expected)).unwrap();
            prop_assert_eq!(trees.encode(&mut at_once), root, "one layer makes the same trees");
        }
    }
}

/// Applies layers one by one and encodes after each.
fn merge(stack: &[&[Item]]) -> (MergedTree, Trees, TreeId) {
    let (mut merged, mut trees) = (MergedTree::new(), Trees::default());
    let mut root = trees.encode(&mut merged);
    for items in stack {
        merged.apply(layer(items)).unwrap();
        root = trees.encode(&mut merged);
    }
    (merged, trees, root)
}

fn dir(path: &str, seed: u8) -> Item {
    Dir(path.into(), seed)
}

fn file(path: &str, seed: u8) -> Item {
    File(path.into(), seed)
}

fn link(path: &str, target: &str) -> Item {
    Link(path.into(), target.into())
}

fn whiteout(path: &str) -> Item {
    Whiteout(path.into())
}

#[test]
fn a_name_that_lost_its_last_link_is_no_link_any_more() {
    let linked = [file("a/x", 1), link("b/y", "a/x")];
    let (_, trees, root) = merge(&[&linked, &[whiteout("b/y")]]);
    let (_, expected, alone) = merge(&[&[file("a/x", 1), dir("b", 0)]]);
    let b_mode = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    let (_, mut read) = trees.read(root);
    assert_eq!(
        read.insert("b".into(), Thing::Directory(attributes(0))),
        Some(Thing::Directory(b_mode))
    );
    assert_eq!(renumbered(read), renumbered(expected.read(alone).1));
}

#[test]
fn a_link_from_elsewhere_changes_the_trees_of_all_names() {
    let (_, _, three) = merge(&[&[file("a/x", 1), link("b/y", "a/x"), link("c/z", "a/x")]]);
    let (_, _, later) = merge(&[
        &[file("a/x", 1)],
        &[link("b/y", "a/x")],
        &[link("c/z", "b/y")],
    ]);
    assert_eq!(three, later);
    let (_, _, replaced) = merge(&[
        &[file("a/x", 2), link("b/y", "a/x")],
        &[file("a/x", 1), link("b/y", "a/x"), link("c/z", "b/y")],
    ]);
    assert_eq!(three, replaced);
}

#[test]
fn only_what_changed_is_encoded_again() {
    let files = [
        file("a/b/x", 1),
        file("a/c/y", 1),
        file("d/z", 2),
        file("e", 0),
    ];
    let (mut merged, mut trees, root) = merge(&[&files]);
    assert_eq!(
        trees.last,
        4 + 1 + 1,
        "four directories, the top and the root around it"
    );
    let known = trees.all.len();
    assert_eq!(trees.encode(&mut merged), root);
    assert_eq!((trees.last, trees.all.len()), (1, known), "the root only");
    merged.apply(layer(&[file("a/b/x", 2)])).unwrap();
    assert_ne!(trees.encode(&mut merged), root);
    assert_eq!(trees.last, 4, "a/b, a, the top and the root");
    assert_eq!(trees.all.len(), known + 4);
    merged.apply(layer(&[file("a/b/x", 1)])).unwrap();
    assert_eq!(trees.encode(&mut merged), root, "and back");
    assert_eq!(trees.all.len(), known + 4);
}

#[test]
fn the_root_has_the_attributes_of_the_last_layer_that_gives_it_some() {
    let (mut merged, mut trees, before) = merge(&[&[dir("", 1)], &[file("a", 1)]]);
    assert_eq!(trees.read(before).0, attributes(1));
    merged.apply(layer(&[dir("", 2)])).unwrap();
    let after = trees.encode(&mut merged);
    assert_eq!(trees.read(after).0, attributes(2));
    assert_eq!(trees.read(after).1, trees.read(before).1);
    let (_, trees, implied) = merge(&[&[file("a", 1)]]);
    assert_eq!(trees.read(implied).0.mode, 0o755);
}

#[test]
fn what_does_not_fit_is_refused() {
    let lower = [
        file("file", 1),
        Symlink("link".into(), 1),
        dir("dir", 1),
        Fifo("fifo".into(), 1),
    ];
    let refused = |item: Item| {
        let (mut merged, ..) = merge(&[&lower]);
        merged.apply(layer(&[item])).unwrap_err().to_string()
    };
    for (path, what) in [
        ("file", "not a directory"),
        ("fifo", "not a directory"),
        ("link", "a symlink"),
    ] {
        for below in [
            file(&format!("{path}/x/y"), 1),
            dir(&format!("{path}/x/y"), 1),
        ] {
            let error = refused(below);
            let told = format!("parent {path:?} of entry \"{path}/x/y\" is {what}");
            assert_eq!(error, told);
        }
    }
    for (target, what) in [
        ("none", "not there"),
        ("none/below", "not there"),
        ("file/below", "not there"),
        ("link/file", "not there"),
        ("dir", "a directory"),
        ("", "a directory"),
        ("new", "not there"),
    ] {
        let told = format!("hard link \"new\" names {target:?}, which is {what}");
        assert_eq!(refused(link("new", target)), told);
    }
    assert!(refused(link("file/new", "fifo")).contains("not a directory"));
    let (mut merged, ..) = merge(&[&lower]);
    let hidden = merged.apply(layer(&[link("new", "file"), whiteout("file")]));
    assert!(
        hidden.is_err(),
        "a layer's whiteouts come before its entries, wherever they stand"
    );
}

#[test]
fn whiteouts_of_what_is_not_there_change_nothing() {
    let lower = [file("file", 1), Symlink("link".into(), 1), file("dir/x", 1)];
    let (mut merged, mut trees, root) = merge(&[&lower]);
    for path in ["none", "none/below", "file/below", "link/file", "dir/y"] {
        merged.apply(layer(&[whiteout(path)])).unwrap();
        merged.apply(layer(&[Opaque(path.into())])).unwrap();
        assert_eq!(trees.encode(&mut merged), root, "{path}");
    }
    merged
        .apply(layer(&[Opaque("file".into()), Opaque("link".into())]))
        .unwrap();
    assert_eq!(
        trees.encode(&mut merged),
        root,
        "only directories are opaque"
    );
}

#[test]
fn the_ids_of_trees_never_change() {
    let stack: [&[Item]; 3] = [
        &[
            dir("", 1),
            dir("etc", 2),
            file("etc/passwd", 1),
            file("bin/sh", 2),
            link("bin/ash", "bin/sh"),
        ],
        &[
            Symlink("lib".into(), 1),
            Fifo("run/pipe".into(), 2),
            link("sbin/init", "bin/sh"),
        ],
        &[
            whiteout("etc/passwd"),
            Opaque("run".into()),
            file("run/new", 0),
        ],
    ];
    let (_, _, root) = merge(&stack);
    let golden = "e57562c245fde56f73d0a4af5591ac7c75b232fd34ec1145414d9e039b371a5e";
    assert_eq!(root.to_string(), golden);
}
