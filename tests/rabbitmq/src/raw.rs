//! A client that is none of tasklock's, to see and spoil what tasklock keeps at the broker.

use std::{
    fmt,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join3};
use tasklock::lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions,
        BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};

use crate::soon;

/// A connection with one channel.
pub struct Raw {
    channel: Channel,
    connection: Connection,
}

impl Raw {
    /// To the broker at this address.
    ///
    /// # Panics
    ///
    /// If it cannot connect.
    pub async fn connect(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Raw { channel, connection }
    }

    /// How many messages are ready in the queue of a lock, and how many consumers have any.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    pub async fn counts(&self, name: &str) -> (u32, u32) {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(queue(name).as_str().into(), options, FieldTable::default()).await;
        let queue = queue.expect("a queue");
        (queue.message_count(), queue.consumer_count())
    }

    /// How many of the messages that are ready are tokens. They are left as they were.
    ///
    /// # Panics
    ///
    /// If they do not come.
    pub async fn tokens(&self, name: &str) -> usize {
        let (ready, _) = self.counts(name).await;
        let channel = self.connection.create_channel().await.expect("a channel");
        let (queue, options) = (queue(name), BasicConsumeOptions::default());
        let consumed = channel.basic_consume(queue.as_str().into(), "raw".into(), options, FieldTable::default());
        let (mut consumer, mut tokens) = (consumed.await.expect("a consumer"), 0);
        for _ in 0..ready {
            let message = soon("a message", consumer.next()).await.expect("a delivery").expect("a delivery");
            let kind = message.properties.headers().as_ref().and_then(|headers| headers.inner().get("tasklock-kind"));
            tokens += usize::from(kind == Some(&AMQPValue::LongString("token".into())));
        }
        channel.close(200, "seen".into()).await.expect("an answer");
        tokens
    }

    /// Puts a second token into the queue of a lock, with this base.
    pub async fn add_token(&self, name: &str, base: i64) {
        let mut headers = FieldTable::default();
        headers.insert("tasklock-kind".into(), AMQPValue::LongString("token".into()));
        headers.insert("tasklock-base".into(), AMQPValue::LongLongInt(base));
        self.publish(name, BasicProperties::default().with_delivery_mode(2).with_headers(headers)).await;
    }

    /// Puts something else into the queue of a lock.
    pub async fn add_foreign(&self, name: &str) {
        self.publish(name, BasicProperties::default()).await;
    }

    /// Takes what nobody has out of the queue of a lock; how much that was.
    ///
    /// # Panics
    ///
    /// If that is refused.
    pub async fn purge(&self, name: &str) -> u32 {
        self.channel.queue_purge(queue(name).as_str().into(), QueuePurgeOptions::default()).await.expect("a purge")
    }

    /// Removes the queue of a lock.
    ///
    /// # Panics
    ///
    /// If that is refused.
    pub async fn delete(&self, name: &str) {
        let deleted = self.channel.queue_delete(queue(name).as_str().into(), QueueDeleteOptions::default());
        deleted.await.expect("a removal");
    }

    /// Takes the token of a lock, as a holder does.
    ///
    /// # Panics
    ///
    /// If it does not come.
    pub async fn take_token(&self, name: &str) -> Taken {
        let channel = self.connection.create_channel().await.expect("a channel");
        channel.basic_qos(1, BasicQosOptions::default()).await.expect("a prefetch of one");
        let (queue, options) = (queue(name), BasicConsumeOptions::default());
        let consumed = channel.basic_consume(queue.as_str().into(), "raw".into(), options, FieldTable::default());
        let mut consumer = consumed.await.expect("a consumer");
        let delivery = soon("the token", consumer.next()).await.expect("a delivery").expect("a delivery");
        Taken { channel, delivery, _consumer: consumer }
    }

    /// Hands a message to and fro between two connections, as locks are; how long each took.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub async fn hand_overs(&self, other: &Raw, name: &str, times: usize) -> Vec<Duration> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        let (queue, options) = (queue(name), QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() });
        self.channel.queue_declare(queue.as_str().into(), options, arguments).await.expect("a queue");
        self.add_token(name, 1).await;
        let mut taken = self.take_token(name).await;
        let mut took = Vec::new();
        for n in 0..times {
            let connection = if n % 2 == 0 { &other.connection } else { &self.connection };
            let channel = connection.create_channel().await.expect("a channel");
            channel.basic_qos(1, BasicQosOptions::default()).await.expect("a prefetch of one");
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumed = channel.basic_consume(queue.as_str().into(), "raw".into(), options, none);
            let mut consumer = consumed.await.expect("a consumer");
            // As long as one that waits has waited: a broker at rest is a slower one.
            tokio::time::sleep(Duration::from_millis(8)).await;
            let started = Instant::now();
            let back = BasicNackOptions { requeue: true, multiple: false };
            let (cancelled, nacked, next) = join3(
                taken.channel.basic_cancel("raw".into(), BasicCancelOptions::default()),
                taken.channel.basic_nack(taken.delivery.delivery_tag, back),
                consumer.next(),
            )
            .await;
            took.push(started.elapsed());
            cancelled.and(nacked).expect("handed back");
            let delivery = next.expect("a delivery").expect("a delivery");
            taken = Taken { channel, delivery, _consumer: consumer };
        }
        took
    }

    /// Makes a queue where the one of a lock would be, with arguments of its own.
    ///
    /// # Panics
    ///
    /// If that is refused.
    pub async fn make_classic(&self, name: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let made = self.channel.queue_declare(queue(name).as_str().into(), options, FieldTable::default());
        made.await.expect("a queue");
    }

    async fn publish(&self, name: &str, properties: BasicProperties) {
        let (queue, options) = (queue(name), BasicPublishOptions::default());
        let confirm = self.channel.basic_publish("".into(), queue.as_str().into(), options, b"", properties);
        assert!(confirm.await.expect("a message sent").await.expect("an answer").is_ack());
    }
}

/// A token that was taken.
pub struct Taken {
    channel: Channel,
    delivery: Delivery,
    _consumer: Consumer,
}

impl Taken {
    /// Destroys it, and leaves the queue.
    ///
    /// # Panics
    ///
    /// If that is refused.
    pub async fn destroy(self) {
        assert!(self.delivery.ack(BasicAckOptions::default()).await.expect("an answer"));
        self.channel.close(200, "done".into()).await.expect("an end");
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").finish_non_exhaustive()
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw").finish_non_exhaustive()
    }
}

fn queue(name: &str) -> String {
    format!("tasklock.1:{name}")
}
