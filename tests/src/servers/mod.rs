//! Real servers, started on free ports in temporary folders, and gone when dropped.

mod certificates;
mod folder;
mod quorum;
mod redis;
mod redis_cluster;
mod redis_newer;
mod redis_sentinel;

pub use self::{
    certificates::make_certificates,
    folder::Folder,
    quorum::RedisQuorum,
    redis::{RedisServer, RedisSettings, connection_to, patient},
    redis_cluster::RedisCluster,
    redis_newer::{Knows, RedisOfVersion},
    redis_sentinel::RedisSentinels,
};

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    iter,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Longer than anything takes that a test waits for; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody listens on, and that nobody else in this process is given: a server that is down would find another
/// in its place.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    // Below those that the system gives to outgoing connections: one of them may be taken before a server binds it.
    let candidate = || 10_000 + u16::try_from(RandomState::new().build_hasher().finish() % 22_000).unwrap_or(0);
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && given.insert(*port);
    iter::repeat_with(candidate).find(is_free).expect("a port")
}

/// Starts a program; one that is missing fails with the name of its package.
fn spawn(program: &str, package: &str, set_up: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new(find(program));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    set_up(&mut command);
    command.spawn().unwrap_or_else(|e| panic!("{program} cannot be started ({e}): install the package {package}"))
}

/// Debian keeps servers where a plain user's PATH does not look.
fn find(program: &str) -> PathBuf {
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(|folder| PathBuf::from(folder).join(program));
    system.into_iter().find(|path| path.is_file()).unwrap_or_else(|| program.into())
}

/// Runs a program to its end, which must be a good one.
fn run(program: &str, package: &str, set_up: impl FnOnce(&mut Command)) {
    let mut child = spawn(program, package, set_up);
    let status = child.wait().expect("a status");
    assert!(status.success(), "{program}: {status}");
}

/// Waits until something is so.
///
/// # Panics
///
/// If it does not become so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not so after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
