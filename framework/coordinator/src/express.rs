//! Express executions: in memory, for at most five minutes, without a row in the store.
//!
//! ```text
//! StartSyncExecution ───────────────► Runner ──► one task for each execution: decide ─► publish
//! stagepost.express ────► queue ────────┘                       ▲
//! stagepost.express.RUNNER ────► inbox (reports, answers) ──────┘
//! ```
//!
//! The engine is the one of standard executions. What differs is who keeps the state: nobody but the task that runs the
//! execution. It dies with its process; an asynchronous one is then run again from its start, because its message is
//! acknowledged only at its end (at least once, as at the service); a synchronous one is lost with the request.
//!
//! Task tokens name the runner, so whoever answers an attempt (a worker, SendTaskSuccess, a token message) reaches it
//! without asking anyone.

mod inbox;
mod log;
pub(crate) mod queue;
mod running;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use stagepost_asl::StateMachine;
use stagepost_broker::QueueSpec;
use stagepost_engine::{End, Input};
use stagepost_protocol::{
    ActivityArn, ExecutionId, ExpressStart, Message, Payload, RunnerId, Shards, Timestamp, TokenKey,
    express::{LogLevel, Logging},
    topology::Topology,
};
use stagepost_store::StateMachineRow;
use tokio::{
    sync::{RwLock, Semaphore, mpsc},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    deciding::{ACTIVITY_FACT_TTL, FACTS_MAX},
    definitions::{self, Definitions},
    metrics::{Metrics, add},
    options::{Clock, Options, Random},
    pipeline::Shared,
    run::Parts,
};
use running::Running;

/// Why an Express execution was not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// As many as are allowed run already ([`Options::express_running_max`]).
    #[error("{0} Express executions run in this process already; try again, or start more processes")]
    TooMany(usize),
    /// The store.
    #[error(transparent)]
    Store(#[from] stagepost_store::Error),
    /// Its definition cannot be used.
    #[error("{0}")]
    Definition(String),
    /// A mistake of ours ended it.
    #[error("the execution ended by an internal error")]
    Internal,
}

/// The start of an execution of an EXPRESS state machine. Its name may repeat: each start is a run of its own.
pub fn start(machine: &StateMachineRow, name: &str, input: Payload) -> ExpressStart {
    ExpressStart {
        execution: machine.arn.express(name, &uuid::Uuid::new_v4().to_string()),
        state_machine: machine.arn.clone(),
        definition_id: machine.definition_id.clone(),
        role_arn: machine.role_arn.clone(),
        input,
        logging: logging(&machine.settings.to_value()["loggingConfiguration"]),
    }
}

/// Reads a state machine's `loggingConfiguration`; absent, nothing is logged. Its destinations say where the service
/// writes; here it is this process's log.
fn logging(configuration: &serde_json::Value) -> Logging {
    let level = match configuration["level"].as_str() {
        Some("ALL") => LogLevel::All,
        Some("ERROR") => LogLevel::Error,
        Some("FATAL") => LogLevel::Fatal,
        _ => LogLevel::Off,
    };
    let include_execution_data = configuration["includeExecutionData"].as_bool().unwrap_or(false);
    Logging { level, include_execution_data }
}

/// How an Express execution ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// With what.
    pub end: End,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub stopped_at: Timestamp,
    /// About the most memory that its state took, in bytes.
    pub peak_bytes: usize,
}

/// Something that is said to a running execution, and who waits for an answer: queue and correlation id.
struct Asked {
    input: Input,
    reply: Option<(String, String)>,
    /// What it is among the dead letters, if it comes too late.
    letter: Option<Message>,
}

/// Runs Express executions in this process.
pub struct Runner {
    shared: Arc<Shared>,
    topology: Topology,
    shards: Shards,
    clock: Clock,
    random: Random,
    token_key: TokenKey,
    /// The queue for what is said about attempts.
    inbox: String,
    definitions: RwLock<Definitions>,
    activities: Mutex<HashMap<String, (Instant, bool)>>,
    declared: Mutex<HashSet<String>>,
    running: Mutex<HashMap<ExecutionId, mpsc::Sender<Asked>>>,
    /// For synchronous executions; the broker counts the others.
    places: Arc<Semaphore>,
    places_max: usize,
    duration_max: Duration,
    receiver: OnceLock<AbortHandle>,
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver.get() {
            receiver.abort();
        }
    }
}

/// A panic elsewhere cannot leave these tables half changed, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runner {
    /// A runner with a queue of its own for reports. It counts in `metrics`.
    pub async fn start(
        parts: Parts,
        options: &Options,
        token_key: &TokenKey,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Runner>, stagepost_broker::Error> {
        let id = RunnerId::from_bytes(options.random.next().to_be_bytes());
        let inbox = options.topology.runner(id);
        let reports = parts.broker.private_queue(&inbox).await?;
        let places_max = usize::from(options.express_running_max);
        let runner = Arc::new(Runner {
            shared: Arc::new(Shared::new(parts, metrics, options)),
            topology: options.topology.clone(),
            shards: options.shards,
            clock: options.clock.clone(),
            random: options.random.clone(),
            token_key: token_key.of_runner(id),
            inbox,
            definitions: RwLock::default(),
            activities: Mutex::default(),
            declared: Mutex::default(),
            running: Mutex::default(),
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            duration_max: options.express_duration_max,
            receiver: OnceLock::new(),
        });
        let receiver = tokio::spawn(inbox::run(Arc::downgrade(&runner), reports)).abort_handle();
        // Nobody else has the runner yet, so it is empty.
        let _ = runner.receiver.set(receiver);
        Ok(runner)
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.shared.metrics.clone()
    }

    /// Runs an execution to its end, for StartSyncExecution: at most five minutes. It goes on when the caller goes away.
    pub async fn run(self: &Arc<Self>, start: ExpressStart) -> Result<Ended, RunError> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            add(&self.shared.metrics.express_throttled, 1);
            return Err(RunError::TooMany(self.places_max));
        };
        let running = self.begin(start).await?;
        // What needs nobody else has ended already, and a task for it would cost more than it.
        if let Some(ended) = running.ended_at_once() {
            return Ok(ended);
        }
        let driven = tokio::spawn(async move {
            let _place = place;
            running.drive().await
        });
        driven.await.map_err(|error| {
            tracing::error!(%error, "an Express execution failed");
            RunError::Internal
        })
    }

    /// Makes the first decision of an execution.
    async fn begin(self: &Arc<Self>, start: ExpressStart) -> Result<Running, RunError> {
        let definition = self.definition(&start.definition_id).await?;
        let registered = self.registered(&definition).await?;
        Ok(Running::start(self.clone(), start, definition, registered))
    }

    async fn definition(&self, id: &str) -> Result<Arc<StateMachine>, RunError> {
        if let Some(definition) = self.definitions.read().await.cached(id) {
            return Ok(definition);
        }
        match self.definitions.write().await.get(&*self.shared.store, id).await {
            Ok(definition) => Ok(definition),
            Err(definitions::Error::Store(error)) => Err(error.into()),
            Err(error) => Err(RunError::Definition(error.to_string())),
        }
    }

    /// Those of the activities that a definition names by a full ARN which are registered.
    async fn registered(&self, definition: &StateMachine) -> Result<HashSet<String>, RunError> {
        let mut registered = HashSet::new();
        for arn in definition.registered_activities() {
            let known = lock(&self.activities).get(arn).copied();
            // That there is none is not believed for long: it may be created any moment.
            if known.is_none_or(|(at, exists)| !exists || at.elapsed() >= ACTIVITY_FACT_TTL) {
                let exists = match ActivityArn::parse(arn) {
                    Ok(arn) => self.shared.store.activity(&arn.namespace, &arn.name).await?.is_some(),
                    Err(_) => false,
                };
                let mut activities = lock(&self.activities);
                if activities.len() >= FACTS_MAX {
                    activities.clear();
                }
                activities.insert(arn.to_owned(), (Instant::now(), exists));
            }
            if lock(&self.activities).get(arn).is_some_and(|(_, exists)| *exists) {
                registered.insert(arn.to_owned());
            }
        }
        Ok(registered)
    }

    /// The declaration that a queue needs before the first message to it.
    fn declaration(&self, queue: &str) -> Option<QueueSpec> {
        let mut declared = lock(&self.declared);
        if declared.contains(queue) {
            return None;
        }
        if declared.len() >= FACTS_MAX {
            declared.clear();
        }
        declared.insert(queue.to_owned());
        Some(QueueSpec::ours(queue))
    }

    fn enlist(&self, id: ExecutionId, sender: mpsc::Sender<Asked>) {
        add(&self.shared.metrics.express_started, 1);
        let mut running = lock(&self.running);
        running.insert(id, sender);
        self.shared.metrics.express_running.store(running.len() as u64, Relaxed);
    }

    fn strike_off(&self, id: ExecutionId) {
        add(&self.shared.metrics.express_ended, 1);
        let mut running = lock(&self.running);
        running.remove(&id);
        self.shared.metrics.express_running.store(running.len() as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests;
