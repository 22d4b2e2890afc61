//! Small file systems, and edits of them, made from any bytes.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nacre_blobstore::{
    Attributes, ContentId, Digest, Edit, Entry, GraftLinks, HardLink, Node, ReadError, Timestamp,
    Tree, TreeId, TreePath, TreeReader,
};

/// Steps that make a file system at most.
const STEPS_MAX: u8 = 24;

/// Bytes that decide; zeros at their end.
pub struct Bytes<'b>(pub &'b [u8]);

impl Bytes<'_> {
    /// Takes the next byte.
    pub fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn path(&mut self) -> TreePath {
        let mut path = TreePath::root();
        let mut byte = self.next();
        for _ in 0..=byte % 3 {
            byte /= 4;
            path = path.join([&b"a"[..], b"b", b"a.c", b"d"][usize::from(byte % 4)]);
        }
        path
    }

    fn attributes(&mut self) -> Attributes {
        let byte = self.next();
        Attributes {
            mode: [0o644, 0o755][usize::from(byte % 2)],
            mtime: Timestamp {
                seconds: i64::from(byte / 64),
                nanoseconds: 0,
            },
            ..Attributes::default()
        }
    }
}

fn leaf(number: u8) -> Node {
    match number % 8 {
        6 => Node::Fifo,
        7 => Node::Symlink(b"target".as_slice().into()),
        number => Node::File {
            content: ContentId::new(Digest::of(&[number])),
            size_bytes: number.into(),
        },
    }
}

/// A name that is no directory, or one.
#[derive(Debug, Clone)]
pub struct Name {
    attributes: Attributes,
    node: Option<Node>,
    /// The same for all names of an inode.
    inode: Option<u8>,
}

/// What is at which path; every parent is there and a directory.
pub type Files = BTreeMap<TreePath, Name>;

/// Changes a file system.
pub fn file_system(bytes: &mut Bytes<'_>, mut files: Files) -> Files {
    files.entry(TreePath::root()).or_insert_with(|| Name {
        attributes: Attributes::default(),
        node: None,
        inode: None,
    });
    for _ in 0..bytes.next() % STEPS_MAX {
        let (kind, path) = (bytes.next(), bytes.path());
        let has_room = path
            .parent()
            .is_some_and(|parent| files.get(&parent).is_some_and(|name| name.node.is_none()));
        match kind % 4 {
            0 => files.retain(|name, _| *name != path && !path.is_above(name)),
            1 if has_room => {
                let is_directory = files.get(&path).is_some_and(|name| name.node.is_none());
                if !is_directory {
                    files.remove(&path);
                }
                let attributes = bytes.attributes();
                let name = Name {
                    attributes,
                    node: None,
                    inode: None,
                };
                files.insert(path, name);
            }
            _ if has_room => {
                files.retain(|name, _| *name != path && !path.is_above(name));
                let number = bytes.next();
                let inode = (kind >= 128).then_some(number % 4);
                let (attributes, node) = match inode {
                    // All names of an inode are equal.
                    Some(inode) => (Attributes::default(), leaf(inode)),
                    None => (bytes.attributes(), leaf(number)),
                };
                let name = Name {
                    attributes,
                    node: Some(node),
                    inode,
                };
                files.insert(path, name);
            }
            _ => {}
        }
    }
    files
}

/// Trees in memory.
#[derive(Debug, Default)]
pub struct Store(BTreeMap<TreeId, Arc<Tree>>);

impl Store {
    /// Adds a tree.
    pub fn add(&mut self, tree: &Tree) -> TreeId {
        let (id, _) = tree.encode().expect("it is small");
        self.0.insert(id, Arc::new(tree.clone()));
        id
    }

    /// Encodes a file system, with links as ingest names them, or as no ingest does.
    pub fn encode(&mut self, files: &Files, with_odd_links: bool) -> TreeId {
        let mut names: BTreeMap<u8, Vec<&TreePath>> = BTreeMap::new();
        for (path, name) in files {
            if let Some(inode) = name.inode {
                names.entry(inode).or_default().push(path);
            }
        }
        let link = |inode: u8| {
            let names = &names[&inode];
            let count = u32::try_from(names.len()).expect("there are few");
            match with_odd_links {
                true => Some(HardLink {
                    group: [inode; 16],
                    count: count / 2,
                }),
                false => (count > 1).then(|| HardLink::named(names[0], count)),
            }
        };
        let mut below: BTreeMap<TreePath, Vec<Entry>> = BTreeMap::new();
        for (path, name) in files.iter().rev() {
            let node = name.node.clone().unwrap_or_else(|| {
                let entries = below.remove(path).unwrap_or_default();
                Node::Directory(self.add(&Tree::new(entries).expect("it is valid")))
            });
            let attributes = name.attributes.clone();
            let Some((parent, last)) = path.split() else {
                let Node::Directory(tree) = node else {
                    unreachable!("the root is a directory")
                };
                return self.add(&Tree::root(attributes, tree).expect("it is valid"));
            };
            below.entry(parent).or_default().push(Entry {
                name: last.into(),
                attributes,
                node,
                hard_link: name.inode.and_then(link),
            });
        }
        unreachable!("there is a root")
    }
}

impl TreeReader for Store {
    fn tree<'s, 'f>(
        &'s self,
        id: TreeId,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Tree>, ReadError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        let tree = self.0.get(&id).cloned();
        Box::pin(async move { tree.ok_or_else(|| ReadError::NotFound(id.to_string())) })
    }
}

/// Makes edits, which may contradict each other. What they graft is in `store`.
pub fn edits(bytes: &mut Bytes<'_>, store: &Store) -> BTreeMap<TreePath, Edit> {
    let mut edits = BTreeMap::new();
    for _ in 0..bytes.next() % STEPS_MAX {
        let (kind, path) = (bytes.next(), bytes.path());
        let edit = match kind % 6 {
            0 => Edit::Remove,
            1 => Edit::Link { to: bytes.path() },
            2 => Edit::Directory {
                attributes: bytes.attributes(),
                opaque: kind >= 128,
            },
            3 => {
                let number = usize::from(bytes.next()) % store.0.len();
                let (id, tree) = store.0.iter().nth(number).expect("it is in range");
                Edit::Graft {
                    attributes: bytes.attributes(),
                    // Of a root what it wraps.
                    tree: tree.as_root().map_or(*id, |(_, tree)| tree),
                    links: [GraftLinks::Own, GraftLinks::Base][usize::from(kind >= 128)],
                }
            }
            _ => {
                let inode = (kind >= 128).then_some(kind % 3);
                Edit::Put {
                    attributes: Attributes::default(),
                    node: leaf(inode.unwrap_or(kind)),
                    inode: inode.map(u64::from),
                }
            }
        };
        edits.insert(path, edit);
    }
    edits
}

/// Runs a future that waits for nothing outside of it.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}
