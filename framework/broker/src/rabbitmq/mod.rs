//! The broker of production: RabbitMQ 3.10+ and 4.x, through lapin.
//!
//! ```text
//!               ┌ connection (publishing) ── lanes: publish, mandatory, confirmed
//! RabbitMqBroker┤
//!               └ connection (consuming) ──┬ a channel to declare, look at and delete queues
//!                                          └ a channel for each consumer
//! ```
//!
//! Publishing has a connection of its own because RabbitMQ stops reading from a connection that publishes too
//! fast or while it is short of memory or disk; acknowledgements must get through all the same.
//!
//! What happens when something fails:
//!
//! * The connection is lost: it is made again, with jittered waits of up to about 5 s, for as long as it takes.
//!   Publishers wait and publish again what was not confirmed; consumers consume again under a new generation.
//! * The broker blocks the connection: health is [`Health::Blocked`], publishers wait.
//! * The broker closes a channel (a slow acknowledgement, a queue that is gone): it is opened again.
//! * A queue of ours is missing: it is declared again, with its bindings.
//! * A quorum queue that was created seconds before a crash of the broker came back broken: it is created anew.

mod connection;
mod consume;
mod exchange;
mod message;
mod publish;
mod reconnect;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stagepost_protocol::{Message, Properties};
use tokio::sync::{mpsc, oneshot, watch};

use self::connection::{HealthBoard, Session, Supervised, Target};
use self::consume::{RabbitMqConsumer, Source};
use self::exchange::Exchanges;
use self::publish::Call;
use self::topology::{Binding, Topology};
use crate::{Broker, ConsumeOptions, Consumer, Error, Health, Published, QueueSpec};

/// The broker answers a request within this time, or something is wrong.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Waits for an answer. A request whose answer is late goes on without us: lapin takes an answer that nobody waits for
/// as a reason to give up the connection. One whose connection is lost is dropped.
async fn answer<T: Send + 'static>(
    link: &Supervised,
    session: &Session,
    request: impl Future<Output = lapin::Result<T>> + Send + 'static,
) -> Result<lapin::Result<T>, NoAnswer> {
    let mut request = tokio::spawn(request);
    let answer = tokio::time::timeout(ANSWER_MAX, link.while_up(session.number, &mut request)).await;
    match answer {
        Ok(Some(Ok(answer))) => Ok(answer),
        Ok(Some(Err(_)) | None) => {
            request.abort();
            Err(NoAnswer::Lost)
        }
        Err(_) if session.connection.status().blocked() => Err(NoAnswer::Blocked),
        Err(_) => Err(NoAnswer::Late),
    }
}

/// Why there is no answer.
enum NoAnswer {
    /// The connection was lost; that says nothing about what was asked.
    Lost,
    /// The broker takes nothing for now, so it answers nothing.
    Blocked,
    /// It did not come in time.
    Late,
}

/// Declares the queues again after each reconnection.
async fn restore(inner: Arc<Inner>) {
    let mut number = 0;
    while let Ok(session) = inner.consuming.session_after(number).await {
        if number > 0 {
            inner.topology.restore(&inner.consuming).await;
        }
        number = session.number;
    }
}

/// The type of the queues that are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueKind {
    /// Replicated and synced to disk; after a crash exactly what had been delivered is flagged as redelivered.
    #[default]
    Quorum,
    /// Classic durable queues: a crash of the broker flags every message as redelivered and may lose the last ones.
    Classic,
}

/// How to connect to RabbitMQ and use it.
#[derive(Debug, Clone)]
pub struct RabbitMqOptions {
    /// The type of new queues; queues that exist are used as they are. Default: quorum.
    pub queue_kind: QueueKind,
    /// The connections' name in RabbitMQ's management. Default: `stagepost`.
    pub connection_name: String,
    /// How many batches of messages are published at a time. At least 1; default: 2.
    pub publish_channels: usize,
    /// How long [`RabbitMqBroker::connect`] waits for a broker that cannot be reached. Default: without end.
    pub connect_timeout: Option<Duration>,
}

impl Default for RabbitMqOptions {
    fn default() -> RabbitMqOptions {
        RabbitMqOptions {
            queue_kind: QueueKind::Quorum,
            connection_name: "stagepost".into(),
            publish_channels: 2,
            connect_timeout: None,
        }
    }
}

/// RabbitMQ. Dropping it closes the connections.
pub struct RabbitMqBroker {
    inner: Arc<Inner>,
    calls: mpsc::Sender<Call>,
}

/// What the tasks and consumers of a broker share.
struct Inner {
    publishing: Supervised,
    consuming: Supervised,
    topology: Arc<Topology>,
    exchanges: Exchanges,
    health: Arc<HealthBoard>,
    stop: watch::Sender<bool>,
}

impl RabbitMqBroker {
    /// Connects to `amqp://user:password@host:port/vhost` (or, with the feature
    /// `amqps`, `amqps://`). Waits for a broker that cannot be
    /// reached, as long as [`RabbitMqOptions::connect_timeout`] says.
    ///
    /// # Errors
    /// [`Error::Url`] for an unusable URL, [`Error::Denied`] when the broker refuses the credentials or the virtual
    /// host, [`Error::Unreachable`] after the timeout.
    pub async fn connect(url: &str, options: RabbitMqOptions) -> Result<Arc<RabbitMqBroker>, Error> {
        let (stop, stopped) = watch::channel(false);
        let health = HealthBoard::new(2);
        let topology = Arc::new(Topology::new(options.queue_kind));
        let supervise = async |slot: usize, purpose: &str| {
            let target = Target::parse(url, &format!("{} ({purpose})", options.connection_name))?;
            let connection = target.connect_first(options.connect_timeout).await?;
            let queues = Arc::clone(&topology);
            let lost = move || queues.connection_lost();
            Ok::<_, Error>(Supervised::start(
                target,
                connection,
                slot,
                Arc::clone(&health),
                stopped.clone(),
                lost,
            ))
        };
        let consuming = supervise(0, "consuming").await?;
        let publishing = supervise(1, "publishing").await?;
        let exchanges = Exchanges::default();
        let inner = Arc::new(Inner { publishing, consuming, topology, exchanges, health, stop });
        let (calls, waiting) = publish::calls();
        for _ in 0..options.publish_channels.max(1) {
            tokio::spawn(publish::run_lane(Arc::clone(&inner), Arc::clone(&waiting)));
        }
        tokio::spawn(restore(Arc::clone(&inner)));
        Ok(Arc::new(RabbitMqBroker { inner, calls }))
    }

    fn check_open(&self) -> Result<(), Error> {
        if *self.inner.stop.borrow() { Err(Error::Closed) } else { Ok(()) }
    }
}

impl Drop for RabbitMqBroker {
    fn drop(&mut self) {
        self.inner.stop.send_replace(true);
    }
}

#[async_trait]
impl Broker for RabbitMqBroker {
    async fn declare(&self, queues: &[QueueSpec]) -> Result<(), Error> {
        self.check_open()?;
        for spec in queues {
            self.inner.topology.declare(&self.inner.consuming, spec).await?;
        }
        Ok(())
    }

    async fn declare_exchange(&self, exchange: &str) -> Result<(), Error> {
        self.check_open()?;
        self.inner.topology.declare_exchange(&self.inner.consuming, exchange).await
    }

    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.check_open()?;
        self.inner.topology.bind(&self.inner.consuming, Binding::new(queue, exchange, routing_key)?).await
    }

    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.check_open()?;
        self.inner.topology.unbind(&self.inner.consuming, Binding::new(queue, exchange, routing_key)?).await
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<Published> {
        let count = messages.len();
        if count == 0 {
            return Vec::new();
        }
        let (done, published) = oneshot::channel();
        let sent = match self.check_open() {
            Ok(()) => self.calls.send(Call { messages, done }).await.is_ok(),
            Err(_) => false,
        };
        let results = if sent { published.await.ok() } else { None };
        results.unwrap_or_else(|| (0..count).map(|_| Err(Error::Closed)).collect())
    }

    async fn publish_to_exchange(
        &self,
        exchange: &str,
        routing_key: &str,
        body: Bytes,
        properties: Properties,
    ) -> Published {
        self.check_open()?;
        self.inner.exchanges.publish(&self.inner, exchange, routing_key, body, properties).await
    }

    async fn consume(&self, queue: &str, options: ConsumeOptions) -> Result<Box<dyn Consumer>, Error> {
        self.check_open()?;
        let source = Source::Queue { name: queue.to_owned(), prefetch: options.prefetch };
        Ok(Box::new(RabbitMqConsumer::start(Arc::clone(&self.inner), source).await?))
    }

    async fn private_queue(&self, name: &str) -> Result<Box<dyn Consumer>, Error> {
        self.check_open()?;
        let source = Source::Reply { name: name.to_owned() };
        Ok(Box::new(RabbitMqConsumer::start(Arc::clone(&self.inner), source).await?))
    }

    async fn depth(&self, queue: &str) -> Result<Option<u64>, Error> {
        self.check_open()?;
        self.inner.topology.depth(&self.inner.consuming, queue).await
    }

    async fn delete(&self, queue: &str) -> Result<(), Error> {
        self.check_open()?;
        self.inner.topology.delete(&self.inner.consuming, queue).await
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.subscribe()
    }

    async fn close(&self) {
        self.inner.stop.send_replace(true);
        self.inner.publishing.closed().await;
        self.inner.consuming.closed().await;
    }
}
