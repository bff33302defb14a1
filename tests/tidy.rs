//! Rules about the source text itself: the direction of imports, where a library may be named, and the shape of files.
//!
//! The rules are those of ARCHITECTURE.md. The direction of imports is that of each package's top modules; the shape is that
//! of every Rust file of the repository. The files are read as text, so a test module's imports do not count.

#![allow(clippy::indexing_slicing, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Modules each top-level module may import, the lowest first.
const MAY_IMPORT: [(&str, &[&str]); 22] = [
    ("shadow", &[]),
    ("rate", &[]),
    ("private_file", &[]),
    ("clock", &["shadow"]),
    ("config", &["rate", "shadow"]),
    ("observability", &["config", "rate", "shadow"]),
    ("admission", &["config", "observability", "rate", "shadow"]),
    ("auth", &["admission", "clock", "config", "observability", "private_file", "rate", "shadow"]),
    ("net", &["admission", "auth", "config", "observability", "private_file", "rate"]),
    ("store", &["observability", "shadow"]),
    ("cluster", &["config", "private_file", "store"]),
    ("wire", &["shadow"]),
    ("fleet", &["shadow"]),
    ("engine", &["admission", "auth", "clock", "observability", "shadow", "store", "wire"]),
    ("search", &["admission", "auth", "config", "engine", "fleet", "shadow", "store", "wire"]),
    ("rollouts", &["admission", "auth", "engine", "fleet", "observability", "search", "shadow", "store", "wire"]),
    ("mqtt", FRONT_END),
    ("http", HTTP),
    ("reload", ANY),
    ("server", ANY),
    ("cli", ANY),
    ("main", ANY),
];
const HTTP: &[&str] = &[
    "rollouts",
    "admission",
    "auth",
    "clock",
    "config",
    "engine",
    "fleet",
    "net",
    "observability",
    "rate",
    "search",
    "shadow",
    "store",
    "wire",
];
/// The modules that both front ends may import: those of [`HTTP`] but the rollouts.
const FRONT_END: &[&str] = HTTP.split_at(1).1;
const ANY: &[&str] = &["*"];

/// Libraries that only some places may name. Nothing but the clock, and what shows or compares dates, asks for the date.
const NAMED_IN: [(&str, &[&str]); 6] = [
    ("redb", &["store/"]),
    ("axum", &["http/", "server.rs"]),
    ("rumqttd", &["mqtt/protocol/"]),
    ("async_nats", &["cluster/"]),
    ("winnow", &["fleet/query/parse.rs"]),
    (
        "SystemTime",
        &["clock.rs", "net/tls.rs", "server/telemetry/process.rs", "cli/purge.rs", "mqtt/broker/router/tests.rs"],
    ),
];

/// Packages that may not name the server's library. They know it by its protocol, so that a mistake in it is seen.
const KNOW_THE_PROTOCOL: [&str; 3] = ["umbra-client/", "firmware-sim/", "tests/harness/"];

const FILE_LINES_MAX: usize = 550;
const FUNCTION_LINES_MAX: usize = 70;
const BACKWARD: [&str; 5] = ["What ", "Whether ", "Who ", "Those ", "Of "];

#[test]
fn imports_point_one_way() {
    let mut found = Vec::new();
    let allowed: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    for (path, text) in sources("src").into_iter().filter(|(path, _)| !is_test(path)) {
        let module = top_module(&path);
        if module == "lib" {
            continue;
        }
        let allowed = allowed.get(module.as_str()).copied().unwrap_or_default();
        for imported in imported_modules(without_tests(&text)) {
            if imported != module && allowed != ANY && !allowed.contains(&imported.as_str()) {
                found.push(format!("{} imports crate::{imported}", path.display()));
            }
        }
    }
    report("imports against the direction of ARCHITECTURE.md", found);
}

#[test]
fn top_modules_import_each_other_in_no_circle() {
    let mut found = Vec::new();
    for package in ["src", "umbra-client/src", "firmware-sim/src", "fuzz/src"] {
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, text) in sources(package).into_iter().filter(|(path, _)| !is_test(path)) {
            let module = top_module(&path);
            let imported = imported_modules(without_tests(&text)).into_iter().filter(|imported| *imported != module);
            imports.entry(module.clone()).or_default().extend(imported);
        }
        // Whoever imports nothing that is left is in no circle.
        while let Some(module) = imports.iter().find_map(|(module, imported)| {
            (!imported.iter().any(|imported| imports.contains_key(imported))).then(|| module.clone())
        }) {
            imports.remove(&module);
        }
        found.extend(imports.into_iter().map(|(module, imported)| format!("{package}: {module} imports {imported:?}")));
    }
    report("modules that import each other, or import such", found);
}

#[test]
fn clients_know_the_server_by_its_protocol() {
    let named = sources(".").into_iter().filter(|(path, text)| {
        KNOW_THE_PROTOCOL.iter().any(|place| path.starts_with(place)) && names_path(&code(text), "umbrad")
    });
    report("files that name the server's library", named.map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn libraries_are_named_in_their_place() {
    let mut found = Vec::new();
    for (path, text) in sources("src") {
        let (name, code) = (path.display().to_string(), code(&text));
        for (library, places) in NAMED_IN {
            if names_path(&code, library) && !places.iter().any(|place| name.starts_with(place)) {
                found.push(format!("{name} names {library}, which only {} may", places.join(" and ")));
            }
        }
        if (name.starts_with("shadow/") || name.starts_with("fleet/")) && names_path(without_tests(&code), "tokio") {
            found.push(format!("{name} names tokio; core and queries are free of I/O, clocks and tasks"));
        }
    }
    report("libraries named out of place", found);
}

#[test]
fn files_and_functions_are_short() {
    let mut found = Vec::new();
    for (path, text) in sources(".") {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{} has {lines} lines, at most {FILE_LINES_MAX}", path.display()));
        }
        found.extend(long_functions(&text).map(|(line, length)| {
            format!("{}:{line}: a function of {length} lines, at most {FUNCTION_LINES_MAX}", path.display())
        }));
    }
    report("files or functions that are too long", found);
}

#[test]
fn doc_comments_begin_with_their_subject() {
    let mut found = Vec::new();
    for (path, text) in sources(".") {
        let mut inside = false;
        for (number, line) in (1..).zip(text.lines()) {
            let doc = line.trim_start().strip_prefix("///").or_else(|| line.strip_prefix("//!"));
            if let Some(doc) = doc.map(str::trim_start).filter(|_| !inside)
                && BACKWARD.iter().any(|word| doc.starts_with(word))
            {
                found.push(format!("{}:{number}: {doc}", path.display()));
            }
            inside = doc.is_some_and(|doc| !doc.trim().is_empty());
        }
    }
    report("doc comments that begin backwards (VOCABULARY: subject first)", found);
}

#[test]
fn the_code_map_is_that_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the map");
    let mut found = Vec::new();
    // Every second part is a picture.
    for line in text.split("```").step_by(2).flat_map(str::lines) {
        let spans = line.split('`').skip(1).step_by(2);
        let links = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        // A path may begin at a folder above the one before it in its line.
        let mut last = root.join("src");
        for name in spans.chain(links).filter(|name| !name.contains([' ', ':'])) {
            let above = last.ancestors().take_while(|above| above.starts_with(root)).map(Path::to_owned);
            match above.chain([root.join("src")]).map(|above| above.join(name)).find(|path| path.exists()) {
                Some(path) => last = path,
                None if name.contains('/') || name.ends_with(".rs") => {
                    found.push(format!("{name} is not there: {line}"))
                }
                None => {}
            }
        }
    }
    let code = sources("src").into_iter().map(|(_, text)| text).collect::<String>();
    for name in text.split('`').filter(|name| name.contains("::") && !name.contains(' ')) {
        let defined =
            |name| ["fn", "struct", "enum", "trait", "mod"].iter().any(|kind| code.contains(&format!("{kind} {name}")));
        if !name.split("::").all(defined) {
            found.push(format!("{name} is not defined"));
        }
    }
    let modules: BTreeSet<_> = sources("src").iter().map(|(path, _)| top_module(path)).collect();
    let is_named = |name: &String| [".rs", "/"].iter().any(|ending| text.contains(&format!("`src/{name}{ending}`")));
    let unnamed = modules.iter().filter(|name| !is_named(name));
    found.extend(unnamed.map(|name| format!("src/{name} is not in the code map")));
    report("ARCHITECTURE.md against the code", found);
}

/// With a baseline of another compiler, the counts would not be compared.
#[test]
fn instructions_are_counted_with_the_compiler_of_the_manifest() {
    let read =
        |path| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file of this package");
    let quoted = |text: &str, before: &str| {
        let rest = text.split(before).nth(1).expect("the key is there");
        rest.split('"').nth(1).expect("a quoted value").to_owned()
    };
    let minimum = quoted(&read("Cargo.toml"), "\nrust-version = ");
    let counted = quoted(&read("benches/instructions/baseline.json"), "\"rustc\":");
    assert!(
        counted.starts_with(&format!("{minimum}.")),
        "counted with Rust {counted}: run ./bench-instructions --save with {minimum}"
    );
}

/// Every Rust file below a folder of this repository, by its path there. What is built or installed does not count.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("an entry").path()) {
            let name = entry.file_name().expect("a name").to_string_lossy();
            if entry.is_dir() && !entry.is_symlink() {
                if !name.starts_with('.') && !["target", "node_modules", "tmp"].contains(&&*name) {
                    folders.push(entry);
                }
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&entry).expect("a source file is text");
                files.push((entry.strip_prefix(&root).expect("below the root").to_owned(), text));
            }
        }
    }
    assert!(files.len() > 5, "{} files found in {folder}: the rules would hold for nothing", files.len());
    files.sort();
    files
}

fn top_module(path: &Path) -> String {
    let first = path.iter().next().expect("a path has a first component").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns the text above an inline test module.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// Returns true for a file that only tests use.
fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// The text without its line comments.
fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first path segments after `crate::`, in `use` trees and elsewhere.
fn imported_modules(text: &str) -> Vec<String> {
    let code = code(text);
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(tree) => {
                let (mut depth, mut start) = (0, true);
                for (at, char) in tree.char_indices() {
                    match char {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ if start && depth == 0 && !char.is_whitespace() => {
                            found.push(identifier(&tree[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
            None => found.push(identifier(rest)),
        }
    }
    found.retain(|name| !name.is_empty());
    found.sort();
    found.dedup();
    found
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect()
}

fn names_path(code: &str, library: &str) -> bool {
    let path = format!("{library}::");
    code.match_indices(&path)
        .any(|(at, _)| !code[..at].ends_with(|char: char| char.is_alphanumeric() || char == '_' || char == ':'))
}

/// The first line and the length of every function that is too long, found by the indentation that rustfmt gives. A test may
/// be as long as its table.
fn long_functions(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let is_function = line
            .trim_start()
            .split(' ')
            .take_while(|word| *word != "fn")
            .all(|word| ["pub", "async", "const", "unsafe", "extern"].contains(&word) || word.starts_with("pub("))
            && line.contains("fn ");
        if !is_function || line.trim_end().ends_with(';') || line.trim_end().ends_with('}') || is_test_at(&lines, at) {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines.iter().skip(at).position(|line| *line == end)
            && length + 1 > FUNCTION_LINES_MAX
        {
            found.push((at + 1, length + 1));
        }
    }
    found.into_iter()
}

/// Returns true if the function in this line has the attribute of a test.
fn is_test_at(lines: &[&str], at: usize) -> bool {
    let mut above = lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with("#["));
    above.any(|line| ["#[test]", "#[tokio::test"].iter().any(|test| line.trim_start().starts_with(test)))
}

fn report(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}
