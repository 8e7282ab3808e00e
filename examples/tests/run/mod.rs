//! Examples, run as a reader would run them.

use std::{
    env,
    path::PathBuf,
    process::{Command, Output},
};

/// Runs the example `quickstart` with locks by this address.
pub(crate) fn quickstart(url: &str) -> Output {
    example("quickstart", url)
}

/// It shows on a store of this name what it shows in memory.
pub(crate) fn quickstart_shows_the_same(url: &str, store: &str) {
    let text = shown_by(&quickstart(url));
    for line in [
        &format!("locks by {store}, fencing Strong"),
        "first: gives acme back",
        "held by quickstart@",
        "operator: breaks the lock of acme: Ok(true)",
        "import: body dropped",
        "under token",
        "Done; 0 locks were still held.",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("not what was to be shown"), "{text}");
}

/// Six workers share three licences, each twice, and a tenant gets back the one it had.
pub(crate) fn licences_are_shared(url: &str) {
    let text = shown_by(&example("licences", url));
    assert!(text.starts_with("3 licences\n"), "{text}");
    let taken: Vec<_> = text.lines().filter(|line| line.starts_with("worker ")).collect();
    assert_eq!(taken.len(), 12, "{text}");
    let mut tokens: Vec<u64> = taken.iter().filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 12, "a token of its own each time: {text}");
    let tenant = text.lines().find_map(|line| line.strip_prefix("tenant 7 had ")).expect("the tenant");
    let (had, has) = tenant.split_once(", and has ").expect("twice");
    assert_eq!(has, format!("{had} again"), "{text}");
    assert!(text.contains("ends: 2 are left"), "{text}");
}

fn example(name: &str, url: &str) -> Output {
    Command::new(program(name)).env("TASKLOCK_URL", url).output().expect("the example runs")
}

fn shown_by(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// `cargo test` builds the examples of a package before it runs its tests, unless it is told which targets to build.
fn program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("this program's path");
    let program = test.ancestors().nth(2).expect("a target folder").join("examples").join(name);
    assert!(program.is_file(), "{} is missing: build it by `cargo build --examples`", program.display());
    program
}
