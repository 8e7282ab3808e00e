//! The locks of the Python package `locking`, each kind in an interpreter of its own.

use std::{
    cell::RefCell,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use tokio::runtime::Runtime;

use crate::subject::{Contended, Entrant, Failure, Walk};

const PACKAGE: &str = "locking==1.1.6";
/// Every line it reads is a round: how many locks, how many cycles. It answers with nanoseconds per cycle.
const SCRIPT: &str = "\
import random, sys, time
from locking import FileLock, SocketLock
FileLock.lockdir = sys.argv[2]
make = {'file': FileLock, 'socket': SocketLock}[sys.argv[1]]
for line in sys.stdin:
    keys, cycles = map(int, line.split())
    locks = [make(lockname=f'{sys.argv[3]}-{key}') for key in range(keys)]
    random.Random(7).shuffle(locks)
    start = time.perf_counter_ns()
    for cycle in range(cycles):
        lock = locks[cycle % keys]
        lock.acquire()
        lock.release()
    print((time.perf_counter_ns() - start) / cycles, flush=True)
";

/// Installs the package into a folder of its own in `folder`, where the locks' files will be, too. What went wrong is told
/// in words for the report.
pub(crate) fn all(folder: &Path) -> Result<Vec<Box<dyn Entrant>>, String> {
    let packages = folder.join("python");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--target"]);
    pip.arg(&packages).arg(PACKAGE).stdin(Stdio::null()).stdout(Stdio::null());
    let missing =
        |why: String| format!("Not measured: locking, from PyPI ({why}). It needs python3 with pip, and an index.");
    let output = pip.output().map_err(|e| missing(format!("python3: {e}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(missing(said.lines().last().unwrap_or("pip failed").to_owned()));
    }
    let start = |name, kind| Python::start(name, kind, folder, &packages).map_err(|e| missing(e.to_string()));
    Ok(vec![start("locking (Python), FileLock", "file")?, start("locking (Python), SocketLock", "socket")?])
}

/// An interpreter that locks. It ends with its input.
struct Python {
    name: &'static str,
    child: Child,
    talk: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Python {
    fn start(name: &'static str, kind: &str, folder: &Path, packages: &Path) -> Result<Box<dyn Entrant>, Failure> {
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT, kind]).arg(folder).arg(format!("tasklock-bench-{}", std::process::id()));
        let mut child = command.env("PYTHONPATH", packages).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        Ok(Box::new(Python { name, child, talk: RefCell::new((stdin, BufReader::new(stdout))) }))
    }
}

impl Entrant for Python {
    fn name(&self) -> &str {
        self.name
    }

    fn uncontended(&self, walk: Walk) -> Result<f64, Failure> {
        let (stdin, stdout) = &mut *self.talk.borrow_mut();
        writeln!(stdin, "{} {}", walk.keys, walk.cycles)?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    fn contended(&self, _: &Runtime, _: Duration) -> Result<Contended, Failure> {
        Err("Python's locks are measured without contention only".into())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
