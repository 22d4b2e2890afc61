//! What layers mean, as simply as it can be said: the one place of the tests that decides about
//! whiteouts, opaque directories, shadowing and hard links.

use std::collections::BTreeMap;

use super::super::{LayerDiff, Leaf, StoredKind};
use nacre_blobstore::Attributes;

/// A file system: everything in it by its path, without the root itself.
pub(super) type Model = BTreeMap<String, Thing>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thing {
    Directory(Attributes),
    /// The number is that of the inode, which all its names have.
    Inode(usize, Attributes, Leaf),
}

/// Applies `layers` from the lowest up. `None` when one of them does not fit.
pub(super) fn model<'a>(layers: impl IntoIterator<Item = &'a LayerDiff>) -> Option<Model> {
    let mut model = Model::new();
    let mut inodes = 0;
    for layer in layers {
        for directory in &layer.opaques {
            let below = if directory.is_root() {
                String::new()
            } else {
                format!("{directory}/")
            };
            model.retain(|path, _| !path.starts_with(&below));
        }
        for hidden in &layer.whiteouts {
            remove(&mut model, &hidden.to_string());
        }
        for entry in &layer.entries {
            let path = entry.path.to_string();
            let thing = match &entry.what {
                StoredKind::Directory(attributes) => Thing::Directory(attributes.clone()),
                StoredKind::Inode(attributes, leaf) => {
                    inodes += 1;
                    Thing::Inode(inodes, attributes.clone(), leaf.clone())
                }
                StoredKind::HardLink(target) => match model.get(&target.to_string()) {
                    Some(inode @ Thing::Inode(..)) => inode.clone(),
                    Some(Thing::Directory(_)) | None => return None,
                },
            };
            for (slash, _) in path.match_indices('/') {
                let implied = Thing::Directory(Attributes {
                    mode: 0o755,
                    ..Attributes::default()
                });
                match model.entry(path[..slash].to_owned()).or_insert(implied) {
                    Thing::Directory(_) => {}
                    Thing::Inode(..) => return None,
                }
            }
            let merges = [model.get(&path), Some(&thing)]
                .iter()
                .all(|thing| matches!(thing, Some(Thing::Directory(_))));
            if !merges {
                remove(&mut model, &path);
            }
            model.insert(path, thing);
        }
    }
    Some(model)
}

fn remove(model: &mut Model, path: &str) {
    let below = format!("{path}/");
    model.retain(|other, _| other != path && !other.starts_with(&below));
}
