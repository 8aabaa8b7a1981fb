//! The scenarios, on a coordinator and a worker of the benchmark's own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use stagepost::{Failure, Worker, activities, activity};
use stagepost_coordinator::{Client, Coordinator, Options, Parts, express, installation_token_key};
use stagepost_engine::End;
use stagepost_protocol::{
    ExecutionId, Namespace, Payload, Shards, StateMachineArn,
    shard::{Reply, Start},
    topology::Topology,
};
use stagepost_store::{DefinitionRow, StateMachineRow};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    Load, Measured, Meter, Scenario,
    target::{Opened, Target},
    usage::Processes,
};

/// Nothing at all.
#[activity]
async fn no_op(input: serde_json::Value) -> Result<serde_json::Value, Failure> {
    Ok(input)
}

/// Nothing that happens in a benchmark takes as long; past it something is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(300);

type Waiting = Arc<Mutex<HashMap<ExecutionId, oneshot::Sender<Instant>>>>;

pub(super) struct Rig {
    opened: Opened,
    pub(super) coordinator: Coordinator,
    pub(super) client: Arc<Client>,
    pub(super) machine: StateMachineRow,
    waiting: Waiting,
    stop_worker: oneshot::Sender<()>,
    worker: tokio::task::JoinHandle<()>,
    queues: Vec<String>,
}

/// Runs a scenario once.
pub(super) async fn run(
    target: &Target,
    processes: &Processes,
    scenario: Scenario,
    load: Load,
) -> Result<Measured> {
    // Queues, connections and caches are there before the clock runs. Nothing else is warmed up.
    let warm = !matches!(scenario, Scenario::Waiting | Scenario::Timers);
    let rig = Rig::start(target, &definition(scenario, load), "STANDARD", load, warm).await?;
    let measured = match scenario {
        Scenario::Sequence | Scenario::Latency | Scenario::Map => rig.complete(processes, load).await,
        Scenario::Waiting => rig.accept_and_idle(processes, load).await,
        Scenario::Timers => rig.timers(processes, load).await,
        Scenario::Express => bail!("Express executions are measured beside standard ones"),
    };
    rig.stop().await?;
    measured
}

/// A task that does nothing.
pub(super) fn task() -> serde_json::Value {
    json!({"Type": "Task", "Resource": "arn:aws:states:::activity:no_op"})
}

fn last(mut state: serde_json::Value) -> serde_json::Value {
    state["End"] = json!(true);
    state
}

/// So many copies of a state, one after the other.
pub(super) fn sequence(steps: usize, state: &serde_json::Value) -> serde_json::Value {
    let step = |i: usize| {
        let mut state = state.clone();
        if i == steps {
            return last(state);
        }
        state["Next"] = json!(format!("Step{}", i + 1));
        state
    };
    let states: serde_json::Map<_, _> = (1..=steps).map(|i| (format!("Step{i}"), step(i))).collect();
    json!({"StartAt": "Step1", "States": states})
}

fn definition(scenario: Scenario, load: Load) -> serde_json::Value {
    match scenario {
        Scenario::Sequence | Scenario::Latency | Scenario::Express => sequence(load.steps, &task()),
        Scenario::Map => json!({"StartAt": "Map", "States": {"Map": {
            "Type": "Map", "End": true,
            "ItemProcessor": {"StartAt": "Item", "States": {"Item": last(task())}},
        }}}),
        Scenario::Waiting => json!({"StartAt": "Token", "States": {"Token": {
            "Type": "Task", "End": true, "TimeoutSeconds": 86_400,
            "Resource": "arn:aws:states:::activity:nobody",
        }}}),
        Scenario::Timers => json!({"StartAt": "Wait", "States": {"Wait": {
            "Type": "Wait", "TimestampPath": "$.due", "End": true,
        }}}),
    }
}

impl Rig {
    /// A coordinator, a worker and a state machine of a type. `warm`: it has run once.
    pub(super) async fn start(
        target: &Target,
        definition: &serde_json::Value,
        kind: &str,
        load: Load,
        warm: bool,
    ) -> Result<Rig> {
        let prefix = format!("stagepost-bench-{}", uuid::Uuid::new_v4().simple());
        let opened = target.open(&prefix).await?;
        let shards = Shards::new(load.shards).context("--shards must be 1 to 1024")?;
        let topology = Topology::new(prefix.clone());
        let token_key = installation_token_key(&*opened.store).await?;

        let clock = Options::default().clock;
        let machine = StateMachineRow {
            arn: StateMachineArn { namespace: Namespace::default(), name: "bench".into() },
            definition_id: uuid::Uuid::new_v4().to_string(),
            role_arn: "arn:aws:iam::000000000000:role/bench".into(),
            kind: kind.into(),
            status: "ACTIVE".into(),
            created_at: clock.now(),
            updated_at: clock.now(),
            settings: Payload::empty_object(),
        };
        let row = DefinitionRow { id: machine.definition_id.clone(), text: definition.to_string() };
        opened.store.create_state_machine(&machine, &row).await?;

        let waiting = Waiting::default();
        let ended = waiting.clone();
        let options = Options {
            topology: topology.clone(),
            shards,
            on_end: Some(Arc::new(move |id| {
                if let Some(sender) = ended.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
                    // Who waited may have given up.
                    let _ = sender.send(Instant::now());
                }
            })),
            ..Options::default()
        };
        let parts = Parts { store: opened.store.clone(), broker: opened.coordinator_broker.clone() };
        let mut queues: Vec<String> = shards.all().map(|shard| topology.shard(shard)).collect();
        queues.extend(["no_op", "nobody"].map(|name| topology.activity(&Namespace::default(), name)));
        queues.extend([topology.callbacks(), topology.express(), topology.dead_letters()]);
        let coordinator = Coordinator::start(parts, options, token_key.clone()).await?;
        let broker = opened.coordinator_broker.clone();
        let client = Client::connect(broker, topology, shards, token_key).await?;

        let (stop_worker, stopped) = oneshot::channel::<()>();
        let worker = Worker::with_broker(opened.worker_broker.clone())
            .queue_prefix(prefix)
            .concurrency(u16::try_from(load.in_flight.max(load.items)).unwrap_or(u16::MAX).min(512))
            .register(activities![no_op]);
        let worker = tokio::spawn(async move {
            let result = worker
                .run_until(async {
                    // Told to stop, or the bench itself is gone.
                    let _ = stopped.await;
                })
                .await;
            if let Err(error) = result {
                tracing::error!(%error, "the benchmark's worker failed");
            }
        });
        let rig = Rig { opened, coordinator, client, machine, waiting, stop_worker, worker, queues };
        let input = Payload::from_value(&json!([0]));
        match (warm, rig.machine.is_express()) {
            (false, _) => {}
            (true, false) => drop(rig.execute(input, "warm-up".into()).await?),
            (true, true) => drop(rig.run_express(input, "warm-up").await?),
        }
        Ok(rig)
    }

    pub(super) async fn stop(self) -> Result<()> {
        // The worker may have ended by itself.
        let _ = self.stop_worker.send(());
        self.worker.await?;
        self.coordinator.shutdown().await;
        drop(self.client);
        self.opened.remove(&self.queues).await
    }

    fn request(&self, input: Payload, name: &str) -> Start {
        Start {
            execution: self.machine.arn.execution(name),
            state_machine: self.machine.arn.clone(),
            definition_id: self.machine.definition_id.clone(),
            role_arn: self.machine.role_arn.clone(),
            input,
            trace_header: None,
            fresh: true,
            parent: None,
            map_item: None,
        }
    }

    async fn accept(&self, start: Start) -> Result<()> {
        match self.client.start(start).await? {
            Reply::Started { .. } => Ok(()),
            other => bail!("a start was answered with {other:?}"),
        }
    }

    /// Starts an execution and waits for its end; returns when that was committed.
    async fn execute(&self, input: Payload, name: String) -> Result<Instant> {
        let start = self.request(input, &name);
        let (sender, ended) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(start.execution.id(), sender);
        self.accept(start).await?;
        let ended = tokio::time::timeout(STUCK, ended).await.context("an execution did not end")?;
        ended.context("the coordinator is gone")
    }

    /// Runs an Express execution to its end, and returns then.
    pub(super) async fn run_express(&self, input: Payload, name: &str) -> Result<Instant> {
        let ended = self.coordinator.runner().run(express::start(&self.machine, name, input)).await?;
        match ended.end {
            End::Succeeded(_) => Ok(Instant::now()),
            other => bail!("an Express execution ended with {other:?}"),
        }
    }

    /// Runs `count` pieces of work, `in_flight` at a time, and collects what they took.
    pub(super) async fn many<F>(
        self: &Rig,
        count: usize,
        in_flight: usize,
        work: impl Fn(usize) -> F,
    ) -> Result<Vec<Duration>>
    where
        F: Future<Output = Result<Duration>>,
    {
        let slots = Semaphore::new(in_flight);
        let pieces = (0..count).map(|i| {
            let (slots, work) = (&slots, &work);
            async move {
                let _slot = slots.acquire().await?;
                work(i).await
            }
        });
        futures_util::future::try_join_all(pieces).await
    }

    pub(super) async fn complete(&self, processes: &Processes, load: Load) -> Result<Measured> {
        let items: Vec<usize> = (0..load.items).collect();
        let input = Payload::from_value(&json!(items));
        let meter = Meter::begin(processes);
        let times = self
            .many(load.executions, load.in_flight, |i| {
                let input = input.clone();
                async move {
                    let began = Instant::now();
                    let ended = self.execute(input, format!("run-{i}")).await?;
                    Ok(ended.duration_since(began) / u32::try_from(load.steps).unwrap_or(1))
                }
            })
            .await?;
        Ok(meter.end(processes, load.executions * load.steps * load.items, times))
    }

    async fn accept_and_idle(&self, processes: &Processes, load: Load) -> Result<Measured> {
        let meter = Meter::begin(processes);
        let times = self
            .many(load.executions, load.in_flight, |i| async move {
                let began = Instant::now();
                self.accept(self.request(Payload::empty_object(), &format!("run-{i}"))).await?;
                Ok(began.elapsed())
            })
            .await?;
        let mut measured = meter.end(processes, load.executions, times);
        // The starts' guards fire after five seconds; from then on nothing happens.
        tokio::time::sleep(Duration::from_secs(8)).await;
        let (before, began) = (self.opened.store.statements_sent(), Instant::now());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let statements = self.opened.store.statements_sent() - before;
        measured.idle_queries_per_s = Some(statements as f64 / began.elapsed().as_secs_f64());
        measured.peak_mb = super::usage::peak_mib();
        Ok(measured)
    }

    async fn timers(&self, processes: &Processes, load: Load) -> Result<Measured> {
        // Time enough to start them all.
        let lead = Duration::from_secs(5) + Duration::from_millis(load.executions as u64);
        let due_at = Instant::now() + lead;
        let millis = i64::try_from(lead.as_millis())?;
        let due = Options::default().clock.now().plus_millis(millis);
        let input = Payload::from_value(&json!({"due": due.to_string()}));
        let (sender, mut ends) = mpsc::channel(load.executions);
        self.many(load.executions, load.in_flight, |i| {
            let (input, sender) = (input.clone(), sender.clone());
            async move {
                let start = self.request(input, &format!("run-{i}"));
                let (end, ended) = oneshot::channel();
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(start.execution.id(), end);
                self.accept(start).await?;
                sender.send(ended).await?;
                Ok(Duration::ZERO)
            }
        })
        .await?;
        drop(sender);
        if Instant::now() >= due_at {
            bail!("the timers were due before all executions were started: use fewer executions");
        }
        tokio::time::sleep_until(due_at.into()).await;
        let meter = Meter::begin(processes);
        let mut times = Vec::new();
        while let Some(ended) = ends.recv().await {
            let ended = tokio::time::timeout(STUCK, ended).await.context("a timer did not fire")??;
            times.push(ended.saturating_duration_since(due_at));
        }
        Ok(meter.end(processes, load.executions, times))
    }
}
