//! `#[derive(LockKey)]`.

#![allow(clippy::unwrap_used, clippy::future_not_send)]

use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::sync::Arc;

use tasklock::{LockError, LockKey, Locker, MemoryLock, synchronized};

/// The key of a value, as a template writes it.
async fn key_of(value: impl LockKey) -> String {
    #[synchronized("{value}")]
    async fn f(value: impl LockKey) -> Result<String, LockError> {
        let lease = tasklock::current().expect("a lock is held");
        Ok(lease.key().to_string())
    }
    let locker = Locker::new(MemoryLock::new()).unwrap();
    tasklock::scope(locker, f(value)).await.unwrap()
}

#[derive(LockKey)]
struct All {
    tenant: &'static str,
    r#type: u8,
}

#[tokio::test]
async fn all_fields_where_none_is_chosen() {
    let value = All { tenant: "a;b=c", r#type: 1 };
    assert_eq!(key_of(value).await, "(tenant=a%3Bb%3Dc;type=1)");
}

#[tokio::test]
async fn chosen_fields() {
    #[derive(LockKey)]
    struct Req {
        #[lock_key]
        tenant: u8,
        _body: Vec<u8>,
        #[lock_key]
        doc: u8,
    }
    let value = Req { tenant: 1, _body: vec![], doc: 2 };
    assert_eq!(key_of(value).await, "(tenant=1;doc=2)");
}

#[tokio::test]
async fn skipped_fields() {
    #[derive(LockKey)]
    struct Req {
        tenant: u8,
        #[lock_key(skip)]
        _body: Vec<u8>,
    }
    let value = Req { tenant: 1, _body: vec![] };
    assert_eq!(key_of(value).await, "(tenant=1)");
}

#[tokio::test]
async fn renamed_fields() {
    #[derive(LockKey)]
    struct Unchosen {
        #[lock_key(rename = "t")]
        tenant: u8,
        size: u8,
    }
    #[derive(LockKey)]
    struct Chosen {
        #[lock_key]
        #[lock_key(rename = "größe-2")]
        size: u8,
        _other: u8,
    }
    let value = Unchosen { tenant: 1, size: 2 };
    assert_eq!(key_of(value).await, "(t=1;size=2)");
    let value = Chosen { size: 1, _other: 2 };
    assert_eq!(key_of(value).await, "(größe-2=1)");
}

#[tokio::test]
async fn tuples() {
    #[derive(LockKey)]
    struct Id(u32);
    #[derive(LockKey)]
    struct Named(#[lock_key(rename = "id")] u32);
    #[derive(LockKey)]
    struct Pair(u8, &'static str);
    #[derive(LockKey)]
    struct Second(#[lock_key(skip)] (), u8);
    assert_eq!(key_of(Id(7)).await, "7");
    assert_eq!(key_of(Named(7)).await, "(id=7)");
    assert_eq!(key_of(Pair(1, "x")).await, "(0=1;1=x)");
    assert_eq!(key_of(Second((), 2)).await, "(1=2)");
}

#[tokio::test]
async fn nested_structs() {
    #[derive(LockKey)]
    struct Outer<'a> {
        all: All,
        by_ref: &'a All,
        shared: Arc<All>,
        id: u8,
    }
    let all = || All { tenant: "x", r#type: 2 };
    let by_ref = &all();
    let value = Outer { all: all(), by_ref, shared: Arc::new(all()), id: 3 };
    assert_eq!(key_of(value).await, "(all=(tenant=x;type=2);by_ref=(tenant=x;type=2);shared=(tenant=x;type=2);id=3)");
}

#[tokio::test]
async fn generic_structs() {
    #[derive(LockKey)]
    struct Generic<'a, T, U: ?Sized, const N: usize = 1>
    where
        T: Debug,
    {
        value: T,
        reference: &'a U,
        cow: Cow<'a, str>,
        #[lock_key(skip)]
        _sizes: [u8; N],
    }
    #[derive(LockKey)]
    struct Skipping<T> {
        id: u8,
        #[lock_key(skip)]
        _payload: T,
    }
    #[derive(LockKey)]
    struct Wrapper<T>(T);
    // A payload that can't name a lock is none of the key's business.
    struct Opaque;

    let value = Generic { value: 1, reference: "r", cow: "c".into(), _sizes: [0; 2] };
    assert_eq!(key_of(value).await, "(value=1;reference=r;cow=c)");
    let value = Skipping { id: 1, _payload: Opaque };
    assert_eq!(key_of(value).await, "(id=1)");
    assert_eq!(key_of(Wrapper(Wrapper("x"))).await, "x");
    assert_eq!(key_of(Wrapper(Skipping { id: 2, _payload: Opaque })).await, "(id=2)");
}

#[tokio::test]
async fn enums_without_data() {
    #[derive(LockKey)]
    enum Kind {
        Invoice,
        r#Type,
        #[lock_key(rename = "old")]
        Legacy = 7,
    }
    assert_eq!(key_of(Kind::Invoice).await, "Invoice");
    assert_eq!(key_of(Kind::Type).await, "Type");
    assert_eq!(key_of(Kind::Legacy).await, "old");

    #[derive(LockKey)]
    struct Req<T: Display> {
        kind: Kind,
        id: T,
    }
    let value = Req { kind: Kind::Legacy, id: 1.5 };
    assert_eq!(key_of(value).await, "(kind=old;id=1.5)");
}

#[tokio::test]
async fn different_values_have_different_keys() {
    #[derive(LockKey)]
    struct Pair(&'static str, &'static str);
    let mut keys = std::collections::HashSet::new();
    let parts = ["", "a", ";", "a;1=b", "(", ")", "=", "%", "%3B", "0=", "é", " "];
    for first in parts {
        for second in parts {
            assert!(keys.insert(key_of(Pair(first, second)).await));
        }
    }
}

/// A macro that writes the struct, its fields coming from elsewhere.
#[tokio::test]
async fn structs_from_a_macro() {
    macro_rules! key {
        ($name:ident { $($field:ident: $ty:ty),* }) => {
            #[derive(LockKey)]
            struct $name {
                $($field: $ty,)*
                own: u8,
            }
        };
    }
    key!(Made { given: u8, out: &'static str });
    assert_eq!(key_of(Made { given: 1, out: "x", own: 2 }).await, "(given=1;out=x;own=2)");
}
