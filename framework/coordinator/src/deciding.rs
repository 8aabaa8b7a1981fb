//! The batch loop: takes what has arrived, loads what it needs, decides, and hands the batch to the pipeline.
//! It never waits for more to arrive: batches grow by themselves while the pipeline is busy.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use stagepost_broker::{Acker, Delivery, DeliveryTag, Health};
use stagepost_engine::{Execution, HistoryEvent, Origin, children::has_children, history};
use stagepost_protocol::{
    ActivityArn, DeadReason, ExecutionId, ShardId, ShardMessage, Timestamp, TokenKey,
    message::HEADER_REPUBLISHED,
    shard::{Redrive, RedriveChild, Start, Stop},
};
use stagepost_store::{ExecutionStatus, ExecutionSummary, HistoryRow, Lease, StoredExecution};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    cache::{Cache, Entry},
    definitions::{self, Definitions},
    metrics::add,
    options::Options,
    pipeline::{Backoff, Decided, Shared, Side, await_store},
    wake::Wakes,
};

mod abandon;
mod answers;
mod approvals;
mod claims;
pub(crate) mod family;
mod map_runs;
mod round;
mod signals;
mod workers;

use round::Round;
use workers::Workers;

/// At most so many wake-ups are loaded from the store at a time.
const WAKES_LOADED_MAX: usize = 20_000;
/// So long it is taken for granted that an activity which was registered still is.
pub(crate) const ACTIVITY_FACT_TTL: Duration = Duration::from_secs(1);
/// At most so many facts about activities, and so many names of declared queues, are kept.
pub(crate) const FACTS_MAX: usize = 10_000;
/// At most so many executions are remembered one by one as perhaps not published.
const SUSPECTS_MAX: usize = 100_000;
/// A row that the store cannot read so many times, though it answers, is given up.
const READS_MAX: u32 = 8;

/// What reaches the loop.
pub(crate) enum Feed {
    /// Messages of a shard's queue.
    Deliveries { lease: Lease, deliveries: Vec<Delivery>, acker: Arc<dyn Acker> },
    /// A shard is ours now. Comes before its deliveries.
    Gained(Lease),
    /// A shard is to be given up. Comes after its deliveries; `done` is told when all of them are settled.
    Released { shard: ShardId, done: oneshot::Sender<()> },
}

/// A message that was taken from a shard's queue.
struct Taken {
    shard: ShardId,
    message: ShardMessage,
    reply: Option<(String, String)>,
    /// It may have been taken before.
    redelivered: bool,
}

pub(crate) struct Deciding {
    shared: Arc<Shared>,
    options: Options,
    token_key: TokenKey,
    generation: u64,
    leases: BTreeMap<ShardId, i64>,
    cache: Cache,
    wakes: Wakes,
    definitions: Definitions,
    activities: HashMap<String, (Instant, bool)>,
    declared: HashSet<String>,
    /// Wake-ups that fired, and whose consequences are published: their rows may move on.
    fired: Vec<ExecutionId>,
    /// Executions in the store whose newest row is ours, but of which something may not be published: see
    /// [`Entry::unconfirmed`], which this outlives when the entry is evicted.
    suspects: HashSet<ExecutionId>,
    /// There were too many suspects to remember each.
    suspect_all: bool,
    /// Executions that have ended, are not in the cache, and of which what follows from their end is on its way.
    ending: HashSet<ExecutionId>,
    /// Executions that have ended, and of which all that follows is published: their wake-ups may go.
    confirmed_ends: Vec<ExecutionId>,
    wake_load_failed: Option<Instant>,
    /// Those that attempts are leased to.
    workers: Workers,
    health: watch::Receiver<Health>,
    /// The generation of the channel that each shard's deliveries come on.
    channels: HashMap<ShardId, u64>,
    /// A shard was gained, and what was decided before is not known to be settled.
    gained: bool,
}

/// What is known about executions that are not in the cache, for the length of a batch.
#[derive(Default)]
struct Known {
    ended: HashMap<ExecutionId, ExecutionSummary>,
    broken: HashMap<ExecutionId, String>,
    /// What those that have ended waited for, where that may not have been stopped.
    stops: HashMap<ExecutionId, Vec<Stop>>,
}

impl Deciding {
    pub(crate) fn new(shared: Arc<Shared>, options: Options, token_key: TokenKey) -> Deciding {
        Deciding {
            generation: shared.generation(),
            health: shared.broker.health(),
            shared,
            options,
            token_key,
            leases: BTreeMap::new(),
            cache: Cache::default(),
            wakes: Wakes::new(),
            definitions: Definitions::default(),
            activities: HashMap::new(),
            declared: HashSet::new(),
            fired: Vec::new(),
            suspects: HashSet::new(),
            suspect_all: false,
            ending: HashSet::new(),
            confirmed_ends: Vec::new(),
            wake_load_failed: None,
            workers: Workers::new(),
            channels: HashMap::new(),
            gained: false,
        }
    }

    /// Runs until the feed is closed and empty.
    pub(crate) async fn run(mut self, mut feed: mpsc::Receiver<Feed>, pipeline: mpsc::Sender<Decided>) {
        let shared = self.shared.clone();
        loop {
            let first = tokio::select! {
                biased;
                first = feed.recv() => match first {
                    Some(first) => Some(first),
                    None => return,
                },
                () = shared.settled_changed.notified() => None,
                () = tokio::time::sleep(self.until_next_wake()) => None,
            };
            let begun = self.options.clock.now();
            self.observe_broker(begun);
            // The pipeline takes one batch at a time: waiting for its place is what lets batches grow.
            let Ok(mut place) = pipeline.reserve().await else { return };
            self.observe_pipeline();
            let mut decided = Decided::new(self.generation);
            let mut taken = Vec::new();
            let mut next = first;
            let mut released = None;
            while let Some(fed) = next {
                released = self.take(fed, &mut taken, &mut decided).await;
                // What came before is decided while the shard is still ours; what comes after waits.
                if released.is_some() || taken.len() >= self.options.batch_max {
                    break;
                }
                next = feed.try_recv().ok();
            }
            if std::mem::take(&mut self.gained) {
                // What was decided of the shard before may be on its way to the store still, under the same epoch. What is
                // loaded before it gets there would be outdated, and nobody would notice where only wake-ups are moved.
                let (done, settled) = oneshot::channel();
                let mut barrier = Decided::new(self.generation);
                barrier.barriers.push(done);
                place.send(barrier);
                // An error means that it was given up with all that was before it.
                let _ = settled.await;
                let Ok(another) = pipeline.reserve().await else { return };
                place = another;
                self.observe_pipeline();
                decided.generation = self.generation;
            }
            let wakes = self.due_wakes().await;
            self.decide(taken, wakes, &mut decided).await;
            if let Some(shard) = released {
                self.leases.remove(&shard);
                self.forget(shard);
            }
            if !decided.is_empty() {
                place.send(decided);
            }
            self.cache.evict(self.options.cache_bytes_max);
            let now = self.options.clock.now();
            self.workers.was_busy(now.millis_since(begun), now);
            self.gauge();
        }
    }

    fn gauge(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        let metrics = &self.shared.metrics;
        metrics.shards_owned.store(self.leases.len() as u64, Relaxed);
        metrics.executions_cached.store(self.cache.len() as u64, Relaxed);
        metrics.cache_bytes.store(self.cache.bytes() as u64, Relaxed);
    }

    fn until_next_wake(&self) -> Duration {
        if self.leases.is_empty() {
            return Duration::from_secs(3600);
        }
        if !self.fired.is_empty() || !self.confirmed_ends.is_empty() {
            return Duration::ZERO;
        }
        if let Some(failed) = self.wake_load_failed {
            return Duration::from_secs(1).saturating_sub(failed.elapsed());
        }
        let millis = self.wakes.next().millis_since(self.options.clock.now());
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// Nobody can be heard while the broker is away.
    fn observe_broker(&mut self, now: Timestamp) {
        let changed = self.health.has_changed().unwrap_or(false);
        let up = *self.health.borrow_and_update() == Health::Up;
        if changed || !up {
            self.workers.count_anew(now);
        }
    }

    /// Learns what became of earlier batches.
    fn observe_pipeline(&mut self) {
        let generation = self.shared.generation();
        if generation != self.generation {
            // Something of what is in memory was never committed, and nobody can tell which part.
            self.generation = generation;
            self.workers.count_anew(self.options.clock.now());
            self.cache.clear();
            self.wakes.clear();
            self.fired.clear();
            self.ending.clear();
            self.confirmed_ends.clear();
            // What was to be declared with a batch that failed was not.
            self.declared.clear();
        }
        for id in self.shared.take_suspects() {
            self.suspect(id);
        }
        for lost in self.shared.take_lost(Side::Deciding) {
            if self.leases.get(&lost.shard) == Some(&lost.epoch) {
                self.leases.remove(&lost.shard);
                self.forget(lost.shard);
            }
        }
        let now = self.options.clock.now();
        for (generation, executions) in self.shared.take_settled() {
            if generation != self.generation {
                continue;
            }
            for id in executions {
                let Some(entry) = self.cache.get_mut(id) else {
                    if self.ending.remove(&id) {
                        self.confirmed_ends.push(id);
                    }
                    continue;
                };
                entry.in_flight = entry.in_flight.saturating_sub(1);
                entry.stopping = entry.stopping.saturating_sub(1);
                if entry.in_flight > 0 {
                    continue;
                }
                if !entry.unconfirmed {
                    self.suspects.remove(&id);
                }
                if entry.execution.end().is_some() {
                    if entry.stored_wake.is_some() {
                        self.confirmed_ends.push(id);
                    }
                    self.cache.remove(id);
                } else if entry.stored_wake.is_some_and(|at| at <= now) {
                    self.fired.push(id);
                }
            }
        }
    }

    /// Remembers that something of the execution may not be published.
    fn suspect(&mut self, id: ExecutionId) {
        self.suspects.insert(id);
        if self.suspects.len() > SUSPECTS_MAX {
            tracing::warn!("very many executions are in doubt: whatever is loaded is published again");
            self.suspects.clear();
            self.suspect_all = true;
        }
    }

    /// Drops what is in memory of a shard, but for what may not be published: a shard that was believed to be lost can
    /// come back under the same epoch, which says nothing about that.
    fn forget(&mut self, shard: ShardId) {
        let shards = self.options.shards;
        self.cache.retain(|id| shards.of(id) != shard);
        self.fired.retain(|id| shards.of(*id) != shard);
        self.ending.retain(|id| shards.of(*id) != shard);
        self.confirmed_ends.retain(|id| shards.of(*id) != shard);
    }

    fn owns(&self, id: ExecutionId) -> bool {
        self.leases.contains_key(&self.options.shards.of(id))
    }

    /// Takes what reached the loop. Returns the shard that is to be given up once all this is decided.
    async fn take(&mut self, feed: Feed, taken: &mut Vec<Taken>, decided: &mut Decided) -> Option<ShardId> {
        match feed {
            Feed::Gained(lease) => {
                self.gained = true;
                self.leases.insert(lease.shard, lease.epoch);
                self.forget(lease.shard);
                self.channels.remove(&lease.shard);
                self.workers.count_anew_in(lease.shard, self.options.clock.now());
                // The new shard's wake-ups up to the horizon are not in memory.
                self.wakes.clear();
            }
            Feed::Released { shard, done } => {
                decided.barriers.push(done);
                return Some(shard);
            }
            Feed::Deliveries { lease, deliveries, acker } => {
                let shard = lease.shard;
                if !self.leases.contains_key(&shard) {
                    // Whoever feeds this shard must begin anew: it would never be decided.
                    self.shared.begin_anew(lease);
                    for delivery in deliveries {
                        acker.requeue(delivery.tag).await;
                    }
                    return None;
                }
                let tags: Vec<DeliveryTag> = deliveries.iter().map(|d| d.tag).collect();
                if let Some(DeliveryTag { generation, .. }) = tags.last()
                    && self.channels.insert(shard, *generation) != Some(*generation)
                {
                    self.workers.count_anew_in(shard, self.options.clock.now());
                }
                for delivery in deliveries {
                    self.take_delivery(shard, &delivery, taken, decided);
                }
                decided.deliveries.push((acker, tags));
            }
        }
        None
    }

    fn take_delivery(
        &self,
        shard: ShardId,
        delivery: &Delivery,
        taken: &mut Vec<Taken>,
        decided: &mut Decided,
    ) {
        let properties = &delivery.properties;
        match ShardMessage::decode(&delivery.body, properties) {
            Ok(message) => {
                let reply = properties.reply_to.clone().zip(properties.correlation_id.clone());
                // What was published again is a repetition if the first one has arrived.
                let republished = properties.headers.contains_key(HEADER_REPUBLISHED);
                let redelivered = delivery.redelivered || republished;
                taken.push(Taken { shard, message, reply, redelivered });
            }
            Err(reason) => {
                let topology = &self.options.topology;
                let queue = topology.shard(shard);
                let kind = DeadReason::Malformed;
                let letter = crate::dispatch::dead_letter(topology, &queue, delivery, kind, &reason);
                decided.messages.push(letter);
                tracing::warn!(%reason, queue, "a message is none of ours");
            }
        }
    }

    /// The wake-ups to look at in this batch.
    async fn due_wakes(&mut self) -> Vec<ExecutionId> {
        if self.leases.is_empty() {
            return Vec::new();
        }
        let now = self.options.clock.now();
        if self.wakes.wants_load(now)
            && self.wake_load_failed.is_none_or(|at| at.elapsed() >= Duration::from_secs(1))
        {
            self.load_wakes().await;
        }
        let mut due = Vec::new();
        while due.len() < self.options.batch_max {
            match self.wakes.pop_due(now) {
                Some(id) if self.owns(id) => due.push(id),
                Some(_) => {}
                None => break,
            }
        }
        due
    }

    async fn load_wakes(&mut self) {
        let shards = self.options.shards;
        let slots: Vec<_> = self.leases.keys().map(|shard| shards.slots(*shard)).collect();
        let horizon = i64::try_from(self.options.wake_horizon.as_millis()).unwrap_or(i64::MAX);
        let until = self.options.clock.now().plus_millis(horizon);
        match self.shared.store.due(&slots, until, WAKES_LOADED_MAX).await {
            Ok(rows) => {
                self.wake_load_failed = None;
                // A full page may end amid equal times, so what it reaches for certain ends before its last.
                let full = rows.len() >= WAKES_LOADED_MAX;
                let reached = rows.last().filter(|_| full).map_or(until, |(at, _)| at.plus_millis(-1));
                // What is in the cache may be ahead of the store by the batches on their way; what has fired and is
                // on its way must not fire again meanwhile.
                let now = self.options.clock.now();
                let stored = rows.into_iter().filter(|(_, id)| !self.cache.contains(*id));
                let cached = self.cache.iter().filter_map(|(id, entry)| {
                    let at = entry.stored_wake.filter(|at| *at <= reached)?;
                    (at > now || entry.in_flight == 0).then_some((at, id))
                });
                self.wakes.loaded(stored.chain(cached).collect(), reached);
            }
            Err(error) => {
                tracing::warn!(%error, "wake-ups could not be loaded; trying again");
                self.wake_load_failed = Some(Instant::now());
            }
        }
    }

    async fn decide(&mut self, taken: Vec<Taken>, wakes: Vec<ExecutionId>, decided: &mut Decided) {
        // Each is decided anew: what fell due meanwhile happens, and if nothing did, its row moves on.
        let mut wakes = wakes;
        wakes.append(&mut self.fired);
        let confirmed = std::mem::take(&mut self.confirmed_ends);
        if taken.is_empty() && wakes.is_empty() && confirmed.is_empty() {
            return;
        }
        let known = self.load(&taken, &wakes).await;
        self.learn_activities(&taken, &wakes).await;
        let mut round = Round::begin(self, known, decided);
        for item in taken {
            round.message(item);
        }
        for id in wakes {
            round.wake(id);
        }
        for id in confirmed {
            round.forget_end(id);
        }
        round.finish();
    }

    /// Brings the executions that the batch is about into the cache.
    async fn load(&mut self, taken: &[Taken], wakes: &[ExecutionId]) -> Known {
        let mut wanted: Vec<ExecutionId> = Vec::new();
        let mut seen = HashSet::new();
        let mut redriven = HashSet::new();
        // What came before: whoever decided it may not have got to what follows from it.
        let mut again = HashSet::new();
        let mut want = |id: ExecutionId| {
            // What came to the wrong shard is sent on, unseen.
            if self.owns(id) && !self.cache.contains(id) && seen.insert(id) {
                wanted.push(id);
            }
        };
        for item in taken {
            match &item.message {
                ShardMessage::Reports(reports) if item.redelivered => {
                    again.extend(reports.iter().filter_map(|r| r.token.claimed_execution()));
                }
                ShardMessage::Answers(answers) if item.redelivered => {
                    again.extend(answers.iter().filter_map(|a| a.report.token.claimed_execution()));
                }
                ShardMessage::Stop(stop) if item.redelivered => {
                    again.insert(stop.execution.id());
                }
                _ => {}
            }
            match &item.message {
                ShardMessage::Reports(reports) => {
                    reports.iter().filter_map(|r| r.token.claimed_execution()).for_each(&mut want);
                }
                ShardMessage::Answers(answers) => {
                    answers.iter().filter_map(|a| a.report.token.claimed_execution()).for_each(&mut want);
                }
                // A made-up name is free, unless this is not the first time that the start is seen.
                ShardMessage::Start(start) if start.fresh && !item.redelivered => {}
                ShardMessage::Start(start) => want(start.execution.id()),
                ShardMessage::Stop(stop) => want(stop.execution.id()),
                ShardMessage::Redrive(Redrive { execution, .. })
                | ShardMessage::RedriveChild(RedriveChild { execution, .. }) => {
                    redriven.insert(execution.id());
                    want(execution.id());
                }
                ShardMessage::UpdateMapRun(update) => want(update.execution.id()),
                ShardMessage::Signal(signal) => want(signal.execution.id()),
                ShardMessage::Alive(_) => {}
            }
        }
        wakes.iter().copied().for_each(want);
        let mut known = Known::default();
        for chunk in wanted.chunks(256) {
            let stored = self.load_stored(chunk).await;
            for (id, stored) in chunk.iter().zip(stored) {
                let stored = match stored {
                    Ok(stored) => stored,
                    Err(reason) => {
                        tracing::error!(execution = %id, %reason, "an execution cannot be loaded");
                        known.broken.insert(*id, reason);
                        continue;
                    }
                };
                match stored {
                    None => drop(self.suspects.remove(id)),
                    Some(stored) if stored.summary.status != ExecutionStatus::Running => {
                        self.suspects.remove(id);
                        known.ended.insert(*id, stored.summary.clone());
                        if stored.summary.wake_at.is_some() || again.contains(id) {
                            self.find_children(*id, &stored, &mut known).await;
                        }
                        // A redrive goes on with what it was when it ended.
                        if redriven.contains(id)
                            && let Err(reason) = self.replay(*id, stored).await
                        {
                            tracing::error!(execution = %id, %reason, "an execution cannot be replayed");
                            known.broken.insert(*id, reason);
                        }
                    }
                    Some(stored) => {
                        if let Err(reason) = self.replay(*id, stored).await {
                            tracing::error!(execution = %id, %reason, "an execution cannot be replayed");
                            known.broken.insert(*id, reason);
                        }
                    }
                }
            }
        }
        for item in taken {
            if let ShardMessage::Start(start) = &item.message {
                self.compile(start, &mut known).await;
            }
        }
        known
    }

    /// Finds what an execution that has ended waited for.
    async fn find_children(&mut self, id: ExecutionId, stored: &StoredExecution, known: &mut Known) {
        let Ok(definition) = self.definition(&stored.summary.definition_id).await else { return };
        if !has_children(&definition) {
            return;
        }
        match replay(stored.clone(), definition) {
            Ok(replayed) => {
                known.stops.insert(id, family::stops_after_end(&replayed.execution, &self.token_key));
            }
            Err(reason) => tracing::error!(execution = %id, %reason, "an execution cannot be replayed"),
        }
    }

    /// Loads executions; waits for the store as long as it takes. `Err`: this one's rows cannot be read.
    async fn load_stored(&self, ids: &[ExecutionId]) -> Vec<Result<Option<StoredExecution>, String>> {
        let mut backoff = Backoff::new();
        let mut refused = 0;
        loop {
            match self.shared.store.load(ids).await {
                Ok(stored) => return stored.into_iter().map(Ok).collect(),
                // One of them must not take the others with it.
                Err(stagepost_store::Error::Database { .. }) if ids.len() > 1 => {
                    let mut all = Vec::with_capacity(ids.len());
                    for id in ids {
                        all.extend(Box::pin(self.load_stored(std::slice::from_ref(id))).await);
                    }
                    return all;
                }
                Err(error @ stagepost_store::Error::Database { .. }) if refused >= READS_MAX => {
                    return vec![Err(error.to_string())];
                }
                Err(error) => {
                    refused += u32::from(matches!(error, stagepost_store::Error::Database { .. }));
                    tracing::warn!(%error, "executions could not be loaded; trying again");
                    backoff.wait().await;
                    await_store(&self.shared).await;
                }
            }
        }
    }

    async fn definition(&mut self, id: &str) -> Result<Arc<stagepost_asl::StateMachine>, String> {
        let mut backoff = Backoff::new();
        loop {
            match self.definitions.get(&*self.shared.store, id).await {
                Ok(definition) => return Ok(definition),
                Err(definitions::Error::Store(error)) => {
                    tracing::warn!(%error, "a definition could not be loaded; trying again");
                    backoff.wait().await;
                    await_store(&self.shared).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    async fn compile(&mut self, start: &Start, known: &mut Known) {
        if let Err(reason) = self.definition(&start.definition_id).await {
            known.broken.insert(start.execution.id(), reason);
        }
    }

    async fn replay(&mut self, id: ExecutionId, stored: StoredExecution) -> Result<(), String> {
        let definition_id = stored.summary.definition_id.clone();
        let definition = self.definition(&definition_id).await?;
        let shard = self.options.shards.of(id);
        let wake = stored.summary.wake_at;
        let fired = wake.filter(|at| *at <= self.options.clock.now() && has_children(&definition));
        let abandoned = match fired {
            Some(fired) => abandon::since(fired, &stored, definition.clone(), &self.token_key)?,
            None => Vec::new(),
        };
        let replayed = replay(stored, definition)?;
        let mut entry = Entry::replayed(replayed.execution, &definition_id, replayed.sequence, wake);
        entry.events_since_snapshot = replayed.events_since_snapshot;
        entry.abandoned = abandoned;
        let ours = self.leases.get(&shard) == Some(&replayed.epoch);
        // With `recover_shards` everything was published when the shard was gained.
        let foreign = !ours && !self.options.recover_shards;
        entry.unconfirmed = foreign || self.suspect_all || self.suspects.contains(&id);
        self.cache.insert(id, entry);
        add(&self.shared.metrics.replays, 1);
        Ok(())
    }

    /// Looks up the activities that the batch's definitions name and that must be registered.
    async fn learn_activities(&mut self, taken: &[Taken], wakes: &[ExecutionId]) {
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        let mut ids = wakes.to_vec();
        for item in taken {
            match &item.message {
                ShardMessage::Reports(reports) => {
                    ids.extend(reports.iter().filter_map(|r| r.token.claimed_execution()));
                }
                ShardMessage::Answers(answers) => {
                    ids.extend(answers.iter().filter_map(|a| a.report.token.claimed_execution()));
                }
                ShardMessage::Start(start) => {
                    let definition = self.definitions.cached(&start.definition_id);
                    wanted
                        .extend(definition.iter().flat_map(|d| d.registered_activities()).map(str::to_owned));
                }
                ShardMessage::Redrive(Redrive { execution, .. })
                | ShardMessage::RedriveChild(RedriveChild { execution, .. }) => ids.push(execution.id()),
                ShardMessage::Signal(signal) => ids.push(signal.execution.id()),
                ShardMessage::Stop(_) | ShardMessage::UpdateMapRun(_) | ShardMessage::Alive(_) => {}
            }
        }
        for entry in ids.into_iter().filter_map(|id| self.cache.get(id)) {
            wanted.extend(entry.execution.definition().registered_activities().map(str::to_owned));
        }
        // That there is none is not believed for long: it may be created any moment.
        let good = |(at, exists): &(Instant, bool)| *exists && at.elapsed() < ACTIVITY_FACT_TTL;
        wanted.retain(|arn| !self.activities.get(arn).is_some_and(good));
        if self.activities.len() + wanted.len() > FACTS_MAX {
            self.activities.retain(|_, fact| good(fact));
        }
        for arn in wanted {
            let exists = match ActivityArn::parse(&arn) {
                Ok(parsed) => self.activity_exists(&parsed).await,
                Err(_) => false,
            };
            self.activities.insert(arn, (Instant::now(), exists));
        }
    }

    async fn activity_exists(&self, arn: &ActivityArn) -> bool {
        let mut backoff = Backoff::new();
        loop {
            match self.shared.store.activity(&arn.namespace, &arn.name).await {
                Ok(row) => return row.is_some(),
                Err(error) => {
                    tracing::warn!(%error, "an activity could not be looked up; trying again");
                    backoff.wait().await;
                    await_store(&self.shared).await;
                }
            }
        }
    }
}

/// An execution as the store has it.
pub(crate) struct Replayed {
    pub(crate) execution: Execution,
    pub(crate) sequence: u64,
    pub(crate) epoch: i64,
    pub(crate) events_since_snapshot: u64,
}

/// What is stored as a snapshot: the epoch of the row that it includes, and the state.
fn snapshot_payload(epoch: i64, state: &str) -> String {
    format!("{epoch} {state}")
}

fn parse_snapshot(payload: &str) -> Result<(i64, &str), String> {
    let parts = payload.split_once(' ').and_then(|(epoch, state)| Some((epoch.parse().ok()?, state)));
    parts.ok_or_else(|| "its snapshot does not begin with an epoch".to_owned())
}

fn decode_rows(rows: &[HistoryRow]) -> Result<Vec<HistoryEvent>, String> {
    let mut events = Vec::new();
    for HistoryRow { sequence, payload, .. } in rows {
        events.extend(history::decode(payload).map_err(|e| format!("row {sequence} cannot be read: {e}"))?);
    }
    Ok(events)
}

/// Replays a stored execution.
pub(crate) fn replay(
    stored: StoredExecution,
    definition: Arc<stagepost_asl::StateMachine>,
) -> Result<Replayed, String> {
    let origin = Origin {
        arn: stored.summary.arn,
        state_machine: stored.summary.state_machine,
        role_arn: stored.summary.role_arn,
        input: stored.summary.input,
        started_at: stored.summary.started_at,
        parent: stored.summary.parent,
    };
    let mut sequence = stored.snapshot.as_ref().map_or(0, |s| s.sequence);
    // A snapshot names the epoch of its row, which is not loaded any more.
    let snapshot = match &stored.snapshot {
        None => None,
        Some(snapshot) => Some(parse_snapshot(&snapshot.payload)?),
    };
    let mut epoch = snapshot.map_or(0, |(epoch, _)| epoch);
    for row in &stored.history {
        if row.sequence != sequence + 1 {
            return Err(format!("its history has row {} after row {sequence}", row.sequence));
        }
        sequence = row.sequence;
        epoch = row.epoch;
    }
    let events = decode_rows(&stored.history)?;
    let events_since_snapshot = events.len() as u64;
    let execution = match snapshot {
        None => Execution::replay(origin, definition, &events).map_err(|e| e.to_string())?,
        Some((_, state)) => {
            let mut execution = Execution::restore(origin, definition, state).map_err(|e| e.to_string())?;
            events.iter().try_for_each(|event| execution.evolve(event)).map_err(|e| e.to_string())?;
            execution
        }
    };
    Ok(Replayed { execution, sequence, epoch, events_since_snapshot })
}
