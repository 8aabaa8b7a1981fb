//! State machines, a worker that knows its trade, and what must be true when all is over.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use stagepost_broker::{Broker, ConsumeOptions, QueueSpec, in_process::InProcessBroker};
use stagepost_coordinator::{Client, Coordinator, Options, Parts, installation_token_key};
use stagepost_engine::{End, Execution, Origin, history};
use stagepost_protocol::{
    ExecutionArn, MapRunStatus, Namespace, Parent, ParentKind, Payload, Report, ReportOutcome, ShardMessage,
    Shards, Signal, StateMachineArn, TaskMessage, Timestamp, TokenKey,
    shard::{Redrive, Reply, Start, Stop},
    topology::Topology,
};
use stagepost_store::{
    DefinitionRow, ExecutionStatus, ExecutionSummary, ExecutionsOf, ListExecutions, Reader, StateMachineRow,
    Store, sqlite, sqlite::SqliteStore,
};
use tokio::task::JoinHandle;

use crate::chaos::{Dice, FaultyBroker, FaultyStore};

/// `spawn` starts a child and leaves it to the child to report.
const ACTIVITIES: [&str; 3] = ["inc", "flaky", "spawn"];
/// State machines that only parents start.
const CHILDREN: [&str; 3] = ["child-quick", "child-steps", "child-expires"];
/// A request is repeated after so long.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// All must be over by then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

fn task(name: &str, next: Option<&str>) -> Value {
    let mut state = json!({ "Type": "Task", "Resource": format!("arn:aws:states:::activity:{name}") });
    match next {
        Some(next) => state["Next"] = json!(next),
        None => state["End"] = json!(true),
    }
    state
}

/// Waits for a signal of the name that all have.
fn wait_for_signal(more: &Value) -> Value {
    let mut state = json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::stagepost:waitForSignal",
        "Parameters": { "Name": "go" },
    });
    state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    state
}

/// A distributed Map state whose children all fail, if they are not stopped before, and succeed when they are redriven.
fn again_map() -> Value {
    let processor = json!({
        "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" },
        "StartAt": "F",
        "States": { "F": task("flaky", None) },
    });
    json!({ "Type": "Map", "Label": "l", "ItemProcessor": processor, "End": true })
}

/// The state machines by name.
fn machines() -> BTreeMap<&'static str, Value> {
    let sequence = json!({ "StartAt": "A", "States": {
        "A": task("inc", Some("B")), "B": task("inc", Some("C")), "C": task("inc", Some("D")), "D": task("inc", None),
    }});
    let branch = json!({ "StartAt": "X", "States": { "X": task("inc", Some("Y")), "Y": task("inc", None) } });
    let short = json!({ "StartAt": "Z", "States": { "Z": task("inc", None) } });
    let item = short.clone();
    let mut flaky = task("flaky", None);
    flaky["Retry"] = json!([{ "ErrorEquals": ["Flaky"], "IntervalSeconds": 1, "MaxAttempts": 2 }]);
    let mut timeout = task("nobody", None);
    timeout["TimeoutSeconds"] = json!(1);
    timeout["Catch"] =
        json!([{ "ErrorEquals": ["States.Timeout"], "ResultPath": "$.error", "Next": "After" }]);
    let after = json!({ "Type": "Pass", "Result": "late", "End": true });
    let mut parent = task("spawn", None);
    parent["ResultSelector"] = json!({ "of.$": "$.Output" });
    parent["Catch"] = json!([{ "ErrorEquals": ["States.TaskFailed"], "Next": "After" }]);
    let failed = json!({ "Type": "Pass", "Result": "the child failed", "End": true });
    BTreeMap::from([
        ("sequence", sequence),
        (
            "parallel",
            json!({ "StartAt": "P", "States": {
            "P": { "Type": "Parallel", "Branches": [short, branch], "End": true } } }),
        ),
        (
            "map",
            json!({ "StartAt": "M", "States": {
            "M": { "Type": "Map", "ItemProcessor": item, "End": true } } }),
        ),
        (
            "wait",
            json!({ "StartAt": "W", "States": {
            "W": { "Type": "Wait", "Seconds": 1, "Next": "I" }, "I": task("inc", None) } }),
        ),
        ("retry", json!({ "StartAt": "F", "States": { "F": flaky } })),
        ("timeout", json!({ "StartAt": "T", "States": { "T": timeout, "After": after } })),
        ("again", json!({ "StartAt": "F", "States": { "F": task("flaky", None) } })),
        ("again-map", json!({ "StartAt": "M", "States": { "M": again_map() } })),
        ("parent", json!({ "StartAt": "P", "States": { "P": parent, "After": failed } })),
        ("child-quick", json!({ "StartAt": "Q", "States": { "Q": { "Type": "Pass", "End": true } } })),
        (
            "child-steps",
            json!({ "StartAt": "I", "States": { "I": task("inc", Some("J")), "J": task("inc", None) } }),
        ),
        (
            "child-expires",
            json!({ "StartAt": "N", "TimeoutSeconds": 1, "States": { "N": task("nobody", None) } }),
        ),
        (
            "signaled",
            json!({ "StartAt": "A", "States": {
                "A": wait_for_signal(&json!({ "Next": "B" })),
                "B": wait_for_signal(&json!({ "ResultPath": "$.second", "End": true })) } }),
        ),
        ("stopped", json!({ "StartAt": "S", "States": { "S": task("nobody", None) } })),
    ])
}

fn input(machine: &str, n: u64) -> Value {
    match machine {
        "map" => (n..n + if n.is_multiple_of(2) { 500 } else { 3 }).collect(),
        "again-map" => (n..n + if n.is_multiple_of(3) { 40 } else { 3 }).collect(),
        "timeout" => json!({}),
        _ => json!(n),
    }
}

/// What an execution must come to; `None`: it is stopped.
fn output(machine: &str, n: u64) -> Option<Value> {
    match machine {
        "sequence" => Some(json!(n + 4)),
        "parallel" => Some(json!([n + 1, n + 2])),
        "map" => {
            let items = input(machine, n);
            Some(items.as_array().unwrap().iter().map(|i| json!(i.as_u64().unwrap() + 1)).collect())
        }
        "again-map" => Some(input(machine, n)),
        "wait" => Some(json!(n + 1)),
        "retry" | "again" => Some(json!(n)),
        "signaled" => Some(json!({ "first": n, "second": n + 1 })),
        "parent" => Some(match n % 3 {
            0 => json!({ "of": n }),
            1 => json!({ "of": n + 2 }),
            _ => json!("the child failed"),
        }),
        "timeout" => Some(json!("late")),
        _ => None,
    }
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // It may be kept open a moment longer.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Rig {
    pub(crate) dice: Arc<Dice>,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) topology: Topology,
    pub(crate) key: TokenKey,
    pub(crate) client: Arc<Client>,
    options: Options,
    workers: Vec<JoinHandle<()>>,
    started: Vec<(ExecutionArn, &'static str, u64)>,
    _directory: Directory,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.workers.iter().for_each(JoinHandle::abort);
    }
}

impl Rig {
    pub(crate) async fn new(seed: u64) -> Rig {
        let dice = Dice::new(seed);
        let directory =
            Directory(std::env::temp_dir().join(format!("stagepost-faults-{}", uuid::Uuid::new_v4())));
        std::fs::create_dir_all(&directory.0).unwrap();
        let store = SqliteStore::open(directory.0.join("db"), &sqlite::Options::default()).unwrap();
        for (name, definition) in machines() {
            let row = StateMachineRow {
                arn: machine(name),
                definition_id: name.into(),
                role_arn: "r".into(),
                kind: "STANDARD".into(),
                status: "ACTIVE".into(),
                created_at: Timestamp::from_millis(0),
                updated_at: Timestamp::from_millis(0),
                settings: Payload::empty_object(),
            };
            let definition = DefinitionRow { id: name.into(), text: definition.to_string() };
            store.create_state_machine(&row, &definition).await.unwrap();
        }
        let options = Options {
            shards: Shards::new(1 + dice.below(4) as u16).unwrap(),
            lease_ttl: Duration::from_millis(900),
            batch_max: 1 + dice.below(64) as usize,
            prefetch: 8 + dice.below(500) as u16,
            cache_bytes_max: 1 << (10 + dice.below(12)),
            wake_horizon: Duration::from_secs(3 + dice.below(60)),
            start_guard: Duration::from_millis(200 + dice.below(2_000)),
            // None may be there at the end; in their queue they are seen.
            dead_letters_max: 0,
            ..Options::default()
        };
        let key = installation_token_key(&*store).await.unwrap();
        let (topology, shards) = (options.topology.clone(), options.shards);
        let broker: Arc<dyn Broker> = InProcessBroker::new();
        let client = Client::connect(broker.clone(), topology.clone(), shards, key.clone()).await.unwrap();
        let mut rig = Rig {
            dice,
            store,
            broker,
            topology,
            key,
            client,
            options,
            workers: Vec::new(),
            started: Vec::new(),
            _directory: directory,
        };
        rig.work().await;
        rig
    }

    /// Coordinators that are started from now on keep dead letters.
    pub(crate) fn keep_dead_letters(&mut self) {
        self.options.dead_letters_max = 10_000;
    }

    /// The broker loses everything; another one takes its place.
    pub(crate) async fn replace_broker(&mut self) {
        self.workers.drain(..).for_each(|worker| worker.abort());
        self.broker = InProcessBroker::new();
        let (topology, shards) = (self.topology.clone(), self.options.shards);
        self.client = Client::connect(self.broker.clone(), topology, shards, self.key.clone()).await.unwrap();
        self.options.recover_shards = true;
        self.work().await;
    }

    async fn work(&mut self) {
        for name in ACTIVITIES {
            let queue = self.topology.activity(&Namespace::default(), name);
            self.broker.declare(&[QueueSpec::ours(&queue)]).await.unwrap();
            let (topology, shards) = (self.topology.clone(), self.options.shards);
            let worker = work(self.broker.clone(), queue, name, self.dice.clone(), topology, shards);
            self.workers.push(tokio::spawn(worker));
        }
    }

    pub(crate) async fn coordinator(&self) -> Coordinator {
        let store = FaultyStore { inner: self.store.clone(), dice: self.dice.clone() };
        let broker = FaultyBroker { inner: self.broker.clone(), dice: self.dice.clone() };
        let parts = Parts { store: Arc::new(store), broker: Arc::new(broker) };
        let options = Options { owner: uuid::Uuid::new_v4().to_string(), ..self.options.clone() };
        Coordinator::start(parts, options, self.key.clone()).await.unwrap()
    }

    /// Starts so many executions, some twice, all at once, and returns when all are accepted.
    pub(crate) async fn start(&mut self, count: u64) {
        let names: Vec<&str> = machines().into_keys().filter(|name| !CHILDREN.contains(name)).collect();
        let mut starts = Vec::new();
        for n in self.started.len() as u64..self.started.len() as u64 + count {
            let name = names[self.dice.below(names.len() as u64) as usize];
            let arn = machine(name).execution(&format!("e{n}"));
            self.started.push((arn.clone(), name, n));
            let start = Start {
                execution: arn,
                state_machine: machine(name),
                definition_id: name.into(),
                role_arn: "r".into(),
                input: Payload::from_value(&input(name, n)),
                trace_header: None,
                fresh: self.dice.below(2) == 0,
                parent: None,
                map_item: None,
            };
            // A name that is used twice is not fresh.
            if !start.fresh && self.dice.below(3) == 0 {
                starts.push(start.clone());
            }
            starts.push(start);
        }
        let accept = |mut start: Start| {
            let client = self.client.clone();
            async move {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                // Answers may get lost; asking again is safe, but the name is no longer free then.
                loop {
                    match tokio::time::timeout(ANSWER_MAX, client.start(start.clone())).await {
                        Ok(Ok(Reply::Started { .. } | Reply::AlreadyExists)) => return,
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => start.fresh = false,
                    }
                    assert!(tokio::time::Instant::now() < deadline, "{} is not answered", start.execution);
                }
            }
        };
        futures_util::future::join_all(starts.into_iter().map(accept)).await;
    }

    pub(crate) async fn stop_those_to_stop(&self) {
        let stops = self.started.iter().filter(|(_, name, _)| *name == "stopped").map(|(arn, _, _)| {
            let error = Some("Enough".into());
            let stop = Stop { execution: arn.clone(), error, cause: None, parent: None, redrives: None };
            async move {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                loop {
                    match tokio::time::timeout(ANSWER_MAX, self.client.stop(stop.clone())).await {
                        Ok(Ok(Reply::Stopped { .. })) => return,
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => {}
                    }
                    assert!(tokio::time::Instant::now() < deadline, "{} is not answered", stop.execution);
                }
            }
        });
        futures_util::future::join_all(stops).await;
    }

    /// Each signal is sent until it is taken, so some come more than once; the second comes while the first may still be on
    /// its way into a state.
    pub(crate) async fn signal_those_to_signal(&self) {
        let signaled = self.started.iter().filter(|(_, name, _)| *name == "signaled");
        let sending = signaled.map(|(arn, _, n)| async move {
            for (id, input) in [("1", json!({ "first": n })), ("2", json!(n + 1))] {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                let (name, input) = ("go".to_owned(), Payload::from_value(&input));
                let signal = Signal { execution: arn.clone(), name, id: id.into(), input };
                loop {
                    match tokio::time::timeout(ANSWER_MAX, self.client.signal(signal.clone())).await {
                        Ok(Ok(Reply::Accepted)) => break,
                        // The answer to the last one got lost, and it has ended by it.
                        Ok(Ok(Reply::Ended)) if id == "2" => break,
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => {}
                    }
                    assert!(tokio::time::Instant::now() < deadline, "{arn} is not signaled");
                }
            }
        });
        futures_util::future::join_all(sending).await;
    }

    /// What failed and is to be redriven is, once, however often it is asked for. Some are stopped before they fail.
    pub(crate) async fn redrive_those_to_redrive(&self) {
        let to_redrive = self.started.iter().filter(|(_, name, _)| name.starts_with("again"));
        let redrives = to_redrive.map(|(arn, _, n)| {
            let redrive = Redrive { execution: arn.clone(), client_token: "once".into() };
            async move {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                loop {
                    match tokio::time::timeout(ANSWER_MAX, self.client.redrive(redrive.clone())).await {
                        Ok(Ok(Reply::Redriven { .. })) => return,
                        // It has not failed yet.
                        Ok(Ok(Reply::NotRedrivable(why))) if why.contains("RUNNING") => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            if n.is_multiple_of(2)
                                && self
                                    .store
                                    .execution(arn.id())
                                    .await
                                    .unwrap()
                                    .is_some_and(|e| e.redrive_count == 0)
                            {
                                let stop = Stop {
                                    execution: arn.clone(),
                                    error: None,
                                    cause: None,
                                    parent: None,
                                    redrives: Some(0),
                                };
                                // Its answer may get lost; the next redrive tells.
                                let _ = tokio::time::timeout(ANSWER_MAX, self.client.stop(stop)).await;
                            }
                        }
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => {}
                    }
                    assert!(tokio::time::Instant::now() < deadline, "{} is not redriven", redrive.execution);
                }
            }
        });
        futures_util::future::join_all(redrives).await;
    }

    pub(crate) async fn all_end(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for (arn, name, n) in &self.started {
            let summary = loop {
                let summary = self.store.execution(arn.id()).await.unwrap();
                if let Some(summary) = summary.filter(|s| s.status != ExecutionStatus::Running) {
                    break summary;
                }
                assert!(tokio::time::Instant::now() < deadline, "{name} {n} has not ended");
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            self.check(&summary, name, *n).await;
            if *name == "again-map" {
                self.check_children(&summary, *n).await;
            }
        }
        let letters = self.broker.depth(&self.topology.dead_letters()).await.unwrap();
        assert_eq!(letters, Some(0), "dead letters");
    }

    /// What came twice or late is taken from the queues too.
    pub(crate) async fn nothing_is_left(&self) {
        let shards = self.options.shards.all().map(|shard| self.topology.shard(shard));
        let activities = ACTIVITIES.map(|name| self.topology.activity(&Namespace::default(), name));
        for queue in shards.chain(activities) {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while self.broker.depth(&queue).await.unwrap().unwrap_or(0) > 0 {
                assert!(tokio::time::Instant::now() < deadline, "{queue} is not empty");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// One Map Run has done it all, with one child execution for each item, all of which succeeded.
    async fn check_children(&self, parent: &ExecutionSummary, n: u64) {
        let map_runs = self.store.map_runs(parent.id, 10, None).await.unwrap().items;
        let [map_run] = map_runs.as_slice() else { panic!("again-map {n}: {map_runs:?}") };
        let items = input("again-map", n).as_array().unwrap().len();
        assert_eq!((map_run.status, map_run.redrive_count), (MapRunStatus::Succeeded, 1), "again-map {n}");
        assert_eq!(map_run.items.succeeded, items as u64, "again-map {n}");
        let of = ExecutionsOf::MapRun(map_run.arn.clone());
        let query = ListExecutions { of, status: None, redriven: None, limit: 1_000, after: None };
        let children = self.store.executions(&query).await.unwrap().items;
        assert!(children.iter().all(|child| child.status == ExecutionStatus::Succeeded), "again-map {n}");
        assert_eq!(children.len(), items, "again-map {n}");
    }

    async fn check(&self, summary: &ExecutionSummary, name: &str, n: u64) {
        let expected = output(name, n);
        let status = if expected.is_some() { ExecutionStatus::Succeeded } else { ExecutionStatus::Aborted };
        let what = format!("{name} {n}");
        assert_eq!(summary.status, status, "{what}: {:?} {:?}", summary.error, summary.cause);
        assert_eq!(summary.output.as_ref().map(Payload::to_value), expected, "{what}");
        assert_eq!(summary.wake_at, None, "{what}");
        let rows = match name {
            // A listing leaves rows of notes alone out; a short history has no snapshot.
            "again-map" => self.store.load(&[summary.id]).await.unwrap().remove(0).unwrap().history,
            _ => self.store.history(summary.id, 1, false, usize::MAX >> 1, usize::MAX >> 1).await.unwrap(),
        };
        let mut events = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(row.sequence, i as u64 + 1, "{what}: rows have gaps");
            events.extend(history::decode(&row.payload).unwrap());
        }
        let (definition, _) = stagepost_asl::parse(&machines()[name].to_string()).unwrap();
        let origin = Origin {
            arn: summary.arn.clone(),
            state_machine: summary.state_machine.clone(),
            role_arn: summary.role_arn.clone(),
            input: summary.input.clone(),
            started_at: summary.started_at,
            parent: summary.parent.clone(),
        };
        let replayed = Execution::replay(origin, Arc::new(definition), &events).unwrap();
        let end = replayed.end().map(|(end, _)| end.clone());
        match expected {
            Some(output) => assert_eq!(end, Some(End::Succeeded(Payload::from_value(&output))), "{what}"),
            None => assert!(matches!(end, Some(End::Aborted { .. })), "{what}: {end:?}"),
        }
    }
}

fn machine(name: &str) -> StateMachineArn {
    StateMachineArn { namespace: Namespace::default(), name: name.into() }
}

/// Answers tasks, many to a message; now and then it forgets what it took, or answers twice.
async fn work(
    broker: Arc<dyn Broker>,
    queue: String,
    activity: &'static str,
    dice: Arc<Dice>,
    topology: Topology,
    shards: Shards,
) {
    let mut consumer = broker.consume(&queue, ConsumeOptions { prefetch: 64 }).await.unwrap();
    let acker = consumer.acker();
    while let Some(deliveries) = consumer.next(32).await {
        let mut reports: BTreeMap<String, Vec<Report>> = BTreeMap::new();
        let mut done = Vec::new();
        for delivery in deliveries {
            if dice.happens(20) {
                acker.requeue(delivery.tag).await;
                continue;
            }
            done.push(delivery.tag);
            let task = TaskMessage::decode(&queue, &delivery.body, &delivery.properties).unwrap();
            if activity == "spawn" {
                let start = child(&task);
                let queue = topology.shard(shards.of(start.execution.id()));
                let start = ShardMessage::Start(Box::new(start)).encode(queue, None);
                for published in broker.publish(vec![start]).await {
                    published.unwrap();
                }
                continue;
            }
            let report = Report {
                token: task.token.clone(),
                worker: Some("w".into()),
                started_at: None,
                outcome: answer(activity, &task),
                child: None,
                answer: None,
            };
            let reports = reports.entry(task.reply_to).or_default();
            if dice.happens(50) {
                reports.push(report.clone());
            }
            reports.push(report);
        }
        let message = |(queue, reports)| ShardMessage::Reports(reports).encode(queue, None);
        for published in broker.publish(reports.into_iter().map(message).collect()).await {
            published.unwrap();
        }
        for tag in done {
            acker.ack(tag).await;
        }
    }
}

/// The start of the child of an attempt, the same however often the task comes.
fn child(task: &TaskMessage) -> Start {
    let n = task.input.read::<u64>().unwrap();
    let name = CHILDREN[(n % 3) as usize];
    Start {
        execution: machine(name).execution(&task.attempt_id),
        state_machine: machine(name),
        definition_id: name.into(),
        role_arn: "r".into(),
        input: task.input.clone(),
        trace_header: None,
        fresh: false,
        parent: Some(Parent { token: task.token.clone(), kind: ParentKind::Sync2 }),
        map_item: None,
    }
}

fn answer(activity: &str, task: &TaskMessage) -> ReportOutcome {
    match activity {
        "flaky" if task.attempt == 1 => {
            ReportOutcome::Failed { error: Some("Flaky".into()), cause: Some("the first time".into()) }
        }
        "flaky" => ReportOutcome::Succeeded(task.input.clone()),
        _ => ReportOutcome::Succeeded(Payload::from_value(&json!(task.input.read::<u64>().unwrap() + 1))),
    }
}
