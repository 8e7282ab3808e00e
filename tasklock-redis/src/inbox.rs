//! Who waits in this process, and what was pushed to them.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tasklock_core::{Clock, FencingToken, Grant, Mono, Nonce, StepResult, Validity, Wake};
use tokio::sync::Notify;

use crate::{
    layout::{OwnerKey, nonce_of},
    slots::Slot,
};

/// The waiters of one client, by nonce: from before their first request is sent until they are released, so that
/// nothing pushed to them is pushed to nobody.
#[derive(Debug)]
pub(crate) struct Inbox {
    clock: Clock,
    waiters: Mutex<HashMap<Nonce, Waiter>>,
}

#[derive(Debug, Default)]
struct Waiter {
    /// In a cluster, where it waits.
    slot: Option<Slot>,
    /// An answered request: when it was sent, here, and when it was answered, by the server's clock.
    asked: Option<(Mono, u64)>,
    /// The highest token that another was seen to hold the lock under.
    seen: u64,
    pushed: Option<Pushed>,
    /// When to ask again, whatever comes.
    again_at: Option<Mono>,
    told: Arc<Notify>,
}

/// A grant as it was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pushed {
    token: u64,
    /// When it was granted, by the server's clock.
    at: u64,
    /// For how long, unless it is confirmed.
    claim: Duration,
    received: Mono,
}

/// What came for somebody who does not wait here: to be given back.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Unwanted {
    pub(crate) owner: OwnerKey,
    pub(crate) member: String,
}

impl Inbox {
    pub(crate) fn new(clock: Clock) -> Self {
        Inbox { clock, waiters: Mutex::default() }
    }

    /// A request of this nonce is about to be sent that may enter the queue; whether one was before.
    pub(crate) fn expect(&self, nonce: Nonce, slot: Option<Slot>) -> bool {
        match self.waiters().entry(nonce) {
            hash_map::Entry::Occupied(_) => true,
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Waiter { slot, ..Waiter::default() });
                false
            }
        }
    }

    /// A request sent then was answered at this time of the server: another holds the lock, under this token.
    pub(crate) fn found_held(&self, nonce: Nonce, sent: Mono, now: u64, token: u64) {
        if let Some(waiter) = self.waiters().get_mut(&nonce) {
            waiter.asked = Some((sent, now));
            waiter.seen = waiter.seen.max(token);
            waiter.pushed = waiter.pushed.filter(|pushed| pushed.token > token);
        }
    }

    /// The lock was granted in answer to a request. Whoever never stood in the queue is pushed nothing; one that may
    /// have is kept, or a push that is late would be taken for one that nobody wants; should it wait all the same, since
    /// that answer has not reached it, it is to ask again.
    pub(crate) fn granted(&self, nonce: Nonce, may_have_queued: bool) {
        let mut waiters = self.waiters();
        if !may_have_queued {
            waiters.remove(&nonce);
        } else if let Some(waiter) = waiters.get_mut(&nonce) {
            (waiter.pushed, waiter.again_at) = (None, Some(self.clock.now()));
            waiter.told.notify_one();
        }
    }

    /// Something pushed in these slots may have been missed: who waits there is to ask.
    pub(crate) fn look_again(&self, slots: impl Fn(Slot) -> bool) {
        let now = self.clock.now();
        for waiter in self.waiters().values_mut().filter(|waiter| waiter.slot.is_some_and(&slots)) {
            (waiter.asked, waiter.again_at) = (None, Some(now));
            waiter.told.notify_one();
        }
    }

    /// Another server may answer who waits in these slots from here on: what it pushes cannot be dated by what the one before has answered.
    pub(crate) fn undate(&self, slots: impl Fn(Option<Slot>) -> bool) {
        self.waiters().values_mut().filter(|waiter| slots(waiter.slot)).for_each(|waiter| waiter.asked = None);
    }

    /// This nonce wants nothing any more.
    pub(crate) fn forget(&self, nonce: Nonce) {
        self.waiters().remove(&nonce);
    }

    /// A message of the store; what of it nobody here wants.
    pub(crate) fn deliver(&self, message: &str) -> Option<Unwanted> {
        let mut parts = message.splitn(6, ' ');
        let (kind, member) = (parts.next()?, parts.next()?);
        let nonce = nonce_of(member)?;
        let mut number = || parts.next()?.parse::<u64>().ok();
        match kind {
            "granted" => {
                let (token, at, claim) = (number()?, number()?, Duration::from_millis(number()?));
                let received = self.clock.now();
                if let Some(waiter) = self.waiters().get_mut(&nonce) {
                    if token > waiter.seen {
                        waiter.pushed = Some(Pushed { token, at, claim, received });
                        waiter.told.notify_one();
                    }
                    return None;
                }
                let owner = OwnerKey::pushed(parts.next()?)?;
                Some(Unwanted { owner, member: member.to_owned() })
            }
            // Asked whether it still waits, since others wait behind it: that it asks is the answer.
            "still" => {
                let owner = OwnerKey::pushed(message.splitn(3, ' ').nth(2)?)?;
                if let Some(waiter) = self.waiters().get_mut(&nonce) {
                    waiter.again_at = Some(self.clock.now());
                    waiter.told.notify_one();
                    return None;
                }
                Some(Unwanted { owner, member: member.to_owned() })
            }
            "next" => {
                let claim = Duration::from_millis(number()?);
                if let Some(waiter) = self.waiters().get_mut(&nonce) {
                    waiter.again_at = Some(self.clock.now().after(claim));
                    waiter.told.notify_one();
                }
                None
            }
            _ => None,
        }
    }

    /// What was pushed to this nonce, once there is something.
    pub(crate) async fn wait(&self, nonce: Nonce) -> StepResult<Wake> {
        loop {
            let (told, again_at) = {
                let mut waiters = self.waiters();
                let Some(waiter) = waiters.get_mut(&nonce) else { return Ok(Wake::Retry) };
                if let Some(wake) = waiter.take(self.clock.now()) {
                    return Ok(wake);
                }
                (waiter.told.clone(), waiter.again_at.unwrap_or(Mono::NEVER))
            };
            tokio::select! {
                () = told.notified() => {}
                () = self.clock.sleep_until(again_at) => {}
            }
        }
    }

    /// How many are waited for, or were and are held.
    pub(crate) fn len(&self) -> usize {
        self.waiters().len()
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<Nonce, Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    fn take(&mut self, now: Mono) -> Option<Wake> {
        if let Some(pushed) = self.pushed.take() {
            // What cannot be dated, or is nearly over, is asked for again: if it still stands, its time begins anew.
            let until = self.asked.and_then(|asked| pushed.until(asked));
            let until = until.filter(|until| until.since(now) > pushed.claim / 2);
            return Some(match until {
                Some(until) => {
                    self.again_at = None;
                    let token = Some(FencingToken::new(pushed.token));
                    Wake::Granted(Grant::new(token, Validity::Until(until)).to_confirm())
                }
                None => Wake::Retry,
            });
        }
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            return Some(Wake::Retry);
        }
        None
    }
}

impl Pushed {
    /// The end of the claim on this process's clock. It began when the server granted, not when the push came: so long
    /// after a request was answered, and that was not before it was sent. Never later than counted from receipt.
    fn until(self, (sent, answered): (Mono, u64)) -> Option<Mono> {
        let since = Duration::from_millis(self.at.checked_sub(answered)?);
        Some(sent.after(since).min(self.received).after(self.claim))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tasklock_core::Key;

    use super::*;
    use crate::layout::Client;

    struct Case {
        inbox: Inbox,
        clock: Clock,
        nonce: Nonce,
        member: String,
        owner: OwnerKey,
    }

    fn case() -> Case {
        let (clock, nonce) = (Clock::current(), Nonce::fresh());
        let owner = OwnerKey::of(&Key::new("a b").unwrap());
        Case { inbox: Inbox::new(clock), clock, nonce, member: Client::new().member(nonce), owner }
    }

    impl Case {
        fn push(&self, token: u64, at: u64) -> Option<Unwanted> {
            let owner = self.owner.as_str();
            self.inbox.deliver(&format!("granted {} {token} {at} 1000 {owner}", self.member))
        }

        async fn told(&self) -> Option<Wake> {
            let wait = pin!(self.inbox.wait(self.nonce));
            tokio::time::timeout(Duration::ZERO, wait).await.ok().map(Result::unwrap)
        }
    }

    fn until(wake: Option<Wake>) -> Mono {
        match wake {
            Some(Wake::Granted(Grant { validity: Validity::Until(until), confirm: true, .. })) => until,
            other => panic!("no grant: {other:?}"),
        }
    }

    /// A push that was held up beyond its claim would make two holders if it were dated by its receipt.
    #[tokio::test(start_paused = true)]
    async fn a_grant_is_dated_by_the_server() {
        let case = case();
        let sent = case.clock.now();
        case.inbox.expect(case.nonce, None);
        case.inbox.found_held(case.nonce, sent, 5_000, 1);
        tokio::time::advance(Duration::from_millis(700)).await;
        assert_eq!(case.push(2, 5_300), None);
        assert_eq!(until(case.told().await), sent.after(Duration::from_millis(1_300)));
        // Never later than counted from its receipt, whatever the server's clock did.
        assert_eq!(case.push(3, 999_000), None);
        assert_eq!(until(case.told().await), case.clock.now().after(Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_is_over_or_undated_is_asked_for_again() {
        let case = case();
        case.inbox.expect(case.nonce, None);
        assert_eq!(case.push(2, 5_000), None);
        assert!(matches!(case.told().await, Some(Wake::Retry)), "granted before any request was answered");
        case.inbox.found_held(case.nonce, case.clock.now(), 5_000, 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(case.push(2, 5_100), None);
        assert!(matches!(case.told().await, Some(Wake::Retry)), "a claim that was over");
        assert_eq!(case.push(2, 4_000), None);
        assert!(matches!(case.told().await, Some(Wake::Retry)), "a server whose clock went back");
        case.inbox.found_held(case.nonce, case.clock.now(), 5_000, 1);
        assert_eq!(case.push(2, 5_000), None);
        tokio::time::advance(Duration::from_millis(600)).await;
        assert!(matches!(case.told().await, Some(Wake::Retry)), "too little is left of the claim to confirm it in");
        case.inbox.found_held(case.nonce, case.clock.now(), 5_000, 1);
        case.inbox.undate(|_| true);
        assert_eq!(case.push(2, 5_001), None);
        assert!(matches!(case.told().await, Some(Wake::Retry)), "granted by another server than the one that answered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_older_than_what_was_seen_is_none() {
        let case = case();
        case.inbox.expect(case.nonce, None);
        case.inbox.found_held(case.nonce, case.clock.now(), 5_000, 7);
        assert_eq!(case.push(7, 5_000), None);
        assert!(case.told().await.is_none(), "another has held it under this token or a later one");
        assert_eq!(case.push(8, 5_000), None);
        case.inbox.found_held(case.nonce, case.clock.now(), 5_001, 9);
        assert!(case.told().await.is_none(), "another has it since");
        assert_eq!(case.push(10, 5_002), None);
        until(case.told().await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_is_given_back() {
        let case = case();
        let unwanted = Some(Unwanted { owner: case.owner.clone(), member: case.member.clone() });
        assert_eq!(case.push(2, 5_000), unwanted);
        // Granted at once, it never queued; granted later, a push may still come and is no stranger's.
        assert!(!case.inbox.expect(case.nonce, None));
        case.inbox.granted(case.nonce, false);
        assert_eq!(case.push(2, 5_000), unwanted);
        case.inbox.expect(case.nonce, None);
        case.inbox.granted(case.nonce, true);
        assert_eq!(case.push(2, 5_000), None);
        case.inbox.forget(case.nonce);
        assert_eq!(case.push(2, 5_000), unwanted);
        assert_eq!(case.inbox.len(), 0);
    }

    /// The store has answered that it holds, and nothing more is pushed: it would wait for its next look by itself.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_what_it_has_asks_again() {
        let case = case();
        for may_have_queued in [false, true] {
            case.inbox.expect(case.nonce, None);
            case.inbox.found_held(case.nonce, case.clock.now(), 5_000, 1);
            assert_eq!(case.push(2, 5_000), None);
            case.inbox.granted(case.nonce, may_have_queued);
            assert!(matches!(case.told().await, Some(Wake::Retry)), "{may_have_queued}");
        }
    }

    /// Somebody waits behind a place in the queue: of one that lives, or whose withdrawal got lost.
    #[tokio::test(start_paused = true)]
    async fn whether_one_still_waits_is_answered() {
        let case = case();
        let asked = format!("still {} {}", case.member, case.owner.as_str());
        case.inbox.expect(case.nonce, None);
        assert_eq!(case.inbox.deliver(&asked), None);
        assert!(matches!(case.told().await, Some(Wake::Retry)), "it waits, and asks");
        assert!(case.told().await.is_none(), "once");
        case.inbox.forget(case.nonce);
        let unwanted = Unwanted { owner: case.owner.clone(), member: case.member.clone() };
        assert_eq!(case.inbox.deliver(&asked), Some(unwanted));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_looks_again_after_the_claim() {
        let case = case();
        case.inbox.expect(case.nonce, None);
        case.inbox.found_held(case.nonce, case.clock.now(), 5_000, 1);
        assert_eq!(case.inbox.deliver(&format!("next {} 1000", case.member)), None);
        let start = case.clock.now();
        assert!(matches!(case.inbox.wait(case.nonce).await, Ok(Wake::Retry)));
        assert_eq!(case.clock.now().since(start), Duration::from_secs(1));
        assert!(case.told().await.is_none(), "told once");
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_a_slot_look_again() {
        let case = case();
        let (here, there) = (Slot::of_tag("here"), Slot::of_tag("there"));
        case.inbox.expect(case.nonce, Some(here));
        case.inbox.look_again(|slot| slot == there);
        assert!(case.told().await.is_none(), "it waits elsewhere");
        case.inbox.found_held(case.nonce, case.clock.now(), 5_000, 1);
        case.inbox.look_again(|slot| slot == here);
        assert!(matches!(case.told().await, Some(Wake::Retry)));
        assert_eq!(case.push(2, 5_000), None);
        assert!(matches!(case.told().await, Some(Wake::Retry)), "granted by another server than the one that answered");
        assert!(case.told().await.is_none(), "told once");
    }

    #[tokio::test]
    async fn other_peoples_messages_are_no_panic() {
        let case = case();
        for message in
            ["", "granted", "granted x", "granted x.1 a b c", "next x.1", "granted x.1 1 2 3", "still x.1", "hello x.1"]
        {
            assert_eq!(case.inbox.deliver(message), None, "{message}");
        }
    }
}
