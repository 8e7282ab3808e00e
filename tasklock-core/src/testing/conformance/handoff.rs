//! Further tokens with a renewal, where they are declared; and the hand-over within a process that they are for.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::{
    Arc, AsyncLock, Claim, FencingToken, Intent, NonZeroU32, Renewed, Suite, busy, granted, locker, released, renew,
    request,
};

impl<B: AsyncLock, F: AsyncFn() -> B> Suite<F> {
    /// What a renewal reserves is above all tokens before, and below all after; and it tells how many wait.
    pub async fn renewals_reserve_tokens(&self) {
        let (here, there) = (self.client().await, self.client().await);
        if !here.capabilities().spans {
            return;
        }
        let key = self.key("spans");
        let (held, waits, later) =
            (request(&key, Intent::Try), request(&key, Intent::Wait), request(&key, Intent::Try));
        let token = granted(here.try_acquire(&held).await, "a free key");
        let mut claim = Claim { token, ..Claim::of(&held) };
        let mut last = token.expect("tokens, where more of them are declared");
        for count in [1, 64, 1000] {
            claim.span = NonZeroU32::new(count);
            let renewed = renew(&here, std::slice::from_ref(&claim)).await;
            let [Ok(Renewed::Held { token: told, waiters, more: Some(span), .. })] = renewed[..] else {
                panic!("nothing was reserved: {renewed:?}")
            };
            assert!(told.is_none() || told == token, "renewed under another token");
            assert_eq!(waiters, Some(0), "nobody waits");
            assert!(span.first > last && span.count.get() <= count, "{span:?} after {last}");
            last = FencingToken::new(span.first.get() + u64::from(span.count.get()) - 1);
        }
        busy(there.try_acquire(&waits).await, "a held key");
        let renewed = renew(&here, std::slice::from_ref(&claim)).await;
        let [Ok(Renewed::Held { waiters, more: Some(span), .. })] = renewed[..] else {
            panic!("nothing was reserved: {renewed:?}")
        };
        assert!(here.capabilities().keeps_no_queue() || waiters != Some(0), "a waiter was not told of");
        last = FencingToken::new(span.first.get() + u64::from(span.count.get()) - 1);
        let _ = released(there.release(&Claim::of(&waits)).await);
        self.clean(&here, &held).await;
        let renewed = renew(&here, std::slice::from_ref(&claim)).await;
        assert!(matches!(renewed[..], [Ok(Renewed::NotOwner)]), "reserved for one that does not hold: {renewed:?}");
        let token = granted(there.try_acquire(&later).await, "a free key");
        assert!(token > Some(last), "{token:?} after {last} was reserved");
        self.clean(&there, &later).await;
    }

    /// However busy one process is, another is let in.
    pub async fn a_busy_process_lets_others_in(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let name = self.name("busy");
        if !here.capabilities().fair {
            return;
        }
        let (stop, mut tasks) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        for _ in 0..8 {
            let (lock, stop) = (here.key(&name), stop.clone());
            tasks.spawn(async move {
                while stop.load(Ordering::Relaxed) == 0 {
                    let _guard = lock.acquire().await.expect("the lock");
                    tokio::task::yield_now().await;
                }
            });
        }
        for _ in 0..3 {
            drop(there.acquire(&name).await.expect("the lock"));
        }
        stop.store(1, Ordering::Relaxed);
        while let Some(task) = tasks.join_next().await {
            task.expect("no task fails");
        }
        self.clean_after(&[here, there]).await;
    }
}
