//! Tasks of this repository: `cargo xtask <task>`.

mod cargo;
mod examples;
mod programs;

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread::available_parallelism,
};

type Failure = Box<dyn Error>;

const USAGE: &str = "\
usage: cargo xtask <task>

  test           installs the programs the tests need, runs the examples that end
                 by themselves, then every test of the workspace; further
                 arguments go to cargo test
  ci             everything a change has to pass: .ci/run
  bench          measures tasklock and its peers side by side, prints tables and
                 keeps the figures of each part in target/bench; further arguments
                 go to the harness (--quick, --rounds N, --part NAME, --only TEXT,
                 --names N)
  bench --render writes the figures that are kept into docs/benchmarks.md";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let task = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let done = match task.as_deref() {
        Some("test") => test(&rest),
        Some("ci") if rest.is_empty() => ci(),
        Some("bench") => bench(&rest),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// The tests come last, so that what a reader sees at the end is their result.
fn test(arguments: &[String]) -> Result<(), Failure> {
    programs::ensure()?;
    examples::run()?;
    let mut tests = cargo::command("test");
    // Most of the long ones wait for servers that fail over.
    if env::var_os("RUST_TEST_THREADS").is_none() {
        tests.env("RUST_TEST_THREADS", (2 * available_parallelism()?.get()).to_string());
    }
    cargo::run(tests.args(["--workspace", "--all-features"]).args(arguments))
}

fn ci() -> Result<(), Failure> {
    let root = workspace();
    cargo::run(Command::new(root.join(".ci/run")).current_dir(root))
}

fn bench(arguments: &[String]) -> Result<(), Failure> {
    let target = target()?;
    let mut run = cargo::command("run");
    run.args(["--profile", "bench", "--package", "tasklock-benches"]);
    // Only where it is measured: the AWS crates take minutes.
    let part = arguments.iter().position(|word| word == "--part").and_then(|at| arguments.get(at + 1));
    let render = matches!(arguments, [only] if only == "--render");
    let peer = if !render && part.is_none_or(|part| part == "dynamodb") {
        run.args(["--features", "dynamodb"]);
        Some(dynamodb_lock(&target)?)
    } else {
        None
    };
    run.arg("--").arg("--json").arg(target.join("bench")).args(arguments);
    if render {
        run.arg(workspace().join("docs/benchmarks.md"));
    }
    if let Some(peer) = peer {
        run.arg("--dynamodb-lock").arg(peer);
    }
    cargo::run(&mut run)
}

/// Builds the peer that is kept out of the workspace.
fn dynamodb_lock(target: &Path) -> Result<PathBuf, Failure> {
    let (folder, built) = (workspace().join("benches/dynamodb-lock"), target.join("dynamodb-lock"));
    cargo::run(
        cargo::command("build")
            .args(["--release", "--manifest-path"])
            .arg(folder.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&built),
    )?;
    Ok(built.join("release/tasklock-benches-dynamodb-lock"))
}

fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The target folder in use, wherever the environment or a configuration put it: this program lies in it.
fn target() -> Result<PathBuf, Failure> {
    let program = env::current_exe()?;
    Ok(program.ancestors().nth(2).ok_or("xtask does not run from a target folder")?.to_owned())
}
