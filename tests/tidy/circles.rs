//! No file of the crate imports another that imports it, by whatever way.
//!
//! So a file can be read with those that it imports, and with no other. What a file only hands on (`pub use`)
//! is no import of its own: who imports it there imports the file that it is from.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, is_word, sources, words};

/// A path, from the root of the crate.
type Path = Vec<String>;

/// A file: what it names of others, and what it hands on under a name.
#[derive(Default)]
struct File {
    names: Vec<Path>,
    hands_on: BTreeMap<String, Path>,
}

/// The files of the crate, by their modules.
struct Files(BTreeMap<Path, File>);

impl Files {
    fn new(sources: &[Source]) -> Self {
        let modules = sources.iter().filter(|source| !source.code().is_empty());
        let modules: Vec<(Path, String)> = modules
            .map(|source| (owned(&source.module()), source.code()))
            .collect();
        let known: BTreeSet<&Path> = modules.iter().map(|(module, _)| module).collect();
        let read = modules.iter().map(|(module, code)| {
            let children = known.iter().filter(|other| {
                other.len() == module.len() + 1 && other.starts_with(module.as_slice())
            });
            let children: Vec<&str> = children
                .filter_map(|child| child.last())
                .map(String::as_str)
                .collect();
            (module.clone(), File::read(module, code, &children))
        });
        Self(read.collect())
    }

    /// The file that defines what a path names.
    fn definition(&self, mut path: Path) -> Path {
        loop {
            let lengths = (0..=path.len()).rev();
            let mut files = lengths.filter(|&n| self.0.contains_key(&path[..n]));
            let n = files.next().unwrap_or(0);
            let rest = path.split_off(n);
            let hands_on = self.0.get(&path).map(|file| &file.hands_on);
            match rest.first().and_then(|name| hands_on?.get(name)) {
                Some(target) => path = [target, &rest[1..]].concat(),
                None => return path,
            }
        }
    }

    /// The files that a file imports.
    fn imports(&self, module: &Path) -> BTreeSet<Path> {
        let names = self.0[module].names.iter();
        let imports = names.map(|path| self.definition(path.clone()));
        imports.filter(|import| import != module).collect()
    }

    /// Files of which each imports the next, and the last the first.
    fn circle(&self) -> Option<Vec<String>> {
        let mut done = BTreeSet::new();
        let mut modules = self.0.keys();
        modules.find_map(|module| self.circle_from(module, &mut Vec::new(), &mut done))
    }

    fn circle_from(
        &self,
        module: &Path,
        way: &mut Vec<Path>,
        done: &mut BTreeSet<Path>,
    ) -> Option<Vec<String>> {
        if let Some(at) = way.iter().position(|earlier| earlier == module) {
            return Some(way[at..].iter().map(|module| module.join("::")).collect());
        }
        if !done.insert(module.clone()) {
            return None;
        }
        way.push(module.clone());
        let imports = self.imports(module);
        let mut found = imports.iter();
        let found = found.find_map(|import| self.circle_from(import, way, done));
        way.pop();
        found
    }
}

impl File {
    fn read(module: &[String], code: &str, children: &[&str]) -> Self {
        let mut file = Self::default();
        let mut rest = code.to_owned();
        for at in words(code, "use") {
            let (statement, _) = code[at..].split_once(';').unwrap_or((&code[at..], ""));
            let mut paths = Vec::new();
            expand(&[], statement.trim_start_matches("use"), &mut paths);
            let paths = paths
                .iter()
                .filter_map(|path| absolute(module, path, children));
            if is_public(&code[..at]) {
                let named = paths.filter_map(|path| Some((path.last()?.clone(), path)));
                file.hands_on.extend(named);
                rest.replace_range(at..at + statement.len(), &" ".repeat(statement.len()));
            } else {
                file.names.extend(paths);
            }
        }
        for start in ["crate", "super", "self"].iter().chain(children) {
            for at in words(&rest, start) {
                let path: String = rest[at..]
                    .chars()
                    .take_while(|&c| is_word(c) || c == ':')
                    .collect();
                let path: Vec<&str> = path.split("::").filter(|name| !name.is_empty()).collect();
                let is_inner = rest[..at].ends_with("::");
                if path.len() > 1 && !is_inner {
                    file.names.extend(absolute(module, &owned(&path), children));
                }
            }
        }
        file
    }
}

/// Whether what follows is `pub`, to whomever.
fn is_public(before: &str) -> bool {
    let before = before.trim_end();
    let inner = before.strip_suffix(')').and_then(|b| b.rsplit_once('('));
    inner.map_or(before, |(b, _)| b).ends_with("pub")
}

/// The paths of a tree: `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &[String], tree: &str, found: &mut Vec<Path>) {
    let mut depth = 0;
    let parts = tree.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        let (head, inner) = match part.split_once('{') {
            Some((head, inner)) => (head, inner.rsplit_once('}').map(|(inner, _)| inner)),
            None => (part.split(" as ").next().unwrap_or(part), None),
        };
        let names = head.split("::").map(str::trim);
        let names = names.filter(|name| !name.is_empty() && *name != "self" || part == "self");
        let path = [prefix, &owned(&names.collect::<Vec<_>>())].concat();
        match inner {
            Some(inner) => expand(&path, inner, found),
            None => found.push(path),
        }
    }
}

/// A path as the file of a module writes it, from the root; `None` where it leads out of the crate.
fn absolute(module: &[String], path: &[String], children: &[&str]) -> Option<Path> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => {
            let (_, parent) = module.split_last()?;
            match rest.first().is_some_and(|name| name == "super") {
                true => absolute(parent, rest, children),
                false => Some([parent, rest].concat()),
            }
        }
        child if children.contains(&child) => Some([module, path].concat()),
        _ => None,
    }
}

fn owned(names: &[&str]) -> Path {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn no_file_imports_another_that_imports_it() {
    assert_eq!(Files::new(&sources("src")).circle(), None);
}

#[test]
fn circles_are_found_however_they_are_written() {
    let check = |files: &[(&str, &str)], expected: Option<&[&str]>| {
        let sources = files.iter().map(|(path, text)| Source::new(path, text));
        let found = Files::new(&sources.collect::<Vec<_>>()).circle();
        let expected = expected.map(owned);
        assert_eq!(found, expected, "{files:?}");
    };
    let root = ("src/lib.rs", "mod a;");
    let room = ("src/a/mod.rs", "mod b; mod c; pub use b::B;");
    let c = ("src/a/c.rs", "use super::b::B;");
    check(&[root, room, ("src/a/b.rs", "struct B;"), c], None);
    for b in [
        "use super::c::C;",
        "use super::{c::C, d};",
        "use crate::a::{c::{self, C}};",
        "fn f() { super::c::g() }",
    ] {
        let circle = Some(&["a::b", "a::c"][..]);
        check(&[root, room, ("src/a/b.rs", b), c], circle);
        let handed_on = ("src/a/c.rs", "use super::B;");
        check(&[root, room, ("src/a/b.rs", b), handed_on], circle);
    }
    // A room that uses its file, which uses the room.
    let uses = ("src/a/mod.rs", "mod b; fn f() { b::g() }");
    let circle = Some(&["a", "a::b"][..]);
    check(&[root, uses, ("src/a/b.rs", "use super::f;")], circle);
    check(
        &[
            root,
            uses,
            ("src/a/b.rs", "#[cfg(test)] mod t { use super::super::f; }"),
        ],
        None,
    );
}
