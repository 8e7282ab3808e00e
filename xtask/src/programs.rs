//! Programs the tests start, and where they come from. What is missing is installed or is a failure.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use crate::{Failure, cargo};

/// Every program the tests start: its name, the Debian package that has it, who needs it.
const NEEDED: &[(&str, &str, &str)] = &[
    ("openssl", "openssl", "the tests of TLS"),
    ("rabbitmq-server", "rabbitmq-server", "the tests of RabbitMQ"),
    ("redis-server", "redis-server", "the tests of Redis"),
];

/// A program can be started, or will be after an installation.
#[derive(Debug, Clone, Copy)]
struct Program {
    name: &'static str,
    package: &'static str,
    needed_by: &'static str,
}

impl Program {
    fn is_there(self) -> bool {
        let path = env::var_os("PATH").unwrap_or_default();
        // Debian keeps servers where a plain user's PATH does not look.
        let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(Into::into);
        env::split_paths(&path).chain(system).any(|folder| folder.join(self.name).is_file())
    }

    fn missing(self) -> String {
        let Self { name, package, needed_by } = self;
        format!("{name} is missing, and {needed_by} needs it: install the package {package}")
    }
}

/// Installs what is missing where that can be done: Debian's apt-get, as root.
pub(crate) fn ensure() -> Result<(), Failure> {
    ensure_all(NEEDED.iter().map(|&(name, package, needed_by)| Program { name, package, needed_by }))
}

fn ensure_all(needed: impl Iterator<Item = Program>) -> Result<(), Failure> {
    let missing: Vec<Program> = needed.filter(|program| !program.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if can_install() {
        install(missing.iter().map(|program| program.package))?;
    }
    let still: Vec<String> = missing.iter().filter(|p| !p.is_there()).map(|p| p.missing()).collect();
    if still.is_empty() { Ok(()) } else { Err(still.join("\n").into()) }
}

fn can_install() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    root && Path::new("/usr/bin/apt-get").is_file()
}

fn install(packages: impl Iterator<Item = &'static str>) -> Result<(), Failure> {
    let apt = || {
        let mut apt = Command::new("/usr/bin/apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).arg("--quiet");
        apt
    };
    cargo::run(apt().arg("update"))?;
    cargo::run(apt().args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_on_the_path_is_there() {
        assert!(Program { name: "sh", package: "dash", needed_by: "a test" }.is_there());
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let program = Program { name: "tasklock-no-such", package: "nothing", needed_by: "a test" };
        assert!(!program.is_there());
        assert_eq!(program.missing(), "tasklock-no-such is missing, and a test needs it: install the package nothing");
    }
}
