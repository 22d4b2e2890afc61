//! Whole file systems in memory, to judge what works on parts of trees.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::{Digest, ReadError};

/// A store of trees that counts what is read.
#[derive(Debug, Default)]
pub(super) struct Trees {
    trees: Mutex<HashMap<TreeId, Vec<u8>>>,
    pub(super) read: Mutex<Vec<TreeId>>,
}

impl Trees {
    pub(super) fn add(&self, tree: &Tree) -> TreeId {
        let (id, bytes) = tree.encode().unwrap();
        self.put(id, bytes);
        id
    }

    pub(super) fn put(&self, id: TreeId, bytes: Vec<u8>) {
        self.trees.lock().unwrap().insert(id, bytes);
    }

    pub(super) fn store(&self, edited: &EditedTree) -> TreeId {
        for (id, bytes) in &edited.trees {
            self.put(*id, bytes.clone());
        }
        edited.root
    }

    pub(super) fn remove(&self, id: TreeId) {
        self.trees.lock().unwrap().remove(&id);
    }

    pub(super) fn take_reads(&self) -> HashSet<TreeId> {
        self.read.lock().unwrap().drain(..).collect()
    }
}

#[async_trait::async_trait]
impl TreeReader for Trees {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        self.read.lock().unwrap().push(id);
        let bytes = self.trees.lock().unwrap().get(&id).cloned();
        let bytes = bytes.ok_or_else(|| ReadError::NotFound(id.to_string()))?;
        let tree = Tree::decode(id, &bytes).map_err(|error| ReadError::Corrupt {
            what: id.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Arc::new(tree))
    }
}

/// An inode: two paths with the same number are names of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) attributes: Attributes,
    /// `None`: a directory.
    pub(super) node: Option<Node>,
    pub(super) number: Option<u8>,
}

/// What is at which path; every parent is there and a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model(pub(super) BTreeMap<TreePath, Inode>);

pub(super) fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

pub(super) fn attributes(mtime: i64) -> Attributes {
    Attributes {
        mode: 0o755,
        mtime: Timestamp {
            seconds: mtime,
            nanoseconds: 0,
        },
        ..Attributes::default()
    }
}

pub(super) fn file(text: &str) -> Node {
    Node::File {
        content: ContentId::new(Digest::of(text.as_bytes())),
        size_bytes: text.len() as u64,
    }
}

impl Model {
    pub(super) fn empty() -> Self {
        Self(BTreeMap::from([(
            TreePath::root(),
            Inode {
                attributes: attributes(0),
                node: None,
                number: None,
            },
        )]))
    }

    /// Directories end with `/`; a file's text is its content; `#` and a number are a link.
    pub(super) fn of(lines: &[(&str, &str)]) -> Self {
        let mut model = Self::empty();
        for (at, text) in lines {
            let number = text
                .split_once('#')
                .map(|(_, number)| number.parse().unwrap());
            let node = (!at.ends_with('/')).then(|| file(text));
            let inode = Inode {
                attributes: attributes(0),
                node,
                number,
            };
            for above in path(at).ancestors() {
                model.0.entry(above).or_insert_with(|| Inode {
                    attributes: attributes(0),
                    node: None,
                    number: None,
                });
            }
            model.0.insert(path(at), inode);
        }
        model
    }

    /// Takes a path away with all below it.
    pub(super) fn remove(&mut self, at: &TreePath) {
        self.0.retain(|path, _| path != at && !at.is_above(path));
    }

    /// The entry of each path, links included; a directory's id is that of nothing.
    pub(super) fn entries(&self) -> BTreeMap<TreePath, Entry> {
        let mut names: BTreeMap<u8, BTreeSet<TreePath>> = BTreeMap::new();
        for (path, inode) in &self.0 {
            if let (Some(number), Some(_)) = (inode.number, &inode.node) {
                names.entry(number).or_default().insert(path.clone());
            }
        }
        let directory = || Node::Directory(TreeId::new(Digest::of(b"")));
        let entry = |(path, inode): (&TreePath, &Inode)| {
            let name = path.split().map_or(Tree::ROOT_NAME, |(_, name)| name);
            let names = inode.number.and_then(|number| names.get(&number));
            let hard_link = names
                .filter(|n| n.len() > 1 && inode.node.is_some())
                .map(|names| {
                    let first = format!(
                        "/{}",
                        std::str::from_utf8(names.first().unwrap().as_bytes()).unwrap()
                    );
                    let hash = *blake3::hash(first.as_bytes()).as_bytes();
                    HardLink {
                        group: hash[..16].try_into().unwrap(),
                        count: names.len().try_into().unwrap(),
                    }
                });
            let entry = Entry {
                name: name.into(),
                attributes: inode.attributes.clone(),
                node: inode.node.clone().unwrap_or_else(directory),
                hard_link,
            };
            (path.clone(), entry)
        };
        self.0.iter().map(entry).collect()
    }

    /// Encodes all of it, from nothing.
    pub(super) fn encode(&self, trees: &Trees) -> TreeId {
        let mut below: BTreeMap<TreePath, Vec<Entry>> = BTreeMap::new();
        let entries = self.entries();
        for (path, mut entry) in entries.into_iter().rev() {
            if let Node::Directory(id) = &mut entry.node {
                let listing = below.remove(&path).unwrap_or_default();
                *id = trees.add(&Tree::new(listing).unwrap());
            }
            match path.parent() {
                Some(parent) => below.entry(parent).or_default().push(entry),
                None => {
                    let Node::Directory(id) = entry.node else {
                        unreachable!("the root is a directory")
                    };
                    return trees.add(&Tree::root(entry.attributes, id).unwrap());
                }
            }
        }
        unreachable!("a model has a root")
    }
}

/// A change of a model, for any model: paths are of few names so that they meet.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Remove(TreePath),
    File(TreePath, u8, Option<u8>, i64),
    Directory(TreePath, i64),
    Touch(TreePath, i64),
}

impl Step {
    pub(super) fn apply(&self, model: &mut Model) {
        let holds = |model: &Model, at: &TreePath| {
            at.parent().is_some_and(|parent| {
                model
                    .0
                    .get(&parent)
                    .is_some_and(|inode| inode.node.is_none())
            })
        };
        match self {
            Self::Remove(at) if !at.is_root() => model.remove(at),
            Self::File(at, content, number, mtime) if holds(model, at) => {
                model.remove(at);
                // All names of an inode are equal: the number decides what it is.
                let content = number.map_or(*content, |number| 100 + number);
                let mtime = number.map_or(*mtime, i64::from);
                let inode = Inode {
                    attributes: attributes(mtime),
                    node: Some(file(&content.to_string())),
                    number: *number,
                };
                model.0.insert(at.clone(), inode);
            }
            Self::Directory(at, mtime) if holds(model, at) => {
                let there = model.0.get(at).is_some_and(|inode| inode.node.is_none());
                if !there {
                    model.remove(at);
                }
                let inode = Inode {
                    attributes: attributes(*mtime),
                    node: None,
                    number: None,
                };
                model.0.insert(at.clone(), inode);
            }
            Self::Touch(at, mtime) => {
                if let Some(inode) = model.0.get_mut(at).filter(|inode| inode.number.is_none()) {
                    inode.attributes = attributes(*mtime);
                }
            }
            _ => {}
        }
    }
}

pub(super) fn any_path() -> impl Strategy<Value = TreePath> {
    let name = prop::sample::select(vec!["a", "b", "a.c", "d"]);
    prop::collection::vec(name, 1..4).prop_map(|names| path(&names.join("/")))
}

pub(super) fn steps(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => any_path().prop_map(Step::Remove),
        5 => (any_path(), 0..6_u8, prop::option::weighted(0.4, 0..3_u8), 0..3_i64)
            .prop_map(|(at, content, number, mtime)| Step::File(at, content, number, mtime)),
        5 => (any_path(), 0..3_i64).prop_map(|(at, mtime)| Step::Directory(at, mtime)),
        1 => (any_path(), 0..3_i64).prop_map(|(at, mtime)| Step::Touch(at, mtime)),
    ];
    prop::collection::vec(step, count)
}

pub(super) fn changed(base: &Model, steps: &[Step]) -> Model {
    let mut model = base.clone();
    steps.iter().for_each(|step| step.apply(&mut model));
    model
}

pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}
