//! Queues, connections and consumers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use stagepost_broker::{Delivery, DeliveryTag, Error, Published, QueueSpec};
use stagepost_protocol::Message;
use tokio::{sync::Notify, time::Instant};

use crate::world::World;

/// How long a lost connection takes to come back at most, and how long a broker takes to restart.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
const RESTART_MAX: Duration = Duration::from_secs(8);
/// How long a delivery is on its way at most.
const DELIVERY_MAX: u64 = 20;

/// The broker.
#[derive(Default)]
pub(crate) struct Server {
    queues: BTreeMap<String, Queue>,
    connections: BTreeMap<u64, Connection>,
    /// Exchanges with what is bound to them: queue and routing key. Nobody publishes there.
    exchanges: BTreeMap<String, BTreeSet<(String, String)>>,
    last_id: u64,
}

#[derive(Default)]
struct Connection {
    /// It is lost until then.
    down_until: Option<Instant>,
    /// For good: its process has died.
    closed: bool,
}

#[derive(Default)]
struct Queue {
    /// The connection that it belongs to and goes with.
    private_to: Option<u64>,
    last_place: u64,
    /// In the order of their places.
    ready: VecDeque<Stored>,
    consumers: BTreeMap<u64, Consumer>,
    /// Whose turn it is.
    turns: VecDeque<u64>,
}

/// A message at its place in a queue.
struct Stored {
    place: u64,
    redelivered: bool,
    message: Message,
}

struct Consumer {
    connection: u64,
    /// `None`: what is delivered is settled.
    prefetch: Option<usize>,
    cancelled: bool,
    /// Deliveries up to this tag do not count.
    uncounted: u64,
    last_tag: u64,
    unsettled: BTreeMap<u64, Stored>,
    /// What is on its way to it, and when it arrives.
    coming: VecDeque<(Instant, Delivery)>,
    wake: Arc<Notify>,
}

/// What a consumer finds.
pub(crate) enum Found {
    Deliveries(Vec<Delivery>),
    /// Nothing yet; something arrives then.
    Nothing(Option<Instant>),
    /// The consumer is gone with its connection or its queue.
    Gone,
}

impl Server {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(crate) fn connect(&mut self) -> u64 {
        let id = self.next_id();
        self.connections.insert(id, Connection::default());
        id
    }

    /// When a connection works again; `None`: it works.
    pub(crate) fn down_until(&mut self, connection: u64) -> Option<Instant> {
        let connection = self.connections.get_mut(&connection)?;
        connection.down_until = connection.down_until.filter(|at| *at > Instant::now());
        connection.down_until
    }

    /// A process is gone: its connection ends for good.
    pub(crate) fn hang_up(&mut self, connection: u64) {
        if let Some(state) = self.connections.get_mut(&connection) {
            state.closed = true;
        }
        self.drop_consumers(connection);
        self.push_all();
    }

    /// A connection is lost, for a while.
    pub(crate) fn disconnect(&mut self, connection: u64, world: &World) {
        let Some(state) = self.connections.get_mut(&connection).filter(|c| !c.closed) else { return };
        world.note("broker", format!("loses connection {connection}"));
        state.down_until = Some(Instant::now() + world.up_to(RECONNECT_MAX));
        self.drop_consumers(connection);
        self.push_all();
    }

    /// The broker restarts: nobody is connected, and what is not persistent is gone.
    pub(crate) fn restart(&mut self, world: &World) {
        world.note("broker", "restarts");
        let up = Instant::now() + world.up_to(RESTART_MAX);
        let connections: Vec<u64> = self.connections.keys().copied().collect();
        for connection in connections {
            self.drop_consumers(connection);
            if let Some(state) = self.connections.get_mut(&connection) {
                state.down_until = Some(up + world.up_to(RECONNECT_MAX));
            }
        }
        for queue in self.queues.values_mut() {
            queue.ready.retain(|stored| stored.message.persistent);
        }
    }

    /// All is lost that the broker had; who is connected connects anew.
    pub(crate) fn lose_all(&mut self, world: &World) {
        self.restart(world);
        world.note("broker", "has lost everything");
        self.queues.clear();
        self.exchanges.clear();
    }

    /// What a connection had not settled goes back, and its private queues go with it.
    fn drop_consumers(&mut self, connection: u64) {
        self.queues.retain(|_, queue| {
            let gone: Vec<u64> = queue
                .consumers
                .iter()
                .filter(|(_, c)| c.connection == connection)
                .map(|(id, _)| *id)
                .collect();
            gone.into_iter().for_each(|id| queue.remove_consumer(id));
            queue.private_to != Some(connection)
        });
    }

    pub(crate) fn declare(&mut self, queues: &[QueueSpec]) -> Result<(), Error> {
        for spec in queues {
            if !spec.create && !self.queues.contains_key(&spec.name) {
                let what = format!("use queue '{}'", spec.name);
                return Err(Error::Denied { what, reason: "it does not exist".to_owned() });
            }
            self.queues.entry(spec.name.clone()).or_default();
        }
        Ok(())
    }

    pub(crate) fn declare_exchange(&mut self, exchange: &str) {
        self.exchanges.entry(exchange.to_owned()).or_default();
    }

    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        let what = format!("bind queue '{queue}' to exchange '{exchange}'");
        match self.exchanges.get_mut(exchange) {
            Some(bound) if self.queues.contains_key(queue) => {
                bound.insert((queue.to_owned(), routing_key.to_owned()));
                Ok(())
            }
            _ => Err(Error::Denied { what, reason: "one of them does not exist".to_owned() }),
        }
    }

    /// The queues that are bound to an exchange under this very routing key: nothing here binds by a pattern.
    pub(crate) fn bound(&self, exchange: &str, routing_key: &str) -> Result<BTreeSet<String>, Error> {
        let bound = self.exchanges.get(exchange).ok_or_else(|| Error::Denied {
            what: format!("publish to exchange '{exchange}'"),
            reason: "there is no such exchange".to_owned(),
        })?;
        let bound = bound.iter().filter(|(_, key)| key == routing_key);
        Ok(bound.map(|(queue, _)| queue.clone()).collect())
    }

    pub(crate) fn unbind(&mut self, queue: &str, exchange: &str, routing_key: &str) {
        if let Some(bound) = self.exchanges.get_mut(exchange) {
            bound.remove(&(queue.to_owned(), routing_key.to_owned()));
        }
    }

    pub(crate) fn publish(&mut self, queue: &str, messages: &[Message]) -> Vec<Published> {
        let Some(found) = self.queues.get_mut(queue) else {
            let unroutable = |_| Err(Error::Unroutable { queue: queue.to_owned() });
            return messages.iter().map(unroutable).collect();
        };
        for message in messages {
            found.last_place += 1;
            let stored = Stored { place: found.last_place, redelivered: false, message: message.clone() };
            found.ready.push_back(stored);
        }
        found.push();
        messages.iter().map(|_| Ok(())).collect()
    }

    /// A consumer of a queue, which is made if there is none: its owner declares it again when it reconnects.
    pub(crate) fn consume(
        &mut self,
        queue: &str,
        connection: u64,
        prefetch: Option<usize>,
        wake: Arc<Notify>,
    ) -> u64 {
        let id = self.next_id();
        let queue = self.queues.entry(queue.to_owned()).or_default();
        queue.private_to = queue.private_to.or(prefetch.is_none().then_some(connection));
        let (coming, unsettled) = (VecDeque::new(), BTreeMap::new());
        let consumer = Consumer {
            connection,
            prefetch,
            cancelled: false,
            uncounted: 0,
            last_tag: 0,
            unsettled,
            coming,
            wake,
        };
        queue.consumers.insert(id, consumer);
        queue.turns.push_back(id);
        queue.push();
        id
    }

    /// What has arrived at a consumer.
    pub(crate) fn take(&mut self, queue: &str, id: u64, max: usize) -> Found {
        let Some(consumer) = self.queues.get_mut(queue).and_then(|q| q.consumers.get_mut(&id)) else {
            return Found::Gone;
        };
        let now = Instant::now();
        let arrived = consumer.coming.iter().take_while(|(at, _)| *at <= now).count().min(max.max(1));
        if arrived == 0 {
            return Found::Nothing(consumer.coming.front().map(|(at, _)| *at));
        }
        Found::Deliveries(consumer.coming.drain(..arrived).map(|(_, delivery)| delivery).collect())
    }

    /// Changes how many deliveries a consumer gets; those on their way count. `overtaken`: as when it is cancelled.
    pub(crate) fn admit(&mut self, queue: &str, id: u64, further: usize, overtaken: usize) {
        let Some(queue) = self.queues.get_mut(queue) else { return };
        queue.overtake(id, overtaken);
        if let Some(consumer) = queue.consumers.get_mut(&id) {
            consumer.prefetch = Some(further);
            consumer.uncounted = consumer.last_tag - consumer.coming.len() as u64;
        }
        queue.push();
    }

    /// Ends deliveries to a consumer; those on their way still arrive, but for the last ones, `overtaken` in number.
    pub(crate) fn cancel(&mut self, queue: &str, id: u64, overtaken: usize) {
        let Some(queue) = self.queues.get_mut(queue) else { return };
        if let Some(consumer) = queue.consumers.get_mut(&id) {
            consumer.cancelled = true;
        }
        queue.overtake(id, overtaken);
        queue.push();
    }

    pub(crate) fn remove_consumer(&mut self, queue: &str, id: u64) {
        let Some(found) = self.queues.get_mut(queue) else { return };
        found.remove_consumer(id);
        if found.private_to.is_some() {
            self.queues.remove(queue);
        } else {
            found.push();
        }
    }

    /// Settles deliveries of a consumer, those that `which` says.
    pub(crate) fn settle(&mut self, queue: &str, id: u64, which: impl Fn(u64) -> bool) {
        let Some(queue) = self.queues.get_mut(queue) else { return };
        if let Some(consumer) = queue.consumers.get_mut(&id) {
            consumer.unsettled.retain(|tag, _| !which(*tag));
        }
        queue.push();
    }

    pub(crate) fn requeue(&mut self, queue: &str, id: u64, tag: u64) {
        let Some(queue) = self.queues.get_mut(queue) else { return };
        if let Some(stored) = queue.consumers.get_mut(&id).and_then(|c| c.unsettled.remove(&tag)) {
            queue.put_back(stored);
        }
        queue.push();
    }

    /// Messages that nobody has yet.
    pub(crate) fn depth(&self, queue: &str) -> Option<u64> {
        self.queues.get(queue).map(|queue| queue.ready.len() as u64)
    }

    pub(crate) fn delete(&mut self, queue: &str) {
        if let Some(mut gone) = self.queues.remove(queue) {
            let consumers: Vec<u64> = gone.consumers.keys().copied().collect();
            consumers.into_iter().for_each(|id| gone.remove_consumer(id));
        }
    }

    /// Queues that are nobody's own and hold messages, with their number.
    pub(crate) fn busy(&self) -> Vec<(String, usize)> {
        let count =
            |q: &Queue| q.ready.len() + q.consumers.values().map(|c| c.unsettled.len()).sum::<usize>();
        let common = self.queues.iter().filter(|(_, queue)| queue.private_to.is_none());
        common.map(|(name, queue)| (name.clone(), count(queue))).filter(|(_, count)| *count > 0).collect()
    }

    fn push_all(&mut self) {
        self.queues.values_mut().for_each(Queue::push);
    }
}

impl Queue {
    fn put_back(&mut self, mut stored: Stored) {
        stored.redelivered = true;
        let at = self.ready.partition_point(|other| other.place < stored.place);
        self.ready.insert(at, stored);
    }

    /// What RabbitMQ's quorum queues do when a consumer is cancelled: messages that were given to it and had not left
    /// the broker go back, marked as delivered before, although nobody has seen them.
    fn overtake(&mut self, id: u64, count: usize) {
        for _ in 0..count {
            let Some(consumer) = self.consumers.get_mut(&id) else { return };
            let Some((_, delivery)) = consumer.coming.pop_back() else { return };
            if let Some(stored) = consumer.unsettled.remove(&delivery.tag.tag) {
                self.put_back(stored);
            }
        }
    }

    fn remove_consumer(&mut self, id: u64) {
        self.turns.retain(|other| *other != id);
        let Some(consumer) = self.consumers.remove(&id) else { return };
        consumer.unsettled.into_values().for_each(|stored| self.put_back(stored));
        consumer.wake.notify_one();
    }

    /// Delivers what is ready to consumers with room, in turns.
    fn push(&mut self) {
        while !self.ready.is_empty() {
            let consumers = &self.consumers;
            let Some(turn) = self.turns.iter().position(|id| consumers[id].has_room()) else { return };
            let Some(id) = self.turns.remove(turn) else { return };
            self.turns.push_back(id);
            let (Some(consumer), Some(stored)) = (self.consumers.get_mut(&id), self.ready.pop_front()) else {
                return;
            };
            consumer.deliver(stored);
        }
    }
}

impl Consumer {
    fn has_room(&self) -> bool {
        let counted = || self.unsettled.range(self.uncounted + 1..).count();
        !self.cancelled && self.prefetch.is_none_or(|prefetch| counted() < prefetch)
    }

    fn deliver(&mut self, stored: Stored) {
        self.last_tag += 1;
        let delivery = Delivery {
            tag: DeliveryTag { generation: 0, tag: self.last_tag },
            body: stored.message.body.clone(),
            properties: stored.message.properties.clone(),
            redelivered: stored.redelivered,
            routing_key: None,
        };
        // Never before one that was sent earlier.
        let travel =
            Duration::from_millis(crate::world::digest(&(stored.place, self.last_tag)) % DELIVERY_MAX);
        let at = Instant::now() + travel;
        let at = self.coming.back().map_or(at, |(before, _)| at.max(*before));
        self.coming.push_back((at, delivery));
        if self.prefetch.is_some() {
            self.unsettled.insert(self.last_tag, stored);
        }
        self.wake.notify_one();
    }
}
