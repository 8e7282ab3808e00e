//! The example `quickstart`, run as a reader would run it.

use std::{
    env,
    path::PathBuf,
    process::{Command, Output},
};

/// Runs it with locks by this address.
pub(crate) fn run(url: &str) -> Output {
    Command::new(program()).env("TASKLOCK_URL", url).output().expect("the example runs")
}

/// It shows on a store of this name what it shows in memory.
pub(crate) fn shows_the_same(url: &str, store: &str) {
    let output = run(url);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
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

/// `cargo test` builds the examples of a package before it runs its tests, unless it is told which targets to build.
fn program() -> PathBuf {
    let test = env::current_exe().expect("this program's path");
    let program = test.ancestors().nth(2).expect("a target folder").join("examples").join("quickstart");
    assert!(program.is_file(), "{} is missing: build it by `cargo build --examples`", program.display());
    program
}
