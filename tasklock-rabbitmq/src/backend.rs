//! The backend: nonces and what they have at the broker.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tasklock_core::{
    AsyncLock, Attempt, BackendError, Busy, Capabilities, Claim, Clock, Event, Expiry, Fencing, Grant, Holder, Intent,
    Key, LockError, Loss, Mode, Mono, Nonce, Owner, Released, Renewed, Request, Scope, State, StepResult, Validity,
    Wake, WakeBy, Withdrawn,
};
use tokio::{
    runtime::Handle,
    sync::{
        Mutex as AsyncMutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::timeout,
};

use crate::{
    config::RabbitConfig,
    layout::queue_of,
    session::Session,
    subscription::{self, Delivered, HAND_OVER, Subscription},
};

/// How long a token that is known to be free may take to come.
const SURE: Duration = Duration::from_secs(1);

const CAPABILITIES: Capabilities = Capabilities::new("rabbitmq")
    .fencing(Fencing::Weak)
    .expiry(Expiry::Process)
    .loss(Loss::Session)
    .wake(WakeBy::Push)
    .fair(true)
    .scope(Scope::Cluster);

/// Locks in a RabbitMQ broker: see the [crate](crate) for how.
///
/// One connection, made again when it is needed. For one [`Locker`](tasklock_core::Locker); another one takes another.
pub struct RabbitLock {
    config: RabbitConfig,
    clock: Clock,
    session: AsyncMutex<Link>,
    places: Mutex<HashMap<Nonce, Arc<Place>>>,
    withdrawn: Withdrawn,
    told: UnboundedSender<Event>,
    events: AsyncMutex<UnboundedReceiver<Event>>,
}

enum Link {
    Open(Arc<Session>),
    /// The last try to make it again ended then, like this.
    Failed(BackendError, Mono),
    Closed,
}

/// What a nonce has. Steps of one nonce take turns.
struct Place {
    key: Key,
    owner: Owner,
    subscription: AsyncMutex<Option<Arc<Subscription>>>,
    /// The same, for those that only look.
    seen: Mutex<Option<Arc<Subscription>>>,
}

impl RabbitLock {
    pub(crate) async fn open(config: RabbitConfig) -> Result<Self, LockError> {
        Handle::try_current().map_err(|_| LockError::NoRuntime)?;
        let clock = Clock::current();
        let session = Session::open(&config, clock).await?;
        let (told, events) = unbounded_channel();
        Ok(RabbitLock {
            config,
            clock,
            session: AsyncMutex::new(Link::Open(session)),
            places: Mutex::default(),
            withdrawn: Withdrawn::default(),
            told,
            events: AsyncMutex::new(events),
        })
    }

    /// The connection, made again if it has ended. Whoever comes meanwhile waits for the same, and fails with it.
    async fn session(&self) -> StepResult<Arc<Session>> {
        let came = self.clock.now();
        let mut link = self.session.lock().await;
        match &*link {
            Link::Open(session) if session.is_alive() => return Ok(session.clone()),
            Link::Closed => return Err(BackendError::fatal("rabbitmq: the connection was closed by this process")),
            Link::Failed(error, at) if *at >= came => return Err(error.clone()),
            Link::Failed(..) => {}
            Link::Open(ended) => ended.end(),
        }
        let opened = Session::open(&self.config, self.clock).await;
        *link = match &opened {
            Ok(session) => Link::Open(session.clone()),
            Err(error) => Link::Failed(error.clone(), self.clock.now()),
        };
        opened
    }

    fn place(&self, request: &Request) -> Arc<Place> {
        let fresh = || {
            Arc::new(Place {
                key: request.key.clone(),
                owner: request.owner.clone(),
                subscription: AsyncMutex::default(),
                seen: Mutex::default(),
            })
        };
        lock(&self.places).entry(request.nonce).or_insert_with(fresh).clone()
    }

    fn place_of(&self, nonce: Nonce) -> Option<Arc<Place>> {
        lock(&self.places).get(&nonce).cloned()
    }

    fn forget(&self, nonce: Nonce) {
        lock(&self.places).remove(&nonce);
    }

    /// Enters the queue, and answers at once if the token is free.
    async fn enter(&self, place: &Place, at: &mut Option<Arc<Subscription>>, request: &Request) -> StepResult<Attempt> {
        let channel = self.session().await?.channel().await?;
        let (subscription, is_sure) =
            Subscription::open(channel, request.nonce, queue_of(&request.key), self.told.clone()).await?;
        *at = Some(subscription.clone());
        *lock(&place.seen) = at.clone();
        let is_try = request.intent == Intent::Try;
        let mut delivered = None;
        if is_sure {
            delivered = timeout(SURE, subscription.granted()).await.ok().flatten();
        } else if is_try {
            subscription.barrier().await?;
            delivered = timeout(self.config.grace_of_tries(), subscription.granted()).await.ok().flatten();
        }
        match delivered {
            Some(delivered) => Ok(granted(&delivered)),
            None if is_try => {
                subscription.leave().await?;
                *at = None;
                Ok(Attempt::Busy(Busy::new(self.own_holder(&request.key), None)))
            }
            None => Ok(self.busy(&request.key)),
        }
    }

    /// Whatever this nonce has already.
    async fn look_again(&self, subscription: &Subscription, request: &Request) -> StepResult<Attempt> {
        if let Some(held) = subscription.held() {
            return Ok(granted(&held));
        }
        let recheck = self.config.recheck_after();
        subscription.ask_after(recheck).await?;
        match timeout(SURE, subscription.granted()).await {
            Ok(Some(delivered)) => Ok(Attempt::Granted(pushed(subscription, &delivered))),
            _ => Ok(self.busy(&request.key)),
        }
    }

    fn busy(&self, key: &Key) -> Attempt {
        Attempt::Busy(Busy::new(self.own_holder(key), Some(self.config.recheck_after())))
    }

    /// Who holds a key by this very client. Who does by another one, the broker does not tell.
    fn own_holder(&self, key: &Key) -> Option<Arc<Holder>> {
        let places = lock(&self.places);
        let holder = |place: &Arc<Place>| {
            let held = lock(&place.seen).as_ref().and_then(|subscription| subscription.held())?;
            let holder = Holder::new(place.owner.clone()).held(self.clock.now().since(held.at)).token(held.token);
            Some(Arc::new(holder))
        };
        places.values().filter(|place| place.key == *key).find_map(holder)
    }
}

impl AsyncLock for RabbitLock {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn try_acquire(&self, request: &Request) -> StepResult<Attempt> {
        if request.mode != Mode::Exclusive {
            return Err(BackendError::fatal(format!("the rabbitmq backend does not know {:?}", request.mode)));
        }
        let place = self.place(request);
        let mut at = place.subscription.lock().await;
        if let Err(error) = self.withdrawn.check(request.nonce, || self.clock.now()) {
            self.forget(request.nonce);
            return Err(error);
        }
        let answer = match &*at {
            Some(subscription) if subscription.is_live() => self.look_again(subscription, request).await,
            _ => self.enter(&place, &mut at, request).await,
        };
        if !at.as_ref().is_some_and(|subscription| subscription.is_live()) {
            self.forget(request.nonce);
        }
        answer
    }

    async fn wait(&self, request: &Request) -> StepResult<Wake> {
        let Some(place) = self.place_of(request.nonce) else { return Ok(Wake::Retry) };
        let Some(subscription) = place.subscription.lock().await.clone() else { return Ok(Wake::Retry) };
        Ok(match subscription.granted().await {
            Some(delivered) => Wake::Granted(pushed(&subscription, &delivered)),
            None => Wake::Retry,
        })
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<StepResult<Renewed>> {
        let held = |claim: &Claim| {
            let place = self.place_of(claim.nonce)?;
            let subscription = lock(&place.seen).clone()?;
            subscription.held().map(|held| (subscription, held.token))
        };
        let before: Vec<_> = claims.iter().map(held).collect();
        let Some(session) = before.iter().flatten().map(|(subscription, _)| subscription.session().clone()).next()
        else {
            return claims.iter().map(|_| Ok(Renewed::NotOwner)).collect();
        };
        let proved = session.prove().await;
        // Asked again: what ended meanwhile was lost.
        let renewed = |claim: &Claim| match held(claim) {
            None => Ok(Renewed::NotOwner),
            Some((_, token)) => proved.clone().map(|()| Renewed::held(Validity::Session, Some(token))),
        };
        claims.iter().map(renewed).collect()
    }

    async fn release(&self, claim: &Claim) -> StepResult<Released> {
        if claim.unsettled {
            self.withdrawn.note(claim.nonce, self.clock.now());
        }
        let Some(place) = self.place_of(claim.nonce) else { return Ok(Released::NotOwner) };
        let mut at = place.subscription.lock().await;
        let left = match at.take() {
            Some(subscription) => subscription.leave().await,
            None => Ok(false),
        };
        self.forget(claim.nonce);
        left.map(|was_held| if was_held { Released::Released } else { Released::NotOwner })
    }

    async fn inspect(&self, key: &Key) -> StepResult<State> {
        let (session, queue) = (self.session().await?, queue_of(key));
        let begun = self.clock.now();
        loop {
            let channel = session.channel().await?;
            if !subscription::is_held(&channel, &queue).await?.unwrap_or(false) {
                return Ok(State::default());
            }
            if let Some(holder) = self.own_holder(key) {
                return Ok(State::new(Some(holder), None));
            }
            // Between a release and the next grant it looks the same.
            if self.clock.now().since(begun) >= HAND_OVER {
                return Ok(State::new(Some(Arc::new(Holder::new(Owner::recorded("unknown", "", 0, "")))), None));
            }
            tokio::time::sleep(HAND_OVER / 25).await;
        }
    }

    async fn event(&self) -> Event {
        match self.events.lock().await.recv().await {
            Some(event) => event,
            // Not while this lives: it has a sender.
            None => std::future::pending().await,
        }
    }

    async fn ping(&self) -> StepResult<()> {
        self.session().await?.prove().await
    }

    async fn close(&self) {
        if let Link::Open(session) = std::mem::replace(&mut *self.session.lock().await, Link::Closed) {
            session.close().await;
        }
    }
}

impl Drop for RabbitLock {
    fn drop(&mut self) {
        if let Link::Open(session) = self.session.get_mut() {
            session.end();
        }
    }
}

impl fmt::Debug for RabbitLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitLock")
            .field("address", &self.config.address())
            .field("places", &lock(&self.places).len())
            .finish_non_exhaustive()
    }
}

/// A grant within an attempt, which the broker has just answered.
fn granted(delivered: &Delivered) -> Attempt {
    Attempt::Granted(Grant::new(Some(delivered.token), Validity::Session))
}

/// A grant that came unasked: it may have lain here for long, with the broker about to take this client for dead. It is
/// believed for as long as the broker was last heard, and confirmed at once.
fn pushed(subscription: &Subscription, delivered: &Delivered) -> Grant {
    Grant::new(Some(delivered.token), Validity::Until(subscription.session().believed_until())).to_confirm()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
