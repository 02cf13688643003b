//! docs/guarantees.md names tests that exist, and all that are here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names of the tests in a file.
fn tests_of(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if is_test && let Some((_, rest)) = line.split_once("fn ") {
            names.extend(rest.split(['(', '<']).next().map(str::to_owned));
            is_test = false;
        }
    }
    // Those of proptest! stand in a macro.
    if text.contains("proptest! {") {
        let inside = text.split("proptest! {").skip(1).flat_map(|part| part.split("fn ").skip(1));
        names.extend(inside.filter_map(|part| part.split('(').next()).map(|name| name.trim().to_owned()));
    }
    names
}

#[test]
fn every_guarantee_names_a_test_that_exists_and_every_test_stands_for_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let mut named = BTreeSet::new();
    let mut rows = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault")) {
        rows += 1;
        let references: Vec<_> = row.split('`').filter(|part| part.contains(".rs::")).collect();
        assert!(!references.is_empty(), "no test beside: {row}");
        for reference in references {
            let (file, name) = reference.split_once("::").unwrap();
            let tests = tests_of(&root.join(file));
            assert!(tests.contains(name), "{reference} does not exist; {file} has {tests:?}");
            named.insert(reference.to_owned());
        }
    }
    assert!(rows > 20, "{rows} rows");
    for entry in fs::read_dir(root.join("tests/faults")).unwrap() {
        let path = entry.unwrap().path();
        let file = format!("tests/faults/{}", path.file_name().unwrap().to_str().unwrap());
        for name in tests_of(&path) {
            let reference = format!("{file}::{name}");
            assert!(file.ends_with("table.rs") || named.contains(&reference), "{reference} stands in no row");
        }
    }
}
