//! Labels, and what may be changed of a snapshot.

use std::collections::BTreeMap;

use super::error::SnapshotsError;
use crate::daemon::MountMode;

/// Most bytes of a label, key and value together (containerd's `labels.Validate`).
const LABEL_BYTES_MAX: usize = 4096;
/// Most bytes of all labels of a snapshot together.
const LABELS_BYTES_MAX: usize = 256 << 10;

/// The chain id of the layer that a snapshot is, or is to become.
pub(super) const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// The image that is pulled, and the digest of its manifest.
pub(super) const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
pub(super) const MANIFEST_DIGEST: &str = "containerd.io/snapshot/cri.manifest-digest";
/// The digests of this layer of the image that is pulled and of those above it, separated by commas.
pub(super) const IMAGE_LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
/// How the layer is served: `kernel` or `fuse` when nacre serves it from the store, `ordinary` when
/// containerd unpacks it.
pub(super) const MODE: &str = "containerd.io/snapshot/nacre.mode";

/// The value of [`MODE`] for a layer that containerd unpacks.
pub(super) const MODE_ORDINARY: &str = "ordinary";

/// Tells whether a layer is the topmost one of the image that is pulled.
pub(super) fn is_topmost(labels: &Labels) -> bool {
    let layers = labels.get(IMAGE_LAYERS);
    layers.is_some_and(|layers| !layers.is_empty() && !layers.contains(','))
}

/// Returns the value of [`MODE`] for a layer that is served from the store.
pub(super) const fn mode_of(mode: MountMode) -> &'static str {
    match mode {
        MountMode::Kernel => "kernel",
        MountMode::Fuse => "fuse",
    }
}

/// Labels of a snapshot.
pub(super) type Labels = BTreeMap<String, String>;

/// Checks labels; those without a value are left out, as containerd's own store does.
pub(super) fn checked(
    labels: impl IntoIterator<Item = (String, String)>,
) -> Result<Labels, SnapshotsError> {
    let mut checked = Labels::new();
    let mut bytes = 0;
    for (key, value) in labels {
        let label_bytes = key.len().saturating_add(value.len());
        bytes += label_bytes;
        if key.is_empty() || label_bytes > LABEL_BYTES_MAX || bytes > LABELS_BYTES_MAX {
            let start: String = key.chars().take(64).collect();
            return Err(SnapshotsError::Invalid(format!(
                "label {start:?}: a label has a key and at most {LABEL_BYTES_MAX} bytes, a \
                 snapshot at most {LABELS_BYTES_MAX} bytes of them"
            )));
        }
        if !value.is_empty() {
            checked.insert(key, value);
        }
    }
    Ok(checked)
}

/// Returns the labels after an update: those that `mask` names are taken from `new`, and removed
/// where `new` has not got them. An empty mask names all.
pub(super) fn updated(
    old: &Labels,
    new: &Labels,
    mask: &[String],
) -> Result<Labels, SnapshotsError> {
    if mask.is_empty() {
        return Ok(new.clone());
    }
    let mut labels = old.clone();
    for path in mask {
        if path == "labels" {
            labels.clone_from(new);
        } else if let Some(key) = path.strip_prefix("labels.") {
            match new.get(key) {
                Some(value) => drop(labels.insert(key.to_owned(), value.clone())),
                None => drop(labels.remove(key)),
            }
        } else {
            return Err(SnapshotsError::Invalid(format!(
                "field {path:?} of a snapshot cannot be changed"
            )));
        }
    }
    checked(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn mask(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn a_mask_names_what_changes_and_what_goes() {
        let old = labels(&[("a", "1"), ("b", "2"), ("c.d/e", "3")]);
        let new = labels(&[("a", "9"), ("f", "4")]);
        for (paths, expected) in [
            (&[][..], labels(&[("a", "9"), ("f", "4")])),
            (&["labels"], labels(&[("a", "9"), ("f", "4")])),
            (
                &["labels.a"],
                labels(&[("a", "9"), ("b", "2"), ("c.d/e", "3")]),
            ),
            (
                &["labels.b", "labels.f"],
                labels(&[("a", "1"), ("c.d/e", "3"), ("f", "4")]),
            ),
            (&["labels.c.d/e"], labels(&[("a", "1"), ("b", "2")])),
        ] {
            assert_eq!(updated(&old, &new, &mask(paths)).unwrap(), expected);
        }
        for bad in ["parent", "name", "kind", "label", ""] {
            let refused = updated(&old, &new, &mask(&["labels.a", bad]));
            assert!(matches!(refused, Err(SnapshotsError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn labels_are_bounded_and_those_without_a_value_left_out() {
        let of = |key: usize, value: usize| checked([("k".repeat(key), "v".repeat(value))]);
        assert_eq!(of(96, 4000).unwrap().len(), 1);
        assert!(matches!(of(97, 4000), Err(SnapshotsError::Invalid(_))));
        assert!(matches!(of(0, 1), Err(SnapshotsError::Invalid(_))));
        assert!(of(1, 0).unwrap().is_empty());
        let many = |count| checked((0..count).map(|n| (format!("{n:096}"), "v".repeat(4000))));
        assert!(many(64).is_ok());
        assert!(matches!(many(65), Err(SnapshotsError::Invalid(_))));
    }
}
