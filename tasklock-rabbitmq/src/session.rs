//! One connection: its channels, and whether the broker still takes it for alive.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tasklock_core::{BackendError, Clock, Mono, StepResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    config::RabbitConfig,
    error::{ChannelsInUse, failed, unanswered, unreachable},
};

/// How many channels are kept open for the next acquisition.
const KEPT_OPEN: usize = 64;
/// Channels that no lock gets: the one that publishes, and room for those being closed and for questions.
const RESERVED: usize = 8;

/// A connection, and all that ends with it.
pub(crate) struct Session {
    connection: Connection,
    /// Publishes, and proves that the broker hears this client.
    control: Channel,
    idle: Mutex<VecDeque<Channel>>,
    permits: Arc<Semaphore>,
    limit: usize,
    clock: Clock,
    timeout: Duration,
    heartbeat: Duration,
    /// When the last request that was answered was sent.
    heard: AtomicU64,
    ended: CancellationToken,
}

impl Session {
    pub(crate) async fn open(config: &RabbitConfig, clock: Clock) -> StepResult<Arc<Self>> {
        let (address, timeout) = (config.address(), config.timeout_of_answers());
        let sent = clock.now();
        let opening = async {
            let connection = config.open().await?;
            let control = connection.create_channel().await?;
            control.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok((connection, control))
        };
        let opened = tokio::time::timeout(timeout, opening).await;
        let opened = opened.map_err(|_| {
            BackendError::transient(format!("rabbitmq at {address} cannot be reached: no answer within {timeout:?}"))
        })?;
        let (connection, control) = opened.map_err(|e| unreachable(address, e))?;
        let allowed = usize::from(connection.configuration().channel_max()).saturating_sub(RESERVED).max(1);
        let limit = config.most_channels().min(allowed);
        let heartbeat = match connection.configuration().heartbeat() {
            0 => config.heartbeat_asked(),
            seconds => Duration::from_secs(seconds.into()),
        };
        let session = Arc::new(Session {
            connection,
            control,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(limit)),
            limit,
            clock,
            timeout,
            heartbeat,
            heard: AtomicU64::new(sent.as_nanos()),
            ended: CancellationToken::new(),
        });
        tokio::spawn(watch(Arc::downgrade(&session)));
        Ok(session)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled() && self.connection.status().connected() && self.control.status().connected()
    }

    /// Completes when nothing on it can be believed any more.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Until when the broker takes this client for alive at least, as far as is known here: it waits for two heartbeats
    /// after the last it heard.
    pub(crate) fn believed_until(&self) -> Mono {
        Mono::from_nanos(self.heard.load(Ordering::Acquire)).after(self.heartbeat * 2)
    }

    /// Asks something that is answered at once.
    pub(crate) async fn prove(&self) -> StepResult<()> {
        let asked = self.control.basic_qos(1, BasicQosOptions::default());
        self.answered("asked whether it answers", asked).await
    }

    /// A request, until it is answered, for as long as answers may take.
    pub(crate) async fn answered<T>(
        &self,
        what: &str,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> StepResult<T> {
        let sent = self.clock.now();
        let answer = tokio::select! {
            answer = tokio::time::timeout(self.timeout, request) => answer,
            () = self.ended() => return Err(BackendError::unknown(format!("rabbitmq: {what}: the connection ended"))),
        };
        let answer = answer.map_err(|_| unanswered(what, self.timeout))?;
        if answer.is_ok() {
            self.heard.fetch_max(sent.as_nanos(), Ordering::AcqRel);
        }
        answer.map_err(|e| failed(what, e))
    }

    /// Puts a message into a queue; when this returns the broker has it on disk.
    pub(crate) async fn publish(&self, queue: &ShortString, message: (BasicProperties, &[u8])) -> StepResult<()> {
        let (properties, body) = message;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing =
            async { self.control.basic_publish("".into(), queue.clone(), options, body, properties).await?.await };
        match self.answered("publishing a token", publishing).await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(BackendError::transient("rabbitmq: the queue of this lock was removed")),
            _ => Err(BackendError::transient("rabbitmq: the broker could not store the token")),
        }
    }

    /// A channel with a prefetch of one, nothing going on in it.
    pub(crate) async fn channel(self: &Arc<Self>) -> StepResult<Leased> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| ChannelsInUse::error(self.limit))?;
        let leased =
            |channel| Leased { channel, session: self.clone(), clean: AtomicBool::new(false), _permit: permit };
        while let Some(channel) = self.idle().pop_front() {
            if channel.status().connected() {
                return Ok(leased(channel));
            }
        }
        let opening = async {
            let channel = self.connection.create_channel().await?;
            channel.basic_qos(1, BasicQosOptions::default()).await?;
            Ok(channel)
        };
        self.answered("opening a channel", opening).await.map(leased)
    }

    /// Nothing on it can be believed any more.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// Closes the connection; the broker takes back what was on it.
    pub(crate) async fn close(&self) {
        self.idle().clear();
        if self.connection.status().connected() {
            let closing = self.connection.close(200, "closed".into());
            let _ = tokio::time::timeout(self.timeout, closing).await;
        }
        self.end();
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channels = self.limit - self.permits.available_permits();
        f.debug_struct("Session").field("alive", &self.is_alive()).field("channels", &channels).finish_non_exhaustive()
    }
}

/// A channel on loan. Unless it was left clean it is closed when dropped, and the broker takes back what was on it.
pub(crate) struct Leased {
    channel: Channel,
    session: Arc<Session>,
    clean: AtomicBool,
    _permit: OwnedSemaphorePermit,
}

impl Leased {
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Nothing goes on in it any more: somebody else may have it.
    pub(crate) fn is_clean(&self) {
        self.clean.store(true, Ordering::Release);
    }
}

impl std::ops::Deref for Leased {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if *self.clean.get_mut() && self.session.is_alive() && self.channel.status().connected() {
            let mut idle = self.session.idle();
            if idle.len() < KEPT_OPEN {
                idle.push_back(self.channel.clone());
            }
        }
    }
}

/// Proves the connection every half heartbeat, and ends the session if that can't be done in time.
async fn watch(session: Weak<Session>) {
    loop {
        let Some(every) = session.upgrade().map(|session| session.heartbeat / 2) else { return };
        tokio::time::sleep(every).await;
        let Some(session) = session.upgrade() else { return };
        if session.ended.is_cancelled() {
            return;
        }
        // One percent less, for clocks that run apart.
        let end = || session.believed_until().before(session.heartbeat / 50);
        loop {
            let proved = tokio::select! {
                proved = session.prove() => proved.is_ok(),
                // However long answers may take, this one comes too late.
                () = session.clock.sleep_until(end()) => false,
            };
            if proved {
                break;
            }
            if session.clock.now() >= end() || !session.is_alive() {
                tracing::warn!(target: "tasklock", backend = "rabbitmq", "the connection to the broker is lost");
                session.end();
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
