//! What is found of what files name, in a file system of every dialect.

use nacre_blobstore::{Attributes, Digest, HintsWalk, Node};

use super::*;
use crate::hints::{ElfNeeds, PackageEntry, PythonImport};
use crate::layer::LayerPath;
use crate::merge::{LayerDiff, Leaf, StoredEntry, StoredKind};

/// A file system of files that hold their own path, and symlinks.
fn tree(files: &[&str], links: &[(&str, &str)]) -> MergedTree {
    let mut diff = LayerDiff::default();
    let mut add = |path: &str, leaf| {
        let path = LayerPath::of(path);
        let what = StoredKind::Inode(Attributes::default(), leaf);
        diff.entries.push(StoredEntry { path, what });
    };
    for path in files {
        let (content, size_bytes) = file(path);
        add(
            path,
            Leaf::File {
                content,
                size_bytes,
            },
        );
    }
    for (path, target) in links {
        let target = target.as_bytes().into();
        add(path, Leaf::Other(Node::Symlink(target)));
    }
    let mut tree = MergedTree::new();
    tree.apply(diff).unwrap();
    tree
}

fn file(path: &str) -> File {
    (
        ContentId::new(Digest::of(path.as_bytes())),
        path.len() as u64,
    )
}

/// What is read with `from` beside it, as paths of `files`.
fn read_with<'a>(
    files: &[&'a str],
    links: &[(&str, &str)],
    needs: &[(&str, Needs)],
    from: &str,
) -> Vec<&'a str> {
    let needs = needs
        .iter()
        .map(|(path, needs)| (file(path).0, needs.clone()));
    let hints = resolve(&tree(files, links), &needs.collect(), &Program::default());
    let given = hints.read_with(file(from).0, &mut HintsWalk::default(), u64::MAX);
    let path = |content| files.iter().find(|path| file(path).0 == content);
    let paths = given
        .iter()
        .map(|hinted| path(hinted.content).copied().unwrap());
    paths.skip(1).collect()
}

fn import(level: u32, module: &str, names: &[&str]) -> PythonImport {
    PythonImport {
        level,
        module: module.to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

#[test]
fn programs_find_libraries_through_links_and_their_own_directory() {
    let files = [
        "usr/bin/tool",
        "usr/lib/x86_64-linux-gnu/ld-linux.so.2",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "opt/tool.libs/libz-1.so",
        "opt/lib/plugin.so",
        "usr/lib/libz-1.so",
    ];
    let links = [
        ("lib", "usr/lib"),
        ("lib64", "/usr/lib64"),
        ("usr/lib64/ld.so", "../lib/x86_64-linux-gnu/ld-linux.so.2"),
        ("usr/lib/x86_64-linux-gnu/libloop.so", "libloop.so"),
    ];
    let tool = Needs::Elf(ElfNeeds {
        interpreter: Some(b"/lib64/ld.so".to_vec()),
        needed: vec![
            b"libc.so.6".to_vec(),
            b"libloop.so".to_vec(),
            b"libnone.so".to_vec(),
        ],
        ..ElfNeeds::default()
    });
    let plugin = Needs::Elf(ElfNeeds {
        needed: vec![b"libz-1.so".to_vec(), b"libc.so.6".to_vec()],
        run_paths: vec![
            b"$ORIGIN/../none".to_vec(),
            b"$ORIGIN/../tool.libs".to_vec(),
        ],
        ..ElfNeeds::default()
    });
    let needs = [("usr/bin/tool", tool), ("opt/lib/plugin.so", plugin)];
    assert_eq!(
        read_with(&files, &links, &needs, "usr/bin/tool"),
        files[1..3]
    );
    let found = read_with(&files, &links, &needs, "opt/lib/plugin.so");
    assert_eq!(found, [files[3], files[2]], "its run path comes first");
}

#[test]
fn python_finds_compiled_modules_extensions_and_what_is_relative() {
    const LIB: &str = "usr/lib/python3.11";
    let files = [
        "usr/bin/python3.11",
        "usr/lib/python3.11/encodings/__init__.py",
        "usr/lib/python3.11/encodings/__pycache__/__init__.cpython-311.opt-1.pyc",
        "usr/lib/python3.11/encodings/__pycache__/__init__.cpython-311.pyc",
        "usr/lib/python3.11/os.py",
        "usr/lib/python3.11/json/__init__.py",
        "usr/lib/python3.11/json/decoder.py",
        "usr/lib/python3.11/lib-dynload/_json.cpython-311.so",
        "usr/lib/python3/dist-packages/pkg/__init__.py",
        "usr/lib/python3/dist-packages/pkg/__pycache__/__init__.cpython-311.pyc",
        "usr/lib/python3/dist-packages/pkg/sub/one.py",
        "usr/lib/python3/dist-packages/pkg/two.py",
        "srv/app/main.py",
        "srv/app/helper.py",
    ];
    let pkg = "usr/lib/python3/dist-packages/pkg";
    let needs = [
        ("usr/bin/python3.11", Needs::Elf(ElfNeeds::default())),
        (
            "srv/app/main.py",
            Needs::Python(vec![
                import(0, "os", &[]),
                import(0, "helper", &["x"]),
                import(0, "json.decoder", &[]),
                import(0, "nowhere.to.be", &["found"]),
                import(0, "pkg", &["two", "attribute"]),
            ]),
        ),
        (
            "usr/lib/python3.11/json/decoder.py",
            Needs::Python(vec![import(0, "_json", &["scan"])]),
        ),
        (
            files[8],
            Needs::Python(vec![import(1, "", &["sub"]), import(1, "sub.one", &[])]),
        ),
        (
            files[10],
            Needs::Python(vec![import(2, "two", &["x"]), import(9, "", &["x"])]),
        ),
    ];
    let (of_json, of_pkg) = (format!("{LIB}/json/"), format!("{pkg}/"));
    let found = read_with(&files, &[], &needs, "srv/app/main.py");
    let expected = [
        files[13].to_owned(),
        format!("{of_json}__init__.py"),
        format!("{of_json}decoder.py"),
        format!("{LIB}/lib-dynload/_json.cpython-311.so"),
        format!("{of_pkg}__pycache__/__init__.cpython-311.pyc"),
        format!("{of_pkg}sub/one.py"),
        format!("{of_pkg}two.py"),
    ];
    assert_eq!(found, expected);
    let found = read_with(&files, &[], &needs, "usr/bin/python3.11");
    assert_eq!(found, [files[3]], "what each start reads, compiled");
    let found = read_with(&files, &[], &needs, files[9]);
    assert_eq!(found, [files[10], files[11]], "by its compiled form, too");
}

#[test]
fn a_frozen_module_is_not_read_but_its_package_is() {
    let files = [
        "usr/lib/python3.11/encodings/__init__.py",
        "usr/lib/python3.11/importlib/__init__.py",
        "usr/lib/python3.11/importlib/machinery.py",
        "usr/lib/python3.11/importlib/abc.py",
        "usr/lib/python3.11/os.py",
        "srv/main.py",
        "srv/other.py",
    ];
    let needs = [
        (
            files[5],
            Needs::Python(vec![
                import(0, "importlib.machinery", &[]),
                import(0, "os", &[]),
            ]),
        ),
        (
            files[6],
            Needs::Python(vec![import(0, "importlib", &["machinery", "abc"])]),
        ),
    ];
    assert_eq!(read_with(&files, &[], &needs, files[5]), [files[1]]);
    let both = read_with(&files, &[], &needs, files[6]);
    assert_eq!(both, [files[1], files[3]]);
}

#[test]
fn constants_of_an_extension_are_modules_where_that_is_likely() {
    let files = [
        "usr/lib/python3.11/encodings/__init__.py",
        "usr/lib/python3.11/queue.py",
        "usr/lib/python3.11/lib-dynload/_queue.cpython-311.so",
        // As images of Python have it: beside the standard library, but no part of it.
        "usr/lib/python3.11/site-packages/word/__init__.py",
        "usr/lib/python3.11/site-packages/word/sub.py",
        "usr/lib/python3.11/site-packages/pkg/ext.cpython-311.so",
        "usr/lib/python3.11/site-packages/pkg/beside.py",
    ];
    let named = |modules: &[&str]| {
        let elf = ElfNeeds {
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            ..ElfNeeds::default()
        };
        read_with(&files, &[], &[(files[5], Needs::Elf(elf))], files[5])
    };
    assert_eq!(named(&["queue", "_queue"]), [files[1], files[2]]);
    assert_eq!(named(&["word", "nowhere", "word.other"]), [""; 0]);
    assert_eq!(named(&["word.sub"]), [files[3], files[4]]);
    assert_eq!(named(&["beside"]), [files[6]]);
}

#[test]
fn node_finds_files_directories_and_packages() {
    let files = [
        "app/src/index.js",
        "app/src/util.js",
        "app/src/data.json",
        "app/lib/index.js",
        "app/node_modules/one/package.json",
        "app/node_modules/one/dist/main.js",
        "node_modules/@scope/two/package.json",
        "node_modules/@scope/two/sub/file.js",
        "app/.store/three/package.json",
        "app/.store/three/index.js",
    ];
    let links = [("app/node_modules/three", "../.store/three")];
    let specifiers = |all: &[&str]| {
        Needs::JavaScript(
            all.iter()
                .map(|specifier| (*specifier).to_owned())
                .collect(),
        )
    };
    let entry = Needs::PackageJson(PackageEntry {
        entries: vec!["./gone.js".to_owned(), "./dist/main".to_owned()],
    });
    let needs = [
        (
            "app/src/index.js",
            specifiers(&[
                "./util",
                "./data.json",
                "../lib",
                "fs",
                "one",
                "@scope/two/sub/file",
                "three",
                "/etc/passwd",
                "#own",
            ]),
        ),
        ("app/node_modules/one/package.json", entry),
        (
            "app/src/util.js",
            specifiers(&["./index.js", "..", "../../../../x"]),
        ),
    ];
    let found = read_with(&files, &links, &needs, "app/src/index.js");
    assert_eq!(found, files[1..]);
}

#[test]
fn each_start_reads_the_users_a_shell_and_the_program() {
    let files = [
        "etc/passwd",
        "etc/group",
        "bin/sh",
        "usr/bin/tool",
        "bin/tool",
        "app/run",
    ];
    let start = |config: &str| {
        let hints = resolve(&tree(&files, &[]), &AllNeeds::new(), &Program::of(config));
        let given = hints.read_at_start(&mut HintsWalk::default(), u64::MAX);
        let path = |content| files.iter().find(|path| file(path).0 == content);
        let paths = given.iter().map(|hinted| *path(hinted.content).unwrap());
        paths.collect::<Vec<_>>()
    };
    let config = |inner: &str| {
        format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[]}},"config":{inner}}}"#
        )
    };
    let by_path = config(r#"{"Env":["PATH=/none:/usr/bin:/bin"],"Cmd":["tool","/app/run"]}"#);
    assert_eq!(start(&by_path), files[..4]);
    let absolute = config(r#"{"Entrypoint":["/app/run"],"Cmd":["tool"]}"#);
    assert_eq!(start(&absolute), [files[0], files[1], files[2], files[5]]);
    assert_eq!(start("no config"), files[..3]);
}

#[test]
fn only_large_contents_are_read_in_part() {
    let small = file("usr/bin/small");
    let large = (file("usr/bin/large").0, WHOLE_BYTES_MAX + 1);
    let mut table = Table::default();
    table.read(small, &[0..4, 6..8]);
    table.read(large, &[0..4, 10..20]);
    table.add(small, [large, large, small]);
    let hints = table.finish(&[]);
    let given = hints.read_with(small.0, &mut HintsWalk::default(), u64::MAX);
    assert_eq!(given[0].ranges, []);
    assert_eq!(given[1].ranges, [0..4, 10..20]);
    assert_eq!(given.len(), 2);
}
