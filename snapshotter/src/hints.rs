//! Hints: what a program will read when it starts, told from its files and not from a start.
//!
//! A file says by itself what is read with it: an ELF object names its interpreter and libraries,
//! a Python module its imports, a CommonJS module what it requires. The [`Scanner`] finds that in
//! the bytes of a layer while they pass on their way into the store, so an image that was never
//! started can be fetched ahead like one that was.
//!
//! A hint is a guess that costs at worst a useless fetch. So what is rare is left out rather than
//! parsed: what is imported inside of functions, computed names, other architectures. Nothing here
//! looks at other files; who resolves the names has the final tree.
//!
//! The bytes are hostile. No input makes a scanner panic, work is linear in the input, and what is
//! kept of a file is bounded by the constants of each scanner.

mod bring;
mod cursor;
mod elf;
mod extension;
mod follow;
mod javascript;
mod package_json;
mod python;
mod resolve;
mod scan;

use std::ops::Range;

pub(crate) use follow::{Follower, HintedReader};
pub(crate) use resolve::{AllNeeds, Program, resolve};
pub(crate) use scan::Scanner;

/// Programs and libraries of at most so many bytes are read nearly whole, in an order that nobody
/// knows (`docs/FORMAT.md`, "How far is fetched ahead").
const WHOLE_BYTES_MAX: u64 = 8 << 20;

/// What a file says is read with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Of an executable or a shared object.
    Elf(ElfNeeds),
    /// What a Python module imports while it is loaded, in the order of its text.
    Python(Vec<PythonImport>),
    /// The specifiers that a JavaScript module loads while it is loaded, as written, each once.
    /// Those that start with `node:` are left out.
    JavaScript(Vec<String>),
    /// Of a package of JavaScript.
    PackageJson(PackageEntry),
}

/// What the dynamic linker reads for an executable or a shared object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ElfNeeds {
    /// The path of the dynamic linker, if it is an executable that needs one.
    pub interpreter: Option<Vec<u8>>,
    /// Names of libraries, in the order in which they are loaded.
    pub needed: Vec<Vec<u8>>,
    /// Directories to look for them first. `$ORIGIN` is kept.
    pub run_paths: Vec<Vec<u8>>,
    /// What of the file is touched when it is loaded, by the dynamic linker and by constructors:
    /// sorted, disjoint, not empty, and inside of the file.
    pub ranges: Vec<Range<u64>>,
    /// Of an extension module of Python, constants that may be names of modules.
    pub modules: Vec<String>,
}

/// One module that a Python module imports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PythonImport {
    /// How many dots lead the name; 0 for an absolute name.
    pub level: u32,
    /// The dotted name. Empty for `from . import x`.
    pub module: String,
    /// The names of `from x import a, b`, which may be modules themselves. Empty for `import x` and
    /// `from x import *`.
    pub names: Vec<String>,
}

/// Which file `require('pkg')` or `import 'pkg'` loads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PackageEntry {
    /// Candidates in the order of preference, as written, not empty. That of `require` is before
    /// that of `import`.
    pub entries: Vec<String>,
}
