//! Which file a package of JavaScript is entered by.
//!
//! Fields and conditions: Node.js, "Modules: Packages". `main` counts only where `exports` names
//! nothing. What is under `exports` is parsed as far as `serde_json` nests, and no other field is
//! kept.

use serde::Deserialize;
use serde_json::Value;

use super::PackageEntry;

/// A longer description is not one of a package to require.
const TEXT_BYTES_MAX: usize = 256 << 10;
const ENTRIES_MAX: usize = 8;
const ENTRY_BYTES_MAX: usize = 1024;
/// In the order of preference: `require` first, since it must find what it names at once.
const CONDITIONS: [&str; 5] = ["require", "node", "module-sync", "default", "import"];

#[derive(Debug, Deserialize)]
struct Package {
    #[serde(default)]
    main: Value,
    #[serde(default)]
    exports: Value,
}

/// Returns the candidates of a `package.json`, `None` when it names none.
pub(super) fn entry(text: &[u8]) -> Option<PackageEntry> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let package: Package = serde_json::from_slice(text).ok()?;
    let mut entries = Vec::new();
    collect(
        package.exports.get(".").unwrap_or(&package.exports),
        &mut entries,
    );
    if entries.is_empty() {
        collect(&package.main, &mut entries);
    }
    (!entries.is_empty()).then_some(PackageEntry { entries })
}

/// Adds the files that a target names. The recursion is as deep as the text was nested.
fn collect(target: &Value, entries: &mut Vec<String>) {
    match target {
        Value::String(file) => {
            let is_kept = !file.is_empty() && file.len() <= ENTRY_BYTES_MAX;
            if is_kept && entries.len() < ENTRIES_MAX && !entries.contains(file) {
                entries.push(file.clone());
            }
        }
        Value::Array(targets) => {
            for target in targets.iter().take(ENTRIES_MAX) {
                collect(target, entries);
            }
        }
        Value::Object(targets) => {
            for condition in CONDITIONS {
                if let Some(target) = targets.get(condition) {
                    collect(target, entries);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<String> {
        entry(text.as_bytes()).map_or_else(Vec::new, |entry| entry.entries)
    }

    #[test]
    fn main_is_the_entry_where_nothing_is_exported() {
        assert_eq!(entries(r#"{"name": "a", "main": "lib/a"}"#), ["lib/a"]);
        assert_eq!(entries(r#"{"main": "a", "exports": null}"#), ["a"]);
        assert_eq!(
            entries(r#"{"main": "a", "exports": {"./b": "./b.js"}}"#),
            ["a"]
        );
        assert_eq!(entries(r#"{"main": "a", "exports": "./b.js"}"#), ["./b.js"]);
        assert_eq!(entry(br#"{"name": "a", "type": "module"}"#), None);
        assert_eq!(entry(br#"{"main": 5, "exports": [7, null, true]}"#), None);
    }

    #[test]
    fn conditions_are_preferred_by_who_asks() {
        let text = r#"{
            "main": "./old.js",
            "exports": {
                "./package.json": "./package.json",
                ".": {
                    "import": {"types": "./a.d.mts", "default": "./a.mjs"},
                    "require": {"types": "./a.d.ts", "default": "./a.cjs"},
                    "browser": "./browser.js",
                    "default": ["./a.mjs", "./b.js"]
                }
            }
        }"#;
        assert_eq!(entries(text), ["./a.cjs", "./a.mjs", "./b.js"]);
        let text = r#"{"exports": {"node": "./node.js", "default": "./other.js"}}"#;
        assert_eq!(entries(text), ["./node.js", "./other.js"]);
    }

    #[test]
    fn what_is_no_package_is_none() {
        for text in ["", "[]", "{", "null", r#"{"main": "a""#, "\u{0}"] {
            assert_eq!(entry(text.as_bytes()), None, "{text}");
        }
        let deep = format!("{{\"exports\": {}", "[".repeat(100_000));
        assert_eq!(entry(deep.as_bytes()), None);
        let long = format!("{{\"main\": \"{}\"}}", "a".repeat(ENTRY_BYTES_MAX + 1));
        assert_eq!(entry(long.as_bytes()), None);
        let large = format!("{{\"main\": \"a\"}}{}", " ".repeat(TEXT_BYTES_MAX));
        assert_eq!(entry(large.as_bytes()), None);
        let many: Vec<String> = (0..100).map(|at| format!("\"./{at}\"")).collect();
        assert_eq!(
            entries(&format!("{{\"exports\": [{}]}}", many.join(","))).len(),
            ENTRIES_MAX
        );
    }
}
