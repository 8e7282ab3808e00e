//! The conformance suite fails every backend that is wrong.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tasklock::{
    Administer, AsyncLock, Attempt, BoxFuture, Busy, Capabilities, Claim, FencingToken, Grant, Intent, Key, MemoryLock,
    Nonce, Powers, Released, Renewed, Request, State, StepResult, Validity, Wake, testing::conformance,
};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Wrong {
    Nothing,
    /// The same nonce asking again finds its own lock busy.
    ForgetsItself,
    /// A release frees whoever has it.
    ReleasesAnyone,
    /// Tokens start again at 1 with every grant.
    TokenResets,
    /// Withdrawing leaves the place in the queue.
    WithdrawLeavesQueue,
    /// `wait` never resolves, though push is declared.
    PushLost,
    /// Expiry is declared, and never happens.
    ExpiryNever,
    /// Renewal says "held" and does nothing.
    RenewDoesNothing,
    /// Renewal halves the lease, and says nothing of it.
    RenewShortens,
    /// Withdrawals of attempts still to come are forgotten.
    IgnoresUnsettled,
    /// Renewal by anyone is fine.
    RenewsAnyone,
    /// Keys are cut at 200 bytes.
    CutsKeys,
    /// Keys end before trailing dots and spaces.
    TrimsKeys,
    /// A break takes the lock of whoever has it, not only of the one seen.
    RevokesAnyone,
    /// Busy says nothing of a position, and inspect of no waiters: allowed. Control.
    Modest,
    /// The second answer to one nonce promises a whole new ttl, but the store's expiry stays.
    PromisesTooMuchAgain,
    /// A try stands in the queue.
    TryQueues,
    /// All outcomes of a renewal are those of the first claim.
    OneOutcomeForAll,
    /// A release answers "released" though there was nothing.
    AlwaysReleased,
}

/// Who was granted a key last, and under which token.
type Told = (Nonce, Option<FencingToken>);

/// Shares the store and what the wrongness needs.
#[derive(Clone)]
struct Bad {
    inner: MemoryLock,
    wrong: Wrong,
    capabilities: Capabilities,
    granted: Arc<Mutex<HashMap<String, Told>>>,
}

impl Bad {
    fn new(wrong: Wrong) -> Self {
        let inner = MemoryLock::new();
        let capabilities = inner.capabilities().clone();
        Bad { inner, wrong, capabilities, granted: Arc::default() }
    }

    fn key(&self, key: &Key) -> Key {
        let text = key.as_str();
        match self.wrong {
            Wrong::CutsKeys if text.len() > 200 => Key::new(text.chars().take(200).collect::<String>()).unwrap(),
            Wrong::TrimsKeys => Key::new(text.trim_end_matches([' ', '.'])).unwrap_or_else(|_| key.clone()),
            _ => key.clone(),
        }
    }

    fn request(&self, request: &Request) -> Request {
        let mut request = request.clone();
        request.key = self.key(&request.key);
        if self.wrong == Wrong::ExpiryNever {
            request.ttl = tasklock::Ttl::Never;
        }
        if self.wrong == Wrong::TryQueues && request.intent == Intent::Try {
            request.intent = Intent::Wait;
        }
        request
    }

    fn claim(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        claim.key = self.key(&claim.key);
        claim
    }
}

impl AsyncLock for Bad {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        let request = self.request(request);
        let mut granted = self.granted.lock().unwrap().clone();
        let before = granted.get(request.key.as_str()).is_some_and(|(nonce, _)| *nonce == request.nonce);
        if self.wrong == Wrong::ForgetsItself && before {
            return Ok(Attempt::Busy(Busy::default()));
        }
        if self.wrong == Wrong::PromisesTooMuchAgain && before {
            let token = granted[request.key.as_str()].1;
            return Ok(Attempt::Granted(Grant::new(token, Validity::Session)));
        }
        let mut answer = self.inner.try_acquire(&request).await?;
        if let Attempt::Granted(grant) = &mut answer {
            if self.wrong == Wrong::TokenResets {
                grant.token = Some(FencingToken::new(1));
            }
            granted.insert(request.key.as_str().to_owned(), (request.nonce, grant.token));
            *self.granted.lock().unwrap() = granted;
        }
        Ok(answer)
    }

    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        let request = self.request(request);
        if self.wrong == Wrong::PushLost {
            return std::future::pending().await;
        }
        let mut wake = self.inner.wait(&request).await?;
        if let (Wake::Granted(grant), Wrong::TokenResets) = (&mut wake, self.wrong) {
            grant.token = Some(FencingToken::new(1));
        }
        Ok(wake)
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let mut claims: Vec<Claim> = claims.iter().map(|claim| self.claim(claim)).collect();
        match self.wrong {
            Wrong::RenewDoesNothing => {
                let mut all = Vec::new();
                for claim in &claims {
                    let holds =
                        self.granted.lock().unwrap().get(claim.key.as_str()).is_some_and(|g| g.0 == claim.nonce);
                    let there = !self.inner.inspect(&claim.key).await.unwrap().is_free();
                    let held = Renewed::held(Validity::Session, None);
                    all.push(Ok(if holds && there { held } else { Renewed::NotOwner }));
                }
                return all;
            }
            Wrong::RenewShortens => {
                for claim in &mut claims {
                    claim.ttl = claim.ttl.duration().map_or(claim.ttl, |ttl| (ttl / 2).into());
                }
                let all = self.inner.renew(&claims).await;
                let told = |renewed| match renewed {
                    Ok(Renewed::Held { token, .. }) => Ok(Renewed::held(Validity::Session, token)),
                    other => other,
                };
                return all.into_iter().map(told).collect();
            }
            Wrong::RenewsAnyone => {
                return claims.iter().map(|_| Ok(Renewed::held(Validity::Session, None))).collect();
            }
            Wrong::TokenResets => {
                let all = self.inner.renew(&claims).await;
                let told = |renewed| match renewed {
                    Ok(Renewed::Held { validity, .. }) => Ok(Renewed::held(validity, None)),
                    other => other,
                };
                return all.into_iter().map(told).collect();
            }
            Wrong::ExpiryNever => {
                for claim in &mut claims {
                    claim.ttl = tasklock::Ttl::Never;
                }
            }
            _ => {}
        }
        let all = self.inner.renew(&claims).await;
        if self.wrong == Wrong::OneOutcomeForAll {
            return all.iter().map(|_| all[0].clone()).collect();
        }
        all
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        let mut claim = self.claim(claim);
        match self.wrong {
            Wrong::ReleasesAnyone => {
                let holder = self.granted.lock().unwrap().get(claim.key.as_str()).map(|g| g.0);
                if let Some(holder) = holder {
                    let _ = self.inner.release(&Claim::for_release(claim.key.clone(), holder)).await;
                }
                return self.inner.release(&claim).await;
            }
            Wrong::WithdrawLeavesQueue => {
                let holder = self.granted.lock().unwrap().get(claim.key.as_str()).map(|g| g.0);
                if holder != Some(claim.nonce) {
                    return Ok(Released::NotOwner);
                }
            }
            Wrong::IgnoresUnsettled => claim.unsettled = false,
            Wrong::AlwaysReleased => {
                let _ = self.inner.release(&claim).await;
                return Ok(Released::Released);
            }
            _ => {}
        }
        self.inner.release(&claim).await
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let state = self.inner.inspect(&self.key(key)).await?;
        Ok(match self.wrong {
            Wrong::Modest => State::new(state.holder, None),
            Wrong::TokenResets => {
                State::new(state.holder.map(|h| Arc::new(tasklock::Holder::new(h.owner.clone()))), state.waiters)
            }
            _ => state,
        })
    }

    async fn ping(&self) -> StepResult<()> {
        Ok(())
    }

    fn powers(&self) -> Powers<'_> {
        Powers::default().with_administer(self)
    }
}

impl Administer for Bad {
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>> {
        let seen = if self.wrong == Wrong::RevokesAnyone { None } else { seen };
        self.inner.powers().administer.unwrap().revoke(key, seen)
    }
}

#[derive(PartialEq, Debug)]
enum Verdict {
    Passes,
    Fails(String),
    Hangs,
}

fn judge(wrong: Wrong) -> Verdict {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async {
                let store = Bad::new(wrong);
                conformance::run_all(async || store.clone()).await;
            });
        }));
        let _ = done.send(outcome.map_err(|panic| {
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        }));
    });
    match is_done.recv_timeout(Duration::from_secs(10)) {
        Ok(Ok(())) => Verdict::Passes,
        Ok(Err(message)) => Verdict::Fails(message.unwrap_or_default()),
        Err(_) => Verdict::Hangs,
    }
}

#[test]
fn the_suite_fails_what_is_wrong() {
    use Wrong::*;
    assert_eq!(judge(Nothing), Verdict::Passes);
    assert_eq!(judge(Modest), Verdict::Passes);
    let mut missed = Vec::new();
    for wrong in [
        ForgetsItself,
        ReleasesAnyone,
        TokenResets,
        WithdrawLeavesQueue,
        PushLost,
        ExpiryNever,
        RenewDoesNothing,
        RenewShortens,
        IgnoresUnsettled,
        RenewsAnyone,
        CutsKeys,
        TrimsKeys,
        RevokesAnyone,
        PromisesTooMuchAgain,
        TryQueues,
        OneOutcomeForAll,
        AlwaysReleased,
    ] {
        let verdict = judge(wrong);
        println!("{wrong:?}: {verdict:?}");
        if !matches!(verdict, Verdict::Fails(_)) {
            missed.push((wrong, verdict));
        }
    }
    assert!(missed.is_empty(), "not failed: {missed:?}");
}
