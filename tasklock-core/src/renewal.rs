//! Renewals: one call to the store, and what each of its answers means, whoever has it sent: the keeper for the holds it
//! looks after, a hold by hand, a tenure on its way from task to task.

use std::time::Duration;

use crate::{
    Applied, BackendError, Claim, Observed, Renewed, Span, Validity, lock::StepResult, shared::Shared, values,
};

/// The longest that a renewal is waited for.
pub(crate) const LONGEST_CALL: Duration = Duration::from_secs(5);

/// What a renewal of one claim came to.
#[derive(Debug)]
pub(crate) enum Renewal {
    /// It is held.
    Held {
        validity: Validity,
        /// How many wait at the store, if it tells.
        waiters: Option<u32>,
        /// The tokens that were asked for.
        more: Option<Span>,
    },
    /// The store has it for nobody, or for somebody else.
    Stolen,
    /// Nobody knows.
    Failed(BackendError),
}

/// The answers to a call.
#[derive(Debug)]
pub(crate) struct Renewals {
    /// One for each claim.
    pub(crate) each: Vec<Renewal>,
    /// Whether there was an answer within the time.
    pub(crate) in_time: bool,
}

/// Renews these in one call; the first with a value, if there is one.
pub(crate) async fn ask(shared: &Shared, claims: &[Claim], value: Option<&str>, bound: Duration) -> Renewals {
    let call = async {
        match (value, shared.backend.powers().values) {
            (None, _) => shared.backend.renew(claims).await,
            (Some(value), Some(power)) => match claims.first() {
                Some(claim) => vec![power.update(claim, value).await],
                None => Vec::new(),
            },
            (Some(_), None) => vec![values::gone()],
        }
    };
    let outcomes = tokio::time::timeout(bound, call).await;
    let in_time = outcomes.is_ok();
    let mut outcomes = outcomes.unwrap_or_default().into_iter();
    let unanswered = || Err(BackendError::unknown("no answer to a renewal in time"));
    let each = claims.iter().map(|claim| Renewal::of(claim, outcomes.next().unwrap_or_else(unanswered))).collect();
    Renewals { each, in_time }
}

impl Renewal {
    fn of(claim: &Claim, outcome: StepResult<Renewed>) -> Self {
        match outcome {
            // A store that names another token has granted it to somebody else.
            Ok(Renewed::Held { token, .. }) if token.is_some() && token != claim.token => Renewal::Stolen,
            Ok(Renewed::Held { validity, waiters, more, .. }) => Renewal::Held { validity, waiters, more },
            Ok(Renewed::NotOwner) => Renewal::Stolen,
            Err(error) => Renewal::Failed(error),
        }
    }

    /// Whether it may reach the store yet.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Renewal::Failed(error) if error.applied() == Applied::Unknown)
    }

    /// Tells of one that succeeded or failed. One that was stolen is told as a loss, or by its release.
    pub(crate) fn tell(&self, shared: &Shared, claim: &Claim, left: Duration) {
        let error = match self {
            Renewal::Held { .. } => None,
            Renewal::Stolen => return,
            Renewal::Failed(error) => {
                let (key, backend) = (shared.shown(&claim.key), shared.backend_name());
                tracing::warn!(target: "tasklock", %key, backend, ?left, "renewal failed: {error}");
                Some(error)
            }
        };
        shared.observe(|| Observed::Renewed { key: &claim.key, error });
    }
}
