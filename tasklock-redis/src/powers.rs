//! What the backend can do beside locking one key: breaking, several keys, values.

use std::sync::Arc;

use tasklock_core::{
    Administer, BackendError, BoxFuture, Change, Claim, Key, Many, Nonce, Renewed, Request, StepResult, Together, Ttl,
    Values, When,
};

use crate::{
    backend::{RedisLock, millis},
    calls::MOST,
    layout::OwnerKey,
    newer::IfEqual,
    script::{Answer, What},
};

impl Administer for RedisLock {
    fn revoke<'a>(&'a self, key: &'a Key, seen: Option<Nonce>) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move {
            let seen = seen.map(|nonce| nonce.to_string()).unwrap_or_default();
            let step = self.step(What::Revoke, key, seen, Ttl::Never, Arc::default());
            Ok(matches!(self.nodes.submit(step).await?, Answer::Yes { .. }))
        })
    }
}

impl Many for RedisLock {
    fn most(&self) -> usize {
        MOST
    }

    fn try_acquire_all<'a>(&'a self, requests: &'a [Request]) -> BoxFuture<'a, StepResult<Together>> {
        Box::pin(async move {
            let steps = requests.iter().map(|request| self.ask(What::All, request)).collect::<StepResult<Vec<_>>>()?;
            let sent = self.clock.now();
            let (mut grants, mut busy) = (Vec::with_capacity(requests.len()), Vec::new());
            let answers = self.nodes.submit_together(&steps).await;
            for ((place, request), answer) in requests.iter().enumerate().zip(answers) {
                match answer? {
                    Answer::Yes { token } => grants.push(Self::grant(request, sent, token)),
                    Answer::Withdrawn => {
                        return Err(BackendError::fatal("redis: this acquisition was withdrawn before"));
                    }
                    answer @ Answer::Held { .. } => busy.push((place, self.found_held(request, sent, &answer))),
                    Answer::No | Answer::More { .. } | Answer::Taken { .. } | Answer::Value(_) => {}
                }
            }
            Ok(if busy.is_empty() { Together::Granted(grants) } else { Together::Busy(busy) })
        })
    }
}

impl Values for RedisLock {
    fn value<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, StepResult<Option<String>>> {
        Box::pin(async move {
            let step = self.step(What::Value, key, String::new(), Ttl::Never, Arc::default());
            Ok(match self.nodes.submit(step).await? {
                Answer::Value(value) => Some(value),
                _ => None,
            })
        })
    }

    fn change<'a>(&'a self, key: &'a Key, change: &'a Change) -> BoxFuture<'a, StepResult<bool>> {
        Box::pin(async move {
            if let When::Equal(than) = &change.when {
                let to = change.to.as_ref().map(|(value, keep)| (value.clone(), millis(*keep)));
                let if_equal = IfEqual { owner: OwnerKey::of(key), than: than.clone(), to };
                if let Some(done) = self.nodes.if_equal(&if_equal).await? {
                    return Ok(done);
                }
            }
            let (when, than) = condition(&change.when)?;
            let step = match &change.to {
                Some((value, keep)) => self.step(What::Change(when), key, than, *keep, Arc::from(value.as_str())),
                None => self.step(What::Remove(when), key, than, Ttl::Never, Arc::default()),
            };
            Ok(matches!(self.nodes.submit(step).await?, Answer::Yes { .. }))
        })
    }

    fn update<'a>(&'a self, claim: &'a Claim, value: &'a str) -> BoxFuture<'a, StepResult<Renewed>> {
        Box::pin(async move {
            let member = self.client.member(claim.nonce);
            let step = self.step(What::Update, &claim.key, member, claim.ttl, Arc::from(value));
            let sent = self.clock.now();
            Ok(self.renewed(claim, sent, &self.nodes.submit(step).await?))
        })
    }
}

/// A condition as the script knows it, and what it compares with.
fn condition(when: &When) -> StepResult<(&'static str, String)> {
    Ok(match when {
        When::Always => ("always", String::new()),
        When::Absent => ("absent", String::new()),
        When::Less(number) => ("lt", number.to_string()),
        When::AtMost(number) => ("le", number.to_string()),
        When::Equal(text) => ("eq", text.clone()),
        When::NotEqual(text) => ("ne", text.clone()),
        When::AtLeast(number) => ("ge", number.to_string()),
        When::Greater(number) => ("gt", number.to_string()),
        when => return Err(BackendError::fatal(format!("the redis backend does not know {when:?}"))),
    })
}
