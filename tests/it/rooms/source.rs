//! Reads what a source file names: the modules of this crate and the other crates, with the line where it does so.
//!
//! Not a Rust parser. It knows comments, literals, `use` trees, `mod` blocks and paths, which is what the arrows
//! between rooms are made of. Items under `#[cfg(test)]` are left out: a test may join what the product may not.

use std::collections::{BTreeMap, BTreeSet};

/// One source file: its path below `src/` and its text.
pub(super) struct SourceFile {
    pub(super) path: String,
    pub(super) text: String,
}

/// A path that a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) line: usize,
    pub(super) target: Target,
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Segments below this crate's root: `crate::store::sled::Tree` is `["store", "sled", "Tree"]`.
    Here(Vec<String>),
    /// A path into another crate, whose name, as code uses it, comes first.
    Crate(Vec<String>),
}

/// What one file says: the paths it names, and the names it passes on with `pub use`.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) mentions: Vec<Mention>,
    /// Name in this module → where it really lives.
    pub(super) passes_on: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Sep,
    Mark(char),
}

struct Spot {
    token: Token,
    line: usize,
}

/// The module that a path below `src/` holds: `store/sled.rs` is `["store", "sled"]`, the crate's root is empty.
pub(super) fn module_of(path: &str) -> Vec<String> {
    match path.strip_suffix(".rs").unwrap_or(path) {
        "lib" => Vec::new(),
        stem => stem.split('/').map(str::to_owned).collect(),
    }
}

/// Reads `file`; `crates` are the names that lead out of this crate.
pub(super) fn read(file: &SourceFile, crates: &BTreeSet<String>) -> Reading {
    let spots = without_tests(lex(&file.text));
    let bound = names_bound(&spots, &module_of(&file.path));
    let mut reading = Reading::default();
    let mut module = Modules::at(module_of(&file.path));
    let mut at = 0;
    while at < spots.len() {
        at = module.step(&spots, at);
        let Some(spot) = spots.get(at) else { break };
        if is_word(&spots, at, "use") && !is_mark(&spots, at + 1, '<') {
            let is_public = at > 0 && (is_word(&spots, at - 1, "pub") || is_mark(&spots, at - 1, ')'));
            let mut leaves = Vec::new();
            let end = use_tree(&spots, at + 1, &[], &mut leaves);
            for leaf in leaves {
                let target = resolve(&leaf.path, &module.path, &bound, crates);
                if let (true, Some(Target::Here(path))) = (is_public, &target) {
                    reading.passes_on.insert(leaf.name, path.clone());
                }
                reading.mentions.extend(target.map(|target| Mention { line: leaf.line, target }));
            }
            at = end;
        } else if matches!(spot.token, Token::Word(_)) && !follows_a_path(&spots, at) {
            let (path, end) = path_at(&spots, at);
            if path.len() > 1 {
                let target = resolve(&path, &module.path, &bound, crates);
                reading.mentions.extend(target.map(|target| Mention { line: spot.line, target }));
            }
            at = end;
        } else {
            at += 1;
        }
    }
    reading
}

/// Where in the tree of inline modules the reader stands.
struct Modules {
    path: Vec<String>,
    /// For each open brace, whether it opened a module.
    open: Vec<bool>,
}

impl Modules {
    fn at(path: Vec<String>) -> Self {
        Self { path, open: Vec::new() }
    }

    /// Passes over `mod name {`, `{` and `}` and says where to read on.
    fn step(&mut self, spots: &[Spot], at: usize) -> usize {
        if is_word(spots, at, "mod")
            && is_mark(spots, at + 2, '{')
            && let Some(Token::Word(name)) = spots.get(at + 1).map(|spot| &spot.token)
        {
            self.path.push(name.clone());
            self.open.push(true);
            return at + 3;
        }
        if is_mark(spots, at, '{') {
            self.open.push(false);
        } else if is_mark(spots, at, '}') && self.open.pop() == Some(true) {
            self.path.pop();
        }
        at
    }
}

/// Names that lead somewhere in this crate because the file declares or imports them.
fn names_bound(spots: &[Spot], module: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut bound = BTreeMap::new();
    let mut at = 0;
    while at < spots.len() {
        if is_word(spots, at, "mod") {
            if let Some(Token::Word(name)) = spots.get(at + 1).map(|spot| &spot.token) {
                bound.insert(name.clone(), [module, std::slice::from_ref(name)].concat());
            }
        } else if is_word(spots, at, "use") && !is_mark(spots, at + 1, '<') {
            let mut leaves = Vec::new();
            at = use_tree(spots, at + 1, &[], &mut leaves);
            for leaf in leaves {
                if let Some(Target::Here(path)) =
                    resolve(&leaf.path, module, &BTreeMap::new(), &BTreeSet::new())
                {
                    bound.insert(leaf.name, path);
                }
            }
            continue;
        }
        at += 1;
    }
    bound
}

struct Leaf {
    path: Vec<String>,
    name: String,
    line: usize,
}

/// Reads one tree of a `use` from `at` on; returns the place behind it.
fn use_tree(spots: &[Spot], mut at: usize, before: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let mut path = before.to_vec();
    let line = spots.get(at).map_or(0, |spot| spot.line);
    loop {
        match spots.get(at).map(|spot| &spot.token) {
            Some(Token::Sep) => at += 1,
            Some(Token::Word(word)) if word == "as" => {
                let name = match spots.get(at + 1).map(|spot| &spot.token) {
                    Some(Token::Word(name)) => name.clone(),
                    _ => String::new(),
                };
                leaves.push(Leaf { path, name, line });
                return at + 2;
            }
            Some(Token::Word(word)) => {
                // `use a::{self}` names `a`.
                if word != "self" || path.is_empty() {
                    path.push(word.clone());
                }
                at += 1;
            }
            Some(Token::Mark('{')) => {
                at += 1;
                while at < spots.len() && !is_mark(spots, at, '}') {
                    at = use_tree(spots, at, &path, leaves);
                    if is_mark(spots, at, ',') {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some(Token::Mark('*')) => at += 1,
            _ => {
                let name = path.last().cloned().unwrap_or_default();
                leaves.push(Leaf { path, name, line });
                return at;
            }
        }
    }
}

/// Where `path`, written in `module`, leads; `None` for a name that is neither a crate nor a module (a type, a variant).
fn resolve(
    path: &[String],
    module: &[String],
    bound: &BTreeMap<String, Vec<String>>,
    crates: &BTreeSet<String>,
) -> Option<Target> {
    let (first, rest) = path.split_first()?;
    let below = |base: &[String]| Some(Target::Here([base, rest].concat()));
    match first.as_str() {
        "crate" | "token_broker" => below(&[]),
        "self" => below(module),
        "super" => {
            let ups = path.iter().take_while(|word| *word == "super").count();
            let base = &module[..module.len().saturating_sub(ups)];
            Some(Target::Here([base, &path[ups..]].concat()))
        }
        name if bound.contains_key(name) => below(&bound[name]),
        name if crates.contains(name) => Some(Target::Crate(path.to_vec())),
        _ => None,
    }
}

fn path_at(spots: &[Spot], mut at: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    while let Some(Token::Word(word)) = spots.get(at).map(|spot| &spot.token) {
        path.push(word.clone());
        at += 1;
        let goes_on = matches!(spots.get(at).map(|spot| &spot.token), Some(Token::Sep))
            && matches!(spots.get(at + 1).map(|spot| &spot.token), Some(Token::Word(_)));
        if !goes_on {
            break;
        }
        at += 1;
    }
    (path, at)
}

/// A word behind `.` or `::` (as in `value.collect::<Vec<_>>()` or `Vec::<u8>::new`) starts no path.
fn follows_a_path(spots: &[Spot], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|before| &spots[before].token) else { return false };
    *before == Token::Mark('.')
        || (*before == Token::Sep
            && at > 1
            && !matches!(spots[at - 2].token, Token::Mark('{' | '(' | ',' | '<' | '&' | '=')))
}

fn is_word(spots: &[Spot], at: usize, word: &str) -> bool {
    matches!(spots.get(at), Some(Spot { token: Token::Word(found), .. }) if found == word)
}

fn is_mark(spots: &[Spot], at: usize, mark: char) -> bool {
    matches!(spots.get(at), Some(Spot { token: Token::Mark(found), .. }) if *found == mark)
}

/// Drops every item that stands under `#[cfg(test)]`.
fn without_tests(spots: Vec<Spot>) -> Vec<Spot> {
    let is_cfg_test = |at: usize| {
        is_mark(&spots, at, '#')
            && is_mark(&spots, at + 1, '[')
            && is_word(&spots, at + 2, "cfg")
            && is_mark(&spots, at + 3, '(')
            && is_word(&spots, at + 4, "test")
            && is_mark(&spots, at + 5, ')')
    };
    let mut keep = vec![true; spots.len()];
    let mut at = 0;
    while at < spots.len() {
        if !is_cfg_test(at) {
            at += 1;
            continue;
        }
        // The item ends with the `;` or the closing brace that stands outside all brackets.
        let mut depth = 0i32;
        while let Some(spot) = spots.get(at) {
            keep[at] = false;
            at += 1;
            match spot.token {
                Token::Mark('(' | '[' | '{') => depth += 1,
                Token::Mark(')' | ']') => depth -= 1,
                Token::Mark('}') => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                Token::Mark(';') if depth == 0 => break,
                _ => {}
            }
        }
    }
    spots.into_iter().zip(keep).filter_map(|(spot, keep)| keep.then_some(spot)).collect()
}

/// Words, `::` and single marks; comments and literals are passed over.
fn lex(text: &str) -> Vec<Spot> {
    let chars: Vec<char> = text.chars().collect();
    let mut spots = Vec::new();
    let (mut at, mut line) = (0, 1);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    while at < chars.len() {
        let start = at;
        let next = chars.get(at + 1).copied();
        match chars[at] {
            '/' if next == Some('/') => at = find(&chars, at, |c| c == '\n'),
            '/' if next == Some('*') => at = block_comment_end(&chars, at),
            '"' => at = string_end(&chars, at + 1),
            '\'' => at = quote_end(&chars, at),
            c if c.is_whitespace() => at += 1,
            c if is_name(c) => {
                at = find(&chars, at, |c| !is_name(c));
                let word: String = chars[start..at].iter().collect();
                match (word.as_str(), chars.get(at)) {
                    ("r" | "br" | "cr", Some('"' | '#')) => at = raw_end(&chars, at),
                    ("b" | "c", Some('"')) => at = string_end(&chars, at + 1),
                    ("b", Some('\'')) => at = quote_end(&chars, at),
                    _ if c.is_ascii_digit() => {}
                    _ => spots.push(Spot { token: Token::Word(word), line }),
                }
            }
            ':' if next == Some(':') => {
                spots.push(Spot { token: Token::Sep, line });
                at += 2;
            }
            c => {
                spots.push(Spot { token: Token::Mark(c), line });
                at += 1;
            }
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    spots
}

fn find(chars: &[char], from: usize, is_end: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|at| is_end(chars[*at])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Behind the closing quote of a string whose text starts at `at`.
fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Behind a raw string whose hashes or quote start at `at`; a raw name (`r#type`) is passed over as far as its hash.
fn raw_end(chars: &[char], at: usize) -> usize {
    let quote = find(chars, at, |c| c != '#');
    if chars.get(quote) != Some(&'"') {
        return quote;
    }
    let hashes = quote - at;
    let mut end = quote + 1;
    while end < chars.len() {
        if chars[end] == '"' && chars[end + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return end + 1 + hashes;
        }
        end += 1;
    }
    end
}

/// Behind a character literal, or behind the quote of a lifetime.
fn quote_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => find(chars, at + 3, |c| c == '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}
