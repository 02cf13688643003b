//! Who may import whom: reads the source and fails on a way that the house does not have.
//!
//! The table below is the same as in docs/architecture.md. Code under `#[cfg(test)]` in files named `tests.rs` or
//! `properties.rs` may look further.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Room, rooms of ours it may import, crates it must not import.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("failpoint", &[], &["tokio", "tonic", "axum", "prometheus", "burn"]),
    ("domain", &[], &["tokio", "tonic", "axum", "prometheus", "burn"]),
    ("data", &["domain"], &["tokio", "tonic", "axum", "prometheus", "burn"]),
    ("gpu", &["domain"], &["tonic", "axum", "burn"]),
    ("telemetry", &["domain"], &["tonic", "axum", "burn"]),
    ("engine", &["domain", "data", "failpoint"], &["tokio", "tonic", "axum", "prometheus"]),
    ("guard", &["domain"], &["tonic", "axum", "hyper", "burn"]),
    ("fuzz", &[], &["tokio", "tonic", "axum", "prometheus", "burn"]),
    ("wire", &["domain"], &["tokio", "axum", "prometheus", "burn"]),
    ("orchestrator", &["domain", "guard", "telemetry", "wire"], &["axum", "burn"]),
    (
        "worker",
        &["domain", "wire", "telemetry", "orchestrator", "engine", "gpu", "failpoint"],
        &["tonic", "axum", "burn"],
    ),
    ("grpc", &["domain", "guard", "wire", "telemetry", "gpu", "worker"], &["axum", "burn"]),
    ("http", &["domain", "guard", "telemetry", "gpu", "worker"], &["tonic", "burn"]),
    ("dev", &["domain", "wire"], &["axum", "burn"]),
    (
        "config",
        &["domain", "data", "engine", "gpu", "guard", "orchestrator", "worker", "telemetry", "grpc", "http"],
        &["tokio", "burn"],
    ),
    (
        "app",
        &[
            "config",
            "domain",
            "data",
            "engine",
            "gpu",
            "grpc",
            "guard",
            "http",
            "orchestrator",
            "telemetry",
            "wire",
            "worker",
        ],
        &["burn"],
    ),
    (
        "cli",
        &[
            "app",
            "config",
            "dev",
            "domain",
            "data",
            "engine",
            "gpu",
            "guard",
            "orchestrator",
            "telemetry",
            "wire",
            "worker",
        ],
        &["burn"],
    ),
    ("main", &["app", "cli", "config"], &["tonic", "axum", "burn"]),
];

/// Rooms that see generated protobuf types.
const SEES_PROTOBUF: &[&str] = &["wire", "orchestrator", "grpc", "dev", "cli"];

/// Longest file in lines. Beyond that it has more than one purpose.
const MOST_LINES: usize = 500;

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `src/worker/state.rs` belongs to `worker`.
fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn is_test_file(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem == "properties")
        || path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "properties")
}

/// The code of a file without comments and without its inner test modules.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Names that follow `prefix` in `code`, groups included: `use crate::{a, b::c}` gives a and b.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (position, _) in code.match_indices(prefix) {
        let rest = &code[position + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    names.insert(word(item.trim()));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        names.insert(word(item.trim()));
    }
    names.remove("");
    names
}

#[test]
fn the_parser_of_this_test_sees_groups_and_paths() {
    let seen = names_after("use crate::{domain::{A, B}, wire};\nlet x = crate::data::load();", "crate::");
    assert_eq!(seen, BTreeSet::from(["data", "domain", "wire"].map(str::to_owned)));
}

#[test]
fn rooms_import_only_whom_they_may() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for path in source_files(&root().join("src")) {
        let room = room_of(&path);
        if room == "lib" || is_test_file(&path) {
            continue;
        }
        let code = code(&path);
        let (_, rooms, crates) = ROOMS
            .iter()
            .find(|(name, ..)| *name == room)
            .unwrap_or_else(|| panic!("{} belongs to no room of the table", path.display()));
        let prefix = if room == "main" { "tensorfleet_worker::" } else { "crate::" };
        for imported in names_after(&code, prefix) {
            let is_room = ROOMS.iter().any(|(name, ..)| *name == imported);
            if is_room && imported != room && !rooms.contains(&imported.as_str()) {
                wrong.push(format!("{}: {room} may not import {imported}", path.display()));
            }
        }
        for name in *crates {
            if names_after(&code, "use ").contains(*name) || code.contains(&format!(" {name}::")) {
                wrong.push(format!("{}: {room} may not use the crate {name}", path.display()));
            }
        }
        if !SEES_PROTOBUF.contains(&room.as_str()) && (code.contains("pb::") || code.contains("wire::{pb")) {
            wrong.push(format!("{}: {room} may not see generated types", path.display()));
        }
        checked += 1;
    }
    assert!(checked > 30, "only {checked} files were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_have_one_purpose_and_say_it() {
    let mut wrong = Vec::new();
    let folders = [root().join("src"), root().join("kernels/src"), root().join("tests")];
    for path in folders.iter().flat_map(|folder| source_files(folder)) {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{} has {lines} lines; allowed: {MOST_LINES}", path.display()));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not begin with a line that says what it is for", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn main_and_the_map_stay_small() {
    for (file, most) in [("src/main.rs", 120), ("src/lib.rs", 80)] {
        let lines = fs::read_to_string(root().join(file)).unwrap().lines().count();
        assert!(lines <= most, "{file} has {lines} lines; allowed: {most}");
    }
}
