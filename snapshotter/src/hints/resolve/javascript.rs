//! Which files `require` and `import` read, as Node.js resolves them (its documentation of
//! modules: "All together"). Of the conditions of `exports` only the main entry is looked at.

use super::AllNeeds;
use crate::hints::Needs;
use crate::merge::{File, Folder};

/// What is tried after a name, in order.
const SUFFIXES: &[&[u8]] = &[b"", b".js", b".json", b".cjs", b".mjs", b".node"];
/// Directories of packages that one look-up goes through.
const FOLDERS_MAX: usize = 64;

/// Returns what a module in `folder` loads.
pub(super) fn required(folder: &Folder<'_>, specifiers: &[String], needs: &AllNeeds) -> Vec<File> {
    let mut found = Vec::new();
    for specifier in specifiers {
        let path = specifier.as_bytes();
        if path.starts_with(b"./") || path.starts_with(b"../") || path == b"." || path == b".." {
            found.extend(module_at(folder, path, needs));
        } else if !path.starts_with(b"/") && !path.starts_with(b"#") {
            found.extend(package(folder, path, needs));
        }
    }
    found
}

/// Returns the description of the package that `path` begins with, and the module.
fn package(folder: &Folder<'_>, path: &[u8], needs: &AllNeeds) -> Vec<File> {
    let mut at = folder.clone();
    let scoped = usize::from(path.starts_with(b"@"));
    let name: Vec<&[u8]> = path
        .splitn(scoped + 2, |b| *b == b'/')
        .take(scoped + 1)
        .collect();
    let name = name.join(&b'/');
    for _ in 0..FOLDERS_MAX {
        if let Some(modules) = at.child(b"node_modules")
            && let Some(package) = modules.folder_at(&name)
        {
            let module = module_at(&modules, path, needs);
            return package
                .file(b"package.json")
                .into_iter()
                .chain(module)
                .collect();
        }
        let Some(parent) = at.parent() else { break };
        at = parent;
    }
    Vec::new()
}

fn module_at(folder: &Folder<'_>, path: &[u8], needs: &AllNeeds) -> Option<File> {
    let file = |path: &[u8]| {
        let mut suffixes = SUFFIXES.iter();
        suffixes.find_map(|suffix| folder.file_at(&[path, suffix].concat()))
    };
    file(path).or_else(|| {
        let at = folder.folder_at(path)?;
        let described = at.file(b"package.json");
        let entries = match described.and_then(|(content, _)| needs.get(&content)) {
            Some(Needs::PackageJson(package)) => package.entries.as_slice(),
            _ => &[],
        };
        let inside = |entry: &str| {
            let path = [path, b"/", entry.as_bytes()].concat();
            file(&path).or_else(|| folder.file_at(&[&path, b"/index.js".as_slice()].concat()))
        };
        let mut entries = entries.iter().map(String::as_str).chain(["index.js"]);
        entries.find_map(inside)
    })
}
