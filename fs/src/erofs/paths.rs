//! The paths of directories, kept for messages only.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// Paths as a tree of names in one arena: two allocations however many directories there are.
#[derive(Debug)]
pub(super) struct Paths {
    directories: Vec<Step>,
    names: Vec<u8>,
}

/// A directory whose path is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathIndex(usize);

#[derive(Debug)]
struct Step {
    parent: usize,
    /// Where the name ends in the arena; it begins where the one before ends.
    name_end: usize,
}

impl Paths {
    /// The directory that has no parent.
    pub(super) const ROOT: PathIndex = PathIndex(0);

    pub(super) fn new() -> Self {
        let root = Step {
            parent: 0,
            name_end: 0,
        };
        Self {
            directories: vec![root],
            names: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, parent: PathIndex, name: &[u8]) -> PathIndex {
        self.names.extend_from_slice(name);
        self.directories.push(Step {
            parent: parent.0,
            name_end: self.names.len(),
        });
        PathIndex(self.directories.len() - 1)
    }

    /// Returns the absolute path of `name` in a directory, or of the directory itself when the
    /// name is empty.
    pub(super) fn path(&self, directory: PathIndex, name: &[u8]) -> PathBuf {
        let mut names = Vec::new();
        if !name.is_empty() {
            names.push(name);
        }
        let mut at = directory.0;
        while at != Self::ROOT.0 {
            let step = &self.directories[at];
            names.push(&self.names[self.directories[at - 1].name_end..step.name_end]);
            at = step.parent;
        }
        names.reverse();
        let mut path = b"/".to_vec();
        path.extend(names.join(&b'/'));
        PathBuf::from(OsString::from_vec(path))
    }
}
