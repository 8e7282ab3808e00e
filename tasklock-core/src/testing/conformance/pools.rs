//! Pools, where the power is there.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use tokio::task::JoinSet;

use super::{
    Arc, AsyncLock, Attempt, CLOCKS, Claim, Duration, Fencing, Intent, Key, Mode, Owner, Released, Renew, Renewed,
    Request, Suite, Ttl, fenced_after, locker, pin, poll_times, released, until_quiet,
};
use crate::{FencingToken, Grant, Locker, Pool, PoolChange, Pools, StepResult};

/// More than a backend changes in one call, and more than a page.
const MANY: usize = 1_000;

impl<B: AsyncLock, F: AsyncFn() -> B> Suite<F> {
    /// Each member is granted to one at a time, the same nonce is granted the same again, and tokens rise.
    pub async fn members_are_held_alone(&self) {
        let (here, there) = (self.client().await, self.client().await);
        let Some(power) = here.powers().pools else { return };
        let key = self.pool_key("alone");
        change(power, &key, PoolChange::Assign(names(["a", "b"]))).await;
        let [one, two, three] = [(); 3].map(|()| request(&key, Intent::Try));
        let first = granted(here.try_acquire(&one).await, "two free members");
        let second = granted(there.try_acquire(&two).await, "one free member");
        assert_ne!(first.member, second.member, "one member was granted twice");
        assert_rising(&first, &second);
        let again = granted(there.try_acquire(&two).await, "the same nonce again");
        assert_eq!((&again.member, again.token), (&second.member, second.token), "the same nonce got something else");
        busy(here.try_acquire(&three).await, "a pool without a free member");
        for (store, request) in [(&here, &one), (&there, &two)] {
            let renewed = store.renew(&[Claim::of(request)]).await;
            assert!(matches!(renewed[..], [Ok(Renewed::Held { .. })]), "a holder cannot renew: {renewed:?}");
        }
        self.clean(&here, &one).await;
        let third = granted(here.try_acquire(&three).await, "a member that was given back");
        assert_eq!(third.member, first.member);
        assert_rising(&second, &third);
        self.clean(&here, &three).await;
        self.clean(&there, &two).await;
        self.empty(&here, &key).await;
    }

    /// A give-back that is repeated, or comes too late, frees nothing that is somebody else's.
    pub async fn a_stale_give_back_frees_nothing(&self) {
        let store = self.client().await;
        let Some(power) = store.powers().pools else { return };
        let key = self.pool_key("stale");
        change(power, &key, PoolChange::Assign(names(["a"]))).await;
        let [first, second, third] = [(); 3].map(|()| request(&key, Intent::Try));
        granted(store.try_acquire(&first).await, "a free member");
        self.clean(&store, &first).await;
        granted(store.try_acquire(&second).await, "a member that was given back");
        assert_eq!(released(store.release(&Claim::of(&first)).await), Released::NotOwner);
        let renewed = store.renew(&[Claim::of(&first)]).await;
        assert!(matches!(renewed[..], [Ok(Renewed::NotOwner)]), "renewed after it was given back: {renewed:?}");
        busy(store.try_acquire(&third).await, "a member that a stale give-back must not free");
        // One that never was granted anything frees nothing either, nor does one that is withdrawn before it arrives.
        assert_eq!(released(store.release(&Claim::of(&third)).await), Released::NotOwner);
        let withdrawn = request(&key, Intent::Wait);
        let mut claim = Claim::of(&withdrawn);
        claim.unsettled = true;
        assert_eq!(released(store.release(&claim).await), Released::NotOwner);
        self.clean(&store, &second).await;
        if let Ok(Attempt::Granted(_)) = store.try_acquire(&withdrawn).await {
            panic!("a withdrawn nonce was granted a member");
        }
        granted(store.try_acquire(&third).await, "a free member");
        self.clean(&store, &third).await;
        self.empty(&store, &key).await;
    }

    /// A member whose holder goes silent is somebody else's after the ttl, and the silent one knows; its late give-back
    /// frees nothing.
    pub async fn members_of_silent_holders_come_back(&self) {
        let (here, there) = (self.client().await, self.client().await);
        if here.powers().pools.is_none() {
            return;
        }
        let (here, there) = (locker(here), locker(there));
        let (pool, other) = (self.pool(&here, "silent"), self.pool(&there, "silent"));
        pool.assign(["a", "b"]).await.expect("a change");
        let _kept = other.acquire().await.expect("a free member");
        let silent = pool.clone().ttl(Duration::from_millis(300)).renew(Renew::Off);
        let silent = silent.acquire().await.expect("a free member");
        let next = other.acquire().await.expect("a member whose holder went silent");
        assert!(!silent.is_held(), "two holders");
        assert_eq!(next.member(), silent.member());
        assert!(fenced_after(&next, &silent), "tokens went back over an expiry");
        silent.release().await.expect("an answer");
        assert!(other.try_acquire().await.expect("an answer").is_none(), "a late give-back freed what is another's");
        assert!(next.is_held());
        drop(next);
        drop(_kept);
        self.cleared(&[&here, &there], &pool).await;
    }

    /// First come, first served, and told.
    pub async fn who_waits_for_a_member_is_served_in_order(&self) {
        let store = self.client().await;
        let Some(power) = store.powers().pools else { return };
        if !store.capabilities().fair {
            return;
        }
        let key = self.pool_key("order");
        change(power, &key, PoolChange::Assign(names(["a", "b"]))).await;
        let holders = [(); 2].map(|()| request(&key, Intent::Try));
        for holder in &holders {
            granted(store.try_acquire(holder).await, "a free member");
        }
        let mut waiters = Vec::new();
        for _ in 0..5 {
            let (store, request) = (self.client().await, request(&key, Intent::Wait));
            busy(store.try_acquire(&request).await, "a pool without a free member");
            waiters.push((store, request));
        }
        self.clean(&store, &holders[0]).await;
        for (store, request) in &mut waiters {
            busy(store.try_acquire(&self::request(&key, Intent::Try)).await, "a member that others wait for");
            let told = tokio::time::timeout(super::TTL, store.wait(request)).await;
            assert!(matches!(told, Ok(Ok(_))), "a member was given back, and the first was not told: {told:?}");
            request.intent = Intent::Poll { attempt: 1 };
            granted(store.try_acquire(request).await, "a member to whoever came first");
            self.clean(store, request).await;
        }
        self.clean(&store, &holders[1]).await;
        self.empty(&store, &key).await;
    }

    /// Members that are added wake those who wait, and a pool without members is waited for.
    pub async fn added_members_wake_those_who_wait(&self) {
        let store = self.client().await;
        if store.powers().pools.is_none() {
            return;
        }
        let lock = locker(store);
        let pool = self.pool(&lock, "added");
        assert!(pool.try_acquire().await.expect("an answer").is_none(), "a pool without members");
        let others = [locker(self.client().await), locker(self.client().await), locker(self.client().await)];
        let mut waiting = JoinSet::new();
        for other in &others {
            let pool = self.pool(other, "added");
            waiting.spawn(async move { pool.acquire().await.expect("a member, once there is one") });
        }
        while pool.health().await.expect("an answer").waiters < others.len() as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        pool.extend(["a"]).await.expect("a change");
        let first = waiting.join_next().await.expect("a waiter").expect("no panic");
        assert_eq!(first.member(), "a");
        pool.assign(["a", "b", "c"]).await.expect("a change");
        let second = waiting.join_next().await.expect("a waiter").expect("no panic");
        let third = waiting.join_next().await.expect("a waiter").expect("no panic");
        let members: HashSet<&str> = [&first, &second, &third].map(|guard| guard.member()).into();
        assert_eq!(members, HashSet::from(["a", "b", "c"]));
        drop((first, second, third));
        let lockers: Vec<&Locker> = others.iter().chain([&lock]).collect();
        self.cleared(&lockers, &pool).await;
    }

    /// Who holds a member that is taken out keeps it; then it is gone, unless it was put in again meanwhile, in which case
    /// it is still held.
    pub async fn members_taken_out_are_kept_until_given_back(&self) {
        let store = self.client().await;
        let Some(power) = store.powers().pools else { return };
        let key = self.pool_key("taken out");
        change(power, &key, PoolChange::Assign(names(["a"]))).await;
        for (out, back) in [
            (PoolChange::Shrink(names(["a"])), PoolChange::Extend(names(["a", "b"]))),
            (PoolChange::Assign(Vec::new()), PoolChange::Assign(names(["b", "a"]))),
        ] {
            change(power, &key, PoolChange::Assign(names(["a"]))).await;
            let [holder, other, third] = [(); 3].map(|()| request(&key, Intent::Try));
            assert_eq!(granted(store.try_acquire(&holder).await, "a free member").member.as_deref(), Some("a"));
            change(power, &key, out.clone()).await;
            assert_eq!(power.health(&key).await.expect("an answer").members(), 0);
            busy(store.try_acquire(&other).await, "a pool without members");
            let renewed = store.renew(&[Claim::of(&holder)]).await;
            assert!(matches!(renewed[..], [Ok(Renewed::Held { .. })]), "lost for being taken out: {renewed:?}");
            change(power, &key, back.clone()).await;
            let state = power.inspect(&key, &names(["a", "b", "c"])).await.expect("an answer");
            assert!(state[0].as_ref().is_some_and(|a| !a.is_free()), "put in again, and not held: {state:?}");
            assert!(state[1].as_ref().is_some_and(crate::State::is_free) && state[2].is_none(), "{state:?}");
            assert_eq!(granted(store.try_acquire(&other).await, "b is free").member.as_deref(), Some("b"));
            busy(store.try_acquire(&third).await, "a is held still");
            change(power, &key, out).await;
            self.clean(&store, &holder).await;
            change(power, &key, PoolChange::Shrink(names(["b"]))).await;
            self.clean(&store, &other).await;
            busy(store.try_acquire(&third).await, "members that are gone");
            assert_eq!(power.health(&key).await.expect("an answer").members(), 0);
        }
        self.empty(&store, &key).await;
    }

    /// Who belongs to it is what was said last, whoever asks; held members are counted, and told by their holders.
    pub async fn pools_tell_their_members(&self) {
        let (here, there) = (self.client().await, self.client().await);
        if here.powers().pools.is_none() {
            return;
        }
        let (here, there) = (locker(here), locker(there));
        let (pool, other) = (self.pool(&here, "tell"), self.pool(&there, "tell"));
        assert!(other.is_empty().await.expect("an answer"));
        let numbers = |range: std::ops::Range<usize>| range.map(|number| format!("member {number}"));
        pool.assign(numbers(0..MANY)).await.expect("a change");
        assert_eq!(other.len().await.expect("an answer"), MANY as u64);
        let all: HashSet<String> = numbers(0..MANY).collect();
        let told: HashSet<String> = other.members().await.expect("members").iter().map(|m| m.to_string()).collect();
        assert_eq!(told, all);
        let mut scan = other.scan();
        let mut scanned = HashSet::new();
        while let Some(page) = scan.next().await.expect("a page") {
            scanned.extend(page.iter().map(|member| member.to_string()));
        }
        assert_eq!(scanned, all);
        pool.extend(numbers(MANY / 2..MANY + 10)).await.expect("a change");
        other.shrink(numbers(0..10)).await.expect("a change");
        let guard = pool.acquire().await.expect("a member");
        let health = other.health().await.expect("an answer");
        assert_eq!((health.locked, health.free, health.waiters), (1, MANY as u64 - 1, 0));
        let who = other.who([guard.member(), "member 0", "member 1001"]).await.expect("an answer");
        let [(_, Some(held)), (_, None), (_, Some(free))] = &who[..] else { panic!("{who:?}") };
        let holder = held.holder.as_ref().expect("a holder");
        assert_eq!(holder.token, Some(guard.fencing_token()), "told under another token");
        assert!(holder.remaining.is_some_and(|left| !left.is_zero() && left <= Duration::from_secs(31)), "{holder:?}");
        assert_eq!(holder.owner, Owner::this_process(), "told under another owner");
        assert!(holder.silent.is_none_or(|silent| silent <= guard.held() + CLOCKS), "silent for {:?}", holder.silent);
        assert!(free.is_free());
        assert!(other.contains("member 1001").await.expect("an answer"));
        // A lock of the same name is another thing, and so is its queue.
        let lock = there.try_acquire(self.name("tell")).await.expect("an answer").expect("nobody holds the lock");
        drop((lock, guard));
        other.assign(["a"]).await.expect("a change");
        assert_eq!(pool.members().await.expect("members").len(), 1);
        self.cleared(&[&here, &there], &pool).await;
    }

    /// A name gets the member that it had, if that is free; else any. Without a name it is the one that is free for longest.
    pub async fn a_name_gets_the_member_it_had(&self) {
        let store = self.client().await;
        if store.powers().pools.is_none() {
            return;
        }
        let lock = locker(store);
        let pool = self.pool(&lock, "affinity");
        pool.assign(["a", "b", "c"]).await.expect("a change");
        let named = pool.clone().affinity("tenant 7");
        let guard = named.acquire().await.expect("a member");
        let had = guard.member().to_owned();
        guard.release().await.expect("a release");
        for _ in 0..4 {
            // The others in turn, and between two of them the same one again.
            let guard = pool.acquire().await.expect("a member");
            assert_ne!(guard.member(), had, "the one that is free for the shortest time");
            guard.release().await.expect("a release");
            let guard = named.acquire().await.expect("a member");
            assert_eq!(guard.member(), had);
            guard.release().await.expect("a release");
        }
        let all = [pool.acquire().await, pool.acquire().await].map(|guard| guard.expect("a member"));
        let taken = pool.acquire().await.expect("a member");
        assert_eq!(taken.member(), had);
        let [one, two] = all;
        one.release().await.expect("a release");
        let other = named.acquire().await.expect("another, since its own is held");
        assert_ne!(other.member(), had);
        drop((other, taken, two));
        assert!(pool.clone().affinity("").acquire().await.is_err(), "a name that is none");
        self.cleared(&[&lock], &pool).await;
    }

    /// Many tasks of two clients share a few members: none is ever held twice, and each one's tokens rise.
    pub async fn members_are_shared_by_many(&self) {
        let store = self.client().await;
        if store.powers().pools.is_none() {
            return;
        }
        let strong = store.capabilities().fencing == Fencing::Strong;
        let lockers = [locker(store), locker(self.client().await)];
        let pools = [self.pool(&lockers[0], "many"), self.pool(&lockers[1], "many")];
        pools[0].assign(["a", "b", "c"]).await.expect("a change");
        let seen = Arc::new(Mutex::new((HashSet::new(), FencingToken::NONE)));
        let mut tasks = JoinSet::new();
        for task in 0..9 {
            let (pool, seen) = (pools[task % 2].clone(), seen.clone());
            let pool = if task % 3 == 0 { pool.affinity(format!("task {task}")) } else { pool };
            tasks.spawn(async move {
                for _ in 0..8 {
                    let guard = pool.acquire().await.expect("a member");
                    let member = guard.member().to_owned();
                    {
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        assert!(seen.0.insert(member.clone()), "{member} is held twice");
                        seen.1 = seen.1.max(guard.fencing_token());
                    }
                    tokio::task::yield_now().await;
                    seen.lock().unwrap_or_else(PoisonError::into_inner).0.remove(&member);
                    if task % 4 != 0 {
                        guard.release().await.expect("a release");
                    }
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no task fails");
        }
        let highest = seen.lock().unwrap_or_else(PoisonError::into_inner).1;
        let last = pools[0].acquire().await.expect("a member");
        assert!(!strong || last.fencing_token() > highest, "tokens went back");
        drop(last);
        self.cleared(&lockers.each_ref(), &pools[0]).await;
    }

    /// An acquisition dropped after its n-th poll leaves no holder and no waiter, whether a member is free, held, or given
    /// back meanwhile.
    pub async fn dropped_waits_for_members_leave_nothing(&self) {
        let store = self.client().await;
        if store.powers().pools.is_none() {
            return;
        }
        let (here, there) = (locker(store), locker(self.client().await));
        let (pool, other) = (self.pool(&here, "cancel"), self.pool(&there, "cancel"));
        pool.assign(["a"]).await.expect("a change");
        for given_back_after in [0, 1, 2, 3, usize::MAX] {
            let most = if given_back_after == usize::MAX { 6 } else { 100 };
            for polls in 0..most {
                let mut blocker = None;
                if given_back_after > 0 {
                    blocker = Some(other.acquire().await.expect("a free member"));
                }
                let done = {
                    let mut acquisition = pin!(pool.acquire());
                    let first = poll_times(acquisition.as_mut(), polls.min(given_back_after)).await;
                    if polls > given_back_after {
                        blocker = None;
                    }
                    let after = polls.saturating_sub(given_back_after);
                    let then = if first.is_none() { poll_times(acquisition.as_mut(), after).await } else { None };
                    first.or(then).map(|outcome| drop(outcome.expect("a member"))).is_some()
                };
                drop(blocker);
                until_quiet(&here).await;
                until_quiet(&there).await;
                let health = other.health().await.expect("an answer");
                let at = format!("given back after {given_back_after}, dropped after {polls}");
                assert_eq!((health.locked, health.free, health.waiters), (0, 1, 0), "{at}: left something");
                assert_eq!(here.stats(), crate::Stats::default(), "{at}: left something");
                if done {
                    break;
                }
            }
        }
        self.cleared(&[&here, &there], &pool).await;
    }

    fn pool_key(&self, case: &str) -> Key {
        self.key(case).for_pool()
    }

    fn pool(&self, locker: &Locker, case: &str) -> Pool {
        locker.pool(self.name(case)).expect("a power that its twin has")
    }

    async fn empty(&self, store: &B, key: &Key) {
        let power = store.powers().pools.expect("the power");
        change(power, key, PoolChange::Assign(Vec::new())).await;
    }

    async fn cleared(&self, lockers: &[&Locker], pool: &Pool) {
        for locker in lockers {
            until_quiet(locker).await;
        }
        pool.clear().await.expect("a change");
        assert!(pool.is_empty().await.expect("an answer"), "cleared, and not empty");
    }
}

fn request(key: &Key, intent: Intent) -> Request {
    let request = super::request(key, intent);
    Request { mode: Mode::Member, ttl: Ttl::For(super::TTL), ..request }
}

async fn change(power: &dyn Pools, key: &Key, change: PoolChange) {
    power.change(key, &change).await.expect("a change");
}

fn names<const N: usize>(names: [&str; N]) -> Vec<Arc<str>> {
    names.map(Arc::from).into()
}

fn granted(outcome: StepResult<Attempt>, what: &str) -> Grant {
    match outcome {
        Ok(Attempt::Granted(grant)) => {
            assert!(grant.member.is_some(), "{what}: granted, and no member told");
            grant
        }
        other => panic!("{what}: not granted: {other:?}"),
    }
}

fn busy(outcome: StepResult<Attempt>, what: &str) {
    super::busy(outcome, what);
}

fn assert_rising(before: &Grant, after: &Grant) {
    assert!(after.token.is_none() || after.token > before.token, "{:?} after {:?}", after.token, before.token);
}
