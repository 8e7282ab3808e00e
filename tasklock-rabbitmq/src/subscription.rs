//! What one nonce has at the broker: a channel with one consumer, and what was delivered to it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join, future::join3};
use lapin::{
    Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
        QueueDeclareOptions, QueuePurgeOptions,
    },
    types::{FieldTable, ShortString},
};
use tasklock_core::{Event, FencingToken, LossReason, Mono, Nonce, StepResult, wall_micros};
use tokio::{
    sync::{mpsc::UnboundedSender, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    error::is_consumer_timeout,
    layout::{self, Message},
    session::{Leased, Session},
};

/// How long a delivery waits to be taken up.
const CLAIM: Duration = Duration::from_secs(3);
/// How long the active consumer waits for a token before it makes one.
const TOKEN_WAIT: Duration = Duration::from_secs(3);

/// How long a hand-over that is under way may make a lock look held.
pub(crate) const HAND_OVER: Duration = Duration::from_millis(250);

/// A place in the line, and later perhaps the lock.
pub(crate) struct Subscription {
    nonce: Nonce,
    queue: ShortString,
    tag: ShortString,
    channel: Leased,
    phase: watch::Sender<Phase>,
    /// When it was last known that the queue has, or had, a token.
    asked: AtomicU64,
    /// What has the channel as well, until it is done.
    reader: Mutex<Option<JoinHandle<()>>>,
    lost: UnboundedSender<Event>,
}

/// It goes down this list, never up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Waiting,
    /// The token is here, and nobody has looked yet.
    Offered(Delivered),
    Held(Delivered),
    Leaving,
    Ended,
}

/// A token delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Delivered {
    tag: u64,
    pub(crate) token: FencingToken,
    pub(crate) at: Mono,
}

/// What a queue was like just before.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Messages that nobody has.
    ready: u32,
    /// Consumers that are active, or have a message still.
    consumers: u32,
}

impl Subscription {
    /// Enters the queue of a lock. Also tells whether the token ought to come at once.
    pub(crate) async fn open(
        channel: Leased,
        nonce: Nonce,
        queue: ShortString,
        lost: UnboundedSender<Event>,
    ) -> StepResult<(Arc<Self>, bool)> {
        let session = channel.session().clone();
        let tag: ShortString = nonce.to_string().into();
        let declaring = async { declare(&channel, &queue, false).await };
        let consuming =
            channel.basic_consume(queue.clone(), tag.clone(), BasicConsumeOptions::default(), FieldTable::default());
        let entering = async {
            let (found, consumer) = join(declaring, consuming).await;
            Ok((found?, consumer?))
        };
        let (found, consumer) = session.answered("entering a queue", entering).await?;
        let is_fresh = found.ready == 0 && found.consumers == 0;
        if is_fresh {
            session.publish(&queue, layout::token(wall_micros())).await?;
        }
        let asked = AtomicU64::new(session.clock().now().as_nanos());
        let (phase, _) = watch::channel(Phase::Waiting);
        let subscription =
            Arc::new(Subscription { nonce, queue, tag, channel, phase, asked, reader: Mutex::default(), lost });
        // A second message may be a second token: ours, or one that is ready although somebody holds.
        let doubtful = is_fresh || found.ready > 1 || (found.ready > 0 && found.consumers > 0);
        let reader = tokio::spawn(subscription.clone().read(consumer, doubtful));
        subscription.reader().replace(reader);
        Ok((subscription, is_fresh || (found.ready > 0 && found.consumers == 0)))
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        self.channel.session()
    }

    /// Whether it still is in the queue, or holds.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(*self.phase.borrow(), Phase::Leaving | Phase::Ended)
    }

    pub(crate) fn held(&self) -> Option<Delivered> {
        match *self.phase.borrow() {
            Phase::Held(delivered) => Some(delivered),
            _ => None,
        }
    }

    /// The token, if it is here; it is held from now on.
    pub(crate) fn take(&self) -> Option<Delivered> {
        self.turn(|phase| match phase {
            Phase::Offered(delivered) => Some(Phase::Held(delivered)),
            _ => None,
        });
        self.held()
    }

    /// The token, once it is here; `None` if it will not come. Safe to drop at any time.
    pub(crate) async fn granted(&self) -> Option<Delivered> {
        let mut phases = self.phase.subscribe();
        loop {
            let phase = *phases.borrow_and_update();
            match phase {
                Phase::Waiting => {}
                Phase::Leaving | Phase::Ended => return None,
                Phase::Offered(_) | Phase::Held(_) => {
                    if let Some(delivered) = self.take() {
                        return Some(delivered);
                    }
                }
            }
            phases.changed().await.ok()?;
        }
    }

    /// Completes when the broker has answered twice since: what it had for this consumer has come by then.
    pub(crate) async fn barrier(&self) -> StepResult<()> {
        self.session().answered("waiting for a token", self.channel.basic_qos(1, BasicQosOptions::default())).await
    }

    /// Puts a question into the queue if that is empty, and this has waited for so long without knowing why.
    pub(crate) async fn ask_after(&self, patience: Duration) -> StepResult<()> {
        let session = self.session();
        let now = session.clock().now();
        let asked = Mono::from_nanos(self.asked.load(Ordering::Relaxed));
        if now < asked.after(patience) || *self.phase.borrow() != Phase::Waiting {
            return Ok(());
        }
        self.asked.store(now.as_nanos(), Ordering::Relaxed);
        let found = session.answered("looking at a queue", declare(&self.channel, &self.queue, true)).await?;
        if found.ready == 0 { session.publish(&self.queue, layout::question()).await } else { Ok(()) }
    }

    /// Leaves the queue, or gives the lock back; whether there was one to give back.
    pub(crate) async fn leave(&self) -> StepResult<bool> {
        let mut before = Phase::Ended;
        self.turn(|phase| {
            before = phase;
            (phase != Phase::Ended).then_some(Phase::Leaving)
        });
        let delivered = match before {
            Phase::Ended => return Ok(false),
            // Somebody else has begun: what it could not finish goes with the channel.
            Phase::Leaving | Phase::Waiting => None,
            Phase::Offered(delivered) | Phase::Held(delivered) => Some(delivered),
        };
        let left = self.session().answered("leaving a queue", self.give_back(delivered)).await;
        let reader = self.reader().take();
        match (&left, reader) {
            (Err(_), _) => self.finish(),
            // Until the reader is gone the channel is in use.
            (Ok(()), Some(reader)) => {
                if matches!(tokio::time::timeout(self.session().timeout(), reader).await, Ok(Ok(()))) {
                    self.channel.is_clean();
                }
            }
            (Ok(()), None) => {}
        }
        left.map(|()| matches!(before, Phase::Held(_)))
    }

    /// Cancels, *then* hands back: else the broker would give it to the same consumer again. The answer to the third says
    /// that the queue has been told of the second.
    async fn give_back(&self, delivered: Option<Delivered>) -> lapin::Result<()> {
        let cancelling = self.channel.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        let nacking = async {
            match delivered {
                Some(delivered) => self.nack(delivered.tag).await,
                None => Ok(()),
            }
        };
        let telling = self.channel.basic_qos(1, BasicQosOptions::default());
        let (cancelled, nacked, told) = join3(cancelling, nacking, telling).await;
        cancelled.and(nacked).and(told)
    }

    /// Takes what is delivered, until the consumer ends.
    async fn read(self: Arc<Self>, mut consumer: Consumer, mut doubtful: bool) {
        // When the token must have come, or have been taken up.
        let mut by: Option<Instant> = None;
        loop {
            let delivery = tokio::select! {
                delivery = consumer.next() => delivery,
                () = self.session().ended() => break self.ended(None),
                () = sleep_until(by.unwrap_or_else(Instant::now)), if by.is_some() => {
                    by = None;
                    if self.out_of_time().await { doubtful = true; }
                    continue;
                }
            };
            let delivery = match delivery {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => break self.ended(Some(error)),
                None => break self.ended(None),
            };
            let next = match layout::read(&delivery) {
                Message::Token(_) if doubtful => {
                    doubtful = false;
                    match self.is_alone().await {
                        Ok(true) => self.offer(&delivery).await,
                        Ok(false) => self.renew_token(&delivery).await,
                        Err(error) => Err(error),
                    }
                }
                Message::Token(_) => self.offer(&delivery).await,
                other => match self.drop_message(&delivery, other).await {
                    // However many ask, the first of them has been waited for since.
                    Ok(()) => Ok(by.map_or(Some(TOKEN_WAIT), |by| Some(by.saturating_duration_since(Instant::now())))),
                    Err(error) => Err(error),
                },
            };
            match next {
                Ok(wait) => by = wait.map(|wait| Instant::now() + wait),
                Err(error) => break self.ended(Some(error)),
            }
        }
    }

    /// Shows the token to whoever waits; how long that may take.
    async fn offer(&self, delivery: &Delivery) -> lapin::Result<Option<Duration>> {
        let Message::Token(token) = layout::read(delivery) else { return Ok(None) };
        let delivered = Delivered { tag: delivery.delivery_tag, token, at: self.session().clock().now() };
        let offered = self.turn(|phase| (phase == Phase::Waiting).then_some(Phase::Offered(delivered)));
        if offered {
            return Ok(Some(CLAIM));
        }
        self.nack(delivered.tag).await.map(|()| None)
    }

    /// Whether nothing else is in the queue, nor on its way back into it from the holder before.
    async fn is_alone(&self) -> lapin::Result<bool> {
        let by = Instant::now() + HAND_OVER;
        loop {
            let found = declare(&self.channel, &self.queue, true).await?;
            if found.ready > 0 || found.consumers <= 1 || Instant::now() >= by {
                return Ok(found.ready == 0 && found.consumers <= 1);
            }
            sleep(HAND_OVER / 25).await;
        }
    }

    /// Makes one token of several, later than all of them. This consumer is the active one throughout: the new token comes
    /// to it as soon as it has given up the old.
    async fn renew_token(&self, delivery: &Delivery) -> lapin::Result<Option<Duration>> {
        tracing::debug!(target: "tasklock", backend = "rabbitmq", queue = %self.queue, "clearing a queue of what is not its token");
        self.channel.queue_purge(self.queue.clone(), QueuePurgeOptions::default()).await?;
        if let Err(error) = self.session().publish(&self.queue, layout::token(wall_micros())).await {
            tracing::warn!(target: "tasklock", backend = "rabbitmq", "no new token: {error}");
            return self.nack(delivery.delivery_tag).await.map(|()| Some(TOKEN_WAIT));
        }
        self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
        Ok(Some(TOKEN_WAIT))
    }

    /// Takes something out of the queue that is not a token. What gets it is the active consumer, so a token follows, or
    /// there is none.
    async fn drop_message(&self, delivery: &Delivery, message: Message) -> lapin::Result<()> {
        if message == Message::Foreign {
            tracing::warn!(target: "tasklock", backend = "rabbitmq", queue = %self.queue, "a message that is no lock was dropped");
        }
        self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await
    }

    /// Hands back what nobody took, or makes the token that has not come; whether it made one.
    async fn out_of_time(&self) -> bool {
        let phase = *self.phase.borrow();
        if phase == Phase::Waiting {
            return self.make_token().await;
        }
        let mut untaken = None;
        self.turn(|phase| match phase {
            Phase::Offered(delivered) => {
                untaken = Some(delivered);
                Some(Phase::Leaving)
            }
            _ => None,
        });
        if untaken.is_some() {
            let _ = self.session().answered("handing back", self.give_back(untaken)).await;
            self.finish();
        }
        false
    }

    async fn make_token(&self) -> bool {
        tracing::warn!(target: "tasklock", backend = "rabbitmq", queue = %self.queue, "the token was lost, and is made anew");
        self.session().publish(&self.queue, layout::token(wall_micros())).await.is_ok()
    }

    async fn nack(&self, tag: u64) -> lapin::Result<()> {
        self.channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await
    }

    /// The consumer has ended, by itself or not. A hold that ends like this is lost.
    fn ended(&self, error: Option<lapin::Error>) {
        let held = self.held().is_some();
        self.finish();
        if !held {
            return;
        }
        match error {
            Some(error) if is_consumer_timeout(&error) => tracing::warn!(
                target: "tasklock", backend = "rabbitmq", queue = %self.queue,
                "the broker took the lock from its holder: it was held for longer than the broker's consumer_timeout. \
                 Raise that above the longest hold, or keep holds below it by `max_hold`. It said: {error}"
            ),
            Some(error) => tracing::warn!(
                target: "tasklock", backend = "rabbitmq", queue = %self.queue, "the lock was lost with its channel: {error}"
            ),
            None => tracing::warn!(
                target: "tasklock", backend = "rabbitmq", queue = %self.queue,
                "the lock was lost: its queue was removed, or the connection ended"
            ),
        }
        let _ = self.lost.send(Event::Lost(self.nonce, LossReason::SessionClosed));
    }

    fn reader(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self) {
        self.turn(|phase| (phase != Phase::Ended).then_some(Phase::Ended));
    }

    /// Goes on to another phase, if there is one to go to; whether there was.
    fn turn(&self, next: impl FnOnce(Phase) -> Option<Phase>) -> bool {
        self.phase.send_if_modified(|phase| match next(*phase) {
            Some(next) => {
                *phase = next;
                true
            }
            None => false,
        })
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("queue", &self.queue)
            .field("phase", &*self.phase.borrow())
            .finish_non_exhaustive()
    }
}

async fn declare(channel: &lapin::Channel, queue: &ShortString, passive: bool) -> lapin::Result<Found> {
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.clone(), options, layout::arguments()).await?;
    Ok(Found { ready: queue.message_count(), consumers: queue.consumer_count() })
}

/// Whether anybody holds the lock of this queue, as far as can be seen; `None` if there is no such queue.
pub(crate) async fn is_held(channel: &Leased, queue: &ShortString) -> StepResult<Option<bool>> {
    let looked = channel.session().answered("looking at a queue", async {
        match declare(channel, queue, true).await {
            Ok(found) => Ok(Some(found.consumers > 0)),
            Err(error) if crate::error::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let found = looked.await?;
    if found.is_some() {
        channel.is_clean();
    }
    Ok(found)
}
