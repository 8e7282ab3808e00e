//! A locker from the environment.

use std::{env, ffi::OsString, fmt, net::Ipv6Addr, time::Duration};

use tasklock_core::{InvalidOption, InvalidUrl, LockError, Locker, LockerBuilder, Observed, Observer};
use url::Url;

use crate::connect::connect_over;

/// Connects to the store that the environment names.
///
/// | variable | what |
/// |---|---|
/// | `TASKLOCK_URL` | the store's address: see [`connect`](crate::connect) for what it may be |
/// | `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB`, `REDIS_PASSWORD` | without it, a Redis server: any of them is enough, the others are `localhost`, 6379, 0, none |
/// | `DEFAULT_TIMEOUT_SEC` | how many seconds an acquisition waits: 0 (one attempt) to 2592000; for ever if not set |
/// | `DEFAULT_LOCK_DURATION_SEC` | how many seconds a lease lasts without renewal: 0.05 to 86400; 30 if not set |
/// | `IS_DEBUG` | `true`, `1`, `yes`: every wait, grant, renewal, loss and release is logged, at level `info` |
///
/// If none of them names a store, and the feature `local` is on, the locks are files of this machine, as for `file:`.
///
/// What an address says itself goes before what the variables say. An empty variable is one that is not set, but for
/// `TASKLOCK_URL`, which must not be.
///
/// # Errors
///
/// [`LockError::InvalidUrl`] if no store is named and the feature `local` is off: a service that falls back to locks of
/// its own process, in silence, lets every other instance in. [`LockError::InvalidOption`] names a variable that is out of its range, and the range.
/// Else as [`connect`](crate::connect); without the feature `redis`, its name if it is needed.
///
/// # Cancel safety
///
/// As [`connect`](crate::connect).
pub async fn from_env() -> Result<Locker, LockError> {
    let settings = Settings::read(|name| env::var_os(name))?;
    connect_over(&settings.url, |builder| settings.apply(builder)).await?.build()
}

const URL: &str = "TASKLOCK_URL";
const REDIS: [&str; 4] = ["REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_PASSWORD"];
const WAIT: &str = "DEFAULT_TIMEOUT_SEC";
const TTL: &str = "DEFAULT_LOCK_DURATION_SEC";
const DEBUG: &str = "IS_DEBUG";

/// What the environment says.
struct Settings {
    /// May contain a password.
    url: String,
    wait: Option<Duration>,
    ttl: Option<Duration>,
    debug: bool,
}

impl Settings {
    fn read(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, LockError> {
        let text = |name: &'static str| {
            let text = |value: OsString| value.into_string().map_err(|_| InvalidUrl::new(name, "is not UTF-8"));
            var(name).map(text).transpose()
        };
        let given = |name| Ok::<_, InvalidUrl>(text(name)?.filter(|value| !value.is_empty()));
        let url = match text(URL)? {
            Some(url) => url,
            None => {
                let [host, port, db, password] = REDIS.map(given);
                redis(host?, port?, db?, password?)?.map_or_else(fallback, Ok)?
            }
        };
        let wait = given(WAIT)?.map(|value| seconds(WAIT, &value, 0.0, 2_592_000.0)).transpose()?;
        let ttl = given(TTL)?.map(|value| seconds(TTL, &value, 0.05, 86_400.0)).transpose()?;
        let debug = given(DEBUG)?.map(|value| flag(DEBUG, &value)).transpose()?.unwrap_or(false);
        Ok(Settings { url, wait, ttl, debug })
    }

    fn apply(&self, mut builder: LockerBuilder) -> LockerBuilder {
        if let Some(wait) = self.wait {
            builder = builder.wait(wait);
        }
        if let Some(ttl) = self.ttl {
            builder = builder.ttl(ttl);
        }
        if self.debug { builder.observer(Log) } else { builder }
    }
}

/// Without the address.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { wait, ttl, debug, .. } = self;
        f.debug_struct("Settings").field("wait", wait).field("ttl", ttl).field("debug", debug).finish_non_exhaustive()
    }
}

/// The address of the Redis server that these name, if any is given.
fn redis(
    host: Option<String>,
    port: Option<String>,
    db: Option<String>,
    password: Option<String>,
) -> Result<Option<String>, LockError> {
    if [&host, &port, &db, &password].iter().all(|part| part.is_none()) {
        return Ok(None);
    }
    let host = host.unwrap_or_else(|| "localhost".to_owned());
    let wrong = || InvalidOption::new(REDIS[0], &host, "the name or number of a host");
    let bracketed = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.clone() };
    let plain = !host.contains(['/', '@', '?', '#', '\\']);
    let mut url = Url::parse("redis://localhost").map_err(|_| wrong())?;
    if !plain || url.set_host(Some(&bracketed)).is_err() {
        return Err(wrong().into());
    }
    if let Some(port) = port {
        let number = port.parse::<u16>().ok().filter(|port| *port > 0);
        let number = number.ok_or_else(|| InvalidOption::new(REDIS[1], &port, "a port is 1 to 65535"))?;
        url.set_port(Some(number)).map_err(|()| wrong())?;
    }
    if let Some(db) = db {
        let limit = "the number of a database: 0 or more";
        let number = db.parse::<u32>().map_err(|_| InvalidOption::new(REDIS[2], &db, limit))?;
        url.set_path(&number.to_string());
    }
    url.set_password(password.as_deref()).map_err(|()| wrong())?;
    Ok(Some(url.into()))
}

/// The store if none is named.
fn fallback() -> Result<String, InvalidUrl> {
    if cfg!(feature = "local") {
        return Ok("file:".to_owned());
    }
    Err(InvalidUrl::new(URL, "is not set; it names the store, or is `memory:` for locks within one process"))
}

fn seconds(name: &'static str, value: &str, least: f64, most: f64) -> Result<Duration, InvalidOption> {
    let number = value.trim().parse::<f64>().ok().filter(|number| (least..=most).contains(number));
    let duration = number.and_then(|number| Duration::try_from_secs_f64(number).ok());
    duration.ok_or_else(|| InvalidOption::new(name, value, format!("it is {least} to {most} seconds")))
}

fn flag(name: &'static str, value: &str) -> Result<bool, InvalidOption> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(InvalidOption::new(name, value, "it is true or false, 1 or 0, yes or no, on or off")),
    }
}

/// Everything that happens, in the log.
struct Log;

impl Observer for Log {
    fn observe(&self, event: &Observed<'_>) {
        tracing::info!(target: "tasklock", "{event:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Settings, LockError> {
        Settings::read(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    fn url(vars: &[(&str, &str)]) -> String {
        read(vars).unwrap().url
    }

    #[test]
    fn says_what_is_missing() {
        for vars in [&[][..], &[("REDIS_HOST", "")], &[("IS_DEBUG", "1"), ("DEFAULT_TIMEOUT_SEC", "5")]] {
            if cfg!(feature = "local") {
                assert_eq!(url(vars), "file:");
            } else {
                assert!(read(vars).unwrap_err().to_string().contains("TASKLOCK_URL"));
            }
        }
        assert_eq!(url(&[("TASKLOCK_URL", "memory:"), ("REDIS_HOST", "cache")]), "memory:");
        assert_eq!(url(&[("TASKLOCK_URL", ""), ("REDIS_HOST", "cache")]), "", "an address lost is not another one");
    }

    #[test]
    fn what_is_missing_of_redis_has_defaults() {
        assert_eq!(url(&[("REDIS_HOST", "cache")]), "redis://cache");
        assert_eq!(url(&[("REDIS_PORT", "7000")]), "redis://localhost:7000");
        assert_eq!(url(&[("REDIS_DB", "3"), ("REDIS_HOST", "")]), "redis://localhost/3");
        assert_eq!(url(&[("REDIS_HOST", "::1"), ("REDIS_PASSWORD", "p@ss:/?#")]), "redis://:p%40ss%3A%2F%3F%23@[::1]");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_limit() {
        for (name, value, limit) in [
            ("REDIS_PORT", "0", "1 to 65535"),
            ("REDIS_PORT", "70000", "1 to 65535"),
            ("REDIS_DB", "-1", "0 or more"),
            ("REDIS_HOST", "a b", "host"),
            ("REDIS_HOST", "user@host", "host"),
            ("DEFAULT_TIMEOUT_SEC", "-1", "0 to 2592000 seconds"),
            ("DEFAULT_TIMEOUT_SEC", "soon", "0 to 2592000 seconds"),
            ("DEFAULT_LOCK_DURATION_SEC", "0", "0.05 to 86400 seconds"),
            ("DEFAULT_LOCK_DURATION_SEC", "NaN", "0.05 to 86400 seconds"),
            ("DEFAULT_LOCK_DURATION_SEC", "1e300", "0.05 to 86400 seconds"),
            ("IS_DEBUG", "perhaps", "true or false"),
        ] {
            let error = read(&[("REDIS_PASSWORD", "hunter2"), (name, value)]).unwrap_err();
            assert!(matches!(error, LockError::InvalidOption(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(value) && text.contains(limit), "{text}");
            assert!(!text.contains("hunter2"));
        }
        let settings = read(&[
            ("TASKLOCK_URL", "redis://:hunter2@h"),
            ("DEFAULT_TIMEOUT_SEC", "0.5"),
            ("DEFAULT_LOCK_DURATION_SEC", "60"),
            ("IS_DEBUG", "True"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.wait, Some(Duration::from_millis(500)));
        assert_eq!(settings.ttl, Some(Duration::from_secs(60)));
        assert!(settings.debug);
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
