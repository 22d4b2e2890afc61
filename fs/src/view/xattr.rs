//! Extended attributes, as they are or escaped for overlayfs.
//!
//! A lower layer that is itself an overlay's output holds `trusted.overlay.*` attributes that are
//! data, not instructions. overlayfs reads `trusted.overlay.overlay.X` of a lower file as the
//! attribute `trusted.overlay.X` of the merged one, from Linux 6.7 on
//! (<https://docs.kernel.org/filesystems/overlayfs.html>, "Nesting overlayfs mounts").

use nacre_blobstore::Attributes;

use super::place::Flavor;

const OVERLAY: &[u8] = b"trusted.overlay.";
const ESCAPED: &[u8] = b"trusted.overlay.overlay.";

/// Returns the name under which a lower layer shows the attribute `name`, in two parts to be
/// joined; the first is empty when the name needs no escape.
pub(crate) fn escape(name: &[u8]) -> (&'static [u8], &[u8]) {
    match name.strip_prefix(OVERLAY) {
        Some(rest) => (ESCAPED, rest),
        None => (b"", name),
    }
}

/// Returns the value of the attribute shown as `name`.
pub(crate) fn get<'a>(attributes: &'a Attributes, flavor: Flavor, name: &[u8]) -> Option<&'a [u8]> {
    let unescaped;
    let stored = match (flavor, name.strip_prefix(ESCAPED)) {
        (Flavor::Lower, Some(rest)) => {
            unescaped = [OVERLAY, rest].concat();
            &unescaped
        }
        (Flavor::Lower, None) if name.starts_with(OVERLAY) => return None,
        (Flavor::Lower | Flavor::Plain, _) => name,
    };
    let found = attributes
        .xattrs
        .binary_search_by(|x| (*x.name).cmp(stored))
        .ok()?;
    Some(&attributes.xattrs[found].value)
}

/// Returns the names shown, each followed by a NUL as listxattr(2) gives them.
pub(crate) fn list(attributes: &Attributes, flavor: Flavor) -> Vec<u8> {
    let mut names = Vec::new();
    for xattr in &attributes.xattrs {
        let (escape, rest) = match flavor {
            Flavor::Lower => escape(&xattr.name),
            Flavor::Plain => (&b""[..], &*xattr.name),
        };
        names.extend_from_slice(escape);
        names.extend_from_slice(rest);
        names.push(0);
    }
    names
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::Xattr;

    use super::*;

    #[test]
    fn what_a_lower_layer_lists_can_be_got_and_nothing_else() {
        let names = [
            "trusted.overlay.opaque",
            "trusted.overlay.overlay.opaque",
            "user.x",
        ];
        let xattrs = names.map(|n| Xattr {
            name: n.as_bytes().into(),
            value: n.as_bytes().into(),
        });
        let attributes = Attributes {
            xattrs: xattrs.to_vec(),
            ..Attributes::default()
        };
        assert_eq!(
            list(&attributes, Flavor::Plain),
            (names.join("\0") + "\0").into_bytes()
        );
        for name in names {
            assert_eq!(
                get(&attributes, Flavor::Plain, name.as_bytes()),
                Some(name.as_bytes())
            );
        }
        let shown = [
            "trusted.overlay.overlay.opaque",
            "trusted.overlay.overlay.overlay.opaque",
            "user.x",
        ];
        assert_eq!(
            list(&attributes, Flavor::Lower),
            (shown.join("\0") + "\0").into_bytes()
        );
        for (shown, stored) in shown.into_iter().zip(names) {
            let value = get(&attributes, Flavor::Lower, shown.as_bytes());
            assert_eq!(value, Some(stored.as_bytes()), "{shown}");
        }
        assert_eq!(
            get(&attributes, Flavor::Lower, b"trusted.overlay.opaque"),
            None
        );
        assert_eq!(get(&attributes, Flavor::Plain, b"user.absent"), None);
    }
}
