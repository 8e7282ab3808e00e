//! What a `#[synchronized]` function returns, with the lock and without.

#![allow(clippy::unwrap_used, clippy::future_not_send)]

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tasklock::{LockError, Locker, MemoryLock, synchronized};

fn locker() -> Locker {
    Locker::new(MemoryLock::new()).unwrap()
}

/// Runs the call while somebody else holds the lock.
async fn while_held<T>(key: &str, call: impl Future<Output = T>) -> T {
    let locker = locker();
    let guard = locker.acquire(key).await.unwrap();
    let answer = tasklock::scope(locker, call).await;
    guard.release().await.unwrap();
    answer
}

async fn while_free<T>(call: impl Future<Output = T>) -> T {
    tasklock::scope(locker(), call).await
}

#[derive(Debug)]
struct AppError(String);

impl From<LockError> for AppError {
    fn from(error: LockError) -> Self {
        Self(error.to_string())
    }
}

type AppResult<T> = Result<T, AppError>;

mod disguised {
    pub(super) type Answer = super::AppResult<u8>;
}

#[tokio::test]
async fn no_arrow_becomes_a_result() {
    #[synchronized("id", try_only)]
    async fn plain(id: u8, log: &Mutex<Vec<u8>>) {
        if id == 0 {
            return;
        }
        log.lock().unwrap().push(id);
    }
    #[synchronized("id")]
    async fn empty(id: u8) {}
    #[synchronized("id")]
    async fn statement(id: u8) {
        tokio::task::yield_now().await;
    }

    let log = Mutex::new(vec![]);
    let done: Result<(), LockError> = while_free(plain(1, &log)).await;
    done.unwrap();
    while_free(plain(0, &log)).await.unwrap();
    let refused: Result<(), LockError> = while_held("id=2", plain(2, &log)).await;
    assert!(matches!(refused, Err(LockError::Held { .. })));
    assert_eq!(*log.lock().unwrap(), [1]);
    while_free(empty(1)).await.unwrap();
    while_free(statement(1)).await.unwrap();
    assert!(matches!(empty(1).await, Err(LockError::NoLocker)));
}

#[tokio::test]
async fn aliased_results() {
    #[synchronized("id", try_only)]
    async fn aliased(id: u8) -> AppResult<u8> {
        if id == 9 {
            return Err(AppError("nine".into()));
        }
        Ok(id)
    }
    #[synchronized("id", try_only)]
    async fn disguised(id: u8) -> disguised::Answer {
        Ok(id)
    }
    #[synchronized("id", try_only)]
    async fn boxed(id: u8) -> Result<u8, Box<dyn std::error::Error + Send + Sync>> {
        Ok(id)
    }
    assert_eq!(while_free(aliased(1)).await.unwrap(), 1);
    assert_eq!(while_free(aliased(9)).await.unwrap_err().0, "nine");
    assert!(while_held("id=1", aliased(1)).await.unwrap_err().0.contains("held"));
    assert_eq!(while_free(disguised(1)).await.unwrap(), 1);
    assert!(while_held("id=1", disguised(1)).await.is_err());
    let error = while_held("id=1", boxed(1)).await.unwrap_err();
    assert!(error.downcast::<LockError>().unwrap().is_contended());
}

#[tokio::test]
async fn on_error_gives_the_answer() {
    fn nothing(_: LockError) -> Option<u8> {
        None
    }
    #[synchronized("id", try_only, on_error = nothing)]
    async fn path(id: u8) -> Option<u8> {
        Some(id)
    }
    #[synchronized("id", try_only, on_error = |error| format!("refused: {}", error.is_contended()))]
    async fn closure(id: u8) -> String {
        format!("ran {id}")
    }
    #[synchronized("id", try_only, on_error = |_| fallback)]
    async fn from_an_argument(id: u8, fallback: u8) -> u8 {
        id
    }
    #[synchronized("id", try_only, on_error = |_| Ok(0))]
    async fn overrides(id: u8) -> Result<u8, LockError> {
        Ok(id)
    }
    assert_eq!(while_free(path(1)).await, Some(1));
    assert_eq!(while_held("id=1", path(1)).await, None);
    assert_eq!(while_free(closure(1)).await, "ran 1");
    assert_eq!(while_held("id=1", closure(1)).await, "refused: true");
    assert_eq!(while_free(from_an_argument(1, 7)).await, 1);
    assert_eq!(while_held("id=1", from_an_argument(1, 7)).await, 7);
    assert_eq!(while_held("id=1", overrides(1)).await.unwrap(), 0);
}

#[tokio::test]
async fn on_error_without_an_arrow_stays_silent() {
    #[synchronized("id", try_only, on_error = |error| log.lock().unwrap().push(error.to_string()))]
    async fn f(id: u8, log: &Mutex<Vec<String>>) {
        log.lock().unwrap().push(format!("ran {id}"));
    }
    #[synchronized("id", try_only, on_error = drop)]
    async fn dropped(id: u8, ran: Arc<Mutex<bool>>) -> () {
        *ran.lock().unwrap() = true;
    }
    let log = Mutex::new(vec![]);
    let done: () = while_free(f(1, &log)).await;
    let refused: () = while_held("id=1", f(1, &log)).await;
    assert_eq!((done, refused), ((), ()));
    let log = log.into_inner().unwrap();
    assert_eq!(log[0], "ran 1");
    assert!(log[1].contains("held"), "{log:?}");

    let ran = Arc::new(Mutex::new(false));
    while_held("id=1", dropped(1, ran.clone())).await;
    assert!(!*ran.lock().unwrap());
    while_free(dropped(1, ran.clone())).await;
    assert!(*ran.lock().unwrap());
}

#[tokio::test]
async fn panicking_is_explicit() {
    #[synchronized("id", try_only, on_error = panic)]
    async fn f(id: u8) -> u8 {
        id
    }
    #[synchronized("id", try_only, on_error = panic)]
    async fn silent(id: u8) {}
    assert_eq!(while_free(f(1)).await, 1);
    while_free(silent(1)).await;
    let panicked = tokio::spawn(while_held("id=1", f(1))).await.unwrap_err();
    let message = panicked.into_panic().downcast::<String>().unwrap();
    assert!(message.starts_with("macro_returns::f: "), "{message}");
    assert!(tokio::spawn(while_held("id=1", silent(1))).await.unwrap_err().is_panic());
}

#[tokio::test]
async fn skipping_answers_held_only() {
    #[synchronized("id", skip_if_locked)]
    async fn silent(id: u8, ran: &Mutex<u8>) {
        *ran.lock().unwrap() = id;
    }
    #[synchronized("id", skip_if_locked)]
    async fn unit(id: u8) -> Result<(), AppError> {
        Ok(())
    }
    #[synchronized("id", skip_if_locked)]
    async fn option(id: u8) -> AppResult<Option<u8>> {
        if id == 9 {
            return Err(AppError("nine".into()));
        }
        Ok(Some(id))
    }
    #[synchronized("id", skip_if_locked, on_error = |_| Some(0))]
    async fn bare(id: u8) -> Option<u8> {
        Some(id)
    }
    #[synchronized("id", skip_if_locked, on_error = |_| unreachable!())]
    async fn bare_unit(id: u8, ran: &Mutex<u8>) {
        *ran.lock().unwrap() = id;
    }

    let ran = Mutex::new(0);
    while_held("id=1", silent(1, &ran)).await.unwrap();
    while_held("id=1", bare_unit(1, &ran)).await;
    assert_eq!(*ran.lock().unwrap(), 0);
    while_free(silent(1, &ran)).await.unwrap();
    while_free(bare_unit(2, &ran)).await;
    assert_eq!(*ran.lock().unwrap(), 2);

    while_held("id=1", unit(1)).await.unwrap();
    assert_eq!(while_free(option(1)).await.unwrap(), Some(1));
    assert_eq!(while_held("id=1", option(1)).await.unwrap(), None);
    assert_eq!(while_free(option(9)).await.unwrap_err().0, "nine");
    assert_eq!(while_held("id=1", bare(1)).await, None);

    // Anything but "held" is an error still.
    assert!(matches!(silent(1, &ran).await, Err(LockError::NoLocker)));
    assert!(unit(1).await.is_err());
    assert_eq!(bare(1).await, Some(0));
}

#[tokio::test]
async fn nothing_runs_without_the_lock() {
    #[synchronized("id", try_only)]
    async fn f(id: u8, dropped: Arc<()>) -> Result<Arc<()>, LockError> {
        Ok(dropped)
    }
    let argument = Arc::new(());
    assert!(while_held("id=1", f(1, argument.clone())).await.is_err());
    assert_eq!(Arc::strong_count(&argument), 1);
    let kept = while_free(f(1, argument.clone())).await.unwrap();
    assert_eq!(Arc::strong_count(&kept), 2);
}

#[tokio::test]
async fn borrowed_results() {
    #[synchronized("key")]
    async fn find<'a>(map: &'a HashMap<String, String>, key: &str) -> Result<&'a str, LockError> {
        Ok(map.get(key).map_or("", String::as_str))
    }
    #[synchronized("name")]
    async fn elided(name: &str) -> Result<&str, LockError> {
        Ok(name.trim())
    }
    let map = HashMap::from([("a".to_owned(), "b".to_owned())]);
    let key = "a".to_owned();
    let found = while_free(find(&map, &key)).await.unwrap();
    drop(key);
    assert_eq!(found, "b");
    assert_eq!(while_free(elided(" x ")).await.unwrap(), "x");
}

#[tokio::test]
async fn an_error_of_the_body_is_the_bodys() {
    #[synchronized("id", on_error = |_| Err("lock"))]
    async fn f(id: u8) -> Result<u8, &'static str> {
        if id == 1 { Err("body") } else { Ok(id) }
    }
    assert_eq!(while_free(f(1)).await, Err("body"));
    assert_eq!(f(1).await, Err("lock"));
}

thread_local! {
    /// The errors of `tasklock` on this thread, which is one test's.
    static ERRORS: Cell<usize> = const { Cell::new(0) };
}

/// Counts them, for the whole process: what one thread alone listens to, another that comes to it at the same time may have
/// switched off.
struct Errors;

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "tasklock" && *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        ERRORS.set(ERRORS.get() + 1);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_refusal_without_an_arrow_is_logged() {
    #[synchronized("id", try_only)]
    async fn silent(id: u8) {}
    #[synchronized("id", try_only)]
    async fn loud(id: u8) -> Result<(), LockError> {
        Ok(())
    }
    tracing::subscriber::set_global_default(Errors).unwrap();
    while_free(silent(1)).await.unwrap();
    assert!(while_held("id=1", loud(1)).await.is_err());
    assert_eq!(ERRORS.get(), 0);
    assert!(while_held("id=1", silent(1)).await.is_err());
    assert_eq!(ERRORS.get(), 1);
}
