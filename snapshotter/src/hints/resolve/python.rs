//! Which files `import` reads, as CPython's path finder looks for them
//! (importlib/_bootstrap_external.py).

use crate::hints::PythonImport;
use crate::merge::{File, Folder, MergedTree};

/// Roots of modules that are looked at.
const ROOTS_MAX: usize = 64;
/// Names of directories that interpreters have in their path.
const PACKAGES: &[&[u8]] = &[b"site-packages", b"dist-packages"];
/// Part of the interpreter since 3.11 (Tools/build/freeze_modules.py): its files are not read.
const FROZEN: &[&str] = &[
    "_collections_abc",
    "_sitebuiltins",
    "abc",
    "codecs",
    "genericpath",
    "importlib.machinery",
    "importlib.util",
    "io",
    "ntpath",
    "os",
    "os.path",
    "posixpath",
    "runpy",
    "site",
    "stat",
    "zipimport",
];
/// What every start imports.
const ENCODINGS: &[&str] = &["__init__", "aliases", "utf_8"];
const CUSTOMIZED: &[&str] = &["sitecustomize", "usercustomize"];

/// The directories that modules are found in.
#[derive(Debug)]
pub(super) struct Roots<'a>(Vec<Folder<'a>>);

/// A module: what is read of it, and where its submodules are.
struct Module<'a> {
    file: Option<File>,
    folder: Option<Folder<'a>>,
}

impl<'a> Roots<'a> {
    /// Finds them by their names and what is in them.
    pub(super) fn of(tree: &'a MergedTree) -> Self {
        let mut roots = Vec::new();
        tree.each_folder(&mut |folder, name| {
            if roots.len() >= ROOTS_MAX {
                return;
            }
            if PACKAGES.contains(&name) {
                roots.push(folder.clone());
            } else if name.starts_with(b"python3") && folder.child(b"encodings").is_some() {
                roots.push(folder.clone());
                roots.extend(folder.child(b"lib-dynload"));
            }
        });
        Self(roots)
    }

    /// Returns what an interpreter in `folder` reads at every start: its encodings, and what `site`
    /// looks for.
    pub(super) fn started_by(&self, folder: &Folder<'a>, name: &[u8]) -> Vec<File> {
        if !name.starts_with(b"python3.") {
            return Vec::new();
        }
        let Some(library) = folder.folder_at(&[b"../lib/", name].concat()) else {
            return Vec::new();
        };
        let mut read: Vec<File> = Vec::new();
        if let Some(encodings) = library.child(b"encodings") {
            let modules = ENCODINGS.iter();
            read.extend(modules.filter_map(|module| source_in(&encodings, module)));
        }
        for root in &self.0 {
            let paths = root.names(b"").filter(|name| name.ends_with(b".pth"));
            read.extend(paths.filter_map(|name| root.file(name)));
        }
        let customized = CUSTOMIZED.iter();
        read.extend(customized.filter_map(|module| source_in(&library, module)));
        read
    }

    /// Returns what a module in `folder` imports.
    pub(super) fn imported(&self, folder: &Folder<'a>, imports: &[PythonImport]) -> Vec<File> {
        // Those of the same installation first.
        let mut roots: Vec<&Folder<'a>> = self.0.iter().collect();
        roots.sort_by_key(|root| std::cmp::Reverse(root.shared_depth(folder)));
        let mut own = folder.clone();
        while own.file(b"__init__.py").is_some()
            && let Some(parent) = own.parent()
        {
            own = parent;
        }
        let mut found = Vec::new();
        for import in imports {
            if import.level > 0 {
                let mut base = Some(folder.clone());
                for _ in 1..import.level {
                    base = base.and_then(|base| base.parent());
                }
                if let Some(base) = base {
                    import_from(&base, import, &mut found);
                }
            } else if !FROZEN.contains(&import.module.as_str()) {
                let mut places = std::iter::once(&own).chain(roots.iter().copied());
                places.any(|root| import_from(root, import, &mut found));
            }
        }
        found
    }
}

/// Adds what an import reads that is found in `root`. `false` when it is not.
fn import_from(root: &Folder<'_>, import: &PythonImport, found: &mut Vec<File>) -> bool {
    let mut at = root.clone();
    let parts = import.module.split('.').filter(|part| !part.is_empty());
    for (depth, part) in parts.enumerate() {
        let Some(module) = module_in(&at, part) else {
            return depth > 0;
        };
        found.extend(module.file);
        let Some(folder) = module.folder else {
            return true;
        };
        at = folder;
    }
    for name in &import.names {
        found.extend(module_in(&at, name).and_then(|module| module.file));
    }
    true
}

/// Finds a module as the path finder does: a package, an extension, a source.
fn module_in<'a>(folder: &Folder<'a>, name: &str) -> Option<Module<'a>> {
    let package = folder.child(name.as_bytes());
    if let Some(package) = &package
        && let Some(file) = source_in(package, "__init__")
    {
        return Some(Module {
            file: Some(file),
            folder: Some(package.clone()),
        });
    }
    if let Some(file) = extension_in(folder, name).or_else(|| source_in(folder, name)) {
        return Some(Module {
            file: Some(file),
            folder: None,
        });
    }
    package.map(|package| Module {
        file: None,
        folder: Some(package),
    })
}

fn extension_in(folder: &Folder<'_>, name: &str) -> Option<File> {
    let prefix = format!("{name}.");
    let mut names = folder.names(prefix.as_bytes());
    folder.file(names.find(|name| name.ends_with(b".so"))?)
}

/// Returns the compiled form of a module if there is one, or its source.
fn source_in(folder: &Folder<'_>, name: &str) -> Option<File> {
    let source = format!("{name}.py");
    compiled(folder, source.as_bytes()).or_else(|| folder.file(source.as_bytes()))
}

/// Returns the compiled form of a source in `folder` (PEP 3147).
pub(super) fn compiled(folder: &Folder<'_>, source: &[u8]) -> Option<File> {
    let cache = folder.child(b"__pycache__")?;
    let prefix = [source.strip_suffix(b"py")?, b"cpython-"].concat();
    let plain = |name: &&[u8]| name.ends_with(b".pyc") && !contains(name, b".opt-");
    let name = cache.names(&prefix).find(plain)?;
    cache.file(name)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
