//! Locks between the processes of one machine, without a server: on files, released by the kernel when their holder
//! dies.
//!
//! Most people want the crate `tasklock` with its feature `local`, and `tasklock::connect("file:")` or
//! `tasklock::connect("socket:")`. Both lock the same files, and exclude each other in the same directory; `socket:` also
//! tells waiters when a lock is given back.
//!
//! # Layout
//!
//! One directory, which nobody else may write to:
//!
//! | file | what |
//! |---|---|
//! | `prefix:name.lock` | the lock: `flock` on it is the hold; in it are the last token and who took it |
//! | `prefix:name.gate` | locked for the moment in which one of those who share a lock takes a token, or somebody breaks it |
//! | `*.sock` | one for each process with a [`SocketLock`], named by its records: where waiters are told |
//! | `*.new`, `*.old`, `*.bind` | for moments |
//!
//! Names are escaped, so that they stay in the directory and apart from each other where upper and lower case are the
//! same; long ones are cut and given a hash. Files of locks are never removed: whoever has one open must be able to rely
//! on others finding the same.
//!
//! # Protocol
//!
//! 1. *Acquire*: open the file (not through a link, not for child processes) unless it is open from just before, `flock`
//!    it without waiting, read the last token, write `max(last + 1, wall clock in µs)` and the record, and only then compare the file with the one that
//!    now has this name; if it is another, begin again. Those who share a lock take their tokens behind the gate.
//! 2. *Renew*: compare again; another file, or none, is the loss of the lock.
//! 3. *Release*: unlock, by the process that locked, not by one forked from it; close, or keep the file for whoever here
//!    takes the same lock within a second of its opening. Then end the connections of those who wait for this hold.
//! 4. *Wait* (socket): connect to the socket in the record, name the hold, and read until the end, which comes with the
//!    release, with the holder's death, or at once if it does not have that hold. Then try. A lost message costs a
//!    second. Waiting for a holder that has no socket, or for those who share a lock, is asking every 100 ms.
//! 5. *Break*: behind the gate, a new file with the last token takes the place of the locked one. If meanwhile another holder than the one
//!    meant had locked it, the old file is put back; should that holder look in those microseconds, it believes the lock
//!    lost.
//! 6. *Inspect*: who holds is in the record; whether it still does is found by trying the lock in shared mode. For that
//!    moment others may find it held.
//!
//! # Cost
//!
//! Eight system calls an acquisition and its release, whichever backend, two of which ask for the process's number; eleven
//! if the file is to be opened. Up to 64 files of locks just given back are open, fewer where few are allowed, none when
//! descriptors run out. Files are not synced. A renewal is three calls. A waiter of the socket backend is one connection,
//! made anew every second. The first acquisition of a name makes its file.
//!
//! # Failure modes
//!
//! - *A holder that hangs* keeps its lock until it is killed, or until the lock is broken.
//! - *A forked child* that starts no program has the files open that were open when it was made. It cannot release a
//!   lock, but should the parent be killed, what it held then, or took again by one of these files within a second,
//!   ends with the child.
//! - *A file that is removed or replaced* is a lock that is lost: its holder notices at the next renewal, and until then
//!   there may be two.
//! - *A crash of the machine* may lose the last tokens; they still rise, unless the clock was set back as well.
//! - *A full file system, or no descriptors left*: nothing is granted, and that is told as an error that passes.

#[cfg(unix)]
mod directory;
#[cfg(not(unix))]
mod elsewhere;
#[cfg(unix)]
mod file;
#[cfg(unix)]
mod found;
#[cfg(unix)]
mod idle;
#[cfg(unix)]
mod lock_file;
#[cfg(unix)]
mod name;
#[cfg(unix)]
mod record;
#[cfg(unix)]
mod socket;
#[cfg(unix)]
mod store;
#[cfg(unix)]
mod waker;

mod config;
mod error;

pub use crate::{config::LocalConfig, error::LocalError};

#[cfg(unix)]
pub use crate::{file::FileLock, socket::SocketLock};

#[cfg(not(unix))]
pub use crate::elsewhere::{FileLock, SocketLock};
