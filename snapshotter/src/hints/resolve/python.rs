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
pub(super) struct Roots<'a>(Vec<Root<'a>>);

#[derive(Debug)]
struct Root<'a> {
    folder: Folder<'a>,
    /// Has the standard library, or its extensions.
    is_standard: bool,
}

/// A module: what is read of it, and where its submodules are.
struct Module<'a> {
    file: Option<File>,
    folder: Option<Folder<'a>>,
}

impl<'a> Roots<'a> {
    /// Finds them by their names and what is in them.
    pub(super) fn of(tree: &'a MergedTree) -> Self {
        let mut roots = Vec::new();
        let root = |folder: &Folder<'a>, is_standard| Root {
            folder: folder.clone(),
            is_standard,
        };
        tree.each_folder(&mut |folder, name| {
            if roots.len() >= ROOTS_MAX {
                return;
            }
            if PACKAGES.contains(&name) {
                roots.push(root(folder, false));
            } else if name.starts_with(b"python3") && folder.child(b"encodings").is_some() {
                roots.push(root(folder, true));
                let extensions = folder.child(b"lib-dynload");
                roots.extend(extensions.map(|extensions| root(&extensions, true)));
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
            let paths = root.folder.names(b"");
            let paths = paths.filter(|name| name.ends_with(b".pth"));
            read.extend(paths.filter_map(|name| root.folder.file(name)));
        }
        let customized = CUSTOMIZED.iter();
        read.extend(customized.filter_map(|module| source_in(&library, module)));
        read
    }

    /// Returns what a module in `folder` imports.
    pub(super) fn imported(&self, folder: &Folder<'a>, imports: &[PythonImport]) -> Vec<File> {
        let roots = self.nearest(folder);
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
            } else {
                let roots = roots.iter().map(|root| &root.folder);
                let mut places = std::iter::once(&own).chain(roots);
                places.any(|root| import_from(root, import, &mut found));
            }
        }
        found
    }

    /// Returns what an extension module in `folder` may import: those of its constants that are
    /// modules. One word is most often something else, so it is taken for a module beside it or one
    /// of the standard library only.
    pub(super) fn named(&self, folder: &Folder<'a>, names: &[String]) -> Vec<File> {
        let roots = self.nearest(folder);
        let mut found = Vec::new();
        for name in names {
            let import = PythonImport {
                module: name.clone(),
                ..PythonImport::default()
            };
            let is_word = !name.contains('.');
            let roots = roots.iter().filter(|root| !is_word || root.is_standard);
            let beside = is_word.then_some(folder);
            let mut places = beside.into_iter().chain(roots.map(|root| &root.folder));
            if let Some(root) = places.find(|root| has_module(root, name)) {
                import_from(root, &import, &mut found);
            }
        }
        found
    }

    /// Those of the same installation as `folder` first.
    fn nearest(&self, folder: &Folder<'a>) -> Vec<&Root<'a>> {
        let mut roots: Vec<&Root<'a>> = self.0.iter().collect();
        roots.sort_by_key(|root| std::cmp::Reverse(root.folder.shared_depth(folder)));
        roots
    }
}

fn has_module(root: &Folder<'_>, name: &str) -> bool {
    let mut at = Some(root.clone());
    name.split('.').all(|part| {
        let module = at.take().and_then(|folder| module_in(&folder, part));
        let is_there = module.is_some();
        at = module.and_then(|module| module.folder);
        is_there
    })
}

/// Adds what an import reads that is found in `root`. `false` when it is not.
fn import_from(root: &Folder<'_>, import: &PythonImport, found: &mut Vec<File>) -> bool {
    let mut at = root.clone();
    let is_read = |name: &str| import.level > 0 || !FROZEN.contains(&name);
    let mut name = String::new();
    let parts = import.module.split('.').filter(|part| !part.is_empty());
    for (depth, part) in parts.enumerate() {
        let Some(module) = module_in(&at, part) else {
            return depth > 0;
        };
        name.push_str(part);
        found.extend(module.file.filter(|_| is_read(&name)));
        name.push('.');
        let Some(folder) = module.folder else {
            return true;
        };
        at = folder;
    }
    for imported in &import.names {
        let file = module_in(&at, imported).and_then(|module| module.file);
        found.extend(file.filter(|_| is_read(&format!("{name}{imported}"))));
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
