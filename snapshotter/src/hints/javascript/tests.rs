use super::*;

fn found(text: &str) -> Vec<String> {
    specifiers(text.as_bytes())
}

#[test]
fn commonjs_at_the_top_is_read() {
    let text = r#"#!/usr/bin/env node
'use strict';
var a = require('a'), b = require("./b") // require('no')
const { c } = require ( "../c.js" ).x;
require('d')(require('e'));
module.exports = { f: require('f'), ...require('g'), [h]: [require('h')] };
module.exports.n = require('node:fs').n
if (x) { require('i') } else if (y) require('j'); else { require('k') }
try { require('l') } catch (error) { require('no') } finally { require('m') }
try { require('n') } catch { require('no') }
for (const x of y) { require('o') }
class A extends (require('p')).A { static q = require('q'); m() { require('no') } }
require('a')
"#;
    let expected: Vec<String> = ('a'..='q')
        .map(|name| match name {
            'b' => "./b".to_owned(),
            'c' => "../c.js".to_owned(),
            name => name.to_string(),
        })
        .collect();
    assert_eq!(found(text), expected);
}

#[test]
fn what_does_not_run_or_is_no_literal_is_left_out() {
    let text = r#"
function f() { require('no'); if (x) { require('no') } }
const g = async function* (a) { return require('no') };
const h = () => { require('no') }
const i = () => require('no')
const j = x => [require('no'), { k: require('no') }], yes1 = require('yes1')
const k = (x) =>
    require('no'); require('yes2')
call(function () { require('no') }, () => require('no'), require('yes3'))
const o = { m() { require('no') }, get n() { return require('no') }, async *p() { require('no') } }
class C { #q() { require('no') } static r(a, b) { require('no') } }
require('no' + x); require(no); require(`no`); require('no', y); require('n\o'); require('');
module.require('no'); require.resolve('no'); __webpack_require__('no'); x.require('no');
function require('no') {}
import('no'); import.meta.resolve('no');
const s = "require('no')", t = 'require("no")', u = `require('no') ${ `${ '}' } require("no")` }`;
/* require('no')
   require('no') */
const v = /require('no')/, w = x.replace(/[/'"`]/g, '').match(/\/'/) ? 4 / 2 : 'no' / "no";
if (x) /'/.test(y); { } /"/.test(z)
a++ / 2; ({}) / 2; b[0] / 2; f() / 2; `${1}` / 2
require('yes4')
"#;
    assert_eq!(found(text), ["yes1", "yes2", "yes3", "yes4"]);
}

#[test]
fn functions_that_are_called_at_once_run() {
    let text = r#"
(function (root, factory) {
  if (typeof exports === 'object') { module.exports = factory(require('a')) }
  function inner() { require('no') }
}(this, function (b) { return b }));
;(() => { require('b'); x.then(() => { require('no') }) })();
!function () { require('c') }();
(async () => { require('d') })();
void function () { require('e') }()
x = !function () { require('no') };
"#;
    assert_eq!(found(text), ["a", "b", "c", "d", "e"]);
}

#[test]
fn modules_are_read() {
    let text = "
import 'a'; import b from 'b'
import * as c from \"./c.js\";
import d, { e as f, default as g } from '../d' with { type: 'json' };
import {
  h, // from 'no'
} from 'h'
export * from 'i'; export * as j from 'j'
export { default } from 'k';
export { l, m as default }\u{a0}from 'l'
export const from = 'no', x = from
'no'
import n, * as o from 'node:n'
export default from => 'no'
export class from { }
export function f() { import 'no' }
import{p}from'p';export*from\"q\"
";
    let expected = [
        "a", "b", "./c.js", "../d", "h", "i", "j", "k", "l", "p", "q",
    ];
    assert_eq!(found(text), expected);
}

#[test]
fn what_compilers_write_is_read() {
    // TypeScript, Babel, esbuild and a minifier.
    let text = r#"
"use strict";
var __createBinding = (this && this.__createBinding) || (Object.create ? (function(o, m, k, k2) {
    Object.defineProperty(o, k2, { enumerable: true, get: function() { return m[k]; } });
}) : (function(o, m, k, k2) {
    o[k2] = m[k];
}));
Object.defineProperty(exports, "__esModule", { value: true });
const express_1 = __importDefault(require("express"));
__exportStar(require("./routes"), exports);
tslib_1.__exportStar(require("./tslib"), exports);
var _react = _interopRequireWildcard(require("react"));
Object.defineProperty(exports, "x", { enumerable: true, get: function () { return x_1.x; } });
var import_path = __toESM(require("path"));
var require_lazy = __commonJS({ "node_modules/lazy/index.js"(exports, module) { require("no"); } });
0 && (module.exports = { a });
"#;
    assert_eq!(
        found(text),
        ["express", "./routes", "./tslib", "react", "path"]
    );
    let text = r#""use strict";var e=require("a"),t=/[{"]/.test(e)?{}:function(){return require("no")},n=`${e}`;if(n)for(;;){require("b");break}exports.x=e=>require("no"),exports.y=require("c")"#;
    assert_eq!(found(text), ["a", "b", "c"]);
}

#[test]
fn a_text_may_end_anywhere() {
    let text =
        "#!x\nimport{a}from'b';`${`${{}}`}`;/[/]\\//g;(function(){require('c\\\r\n')}());/* * */'";
    for len in 0..=text.len() {
        specifiers(&text.as_bytes()[..len]);
    }
    for rest in [
        "'", "\"\\", "`", "`${", "/", "/[", "/*", "//", "{", ")", "}}", "=>", "import",
    ] {
        assert_eq!(found(&format!("require('a');\n{rest}")), ["a"], "{rest}");
    }
    assert_eq!(
        found(")]}}\nrequire('a')"),
        ["a"],
        "closers of nothing are skipped"
    );
}

#[test]
fn counts_are_bounded() {
    let many: String = (0..SPECIFIERS_MAX + 9)
        .map(|at| format!("require('{at}')\n"))
        .collect();
    assert_eq!(found(&many).len(), SPECIFIERS_MAX);
    let long = "a".repeat(SPECIFIER_BYTES_MAX + 1);
    assert_eq!(found(&format!("require('{long}')")), Vec::<String>::new());
    for opener in ["(", "[", "{", "`${"] {
        let deep = opener.repeat(FRAMES_MAX + 9);
        assert_eq!(
            found(&format!("require('a');{deep};require('b')")),
            ["a"],
            "{opener}"
        );
    }
}
