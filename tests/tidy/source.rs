//! Our files as text, and Rust without its comments, literals and tests.
//!
//! What the rules look at.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// A file of ours: its path from the root, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The module path: `src/config/raw.rs` is `config`, `raw`; `src/lib.rs` is empty.
    pub fn module(&self) -> Vec<&str> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let parts = inner.split('/');
        parts
            .filter(|part| !matches!(*part, "lib" | "mod"))
            .collect()
    }

    /// The module at the top of the crate that the file belongs to.
    pub fn home(&self) -> &str {
        self.module().first().copied().unwrap_or("lib")
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
    }

    /// The code that ships: no comments, literals or tests.
    pub fn code(&self) -> String {
        match self.is_test() {
            true => String::new(),
            false => without_tests(&bare(&self.text)),
        }
    }
}

/// All Rust files below `folder`.
pub fn sources(folder: &str) -> Vec<Source> {
    files(folder, &["rs"])
}

/// All files below `folder` in Python, shell, C and C++.
pub fn others(folder: &str) -> Vec<Source> {
    files(folder, &["py", "sh", "c", "h", "cpp"])
}

fn files(folder: &str, extensions: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the crate") {
            let path = entry.expect("an entry").path();
            let is_ours = |extension: &OsStr| extensions.iter().any(|ours| extension == *ours);
            if path.is_dir() && path.file_name() != Some(OsStr::new("target")) {
                folders.push(path);
            } else if path.extension().is_some_and(is_ours) {
                let name = path.strip_prefix(root).expect("below the root");
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push(Source::new(&name.to_string_lossy(), &text));
            }
        }
    }
    assert!(!found.is_empty(), "no files in {folder:?}");
    found
}

/// Blanks comments and the insides of literals; lines stay where they are.
pub fn bare(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (n_bytes, keep) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (block_comment(rest), false),
            '"' => (string(rest), false),
            'r' if raw_string(rest).is_some() && !ends_in_word(&out) => {
                (raw_string(rest).unwrap_or(1), false)
            }
            '\'' => (character(rest), false),
            _ => (first.len_utf8(), true),
        };
        let (part, after) = rest.split_at(n_bytes);
        match keep {
            true => out.push_str(part),
            false => out.extend(part.chars().map(|c| if c == '\n' { c } else { ' ' })),
        }
        rest = after;
    }
    out
}

fn ends_in_word(text: &str) -> bool {
    // `br"..."` and `cr"..."` are raw strings, too.
    let before = text.trim_end_matches(['b', 'c']);
    before.ends_with(is_word)
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let n_hashes = text[1..].bytes().take_while(|&byte| byte == b'#').count();
    let body = text[1 + n_hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(n_hashes));
    let n_bytes = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(2 + n_hashes + n_bytes)
}

/// The length of a character literal; of the quote alone where it opens a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, _))) => {
            let from = at + 1;
            text[from..].find('\'').map_or(1, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Cuts out every item under `#[cfg(test)]`, up to its `;` or closing brace.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut depth = 0;
        let end = rest.char_indices().find(|&(_, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && matches!(c, ';' | '}')
        });
        rest = end.map_or("", |(at, _)| &rest[at + 1..]);
    }
    out + rest
}

/// The places where `word` stands on its own; one that ends in `_` is a prefix.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            let starts = !code[..at].ends_with(is_word);
            let ends = word.ends_with('_') || !code[at + word.len()..].starts_with(is_word);
            starts && ends
        })
}

pub fn line(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}
