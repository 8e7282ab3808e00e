//! Shared locks and permits, where they are declared.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::{
    Arc, AsyncLock, Attempt, Claim, Duration, Expiry, FencingToken, Intent, Key, Mode, NonZeroU32, Released, Renew,
    Renewed, Request, Suite, busy, granted, locker, pin, poll_times, released, until_quiet,
};

impl<B: AsyncLock, F: AsyncFn() -> B> Suite<F> {
    /// Readers hold together, each by itself; a writer has it alone.
    pub async fn readers_share_and_writers_do_not(&self) {
        let (here, there) = (self.client().await, self.client().await);
        if !here.capabilities().shared {
            return;
        }
        let key = self.key("readers");
        let [one, two, late] = [(); 3].map(|()| request(&key, Mode::Shared, Intent::Try));
        let writer = request(&key, Mode::Exclusive, Intent::Try);
        let first = granted(here.try_acquire(&one).await, "a free key");
        let second = granted(there.try_acquire(&two).await, "a shared key");
        assert_rising(first, second);
        assert_eq!(granted(here.try_acquire(&one).await, "the same reader again"), first, "another token");
        busy(there.try_acquire(&writer).await, "a key with two readers");
        for (store, request) in [(&here, &one), (&there, &two)] {
            let renewed = store.renew(&[Claim::of(request)]).await;
            assert!(matches!(renewed[..], [Ok(Renewed::Held { .. })]), "a reader cannot renew: {renewed:?}");
        }
        self.clean(&there, &two).await;
        assert_eq!(released(there.release(&Claim::of(&two)).await), Released::NotOwner, "released twice");
        busy(there.try_acquire(&writer).await, "a key with one reader");
        assert!(!there.inspect(&key).await.expect("an answer").is_free(), "one reader is left");
        self.clean(&here, &one).await;
        assert!(there.inspect(&key).await.expect("an answer").is_free(), "the last reader has left");
        let third = granted(there.try_acquire(&writer).await, "a free key");
        assert_rising(second, third);
        busy(here.try_acquire(&late).await, "a key with a writer");
        self.clean(&there, &writer).await;
    }

    /// As many permits as the caller says there are, each held by itself.
    pub async fn permits_are_as_many_as_the_caller_says(&self) {
        let (here, there) = (self.client().await, self.client().await);
        if !here.capabilities().permits {
            return;
        }
        let key = self.key("permits");
        let [one, two, three] = [(); 3].map(|()| request(&key, permit(2), Intent::Try));
        let first = granted(here.try_acquire(&one).await, "a free key");
        let second = granted(there.try_acquire(&two).await, "one permit of two");
        assert_rising(first, second);
        assert_eq!(granted(there.try_acquire(&two).await, "the same permit again"), second, "another token");
        busy(here.try_acquire(&three).await, "no permit of two");
        let more = request(&key, permit(3), Intent::Try);
        granted(there.try_acquire(&more).await, "the third for one who says that there are three");
        let renewed = here.renew(&[Claim::of(&one)]).await;
        assert!(matches!(renewed[..], [Ok(Renewed::Held { .. })]), "a permit cannot be renewed: {renewed:?}");
        self.clean(&here, &one).await;
        busy(here.try_acquire(&three).await, "still two of two");
        self.clean(&there, &two).await;
        let third = granted(here.try_acquire(&three).await, "one permit of two");
        assert_rising(second, third);
        self.clean(&here, &three).await;
        self.clean(&there, &more).await;
        assert!(there.inspect(&key).await.expect("an answer").is_free(), "the last permit was given back");
    }

    /// Who holds in one mode keeps out who asks in another.
    pub async fn modes_exclude_each_other(&self) {
        let store = self.client().await;
        let declared = store.capabilities();
        let known = |mode: &Mode| match mode {
            Mode::Exclusive => true,
            Mode::Shared => declared.shared,
            Mode::Permit { .. } => declared.permits,
            Mode::Member => false,
        };
        let modes: Vec<Mode> = [Mode::Exclusive, Mode::Shared, permit(9)].into_iter().filter(known).collect();
        for (number, held) in modes.iter().enumerate() {
            let key = self.key(&format!("modes {number}"));
            let holder = request(&key, *held, Intent::Try);
            granted(store.try_acquire(&holder).await, "a free key");
            for asked in modes.iter().filter(|asked| *asked != held || *held == Mode::Exclusive) {
                let other = request(&key, *asked, Intent::Try);
                busy(store.try_acquire(&other).await, &format!("{asked:?} beside {held:?}"));
            }
            self.clean(&store, &holder).await;
        }
    }

    /// A writer that waits keeps later readers behind it; one that leaves lets them in.
    pub async fn a_waiting_writer_keeps_later_readers_behind_it(&self) {
        let store = self.client().await;
        if !(store.capabilities().shared && store.capabilities().fair) {
            return;
        }
        let key = self.key("writer waits");
        let reader = request(&key, Mode::Shared, Intent::Try);
        granted(store.try_acquire(&reader).await, "a free key");
        let [mut writer, leaver] = [(); 2].map(|()| request(&key, Mode::Exclusive, Intent::Wait));
        let mut late = request(&key, Mode::Shared, Intent::Wait);
        for waiter in [&writer, &late, &leaver] {
            busy(store.try_acquire(waiter).await, "a key with a reader and a waiting writer");
        }
        let trying = request(&key, Mode::Shared, Intent::Try);
        busy(store.try_acquire(&trying).await, "a key that a writer waits for");
        self.clean(&store, &reader).await;
        polled(&store, &mut writer).await;
        busy(again(&store, &mut late).await, "a key with a writer");
        self.clean(&store, &writer).await;
        polled(&store, &mut late).await;
        busy(store.try_acquire(&trying).await, "a key that another writer waits for");
        assert_eq!(released(store.release(&Claim::of(&leaver)).await), Released::NotOwner);
        granted(store.try_acquire(&trying).await, "a key whose waiting writer has left");
        self.clean(&store, &late).await;
        self.clean(&store, &trying).await;
    }

    /// Readers that stand together at the head of the queue are let in together, and no others.
    pub async fn readers_at_the_head_enter_together(&self) {
        let store = self.client().await;
        if !(store.capabilities().shared && store.capabilities().fair) {
            return;
        }
        let key = self.key("readers enter");
        let holder = request(&key, Mode::Exclusive, Intent::Try);
        granted(store.try_acquire(&holder).await, "a free key");
        let [mut one, mut two, mut three] = [(); 3].map(|()| request(&key, Mode::Shared, Intent::Wait));
        let mut writer = request(&key, Mode::Exclusive, Intent::Wait);
        for waiter in [&one, &two, &writer, &three] {
            busy(store.try_acquire(waiter).await, "a held key");
        }
        self.clean(&store, &holder).await;
        // The second first: nobody has to look for the others.
        polled(&store, &mut two).await;
        polled(&store, &mut one).await;
        busy(again(&store, &mut three).await, "a key that a writer waited for first");
        busy(again(&store, &mut writer).await, "a key with readers");
        self.clean(&store, &one).await;
        busy(again(&store, &mut writer).await, "a key with a reader");
        self.clean(&store, &two).await;
        polled(&store, &mut writer).await;
        self.clean(&store, &writer).await;
        polled(&store, &mut three).await;
        self.clean(&store, &three).await;
    }

    /// Who waits for a permit is served in order.
    pub async fn permits_are_given_in_order(&self) {
        let store = self.client().await;
        if !(store.capabilities().permits && store.capabilities().fair) {
            return;
        }
        let key = self.key("permits in order");
        let holders = [(); 2].map(|()| request(&key, permit(2), Intent::Try));
        for holder in &holders {
            granted(store.try_acquire(holder).await, "a permit of two");
        }
        let mut waiters = [(); 3].map(|()| request(&key, permit(2), Intent::Wait));
        for waiter in &waiters {
            busy(store.try_acquire(waiter).await, "no permit of two");
        }
        let [one, two, three] = &mut waiters;
        self.clean(&store, &holders[1]).await;
        busy(store.try_acquire(&request(&key, permit(2), Intent::Try)).await, "a permit others wait for");
        busy(again(&store, two).await, "a permit for the one before");
        polled(&store, one).await;
        self.clean(&store, &holders[0]).await;
        polled(&store, two).await;
        busy(again(&store, three).await, "no permit of two");
        self.clean(&store, one).await;
        polled(&store, three).await;
        self.clean(&store, two).await;
        self.clean(&store, three).await;
    }

    /// A holder that goes silent loses its own share, and nobody else's.
    pub async fn silent_readers_and_permits_expire_alone(&self) {
        let (here, there) = (self.client().await, self.client().await);
        let declared = here.capabilities().clone();
        if declared.expiry != Expiry::Server {
            return;
        }
        let (here, there) = (locker(here), locker(there));
        let short = Duration::from_millis(300);
        if declared.shared {
            let name = self.name("silent reader");
            let silent = here.key(&name).shared().ttl(short).renew(Renew::Off).acquire().await.expect("a free key");
            let live = there.key(&name).shared().acquire().await.expect("a shared key");
            silent.lost().await;
            assert!(live.is_held(), "one reader's end was the other's");
            assert!(here.try_acquire(&name).await.expect("an answer").is_none(), "free for a writer beside a reader");
            live.release().await.expect("a release");
            // The silent one is not released: it has to expire.
            let writer = there.acquire(&name).await.expect("a key whose reader has expired");
            drop(silent);
            until_quiet(&here).await;
            assert!(writer.is_held(), "the expired reader's release took the writer's lock");
            writer.release().await.expect("a release");
        }
        if declared.permits {
            let name = self.name("silent permit");
            let silent = here.key(&name).permits(2).ttl(short).renew(Renew::Off).acquire().await.expect("a permit");
            let live = there.semaphore(&name, 2).expect("permits").acquire().await.expect("a permit");
            let next = there.semaphore(&name, 2).expect("permits").acquire().await.expect("an expired permit");
            assert!(!silent.is_held(), "three of two");
            assert!(live.is_held() && next.is_held(), "one permit's end was another's");
            drop(silent);
            until_quiet(&here).await;
            assert!(there.key(&name).permits(2).try_acquire().await.expect("an answer").is_none(), "three of two");
            live.release().await.expect("a release");
            next.release().await.expect("a release");
        }
    }

    /// Tasks of two clients that read and write: a writer is alone.
    pub async fn readers_and_writers_take_turns(&self) {
        let lockers = [locker(self.client().await), locker(self.client().await)];
        if !lockers[0].capabilities().shared {
            return;
        }
        let name = self.name("turns");
        let inside = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let (lock, inside) = (lockers[task % 2].rw(&name).expect("shared locks"), inside.clone());
            tasks.spawn(async move {
                // Readers count ones, writers thousands.
                for turn in 0..6 {
                    let write = (task + turn) % 3 == 0;
                    let guard = if write { lock.write().await } else { lock.read().await }.expect("the lock");
                    let step = if write { 1000 } else { 1 };
                    let before = inside.fetch_add(step, Ordering::SeqCst);
                    assert!(if write { before == 0 } else { before < 1000 }, "{before} inside, one more: {step}");
                    tokio::task::yield_now().await;
                    inside.fetch_sub(step, Ordering::SeqCst);
                    guard.release().await.expect("a release");
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no task fails");
        }
        self.clean_after(&lockers).await;
    }

    /// Tasks of two clients that want permits: never more than there are.
    pub async fn permits_are_never_exceeded(&self) {
        let lockers = [locker(self.client().await), locker(self.client().await)];
        if !lockers[0].capabilities().permits {
            return;
        }
        let name = self.name("crowd");
        let inside = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for task in 0..9 {
            let lock = lockers[task % 2].semaphore(&name, 3).expect("permits");
            let inside = inside.clone();
            tasks.spawn(async move {
                for _ in 0..6 {
                    let guard = lock.acquire().await.expect("a permit");
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(now <= 3, "{now} permits of 3");
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    if task % 3 != 0 {
                        guard.release().await.expect("a release");
                    }
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no task fails");
        }
        self.clean_after(&lockers).await;
    }

    /// Readers and permits dropped after their n-th poll, for every n, leave nothing; whether somebody else holds or not.
    pub async fn dropped_readers_and_permits_leave_nothing(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let declared = here.capabilities();
        let name = self.name("dropped modes");
        let read = declared.shared.then(|| here.key(&name).shared());
        let permit = declared.permits.then(|| here.key(&name).permits(2));
        for (wanted, held) in read.iter().chain(&permit).flat_map(|wanted| [(wanted, false), (wanted, true)]) {
            for polls in 0..if held { 6 } else { 100 } {
                let blocker = if held { Some(there.acquire(&name).await.expect("a free key")) } else { None };
                let outcome = poll_times(pin!(wanted.acquire()), polls).await;
                let done = outcome.map(|outcome| drop(outcome.expect("the lock"))).is_some();
                drop(blocker);
                until_quiet(&here).await;
                until_quiet(&there).await;
                let state = there.inspect(&name).await.expect("an answer");
                assert!(state.is_free(), "left a holder: {held} {polls} {state:?}");
                assert_eq!(state.waiters.unwrap_or(0), 0, "left a waiter: {held} {polls}");
                assert_eq!(here.stats(), crate::Stats::default(), "left something: {held} {polls}");
                if done {
                    break;
                }
            }
        }
    }
}

fn request(key: &Key, mode: Mode, intent: Intent) -> Request {
    Request { mode, ..super::request(key, intent) }
}

fn permit(of: u32) -> Mode {
    Mode::Permit { of: NonZeroU32::new(of).expect("some permits") }
}

async fn again(store: &impl AsyncLock, request: &mut Request) -> crate::StepResult<Attempt> {
    request.intent = Intent::Poll { attempt: 1 };
    store.try_acquire(request).await
}

async fn polled(store: &impl AsyncLock, request: &mut Request) {
    granted(again(store, request).await, "a waiter whose turn has come");
}

fn assert_rising(before: Option<FencingToken>, after: Option<FencingToken>) {
    assert!(before.is_none() || after > before, "{after:?} after {before:?}");
}
