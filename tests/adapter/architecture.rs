//! The order of modules in ARCHITECTURE.md: a module imports only from rows below its
//! own, and without cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules that may use wire protocols.
const EDGE: [&str; 3] = ["server", "grpc", "frontends"];
const PROTOCOLS: [&str; 8] =
    ["tonic", "http", "hyper", "http_body", "hyper_util", "rustls", "tokio_rustls", "webpki"];
/// Names that the crate's root re-exports or renames.
const ALIASES: [(&str, &str); 5] = [
    ("health", "grpc"),
    ("formats", "records"),
    ("record", "records"),
    ("render", "records"),
    ("template", "records"),
];

type Module = Vec<String>;

/// The modules of a source folder, each with the paths in its code.
fn modules(root: &str) -> BTreeMap<Module, Vec<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut modules = BTreeMap::new();
    for file in files(&root) {
        let code = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&root).unwrap().with_extension("");
        let name: Module = name.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if name != ["lib"] {
            modules.insert(name.clone(), paths(&product(&code), &name));
        }
    }
    assert!(modules.len() > 20, "{} has few modules", root.display());
    modules
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.into_iter().chain(dirs.iter().flat_map(|dir| self::files(dir))).collect()
}

/// The code without its tests and comments.
fn product(code: &str) -> String {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.map(|line| format!("{line}\n")).collect()
}

/// The paths in code, from the crate's root or another crate. A path with braces
/// yields one path per branch.
fn paths(code: &str, module: &[String]) -> Vec<Module> {
    let mut found = Vec::new();
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut rest = code;
    while let Some(at) = rest.find(is_word) {
        let before = rest[..at].chars().next_back();
        rest = &rest[at..];
        let end = rest.find(|letter| !is_word(letter) && letter != ':').unwrap_or(rest.len());
        let (path, after) = rest.split_at(end);
        let (path, is_branching) = match path.strip_suffix("::") {
            Some(path) if after.starts_with('{') => (path, true),
            _ => (path, false),
        };
        if is_branching {
            let body = group(after);
            found.extend(
                branches(body).into_iter().flat_map(|tail| paths(&format!("{path}::{tail}"), module)),
            );
            rest = &after[body.len() + 2..];
            continue;
        }
        if path.contains("::") && before != Some(':') {
            found.extend(absolute(path, module));
        }
        rest = after;
    }
    found
}

/// The content of the braces at the start of `text`.
fn group(text: &str) -> &str {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if depth == 0 {
            return &text[1..at];
        }
    }
    panic!("braces without an end: {text}")
}

/// The parts between commas outside inner braces.
fn branches(body: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, letter) in body.char_indices() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if letter == ',' && depth == 0 {
            parts.push(body[start..at].trim());
            start = at + 1;
        }
    }
    parts.push(body[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// The path from the crate's root; `None` for any other kind of path.
fn absolute(path: &str, module: &[String]) -> Option<Module> {
    let mut parts: Vec<&str> = path.split("::").collect();
    let mut above = match parts[0] {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        "super" => {
            let ups = parts.iter().take_while(|part| **part == "super").count();
            parts.drain(1..ups);
            module[..module.len().checked_sub(ups).expect("a path within the crate")].to_vec()
        }
        _ => return Some(parts.into_iter().map(str::to_owned).collect()),
    };
    above.extend(parts.drain(1..).map(str::to_owned));
    Some(above)
}

/// The rows of the order, top first.
fn rows() -> Vec<Vec<String>> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let (_, block) = text.split_once("```order\n").expect("a block of the order in ARCHITECTURE.md");
    let (block, _) = block.split_once("```").unwrap();
    block.lines().map(|row| row.split_whitespace().map(str::to_owned).collect()).collect()
}

fn row_of(rows: &[Vec<String>], name: &str) -> Option<usize> {
    let name = ALIASES.iter().find(|alias| alias.0 == name).map_or(name, |alias| alias.1);
    rows.iter().position(|row| row.iter().any(|known| known == name))
}

#[test]
fn every_module_imports_from_rows_below_its_own() {
    let rows = rows();
    for (module, paths) in modules("src") {
        let row = row_of(&rows, &module[0]);
        let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md gives {} no row", module[0]));
        for path in paths.iter().filter(|path| path[0] != module[0] && path[0] != "mygrpcadapter") {
            let Some(other) = row_of(&rows, &path[0]) else { continue };
            assert!(other > row, "{} imports {}, which is not below it", module.join("::"), path.join("::"));
        }
    }
}

#[test]
fn the_protocols_of_the_wire_are_named_at_the_edge_only() {
    for (module, paths) in modules("src") {
        let named = paths.iter().find(|path| PROTOCOLS.contains(&&*path[0]));
        assert!(named.is_none() || EDGE.contains(&&*module[0]), "{} names {named:?}", module.join("::"));
    }
}

#[test]
fn no_front_end_imports_another() {
    let modules = modules("src");
    for (module, paths) in modules.iter().filter(|(module, _)| module[0] == "frontends" && module.len() > 1) {
        for path in paths.iter().filter(|path| path[0] == "frontends" && path.len() > 1) {
            // A folder is a front end; a file beside it is shared.
            let is_other = path[1] != module[1] && modules.keys().any(|m| m.len() > 2 && m[1] == path[1]);
            assert!(!is_other, "{} imports {}", module.join("::"), path.join("::"));
        }
    }
}

#[test]
fn nothing_imports_in_a_circle() {
    for root in ["src", "crates/records/src"] {
        let modules = modules(root);
        let mut edges: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
        for (module, paths) in &modules {
            let named = paths.iter().filter_map(|path| {
                (1..=path.len()).rev().find_map(|length| modules.get_key_value(&path[..length]))
            });
            edges.insert(module, named.map(|(name, _)| name).filter(|name| *name != module).collect());
        }
        // A module without remaining imports is in no cycle.
        while let Some(leaf) = edges.iter().find(|(_, on)| on.is_empty()).map(|(leaf, _)| *leaf) {
            edges.remove(leaf);
            for on in edges.values_mut() {
                on.remove(leaf);
            }
        }
        assert!(edges.is_empty(), "{root}: {edges:?}");
    }
}

#[test]
fn what_code_names_is_found() {
    let module = ["a".to_owned(), "b".to_owned()];
    let code = product(
        "use super::{c, d::{E, F}};\nuse crate::g::H; // crate::no::one\nlet x = self::i::j(http::K::l());\n\
         #[cfg(test)]\nmod tests {\n    use crate::t;\n}\n",
    );
    let mut found: Vec<String> = paths(&code, &module).iter().map(|path| path.join("::")).collect();
    found.sort();
    assert_eq!(found, ["a::b::i::j", "a::c", "a::d::E", "a::d::F", "g::H", "http::K::l"]);
}
