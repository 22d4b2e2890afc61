//! The reference model of a file system: every path and what is there, in one map.

use std::collections::BTreeMap;

use nacre_blobstore::{Attributes, ContentId, Device, Digest, Entry, HardLink, Node, Tree, TreeId};

use super::MemoryReader;
use crate::Kind;

/// A path from the root as its names; the root itself has none.
pub(crate) type ModelPath = Vec<Vec<u8>>;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelNode {
    pub(crate) attributes: Attributes,
    pub(crate) kind: Kind,
    /// A file's bytes, a symlink's target.
    pub(crate) bytes: Vec<u8>,
    pub(crate) device: Device,
    /// The hard-link group, by number.
    pub(crate) group: Option<u8>,
}

impl ModelNode {
    pub(crate) fn new(kind: Kind, mode: u16, bytes: impl Into<Vec<u8>>) -> Self {
        let attributes = Attributes {
            mode,
            ..Attributes::default()
        };
        let device = Device { major: 0, minor: 0 };
        Self {
            attributes,
            kind,
            bytes: bytes.into(),
            device,
            group: None,
        }
    }

    pub(crate) fn directory(mode: u16) -> Self {
        Self::new(Kind::Directory, mode, "")
    }

    pub(crate) fn file(mode: u16, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(Kind::File, mode, bytes)
    }
}

/// A whole file system. Every path's parent is a directory in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model(pub(crate) BTreeMap<ModelPath, ModelNode>);

impl Model {
    /// Splits a path at `/`.
    pub(crate) fn path(path: &str) -> ModelPath {
        path.split('/')
            .filter(|name| !name.is_empty())
            .map(|n| n.as_bytes().to_vec())
            .collect()
    }

    pub(crate) fn insert(&mut self, path: &str, node: ModelNode) {
        self.0.insert(Self::path(path), node);
    }

    /// Returns the names in a directory with what they name.
    pub(crate) fn children<'a>(
        &'a self,
        path: &'a [Vec<u8>],
    ) -> impl Iterator<Item = (&'a [u8], &'a ModelNode)> {
        let inside = move |candidate: &[Vec<u8>]| {
            candidate.len() == path.len() + 1 && candidate.starts_with(path)
        };
        self.0
            .iter()
            .filter(move |(p, _)| inside(p))
            .map(|(p, n)| (&**p.last().unwrap(), n))
    }

    /// Returns how many names an inode has.
    pub(crate) fn nlink(&self, path: &[Vec<u8>]) -> u32 {
        let node = &self.0[path];
        let count = match (node.kind, node.group) {
            (Kind::Directory, _) => {
                2 + self
                    .children(path)
                    .filter(|(_, n)| n.kind == Kind::Directory)
                    .count()
            }
            (_, Some(group)) => self.0.values().filter(|n| n.group == Some(group)).count(),
            (_, None) => 1,
        };
        u32::try_from(count).unwrap()
    }

    /// Stores the file system and returns its root tree's id.
    pub(crate) fn store(&self, reader: &MemoryReader, chunk_bytes: usize) -> TreeId {
        let tree = self.store_directory(reader, chunk_bytes, &Vec::new());
        let root = Tree::root(self.0[&Vec::new()].attributes.clone(), tree).unwrap();
        reader.add_tree(root).unwrap()
    }

    /// Returns the id of a directory's tree.
    pub(crate) fn subtree(&self, path: &str) -> TreeId {
        self.store_directory(&MemoryReader::default(), 1 << 20, &Self::path(path))
    }

    fn store_directory(&self, reader: &MemoryReader, chunk: usize, path: &ModelPath) -> TreeId {
        let entry = |(name, node): (&[u8], &ModelNode)| {
            let path = [path.as_slice(), &[name.to_vec()]].concat();
            let stored = match node.kind {
                Kind::File => Node::File {
                    content: reader.add_content(&node.bytes, chunk),
                    size_bytes: node.bytes.len() as u64,
                },
                Kind::Directory => Node::Directory(self.store_directory(reader, chunk, &path)),
                Kind::Symlink => Node::Symlink(node.bytes.clone().into()),
                Kind::CharDevice => Node::CharDevice(node.device),
                Kind::BlockDevice => Node::BlockDevice(node.device),
                Kind::Fifo => Node::Fifo,
                Kind::Socket => Node::Socket,
            };
            let hard_link = node.group.map(|group| HardLink {
                group: [group; 16],
                count: self.nlink(&path),
            });
            let attributes = node.attributes.clone();
            Entry {
                name: name.into(),
                attributes,
                node: stored,
                hard_link,
            }
        };
        reader
            .add_tree(Tree::new(self.children(path).map(entry).collect()).unwrap())
            .unwrap()
    }

    /// Returns the content id of a file.
    pub(crate) fn content(&self, path: &str) -> ContentId {
        ContentId::new(Digest::of(&self.0[&Self::path(path)].bytes))
    }
}

/// Returns bytes that do not compress and are the same every time.
pub(crate) fn pseudo_random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33).to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(next).take(len).collect()
}
