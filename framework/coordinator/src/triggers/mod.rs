//! Triggers: each message of an existing producer starts an execution.
//!
//! ```text
//! records of kind `trigger` ──(looked at every few seconds)──► one task per trigger:
//!   queue ─► body ─► mapping ─► start on its shard's queue, confirmed ─► acknowledge
//!                       └─► what cannot be used: the dead letters
//! ```
//!
//! All coordinators consume, side by side. The message's id, or what the mapping makes of it, names the execution, so
//! that a message that comes twice starts one. `model` is what a trigger is and how it is kept; `body` and `mapping` are
//! pure; `consume` is one trigger at work; here is who starts and stops them as the records say.

mod body;
mod consume;
mod mapping;
pub(crate) mod metrics;
mod model;

pub use model::{
    BodyFormat, ConfigureError, PREFETCH_DEFAULT, PREFETCH_MAX, Source, Status, StoredTrigger, TRIGGERS_MAX,
    Trigger, all, configure,
};

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use stagepost_protocol::Namespace;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use self::mapping::Mapping;
use crate::{options::Options, pipeline::Shared};

/// How often the records are looked at: what is created, paused or deleted takes effect within that time.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// So long after a trigger was deleted every coordinator has seen it.
const SEEN_MILLIS: i64 = 3 * LOOK_EVERY.as_millis() as i64;

/// Runs the triggers of the installation until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, options: Options, shutdown: CancellationToken) {
    let mut triggers = Triggers { shared, options, running: BTreeMap::new(), tasks: JoinSet::new() };
    loop {
        match all(&*triggers.shared.store).await {
            Ok(stored) => triggers.reconcile(stored).await,
            // What runs goes on.
            Err(error) => tracing::warn!(%error, "the triggers cannot be looked up; trying again"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // One that was stopped may be started anew at once.
            () = triggers.ended() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    triggers.stop_all().await;
}

type Key = (Namespace, String);

/// A trigger that has a task.
struct Running {
    stored: StoredTrigger,
    stop: CancellationToken,
    task: Id,
}

/// The triggers that this process runs.
struct Triggers {
    shared: Arc<Shared>,
    options: Options,
    running: BTreeMap<Key, Running>,
    /// Ends with them all.
    tasks: JoinSet<()>,
}

impl Triggers {
    /// Starts and stops triggers so that those run which are stored.
    async fn reconcile(&mut self, stored: Vec<StoredTrigger>) {
        let mut wanted: BTreeMap<Key, StoredTrigger> = stored
            .into_iter()
            .map(|stored| ((stored.namespace.clone(), stored.trigger.name.clone()), stored))
            .collect();
        for (key, running) in &self.running {
            let stays = wanted.get(key).is_some_and(|stored| is_same(stored, &running.stored));
            if !stays {
                running.stop.cancel();
            }
            if !wanted.contains_key(key) {
                self.shared.metrics.triggers.forget(&key.0, &key.1);
            }
        }
        self.gather();
        let mut gone = Vec::new();
        wanted.retain(|key, stored| {
            let deleting = stored.status == Status::Deleting;
            if deleting && !self.running.contains_key(key) {
                gone.push(stored.clone());
            }
            !deleting
        });
        for stored in gone {
            self.take_back(&stored).await;
        }
        for (key, stored) in wanted {
            if !self.running.contains_key(&key) {
                self.start(key, stored);
            }
        }
    }

    fn start(&mut self, key: Key, stored: StoredTrigger) {
        let name = &stored.trigger.name;
        let mapping = match stored.trigger.mapping.as_deref().map(Mapping::parse).transpose() {
            Ok(mapping) => mapping,
            // It was checked when it was created, perhaps by another version.
            Err(error) => {
                tracing::error!(
                    trigger = name,
                    error,
                    "a trigger's mapping is no JSONata expression; it takes nothing"
                );
                return;
            }
        };
        let stop = CancellationToken::new();
        let paused = stored.status != Status::Active;
        tracing::debug!(trigger = name, paused, "a trigger begins");
        let trigger = consume::Trigger {
            shared: self.shared.clone(),
            options: self.options.clone(),
            mapping,
            queue: stored.queue(&self.options.topology),
            counters: self.shared.metrics.triggers.of(&stored.namespace, name),
            stored: stored.clone(),
        };
        let task = self.tasks.spawn(trigger.run(paused, stop.clone())).id();
        self.running.insert(key, Running { stored, stop, task });
    }

    /// Waits until a task has ended that was told to.
    async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let in_order = ended.is_ok();
            self.strike_off(ended);
            if in_order {
                return;
            }
        }
        std::future::pending().await
    }

    /// Strikes off those that have ended already.
    fn gather(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.strike_off(ended);
        }
    }

    fn strike_off(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(%error, "a trigger has failed; it begins anew");
                error.id()
            }
        };
        self.running.retain(|_, running| running.task != id);
    }

    /// Takes the binding of a deleted trigger back, in what this process remembers too, and forgets the trigger once
    /// every process has had the time to do so.
    async fn take_back(&self, stored: &StoredTrigger) {
        let name = &stored.trigger.name;
        self.shared.metrics.triggers.forget(&stored.namespace, name);
        if let Err(error) = self.unbind(stored).await {
            tracing::warn!(%error, trigger = name, "the binding of a trigger cannot be taken back; trying again");
            return;
        }
        if self.options.clock.now().millis_since(stored.updated_at) < SEEN_MILLIS {
            return;
        }
        let store = &self.shared.store;
        let deleted =
            store.delete_record(StoredTrigger::RECORD, &stored.namespace, name, Some(stored.version)).await;
        match deleted {
            Ok(true) => tracing::info!(trigger = name, "a trigger was deleted"),
            // Another process was faster.
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, trigger = name, "a trigger cannot be deleted; trying again"),
        }
    }

    /// The queue goes when it is empty; messages that wait in it are not thrown away.
    async fn unbind(&self, stored: &StoredTrigger) -> Result<(), stagepost_broker::Error> {
        let Source::Exchange { exchange, routing_key } = &stored.trigger.source else { return Ok(()) };
        let (broker, queue) = (&self.shared.broker, stored.queue(&self.options.topology));
        let Some(waiting) = broker.depth(&queue).await? else { return Ok(()) };
        broker.unbind(&queue, exchange, routing_key).await?;
        if waiting == 0 {
            return broker.delete(&queue).await;
        }
        tracing::warn!(queue, waiting, "the queue of a deleted trigger is kept, as messages wait in it");
        Ok(())
    }

    async fn stop_all(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Whether a task can go on as it is. Who changed what else, and when, does not matter to it.
fn is_same(one: &StoredTrigger, other: &StoredTrigger) -> bool {
    one.trigger == other.trigger && one.status == other.status
}
