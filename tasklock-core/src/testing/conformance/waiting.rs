//! Waiting at the store: withdrawn, pushed, in order.

use super::{
    AsyncLock, Attempt, Claim, Intent, Released, Suite, TTL, Wake, WakeBy, busy, granted, pin, poll_times, released,
    request,
};

impl<B: AsyncLock, F: AsyncFn() -> B> Suite<F> {
    /// A waiter that left gets nothing.
    pub async fn a_withdrawn_waiter_is_never_granted(&self) {
        let (store, key) = (self.client().await, self.key("withdraw"));
        let (holder, waiter, third) =
            (request(&key, Intent::Try), request(&key, Intent::Wait), request(&key, Intent::Try));
        granted(store.try_acquire(&holder).await, "a free key");
        busy(store.try_acquire(&waiter).await, "a held key");
        assert_eq!(released(store.release(&Claim::of(&waiter)).await), Released::NotOwner);
        self.clean(&store, &holder).await;
        granted(store.try_acquire(&third).await, "a key whose only waiter has left");
        self.clean(&store, &third).await;
    }

    /// A release that comes before its own attempt leaves that attempt nothing to take.
    pub async fn a_late_attempt_finds_nothing_after_its_withdrawal(&self) {
        let (store, key) = (self.client().await, self.key("late"));
        let (late, next) = (request(&key, Intent::Wait), request(&key, Intent::Try));
        let mut claim = Claim::of(&late);
        claim.unsettled = true;
        assert_eq!(released(store.release(&claim).await), Released::NotOwner);
        if let Ok(Attempt::Granted(_)) = store.try_acquire(&late).await {
            panic!("a withdrawn nonce was granted");
        }
        granted(store.try_acquire(&next).await, "a key nobody has");
        self.clean(&store, &next).await;
    }

    /// A push reaches the waiter, also if its first wait was dropped.
    pub async fn wait_is_pushed_and_can_be_called_again(&self) {
        let (store, key) = (self.client().await, self.key("push"));
        if store.capabilities().wake != WakeBy::Push {
            return;
        }
        let (holder, waiter) = (request(&key, Intent::Try), request(&key, Intent::Wait));
        granted(store.try_acquire(&holder).await, "a free key");
        busy(store.try_acquire(&waiter).await, "a held key");
        let early = poll_times(pin!(store.wait(&waiter)), 1).await;
        assert!(!matches!(early, Some(Ok(Wake::Granted(_)))), "granted while held");
        self.clean(&store, &holder).await;
        let told = tokio::time::timeout(TTL, store.wait(&waiter)).await;
        assert!(matches!(told, Ok(Ok(_))), "push is declared, and a release told the waiter nothing: {told:?}");
        self.until_granted(&store, &waiter).await;
        busy(store.try_acquire(&request(&key, Intent::Try)).await, "a key the waiter has");
        self.clean(&store, &waiter).await;
    }

    /// A grant whose waiter is gone goes to the next.
    pub async fn a_grant_nobody_takes_can_be_given_back(&self) {
        let (store, key) = (self.client().await, self.key("untaken"));
        let (holder, gone, next) =
            (request(&key, Intent::Try), request(&key, Intent::Wait), request(&key, Intent::Wait));
        granted(store.try_acquire(&holder).await, "a free key");
        busy(store.try_acquire(&gone).await, "a held key");
        self.clean(&store, &holder).await;
        let _ = released(store.release(&Claim::of(&gone)).await);
        self.until_granted(&store, &next).await;
        self.clean(&store, &next).await;
    }

    /// First come, first served, where that is declared.
    pub async fn waiters_are_served_in_order(&self) {
        let (store, key) = (self.client().await, self.key("order"));
        if !store.capabilities().fair {
            return;
        }
        let holder = request(&key, Intent::Try);
        granted(store.try_acquire(&holder).await, "a free key");
        let mut waiters = Vec::new();
        for _ in 0..5 {
            let (store, request) = (self.client().await, request(&key, Intent::Wait));
            busy(store.try_acquire(&request).await, "a held key");
            waiters.push((store, request));
        }
        self.clean(&store, &holder).await;
        for (store, request) in &mut waiters {
            request.intent = Intent::Poll { attempt: 1 };
            granted(store.try_acquire(request).await, "a key to the waiter that came first");
            busy(store.try_acquire(&self::request(&key, Intent::Try)).await, "a key others wait for");
            self.clean(store, request).await;
        }
    }
}
