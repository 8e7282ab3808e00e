//! Telling waiters of other processes that a lock was given back: one socket a process, on which they ask.
//!
//! A waiter connects, says in 16 bytes which hold it waits for, and reads. The end of the connection is the news: the
//! holder ends it when it has released, when it does not have that hold, or by its death. Nothing else is ever sent.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use tasklock_core::Nonce;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixSocket, UnixStream},
    runtime::Handle,
    task::AbortHandle,
};

use crate::{
    LocalError,
    directory::Directory,
    store::{Store, lock},
};

const ENDING: &str = "sock";
/// The longest path that the system takes for a socket, with the byte that ends it.
const LONGEST_PATH: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 108 } else { 104 };
/// As many processes may be waiting to be attended to; the system may allow fewer. Those beyond are told so, and ask
/// again.
const BACKLOG: u32 = 4096;
/// A holder that cannot be asked is about to die or overwhelmed: until then, ask the lock.
const UNREACHABLE: Duration = Duration::from_millis(10);
/// A process that is out of descriptors attends to nobody for so long.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// The socket of this process, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waker {
    path: PathBuf,
    /// The last part of it.
    name: Arc<str>,
    waiting: Arc<Waiting>,
    serving: OnceLock<AbortHandle>,
    pid: u32,
}

/// Those who wait for this process, by the hold they wait for.
#[derive(Debug, Default)]
struct Waiting(Mutex<HashMap<Nonce, Vec<Arc<UnixStream>>>>);

impl Waker {
    /// Makes a socket, and removes those of the dead.
    pub(crate) async fn bind(directory: &Directory) -> Result<(Self, UnixListener), LocalError> {
        // Without one, tokio would panic.
        Handle::try_current().map_err(|_| LocalError::NoRuntime)?;
        let path = directory.fresh(ENDING);
        let (len, most) = (path.as_os_str().as_bytes().len(), LONGEST_PATH - 1);
        if len > most {
            let (path, own) = (directory.path().to_owned(), directory.path().as_os_str().as_bytes().len());
            return Err(LocalError::TooLong { path, len: own, max: most - (len - own) });
        }
        let io = |what, source| LocalError::Io { what, path: path.clone(), source };
        sweep(directory.path()).await.map_err(|e| io("sweep the directory of", e))?;
        // Under its own name only once it listens: who refuses under that is dead.
        let unready = directory.fresh("bind");
        let listen = || {
            let socket = UnixSocket::new_stream()?;
            socket.bind(&unready)?;
            fs::set_permissions(&unready, fs::Permissions::from_mode(0o600))?;
            let listener = socket.listen(BACKLOG)?;
            fs::rename(&unready, &path)?;
            Ok(listener)
        };
        match listen() {
            Ok(listener) => {
                let (waiting, serving) = (Arc::default(), OnceLock::new());
                let name = path.file_name().map(|name| name.to_string_lossy().into()).unwrap_or_default();
                Ok((Waker { path, name, waiting, serving, pid: process::id() }, listener))
            }
            Err(e) => {
                let _ = fs::remove_file(&unready);
                Err(io("listen on", e))
            }
        }
    }

    /// Attends to waiters as long as the store is there.
    pub(crate) fn serve(&self, listener: UnixListener, store: Weak<Store>) {
        let task = tokio::spawn(serve(listener, self.waiting.clone(), store));
        let _ = self.serving.set(task.abort_handle());
    }

    /// What others find this process by; nothing in a forked child, whose waiters nobody would attend to.
    pub(crate) fn name(&self, pid: u32) -> Option<Arc<str>> {
        (self.pid == pid).then(|| self.name.clone())
    }

    /// Whether this names a socket, and nothing outside of the directory.
    pub(crate) fn is_name(name: &str) -> bool {
        let digits = name.strip_suffix(ENDING).and_then(|name| name.strip_suffix('.'));
        digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// Tells all who wait for this hold that it has ended. Works on any thread, outside a runtime too.
    pub(crate) fn tell(&self, nonce: Nonce) {
        let waiting = lock(&self.waiting.0).remove(&nonce);
        end(waiting.iter().flatten());
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if self.pid != process::id() {
            return;
        }
        if let Some(serving) = self.serving.get() {
            serving.abort();
        }
        let _ = fs::remove_file(&self.path);
        end(lock(&self.waiting.0).drain().flat_map(|(_, waiting)| waiting).collect::<Vec<_>>().iter());
    }
}

/// Completes when the hold has ended, or when nothing can be learnt of it.
pub(crate) async fn follow(socket: &Path, nonce: Nonce) {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(&nonce.as_u128().to_be_bytes()).await?;
        Ok::<_, io::Error>(stream)
    };
    match ask.await {
        // An end by an error is an end.
        Ok(mut stream) => drop(stream.read(&mut [0]).await),
        Err(_) => tokio::time::sleep(UNREACHABLE).await,
    }
}

async fn serve(listener: UnixListener, waiting: Arc<Waiting>, store: Weak<Store>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(attend(stream, waiting.clone(), store.clone()))),
            Err(error) => {
                tracing::warn!(target: "tasklock", backend = "socket", "waiters cannot be attended to: {error}");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

/// Keeps one connection until the waiter leaves or the hold ends.
async fn attend(mut stream: UnixStream, waiting: Arc<Waiting>, store: Weak<Store>) {
    let mut nonce = [0; 16];
    if stream.read_exact(&mut nonce).await.is_err() {
        return;
    }
    let (nonce, stream) = (Nonce::from_u128(u128::from_be_bytes(nonce)), Arc::new(stream));
    // Enter first, then look: a release in between finds it, or is found.
    let entered = Entered::new(&waiting, nonce, stream.clone());
    if store.upgrade().is_some_and(|store| store.holds(nonce)) {
        while stream.readable().await.is_ok() {
            if !matches!(stream.try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
    }
    drop(entered);
}

/// A waiter's entry, for as long as its connection is attended to.
struct Entered<'a> {
    waiting: &'a Waiting,
    nonce: Nonce,
    stream: Arc<UnixStream>,
}

impl<'a> Entered<'a> {
    fn new(waiting: &'a Waiting, nonce: Nonce, stream: Arc<UnixStream>) -> Self {
        lock(&waiting.0).entry(nonce).or_default().push(stream.clone());
        Entered { waiting, nonce, stream }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting.0);
        if let Some(streams) = waiting.get_mut(&self.nonce) {
            streams.retain(|stream| !Arc::ptr_eq(stream, &self.stream));
            if streams.is_empty() {
                waiting.remove(&self.nonce);
            }
        }
    }
}

/// Ends connections now, whoever else has them open and whether or not a runtime runs.
fn end<'a>(streams: impl Iterator<Item = &'a Arc<UnixStream>>) {
    for stream in streams {
        let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Both);
    }
}

/// Removes the sockets of processes that were killed.
async fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(Waker::is_name) {
            continue;
        }
        match UnixStream::connect(entry.path()).await {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => drop(fs::remove_file(entry.path())),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record is a file that others may have written: what it names is looked for in the directory and nowhere else.
    #[test]
    fn only_sockets_of_this_directory_are_asked() {
        assert!(Waker::is_name("000102030405060708090a0b0c0d0e0f.sock"));
        let long = format!("{}.sock", "0".repeat(33));
        for name in ["", ".sock", "../000102030405060708090a0b0c0d0.sock", "/run/other.sock", &long, "-"] {
            assert!(!Waker::is_name(name), "{name}");
        }
        assert!(!Waker::is_name("000102030405060708090a0b0c0d0e0f.lock"));
    }
}
