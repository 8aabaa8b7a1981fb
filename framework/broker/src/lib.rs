//! The [`Broker`] trait and its two implementations: RabbitMQ ([`rabbitmq`]) and in process ([`in_process`]).
//! One contract suite ([`contract`]) holds for both.
//!
//! A broker moves bytes and promises little: a confirmed message is not lost (in process: while the process
//! lives), a delivery that was not acknowledged comes again, and may come twice. Everything else is built on
//! top of it by the coordinator and the workers.

#[doc(hidden)]
pub mod contract;
pub mod in_process;
pub mod rabbitmq;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stagepost_protocol::{Message, Properties};
use tokio::sync::watch;
use uuid::Uuid;

/// Why a broker could not do what it was asked. A lost connection is none of these: the broker waits,
/// reconnects and goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No queue takes the message, although it was declared again.
    #[error("no queue '{queue}' takes the message: declare it, or start what consumes it")]
    Unroutable {
        /// The queue that was meant.
        queue: String,
    },
    /// The broker refused the message (a full queue, a policy).
    #[error("the broker refused a message for queue '{queue}': {reason}")]
    Refused {
        /// The queue that was meant.
        queue: String,
        /// What the broker said.
        reason: String,
    },
    /// The exchange is there, but passes the message on to no queue.
    #[error("no queue is bound to exchange '{exchange}' for routing key '{routing_key}'")]
    Unbound {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// The broker refused an operation for good: wrong credentials, a queue of other properties.
    #[error("the broker refused to {what}: {reason}")]
    Denied {
        /// What was asked for.
        what: String,
        /// What the broker said.
        reason: String,
    },
    /// The URL cannot be used.
    #[error("'{url}' cannot be used as a broker: {reason}")]
    Url {
        /// The URL, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The broker did not answer within the time that was set for connecting.
    #[error("'{url}' could not be reached in time: {reason}")]
    Unreachable {
        /// The URL, without its password.
        url: String,
        /// What the last attempt met with.
        reason: String,
    },
    /// The broker was closed by [`Broker::close`].
    #[error("the broker connection was closed")]
    Closed,
}

/// What became of one published message.
pub type Published = Result<(), Error>;

/// How a queue is to be declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its name.
    pub name: String,
    /// Ours to create with the installation's queue type (quorum or classic, durable); `false`: a queue of
    /// somebody else's, which must exist and is only checked.
    pub create: bool,
}

impl QueueSpec {
    /// A queue of ours.
    pub fn ours(name: impl Into<String>) -> QueueSpec {
        QueueSpec { name: name.into(), create: true }
    }

    /// A queue of an existing producer or consumer.
    pub fn foreign(name: impl Into<String>) -> QueueSpec {
        QueueSpec { name: name.into(), create: false }
    }
}

/// Whether the broker can be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Connected.
    Up,
    /// Connected, but the broker takes no messages for now (`connection.blocked`); says why.
    Blocked(String),
    /// Not connected; says why. Reconnection goes on.
    Down(String),
}

/// Names a delivery to the consumer that it came from. Old tags are harmless: after a reconnection their
/// messages are delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryTag {
    /// Counts the channels of this consumer: a tag of an earlier one no longer means anything.
    pub generation: u64,
    /// The channel's own number; grows with every delivery.
    pub tag: u64,
}

/// A message that was delivered and waits to be acknowledged.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Names it.
    pub tag: DeliveryTag,
    /// Its body.
    pub body: Bytes,
    /// Its properties.
    pub properties: Properties,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// The routing key that it was published with to an exchange; `None`: it was published to the queue itself.
    pub routing_key: Option<String>,
}

/// Takes messages off one queue, in order, and survives the broker's failures.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for at least one delivery and takes what has arrived, up to `max`. `None` after
    /// [`Consumer::cancel`] or [`Broker::close`], when everything that had been delivered was taken.
    /// Cancel-safe: dropping the future loses no delivery.
    async fn next(&mut self, max: usize) -> Option<Vec<Delivery>>;

    /// Changes how many deliveries come: from now on at most `further` before one of those is settled, none if it is 0.
    /// What was taken before does not count any more, so that it can be settled without more coming for it. What is on
    /// its way already still comes, and counts. Means nothing to a consumer whose deliveries need no settling.
    async fn admit(&mut self, further: u16);

    /// Stops deliveries. What was delivered can still be taken with `next` and settled.
    async fn cancel(&mut self);

    /// As [`Consumer::cancel`], but sees to it that next to nothing is flagged as delivered before that nobody has seen,
    /// and takes up to so long for it. While it does, the consumer's deliveries should not be settled.
    async fn wind_down(&mut self, _within: Duration) {
        self.cancel().await;
    }

    /// A handle that settles this consumer's deliveries from anywhere.
    fn acker(&self) -> Arc<dyn Acker>;
}

/// Settles deliveries of one consumer. Calls return when the broker has been told; nothing confirms them, and a
/// lost connection only means that the messages come again.
#[async_trait]
pub trait Acker: Send + Sync {
    /// Acknowledges one delivery.
    async fn ack(&self, tag: DeliveryTag);
    /// Acknowledges this delivery and all unsettled earlier ones of its generation.
    async fn ack_up_to(&self, tag: DeliveryTag);
    /// Gives the delivery back to the queue; it comes again, flagged `redelivered`.
    async fn requeue(&self, tag: DeliveryTag);
}

/// How to consume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumeOptions {
    /// At most so many deliveries are unsettled at a time (per consumer, never global). At least 1.
    pub prefetch: u16,
}

/// A message broker. All methods wait while it cannot be reached; callers that cannot wait use a timeout.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Declares queues, idempotently, and remembers them: they are declared again after a reconnection.
    async fn declare(&self, queues: &[QueueSpec]) -> Result<(), Error>;

    /// Declares a durable topic exchange; one that is there is taken as it is, of whatever type.
    async fn declare_exchange(&self, exchange: &str) -> Result<(), Error>;

    /// Binds a queue to an exchange, idempotently: what is published there with a routing key that the pattern
    /// `routing_key` matches goes to the queue as well. Both must exist. The binding is remembered: after a
    /// reconnection it is made again, with its exchange, should the broker have lost them.
    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error>;

    /// Takes a binding back; nothing happens when there is none.
    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error>;

    /// Publishes the messages in order per queue and returns, in the same order, what became of each: `Ok`
    /// means that the broker has it (confirmed). Pipelined. A lost connection is waited out and what was not
    /// confirmed is published again, so that a message can be there twice; the second one is marked
    /// ([`HEADER_REPUBLISHED`](stagepost_protocol::message::HEADER_REPUBLISHED)).
    async fn publish(&self, messages: Vec<Message>) -> Vec<Published>;

    /// Publishes a persistent message through an exchange that others may have made. `Ok`: every queue that it passes the
    /// message on to has it (confirmed). [`Error::Unbound`]: there is none; [`Error::Denied`]: there is no such exchange. What
    /// is published so never holds up [`Broker::publish`]. A lost connection is waited out, as there.
    async fn publish_to_exchange(
        &self,
        exchange: &str,
        routing_key: &str,
        body: Bytes,
        properties: Properties,
    ) -> Published;

    /// Consumes a declared queue. The consumer is rebuilt after a reconnection.
    async fn consume(&self, queue: &str, options: ConsumeOptions) -> Result<Box<dyn Consumer>, Error>;

    /// Makes a queue of this process's own and consumes it; deliveries need no settling. It keeps its name after a
    /// reconnection, but not what was in it, and goes with its consumer. The name must be used by nobody else.
    async fn private_queue(&self, name: &str) -> Result<Box<dyn Consumer>, Error>;

    /// A queue of this process's own for replies, as [`Broker::private_queue`], with a name that it makes up.
    async fn reply_queue(&self) -> Result<(String, Box<dyn Consumer>), Error> {
        let name = format!("stagepost.reply.{}", Uuid::new_v4());
        let consumer = self.private_queue(&name).await?;
        Ok((name, consumer))
    }

    /// How many messages wait in a queue; `None` when there is no such queue.
    async fn depth(&self, queue: &str) -> Result<Option<u64>, Error>;

    /// Deletes a queue with all that is in it; nothing happens when there is none.
    async fn delete(&self, queue: &str) -> Result<(), Error>;

    /// The broker's health, and its changes.
    fn health(&self) -> watch::Receiver<Health>;

    /// Lets go of the connection. Unsettled deliveries go back to their queues. Idempotent.
    async fn close(&self);
}
