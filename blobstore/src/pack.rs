//! Packs.
use crate::{Key, PackId};
/// Kind of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackKind {
    /// Chunks of file contents: `packs/`.
    Data,
    /// Trees and chunk lists: `trees/`.
    Tree,
}
/// Names a pack in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// Kind of the pack.
    pub kind: PackKind,
    /// Its id.
    pub id: PackId,
}
impl PackName {
    /// Key of the pack.
    pub fn key(&self) -> Key {
        let folder = match self.kind {
            PackKind::Data => "packs",
            PackKind::Tree => "trees",
        };
        Key::new(format!("{folder}/{}", self.id)).expect("hexadecimal digits make a key")
    }
}
