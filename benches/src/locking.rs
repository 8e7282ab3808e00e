//! The locks of the Python package `locking`, each kind in an interpreter of its own.

use std::{path::Path, time::Duration};

use tokio::runtime::Runtime;

use crate::{
    apart::Apart,
    python::Python,
    subject::{Contended, Entrant, Failure, Walk},
};

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

/// The locks' files will be in `folder`, too. What went wrong is told in words for the report.
pub(crate) fn all(folder: &Path) -> Result<Vec<Box<dyn Entrant>>, String> {
    let python = Python::with(folder, &["locking==1.1.6"])?;
    let (files, prefix) = (folder.to_string_lossy(), format!("tasklock-bench-{}", std::process::id()));
    let start = |name, kind| {
        let apart = python.run(SCRIPT, &[kind, &files, &prefix]).map_err(|e| e.to_string())?;
        Ok::<_, String>(Box::new(Locking { name, apart }) as Box<dyn Entrant>)
    };
    Ok(vec![start("locking (Python), FileLock", "file")?, start("locking (Python), SocketLock", "socket")?])
}

struct Locking {
    name: &'static str,
    apart: Apart,
}

impl Entrant for Locking {
    fn name(&self) -> &str {
        self.name
    }

    fn uncontended(&self, walk: Walk) -> Result<f64, Failure> {
        let nanos = self.apart.ask(&format!("{} {}", walk.keys, walk.cycles))?;
        Ok(*nanos.first().ok_or("no figure")?)
    }

    fn contended(&self, _: &Runtime, _: Duration) -> Result<Contended, Failure> {
        Err("Python's locks are measured without contention only".into())
    }
}
