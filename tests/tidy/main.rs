//! The rules of the house that no compiler checks, held over the source text.
//!
//! Which module may know which, where `unsafe` may stand, that every export is
//! guarded, and how a file opens. A rule is a function from a file to the
//! places that break it; each is first shown to find what it is for.

mod circles;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, bare, is_word, line, others, sources, without_tests, words};

/// What each module of the crate may import of the others, and does.
const ARROWS: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("engine", &[]),
    ("json", &[]),
    ("table", &["json"]),
    ("tensor", &[]),
    ("protocol", &["json", "table"]),
    ("contract", &["engine", "protocol", "table", "tensor"]),
    ("machine", &[]),
    (
        "config",
        &["contract", "engine", "machine", "protocol", "table"],
    ),
    (
        "llama",
        &["config", "engine", "machine", "protocol", "table"],
    ),
    ("metrics", &["engine"]),
    ("triton", &["metrics", "table", "tensor"]),
    ("permit", &[]),
    (
        "delivery",
        &["contract", "engine", "permit", "tensor", "triton"],
    ),
    ("worker", &["delivery", "engine", "llama", "triton"]),
    (
        "intake",
        &[
            "contract", "delivery", "engine", "llama", "permit", "protocol", "triton", "worker",
        ],
    ),
    (
        "serving",
        &[
            "config", "delivery", "engine", "intake", "llama", "machine", "metrics", "permit",
            "protocol", "triton", "worker",
        ],
    ),
    ("exports", &["serving", "triton"]),
];

/// Words that name what only some modules may touch, and those modules.
const HOMES: &[(&str, &[&str])] = &[
    ("llama_cpp_2", &["llama"]),
    ("llama_cpp_sys_2", &["llama"]),
    ("cudarc", &["machine"]),
    ("libloading", &["triton"]),
    ("libc", &["triton", "llama"]),
    ("TRITONSERVER_", &["triton", "exports"]),
    ("TRITONBACKEND_", &["triton", "exports"]),
    ("no_mangle", &["exports"]),
    ("minijinja", &["llama"]),
    ("rand_mt", &["llama"]),
    ("rayon", &["llama"]),
    ("fs", &["serving", "machine", "llama", "triton"]),
    ("thread", &["delivery", "serving", "llama", "triton"]),
    ("Mutex", &["delivery", "llama", "serving"]),
    ("Condvar", &["delivery"]),
    ("Instant::now", &["worker", "delivery", "triton", "llama"]),
];

/// Lines that a file may have, those of Rust's tests beside the code apart.
const MAX_LINES: usize = 520;

// ---- the rules ----

/// The modules of the crate that a file names: `crate::x`, `super::..::x`, in lists too.
fn arrows(source: &Source) -> BTreeSet<String> {
    let code = source.code();
    let depth = source.module().len();
    let to_root = match depth {
        0 => vec!["crate::".to_owned(), "self::".to_owned()],
        _ => vec!["crate::".to_owned(), "super::".repeat(depth)],
    };
    let mut found = BTreeSet::new();
    for path in &to_root {
        for (at, _) in code.match_indices(path.as_str()) {
            let before = &code[..at];
            if before.ends_with(is_word) || before.ends_with("super::") {
                continue;
            }
            found.extend(heads(&code[at + path.len()..]));
        }
    }
    found.remove(source.home());
    found
}

/// The first names of a path or of the paths in a list: `a::b` is `a`, `{a, b::{c, d}}` is `a`, `b`.
fn heads(code: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|&c| is_word(c))
            .collect()
    };
    let Some(list) = code.strip_prefix('{') else {
        return vec![name(code)];
    };
    let mut names = vec![name(list)];
    let mut depth = 0;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&list[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Words in a file that belong to another module's home.
fn strangers(source: &Source) -> Vec<String> {
    let code = source.code();
    let mut found = Vec::new();
    for (word, homes) in HOMES {
        if !homes.contains(&source.home()) {
            let places = words(&code, word);
            found.extend(places.map(|at| format!("{}:{}: {word}", source.path, line(&code, at))));
        }
    }
    found
}

/// `unsafe` outside of the exports and the homes of FFI.
fn stray_unsafe(source: &Source) -> Vec<String> {
    let code = source.code();
    let is_home = ["exports", "triton", "llama"].contains(&source.home())
        || source.path == "src/machine/cuda.rs";
    words(&code, "unsafe")
        .filter(|_| !is_home)
        .map(|at| format!("{}:{}: unsafe", source.path, line(&code, at)))
        .collect()
}

/// What `config` names of the machine but the device, a plain value, and what that would bring along.
fn machinery(source: &Source) -> Vec<String> {
    let code = source.code();
    let found: Vec<usize> = match (source.home(), source.path.as_str()) {
        ("config", _) => words(&code, "machine")
            .filter(|at| !code[*at..].starts_with("machine::device::"))
            .collect(),
        (_, "src/machine/device.rs") => ["use", "super", "crate"]
            .iter()
            .flat_map(|word| words(&code, word))
            .collect(),
        _ => Vec::new(),
    };
    let place = |at| format!("{}:{}: not plain", source.path, line(&code, at));
    found.into_iter().map(place).collect()
}

/// What may not be in code that ships, and what may not be anywhere.
fn loose_ends(source: &Source) -> Vec<String> {
    let code = source.code();
    let everything = bare(&source.text);
    let shipped = [".unwrap()", "todo!", "unimplemented!", "dbg!", "println!"];
    let anywhere = ["#[ignore", "#![allow", "#[allow"];
    let place = |text: &str, at, what| format!("{}:{}: {what}", source.path, line(text, at));
    let mut found = Vec::new();
    for what in shipped {
        let places = code.match_indices(what);
        let places = places.filter(|(at, _)| what != "println!" || !code[..*at].ends_with('e'));
        found.extend(places.map(|(at, _)| place(&code, at, what)));
    }
    for what in anywhere {
        let places = everything.match_indices(what);
        found.extend(places.map(|(at, _)| place(&everything, at, what)));
    }
    found
}

/// Functions that Triton calls by name and that do not go through the guard.
fn unguarded_exports(source: &Source) -> Vec<String> {
    let code = source.code();
    let mut found = Vec::new();
    // The macro writes the only function, and its body is the guard's.
    let macros: Vec<_> = code.match_indices("no_mangle").collect();
    let guarded = code
        .split_once("macro_rules! export")
        .and_then(|(_, rest)| rest.split_once("\n}"))
        .is_some_and(|(body, _)| body.contains("no_mangle") && body.contains("guard("));
    if macros.len() != 1 || !guarded {
        found.push(format!("{}: not one guarded no_mangle", source.path));
    }
    let block = code.split_once("\nexport! {").and_then(|(before, rest)| {
        let (block, _) = rest.split_once("\n}")?;
        Some((
            before.len(),
            before.len() + block.len() + "\nexport! {".len(),
        ))
    });
    let (start, end) = block.unwrap_or((0, 0));
    for at in words(&code, "TRITONBACKEND_") {
        let name: String = code[at..].chars().take_while(|&c| is_word(c)).collect();
        let is_defined = code[at + name.len()..].starts_with('(');
        if is_defined && !(start..end).contains(&at) {
            found.push(format!("{}:{}: {name}", source.path, line(&code, at)));
        }
    }
    found
}

/// The exports that the macro defines.
fn exports(source: &Source) -> BTreeSet<String> {
    let code = source.code();
    let block = code.split_once("\nexport! {").map_or("", |(_, rest)| rest);
    words(block, "TRITONBACKEND_")
        .map(|at| {
            block[at..]
                .chars()
                .take_while(|&c| is_word(c))
                .collect::<String>()
        })
        .filter(|name| block.contains(&format!("{name}(")))
        .collect()
}

/// How long a file is.
fn overlong(source: &Source) -> Vec<String> {
    let n_lines = match source.path.starts_with("src/") {
        true => without_tests(&source.text).lines().count(),
        false => source.text.lines().count(),
    };
    let found = format!("{}: {n_lines} lines, at most {MAX_LINES}", source.path);
    let is_overlong = n_lines > MAX_LINES;
    is_overlong.then_some(found).into_iter().collect()
}

/// How a Rust file opens and how long it is.
fn misshapen(source: &Source) -> Vec<String> {
    let mut found = overlong(source);
    if !source.text.starts_with("//! ") {
        found.push(format!("{}: does not open with //!", source.path));
    }
    found
}

// ---- the sources keep them ----

fn check_all(folders: &[&str], rule: impl Fn(&Source) -> Vec<String>) {
    check_each(folders.iter().flat_map(|folder| sources(folder)), rule);
}

fn check_each(all: impl Iterator<Item = Source>, rule: impl Fn(&Source) -> Vec<String>) {
    let broken: Vec<String> = all.flat_map(|source| rule(&source)).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn modules_import_what_the_arrows_say() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources("src") {
        let home = source.home().to_owned();
        found.entry(home).or_default().extend(arrows(&source));
    }
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let expected: BTreeMap<String, BTreeSet<String>> = ARROWS
        .iter()
        .map(|(module, imports)| ((*module).to_owned(), owned(imports)))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn words_stay_in_their_homes() {
    check_all(&["src"], strangers);
}

#[test]
fn unsafe_stays_at_home() {
    check_all(&["src"], stray_unsafe);
}

#[test]
fn of_the_machine_a_configuration_knows_devices_alone() {
    check_all(&["src"], machinery);
}

#[test]
fn no_loose_ends() {
    check_all(&["src", "tests"], loose_ends);
}

#[test]
fn files_open_with_what_they_are_and_end_in_time() {
    check_all(&["src", "tests"], misshapen);
}

#[test]
fn files_in_other_languages_end_in_time() {
    let folders = ["scripts", "benches", "tests"].iter();
    check_each(folders.flat_map(|folder| others(folder)), overlong);
}

#[test]
fn every_export_goes_through_the_guard() {
    let is_exports = |source: &Source| source.path == "src/exports.rs";
    let found = sources("src");
    let source = found.iter().find(|&source| is_exports(source));
    let source = source.expect("src/exports.rs");
    assert_eq!(unguarded_exports(source), Vec::<String>::new());
    let names = exports(source);
    for name in ["Initialize", "Finalize", "ModelInstanceExecute"] {
        assert!(
            names.contains(&format!("TRITONBACKEND_{name}")),
            "{names:?}"
        );
    }
}

// ---- the rules can fail ----

#[test]
fn bare_code_has_neither_comments_nor_literals() {
    let check = |text: &str, expected: &str| {
        let squeezed: Vec<_> = bare(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(squeezed.join(" "), expected, "{text}");
        assert_eq!(bare(text).lines().count(), text.lines().count());
    };
    check("a // unsafe\nb", "a b");
    check("a /* x /* y */ z */ b", "a b");
    check(r#"a "unsafe \" // " b"#, "a b");
    check("a r#\"x \" y\"# b", "a b");
    check("for br\"x\\\" y", "for b y");
    check("'a' '\\'' '\\u{1F600}' '\"' x", "x");
    check("fn f<'a>(x: &'a str) {}", "fn f< a>(x: & a str) {}");
}

#[test]
fn tests_are_no_code_that_ships() {
    let check = |text: &str, expected: &str| assert_eq!(without_tests(text), expected);
    check("a #[cfg(test)] mod t { x { y } } b", "a  b");
    check("a #[cfg(test)]\nmod tests;\nb", "a \nb");
    check("a #[cfg(not(test))] b", "a #[cfg(not(test))] b");
    let source = Source::new("src/worker/tests.rs", "x.unwrap()");
    assert_eq!(source.code(), "");
}

#[test]
fn arrows_are_found_however_they_are_written() {
    let check = |path: &str, text: &str, expected: &[&str]| {
        let found = arrows(&Source::new(path, text));
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found, expected, "{path}: {text}");
    };
    check("src/a.rs", "use crate::b::C;", &["b"]);
    check(
        "src/a.rs",
        "use crate::{b, c::{D, e}, f::*};",
        &["b", "c", "f"],
    );
    check("src/a.rs", "let x = crate::b::c();", &["b"]);
    check("src/a.rs", "use super::b;", &["b"]);
    check("src/a/mod.rs", "use super::b;", &["b"]);
    check(
        "src/a/x.rs",
        "use super::y; use super::super::b::C;",
        &["b"],
    );
    check("src/a/x.rs", "use super::super::{a, b};", &["b"]);
    check("src/a/x.rs", "use crate::a::y;", &[]);
    check("src/a.rs", "// crate::b\nlet x = \"crate::c\";", &[]);
    check("src/a.rs", "#[cfg(test)] mod tests { use crate::b; }", &[]);
    check(
        "src/lib.rs",
        "pub use crate::a::B; use self::c::D;",
        &["a", "c"],
    );
}

#[test]
fn rules_find_what_they_are_for() {
    let check = |rule: fn(&Source) -> Vec<String>, path: &str, text: &str, n_found: usize| {
        let found = rule(&Source::new(path, text));
        assert_eq!(found.len(), n_found, "{path}: {text}: {found:?}");
    };
    check(strangers, "src/engine/x.rs", "use std::thread;", 1);
    check(strangers, "src/engine/x.rs", "Instant::now()", 1);
    check(
        strangers,
        "src/engine/x.rs",
        "let threads = MyInstant::now();",
        0,
    );
    check(strangers, "src/worker.rs", "use llama_cpp_2::Model;", 1);
    check(strangers, "src/worker.rs", "TRITONSERVER_ErrorNew()", 1);
    check(strangers, "src/llama/x.rs", "use llama_cpp_2::Model;", 0);

    check(stray_unsafe, "src/worker.rs", "unsafe { x }", 1);
    check(stray_unsafe, "src/serving.rs", "let s = unsafe { x };", 1);
    check(stray_unsafe, "src/triton/x.rs", "unsafe { x }", 0);
    check(stray_unsafe, "src/machine/cuda.rs", "unsafe { x }", 0);
    check(stray_unsafe, "src/machine/memory.rs", "unsafe { x }", 1);
    check(stray_unsafe, "src/worker.rs", "// unsafe\nunsafe_op;", 0);

    let device = "use crate::machine::device::Device; let machines = 1;";
    check(machinery, "src/config/x.rs", device, 0);
    check(machinery, "src/serving/x.rs", "use crate::machine;", 0);
    for other in [
        "use crate::machine::memory;",
        "use crate::{machine, table};",
        "crate::machine::devices()",
    ] {
        check(machinery, "src/config/x.rs", other, 1);
    }
    check(machinery, "src/machine/device.rs", "pub name: String", 0);
    check(machinery, "src/machine/device.rs", "use std::fs;", 1);
    check(machinery, "src/machine/device.rs", "super::memory::x()", 1);

    check(loose_ends, "src/x.rs", "x.unwrap(); todo!()", 2);
    check(
        loose_ends,
        "src/x.rs",
        "#[cfg(test)] mod t { x.unwrap() }",
        0,
    );
    check(loose_ends, "src/x.rs", "eprintln!(); println!();", 1);
    check(loose_ends, "tests/x.rs", "x.unwrap();\n#[ignore]", 1);

    check(misshapen, "src/x.rs", "//! A file.\n", 0);
    check(misshapen, "src/x.rs", "use std::fs;\n", 1);
    check(
        misshapen,
        "src/x.rs",
        &format!("//! A file.\n{}", "x;\n".repeat(MAX_LINES)),
        1,
    );
    let lines = "x\n".repeat(MAX_LINES);
    check(overlong, "scripts/x.py", &lines, 0);
    check(overlong, "scripts/x.py", &format!("{lines}x\n"), 1);
    check(overlong, "tests/e2e/x.sh", &format!("{lines}x\n"), 1);
    check(overlong, "tests/host/x.c", &format!("{lines}x\n"), 1);
    check(overlong, "tests/x.rs", &lines, 0);
    check(overlong, "tests/x/y.rs", &format!("{lines}x\n"), 1);
    let tests = format!("#[cfg(test)] mod t {{\n{lines}}}\n");
    check(overlong, "src/x.rs", &tests, 0);
    check(overlong, "src/x.rs", &format!("{tests}{lines}x\n"), 1);
    check(overlong, "tests/x.rs", &tests, 1);
}

#[test]
fn an_unguarded_export_is_found() {
    let good = "macro_rules! export {\n no_mangle fn $name() { guard(x) }\n}\n\
                export! {\n    TRITONBACKEND_A(x: u8) => a(x);\n}\n";
    let check = |text: &str, n_found: usize| {
        let found = unguarded_exports(&Source::new("src/exports.rs", text));
        assert_eq!(found.len(), n_found, "{text}: {found:?}");
    };
    check(good, 0);
    check(&format!("{good}fn TRITONBACKEND_B(x: u8) {{}}"), 1);
    check(
        &format!("{good}#[unsafe(no_mangle)] fn TRITONBACKEND_B() {{}}"),
        2,
    );
    check(&good.replace("guard(x)", "x"), 1);
    let names = exports(&Source::new("src/exports.rs", good));
    assert_eq!(names, BTreeSet::from(["TRITONBACKEND_A".to_owned()]));
}
