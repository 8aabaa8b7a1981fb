//! The scenarios, on a coordinator and a worker of the benchmark's own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use stagepost::{Failure, Worker, activities, activity};
use stagepost_coordinator::{Client, Coordinator, Options, Parts, installation_token_key};
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
const STUCK: Duration = Duration::from_secs(300);

type Waiting = Arc<Mutex<HashMap<ExecutionId, oneshot::Sender<Instant>>>>;

struct Rig {
    opened: Opened,
    coordinator: Coordinator,
    client: Arc<Client>,
    machine: StateMachineArn,
    definition_id: String,
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
    let rig = Rig::start(target, scenario, load).await?;
    let measured = match scenario {
        Scenario::Sequence | Scenario::Latency | Scenario::Map => rig.complete(processes, load).await,
        Scenario::Waiting => rig.accept_and_idle(processes, load).await,
        Scenario::Timers => rig.timers(processes, load).await,
    };
    rig.stop().await?;
    measured
}

fn definition(scenario: Scenario, load: Load) -> serde_json::Value {
    let task = |next: Option<String>| {
        let mut state = json!({"Type": "Task", "Resource": "arn:aws:states:::activity:no_op"});
        match next {
            Some(next) => state["Next"] = json!(next),
            None => state["End"] = json!(true),
        }
        state
    };
    match scenario {
        Scenario::Sequence | Scenario::Latency => {
            let next = |i: usize| (i < load.steps).then(|| format!("Step{}", i + 1));
            let states: serde_json::Map<_, _> =
                (1..=load.steps).map(|i| (format!("Step{i}"), task(next(i)))).collect();
            json!({"StartAt": "Step1", "States": states})
        }
        Scenario::Map => json!({"StartAt": "Map", "States": {"Map": {
            "Type": "Map", "End": true,
            "ItemProcessor": {"StartAt": "Item", "States": {"Item": task(None)}},
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
    async fn start(target: &Target, scenario: Scenario, load: Load) -> Result<Rig> {
        let prefix = format!("stagepost-bench-{}", uuid::Uuid::new_v4().simple());
        let opened = target.open(&prefix).await?;
        let shards = Shards::new(load.shards).context("--shards must be 1 to 1024")?;
        let topology = Topology::new(prefix.clone());
        let token_key = installation_token_key(&*opened.store).await?;

        let machine = StateMachineArn { namespace: Namespace::default(), name: "bench".into() };
        let clock = Options::default().clock;
        let row = StateMachineRow {
            arn: machine.clone(),
            definition_id: uuid::Uuid::new_v4().to_string(),
            role_arn: "arn:aws:iam::000000000000:role/bench".into(),
            kind: "STANDARD".into(),
            status: "ACTIVE".into(),
            created_at: clock.now(),
            updated_at: clock.now(),
            settings: Payload::empty_object(),
        };
        let text = definition(scenario, load).to_string();
        opened
            .store
            .create_state_machine(&row, &DefinitionRow { id: row.definition_id.clone(), text })
            .await?;

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
        queues.extend([topology.callbacks(), topology.dead_letters()]);
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
        let rig = Rig {
            opened,
            coordinator,
            client,
            machine,
            definition_id: row.definition_id,
            waiting,
            stop_worker,
            worker,
            queues,
        };
        // Queues, connections and caches are there before the clock runs. Nothing else is warmed up.
        if !matches!(scenario, Scenario::Waiting | Scenario::Timers) {
            rig.execute(Payload::from_value(&json!([0])), "warm-up".into()).await?;
        }
        Ok(rig)
    }

    async fn stop(self) -> Result<()> {
        // The worker may have ended by itself.
        let _ = self.stop_worker.send(());
        self.worker.await?;
        self.coordinator.shutdown().await;
        drop(self.client);
        self.opened.remove(&self.queues).await
    }

    fn request(&self, input: Payload, name: &str) -> Start {
        Start {
            execution: self.machine.execution(name),
            state_machine: self.machine.clone(),
            definition_id: self.definition_id.clone(),
            role_arn: "arn:aws:iam::000000000000:role/bench".into(),
            input,
            trace_header: None,
            fresh: true,
            parent: None,
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

    /// Runs `count` pieces of work, `in_flight` at a time, and collects what they took.
    async fn many<F>(
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

    async fn complete(&self, processes: &Processes, load: Load) -> Result<Measured> {
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
