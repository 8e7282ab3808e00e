//! What others see of a lock, and the value beside it.

use super::{AsyncLock, Clock, Duration, Renew, SHORT_TTLS, Suite, Ttl, locker, until_quiet};
use crate::{LockError, LossReason, Status, When};

impl<B: AsyncLock, F: AsyncFn() -> B> Suite<F> {
    /// A holder is stale if it has neither acquired nor renewed for so long, and only then; in whatever mode it holds.
    pub async fn only_the_silent_are_stale(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let declared = here.capabilities();
        if !declared.signs_of_life {
            let refused = here.break_if_stale(self.name("stale"), Duration::ZERO).await;
            assert!(matches!(refused, Err(LockError::Unsupported { .. })), "not declared: {refused:?}");
            return;
        }
        let shared = declared.shared.then_some("shared");
        let never = declared.max_ttl.is_none().then_some("never");
        for mode in ["alone"].into_iter().chain(never).chain(shared) {
            let name = self.name(&format!("stale {mode}"));
            let wanted = here.key(&name).renew(Renew::Off);
            let holder = match mode {
                "alone" => wanted,
                "never" => wanted.ttl(Ttl::Never),
                _ => wanted.shared(),
            };
            let holder = holder.acquire().await.expect("a free key");
            let broken = there.break_if_stale(&name, Duration::from_secs(3600)).await;
            assert!(!broken.expect("an answer"), "{mode}: broken before its time");
            let clock = Clock::current();
            let silent = async || {
                let state = there.inspect(&name).await.expect("an answer");
                state.holder.and_then(|holder| holder.silent).expect("a store that tells signs of life")
            };
            while silent().await < Duration::from_millis(40) {
                clock.sleep_until(clock.now().after(Duration::from_millis(5))).await;
            }
            // A renewal is a sign of life, and so is one for another time.
            for ttl in [Ttl::For(Duration::from_secs(30)), Ttl::For(Duration::from_secs(40)), Ttl::Never] {
                let before = clock.now();
                holder.extend(ttl).await.expect("a renewal");
                let silent = silent().await;
                let since = clock.now().since(before) + Duration::from_millis(2);
                assert!(silent <= since, "{mode}: silent for {silent:?}, renewed {since:?} ago for {ttl:?}");
            }
            assert!(there.break_if_stale(&name, Duration::ZERO).await.expect("an answer"), "{mode}: not broken");
            assert!(there.inspect(&name).await.expect("an answer").is_free(), "{mode}: broken, and held");
            drop(holder);
            until_quiet(&here).await;
        }
        self.clean_after(&[here, there]).await;
    }

    /// A lock that never ends is told from one that does, and many are told of at once.
    pub async fn who_holds_what_is_told(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let names = ["ends", "endless", "free"].map(|name| self.name(&format!("who {name}")));
        let ends = here.acquire(&names[0]).await.expect("a free key");
        let endless = here.key(&names[1]).ttl(Ttl::Never).acquire().await;
        // A backend whose leases all have to end says so.
        let endless = match here.capabilities().max_ttl {
            Some(_) => {
                assert!(endless.is_err_and(|refused| !refused.is_retryable()), "a lease that never ends");
                None
            }
            None => Some(endless.expect("a free key")),
        };
        let told = there.who(&names).await.expect("an answer");
        let told: Vec<_> = told.iter().map(|(key, state)| (key.name(), state.is_free())).collect();
        assert_eq!(told, [(&*names[0], false), (&*names[1], endless.is_none()), (&*names[2], true)]);
        let status = |name| there.status(name, Duration::from_secs(3600));
        let is_endless = matches!(status(&names[1]).await, Ok(Status::Endless(_)));
        assert_eq!(is_endless, endless.is_some(), "a lock that never ends");
        assert!(matches!(status(&names[2]).await, Ok(Status::Free)), "a free key");
        ends.release().await.expect("a release");
        if let Some(endless) = endless {
            endless.release().await.expect("a release");
        }
        self.clean_after(&[here, there]).await;
    }

    /// The value beside a lock is changed on condition of what it is, and read by everybody.
    pub async fn values_change_on_condition(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let name = self.name("value }{ %");
        let Ok(value) = here.value(&name) else { return };
        let other = there.value(&name).expect("values");
        let keep = Duration::from_secs(60);
        assert_eq!(value.get().await.expect("an answer"), None);
        assert!(!value.delete_if(When::Always).await.expect("an answer"), "took away what was not there");
        let equal = |text: &str| When::Equal(text.to_owned());
        let unequal = |text: &str| When::NotEqual(text.to_owned());
        for (when, to, changes) in [
            (When::Greater(-5), "no", false),
            (When::AtLeast(-5), "no", false),
            (equal(""), "no", false),
            (When::AtMost(-5), "4", true),
            (When::Absent, "no", false),
            (When::Less(4), "no", false),
            (When::Less(5), "5", true),
            (When::AtMost(4), "no", false),
            (When::AtMost(5), "06", true),
            (When::Greater(6), "no", false),
            (When::AtLeast(7), "no", false),
            (equal("6"), "no", false),
            (equal("06"), "9007199254740991", true),
            (When::Greater(9_007_199_254_740_990), "9007199254740993", true),
            (When::Greater(0), "no", false),
            (unequal("9007199254740993"), "no", false),
            (unequal("x"), "two words\n%ü", true),
            (When::Less(0), "no", false),
            (When::Greater(0), "no", false),
            (equal("two words\n%ü"), "", true),
            (When::AtMost(0), "no", false),
            (unequal(""), "no", false),
            (When::Always, "-3", true),
            (When::AtLeast(-3), "last", true),
        ] {
            let before = other.get().await.expect("an answer");
            let changed = value.set_if(when.clone(), to, keep).await.expect("an answer");
            assert_eq!(changed, changes, "{when:?} of {before:?}");
            let after = other.get().await.expect("an answer");
            assert_eq!(after, if changes { Some(to.to_owned()) } else { before }, "{when:?}");
        }
        assert!(!other.delete_if(equal("first")).await.expect("an answer"));
        assert!(other.delete_if(equal("last")).await.expect("an answer"));
        assert_eq!(value.get().await.expect("an answer"), None, "it was taken away");
        assert!(there.inspect(&name).await.expect("an answer").is_free(), "a value is no lock");
    }

    /// A value ends when whoever set it said; until then it is there.
    pub async fn values_end(&self) {
        let here = locker(self.client().await);
        for (number, ttl) in SHORT_TTLS.into_iter().enumerate() {
            let Ok(value) = here.value(self.name(&format!("value ends {number}"))) else { return };
            let clock = Clock::current();
            let before = clock.now();
            value.set("short", ttl).await.expect("a change");
            let there = value.get().await.expect("an answer");
            if there.is_none() && clock.now().since(before) >= ttl {
                continue; // too busy to see it
            }
            assert_eq!(there.as_deref(), Some("short"));
            while value.get().await.expect("an answer").is_some() {
                clock.sleep_until(clock.now().after(Duration::from_millis(20))).await;
            }
            assert!(clock.now().since(before) >= ttl, "ended before its time");
            value.set("long", Ttl::Never).await.expect("a change");
            assert!(value.delete_if(When::Always).await.expect("an answer"));
            return;
        }
        panic!("never seen within its time");
    }

    /// Its holder sets value and ttl in one step; who has lost the lock sets nothing.
    pub async fn only_the_holder_updates(&self) {
        let (here, there) = (locker(self.client().await), locker(self.client().await));
        let Ok(value) = there.value(self.name("update")) else { return };
        let modes = [Some(0), here.capabilities().shared.then_some(1), here.capabilities().permits.then_some(2)];
        for mode in modes.into_iter().flatten() {
            let wanted = here.key(self.name("update")).renew(Renew::Off);
            let wanted = match mode {
                0 => wanted,
                1 => wanted.shared(),
                _ => wanted.permits(2),
            };
            let guard = wanted.ttl(Duration::from_secs(20)).acquire().await.expect("a free key");
            guard.update("half", Duration::from_secs(600)).await.expect("an update");
            assert!(guard.remaining() > Duration::from_secs(500), "the ttl was not set");
            assert_eq!(value.get().await.expect("an answer").as_deref(), Some("half"));
            let holder = there.inspect(self.name("update")).await.expect("an answer").holder.expect("a holder");
            let left = holder.remaining.expect("a lease that ends");
            assert!(left > Duration::from_secs(500), "the ttl was not set at the store: {left:?}");
            let late = here.key(self.name("update")).renew(Renew::Off);
            assert!(there.break_lock(self.name("update")).await.expect("values, and no administration"));
            let next = late.acquire().await.expect("a broken lock");
            let robbed = guard.update("late", Duration::from_secs(600)).await;
            assert!(matches!(robbed, Err(LockError::Lost { reason: LossReason::Stolen, .. })), "{robbed:?}");
            assert_eq!(value.get().await.expect("an answer").as_deref(), Some("half"), "set by who has lost it");
            next.release().await.expect("a release");
            drop(guard);
            until_quiet(&here).await;
            assert!(value.delete_if(When::Always).await.expect("an answer"), "it outlives the hold");
        }
        self.clean_after(&[here, there]).await;
    }
}
