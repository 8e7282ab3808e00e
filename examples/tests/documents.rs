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
        if !file.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            continue;
        }
        let suite = ["tasklock-core/src/testing/conformance.rs".to_owned()];
        let packages = ["tests", "tests/dynamodb", "tests/macros", "tests/rabbitmq"];
        let files = packages.map(|package| format!("{package}/tests/{file}.rs"));
        let mut code = if file == "suite" { &suite[..] } else { &files }.iter().filter(|path| root.join(path).exists());
        let found = code.any(|path| test == "*" || read(path).contains(&format!("fn {test}(")));
        assert!(found, "there is no {file}::{test}");
        named += 1;
    }
    assert!(named > 40, "only {named} tests are named");
}

/// `ARCHITECTURE.md` lists the files of the core.
#[test]
fn the_architecture_names_every_file_of_the_core() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for entry in fs::read_dir(root.join("tasklock-core/src")).expect("the core's folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name in UTF-8");
        assert!(text.contains(&format!("`{name}`")) || !name.ends_with(".rs"), "{name} is not in ARCHITECTURE.md");
    }
}
