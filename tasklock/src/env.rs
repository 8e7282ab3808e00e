//! A locker from the environment.

use std::{env, ffi::OsString};

use tasklock_core::{InvalidUrl, LockError, Locker};

use crate::connect;

/// Connects to the store that the environment names in `TASKLOCK_URL`: see [`connect`] for what it may be. If it is not
/// set, and the feature `local` is on, the locks are files of this machine, as for `file:`.
///
/// # Errors
///
/// [`LockError::InvalidUrl`] if it is not text, or if it is not set and the feature `local` is off: a service that falls
/// back to locks of its own process, in silence, lets every other instance in. Else as [`connect`].
///
/// # Cancel safety
///
/// As [`connect`].
pub async fn from_env() -> Result<Locker, LockError> {
    connect(address(env::var_os(URL))?).await
}

const URL: &str = "TASKLOCK_URL";

fn address(value: Option<OsString>) -> Result<String, InvalidUrl> {
    let value = value.map_or_else(fallback, Ok)?;
    value.into_string().map_err(|_| InvalidUrl::new(URL, "is not UTF-8"))
}

/// The store if none is named.
fn fallback() -> Result<OsString, InvalidUrl> {
    if cfg!(feature = "local") {
        return Ok("file:".into());
    }
    Err(InvalidUrl::new(URL, "is not set; it names the store, or is `memory:` for locks within one process"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing() {
        if cfg!(feature = "local") {
            assert_eq!(address(None).unwrap(), "file:");
        } else {
            assert!(address(None).unwrap_err().to_string().contains("TASKLOCK_URL"));
        }
        assert_eq!(address(Some("memory:".into())).unwrap(), "memory:");
    }
}
