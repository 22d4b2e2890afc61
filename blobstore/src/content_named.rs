//! Objects whose name tells what is in them: all but packs, whose frames have hashes of their own,
//! and what changes.
//!
//! They are envelopes, and their name is the checksum that they end with. So a copy of one, from
//! wherever, can be checked by whoever knows the name.

use bytes::Bytes;

use crate::metadata_image::METADATA_FOLDER;
use crate::pack::PackKind;
use crate::record::RECORDS_FOLDER;
use crate::{Digest, Key, UnverifiedBytes};

fn digest_of(key: &Key) -> Option<Digest> {
    let (folder, name) = key.as_str().rsplit_once('/')?;
    let index_folders = PackKind::ALL.map(PackKind::index_folder);
    let is_named =
        [METADATA_FOLDER, RECORDS_FOLDER].contains(&folder) || index_folders.contains(&folder);
    is_named.then(|| name.parse().ok())?
}

/// Tells whether an object's bytes never change, by its folder, which may be below others: packs, and
/// what is named by what is in it.
pub fn never_changes(key: &Key) -> bool {
    let Some((folder, name)) = key.as_str().rsplit_once('/') else {
        return false;
    };
    let is = |known: &str| {
        let above = folder.strip_suffix(known);
        above.is_some_and(|above| above.is_empty() || above.ends_with('/'))
    };
    let packs = PackKind::ALL.into_iter();
    let is_known = packs
        .flat_map(|kind| [kind.folder(), kind.index_folder()])
        .any(is);
    (is_known || is(METADATA_FOLDER) || is(RECORDS_FOLDER)) && name.parse::<Digest>().is_ok()
}

/// Tells whether an object is named by what is in it: a record, a metadata image, or the copy of a
/// pack's index.
pub fn is_content_named(key: &Key) -> bool {
    digest_of(key).is_some()
}

/// Returns the bytes of the object `key` if they are what its name says, hashed on a thread for
/// that. `None` also for a key of another kind.
pub async fn verify_content_named(key: &Key, bytes: UnverifiedBytes) -> Option<Bytes> {
    let name = digest_of(key)?;
    let bytes = bytes.into_untrusted();
    let hashed = tokio::task::spawn_blocking(move || {
        let (covered, checksum) = bytes.split_last_chunk::<{ Digest::LEN }>()?;
        let matches = Digest::from_bytes(*checksum) == name && Digest::of(covered) == name;
        matches.then_some(bytes)
    });
    hashed.await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::seal;

    #[tokio::test]
    async fn the_name_tells_right_from_wrong() {
        let (id, object) = seal(*b"RECD", b"body");
        let (_, other) = seal(*b"RECD", b"other");
        let verify = async |folder: &str, bytes: &[u8]| {
            let key = Key::new(format!("{folder}/{id}")).unwrap();
            let bytes = UnverifiedBytes::new(Bytes::copy_from_slice(bytes));
            verify_content_named(&key, bytes).await
        };
        for folder in ["records", "metadata", "index/packs", "index/trees"] {
            assert_eq!(verify(folder, &object).await.as_deref(), Some(&*object));
            assert_eq!(verify(folder, &other).await, None);
            assert_eq!(verify(folder, &object[..object.len() - 1]).await, None);
            assert_eq!(verify(folder, b"").await, None);
            for bit in 0..object.len() * 8 {
                let mut damaged = object.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(verify(folder, &damaged).await, None, "bit {bit}");
            }
        }
        for folder in ["packs", "trees", "refs", "index", "leases"] {
            assert_eq!(verify(folder, &object).await, None, "{folder}");
        }
        assert!(!is_content_named(&Key::new("records/name").unwrap()));
        let never = |text: String| never_changes(&Key::new(text).unwrap());
        for folder in [
            "packs",
            "a/trees",
            "a/b/index/packs",
            "records",
            "x/metadata",
        ] {
            assert!(never(format!("{folder}/{id}")), "{folder}");
        }
        for folder in ["refs", "refs/x", "xpacks", "leases", "packs/a"] {
            assert!(!never(format!("{folder}/{id}")), "{folder}");
        }
        assert!(!never("packs/name".to_owned()));
    }
}
