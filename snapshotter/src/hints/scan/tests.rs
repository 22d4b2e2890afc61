use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{prop_assert, proptest};

use super::super::{PackageEntry, PythonImport};
use super::*;

fn scan(path: &str, text: &[u8]) -> Option<Needs> {
    let mut scanner = Scanner::new(path.as_bytes());
    for bytes in text.chunks(1 << 16) {
        scanner.take(bytes);
    }
    scanner.finish(text.len() as u64)
}

#[test]
fn the_name_decides_the_language() {
    let python = Needs::Python(vec![PythonImport {
        module: "os".to_owned(),
        ..PythonImport::default()
    }]);
    for path in ["a.py", "usr/lib/a.b.py", "/x/__init__.py"] {
        assert_eq!(scan(path, b"import os\n").as_ref(), Some(&python), "{path}");
    }
    for path in [
        "py",
        "a.pyc",
        "a.py/b",
        "a.PY",
        "x.js.map",
        "package.json.bak",
        "",
    ] {
        assert_eq!(scan(path, b"import os\n"), None, "{path}");
    }
    let package = PackageEntry {
        entries: vec!["a.js".to_owned()],
    };
    let found = scan("node_modules/a/package.json", br#"{"main": "a.js"}"#);
    assert_eq!(found, Some(Needs::PackageJson(package)));
    assert_eq!(scan("a.json", br#"{"main": "a.js"}"#), None);
    assert_eq!(scan("a.py", b"x = 1\n"), None);
    assert_eq!(scan("a.py", b""), None);
}

#[test]
fn what_is_imported_by_a_call_is_found() {
    let modules = |path: &str, text: &str| match scan(path, text.as_bytes()) {
        Some(Needs::Python(imports)) => imports.into_iter().map(|import| import.module).collect(),
        _ => Vec::new(),
    };
    let line =
        "import os; var = 'X'; on = os.environ.get(var, 'y') == 'y'; on and __import__('_hack')\n";
    assert_eq!(modules("a.pth", line), ["os", "_hack"]);
    let text = "import importlib as i\nx = i.import_module('a.b')\n__import__(name)\n\
                __import__('no name')\n__import__('.a')\ndef f():\n    __import__('late')\n";
    assert_eq!(modules("a.py", text), ["importlib", "a.b"]);
}

#[test]
fn a_long_text_is_not_kept() {
    let mut text = b"import os\n".to_vec();
    text.resize(TEXT_BYTES_MAX, b' ');
    assert!(scan("a.py", &text).is_some());
    text.push(b' ');
    assert_eq!(scan("a.py", &text), None);
    let mut scanner = Scanner::new(b"a.py");
    scanner.take(&text);
    assert!(matches!(scanner.0, State::Nothing));
}

/// Texts of pieces that mean something to one of the scanners, and any bytes between them.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static str> =
        "import|from|.|..|a|,|(|)|[|]|{|}|as|:|;|\n|\r\n|\\|\\\n|'|\"|'''\
        |\"\"\"|`|${|/|/*|*/|//|#|if|else|try|except|class|def|function|=>|require|export|=|f|rb| \
        |\t|    |ImportError|__name__|==|\"__main__\"|return|not|and|or|TYPE_CHECKING|\u{e9}|\0"
            .split('|')
            .collect();
    let piece = prop_oneof![
        20 => proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        2 => Just(b" ".to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..200).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_scanned_and_nothing_is_found_that_is_not_there(text in text()) {
        for path in ["a.py", "a.js", "package.json", "a"] {
            let found: Vec<String> = match scan(path, &text) {
                None | Some(Needs::Elf(_)) => Vec::new(),
                Some(Needs::Python(imports)) => imports
                    .into_iter()
                    .flat_map(|import| import.names.into_iter().chain(
                        import.module.split('.').map(str::to_owned).collect::<Vec<_>>(),
                    ))
                    .collect(),
                Some(Needs::JavaScript(specifiers)) => specifiers,
                Some(Needs::PackageJson(package)) => package.entries,
            };
            for name in found {
                let name = name.as_bytes();
                prop_assert!(name.is_empty() || text.windows(name.len()).any(|part| part == name));
            }
        }
    }

    #[test]
    fn any_bytes_behind_a_magic_number_are_scanned(bytes in vec(any::<u8>(), 0..600)) {
        let elf = [&b"\x7fELF\x02\x01"[..], &bytes].concat();
        let needs = scan("a", &elf);
        if let Some(Needs::Elf(needs)) = needs {
            prop_assert!(needs.ranges.iter().all(|range| range.end <= elf.len() as u64));
        }
    }
}
