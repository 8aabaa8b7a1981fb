//! Consumers that are rebuilt after a failure, and their acknowledgements.
//!
//! Each consumer has a channel of its own: a prefetch and an error are then its own affair. There is no task:
//! [`Consumer::next`] polls lapin's stream, and where that ends, the rebuilding, which survives being dropped.
//!
//! RabbitMQ fixes a consumer's prefetch when it begins. To change it ([`Consumer::admit`]) the consumer is cancelled and
//! another one begun on the same channel, where the first one's deliveries stay and can be settled, without counting.
//!
//! A quorum queue goes on giving messages to a consumer until its cancellation has got there, and the channel, which has
//! cancelled it by then, returns them flagged as delivered, although nobody has seen them
//! (<https://github.com/rabbitmq/rabbitmq-server/issues/3729>). Only a consumer that has no room is safe from that:
//! see [`shielded`].

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::{Instant, timeout_at};

use super::message::{from_amqp, short};
use super::reconnect::Backoff;
use super::topology::{Failure, classify};
use super::{Inner, NoAnswer, answer};
use crate::{Acker, Consumer, Delivery, DeliveryTag, Error, QueueSpec};

/// How much a consumer that shelters another one is given, and how far it goes before others, whose priority is 0.
const SHIELD_ROOM: u16 = 2;
const SHIELD_PRIORITY: i32 = 100;

/// What is consumed, and how.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A queue whose deliveries are settled.
    Queue { name: String, prefetch: u16 },
    /// A reply queue of our own, whose deliveries are not.
    Reply { name: String },
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Source::Queue { name, .. } | Source::Reply { name } => name,
        }
    }
}

/// A channel that consumes.
struct Feed {
    /// The number of the connection that it is on.
    session: u64,
    channel: Channel,
    stream: lapin::Consumer,
}

/// Consumes one queue, for as long as the broker is not closed.
pub(super) struct RabbitMqConsumer {
    inner: Arc<Inner>,
    source: Source,
    acker: Arc<ChannelAcker>,
    /// With the number of the connection that it is on.
    stream: Option<(u64, lapin::Consumer)>,
    /// What had come to a stream that was cancelled for another one.
    left: VecDeque<lapin::message::Delivery>,
    rebuilding: Option<BoxFuture<'static, Result<Feed, Error>>>,
    /// No delivery is wanted for now.
    paused: bool,
    cancelled: bool,
}

impl RabbitMqConsumer {
    /// Begins to consume. Waits for a connection, but not for a queue that is missing.
    pub(super) async fn start(inner: Arc<Inner>, source: Source) -> Result<RabbitMqConsumer, Error> {
        let feed = build(Arc::clone(&inner), source.clone(), true).await?;
        let acker = Arc::new(ChannelAcker {
            settles: matches!(source, Source::Queue { .. }),
            state: Mutex::default(),
        });
        let mut consumer = RabbitMqConsumer {
            inner,
            source,
            acker,
            stream: None,
            left: VecDeque::new(),
            rebuilding: None,
            paused: false,
            cancelled: false,
        };
        consumer.install(feed);
        Ok(consumer)
    }

    fn install(&mut self, feed: Feed) {
        let mut state = self.acker.lock();
        state.generation += 1;
        state.unsettled.clear();
        (state.session, state.channel) = (feed.session, Some(feed.channel));
        drop(state);
        self.stream = Some((feed.session, feed.stream));
    }

    /// The channel that the stream belongs to works.
    fn is_alive(&self) -> bool {
        self.acker.lock().channel.as_ref().is_some_and(|channel| channel.status().connected())
    }

    /// Takes `first` and what has arrived after it. Waits for nothing, so nothing is lost by being dropped.
    fn take(&mut self, first: lapin::message::Delivery, max: usize) -> Vec<Delivery> {
        let mut state = self.acker.lock();
        let generation = state.generation;
        let mut deliveries = Vec::new();
        let mut next = Some(first);
        while let Some(delivery) = next {
            if self.acker.settles {
                state.unsettled.insert(delivery.delivery_tag);
            }
            deliveries.push(Delivery {
                tag: DeliveryTag { generation, tag: delivery.delivery_tag },
                redelivered: delivery.redelivered,
                routing_key: (!delivery.exchange.as_str().is_empty())
                    .then(|| delivery.routing_key.as_str().to_owned()),
                properties: from_amqp(&delivery.properties),
                body: Bytes::from(delivery.data),
            });
            if deliveries.len() >= max {
                break;
            }
            next = self.left.pop_front();
            if next.is_none()
                && let Some((_, stream)) = &mut self.stream
            {
                let came = stream.next().now_or_never();
                next = match came {
                    Some(Some(Ok(delivery))) => Some(delivery),
                    // An error is always followed by the end, which the next call finds.
                    Some(Some(Err(_))) | None => None,
                    // A stream tells its end once: whoever asks again waits for ever.
                    Some(None) => {
                        self.stream = None;
                        None
                    }
                };
            }
        }
        deliveries
    }

    /// Begins to rebuild, where deliveries are wanted.
    fn rebuild(&mut self) {
        self.stream = None;
        self.left.clear();
        self.acker.close();
        if !self.paused {
            self.rebuilding = Some(Box::pin(build(Arc::clone(&self.inner), self.source.clone(), false)));
        }
    }
}

#[async_trait]
impl Consumer for RabbitMqConsumer {
    async fn next(&mut self, max: usize) -> Option<Vec<Delivery>> {
        loop {
            if let Some(rebuilding) = &mut self.rebuilding {
                let built = rebuilding.await;
                self.rebuilding = None;
                match built {
                    Ok(feed) => self.install(feed),
                    Err(Error::Closed) => return None,
                    Err(error) => {
                        tracing::warn!(queue = self.source.name(), %error, "the queue is consumed no longer");
                        return None;
                    }
                }
            }
            if self.is_alive()
                && let Some(first) = self.left.pop_front()
            {
                return Some(self.take(first, max));
            }
            let found = match &mut self.stream {
                // A stream does not always end with its connection.
                Some((session, stream)) => {
                    self.inner.consuming.while_up(*session, stream.next()).await.flatten()
                }
                None if self.paused && !self.cancelled => {
                    self.inner.consuming.closed().await;
                    return None;
                }
                None => None,
            };
            match found {
                // What a dead channel had delivered comes again; what needs no settling does not.
                Some(Ok(_)) if self.acker.settles && !self.is_alive() => {}
                Some(Ok(first)) => return Some(self.take(first, max)),
                Some(Err(error)) => {
                    tracing::debug!(queue = self.source.name(), %error, "the channel of a consumer ended");
                }
                None if self.cancelled => return None,
                None => self.rebuild(),
            }
        }
    }

    async fn admit(&mut self, further: u16) {
        let Source::Queue { prefetch, .. } = &mut self.source else { return };
        *prefetch = further;
        self.paused = further == 0;
        if self.cancelled {
            return;
        }
        let rebuilding = self.rebuilding.take().is_some();
        let (session, channel) = {
            let state = self.acker.lock();
            (state.session, state.channel.clone())
        };
        let channel = channel.filter(|channel| !rebuilding && channel.status().connected());
        if let Some(channel) = channel {
            let (stream, queue) = (self.stream.take().map(|(_, stream)| stream), self.source.name().into());
            let exchange = exchange(channel, stream, queue, further, self.left.len());
            match self.inner.consuming.while_up(session, exchange).await {
                Some(Ok((left, stream))) => {
                    self.left.extend(left);
                    (self.paused, self.stream) = (stream.is_none(), stream.map(|stream| (session, stream)));
                    return;
                }
                Some(Err(error)) => {
                    tracing::debug!(queue = self.source.name(), %error, "a consumer is rebuilt to be changed");
                }
                None => {}
            }
        }
        self.rebuild();
    }

    async fn cancel(&mut self) {
        self.cancelled = true;
        self.rebuilding = None;
        let channel = self.acker.lock().channel.clone();
        if let (Some((session, stream)), Some(channel)) = (&self.stream, channel) {
            let cancelling = channel.basic_cancel(stream.tag(), BasicCancelOptions::default());
            if let Some(Err(error)) = self.inner.consuming.while_up(*session, cancelling).await {
                tracing::debug!(queue = self.source.name(), %error, "a consumer was cancelled on a dead channel");
            }
        }
    }

    async fn wind_down(&mut self, within: Duration) {
        let channel = self.acker.lock().channel.clone();
        if let (Source::Queue { name, .. }, Some((session, stream)), Some(channel)) =
            (&self.source, self.stream.take(), channel)
        {
            let ending = shielded(&channel, stream, name.as_str().into(), within);
            match self.inner.consuming.while_up(session, ending).await {
                Some(Ok(left)) => self.left.extend(left),
                Some(Err(error)) => {
                    tracing::debug!(queue = self.source.name(), %error, "a consumer was ended on a dead channel");
                }
                None => {}
            }
        }
        self.cancel().await;
    }

    fn acker(&self) -> Arc<dyn Acker> {
        Arc::clone(&self.acker) as Arc<dyn Acker>
    }
}

impl Drop for RabbitMqConsumer {
    fn drop(&mut self) {
        // Ackers that live longer must not keep the channel open, or what is unsettled would not go back.
        self.acker.close();
    }
}

/// Opens a channel and consumes, trying until it works. What the broker refuses ends it at the `first` time; later
/// only the queue's deletion by ourselves does.
async fn build(inner: Arc<Inner>, source: Source, first: bool) -> Result<Feed, Error> {
    let queue = source.name().to_owned();
    let denied = |reason| Error::Denied { what: format!("consume queue '{queue}'"), reason };
    let name = short("the queue's name", &queue).map_err(denied)?;
    let mut backoff = Backoff::new();
    loop {
        let failure = match try_build(&inner, &source, name.clone()).await {
            Ok(feed) => {
                inner.topology.works(&queue);
                return Ok(feed);
            }
            Err(failure) => failure,
        };
        match failure {
            Some(Failure::Closed) => return Err(Error::Closed),
            Some(Failure::Missing(_)) if inner.topology.is_ours(&queue) => {
                // Deleted behind our back, or lost with the broker's data.
                match inner.topology.declare(&inner.consuming, &QueueSpec::ours(&queue)).await {
                    Err(error @ (Error::Denied { .. } | Error::Closed)) if first => return Err(error),
                    Err(error) => tracing::warn!(queue, %error, "a queue cannot be declared again"),
                    Ok(()) => {}
                }
            }
            Some(Failure::Missing(reason)) if first || !inner.topology.is_known(&queue) => {
                return Err(denied(reason));
            }
            Some(Failure::Stuck(_)) if inner.topology.is_suspect(&queue) => {
                inner.topology.mend(&inner.consuming, &queue).await;
            }
            Some(Failure::Stuck(reason)) => {
                tracing::error!(
                    queue,
                    reason,
                    "the queue cannot be consumed, trying again; if all nodes of RabbitMQ are up, delete the queue"
                );
            }
            Some(Failure::Refused(reason) | Failure::Conflict(reason)) if first => {
                return Err(denied(reason));
            }
            Some(failure) => tracing::warn!(queue, ?failure, "the queue cannot be consumed, trying again"),
            None => {}
        }
        backoff.wait().await;
    }
}

/// One attempt. `None`: the connection or channel was lost.
async fn try_build(inner: &Inner, source: &Source, name: ShortString) -> Result<Feed, Option<Failure>> {
    if let Source::Reply { name } = source {
        // After a cut the broker may take a while to see that the old connection, which owns the queue, is gone.
        inner.topology.create_reply(&inner.consuming, name).await.map_err(|failure| match failure {
            Failure::Closed => Some(Failure::Closed),
            Failure::Refused(_) => None,
            other => Some(other),
        })?;
    }
    let session = inner.consuming.session().await.map_err(|_| Some(Failure::Closed))?;
    let source = source.clone();
    let owner = Arc::clone(&session);
    let building = async move {
        let channel = owner.connection.create_channel().await?;
        let no_ack = matches!(source, Source::Reply { .. });
        if let Source::Queue { prefetch, .. } = source {
            channel.basic_qos(prefetch.max(1), BasicQosOptions { global: false }).await?;
        }
        let stream = consume(&channel, name, no_ack, FieldTable::default()).await?;
        Ok(Feed { session: owner.number, channel, stream })
    };
    match answer(&inner.consuming, &session, building).await {
        Ok(Ok(feed)) => Ok(feed),
        Ok(Err(error)) => Err(classify(&error)),
        Err(NoAnswer::Lost | NoAnswer::Blocked) => Err(None),
        Err(NoAnswer::Late) => Err(Some(Failure::Stuck("it does not answer".into()))),
    }
}

/// Ends a stream, and begins another one on the same channel that admits so many deliveries, with those that had come
/// to the first one and were not taken. Gives what had come to it but `on_their_way`, and the new one, if any.
async fn exchange(
    channel: Channel,
    stream: Option<lapin::Consumer>,
    queue: ShortString,
    further: u16,
    on_their_way: usize,
) -> lapin::Result<(Vec<lapin::message::Delivery>, Option<lapin::Consumer>)> {
    let mut left = Vec::new();
    if let Some(stream) = stream {
        end(&channel, stream, &mut left).await?;
    }
    let come = u16::try_from(on_their_way + left.len()).unwrap_or(u16::MAX);
    let further = further.saturating_sub(come);
    if further == 0 {
        return Ok((left, None));
    }
    channel.basic_qos(further, BasicQosOptions { global: false }).await?;
    let stream = consume(&channel, queue, false, FieldTable::default()).await?;
    Ok((left, Some(stream)))
}

/// Cancels a consumer, and adds what had come to it.
async fn end(
    channel: &Channel,
    mut stream: lapin::Consumer,
    left: &mut Vec<lapin::message::Delivery>,
) -> lapin::Result<()> {
    channel.basic_cancel(stream.tag(), BasicCancelOptions::default()).await?;
    while let Some(delivery) = stream.next().await {
        left.push(delivery?);
    }
    Ok(())
}

/// Ends a consumer in the shelter of another one, which goes first and has little room: while it has some, nothing is given
/// to the consumer that is cancelled, and once it has none it can be cancelled itself. Gives what came to either. Something
/// can still be flagged unseen where more than it has room for comes in the few milliseconds of the first cancellation, or
/// less in the whole time of `within` and then something in those of the second.
async fn shielded(
    channel: &Channel,
    stream: lapin::Consumer,
    queue: ShortString,
    within: Duration,
) -> lapin::Result<Vec<lapin::message::Delivery>> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongInt(SHIELD_PRIORITY));
    channel.basic_qos(SHIELD_ROOM, BasicQosOptions { global: false }).await?;
    let mut shield = consume(channel, queue, false, arguments).await?;
    let mut left = Vec::new();
    end(channel, stream, &mut left).await?;
    let until = Instant::now() + within;
    for _ in 0..SHIELD_ROOM {
        match timeout_at(until, shield.next()).await {
            Ok(Some(delivery)) => left.push(delivery?),
            Ok(None) | Err(_) => break,
        }
    }
    end(channel, shield, &mut left).await?;
    left.sort_by_key(|delivery| delivery.delivery_tag);
    Ok(left)
}

async fn consume(
    channel: &Channel,
    queue: ShortString,
    no_ack: bool,
    arguments: FieldTable,
) -> lapin::Result<lapin::Consumer> {
    let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue, ShortString::default(), options, arguments).await
}

/// Settles deliveries on the channel that they came on.
struct ChannelAcker {
    /// `false` for a reply queue, whose deliveries need no settling.
    settles: bool,
    state: Mutex<AckState>,
}

#[derive(Default)]
struct AckState {
    generation: u64,
    /// The connection that the channel is on.
    session: u64,
    channel: Option<Channel>,
    /// The broker closes a channel on which something is settled twice, so it is known what can be.
    unsettled: BTreeSet<u64>,
}

impl ChannelAcker {
    fn lock(&self) -> MutexGuard<'_, AckState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the channel, which closes it.
    fn close(&self) {
        let mut state = self.lock();
        state.unsettled.clear();
        let channel = state.channel.take();
        drop(state);
        drop(channel);
    }
}

impl AckState {
    /// Hands an acknowledgement to the connection, which writes in order. Polling once does that; waiting until
    /// it is written would cost a wake-up and tell nothing: nobody confirms an acknowledgement.
    fn ack(&self, tag: u64, multiple: bool) {
        if let Some(channel) = &self.channel {
            let _written = channel.basic_ack(tag, BasicAckOptions { multiple }).now_or_never();
        }
    }
}

#[async_trait]
impl Acker for ChannelAcker {
    async fn ack(&self, tag: DeliveryTag) {
        let mut state = self.lock();
        if tag.generation == state.generation && state.unsettled.remove(&tag.tag) {
            state.ack(tag.tag, false);
        }
    }

    async fn ack_up_to(&self, tag: DeliveryTag) {
        let mut state = self.lock();
        if tag.generation != state.generation {
            return;
        }
        let later = state.unsettled.split_off(&tag.tag.saturating_add(1));
        let settled = std::mem::replace(&mut state.unsettled, later);
        // The last one that is unsettled: the broker does not know those that were settled before.
        if let Some(last) = settled.last() {
            state.ack(*last, settled.len() > 1);
        }
    }

    async fn requeue(&self, tag: DeliveryTag) {
        let mut state = self.lock();
        if tag.generation == state.generation
            && state.unsettled.remove(&tag.tag)
            && let Some(channel) = &state.channel
        {
            let options = BasicNackOptions { multiple: false, requeue: true };
            let _written = channel.basic_nack(tag.tag, options).now_or_never();
        }
    }
}
