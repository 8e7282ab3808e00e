//! Directories, files and names that are not what they should be.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    process::Command as Program,
    time::Duration,
};

use tasklock::{
    AsyncLock as _, Attempt, BackendError, Claim, FileLock, Intent, LocalConfig, LocalError, Locker, SocketLock,
    wall_micros,
};
use tasklock_tests::{
    local::{files, is_free, request, with_ending},
    processes::Worker,
    servers::Folder,
    worker,
};
use tokio::process::Command;

const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn open(path: &Path) -> Result<FileLock, LocalError> {
    FileLock::open(&LocalConfig::new().directory(path))
}

/// What a worker says that is started with these variables.
async fn said<'a>(variables: impl IntoIterator<Item = (&'a str, &'a Path)>) -> String {
    let mut command = Command::new(worker!());
    command.env_remove("TASKLOCK_URL").env_remove("XDG_RUNTIME_DIR").envs(variables);
    Worker::spawn(command).answer().await
}

#[tokio::test]
async fn the_default_directory_is_the_users_own() {
    let folder = Folder::new();
    let own = folder.file("tasklock");
    // Nothing names a store: `file:`.
    assert_eq!(said([("XDG_RUNTIME_DIR", folder.path())]).await, "ready");
    assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
    assert_eq!(said([("XDG_RUNTIME_DIR", folder.path()), ("TASKLOCK_URL", Path::new("socket:"))]).await, "ready");
    assert_eq!(with_ending(&own, "sock").len(), 1);
    // Without a place of its own, or with one that is none, it is in the temporary directory.
    let named = folder.file(&format!("tasklock-{}", rustix::process::geteuid().as_raw()));
    assert_eq!(said([("XDG_RUNTIME_DIR", Path::new("relative")), ("TMPDIR", folder.path())]).await, "ready");
    assert_eq!(fs::metadata(&named).unwrap().mode() & 0o777, 0o700);

    for (mode, shown) in [(0o755, "755"), (0o770, "770"), (0o701, "701")] {
        set_mode(&named, mode);
        let refused = said([("TMPDIR", folder.path())]).await;
        assert!(refused.starts_with("failed false") && refused.contains(shown), "{refused}");
    }
    fs::remove_dir_all(&named).unwrap();
    let elsewhere = folder.file("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    set_mode(&elsewhere, 0o700);
    symlink(&elsewhere, &named).unwrap();
    let refused = said([("TMPDIR", folder.path())]).await;
    assert!(refused.starts_with("failed false") && refused.contains("a link"), "{refused}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "followed a link");
}

#[test]
fn directories_that_others_could_write_are_refused() {
    let folder = Folder::new();
    for mode in [0o777, 0o1777, 0o770, 0o702] {
        set_mode(folder.path(), mode);
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(&error, LocalError::Rights { mode: found, .. } if *found == mode & 0o777), "{error}");
    }
    set_mode(folder.path(), 0o755);
    open(folder.path()).unwrap();

    // One of another user: made so if we may, else one of the system's.
    let other = if is_root() { folder.file("other") } else { "/usr".into() };
    if is_root() {
        fs::create_dir(&other).unwrap();
        chown(&other, Some(NOBODY), None).unwrap();
    }
    let error = open(&other).unwrap_err();
    assert!(matches!(&error, LocalError::Owner { .. }), "{error}");
    assert!(!error.is_retryable() && error.to_string().contains(&other.display().to_string()));
}

#[tokio::test]
async fn places_that_are_no_directories_are_refused() {
    let folder = Folder::new();
    let file = folder.file("file");
    fs::write(&file, "a file").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open(&path).unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        assert!(matches!(error, LocalError::NotADirectory { .. } | LocalError::Io { .. }), "{error}");
    }
    open(&folder.file("made/with/parents")).unwrap();
    assert_eq!(fs::metadata(folder.file("made/with")).unwrap().mode() & 0o777, 0o700);

    let long = folder.file(&"x".repeat(100));
    open(&long).unwrap();
    let error = SocketLock::open(&LocalConfig::new().directory(&long)).await.unwrap_err();
    let LocalError::TooLong { len, max, .. } = error else { panic!("{error}") };
    assert!(len > 100 && max < 75, "{len} {max}");
    // As long as it may be.
    let fits = folder.file(&"x".repeat(max - folder.path().as_os_str().len() - 1));
    SocketLock::open(&LocalConfig::new().directory(&fits)).await.unwrap();
}

#[test]
fn sockets_need_a_runtime() {
    let folder = Folder::new();
    let config = LocalConfig::new().directory(folder.path());
    let error = futures_executor::block_on(SocketLock::open(&config)).unwrap_err();
    assert!(matches!(error, LocalError::NoRuntime), "{error}");
}

/// Root may write everywhere, so this is tried as somebody else.
#[tokio::test]
async fn directories_that_cannot_be_written_are_refused() {
    let folder = Folder::new();
    set_mode(folder.path(), 0o755);
    let (locks, program) = (folder.file("locks"), folder.file("worker"));
    fs::copy(worker!(), &program).unwrap();
    fs::create_dir(&locks).unwrap();
    let command = || {
        let mut command = Command::new(&program);
        command.env("TASKLOCK_URL", format!("file://{}", locks.display()));
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    if is_root() {
        chown(&locks, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    set_mode(&locks, 0o500);
    let refused = Worker::spawn(command()).answer().await;
    assert!(refused.starts_with("failed false") && refused.contains("cannot be written"), "{refused}");

    // And one whose rights are taken away later.
    set_mode(&locks, 0o700);
    let mut worker = Worker::spawn(command());
    assert_eq!(worker.answer().await, "ready");
    worker.number("try first", "taken").await;
    set_mode(&locks, 0o500);
    let refused = worker.ask("try second").await;
    assert!(refused.starts_with("failed false cannot open"), "{refused}");
    assert_eq!(worker.ask("drop first").await, "Released");
    set_mode(&locks, 0o700);
    worker.number("try second", "taken").await;
}

/// Nothing is granted that could not be written down; it may be later.
#[tokio::test]
async fn a_full_disk_and_no_descriptors_grant_nothing() {
    let folder = Folder::new();
    let limited = |limit: &str| {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{limit}; exec \"$0\"")).arg(worker!());
        command.env("TASKLOCK_URL", format!("file://{}", folder.path().display()));
        Worker::spawn(command)
    };
    let mut full = limited("trap '' XFSZ; ulimit -f 0");
    assert_eq!(full.answer().await, "ready");
    let refused = full.ask("try job").await;
    assert!(refused.starts_with("failed true cannot write"), "{refused}");
    assert!(is_free(folder.path()), "a lock that could not be written down is held");

    // Enough for it to keep files open for later, until it has no descriptors left.
    let mut poor = limited("ulimit -n 256");
    assert_eq!(poor.answer().await, "ready");
    let (mut taken, mut refused) = (0, String::new());
    while refused.is_empty() {
        let answer = poor.ask(&format!("try job:{taken}")).await;
        if answer.starts_with("taken") {
            taken += 1;
        } else {
            refused = answer;
        }
    }
    assert!(refused.starts_with("failed true cannot open"), "{refused}");
    assert!(taken > 4, "{taken}");
    assert_eq!(poor.ask("drop job:0").await, "Released");
    // Asking needs one as well, and breaking three: room is made for both.
    assert_eq!(poor.ask("inspect job:1").await, format!("held {}", poor.pid()));
    assert_eq!(poor.ask("drop job:1").await, "Released");
    assert_eq!(poor.ask("drop job:2").await, "Released");
    assert_eq!(poor.ask("drop job:3").await, "Released");
    assert_eq!(poor.ask("break job:4").await, "broken");
    poor.number(&format!("try job:{taken}"), "taken").await;
}

/// Files are kept open for later only where many may be open.
#[tokio::test]
async fn few_descriptors_are_not_kept() {
    let folder = Folder::new();
    for (limit, kept) in [(128, 0), (1024, 1)] {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\"")).arg(worker!());
        command.env("TASKLOCK_URL", format!("file://{}", folder.path().display()));
        let mut worker = Worker::spawn(command);
        assert_eq!(worker.answer().await, "ready");
        let before = worker.number("descriptors", "").await;
        worker.number("try job", "taken").await;
        assert_eq!(worker.ask("drop job").await, "Released");
        assert_eq!(worker.number("descriptors", "").await, before + kept, "of {limit}");
    }
}

/// What stands at a lock's place is neither followed, nor opened, nor written over.
#[tokio::test]
async fn things_planted_at_a_locks_place() {
    let folder = Folder::new();
    let locks = folder.file("locks");
    let store = open(&locks).unwrap();
    let (victim, empty) = (folder.file("victim"), folder.file("empty"));
    fs::write(&victim, "precious").unwrap();
    fs::write(&empty, "").unwrap();
    symlink(&victim, locks.join("link.lock")).unwrap();
    symlink(&empty, locks.join("link-to-empty.lock")).unwrap();
    symlink(folder.file("nothing"), locks.join("dangling.lock")).unwrap();
    fs::create_dir(locks.join("directory.lock")).unwrap();
    assert!(Program::new("mkfifo").arg(locks.join("pipe.lock")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(locks.join("socket.lock")).unwrap();
    for (key, kind) in [
        ("link", "a link"),
        ("link-to-empty", "a link"),
        ("dangling", "a link"),
        ("directory", "a directory"),
        ("pipe", "a pipe"),
        ("socket", "a socket"),
    ] {
        let outcome = store.try_acquire(&request(key, Intent::Try)).await;
        let error = outcome.expect_err(key);
        let NotAFile(found) = not_a_file(&error);
        assert_eq!(found, kind, "{key}");
        assert!(!error.is_retryable());
        store.inspect(&request(key, Intent::Try).key).await.expect_err(key);
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fs::read_to_string(&empty).unwrap(), "");
    assert!(!folder.file("nothing").exists());
}

struct NotAFile(&'static str);

fn not_a_file(error: &BackendError) -> NotAFile {
    match typed(error) {
        LocalError::NotAFile { kind, .. } => NotAFile(kind),
        other => panic!("{other}"),
    }
}

fn typed(error: &BackendError) -> &LocalError {
    std::error::Error::source(error).and_then(|source| source.downcast_ref()).expect("a typed error behind it")
}

#[tokio::test]
async fn what_others_wrote_is_left_alone() {
    let folder = Folder::new();
    let store = files(folder.path());
    for (content, says) in [
        ("#!/bin/sh\nrm -rf /\n", "is not a lock file"),
        ("tasklock 2\nwho knows\n", "is of format 2"),
        ("tasklock 1\ntoken 18446744073709551615\ncheck 1fcac0240237cd5d\n", "used up its fencing tokens"),
        ("\0\u{1}\0\0an image", "is not a lock file"),
        (&"\0".repeat(1 << 20), "is not a lock file"),
    ] {
        fs::write(folder.file("job.lock"), content).unwrap();
        let error = store.try_acquire(&request("job", Intent::Try)).await.unwrap_err();
        assert!(error.to_string().contains(says) && !error.is_retryable(), "{error}");
        assert_eq!(fs::read_to_string(folder.file("job.lock")).unwrap(), content);
        assert!(is_free(folder.path()), "kept a lock it did not grant");
    }
}

async fn token(store: &FileLock) -> u64 {
    let request = request("job", Intent::Try);
    let Ok(Attempt::Granted(grant)) = store.try_acquire(&request).await else { panic!("a free key") };
    store.release(&Claim::of(&request)).await.unwrap();
    grant.token.unwrap().get()
}

/// The clock seeds tokens, and makes up for what is lost; a clock that was set back lowers none.
#[tokio::test]
async fn tokens_rise_whatever_is_in_the_file() {
    let folder = Folder::new();
    let (store, file) = (files(folder.path()), folder.file("job.lock"));
    let before = wall_micros();
    let first = token(&store).await;
    assert!((before..=wall_micros()).contains(&first), "{first}");
    let whole = fs::read(&file).unwrap();
    for lost in [&b""[..], &whole[..whole.len() / 2], &whole[..3], &[0; 300], b"tasklock 1\ntoken 77\n"] {
        fs::write(&file, lost).unwrap();
        let before = wall_micros();
        assert!(token(&store).await >= before, "{lost:?}");
    }
    let ahead = 1 << 62;
    fs::write(&file, format!("tasklock 1\ntoken {ahead}\ncheck c19f479d60722457\n")).unwrap();
    assert_eq!([token(&store).await, token(&store).await], [ahead + 1, ahead + 2]);
    fs::remove_file(&file).unwrap();
    assert!(token(&store).await >= before, "after the file was removed, from the clock");
}

#[tokio::test]
async fn names_stay_in_the_directory() {
    let folder = Folder::new();
    let locks = folder.file("locks");
    let lock = Locker::builder(open(&locks).unwrap()).prefix("").build().unwrap();
    let long = "Ж".repeat(256);
    let names =
        ["../escape", "/etc/passwd", ".", "..", "...", "a/../b", "~", "CON", "nul.lock", "-rf", &long, " ", "%2e"];
    let mut guards = Vec::new();
    for name in names {
        guards.push(lock.try_acquire(name).await.unwrap().unwrap_or_else(|| panic!("{name:?} is another")));
    }
    let found = with_ending(&locks, "lock");
    assert_eq!(found.len(), names.len(), "each has a file of its own, here");
    assert!(found.iter().all(|path| path.file_name().unwrap().len() <= 143), "{found:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and none outside");
}

/// What others read is escaped, cut, and not mistaken for another line.
#[tokio::test]
async fn owners_of_any_name() {
    let folder = Folder::new();
    for name in ["plain", "two\nlines\ntoken 1", "50 % off \u{85}", &"ж".repeat(5000), ""] {
        let lock = Locker::builder(files(folder.path())).owner_name(name).build().unwrap();
        let guard = lock.acquire("job").await.unwrap();
        let seen = lock.inspect("job").await.unwrap().holder.unwrap();
        let (seen, token) = (seen.owner.name().to_owned(), seen.token);
        assert!(name.starts_with(&seen) && (seen == name || seen.len() > 300), "{seen:?}");
        assert_eq!(token, Some(guard.fencing_token()));
        guard.release().await.unwrap();
    }
}

/// Somebody who locks the file by other means is a holder of whom nothing is known.
#[tokio::test]
async fn a_stranger_with_the_lock() {
    let folder = Folder::new();
    let lock = Locker::builder(files(folder.path())).prefix("").build().unwrap();
    let stranger = fs::File::create(folder.file("job.lock")).unwrap();
    rustix::fs::flock(&stranger, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = lock.key("job").wait(Duration::from_millis(20)).acquire().await.unwrap_err();
    assert!(error.is_contended() && error.to_string().contains("unknown"), "{error}");
    assert!(!lock.inspect("job").await.unwrap().is_free());
    drop(stranger);
    lock.acquire("job").await.unwrap().release().await.unwrap();
}
