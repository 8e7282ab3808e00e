//! Packages from PyPI, installed into a folder of their own, and interpreters that use them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{apart::Apart, subject::Failure};

#[derive(Debug)]
pub(crate) struct Python {
    packages: PathBuf,
}

impl Python {
    /// Installs these, and nothing that they are not made of: all of it is named, with its version. What went wrong is told
    /// in words for the report.
    pub(crate) fn with(folder: &Path, packages: &[&str]) -> Result<Self, String> {
        let target = folder.join("python");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--target"]);
        pip.arg(&target).args(packages).stdin(Stdio::null()).stdout(Stdio::null());
        let missing = |why: &str| {
            let named = packages.join(", ");
            format!("Not measured: {named}, from PyPI ({why}). It needs python3 with pip, and an index.")
        };
        let output = pip.output().map_err(|e| missing(&format!("python3: {e}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(missing(said.lines().last().unwrap_or("pip failed")));
        }
        Ok(Python { packages: target })
    }

    /// An interpreter that runs this.
    pub(crate) fn run(&self, script: &str, arguments: &[&str]) -> Result<Apart, Failure> {
        let mut command = Command::new("python3");
        command.args(["-c", script]).args(arguments);
        Apart::start(command.env("PYTHONPATH", &self.packages))
    }
}
