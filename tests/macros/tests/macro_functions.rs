//! Which functions `#[synchronized]` takes, and that it leaves them as they were.

#![allow(clippy::unwrap_used, clippy::future_not_send)]

use std::collections::HashMap;
use std::fmt::Display;
use std::pin::Pin;
use std::sync::Mutex;

use async_trait::async_trait;
use tasklock::{LockError, Locker, MemoryLock, synchronized};

fn locker() -> Locker {
    Locker::new(MemoryLock::new()).unwrap()
}

/// The name of the lock the caller's body runs under.
fn held() -> String {
    tasklock::current().expect("a lock is held").key().to_string()
}

async fn with_locker<T>(call: impl Future<Output = T>) -> T {
    tasklock::scope(locker(), call).await
}

#[derive(Debug)]
enum AppError {
    Lock(LockError),
    Parse(std::num::ParseIntError),
}

impl From<LockError> for AppError {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

impl From<std::num::ParseIntError> for AppError {
    fn from(error: std::num::ParseIntError) -> Self {
        Self::Parse(error)
    }
}

#[derive(Debug, Default)]
struct Service {
    tenant: String,
    runs: u32,
    log: Mutex<Vec<String>>,
}

fn service() -> Service {
    Service { tenant: "acme".into(), ..Service::default() }
}

#[tokio::test]
async fn question_mark_and_early_return() {
    #[synchronized("text")]
    async fn parse(text: &str) -> Result<u32, AppError> {
        if text == "none" {
            return Ok(0);
        }
        let number: u32 = text.parse()?;
        for i in 0..number {
            if i == 3 {
                return Ok(i);
            }
        }
        Ok(number)
    }
    assert_eq!(with_locker(parse("none")).await.unwrap(), 0);
    assert_eq!(with_locker(parse("2")).await.unwrap(), 2);
    assert_eq!(with_locker(parse("9")).await.unwrap(), 3);
    let failed = with_locker(parse("x")).await;
    assert!(matches!(failed, Err(AppError::Parse(error)) if !error.to_string().is_empty()));
    let refused = parse("1").await;
    assert!(matches!(refused, Err(AppError::Lock(LockError::NoLocker))));
}

impl Service {
    #[synchronized("self.tenant")]
    async fn shared(&self, line: &str) -> Result<usize, LockError> {
        self.log.lock().unwrap().push(line.to_owned());
        Ok(self.log.lock().unwrap().len())
    }
    #[synchronized("self.tenant")]
    async fn exclusive(&mut self) -> Result<&mut u32, LockError> {
        self.runs += 1;
        Ok(&mut self.runs)
    }
    #[synchronized("self.tenant", "suffix")]
    async fn owned(mut self, suffix: &str) -> Result<String, LockError> {
        self.tenant.push_str(suffix);
        Ok(self.tenant)
    }
    #[synchronized("name")]
    async fn associated(name: &str) -> Result<Self, LockError> {
        Ok(Self { tenant: name.to_owned(), ..Self::default() })
    }
    #[synchronized("self.tenant")]
    async fn job(&self) -> Result<String, LockError> {
        tokio::task::yield_now().await;
        Ok(held())
    }
}

#[tokio::test]
async fn methods() {
    with_locker(async {
        let mut service = Service::associated("acme").await?;
        assert_eq!(service.shared("one").await?, 1);
        *service.exclusive().await? += 10;
        assert_eq!(*service.exclusive().await?, 12);
        assert_eq!(service.owned("!").await?, "acme!");
        Ok::<_, LockError>(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn generics_lifetimes_and_where_clauses() {
    #[synchronized("key")]
    async fn longest<'a, 'b: 'a, K, V, const N: usize>(
        key: &K,
        map: &'a HashMap<K, V>,
        fallback: &'b V,
        _sizes: [u8; N],
    ) -> Result<&'a V, LockError>
    where
        K: Display + std::hash::Hash + Eq,
        V: Clone,
    {
        Ok(map.get(key).unwrap_or(fallback))
    }
    let map = HashMap::from([(1_u8, "one".to_owned())]);
    let fallback = "none".to_owned();
    let call = longest(&1, &map, &fallback, [0; 3]);
    assert_eq!(with_locker(call).await.unwrap(), "one");
    let call = longest(&2, &map, &fallback, []);
    assert_eq!(with_locker(call).await.unwrap(), "none");
}

#[tokio::test]
async fn impl_trait_in_arguments_and_results() {
    #[synchronized("id")]
    async fn doubled(
        id: impl Display + Send,
        items: impl IntoIterator<Item = u32>,
    ) -> Result<impl Iterator<Item = u32>, LockError> {
        Ok(items.into_iter().map(|item| item * 2))
    }
    #[synchronized("id", on_error = |_| vec![0].into_iter())]
    async fn bare(id: u8) -> impl Iterator<Item = u32> {
        vec![1, 2].into_iter()
    }
    #[synchronized("id")]
    async fn runs(id: u8, work: impl AsyncFnOnce(u8) -> u8) -> Result<u8, LockError> {
        Ok(work(id).await)
    }
    let doubled = with_locker(doubled("x", [1, 2])).await.unwrap();
    assert_eq!(doubled.collect::<Vec<_>>(), [2, 4]);
    assert_eq!(with_locker(bare(1)).await.collect::<Vec<_>>(), [1, 2]);
    assert_eq!(bare(1).await.collect::<Vec<_>>(), [0]);
    assert_eq!(with_locker(runs(3, async |id| id + 1)).await.unwrap(), 4);
}

#[tokio::test]
async fn arguments_are_borrowed_by_the_key_and_moved_by_the_body() {
    #[synchronized("name", "items.0")]
    async fn consume(name: String, mut items: (u8, Vec<u8>)) -> Result<Vec<u8>, LockError> {
        items.1.push(u8::try_from(name.into_bytes().len()).unwrap());
        Ok(items.1)
    }
    let call = consume("four".into(), (1, vec![9]));
    assert_eq!(with_locker(call).await.unwrap(), [9, 4]);
}

#[tokio::test]
async fn coercions_in_the_body() {
    #[synchronized("id")]
    async fn boxed(id: u8) -> Result<Box<dyn Display + Send>, Box<dyn std::error::Error>> {
        if id == 0 {
            return Ok(Box::new("zero"));
        }
        if id > 9 {
            Err("too large")?;
        }
        Ok(Box::new(id))
    }
    assert_eq!(with_locker(boxed(0)).await.unwrap().to_string(), "zero");
    assert_eq!(with_locker(boxed(5)).await.unwrap().to_string(), "5");
    assert!(with_locker(boxed(10)).await.is_err());
}

#[tokio::test]
async fn recursion() {
    #[synchronized("n")]
    async fn factorial(n: u32) -> Result<u32, LockError> {
        if n == 0 {
            return Ok(1);
        }
        Ok(n * Box::pin(factorial(n - 1)).await?)
    }
    assert_eq!(with_locker(factorial(4)).await.unwrap(), 24);
}

#[tokio::test]
async fn futures_stay_send() {
    #[synchronized("id")]
    async fn work(id: u8, name: String) -> Result<String, LockError> {
        tokio::task::yield_now().await;
        Ok(format!("{name}{id}"))
    }
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let service = service();
    drop(assert_send(service.job()));
    let spawned = tokio::spawn(tasklock::scope(locker(), work(1, "job".into())));
    assert_eq!(spawned.await.unwrap().unwrap(), "job1");
}

trait Native {
    async fn native(&self, id: u8) -> Result<String, LockError>;

    #[synchronized("id", scope = "default")]
    async fn native_default(&self, id: u8) -> Result<String, LockError> {
        self.native(id).await
    }

    fn sendable(&self, id: u8) -> impl Future<Output = Result<String, LockError>> + Send;
}

impl Native for Service {
    #[synchronized("self.tenant", "id")]
    async fn native(&self, id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    #[synchronized("id")]
    fn sendable(&self, id: u8) -> impl Future<Output = Result<String, LockError>> + Send {
        let tenant = self.tenant.clone();
        async move { Ok(format!("{tenant}: {}", held())) }
    }
}

#[tokio::test]
async fn native_async_traits() {
    let service = service();
    assert_eq!(with_locker(service.native(1)).await.unwrap(), "self.tenant=acme,id=1");
    assert_eq!(with_locker(service.native_default(1)).await.unwrap(), "self.tenant=acme,id=1");
    let call = tokio::spawn(tasklock::scope(locker(), async move { service.sendable(2).await }));
    assert_eq!(call.await.unwrap().unwrap(), "acme: id=2");
}

struct Path<T>(T);

#[async_trait]
trait Boxed: Send + Sync {
    async fn run(&self, id: u8) -> Result<String, LockError>;
    async fn change(&mut self, step: u32) -> Result<u32, AppError>;
    async fn pattern(&self, path: Path<u8>, pair: (u8, u8)) -> Result<u8, LockError>;
    async fn silent(&self, id: u8);
    async fn generic<T: Display + Send + Sync>(&self, id: T) -> Result<String, LockError>
    where
        Self: Sized;

    #[synchronized("id", scope = "default")]
    async fn by_default(&self, id: u8) -> Result<String, LockError> {
        Ok(format!("{} in {}", self.run(id).await?, held()))
    }
}

#[async_trait]
impl Boxed for Service {
    #[synchronized("self.tenant", "id")]
    async fn run(&self, id: u8) -> Result<String, LockError> {
        if id == 0 {
            return Ok("zero".into());
        }
        Ok(held())
    }

    #[synchronized("self.tenant")]
    async fn change(&mut self, step: u32) -> Result<u32, AppError> {
        self.runs += "1".parse::<u32>()? * step;
        Ok(self.runs)
    }

    #[synchronized("id", "second")]
    async fn pattern(&self, Path(id): Path<u8>, (_, second): (u8, u8)) -> Result<u8, LockError> {
        assert_eq!(held(), "id=1,second=3");
        Ok(id + second)
    }

    #[synchronized("id", on_error = |error| panic!("{error}"))]
    async fn silent(&self, id: u8) {
        self.log.lock().unwrap().push(held());
    }

    #[synchronized("id")]
    async fn generic<T: Display + Send + Sync>(&self, id: T) -> Result<String, LockError> {
        Ok(format!("{id}: {}", held()))
    }
}

#[tokio::test]
async fn boxed_async_traits() {
    let mut service = service();
    with_locker(async {
        assert_eq!(service.run(0).await?, "zero");
        assert_eq!(service.generic("x").await?, "x: id=x");
        let object: &mut dyn Boxed = &mut service;
        assert_eq!(object.run(1).await?, "self.tenant=acme,id=1");
        assert_eq!(object.change(3).await?, 3);
        assert_eq!(object.pattern(Path(1), (2, 3)).await?, 4);
        object.silent(4).await;
        let by_default = object.by_default(5).await?;
        assert_eq!(by_default, "self.tenant=acme,id=5 in default/id=5");
        Ok::<_, AppError>(())
    })
    .await
    .unwrap();
    assert_eq!(*service.log.lock().unwrap(), ["id=4"]);
    assert!(matches!(Boxed::run(&service, 1).await, Err(LockError::NoLocker)));
}

#[tokio::test]
async fn boxed_futures_by_hand() {
    type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

    #[synchronized("id")]
    fn aliased(id: &u8) -> BoxFuture<'_, Result<String, LockError>> {
        Box::pin(async move { Ok(held()) })
    }
    #[synchronized("id")]
    fn written(id: u8) -> Pin<Box<dyn Future<Output = Result<String, LockError>> + Send>> {
        let before = "before";
        Box::pin(async move {
            if id == 0 {
                return Err(LockError::NoLocker);
            }
            Ok(format!("{before} {}", held()))
        })
    }
    assert_eq!(with_locker(aliased(&1)).await.unwrap(), "id=1");
    assert_eq!(with_locker(written(2)).await.unwrap(), "before id=2");
    assert!(with_locker(written(0)).await.is_err());
}

mod instrumented {
    use super::*;

    #[tracing::instrument]
    #[synchronized("id")]
    async fn above(id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    #[synchronized("id")]
    #[tracing::instrument(skip_all, err, ret)]
    async fn below(id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    #[tracing::instrument]
    #[synchronized("id")]
    async fn silent_above(id: u8) {
        assert_eq!(held(), "id=1");
    }

    #[synchronized("id")]
    #[tracing::instrument]
    async fn silent_below(id: u8) {
        assert_eq!(held(), "id=1");
    }

    #[async_trait]
    trait Traced {
        async fn above(&self, id: u8) -> Result<String, LockError>;
        async fn with_error(&self, path: Path<u8>) -> Result<String, LockError>;
        async fn below(&self, id: u8) -> Result<String, LockError>;
    }

    #[async_trait]
    impl Traced for Service {
        #[tracing::instrument(skip(self))]
        #[synchronized("self.tenant", "id")]
        async fn above(&self, id: u8) -> Result<String, LockError> {
            Ok(held())
        }

        #[tracing::instrument(skip_all, err)]
        #[synchronized("self.tenant", "id")]
        async fn with_error(&self, Path(id): Path<u8>) -> Result<String, LockError> {
            Ok(held())
        }

        #[synchronized("self.tenant", "id")]
        #[tracing::instrument(skip(self))]
        async fn below(&self, id: u8) -> Result<String, LockError> {
            Ok(held())
        }
    }

    #[tokio::test]
    async fn both_orders() {
        with_locker(async {
            assert_eq!(above(1).await?, "id=1");
            assert_eq!(below(1).await?, "id=1");
            silent_above(1).await?;
            silent_below(1).await?;
            let service = service();
            assert_eq!(service.above(2).await?, "self.tenant=acme,id=2");
            let with_error = service.with_error(Path(2)).await?;
            assert_eq!(with_error, "self.tenant=acme,id=2");
            assert_eq!(service.below(2).await?, "self.tenant=acme,id=2");
            Ok::<_, LockError>(())
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn two_locks_on_one_function() {
    #[synchronized("outer", scope = "x")]
    #[synchronized("inner", scope = "y")]
    async fn f(outer: u8, inner: u8) {
        assert_eq!(held(), "x/outer=1");
    }
    with_locker(f(1, 2)).await.unwrap();
}

#[tokio::test]
async fn inner_attributes_stay() {
    #[synchronized("id")]
    async fn f(id: u8) -> Result<u8, LockError> {
        #![allow(unused_variables)]
        let unused = 1;
        Ok(id)
    }
    assert_eq!(with_locker(f(1)).await.unwrap(), 1);
}

#[tokio::test]
async fn attributes_docs_and_visibility_stay() {
    mod inner {
        use super::*;

        /// Documented.
        #[must_use = "because"]
        #[allow(clippy::unused_async)]
        #[synchronized("id")]
        #[cfg(not(any()))]
        #[doc(hidden)]
        pub(super) async fn f(id: u8) -> Result<u8, LockError> {
            Ok(id)
        }
    }
    assert_eq!(with_locker(inner::f(1)).await.unwrap(), 1);
}

/// Nothing of the expansion can be seen from the body, nor is anything of the body's hidden from it.
#[tokio::test]
async fn names_do_not_meet() {
    #[allow(dead_code)]
    mod core {}
    #[allow(dead_code, non_camel_case_types)]
    struct Result;
    #[allow(dead_code)]
    enum Option {
        Some,
        None,
    }
    #[allow(dead_code)]
    struct Ok;
    #[allow(dead_code)]
    trait LockKey {}

    #[synchronized("__tasklock_lock", "lock")]
    async fn f(__tasklock_lock: u8, lock: u8) -> std::result::Result<u8, LockError> {
        let __tasklock_held = 1;
        std::result::Result::Ok(__tasklock_lock + lock + __tasklock_held)
    }
    assert_eq!(with_locker(f(1, 2)).await.unwrap(), 4);
}

/// The attribute stands first: `#[tokio::test]` leaves no async function behind.
#[synchronized(key = "test", lock = locker())]
#[tokio::test]
async fn on_a_test() {
    assert_eq!(held(), "test");
}
