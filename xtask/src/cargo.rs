//! Running cargo, and anything else, to its end.

use std::{env, process::Command};

use crate::{Failure, workspace};

/// The cargo that runs us, at the root of the workspace.
pub(crate) fn command(task: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(task).current_dir(workspace());
    command
}

/// Runs a command with our output as its own; anything but success is a failure that names it.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.status().map_err(|e| format!("{}: {e}", line(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", line(command)).into()) }
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command() {
        let failure = run(Command::new("false").arg("x")).unwrap_err().to_string();
        assert!(failure.starts_with("false x: "), "{failure}");
    }

    #[test]
    fn a_missing_program_is_a_failure() {
        let failure = run(&mut Command::new("tasklock-no-such-program")).unwrap_err().to_string();
        assert!(failure.starts_with("tasklock-no-such-program: "), "{failure}");
    }
}
