//! The examples, run as a reader would run them.

use std::{
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Failure, cargo};

/// Examples that serve until they are stopped: built like the others, not run.
const ENDLESS: &[&str] = &["axum"];

/// Longer than any example takes: reaching it means that the example hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// An example that cargo has built.
#[derive(Debug, PartialEq)]
struct Example {
    name: String,
    program: PathBuf,
}

/// Builds all examples of the workspace and runs those that end by themselves.
pub(crate) fn run() -> Result<(), Failure> {
    let examples = build()?;
    if let Some(unknown) = ENDLESS.iter().find(|name| examples.iter().all(|e| e.name != **name)) {
        return Err(format!("there is no example {unknown}, but it is listed as endless").into());
    }
    for example in &examples {
        if ENDLESS.contains(&example.name.as_str()) {
            println!("example {}: built (it serves until stopped)", example.name);
        } else {
            println!("example {}", example.name);
            example.run()?;
        }
    }
    Ok(())
}

/// Asks cargo, who alone knows which examples there are and where their programs lie.
fn build() -> Result<Vec<Example>, Failure> {
    let mut build = cargo::command("build");
    build.args(["--workspace", "--all-features", "--examples"]);
    // The same features as the tests, so that nothing is compiled twice.
    build.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = build.output()?;
    if !output.status.success() {
        return Err(format!("{}: {}", cargo::line(&build), output.status).into());
    }
    let mut examples: Vec<Example> = String::from_utf8(output.stdout)?.lines().filter_map(parse).collect();
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(examples)
}

/// One line of cargo's messages, if it tells of an example's program.
fn parse(message: &str) -> Option<Example> {
    if !message.contains(r#""kind":["example"]"#) {
        return None;
    }
    let program = PathBuf::from(text(message, r#""executable":""#)?);
    Some(Example { name: program.file_stem()?.to_str()?.to_owned(), program })
}

/// The JSON string that begins after `start`.
fn text(message: &str, start: &str) -> Option<String> {
    let mut chars = message.split_once(start)?.1.chars();
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            // A path holds no control characters worth caring for: what follows stands for itself.
            '\\' => text.push(chars.next()?),
            c => text.push(c),
        }
    }
}

impl Example {
    fn run(&self) -> Result<(), Failure> {
        let mut child = Command::new(&self.program).stdin(Stdio::null()).spawn()?;
        match wait(&mut child)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("example {}: {status}", self.name).into()),
            None => {
                child.kill()?;
                child.wait()?;
                Err(format!("example {} has not ended after {PATIENCE:?}", self.name).into())
            }
        }
    }
}

/// How the child ended, or `None` if it has not when patience is over.
fn wait(child: &mut Child) -> Result<Option<ExitStatus>, Failure> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_read_from_messages() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["example"],"name":"quickstart"},"executable":"/t/debug/examples/quickstart","fresh":true}"#;
        let example = Example { name: "quickstart".into(), program: "/t/debug/examples/quickstart".into() };
        assert_eq!(parse(message), Some(example));
    }

    #[test]
    fn other_messages_are_passed_over() {
        assert_eq!(parse(r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}"#), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn escapes_stand_for_what_follows() {
        assert_eq!(text(r#"{"executable":"C:\\t\\q \"x\"","#, r#""executable":""#).as_deref(), Some(r#"C:\t\q "x""#));
    }

    fn example(program: &str) -> Example {
        Example { name: "it".into(), program: program.into() }
    }

    #[test]
    fn a_failing_example_fails_the_run() {
        assert!(example("true").run().is_ok());
        let failure = example("false").run().unwrap_err().to_string();
        assert!(failure.starts_with("example it: "), "{failure}");
    }
}
