//! Any text as the source of an image.
//!
//! Invariants: no panic; what parses prints as text that parses to the same; a reference to a
//! registry has a host, a repository that cannot climb out of its URL, and a tag or a digest; and
//! the name that an image gets by default is the name of a ref, unless it is too long for one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_snapshotter::image_ref;
use nacre_snapshotter::oci::Source;

/// Longest default name that surely fits a ref with its namespace.
const NAME_BYTES_MAX: usize = 240;

fuzz_target!(|text: &str| {
    let Ok(source) = text.parse::<Source>() else {
        return;
    };
    assert_eq!(source.to_string().parse::<Source>().as_ref(), Ok(&source));
    let name = source.default_name();
    assert!(!name.is_empty());
    assert!(
        name.len() > NAME_BYTES_MAX || image_ref(&name).is_ok(),
        "{name:?}"
    );
    if let Source::Registry(reference) = &source {
        assert!(!reference.host.is_empty() && !reference.host.contains('/'));
        assert!(
            reference
                .repository
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."))
        );
        assert!(reference.tag.is_some() || reference.digest.is_some());
    }
});
