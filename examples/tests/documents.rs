//! What the documents name is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// `docs/guarantees.md` says which test shows what.
#[test]
fn the_guarantees_name_tests_that_exist() {
    let named = check("docs/guarantees.md");
    assert!(named > 40, "only {named} tests are named");
}

/// `docs/features.md` says which test shows each feature owed.
#[test]
fn every_feature_names_its_test() {
    check("docs/features.md");
    let text = read("docs/features.md");
    let rows = text.lines().filter_map(|line| {
        let (number, row) = line.strip_prefix("| ")?.split_once(" | ")?;
        Some((number.parse::<usize>().ok()?, row))
    });
    let mut last = 0;
    for (number, row) in rows {
        assert_eq!(number, last + 1, "the features are numbered");
        assert!(tests_named(row).next().is_some(), "feature {number} names no test");
        last = number;
    }
    assert_eq!(last, 37, "features owed");
}

/// `ARCHITECTURE.md` lists the files of the core.
#[test]
fn the_architecture_names_every_file_of_the_core() {
    let text = read("ARCHITECTURE.md");
    for entry in fs::read_dir(root().join("tasklock-core/src")).expect("the core's folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name in UTF-8");
        assert!(text.contains(&format!("`{name}`")) || !name.ends_with(".rs"), "{name} is not in ARCHITECTURE.md");
    }
}

/// The blocks of Rust in the documents are compiled, each with the tests of what it is about, and run where they can be.
#[test]
fn every_page_with_code_is_a_test() {
    let members = ["examples", "tests", "tests/dynamodb", "tests/rabbitmq"];
    let sources = members.map(|member| read(&format!("{member}/src/lib.rs")));
    let pages = fs::read_dir(root().join("docs")).expect("docs").map(|entry| entry.expect("an entry").file_name());
    let pages = pages.map(|name| format!("docs/{}", name.into_string().expect("a name in UTF-8")));
    for page in pages.chain(["README.md".to_owned()]) {
        let included = sources.iter().filter(|source| source.contains(&format!("/{page}\")]"))).count();
        assert_eq!(included, 1, "{page} is included by this many members");
        let skipped = read(&page).lines().any(|line| line.starts_with("```") && line.contains("ignore"));
        assert!(!skipped, "{page} has a block that nothing compiles");
    }
}

/// How many tests the document names, all of which exist.
fn check(document: &str) -> usize {
    let text = read(document);
    let named = tests_named(&text).inspect(|(file, test)| {
        let found = sources(file).iter().any(|code| *test == "*" || has_test(file, code, test));
        assert!(found, "{document}: there is no {file}::{test}");
    });
    named.count()
}

/// Whether this code has the function, as a test; a case of the suite is one if the suite runs it.
fn has_test(file: &str, code: &str, test: &str) -> bool {
    if file == "suite" {
        let listed = |line: &str| line.trim() == test;
        return code.split_once("run! {").is_some_and(|(_, cases)| cases.lines().any(listed));
    }
    let Some((before, _)) = code.split_once(&format!("fn {test}(")) else { return false };
    let Some((before, _)) = before.rsplit_once('\n') else { return false };
    let attributes = before.lines().rev().take_while(|line| !matches!(line.trim(), "" | "}"));
    attributes.filter(|line| line.trim().starts_with("#[")).any(|attribute| attribute.contains("test"))
}

/// Tests are named as `file::function`.
fn tests_named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let words = text.split('`').filter_map(|word| word.split_once("::"));
    words.filter(|(file, _)| file.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '-' || c == '/'))
}

/// The text of `file`: of the conformance suite, of the tests of any package, or of a crate's source.
fn sources(file: &str) -> Vec<String> {
    let packages = ["tests", "tests/dynamodb", "tests/macros", "tests/rabbitmq", "examples"];
    let paths: Vec<PathBuf> = match file {
        "suite" => {
            let folder =
                fs::read_dir(root().join("tasklock-core/src/testing/conformance")).expect("the suite's folder");
            folder.map(|entry| entry.expect("an entry").path()).collect()
        }
        _ if file.contains('/') => vec![root().join(file.replacen('/', "/src/", 1)).with_extension("rs")],
        _ => packages.map(|package| root().join(format!("{package}/tests/{file}.rs"))).into(),
    };
    paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
