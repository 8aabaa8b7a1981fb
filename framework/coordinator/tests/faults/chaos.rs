//! A store and a broker that fail now and then, by a seed.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use stagepost_broker::{
    Acker, Broker, ConsumeOptions, Consumer, Delivery, DeliveryTag, Error as BrokerError, Health, Published,
    QueueSpec,
};
use stagepost_protocol::{
    ExecutionId, MapRun, MapRunArn, Message, Namespace, Properties, ShardId, StateMachineArn, Timestamp,
};
use stagepost_store::{
    ActivityRow, Batch, DefinitionRow, Error, ExecutionSummary, HistoryRow, Lease, ListExecutions,
    ListRecords, Page, Reader, Record, Records, Result, StateMachineRow, Store, StoredExecution,
    sqlite::SqliteStore,
};
use tokio::sync::watch;

/// Rolls the dice for everybody.
pub(crate) struct Dice {
    state: AtomicU64,
    on: AtomicBool,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Arc<Dice> {
        Arc::new(Dice { state: AtomicU64::new(seed), on: AtomicBool::new(true) })
    }

    /// SplitMix64.
    pub(crate) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn happens(&self, per_thousand: u64) -> bool {
        self.on.load(Ordering::Relaxed) && self.below(1_000) < per_thousand
    }

    pub(crate) fn stop_faults(&self) {
        self.on.store(false, Ordering::Relaxed);
    }

    async fn dawdle(&self) {
        if self.happens(300) {
            tokio::time::sleep(Duration::from_millis(self.below(5))).await;
        }
    }
}

/// Commits fail before and after they took effect, with each error there is; reads and leases fail.
pub(crate) struct FaultyStore {
    pub(crate) inner: Arc<SqliteStore>,
    pub(crate) dice: Arc<Dice>,
}

impl FaultyStore {
    fn fails(&self, per_thousand: u64) -> Result<()> {
        if self.dice.happens(per_thousand) { Err(Error::Unavailable("by the dice".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn commit(&self, batch: Batch) -> Result<()> {
        self.dice.dawdle().await;
        self.fails(30)?;
        if self.dice.happens(15) {
            return Err(Error::Conflict("by the dice".into()));
        }
        if let Some(lease) = batch.leases.first()
            && self.dice.happens(15)
        {
            return Err(Error::LeaseLost(lease.shard));
        }
        self.inner.commit(batch).await?;
        self.fails(60)
    }
    async fn load(&self, ids: &[ExecutionId]) -> Result<Vec<Option<StoredExecution>>> {
        self.fails(50)?;
        if ids.len() > 1 && self.dice.happens(50) {
            return Err(Error::Database { what: "load", reason: "by the dice".into() });
        }
        self.inner.load(ids).await
    }
    async fn due(
        &self,
        slots: &[Range<u16>],
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, ExecutionId)>> {
        self.fails(100)?;
        self.inner.due(slots, until, limit).await
    }
    async fn running(
        &self,
        slots: &[Range<u16>],
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>> {
        self.fails(50)?;
        self.inner.running(slots, after, limit).await
    }
    async fn lease(&self, owner: &str, ttl: Duration, shard_count: u16) -> Result<(Vec<Lease>, usize)> {
        self.fails(150)?;
        self.inner.lease(owner, ttl, shard_count).await
    }
    async fn release(&self, owner: &str, shards: Option<&[ShardId]>) -> Result<()> {
        self.fails(50)?;
        self.inner.release(owner, shards).await
    }
}

#[async_trait]
impl Records for FaultyStore {
    async fn put_record(&self, record: &Record) -> Result<bool> {
        self.fails(50)?;
        let stored = self.inner.put_record(record).await?;
        self.fails(50)?;
        Ok(stored)
    }
    async fn record(&self, kind: &str, namespace: &Namespace, key: &str) -> Result<Option<Record>> {
        self.fails(50)?;
        self.inner.record(kind, namespace, key).await
    }
    async fn records(&self, query: &ListRecords) -> Result<Page<Record>> {
        self.fails(50)?;
        self.inner.records(query).await
    }
    async fn count_records(&self, kind: &str) -> Result<u64> {
        self.fails(50)?;
        self.inner.count_records(kind).await
    }
    async fn due_records(&self, kind: &str, until: Timestamp, limit: usize) -> Result<Vec<Record>> {
        self.fails(50)?;
        self.inner.due_records(kind, until, limit).await
    }
    async fn delete_record(
        &self,
        kind: &str,
        namespace: &Namespace,
        key: &str,
        version: Option<i64>,
    ) -> Result<bool> {
        self.fails(50)?;
        self.inner.delete_record(kind, namespace, key, version).await
    }
}

#[async_trait]
impl Reader for FaultyStore {
    async fn ping(&self) -> Result<()> {
        self.fails(200)?;
        self.inner.ping().await
    }
    async fn setting(&self, name: &str, initial: &str) -> Result<String> {
        self.inner.setting(name, initial).await
    }
    async fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionSummary>> {
        self.inner.execution(id).await
    }
    async fn map_run(&self, arn: &MapRunArn) -> Result<Option<MapRun>> {
        self.inner.map_run(arn).await
    }
    async fn map_runs(
        &self,
        execution: ExecutionId,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<MapRun>> {
        self.inner.map_runs(execution, limit, after).await
    }
    async fn executions(&self, query: &ListExecutions) -> Result<Page<ExecutionSummary>> {
        self.inner.executions(query).await
    }
    async fn history(
        &self,
        id: ExecutionId,
        from: u64,
        descending: bool,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<HistoryRow>> {
        self.inner.history(id, from, descending, limit, max_bytes).await
    }
    async fn definition(&self, id: &str) -> Result<Option<DefinitionRow>> {
        self.fails(100)?;
        self.inner.definition(id).await
    }
    async fn create_state_machine(
        &self,
        row: &StateMachineRow,
        definition: &DefinitionRow,
    ) -> Result<Option<StateMachineRow>> {
        self.inner.create_state_machine(row, definition).await
    }
    async fn update_state_machine(
        &self,
        row: &StateMachineRow,
        definition: Option<&DefinitionRow>,
    ) -> Result<bool> {
        self.inner.update_state_machine(row, definition).await
    }
    async fn state_machine(&self, arn: &StateMachineArn) -> Result<Option<StateMachineRow>> {
        self.inner.state_machine(arn).await
    }
    async fn state_machines(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<StateMachineRow>> {
        self.inner.state_machines(namespace, limit, after).await
    }
    async fn delete_state_machine(&self, arn: &StateMachineArn) -> Result<bool> {
        self.inner.delete_state_machine(arn).await
    }
    async fn create_activity(&self, row: &ActivityRow) -> Result<Option<ActivityRow>> {
        self.inner.create_activity(row).await
    }
    async fn activity(&self, namespace: &Namespace, name: &str) -> Result<Option<ActivityRow>> {
        self.inner.activity(namespace, name).await
    }
    async fn activities(
        &self,
        namespace: &Namespace,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<ActivityRow>> {
        self.inner.activities(namespace, limit, after).await
    }
    async fn update_activity(&self, row: &ActivityRow) -> Result<bool> {
        self.inner.update_activity(row).await
    }
    async fn delete_activity(&self, namespace: &Namespace, name: &str) -> Result<bool> {
        self.inner.delete_activity(namespace, name).await
    }
    fn statements_sent(&self) -> u64 {
        self.inner.statements_sent()
    }
}

/// Publications are slow, refused and doubled; consumers lose their connections, and all that they had with them.
pub(crate) struct FaultyBroker {
    pub(crate) inner: Arc<dyn Broker>,
    pub(crate) dice: Arc<Dice>,
}

#[async_trait]
impl Broker for FaultyBroker {
    async fn declare(&self, queues: &[QueueSpec]) -> Result<(), BrokerError> {
        self.inner.declare(queues).await
    }
    async fn declare_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        self.inner.declare_exchange(exchange).await
    }
    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), BrokerError> {
        self.inner.bind(queue, exchange, routing_key).await
    }
    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), BrokerError> {
        self.inner.unbind(queue, exchange, routing_key).await
    }
    async fn publish(&self, messages: Vec<Message>) -> Vec<Published> {
        self.dice.dawdle().await;
        if self.dice.happens(30) {
            self.inner.publish(messages.clone()).await;
        }
        let refused: Vec<bool> = messages.iter().map(|_| self.dice.happens(10)).collect();
        let kept = messages.iter().zip(&refused).filter(|(_, refused)| !**refused);
        let mut published = self.inner.publish(kept.map(|(m, _)| m.clone()).collect()).await.into_iter();
        let result = |(message, refused): (Message, bool)| match refused {
            true => Err(BrokerError::Refused { queue: message.queue, reason: "by the dice".into() }),
            false => published.next().expect("one result to a message"),
        };
        messages.into_iter().zip(refused).map(result).collect()
    }
    async fn publish_to_exchange(
        &self,
        exchange: &str,
        routing_key: &str,
        body: Bytes,
        properties: Properties,
    ) -> Published {
        self.inner.publish_to_exchange(exchange, routing_key, body, properties).await
    }
    async fn consume(&self, queue: &str, options: ConsumeOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        if self.dice.happens(100) {
            return Err(BrokerError::Denied { what: "consume".into(), reason: "by the dice".into() });
        }
        let inner = self.inner.consume(queue, options).await?;
        let acker = Arc::new(FaultyAcker(Mutex::new((0, inner.acker()))));
        let (broker, dice, queue) = (self.inner.clone(), self.dice.clone(), queue.to_owned());
        Ok(Box::new(FaultyConsumer { broker, dice, queue, options, inner, acker, cancelled: false }))
    }
    async fn private_queue(&self, name: &str) -> Result<Box<dyn Consumer>, BrokerError> {
        self.inner.private_queue(name).await
    }
    async fn depth(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        self.inner.depth(queue).await
    }
    async fn delete(&self, queue: &str) -> Result<(), BrokerError> {
        self.inner.delete(queue).await
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

struct FaultyConsumer {
    broker: Arc<dyn Broker>,
    dice: Arc<Dice>,
    queue: String,
    options: ConsumeOptions,
    inner: Box<dyn Consumer>,
    acker: Arc<FaultyAcker>,
    cancelled: bool,
}

/// The number of the connection, and the acker that belongs to it.
struct FaultyAcker(Mutex<(u64, Arc<dyn Acker>)>);

impl FaultyAcker {
    fn current(&self, tag: DeliveryTag) -> Option<(Arc<dyn Acker>, DeliveryTag)> {
        let guard = self.0.lock().unwrap();
        let tag_of_inner = DeliveryTag { generation: 0, tag: tag.tag };
        (guard.0 == tag.generation).then(|| (guard.1.clone(), tag_of_inner))
    }
}

#[async_trait]
impl Acker for FaultyAcker {
    async fn ack(&self, tag: DeliveryTag) {
        if let Some((acker, tag)) = self.current(tag) {
            acker.ack(tag).await;
        }
    }
    async fn ack_up_to(&self, tag: DeliveryTag) {
        if let Some((acker, tag)) = self.current(tag) {
            acker.ack_up_to(tag).await;
        }
    }
    async fn requeue(&self, tag: DeliveryTag) {
        if let Some((acker, tag)) = self.current(tag) {
            acker.requeue(tag).await;
        }
    }
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn next(&mut self, max: usize) -> Option<Vec<Delivery>> {
        if !self.cancelled
            && self.dice.happens(30)
            && let Ok(inner) = self.broker.consume(&self.queue, self.options).await
        {
            let mut guard = self.acker.0.lock().unwrap();
            *guard = (guard.0 + 1, inner.acker());
            // What the old one had goes back to the queue.
            self.inner = inner;
        }
        let generation = self.acker.0.lock().unwrap().0;
        let mut deliveries = self.inner.next(max).await?;
        deliveries.iter_mut().for_each(|d| d.tag.generation = generation);
        Some(deliveries)
    }
    async fn admit(&mut self, further: u16) {
        self.inner.admit(further).await;
    }

    async fn cancel(&mut self) {
        self.cancelled = true;
        self.inner.cancel().await;
    }
    fn acker(&self) -> Arc<dyn Acker> {
        self.acker.clone()
    }
}
