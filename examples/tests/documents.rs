//! What the documents name is there.

use std::{fs, path::Path};

/// `docs/guarantees.md` says which test shows what, as `file::function`.
#[test]
fn the_guarantees_name_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let text = read("docs/guarantees.md");
    let mut named = 0;
    for (file, test) in text.split('`').filter_map(|word| word.split_once("::")) {
        if !file.chars().all(|c| c.is_ascii_lowercase()) {
            continue;
        }
        let code = match file {
            "suite" => read("tasklock-core/src/testing/conformance.rs"),
            _ => read(&format!("tests/tests/{file}.rs")),
        };
        assert!(test == "*" || code.contains(&format!("fn {test}(")), "there is no {file}::{test}");
        named += 1;
    }
    assert!(named > 40, "only {named} tests are named");
}
