//! Which files are read together, guessed from their names.
//!
//! A start reads the compiled modules of a package and its libraries, not the sources, headers, tests
//! and manuals that an archive has between them. Files of one kind are therefore stored next to each
//! other, so that frames hold more of what is read and what is read lies in longer runs. A wrong
//! guess costs speed, nothing else: `docs/FORMAT.md` has the measurements.

use nacre_blobstore::Affinity;

/// Compiled modules of interpreters.
const BYTECODE: Affinity = Affinity(0);
/// Programs and libraries.
const NATIVE: Affinity = Affinity(1);
/// Modules that are loaded as they are.
const SCRIPT: Affinity = Affinity(2);
/// Sources that are compiled before, or at, their first use.
const SOURCE: Affinity = Affinity(3);
/// Everything else.
const OTHER: Affinity = Affinity(4);
/// What people and compilers read.
const COLD: Affinity = Affinity(5);

const COLD_DIRECTORIES: &[&str] = &[
    "tests",
    "test",
    "__tests__",
    "doc",
    "docs",
    "man",
    "include",
    "locale",
    "examples",
    "i18n",
];

/// Returns the affinity of a file, by its path in the image.
pub(super) fn of(path: &[u8]) -> Affinity {
    let Ok(path) = str::from_utf8(path) else {
        return OTHER;
    };
    let (directories, name) = path.rsplit_once('/').unwrap_or(("", path));
    if directories
        .split('/')
        .any(|d| COLD_DIRECTORIES.contains(&d))
    {
        return COLD;
    }
    if name.contains(".so.") {
        return NATIVE;
    }
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("pyc" | "pyo" | "elc" | "class" | "beam") => BYTECODE,
        Some("so" | "node" | "dll") => NATIVE,
        Some("js" | "cjs" | "mjs" | "json" | "wasm") => SCRIPT,
        Some("py" | "rb" | "pl" | "pm" | "lua" | "sh" | "el") => SOURCE,
        Some(
            "md" | "rst" | "txt" | "html" | "map" | "ts" | "tsx" | "flow" | "h" | "hpp" | "c"
            | "cc" | "cpp" | "pyi" | "pyx" | "pxd" | "a" | "la" | "gz" | "po" | "mo" | "css"
            | "svg" | "png",
        ) => COLD,
        _ if directories.split('/').any(|d| d == "bin" || d == "sbin") => NATIVE,
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_is_read_together() {
        for (path, expected) in [
            ("usr/lib/python3/__pycache__/os.cpython-312.pyc", BYTECODE),
            ("usr/lib/python3/os.py", SOURCE),
            ("site-packages/pandas/tests/__pycache__/x.pyc", COLD),
            ("usr/lib/libssl.so.3", NATIVE),
            ("lib/_ssl.cpython-312-x86_64-linux-gnu.so", NATIVE),
            ("usr/bin/python3.12", NATIVE),
            ("usr/bin/2to3.txt", COLD),
            ("app/node_modules/express/lib/router.js", SCRIPT),
            ("app/node_modules/express/router.js.map", COLD),
            ("usr/include/stdio.h", COLD),
            ("etc/passwd", OTHER),
            ("", OTHER),
        ] {
            assert_eq!(of(path.as_bytes()), expected, "{path}");
        }
        assert_eq!(of(b"\xff.pyc"), OTHER);
    }
}
