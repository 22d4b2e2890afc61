//! Any bytes as the object of a ref, as a ref's name, and as a key to read a name off.
//!
//! Invariants: no panic; a ref that decodes is canonical; names and keys are one to one, so no two
//! names share a ref and listing returns what was written; and no name leaves the folder of refs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nacre_blobstore::{Key, Ref, RefName};
use nacre_fuzz::assert_canonical;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Ref::decode(bytes) {
        assert_canonical(&value.encode(), bytes);
        assert_eq!(Ref::decode(&value.encode()), Ok(value));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(name) = text.parse::<RefName>() {
        assert_eq!(name.to_string(), text);
        let key = name.key();
        assert!(key.as_str().starts_with("refs/"));
        assert!(
            !key.as_str()
                .split('/')
                .any(|part| matches!(part, "" | "." | ".."))
        );
        assert_eq!(RefName::from_key(&key), Some(name));
    }
    for key in [text.to_owned(), format!("refs/{text}")] {
        let Ok(key) = Key::new(key) else { continue };
        if let Some(name) = RefName::from_key(&key) {
            assert_eq!(name.key(), key);
            assert_eq!(name.as_str().parse(), Ok(name));
        }
    }
});
