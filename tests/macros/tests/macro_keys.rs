//! What `#[synchronized]` makes of its key literals.

#![allow(clippy::unwrap_used, clippy::future_not_send)]

use std::sync::Arc;

use tasklock::{Key, LockError, LockKey, Locker, MemoryLock, synchronized};

fn locker() -> Locker {
    Locker::new(MemoryLock::new()).unwrap()
}

/// The name of the lock the caller's body runs under.
fn held() -> String {
    tasklock::current().expect("a lock is held").key().to_string()
}

/// Runs the call with a locker of its own and gives the name it locked.
async fn name_of(call: impl Future<Output = Result<String, LockError>>) -> String {
    tasklock::scope(locker(), call).await.unwrap()
}

#[derive(Clone, LockKey)]
struct Req {
    id: u32,
    doc: Doc,
    r#type: &'static str,
}

#[derive(Clone, LockKey)]
struct Doc {
    #[lock_key]
    name: String,
    _body: Vec<u8>,
}

fn req() -> Req {
    Req { id: 7, doc: Doc { name: "a/b".into(), _body: vec![] }, r#type: "pdf" }
}

#[tokio::test]
async fn a_parameter() {
    #[synchronized("team")]
    async fn f(team: &str) -> Result<String, LockError> {
        Ok(held())
    }
    assert_eq!(name_of(f("acme")).await, "team=acme");
    assert_eq!(name_of(f("a,b=c")).await, "team=a%2Cb%3Dc");
}

#[tokio::test]
async fn fields_of_a_parameter() {
    #[synchronized("req.doc.name")]
    async fn field(req: &Req) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("pair.1")]
    async fn element(pair: (u8, u8)) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("req.type", "type")]
    async fn raw(req: &Req, r#type: u8) -> Result<String, LockError> {
        Ok(held())
    }
    assert_eq!(name_of(field(&req())).await, "req.doc.name=a%2Fb");
    assert_eq!(name_of(element((1, 2))).await, "pair.1=2");
    assert_eq!(name_of(raw(&req(), 1)).await, "req.type=pdf,type=1");
}

#[tokio::test]
async fn several_keys_are_one_lock() {
    #[synchronized("team", "req.id")]
    async fn two(team: &str, req: &Req) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("a:{team}", "id", "b:{team}", "b:{id}", "id")]
    async fn mixed(team: &str, id: u8) -> Result<String, LockError> {
        Ok(held())
    }
    assert_eq!(name_of(two("acme", &req())).await, "team=acme,req.id=7");
    assert_eq!(name_of(mixed("x", 1)).await, "a:x,id=1,b:x,b:1,id=1");
}

#[tokio::test]
async fn pairs_that_join_alike_stay_apart() {
    #[synchronized("a", "b")]
    async fn f(a: &str, b: &str) -> Result<String, LockError> {
        Ok(held())
    }
    let one = name_of(f("a:b", "c")).await;
    let other = name_of(f("a", "b:c")).await;
    assert_ne!(one, other);
    assert_ne!(name_of(f("1,b=2", "")).await, name_of(f("1", "2,b=")).await);
}

#[tokio::test]
async fn templates_equal_the_key_by_hand() {
    #[synchronized("team:{team}:{req.id}")]
    async fn f(team: &str, req: &Req) -> Result<String, LockError> {
        Ok(held())
    }
    assert_eq!(name_of(f("acme", &req())).await, "team:acme:7");
    assert_eq!(name_of(f("a:1", &req())).await, "team:a%3A1:7");

    let locker = locker();
    let guard = locker.acquire("team:acme:7").await.unwrap();
    let call = tasklock::scope(locker.clone(), try_it("acme", 7));
    assert!(call.await.unwrap_err().is_contended());
    guard.release().await.unwrap();

    #[synchronized("team:{team}:{id}", try_only)]
    async fn try_it(team: &str, id: u32) -> Result<(), LockError> {
        Ok(())
    }
}

#[tokio::test]
async fn doubled_braces_are_braces() {
    #[synchronized("{{{id}}}")]
    async fn f(id: u8) -> Result<String, LockError> {
        Ok(held())
    }
    assert_eq!(name_of(f(5)).await, "{5}");
}

#[tokio::test]
async fn fields_of_self() {
    struct Service {
        tenant: String,
        inner: Arc<Req>,
    }
    impl Service {
        #[synchronized("self.tenant")]
        async fn by_ref(&self) -> Result<String, LockError> {
            Ok(held())
        }
        #[synchronized("{self.tenant}/{self.inner.id}")]
        async fn by_mut(&mut self) -> Result<String, LockError> {
            self.tenant.push('!');
            Ok(held())
        }
        #[synchronized("self.tenant", "id")]
        async fn by_value(self, id: u8) -> Result<String, LockError> {
            drop(self.tenant);
            Ok(held())
        }
        #[synchronized("self.tenant")]
        async fn by_arc(self: Arc<Self>) -> Result<String, LockError> {
            Ok(held())
        }
    }
    let service = || Service { tenant: "acme".into(), inner: Arc::new(req()) };
    assert_eq!(name_of(service().by_ref()).await, "self.tenant=acme");
    assert_eq!(name_of(service().by_mut()).await, "acme/7");
    assert_eq!(name_of(service().by_value(1)).await, "self.tenant=acme,id=1");
    assert_eq!(name_of(Arc::new(service()).by_arc()).await, "self.tenant=acme");
}

#[tokio::test]
async fn self_itself() {
    #[derive(LockKey)]
    struct Tenant(&'static str);
    impl Tenant {
        #[synchronized("tenant:{self}")]
        async fn f(&self) -> Result<String, LockError> {
            Ok(held())
        }
    }
    assert_eq!(name_of(Tenant("acme").f()).await, "tenant:acme");
}

#[tokio::test]
async fn structs_lock_by_their_chosen_fields() {
    #[synchronized("doc")]
    async fn by_value(doc: Doc) -> Result<String, LockError> {
        drop(doc);
        Ok(held())
    }
    #[synchronized("doc")]
    async fn by_ref(doc: &Doc) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("doc")]
    async fn by_mut(doc: &mut Doc) -> Result<String, LockError> {
        doc.name.clear();
        Ok(held())
    }
    #[synchronized("doc")]
    async fn by_arc(doc: Arc<Doc>) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("doc")]
    async fn by_generic<T: LockKey>(doc: T) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("doc")]
    async fn by_generic_ref<T: LockKey + ?Sized>(doc: &T) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("doc")]
    async fn by_impl(doc: &impl LockKey) -> Result<String, LockError> {
        Ok(held())
    }
    let doc = || req().doc;
    let expected = "doc=(name=a%2Fb)";
    assert_eq!(name_of(by_value(doc())).await, expected);
    assert_eq!(name_of(by_ref(&doc())).await, expected);
    assert_eq!(name_of(by_mut(&mut doc())).await, expected);
    assert_eq!(name_of(by_arc(Arc::new(doc()))).await, expected);
    assert_eq!(name_of(by_generic(doc())).await, expected);
    assert_eq!(name_of(by_generic_ref(&doc())).await, expected);
    assert_eq!(name_of(by_impl(&doc())).await, expected);
}

#[tokio::test]
async fn references_of_any_depth() {
    #[synchronized("a", "b", "c", "d")]
    async fn f(a: &&str, b: Box<str>, c: Arc<String>, d: &mut u8) -> Result<String, LockError> {
        Ok(held())
    }
    let mut d = 4;
    let call = f(&"1", "2".into(), Arc::new("3".into()), &mut d);
    assert_eq!(name_of(call).await, "a=1,b=2,c=3,d=4");
}

#[tokio::test]
async fn names_bound_by_patterns() {
    struct Path<T>(T);
    #[synchronized("id", "team", "first", "whole")]
    async fn f(
        Path(id): Path<u32>,
        Doc { name: team, .. }: &Doc,
        [first, ..]: [u8; 2],
        whole @ _rest: u8,
        _: u8,
    ) -> Result<String, LockError> {
        Ok(held())
    }
    let doc = req().doc;
    let call = f(Path(1), &doc, [2, 3], 4, 5);
    assert_eq!(name_of(call).await, "id=1,team=a%2Fb,first=2,whole=4");
}

#[tokio::test]
async fn a_key_by_expression() {
    #[synchronized(key = format!("job:{}", id + 1))]
    async fn computed(id: u32) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized(key = "all of them")]
    async fn constant() -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized(key = key)]
    async fn given(key: &str) -> Result<String, LockError> {
        Ok(held())
    }
    assert_eq!(name_of(computed(1)).await, "job:2");
    assert_eq!(name_of(constant()).await, "all of them");
    assert_eq!(name_of(given("x")).await, "x");
    assert!(matches!(tasklock::scope(locker(), given("")).await, Err(LockError::InvalidKey(_))));
}

#[tokio::test]
async fn a_key_too_long_is_an_error() {
    #[synchronized("text")]
    async fn f(text: &str) -> Result<String, LockError> {
        Ok(held())
    }
    let text = "x".repeat(1000);
    let refused = tasklock::scope(locker(), f(&text)).await.unwrap_err();
    assert!(matches!(refused, LockError::InvalidKey(_)), "{refused}");
}

mod scopes {
    use super::*;

    #[synchronized("id", scope = "billing desk")]
    async fn named(id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    #[synchronized("id", scope = module)]
    async fn module(id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    #[synchronized("id", scope = function)]
    async fn function(id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    #[synchronized("job:{id}", scope = "jobs")]
    async fn template(id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    #[synchronized(key = format!("job:{id}"), scope = "jobs")]
    async fn expression(id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    #[synchronized(key = key, scope = "jobs", guard = lease)]
    async fn prefixed(key: Key) -> Result<Key, LockError> {
        Ok(lease.key().clone())
    }

    #[synchronized("id", scope = function)]
    async fn r#final(id: u8) -> Result<String, LockError> {
        Ok(held())
    }

    /// The locker's prefix stays in front of the scope, and is there once.
    #[tokio::test]
    async fn stand_behind_the_prefix() {
        let locker = Locker::builder(MemoryLock::new()).prefix("app").build().unwrap();
        let key = locker.acquire("x").await.unwrap().key().clone();
        assert_eq!(key.as_str(), "app:x");
        let key = tasklock::scope(locker, prefixed(key)).await.unwrap();
        assert_eq!(key.as_str(), "app:jobs/x");
    }

    #[tokio::test]
    async fn stand_in_front() {
        assert_eq!(name_of(r#final(1)).await, "macro_keys%3A%3Ascopes%3A%3Afinal/id=1");
        assert_eq!(name_of(named(1)).await, "billing%20desk/id=1");
        assert_eq!(name_of(module(1)).await, "macro_keys%3A%3Ascopes/id=1");
        assert_eq!(name_of(function(1)).await, "macro_keys%3A%3Ascopes%3A%3Afunction/id=1");
        assert_eq!(name_of(template(1)).await, "jobs/job:1");
        assert_eq!(name_of(expression(1)).await, "jobs/job:1");
    }
}

#[tokio::test]
async fn functions_that_name_the_same_parameter_share_the_lock() {
    #[synchronized("id", try_only)]
    async fn one(id: u8) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("id", try_only, scope = "other")]
    async fn apart(id: u8) -> Result<String, LockError> {
        Ok(held())
    }
    #[synchronized("id")]
    async fn outer(id: u8) -> Result<(), LockError> {
        // In tasks of their own: within one task it would be a deadlock and told as one.
        let locker = LOCKER.with(Clone::clone);
        let same = tokio::spawn(tasklock::scope(locker.clone(), one(1)));
        let other_value = tokio::spawn(tasklock::scope(locker.clone(), one(2)));
        let other_scope = tokio::spawn(tasklock::scope(locker, apart(1)));
        assert!(same.await.unwrap().unwrap_err().is_contended());
        assert_eq!(other_value.await.unwrap()?, "id=2");
        assert_eq!(other_scope.await.unwrap()?, "other/id=1");
        Ok(())
    }
    tokio::task_local!(static LOCKER: Locker);
    let locker = locker();
    let call = tasklock::scope(locker.clone(), outer(1));
    LOCKER.scope(locker, call).await.unwrap();
}

/// A macro that writes the function and its key, where parameter and literal come from different places.
#[tokio::test]
async fn names_from_a_macro() {
    macro_rules! locked {
        ($name:ident, $key:literal, $param:ident) => {
            #[synchronized($key)]
            async fn $name($param: u8) -> Result<String, LockError> {
                Ok(held())
            }
        };
        ($name:ident) => {
            #[synchronized("id")]
            async fn $name(id: u8) -> Result<String, LockError> {
                Ok(held())
            }
        };
    }
    locked!(given, "id", id);
    locked!(inside);
    assert_eq!(name_of(given(1)).await, "id=1");
    assert_eq!(name_of(inside(2)).await, "id=2");
}
