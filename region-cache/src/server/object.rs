//! Which objects a member serves: those whose bytes never change.

use nacre_blobstore::{Digest, Key};

const RECORDS: &str = "records";

/// The folders of a store whose objects are immutable, each with names of 64 hexadecimal digits.
const IMMUTABLE_FOLDERS: [&str; 6] = [
    "packs",
    "trees",
    "index/packs",
    "index/trees",
    RECORDS,
    "metadata",
];

/// An immutable object of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectName {
    key: Key,
    id: Digest,
}

impl ObjectName {
    /// Reads a name off a request's path: `/[PREFIX/]FOLDER/ID`. `None` for what is replaceable,
    /// such as refs and leases, and for what is no key at all.
    pub(super) fn from_path(path: &str) -> Option<Self> {
        Self::from_key(path.strip_prefix('/')?)
    }

    /// Reads a name off a key's text.
    pub(super) fn from_key(text: &str) -> Option<Self> {
        let (folder, id) = text.rsplit_once('/')?;
        let is_immutable = IMMUTABLE_FOLDERS.iter().any(|known| {
            folder
                .strip_suffix(known)
                .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('/'))
        });
        if !is_immutable {
            return None;
        }
        let _digits: Digest = id.parse().ok()?;
        Some(Self {
            key: Key::new(text).ok()?,
            id: Digest::of(text.as_bytes()),
        })
    }

    pub(super) const fn key(&self) -> &Key {
        &self.key
    }

    /// Returns what the object is known by in the tiers: the hash of its key.
    pub(super) const fn id(&self) -> Digest {
        self.id
    }

    /// Tells whether it is the record of an image, a snapshot or the like, which each start reads.
    pub(super) fn is_record(&self) -> bool {
        let folder = self.key.as_str().rsplit_once('/').map(|(folder, _)| folder);
        folder.is_some_and(|folder| folder == RECORDS || folder.ends_with("/records"))
    }

    /// Returns a strong entity tag. The last part of the key is a hash of the object's bytes, or
    /// of what they are derived from.
    pub(super) fn etag(&self) -> String {
        let text = self.key.as_str();
        let id = text.rsplit_once('/').map_or(text, |(_, id)| id);
        format!("\"{id}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_immutable_objects_have_names() {
        let id = Digest::of(b"x").to_string();
        for folder in IMMUTABLE_FOLDERS {
            for prefix in ["", "tenant/", "a/b/"] {
                let path = format!("/{prefix}{folder}/{id}");
                let name = ObjectName::from_path(&path).unwrap();
                assert_eq!(name.key().as_str(), &path[1..]);
                assert_eq!(name.etag(), format!("\"{id}\""));
                assert_eq!(name.is_record(), folder == RECORDS);
            }
        }
        for path in [
            format!("packs/{id}"),
            format!("//packs/{id}"),
            format!("/xpacks/{id}"),
            format!("/index/{id}"),
            format!("/refs/images/{id}"),
            format!("/leases/{id}"),
            format!("/gc/{id}"),
            format!("/packs/{}", &id[1..]),
            format!("/packs/{}", id.to_uppercase()),
            format!("/../packs/{id}"),
            format!("/a//packs/{id}"),
            format!("/a%00/b c/packs/{id}"),
            format!("/packs/{id}/"),
            format!("/packs/{id}/{id}"),
            "/packs".to_owned(),
            "/".to_owned(),
            String::new(),
        ] {
            assert_eq!(ObjectName::from_path(&path), None, "{path}");
        }
    }

    #[test]
    fn equal_ids_in_other_folders_are_other_objects() {
        let id = Digest::of(b"x").to_string();
        let name = |folder: &str| ObjectName::from_path(&format!("/{folder}/{id}")).unwrap();
        assert_ne!(name("packs").id(), name("trees").id());
        assert_ne!(name("packs").id(), name("tenant/packs").id());
    }
}
