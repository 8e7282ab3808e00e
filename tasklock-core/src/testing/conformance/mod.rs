//! What every backend must do. A backend passes when [`run_all`] returns.
//!
//! Each case is a public function, so that one can be run alone. Cases that a backend's capabilities exclude are left
//! out, by what it declares and nothing else. They run against live servers and on paused time alike: nothing here
//! sleeps for a guessed time.

// A factory's futures need not be `Send`, so the suite's are not.
#![allow(clippy::future_not_send)]

mod admin;
mod handoff;
mod lockers;
mod modes;
mod pools;
mod several;
mod waiting;

use std::{num::NonZeroU32, pin::pin, sync::Arc, time::Duration};

use super::{poll_times, until_quiet};
use crate::{
    AsyncLock, Attempt, Claim, Clock, Expiry, Fencing, FencingToken, Intent, Key, Locker, Mode, Nonce, Owner, Released,
    Renew, Renewed, Request, Ttl, Validity, Wake, WakeBy,
};

/// Makes backends that share one store; each is a client of its own.
pub struct Suite<F> {
    make: F,
    run: String,
}

/// Runs every case that the backend's capabilities do not exclude. `make` gives a new client of the same store each
/// time it is called.
///
/// # Panics
///
/// At the first thing a backend does wrong; the message names it.
///
/// # Examples
///
/// ```
/// use tasklock_core::{MemoryLock, testing::conformance};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let store = MemoryLock::new();
/// conformance::run_all(async || store.clone()).await;
/// # }
/// ```
pub async fn run_all<B: AsyncLock, F: AsyncFn() -> B>(make: F) {
    let suite = Suite::new(make);
    macro_rules! run {
        ($($case:ident)*) => {$(
            // Each by itself, not all in the frame of this one.
            let case = tokio::time::timeout(CASE, Box::pin(suite.$case())).await;
            assert!(case.is_ok(), "{} is not done after {CASE:?}", stringify!($case));
        )*};
    }
    run! {
        asking_again_gets_the_same_grant
        a_try_leaves_nothing
        tokens_rise
        a_stranger_cannot_release_or_renew
        release_is_repeatable
        a_withdrawn_waiter_is_never_granted
        a_late_attempt_finds_nothing_after_its_withdrawal
        wait_is_pushed_and_can_be_called_again
        a_grant_nobody_takes_can_be_given_back
        waiters_are_served_in_order
        silent_holders_expire
        promises_are_kept
        unknown_modes_are_refused
        inspect_tells_the_holder
        broken_locks_pass_on
        hostile_keys_are_keys_like_others
        one_at_a_time
        renewal_outlives_the_ttl
        a_dropped_guard_lets_the_next_in
        dropped_acquisitions_leave_nothing
        a_minimum_hold_is_kept
        readers_share_and_writers_do_not
        permits_are_as_many_as_the_caller_says
        modes_exclude_each_other
        a_waiting_writer_keeps_later_readers_behind_it
        readers_at_the_head_enter_together
        permits_are_given_in_order
        silent_readers_and_permits_expire_alone
        readers_and_writers_take_turns
        permits_are_never_exceeded
        dropped_readers_and_permits_leave_nothing
        several_are_taken_all_or_none
        those_who_want_the_same_keys_get_on
        whichever_is_free_is_taken
        dropped_sets_leave_nothing
        an_owner_enters_again
        only_the_silent_are_stale
        who_holds_what_is_told
        values_change_on_condition
        values_end
        only_the_holder_updates
        members_are_held_alone
        a_stale_give_back_frees_nothing
        members_of_silent_holders_come_back
        who_waits_for_a_member_is_served_in_order
        added_members_wake_those_who_wait
        members_taken_out_are_kept_until_given_back
        pools_tell_their_members
        a_name_gets_the_member_it_had
        members_are_shared_by_many
        dropped_waits_for_members_leave_nothing
        renewals_reserve_tokens
        a_busy_process_lets_others_in
    }
}

/// The longest a case takes on a store that answers.
const CASE: Duration = Duration::from_secs(120);
const TTL: Duration = Duration::from_secs(20);
/// What a store that counts in milliseconds, or in seconds, rounds up.
const CLOCKS: Duration = Duration::from_secs(2);
/// For what takes a whole lease. A machine too busy for the first loses it rightly, and is given a longer one.
const SHORT_TTLS: [Duration; 3] = [Duration::from_millis(400), Duration::from_secs(2), Duration::from_secs(10)];

impl<B: AsyncLock, F: AsyncFn() -> B> Suite<F> {
    /// A suite whose keys meet those of no other run.
    pub fn new(make: F) -> Self {
        Suite { make, run: Nonce::fresh().to_string() }
    }

    /// The same nonce asking again gets the same grant.
    pub async fn asking_again_gets_the_same_grant(&self) {
        let (store, key) = (self.client().await, self.key("again"));
        let request = request(&key, Intent::Try);
        let first = granted(store.try_acquire(&request).await, "a free key");
        let second = granted(store.try_acquire(&request).await, "the same nonce again");
        assert_eq!(first, second, "the same nonce got another token");
        self.clean(&store, &request).await;
    }

    /// A try that finds the lock held leaves no waiter.
    pub async fn a_try_leaves_nothing(&self) {
        let (store, key) = (self.client().await, self.key("try"));
        let (holder, other, third) =
            (request(&key, Intent::Try), request(&key, Intent::Try), request(&key, Intent::Try));
        granted(store.try_acquire(&holder).await, "a free key");
        busy(store.try_acquire(&other).await, "a held key");
        assert_eq!(released(store.release(&Claim::of(&holder)).await), Released::Released);
        granted(store.try_acquire(&third).await, "a key whose other candidate only tried");
        self.clean(&store, &third).await;
    }

    /// Tokens rise from grant to grant, from client to client.
    pub async fn tokens_rise(&self) {
        let key = self.key("tokens");
        let mut last = FencingToken::NONE;
        for _ in 0..20 {
            let store = self.client().await;
            let request = request(&key, Intent::Try);
            let token = granted(store.try_acquire(&request).await, "a free key");
            match store.capabilities().fencing {
                Fencing::None => assert_eq!(token, None, "a token where none is declared"),
                Fencing::Weak | Fencing::Strong => {
                    let token = token.expect("a token is declared, and none came");
                    assert!(token > last, "{token} after {last}");
                    last = token;
                }
            }
            self.clean(&store, &request).await;
        }
    }

    /// Only the nonce that holds can release or renew.
    pub async fn a_stranger_cannot_release_or_renew(&self) {
        let (store, key) = (self.client().await, self.key("stranger"));
        let (holder, stranger) = (request(&key, Intent::Try), request(&key, Intent::Try));
        let token = granted(store.try_acquire(&holder).await, "a free key");
        assert_eq!(released(store.release(&Claim::of(&stranger)).await), Released::NotOwner);
        let claims = [Claim::of(&stranger), Claim::of(&holder)];
        let renewed = renew(&store, &claims).await;
        assert_eq!(renewed.len(), 2, "one outcome a claim");
        assert!(matches!(renewed[0], Ok(Renewed::NotOwner)), "a stranger renewed: {:?}", renewed[0]);
        let Ok(Renewed::Held { token: told, .. }) = renewed[1] else { panic!("the holder did not: {:?}", renewed[1]) };
        assert!(told.is_none() || told == token, "renewed under another token");
        busy(store.try_acquire(&request(&key, Intent::Try)).await, "a key still held");
        self.clean(&store, &holder).await;
    }

    /// A release may be sent again, and changes nothing for the next holder.
    pub async fn release_is_repeatable(&self) {
        let (store, key) = (self.client().await, self.key("repeat"));
        let (first, second) = (request(&key, Intent::Try), request(&key, Intent::Try));
        granted(store.try_acquire(&first).await, "a free key");
        assert_eq!(released(store.release(&Claim::of(&first)).await), Released::Released);
        granted(store.try_acquire(&second).await, "a released key");
        assert_eq!(released(store.release(&Claim::of(&first)).await), Released::NotOwner);
        let renewed = store.renew(&[Claim::of(&first)]).await;
        assert!(matches!(renewed[..], [Ok(Renewed::NotOwner)]), "renewed after release: {renewed:?}");
        busy(store.try_acquire(&request(&key, Intent::Try)).await, "a key a repeated release must not free");
        self.clean(&store, &second).await;
    }

    /// A holder that goes silent is replaced, and knows before the next one has the lock.
    pub async fn silent_holders_expire(&self) {
        let (here, there) = (self.client().await, self.client().await);
        if here.capabilities().expiry != Expiry::Server {
            return;
        }
        let name = self.name("silent");
        let (here, there) = (locker(here), locker(there));
        let silent = here.key(&name).ttl(Duration::from_millis(300)).renew(Renew::Off);
        let silent = silent.acquire().await.expect("a free key");
        let next = there.acquire(&name).await.expect("an expired key");
        assert!(!silent.is_held(), "two holders");
        assert!(next.is_held() && fenced_after(&next, &silent), "tokens went back over an expiry");
        next.release().await.expect("a release");
        drop(silent);
        until_quiet(&here).await;
    }

    /// What the store promises, to a first question, a repeated one or a renewal, it keeps.
    pub async fn promises_are_kept(&self) {
        if self.client().await.capabilities().expiry != Expiry::Server {
            return;
        }
        for ttl in SHORT_TTLS {
            if self.keeps_promises(ttl).await {
                return;
            }
        }
        panic!("renewed within its ttl, and no more the owner");
    }

    /// False if the lease was over before it could be renewed.
    async fn keeps_promises(&self, ttl: Duration) -> bool {
        let (store, key) = (self.client().await, self.key(&format!("promise {ttl:?}")));
        let clock = Clock::current();
        let mut request = request(&key, Intent::Wait);
        request.ttl = Ttl::For(ttl);
        granted(store.try_acquire(&request).await, "a free key");
        clock.sleep_until(clock.now().after(ttl / 2)).await;
        request.intent = Intent::Poll { attempt: 1 };
        let Ok(Attempt::Granted(grant)) = store.try_acquire(&request).await else { panic!("the holder asks again") };
        let Validity::Until(promised) = grant.validity else {
            panic!("expiry by the store is declared, and none told")
        };
        clock.sleep_until(clock.now().after(ttl / 4)).await;
        let renewed = renew(&store, &[Claim::of(&request)]).await;
        let next = self::request(&key, Intent::Wait);
        if matches!(renewed[..], [Ok(Renewed::NotOwner)]) && clock.now() >= promised {
            // A store may keep what is over until somebody looks.
            self.until_granted(&store, &next).await;
            self.clean(&store, &next).await;
            return false;
        }
        let [Ok(Renewed::Held { validity: Validity::Until(renewed), .. })] = renewed[..] else {
            panic!("the holder renews, and is told until when: {renewed:?}")
        };
        let promised = promised.max(renewed);
        self.until_granted(&store, &next).await;
        assert!(clock.now() >= promised, "given away {:?} before the end", promised.since(clock.now()));
        self.clean(&store, &next).await;
        true
    }

    /// A mode that is not declared is an error, not an exclusive lock.
    pub async fn unknown_modes_are_refused(&self) {
        let (store, key) = (self.client().await, self.key("modes"));
        let mut request = request(&key, Intent::Try);
        let declared = store.capabilities().clone();
        let permit = Mode::Permit { of: NonZeroU32::MIN };
        for (mode, known) in [(Mode::Shared, declared.shared), (permit, declared.permits)] {
            request.mode = mode;
            let outcome = store.try_acquire(&request).await;
            assert_eq!(outcome.is_ok(), known, "{mode:?} is declared {known}: {outcome:?}");
            let _ = store.release(&Claim::of(&request)).await;
        }
        // Refused, or a pool without members: in no case the lock.
        request.mode = Mode::Member;
        let outcome = store.try_acquire(&request).await;
        assert!(!matches!(outcome, Ok(Attempt::Granted(_))), "a member of nothing: {outcome:?}");
        let _ = store.release(&Claim::of(&request)).await;
    }

    /// Others see who holds.
    pub async fn inspect_tells_the_holder(&self) {
        let (store, key) = (self.client().await, self.key("inspect"));
        assert!(store.inspect(&key).await.expect("an answer").is_free(), "an unknown key is free");
        let request = request(&key, Intent::Try);
        let token = granted(store.try_acquire(&request).await, "a free key");
        let state = store.inspect(&key).await.expect("an answer");
        let holder = state.holder.expect("a holder");
        assert!(holder.token.is_none() || holder.token == token, "inspect tells another token");
        assert_eq!(holder.owner, request.owner, "inspect tells another owner");
        let since = Clock::current().now().since(request.since) + CLOCKS;
        assert!(holder.held.is_none_or(|held| held <= since), "held for {:?}, asked for {since:?} ago", holder.held);
        assert!(holder.silent.is_none_or(|silent| silent <= since), "silent for {:?}", holder.silent);
        assert!(holder.remaining.is_none_or(|left| left <= TTL + CLOCKS), "{:?} are left", holder.remaining);
        self.clean(&store, &request).await;
        assert!(store.inspect(&key).await.expect("an answer").is_free(), "a released key is free");
    }

    /// Breaking a lock lets the next in, and the holder notices.
    pub async fn broken_locks_pass_on(&self) {
        let (here, there) = (self.client().await, self.client().await);
        if here.powers().administer.is_none() {
            return;
        }
        let request = request(&self.key("broken by mistake"), Intent::Try);
        granted(here.try_acquire(&request).await, "a free key");
        let stranger = Some(Nonce::fresh());
        let power = there.powers().administer.expect("a power that its twin has");
        assert!(
            !power.revoke(&request.key, stranger).await.expect("an answer"),
            "broke the lock of another than the one seen"
        );
        self.clean(&here, &request).await;
        let name = self.name("broken");
        let (here, there) = (locker(here), locker(there));
        // Renewed often, to be told soon, and not so near its end that it could be lost for that.
        let first = here.key(&name).ttl(TTL).renew(Renew::Every(Duration::from_millis(200)));
        let first = first.acquire().await.expect("a free key");
        assert!(there.break_lock(&name).await.expect("an answer"), "there was a holder");
        let next = there.acquire(&name).await.expect("a broken key");
        let lost = first.lost().await;
        assert_eq!(lost, crate::LossReason::Stolen, "the holder was told another reason");
        assert!(fenced_after(&next, &first), "tokens went back over a break");
        assert_eq!(first.release().await.expect("an answer"), crate::ReleaseOutcome::AlreadyLost);
        assert!(next.is_held(), "the broken holder's release took the next one's lock");
        next.release().await.expect("a release");
        assert!(!there.break_lock(&name).await.expect("an answer"), "nobody held it");
    }

    /// Keys that try to leave their place, or to be another.
    pub async fn hostile_keys_are_keys_like_others(&self) {
        let store = self.client().await;
        let long = "x".repeat(512 - self.run.len() - 1);
        let hostile = [
            "a", "A", "a:b", "a/b", "../a", "a\\b", "{a}", "{a}b", "}{", "*", "a*", "a?", "[a]", "%2F", "%", "a%00",
            " ", "a b", ".", "..", "\u{e9}", "e\u{301}", "ключ", "日本", "'", "\"", "$a", "a;b", "a=b", "a,b", "a|b",
            "\u{feff}", &long,
        ];
        let ends =
            ["", ".", "..", " ", "/", "x", "X", "xx", &long, &long[1..]].map(|end| format!("{}@{end}", self.run));
        let mut held = Vec::new();
        for name in hostile.map(|name| format!("{name}@{}", self.run)).into_iter().chain(ends) {
            let key = Key::new(&name).expect("a valid name");
            let request = request(&key, Intent::Try);
            granted(store.try_acquire(&request).await, &name);
            held.push(request);
        }
        for request in &held {
            assert_eq!(released(store.release(&Claim::of(request)).await), Released::Released, "{}", request.key);
        }
    }

    async fn client(&self) -> B {
        (self.make)().await
    }

    fn name(&self, case: &str) -> String {
        format!("{case}@{}", self.run)
    }

    fn key(&self, case: &str) -> Key {
        Key::new(self.name(case)).expect("a valid name")
    }

    async fn clean(&self, store: &B, request: &Request) {
        assert_eq!(released(store.release(&Claim::of(request)).await), Released::Released, "{}", request.key);
    }

    async fn clean_after(&self, lockers: &[Locker]) {
        for locker in lockers {
            until_quiet(locker).await;
        }
    }

    /// Waits as core does, without its timers.
    async fn until_granted(&self, store: &B, request: &Request) {
        let mut request = request.clone();
        for attempt in 0.. {
            match store.try_acquire(&request).await.expect("an answer") {
                Attempt::Granted(_) => return,
                Attempt::Busy(busy) => {
                    let hint = busy.retry_in.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1));
                    match tokio::time::timeout(hint, store.wait(&request)).await {
                        Ok(Ok(Wake::Granted(_))) => return,
                        Ok(Ok(Wake::Retry)) | Err(_) => {}
                        Ok(Err(error)) => panic!("a wait failed: {error}"),
                    }
                }
            }
            assert!(attempt < 100, "{} is never granted", request.key);
            request.intent = Intent::Poll { attempt: attempt + 1 };
        }
    }
}

impl<F> std::fmt::Debug for Suite<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite").field("run", &self.run).finish_non_exhaustive()
    }
}

fn locker(backend: impl AsyncLock) -> Locker {
    Locker::builder(backend).prefix("").build().expect("a locker")
}

fn request(key: &Key, intent: Intent) -> Request {
    let (owner, now) = (Owner::named("conformance"), Clock::current().now());
    Request::new(key.clone(), Nonce::fresh(), Ttl::For(TTL), intent, owner, now)
}

fn granted(outcome: crate::StepResult<Attempt>, what: &str) -> Option<FencingToken> {
    match outcome {
        Ok(Attempt::Granted(grant)) => grant.token,
        other => panic!("{what} was not granted: {other:?}"),
    }
}

fn busy(outcome: crate::StepResult<Attempt>, what: &str) {
    assert!(matches!(outcome, Ok(Attempt::Busy(_))), "{what} was not busy: {outcome:?}");
}

fn released(outcome: crate::StepResult<Released>) -> Released {
    outcome.expect("a release is answered")
}

/// Asks again where core would: on a busy machine an answer may come too late.
async fn renew(store: &impl AsyncLock, claims: &[Claim]) -> Vec<crate::StepResult<Renewed>> {
    loop {
        let outcomes = store.renew(claims).await;
        if !outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).any(crate::BackendError::is_retryable) {
            return outcomes;
        }
    }
}

fn fenced_after(next: &crate::Guard, before: &crate::Guard) -> bool {
    let none = next.fencing_token() == FencingToken::NONE;
    none || next.fencing_token() > before.fencing_token()
}
