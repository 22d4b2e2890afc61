//! Which libraries a program loads, where ld.so looks for them (ld.so(8)).

use crate::hints::ElfNeeds;
use crate::merge::{File, Folder};

/// Where libraries are without a run path: what Debian, Fedora and Alpine configure.
const DIRECTORIES: &[&[u8]] = &[
    b"/usr/local/lib",
    b"/lib/x86_64-linux-gnu",
    b"/usr/lib/x86_64-linux-gnu",
    b"/lib/aarch64-linux-gnu",
    b"/usr/lib/aarch64-linux-gnu",
    b"/lib64",
    b"/usr/lib64",
    b"/lib",
    b"/usr/lib",
];
/// Stands for the directory of the file that has the run path.
const ORIGIN: &[&[u8]] = &[b"$ORIGIN", b"${ORIGIN}"];

/// What the C library of Debian reads in every process, and in those that set a locale.
const READ_BY: &[(&[u8], &[&[u8]])] = &[
    (b"ld-linux", &[b"/etc/ld.so.cache"]),
    (
        b"libc.so.6",
        &[
            b"/usr/lib/locale/C.utf8/LC_CTYPE",
            b"/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
            b"/usr/lib/aarch64-linux-gnu/gconv/gconv-modules.cache",
            b"/etc/localtime",
        ],
    ),
    (
        b"libcrypto.so",
        &[b"/usr/lib/ssl/openssl.cnf", b"/etc/ssl/openssl.cnf"],
    ),
];

/// Returns the data that a library of a known name reads when it is loaded.
pub(super) fn read_by(folder: &Folder<'_>, name: &[u8]) -> Vec<File> {
    let known = READ_BY
        .iter()
        .filter(|(prefix, _)| name.starts_with(prefix));
    let paths = known.flat_map(|(_, paths)| paths.iter());
    paths.filter_map(|path| folder.file_at(path)).collect()
}

/// Returns the interpreter and the libraries of a file in `folder`.
pub(super) fn needed(folder: &Folder<'_>, elf: &ElfNeeds) -> Vec<File> {
    let absolute = |path: &Vec<u8>| folder.file_at(path);
    let mut found: Vec<File> = elf.interpreter.iter().filter_map(absolute).collect();
    let run_paths: Vec<Folder<'_>> = elf
        .run_paths
        .iter()
        .filter_map(|path| folder.folder_at(&relative(path)))
        .collect();
    let library = |name: &Vec<u8>| {
        if name.contains(&b'/') {
            return folder.file_at(&relative(name));
        }
        let near = run_paths.iter().find_map(|folder| folder.file_at(name));
        let configured = || {
            let mut paths = DIRECTORIES.iter();
            paths.find_map(|path| folder.file_at(&[path, name.as_slice()].join(&b'/')))
        };
        // Last where the run path of who loads this one may lead, which is not known here.
        near.or_else(configured).or_else(|| folder.file_at(name))
    };
    found.extend(elf.needed.iter().filter_map(library));
    found
}

/// Makes a path below the file's own directory relative to it.
fn relative(path: &[u8]) -> Vec<u8> {
    let origin = ORIGIN.iter().find_map(|origin| path.strip_prefix(*origin));
    match origin {
        Some(rest) => [b".", rest].concat(),
        None => path.to_vec(),
    }
}
