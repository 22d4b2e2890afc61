use super::*;

/// Writes imports down shortly: dots and module, and the names behind a colon.
fn found(text: &str) -> Vec<String> {
    imports(text.as_bytes())
        .iter()
        .map(|import| {
            let dots = ".".repeat(usize::try_from(import.level).unwrap());
            let names = import.names.join(",");
            let separator = if names.is_empty() { "" } else { ":" };
            format!("{dots}{}{separator}{names}", import.module)
        })
        .collect()
}

#[test]
fn every_form_of_the_statement_is_read() {
    let text = "\u{feff}import a.b as c, d ; import e\n\
        from ..x import (a, # one\n    b as c,\n)\n\
        from . import *\n\
        from .m import one as two, three\n\
        from ...\\\n  p.q import r; x = 1\r\n\
        from.y import z\n\
        import \u{fc}ber\n";
    let expected = [
        "a.b",
        "d",
        "e",
        "..x:a,b",
        ".",
        ".m:one,three",
        "...p.q:r",
        ".y:z",
        "\u{fc}ber",
    ];
    assert_eq!(found(text), expected);
}

#[test]
fn what_only_looks_like_an_import_is_none() {
    let text = r#"
'''
import a
'''
x = """import b
import c""" ; y = 'import d\
import e'
z = f"{x['import f']}" rb'\'' "import g"
# import h
call(1,
import_i, [
"import j"])
importer = 5
import
import 5
import k.
from import n
from o x import p
yield from p
print "import", q
"#;
    assert_eq!(found(text), Vec::<String>::new());
}

#[test]
fn bodies_that_run_are_read_and_functions_are_not() {
    let text = "
def f():
    import no
    if x:
        import no
class C(B, metaclass=M):
    import yes1
    def m(self, a={'k': 1}):
        from no import no
    import yes2
async def g():
    import no
@decorated
def h(): import no
with a() as b, c():
    for x in {1: 2}:
        import yes3
    else:
        import yes4
while x: import yes5; import yes6
if lambda_ := f(x[1:2]): from yes7 import a
try:
\timport yes8
finally:
        import yes9
if x:
  if y:

# comment at no indentation
    import yes10
lambda: 0
import yes11
";
    let expected: Vec<String> = (1..=11).map(|at| format!("yes{at}")).collect();
    let found: Vec<String> = found(text)
        .iter()
        .map(|name| name.trim_end_matches(":a").to_owned())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn fallbacks_are_left_out() {
    let text = "
try:
    import fast
except (ImportError, AttributeError) as error:
    import slow
except ModuleNotFoundError: import slow
except KeyError:
    import odd
else:
    import then
finally:
    import last
try: import a
except builtins.ImportError: pass
import b
";
    assert_eq!(found(text), ["fast", "odd", "then", "last", "a", "b"]);
}

#[test]
fn branches_that_no_start_takes_are_left_out() {
    for (condition, taken, other) in [
        ("TYPE_CHECKING", false, true),
        ("typing.TYPE_CHECKING", false, true),
        ("not TYPE_CHECKING", true, false),
        ("not not TYPE_CHECKING", false, true),
        ("not (TYPE_CHECKING)", true, false),
        ("(t.TYPE_CHECKING)", false, true),
        ("x or TYPE_CHECKING", true, true),
        ("x and TYPE_CHECKING", false, true),
        ("__name__ == '__main__'", false, true),
        ("__name__ == \"other\"", true, true),
        ("sys.platform == 'win32'", false, true),
        ("sys.platform != 'win32'", true, false),
        (
            "sys.platform == \"linux\" and os.name == 'posix'",
            true,
            false,
        ),
        ("sys.platform.startswith('darwin')", false, true),
        ("sys.platform.startswith('linux')", true, false),
        ("os.name == 'nt'", false, true),
        ("os.name == name", true, true),
        ("False", false, true),
        ("", true, true),
        ("not", true, true),
    ] {
        let text = format!(
            "if {condition}:\n    import taken\nelif x:\n    import maybe\nelse: import other\n"
        );
        let found = found(&text);
        assert_eq!(found.contains(&"taken".to_owned()), taken, "{condition}");
        assert_eq!(found.contains(&"maybe".to_owned()), other, "{condition}");
        assert_eq!(found.contains(&"other".to_owned()), other, "{condition}");
    }
    let text =
        "if a:\n  pass\nelif os.name == 'posix': import x\nelif b: import no\nelse:\n  import no\n";
    assert_eq!(found(text), ["x"]);
    let text =
        "if TYPE_CHECKING:\n    if x:\n        import no\n    else:\n        import no\nimport x\n";
    assert_eq!(found(text), ["x"]);
}

#[test]
fn real_texts() {
    // From CPython's `selectors.py`, NumPy's `__init__.py` and pandas' `compat`, shortened.
    let text = r#"
"""Selectors module.

import nothing
"""
from abc import ABCMeta, abstractmethod
from collections import namedtuple
from collections.abc import Mapping
import math
import sys

class SelectorKey(namedtuple('SelectorKey', ['fileobj', 'fd'])):
    """doc"""
    if sys.version_info >= (3, 5):
        fileobj.__doc__ = 'File object registered.'
try:
    __NUMPY_SETUP__
except NameError:
    __NUMPY_SETUP__ = False

if __NUMPY_SETUP__:
    sys.stderr.write('Running from numpy source directory.\n')
else:
    from . import _distributor_init
    try:
        from numpy.__config__ import show as show_config
    except ImportError as e:
        msg = """Error importing numpy: you should not try to import numpy from
        its source directory; import x"""
        raise ImportError(msg) from e
    from . import core
    from .core import *
    def __getattr__(attr):
        if attr == 'testing':
            import numpy.testing as testing
            return testing
if TYPE_CHECKING:
    from pandas._typing import F
from pandas.compat.numpy import (
    is_numpy_dev,  # noqa
    np_version_under1p21,
)
"#;
    let expected = [
        "abc:ABCMeta,abstractmethod",
        "collections:namedtuple",
        "collections.abc:Mapping",
        "math",
        "sys",
        ".:_distributor_init",
        "numpy.__config__:show",
        ".:core",
        ".core",
        "pandas.compat.numpy:is_numpy_dev,np_version_under1p21",
    ];
    assert_eq!(found(text), expected);
}

#[test]
fn a_text_may_end_anywhere() {
    let text = "if x:\n\tfrom ..a import (b as c, # d\n e)\nelse: s = rb'''\\''' \"\\\n\"; import f\\\r\n.g\n";
    for len in 0..=text.len() {
        imports(&text.as_bytes()[..len]);
    }
    for quote in ["'", "\"\"\"", "f'{", "(", "\\", "if x:", "class C"] {
        assert_eq!(found(&format!("import a\n{quote}")), ["a"], "{quote}");
    }
}

#[test]
fn counts_are_bounded() {
    let many = "import a\n".repeat(IMPORTS_MAX + 5);
    assert_eq!(imports(many.as_bytes()).len(), IMPORTS_MAX);
    let many = format!("import a{}", ", b".repeat(IMPORTS_MAX + 5));
    assert!(imports(many.as_bytes()).len() <= IMPORTS_MAX);
    let many = format!("from x import a{}", ", b".repeat(NAMES_MAX + 5));
    assert_eq!(imports(many.as_bytes())[0].names.len(), NAMES_MAX);
    assert_eq!(
        found(&format!("from {} import a", ".".repeat(100_000))),
        Vec::<String>::new()
    );
    assert_eq!(
        found(&format!("import {}", "a".repeat(100_000))),
        Vec::<String>::new()
    );
    assert_eq!(
        found(&format!("import {}b", "a.".repeat(100_000))),
        Vec::<String>::new()
    );
    let long = format!("if {}x: import a", "not ".repeat(100_000));
    assert_eq!(
        found(&long),
        Vec::<String>::new(),
        "the colon is behind what is kept"
    );
    let deep: String = (0..200)
        .map(|at| format!("{}if x:\n", " ".repeat(at)))
        .collect();
    let deep = format!("{deep}{}import deep\nimport a\n", " ".repeat(200));
    assert_eq!(found(&deep), ["a"]);
}
