//! Which modules an extension module of Python may import.
//!
//! Names that code imports are strings of their own among its constants, as Cython and C compilers
//! put them there. Which of the strings are modules is told by who knows the file system.

use std::collections::HashSet;

/// Names kept of one file.
const NAMES_MAX: usize = 4096;
const NAME_BYTES: std::ops::RangeInclusive<usize> = 2..=64;
/// Which every module of Cython names, and imports only for whoever asks whether a function is a
/// coroutine.
const SELDOM: &[u8] = b"asyncio.coroutines";

/// Tells an extension module by its name (PEP 3149), so that other libraries are not looked into.
pub(super) fn is_extension(name: &[u8]) -> bool {
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    name.ends_with(b".so") && (has(b".cpython-") || has(b".abi3."))
}

/// Returns what may be names of modules among constants, each once, in their order.
pub(super) fn names(constants: &[u8]) -> Vec<String> {
    let mut seen = HashSet::new();
    constants
        .split(|byte| *byte == 0)
        .filter(|text| NAME_BYTES.contains(&text.len()) && *text != SELDOM)
        .filter(|text| text.split(|byte| *byte == b'.').all(is_part))
        .filter(|text| seen.insert(*text))
        .take(NAMES_MAX)
        .filter_map(|text| str::from_utf8(text).ok().map(str::to_owned))
        .collect()
}

/// Modules are written in lower case (PEP 8), or begin so.
fn is_part(text: &[u8]) -> bool {
    let begins = text
        .first()
        .is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'_');
    begins
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_that_may_be_modules_are_found_once() {
        let constants =
            b"\0secrets\0os.path\0A\0x\0Upper\0a b\0a..b\0.a\0secrets\0_b\0\xff\xfe\0last";
        assert_eq!(names(constants), ["secrets", "os.path", "_b", "last"]);
        let long = [b'a'; 65];
        assert_eq!(names(&long), [""; 0]);
        assert_eq!(names(&long[1..]).len(), 1);
        assert_eq!(names(b""), [""; 0]);
    }

    #[test]
    fn only_extension_modules_are_looked_into() {
        for name in [&b"a.cpython-311-x86_64-linux-gnu.so"[..], b"a.abi3.so"] {
            assert!(is_extension(name));
        }
        for name in [
            &b"libfoo.so"[..],
            b"a.cpython-311.pyc",
            b"cpython-311.so",
            b"python3.11",
            b"",
        ] {
            assert!(!is_extension(name));
        }
    }
}
