//! The expansion offends no lint, however strict the crate it lands in.

#![deny(warnings, clippy::pedantic, clippy::nursery)]
#![deny(unused_qualifications, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![allow(unreachable_pub)] // Public, so that the lints for public items look at them.

use tasklock::{LockError, Locker, MemoryLock, synchronized};

use strict::{Doc, Job, Kind, Service};

/// What is forbidden here can't even be allowed by the expansion.
pub mod strict {
    #![forbid(warnings, clippy::pedantic, clippy::nursery, clippy::unwrap_used, clippy::panic, clippy::unreachable)]

    use std::fmt::Display;
    use std::time::Duration;

    use tasklock::{LockError, LockKey, Locker, synchronized};

    /// A value that names a lock.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, LockKey)]
    pub enum Kind {
        /// One.
        Invoice,
        /// Other.
        Receipt,
    }

    /// A struct that names a lock.
    #[derive(Clone, Debug, PartialEq, Eq, LockKey)]
    pub struct Doc<T: Display> {
        /// Chosen.
        #[lock_key]
        pub kind: Kind,
        /// Chosen.
        #[lock_key]
        pub id: T,
        /// Not part of it.
        pub body: String,
    }

    /// Where the work is done.
    #[derive(Clone, Debug)]
    pub struct Service {
        /// Where the locks are.
        pub locker: Locker,
        /// How often.
        pub runs: u32,
    }

    impl Service {
        /// Returns a result of its own making.
        #[synchronized("kind", "{doc.id}", lock = self.locker, ttl = Duration::from_secs(5), guard = lease)]
        pub async fn method(&mut self, kind: Kind, doc: &Doc<u8>) {
            self.runs += u32::from(lease.is_held());
            tokio::task::yield_now().await;
        }

        /// Gives the runs so far.
        ///
        /// # Errors
        ///
        /// If the lock can't be had.
        #[synchronized("step", lock = self.locker, scope = module, release = background)]
        pub async fn count(&self, step: u32) -> Result<u32, LockError> {
            Ok(self.runs)
        }

        /// Says nothing.
        #[synchronized("kind", lock = self.locker, skip_if_locked, on_error = |_| None)]
        pub async fn skipping(&self, kind: Kind) -> Option<u32> {
            Some(self.runs)
        }

        /// Panics rather than not running.
        #[synchronized(key = format!("{kind:?}"), lock = self.locker, on_error = panic)]
        pub async fn insisting(self, kind: Kind) -> u32 {
            self.runs
        }

        /// Blocks.
        #[synchronized("kind", lock = self.locker, blocking, try_only, scope = function)]
        pub fn blocking(&self, kind: Kind) {
            drop(self.clone());
        }
    }

    /// Parses.
    ///
    /// # Errors
    ///
    /// If the lock can't be had.
    #[synchronized("text")]
    pub async fn parse<'a, T>(
        text: &'a str,
        fallback: T,
    ) -> Result<(&'a str, T), Box<dyn std::error::Error + Send + Sync>>
    where
        T: Send + Sync + std::str::FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        if text.is_empty() {
            return Ok((text, fallback));
        }
        let number = text.parse::<T>()?;
        Ok((text, number))
    }

    /// Answers nothing.
    ///
    /// # Errors
    ///
    /// If the lock can't be had.
    #[synchronized("id")]
    pub async fn unit(id: u8) -> Result<(), LockError> {
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Has its braces on one line.
    ///
    /// # Errors
    ///
    /// If the lock can't be had.
    #[synchronized("id")]
    #[rustfmt::skip]
    pub async fn short(id: u8) -> Result<u8, LockError> { Ok(1) }

    /// Has items of its own.
    ///
    /// # Errors
    ///
    /// If the lock can't be had.
    #[synchronized("id")]
    pub async fn items(id: u8) -> Result<u8, LockError> {
        const STEP: u8 = 1;
        Ok(id + STEP)
    }

    /// Does nothing.
    #[synchronized("id")]
    pub async fn empty(id: u8) {}

    /// Hides its type.
    ///
    /// # Errors
    ///
    /// If the lock can't be had.
    #[synchronized("id")]
    pub async fn anonymous(
        id: u8,
        items: impl IntoIterator<Item = u8> + Send,
    ) -> Result<impl Iterator<Item = u8>, LockError> {
        Ok(items.into_iter().map(|item| item + 1).collect::<Vec<_>>().into_iter())
    }

    /// A job.
    pub trait Job {
        /// Runs it.
        fn run(&self, id: u8) -> impl Future<Output = Result<u8, LockError>> + Send;
    }

    impl Job for Service {
        #[synchronized("id", lock = self.locker)]
        async fn run(&self, id: u8) -> Result<u8, LockError> {
            Ok(id)
        }
    }
}

#[async_trait::async_trait]
trait Boxed {
    async fn boxed(&self, id: u8) -> Result<u8, LockError>;
}

#[async_trait::async_trait]
impl Boxed for Service {
    #[synchronized("id", lock = self.locker)]
    async fn boxed(&self, id: u8) -> Result<u8, LockError> {
        Ok(1)
    }
}

#[tokio::test]
async fn it_all_runs() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let locker = Locker::new(MemoryLock::new())?;
    let mut service = Service { locker: locker.clone(), runs: 0 };
    let doc = Doc { kind: Kind::Invoice, id: 1, body: String::new() };
    service.method(Kind::Invoice, &doc).await?;
    assert_eq!(service.count(1).await?, 1);
    assert_eq!(service.skipping(Kind::Receipt).await, Some(1));
    assert_eq!(service.run(1).await?, 1);
    assert_eq!(service.boxed(1).await?, 1);
    // In a runtime, blocking is refused and says so.
    assert!(matches!(service.blocking(Kind::Receipt), Err(LockError::WouldBlock { .. })));
    assert_eq!(service.insisting(Kind::Invoice).await, 1);
    tasklock::scope(locker, async {
        assert_eq!(strict::parse("5", 0_u8).await?.1, 5);
        assert_eq!(strict::parse("", 0_u8).await?.1, 0);
        strict::unit(1).await?;
        strict::empty(1).await?;
        assert_eq!(strict::items(1).await?, 2);
        assert_eq!(strict::short(1).await?, 1);
        assert_eq!(strict::anonymous(1, [1, 2]).await?.sum::<u8>(), 5);
        Ok(())
    })
    .await
}
