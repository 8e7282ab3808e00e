//! A value beside a lock.

use std::{fmt, sync::Arc};

use crate::{BackendError, InvalidOption, Key, KeyLock, LockError, Locker, StepResult, Ttl, Values, shared::Shared};

/// The longest value, in bytes.
const MOST: usize = 4096;
/// The greatest number that every store compares exactly.
const GREATEST: i64 = (1 << 53) - 1;

/// The value kept beside the lock of one key, made by [`Locker::value`](crate::Locker::value): a small text that anybody
/// may read, and change on condition of what it is.
///
/// It is not the lock's: it is there whether or not the lock is held, lasts as long as whoever set it said, and changing it
/// takes no lock. Who holds the lock sets it by [`Guard::update`](crate::Guard::update), which nobody can who has lost it.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use tasklock_core::{Locker, MemoryLock, When};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tasklock_core::LockError> {
/// # let lock = Locker::new(MemoryLock::new())?;
/// let version = lock.value("catalogue")?;
/// let hour = Duration::from_secs(3600);
/// assert!(version.set_if(When::Less(7), "7", hour).await?, "there was none");
/// assert!(!version.set_if(When::Less(6), "6", hour).await?, "it only rises");
///
/// let guard = lock.acquire("import").await?;
/// guard.update("half done", Duration::from_secs(30)).await?;
/// assert_eq!(lock.value("import")?.get().await?.as_deref(), Some("half done"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is read or changed until something is called on it"]
pub struct LockValue {
    // As long as it is there, so is the keeper.
    locker: Locker,
    key: Key,
}

/// What the value is to be for a change to happen. A value that is not there is less than every number and equal to
/// nothing; one that is no whole number is neither less nor greater than any.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum When {
    /// Whatever it is.
    Always,
    /// There is none.
    Absent,
    /// A number below this one.
    Less(i64),
    /// This number or one below.
    AtMost(i64),
    /// Exactly this text.
    Equal(String),
    /// Anything but this text.
    NotEqual(String),
    /// This number or one above.
    AtLeast(i64),
    /// A number above this one.
    Greater(i64),
}

/// A change of a value, on condition of what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Change {
    /// What it is to be.
    pub when: When,
    /// What it becomes and for how long; `None` takes it away.
    pub to: Option<(String, Ttl)>,
}

impl LockValue {
    pub(crate) fn new(lock: &KeyLock) -> Result<Self, LockError> {
        let (key, _) = lock.wanted()?;
        let locker = lock.locker()?.clone();
        power(&locker.core().shared)?;
        Ok(LockValue { locker, key: key.clone() })
    }

    pub(crate) fn locker(&self) -> Result<&Locker, LockError> {
        Ok(&self.locker)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.locker.core().shared
    }

    /// The value; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`], [`LockError::ShutDown`].
    ///
    /// # Cancel safety
    ///
    /// It only reads; dropping it costs nothing.
    pub async fn get(&self) -> Result<Option<String>, LockError> {
        self.shared().ask(power(self.shared())?.value(&self.key)).await
    }

    /// Sets it, whatever it is, for so long: 50 ms to 24 h, or [`Ttl::Never`].
    ///
    /// # Errors
    ///
    /// As [`set_if`](LockValue::set_if).
    ///
    /// # Cancel safety
    ///
    /// As [`set_if`](LockValue::set_if).
    pub async fn set(&self, value: impl Into<String> + Send, keep: impl Into<Ttl> + Send) -> Result<(), LockError> {
        self.set_if(When::Always, value, keep).await.map(drop)
    }

    /// Sets it, in one step, if it is as `when` says; whether it was.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] for a value of more than 4096 bytes, a number as far from 0 as 2⁵³, or a time out of range.
    /// [`LockError::Backend`]; if the answer was lost, it may or may not have been changed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have changed the value.
    pub async fn set_if(
        &self,
        when: When,
        value: impl Into<String> + Send,
        keep: impl Into<Ttl> + Send,
    ) -> Result<bool, LockError> {
        let (value, keep) = (value.into(), keep.into());
        keep.check()?;
        check(&value)?;
        self.change(Change { when, to: Some((value, keep)) }).await
    }

    /// Takes it away, in one step, if it is as `when` says; whether there was one, and it was.
    ///
    /// # Errors
    ///
    /// As [`set_if`](LockValue::set_if).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have taken the value away.
    pub async fn delete_if(&self, when: When) -> Result<bool, LockError> {
        self.change(Change { when, to: None }).await
    }

    async fn change(&self, change: Change) -> Result<bool, LockError> {
        change.when.check()?;
        self.shared().ask(power(self.shared())?.change(&self.key, &change)).await
    }
}

impl fmt::Debug for LockValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockValue").field("key", &self.key).finish_non_exhaustive()
    }
}

impl When {
    /// Whether it holds of this value.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let compare = |holds: fn(&i64, &i64) -> bool, other: &i64| match value {
            Some(text) => number(text).is_some_and(|number| holds(&number, other)),
            None => holds(&i64::MIN, other),
        };
        match self {
            When::Always => true,
            When::Absent => value.is_none(),
            When::Less(other) => compare(i64::lt, other),
            When::AtMost(other) => compare(i64::le, other),
            When::Equal(text) => value == Some(text),
            When::NotEqual(text) => value != Some(text),
            When::AtLeast(other) => compare(i64::ge, other),
            When::Greater(other) => compare(i64::gt, other),
        }
    }

    fn check(&self) -> Result<(), InvalidOption> {
        match self {
            When::Less(number) | When::AtMost(number) | When::AtLeast(number) | When::Greater(number)
                if number.unsigned_abs() > GREATEST.unsigned_abs() =>
            {
                Err(InvalidOption::new("number", number, "it is nearer to 0 than 2^53"))
            }
            When::Equal(text) | When::NotEqual(text) => check(text),
            _ => Ok(()),
        }
    }
}

/// Whether this may be a value.
pub(crate) fn check(value: &str) -> Result<(), InvalidOption> {
    if value.len() > MOST {
        let limit = format!("a value has at most {MOST} bytes");
        return Err(InvalidOption::new("value", format_args!("{} bytes", value.len()), limit));
    }
    Ok(())
}

pub(crate) fn power(shared: &Shared) -> Result<&dyn Values, LockError> {
    let unsupported =
        || LockError::Unsupported { backend: shared.backend_name(), what: "values beside locks".to_owned() };
    shared.backend.powers().values.ok_or_else(unsupported)
}

/// A power that was there when it was asked for.
pub(crate) fn gone<T>() -> StepResult<T> {
    Err(BackendError::fatal("the power to keep values is gone"))
}

/// A whole number as a value writes it: no sign but `-`, and no more than can be compared exactly.
fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = if plain { text.parse::<i64>().ok()? } else { return None };
    (number.unsigned_abs() <= GREATEST.unsigned_abs()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let equal = || When::Equal("x".to_owned());
        let all = [
            When::Less(5),
            When::AtMost(5),
            equal(),
            When::NotEqual("x".to_owned()),
            When::AtLeast(5),
            When::Greater(5),
            When::Absent,
            When::Always,
        ];
        for (value, expected) in [
            (None, "yynynnyy"),
            (Some("4"), "yynynnny"),
            (Some("-7"), "yynynnny"),
            (Some("5"), "nynyynny"),
            (Some("05"), "nynyynny"),
            (Some("6"), "nnnyyyny"),
            (Some("x"), "nnynnnny"),
            (Some("+6"), "nnnynnny"),
            (Some(""), "nnnynnny"),
            (Some("-"), "nnnynnny"),
            (Some("9007199254740992"), "nnnynnny"),
            (Some("9007199254740991"), "nnnyyyny"),
        ] {
            let holds: String = all.iter().map(|when| if when.holds(value) { 'y' } else { 'n' }).collect();
            assert_eq!(holds, expected, "{value:?}");
        }
    }

    #[test]
    fn limits_are_named() {
        assert!(When::Less(GREATEST).check().is_ok());
        let e = When::Greater(GREATEST + 1).check().unwrap_err();
        assert!(e.to_string().contains("2^53"), "{e}");
        assert!(When::Less(i64::MIN).check().is_err());
        let e = When::Equal("x".repeat(5_000)).check().unwrap_err();
        assert!(e.to_string().contains("5000 bytes") && e.to_string().contains("4096"), "{e}");
    }
}
