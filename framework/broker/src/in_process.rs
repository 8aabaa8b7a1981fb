//! The broker of the embedded default: queues in this process's memory.
//!
//! It behaves as RabbitMQ does wherever callers could notice: consumers of one queue compete, a consumer holds at
//! most its prefetch unsettled, and what it had not settled when it is dropped returns to its place at the head of
//! the queue, flagged `redelivered`. Differences: priorities are ignored, nothing outlives the process, and a
//! message counts as delivered only when [`Consumer::next`] hands it out.
//!
//! Memory: the broker counts the bytes that it holds. Above [`Limits::bytes`] its health is
//! [`Health::Blocked`], and every `publish` waits for room, but never longer than [`Limits::wait_max`]; then the
//! messages are taken all the same. A wait without an end would deadlock: the coordinator acknowledges a result
//! only after it published the tasks that follow, and a worker a task only after its result, so both could wait
//! for room that only the other one can make. The one place where load can be refused is the start of new
//! work, and whoever accepts starts reads the health.
//!
//! Locks: one for the table of queues, one for that of exchanges, one for each queue; none is held across an `await`, and
//! never two at once.

mod topic;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stagepost_protocol::{Message, Properties};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::topic::Exchanges;
use crate::{
    Acker, Broker, ConsumeOptions, Consumer, Delivery, DeliveryTag, Error, Health, Published, QueueSpec,
};

/// What the broker may hold, and how long it slows publishers down when it holds more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all messages that wait or are unsettled, above which publishers are slowed down. Default: 256 MiB.
    pub bytes: usize,
    /// How long one `publish` waits for room at most. Default: 100 ms.
    pub wait_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 256 << 20, wait_max: Duration::from_millis(100) }
    }
}

/// What a message costs beside its texts: the structures around it.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The generation of all tags: nothing here is ever rebuilt.
const GENERATION: u64 = 0;

/// Queues in this process's memory.
#[derive(Debug)]
pub struct InProcessBroker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queues: RwLock<HashMap<String, Arc<Queue>>>,
    exchanges: Mutex<Exchanges>,
    closed: AtomicBool,
    gauge: Arc<Gauge>,
}

/// Counts the bytes that the broker holds and tells when there is room again.
#[derive(Debug)]
struct Gauge {
    limits: Limits,
    bytes: AtomicUsize,
    room: Notify,
    health: watch::Sender<Health>,
}

#[derive(Debug)]
struct Queue {
    name: String,
    gauge: Arc<Gauge>,
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    /// Deleted, or the broker was closed.
    ended: bool,
    /// Numbers the messages in the order of their arrival.
    sequence: u64,
    /// Always sorted by `sequence`.
    ready: VecDeque<Stored>,
    consumers: HashMap<u64, ConsumerState>,
    /// Consumers with room that found nothing, in the order in which they are served.
    waiting: VecDeque<u64>,
}

#[derive(Debug)]
struct Stored {
    sequence: u64,
    bytes: usize,
    redelivered: bool,
    /// What it was published with to an exchange.
    routing_key: Option<String>,
    body: Bytes,
    properties: Properties,
}

#[derive(Debug)]
struct ConsumerState {
    /// `None`: deliveries need no settling.
    prefetch: Option<usize>,
    /// Deliveries up to this tag do not count.
    uncounted: u64,
    last_tag: u64,
    unsettled: BTreeMap<u64, Stored>,
    cancelled: bool,
    /// It waits for its own deliveries to be settled.
    wants_room: bool,
    wake: Arc<Notify>,
}

/// What a consumer found.
enum Taken {
    Some(Vec<Delivery>),
    Nothing,
    Ended,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock is a bug that was reported where it happened; the queues stay usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gauge {
    fn add(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        if before <= self.limits.bytes && before + bytes > self.limits.bytes {
            let limit = self.limits.bytes;
            self.set_health(Health::Blocked(format!("the broker holds more than {limit} bytes")));
        }
    }

    fn subtract(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before > self.limits.bytes && before - bytes <= self.limits.bytes {
            self.set_health(Health::Up);
            self.room.notify_waiters();
        }
    }

    /// A closed broker stays down.
    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|now| {
            let changes = !matches!(now, Health::Down(_)) && *now != health;
            if changes {
                *now = health;
            }
            changes
        });
    }

    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > self.limits.bytes
    }

    async fn wait_for_room(&self) {
        let deadline = Instant::now() + self.limits.wait_max;
        while self.is_full() {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before the second look, so that room made in between is not missed.
            room.as_mut().enable();
            if !self.is_full() || tokio::time::timeout_at(deadline, room).await.is_err() {
                return;
            }
        }
    }
}

impl QueueState {
    /// Wakes as many waiting consumers as there are messages for.
    fn wake(&mut self) {
        for _ in 0..self.ready.len().min(self.waiting.len()) {
            if let Some(consumer) = self.waiting.pop_front().and_then(|id| self.consumers.get(&id)) {
                consumer.wake.notify_one();
            }
        }
    }

    fn put_back(&mut self, mut message: Stored) {
        message.redelivered = true;
        let at = self.ready.partition_point(|other| other.sequence < message.sequence);
        self.ready.insert(at, message);
    }

    /// Tells a consumer that waits for room that there is some.
    fn tell_room(&mut self, id: u64) {
        if let Some(consumer) = self.consumers.get_mut(&id)
            && consumer.wants_room
            && consumer.room() > 0
        {
            consumer.wants_room = false;
            consumer.wake.notify_one();
        }
    }
}

impl ConsumerState {
    fn room(&self) -> usize {
        let Some(prefetch) = self.prefetch else { return usize::MAX };
        let counted = match self.uncounted {
            0 => self.unsettled.len(),
            last => self.unsettled.range(last + 1..).count(),
        };
        prefetch.saturating_sub(counted)
    }
}

impl Queue {
    fn new(name: &str, gauge: Arc<Gauge>) -> Arc<Queue> {
        Arc::new(Queue { name: name.to_owned(), gauge, state: Mutex::default() })
    }

    /// Takes what is ready for this consumer; finding nothing, it is registered to be woken.
    fn take(&self, id: u64, max: usize) -> Taken {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(consumer) = state.consumers.get_mut(&id) else { return Taken::Ended };
        // A wake-up left over from earlier comes before the consumer's turn does.
        state.waiting.retain(|other| *other != id);
        if state.ended || consumer.cancelled {
            return Taken::Ended;
        }
        let room = consumer.room();
        if room == 0 {
            consumer.wants_room = true;
            return Taken::Nothing;
        }
        let count = state.ready.len().min(room).min(max.max(1));
        if count == 0 {
            state.waiting.push_back(id);
            return Taken::Nothing;
        }
        let mut deliveries = Vec::with_capacity(count);
        let mut freed = 0;
        for message in state.ready.drain(..count) {
            consumer.last_tag += 1;
            let tag = DeliveryTag { generation: GENERATION, tag: consumer.last_tag };
            let redelivered = message.redelivered;
            if consumer.prefetch.is_some() {
                let (body, properties) = (message.body.clone(), message.properties.clone());
                let routing_key = message.routing_key.clone();
                deliveries.push(Delivery { tag, body, properties, redelivered, routing_key });
                consumer.unsettled.insert(tag.tag, message);
            } else {
                freed += message.bytes;
                deliveries.push(Delivery {
                    tag,
                    body: message.body,
                    properties: message.properties,
                    redelivered,
                    routing_key: message.routing_key,
                });
            }
        }
        state.wake();
        drop(guard);
        if freed > 0 {
            self.gauge.subtract(freed);
        }
        Taken::Some(deliveries)
    }

    /// Ends a wait. A wake-up that was meant for this consumer goes to the next one, if there is work.
    fn stop_waiting(&self, id: u64) {
        let mut state = lock(&self.state);
        state.waiting.retain(|other| *other != id);
        state.wake();
        if let Some(consumer) = state.consumers.get_mut(&id) {
            consumer.wants_room = false;
        }
    }

    fn add_consumer(self: &Arc<Self>, prefetch: Option<usize>) -> InProcessConsumer {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let wake = Arc::new(Notify::new());
        let state = ConsumerState {
            prefetch,
            uncounted: 0,
            last_tag: 0,
            unsettled: BTreeMap::new(),
            cancelled: false,
            wants_room: false,
            wake: Arc::clone(&wake),
        };
        lock(&self.state).consumers.insert(id, state);
        InProcessConsumer { queue: Arc::clone(self), id, wake }
    }

    fn remove_consumer(&self, id: u64) {
        let mut state = lock(&self.state);
        state.waiting.retain(|other| *other != id);
        let Some(consumer) = state.consumers.remove(&id) else { return };
        if state.ended {
            drop(state);
            self.gauge.subtract(consumer.unsettled.values().map(|message| message.bytes).sum());
            return;
        }
        for message in consumer.unsettled.into_values().rev() {
            state.put_back(message);
        }
        state.wake();
    }

    /// Drops all messages and ends the consumers. Their unsettled deliveries are dropped with them.
    fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        let freed: usize = state.ready.drain(..).map(|message| message.bytes).sum();
        state.waiting.clear();
        for consumer in state.consumers.values() {
            consumer.wake.notify_one();
        }
        drop(state);
        self.gauge.subtract(freed);
    }
}

impl InProcessBroker {
    /// A broker without queues, with the default [`Limits`].
    pub fn new() -> Arc<InProcessBroker> {
        InProcessBroker::with_limits(Limits::default())
    }

    /// A broker without queues.
    pub fn with_limits(limits: Limits) -> Arc<InProcessBroker> {
        let gauge = Gauge {
            limits,
            bytes: AtomicUsize::new(0),
            room: Notify::new(),
            health: watch::Sender::new(Health::Up),
        };
        let shared = Shared {
            queues: RwLock::default(),
            exchanges: Mutex::default(),
            closed: AtomicBool::new(false),
            gauge: Arc::new(gauge),
        };
        Arc::new(InProcessBroker { shared: Arc::new(shared) })
    }

    /// The queues that a message to an exchange goes to; `None`: there is no such exchange.
    pub fn route(&self, exchange: &str, routing_key: &str) -> Option<BTreeSet<String>> {
        lock(&self.shared.exchanges).route(exchange, routing_key)
    }

    fn find(&self, name: &str) -> Option<Arc<Queue>> {
        let queues = self.shared.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.get(name).map(Arc::clone)
    }

    fn find_to_consume(&self, name: &str) -> Result<Arc<Queue>, Error> {
        self.check_open()?;
        self.find(name).ok_or_else(|| Error::Denied {
            what: format!("consume queue '{name}'"),
            reason: "there is no such queue".into(),
        })
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.shared.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Publishes messages that came to their queues by an exchange, or without one, once there is room.
    async fn put(&self, messages: Vec<Message>, routing_key: Option<&str>) -> Vec<Published> {
        if self.shared.gauge.is_full() {
            self.shared.gauge.wait_for_room().await;
        }
        if self.check_open().is_err() {
            return messages.iter().map(|_| Err(Error::Closed)).collect();
        }
        self.enqueue(messages, routing_key)
    }

    /// Publishes messages, each run of equal queue names under one lock.
    fn enqueue(&self, messages: Vec<Message>, routing_key: Option<&str>) -> Vec<Published> {
        let mut results = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().peekable();
        while let Some(mut message) = messages.next() {
            let Some(queue) = self.find(&message.queue) else {
                results.push(Err(Error::Unroutable { queue: message.queue }));
                continue;
            };
            let mut added = 0;
            let mut state = lock(&queue.state);
            loop {
                if state.ended {
                    results.push(Err(Error::Unroutable { queue: message.queue }));
                } else {
                    let stored = store(&mut state, message, routing_key);
                    added += stored.bytes;
                    state.ready.push_back(stored);
                    results.push(Ok(()));
                }
                match messages.next_if(|next| next.queue == queue.name) {
                    Some(next) => message = next,
                    None => break,
                }
            }
            // Counted before anyone can take it: the gauge never falls below nothing.
            self.shared.gauge.add(added);
            state.wake();
        }
        results
    }
}

fn store(state: &mut QueueState, message: Message, routing_key: Option<&str>) -> Stored {
    state.sequence += 1;
    Stored {
        sequence: state.sequence,
        bytes: size(&message),
        redelivered: false,
        routing_key: routing_key.map(str::to_owned),
        body: message.body,
        properties: message.properties,
    }
}

/// About how much memory a message takes.
fn size(message: &Message) -> usize {
    MESSAGE_OVERHEAD_BYTES + message.body.len() + message.properties.header_bytes()
}

#[async_trait]
impl Broker for InProcessBroker {
    async fn declare(&self, queues: &[QueueSpec]) -> Result<(), Error> {
        self.check_open()?;
        let mut table = self.shared.queues.write().unwrap_or_else(PoisonError::into_inner);
        for spec in queues {
            if !table.contains_key(&spec.name) {
                if !spec.create {
                    return Err(Error::Denied {
                        what: format!("use queue '{}'", spec.name),
                        reason: "it does not exist".into(),
                    });
                }
                let queue = Queue::new(&spec.name, Arc::clone(&self.shared.gauge));
                table.insert(spec.name.clone(), queue);
            }
        }
        Ok(())
    }

    async fn declare_exchange(&self, exchange: &str) -> Result<(), Error> {
        self.check_open()?;
        lock(&self.shared.exchanges).declare(exchange);
        Ok(())
    }

    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.check_open()?;
        let missing = |what: &str| Error::Denied {
            what: format!("bind queue '{queue}' to exchange '{exchange}'"),
            reason: format!("there is no such {what}"),
        };
        if self.find(queue).is_none() {
            return Err(missing("queue"));
        }
        let bound = lock(&self.shared.exchanges).bind(queue, exchange, routing_key);
        if bound { Ok(()) } else { Err(missing("exchange")) }
    }

    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.check_open()?;
        lock(&self.shared.exchanges).unbind(queue, exchange, routing_key);
        Ok(())
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<Published> {
        self.put(messages, None).await
    }

    async fn publish_to_exchange(
        &self,
        exchange: &str,
        routing_key: &str,
        body: Bytes,
        properties: Properties,
    ) -> Published {
        self.check_open()?;
        let queues = self.route(exchange, routing_key).ok_or_else(|| Error::Denied {
            what: format!("publish to exchange '{exchange}'"),
            reason: "there is no such exchange".into(),
        })?;
        let copy =
            |queue| Message { queue, body: body.clone(), properties: properties.clone(), persistent: true };
        let published = self.put(queues.into_iter().map(copy).collect(), Some(routing_key)).await;
        // A queue that was deleted since is bound no more.
        match published.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(Error::Unbound { exchange: exchange.into(), routing_key: routing_key.into() }),
        }
    }

    async fn consume(&self, queue: &str, options: ConsumeOptions) -> Result<Box<dyn Consumer>, Error> {
        let prefetch = usize::from(options.prefetch.max(1));
        Ok(Box::new(self.find_to_consume(queue)?.add_consumer(Some(prefetch))))
    }

    async fn private_queue(&self, name: &str) -> Result<Box<dyn Consumer>, Error> {
        self.check_open()?;
        let queue = Queue::new(name, Arc::clone(&self.shared.gauge));
        let consumer = queue.add_consumer(None);
        let mut table = self.shared.queues.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(name.to_owned(), queue);
        drop(table);
        Ok(Box::new(ReplyConsumer { consumer, shared: Arc::clone(&self.shared) }))
    }

    async fn depth(&self, queue: &str) -> Result<Option<u64>, Error> {
        self.check_open()?;
        Ok(self.find(queue).map(|queue| lock(&queue.state).ready.len() as u64))
    }

    async fn delete(&self, queue: &str) -> Result<(), Error> {
        self.check_open()?;
        self.shared.remove(queue);
        Ok(())
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.gauge.health.subscribe()
    }

    async fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.gauge.set_health(Health::Down("it was closed".into()));
        let queues = {
            let mut table = self.shared.queues.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *table)
        };
        for queue in queues.values() {
            queue.end();
        }
    }
}

impl Shared {
    fn remove(&self, name: &str) {
        let removed = self.queues.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(queue) = removed {
            lock(&self.exchanges).forget_queue(name);
            queue.end();
        }
    }
}

#[derive(Debug)]
struct InProcessConsumer {
    queue: Arc<Queue>,
    id: u64,
    wake: Arc<Notify>,
}

/// Passes the turn on when the future that waits is dropped.
struct Waiting<'a>(&'a InProcessConsumer);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.queue.stop_waiting(self.0.id);
    }
}

#[async_trait]
impl Consumer for InProcessConsumer {
    async fn next(&mut self, max: usize) -> Option<Vec<Delivery>> {
        // A consumer that always finds something must still let others run.
        tokio::task::consume_budget().await;
        loop {
            let waiting = Waiting(self);
            match self.queue.take(self.id, max) {
                Taken::Some(deliveries) => {
                    std::mem::forget(waiting);
                    return Some(deliveries);
                }
                Taken::Ended => return None,
                Taken::Nothing => {
                    self.wake.notified().await;
                    // From here to `take` nothing can drop this future.
                    std::mem::forget(waiting);
                }
            }
        }
    }

    async fn admit(&mut self, further: u16) {
        let mut state = lock(&self.queue.state);
        if let Some(consumer) = state.consumers.get_mut(&self.id)
            && consumer.prefetch.is_some()
        {
            consumer.prefetch = Some(usize::from(further));
            consumer.uncounted = consumer.last_tag;
        }
    }

    async fn cancel(&mut self) {
        let mut state = lock(&self.queue.state);
        if let Some(consumer) = state.consumers.get_mut(&self.id) {
            consumer.cancelled = true;
        }
    }

    fn acker(&self) -> Arc<dyn Acker> {
        Arc::new(InProcessAcker { queue: Arc::clone(&self.queue), id: self.id })
    }
}

impl Drop for InProcessConsumer {
    fn drop(&mut self) {
        self.queue.remove_consumer(self.id);
    }
}

/// The consumer of a reply queue, which goes with it.
struct ReplyConsumer {
    consumer: InProcessConsumer,
    shared: Arc<Shared>,
}

#[async_trait]
impl Consumer for ReplyConsumer {
    async fn next(&mut self, max: usize) -> Option<Vec<Delivery>> {
        self.consumer.next(max).await
    }

    async fn admit(&mut self, further: u16) {
        self.consumer.admit(further).await;
    }

    async fn cancel(&mut self) {
        self.consumer.cancel().await;
    }

    fn acker(&self) -> Arc<dyn Acker> {
        self.consumer.acker()
    }
}

impl Drop for ReplyConsumer {
    fn drop(&mut self) {
        self.shared.remove(&self.consumer.queue.name);
    }
}

#[derive(Debug)]
struct InProcessAcker {
    queue: Arc<Queue>,
    id: u64,
}

impl InProcessAcker {
    /// Takes settled messages out of the consumer and lets go of their bytes.
    fn settle(&self, tag: DeliveryTag, take: impl FnOnce(&mut BTreeMap<u64, Stored>) -> usize) {
        if tag.generation != GENERATION {
            return;
        }
        let mut state = lock(&self.queue.state);
        let Some(consumer) = state.consumers.get_mut(&self.id) else { return };
        let freed = take(&mut consumer.unsettled);
        state.tell_room(self.id);
        drop(state);
        if freed > 0 {
            self.queue.gauge.subtract(freed);
        }
    }
}

#[async_trait]
impl Acker for InProcessAcker {
    async fn ack(&self, tag: DeliveryTag) {
        self.settle(tag, |unsettled| unsettled.remove(&tag.tag).map_or(0, |message| message.bytes));
    }

    async fn ack_up_to(&self, tag: DeliveryTag) {
        self.settle(tag, |unsettled| {
            let mut freed = 0;
            while let Some(first) = unsettled.first_entry().filter(|first| *first.key() <= tag.tag) {
                freed += first.remove().bytes;
            }
            freed
        });
    }

    async fn requeue(&self, tag: DeliveryTag) {
        if tag.generation != GENERATION {
            return;
        }
        let mut state = lock(&self.queue.state);
        let Some(consumer) = state.consumers.get_mut(&self.id) else { return };
        let Some(message) = consumer.unsettled.remove(&tag.tag) else { return };
        if state.ended {
            drop(state);
            self.queue.gauge.subtract(message.bytes);
            return;
        }
        state.put_back(message);
        state.tell_room(self.id);
        state.wake();
    }
}
