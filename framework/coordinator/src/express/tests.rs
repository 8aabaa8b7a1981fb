//! The runner over the broker in process and the embedded store.

use std::io::Write;

use serde_json::{Value, json};
use stagepost_broker::{Broker, ConsumeOptions, Consumer, in_process::InProcessBroker};
use stagepost_protocol::{
    Message, Namespace, Properties, Report, ReportOutcome, StateMachineArn, TaskMessage, shard::Reply,
};
use stagepost_store::{
    DefinitionRow, Reader, StateMachineRow,
    sqlite::{self, SqliteStore},
};

use super::*;
use crate::{Client, Coordinator};

struct Rig {
    store: Arc<SqliteStore>,
    broker: Arc<InProcessBroker>,
    options: Options,
    key: TokenKey,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            store: SqliteStore::open(":memory:", &sqlite::Options::default()).unwrap(),
            broker: InProcessBroker::new(),
            options: Options { express_running_max: 2, dead_letters_max: 0, ..Options::default() },
            key: TokenKey::new(b"k"),
        }
    }

    fn parts(&self) -> Parts {
        Parts { store: self.store.clone(), broker: self.broker.clone() }
    }

    async fn runner(&self) -> Arc<Runner> {
        Runner::start(self.parts(), &self.options, &self.key, Arc::default()).await.unwrap()
    }

    async fn coordinator(&self) -> Coordinator {
        let options = Options { owner: uuid::Uuid::new_v4().to_string(), ..self.options.clone() };
        Coordinator::start(self.parts(), options, self.key.clone()).await.unwrap()
    }

    async fn client(&self) -> Arc<Client> {
        let Options { topology, shards, .. } = self.options.clone();
        Client::connect(self.broker.clone(), topology, shards, self.key.clone()).await.unwrap()
    }

    async fn machine(&self, states: Value, settings: Value) -> StateMachineRow {
        let row = StateMachineRow {
            arn: StateMachineArn {
                namespace: Namespace::default(),
                name: format!("m-{}", uuid::Uuid::new_v4()),
            },
            definition_id: uuid::Uuid::new_v4().to_string(),
            role_arn: "r".into(),
            kind: "EXPRESS".into(),
            status: "ACTIVE".into(),
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            settings: Payload::from_value(&settings),
        };
        let text = json!({ "StartAt": "S", "States": states }).to_string();
        let definition = DefinitionRow { id: row.definition_id.clone(), text };
        self.store.create_state_machine(&row, &definition).await.unwrap();
        row
    }

    async fn start(&self, states: Value, input: &str) -> ExpressStart {
        start(&self.machine(states, json!({})).await, "e", Payload::parse(input).unwrap())
    }

    async fn tasks(&self) -> Box<dyn Consumer> {
        let queue = self.options.topology.activity(&Namespace::default(), "a");
        self.broker.declare(&[QueueSpec::ours(&queue)]).await.unwrap();
        self.broker.consume(&queue, ConsumeOptions { prefetch: 10 }).await.unwrap()
    }

    async fn depth(&self) -> u64 {
        self.broker.depth(&self.options.topology.express()).await.unwrap().unwrap()
    }
}

async fn next_task(tasks: &mut dyn Consumer) -> TaskMessage {
    let delivery = tasks.next(1).await.unwrap().remove(0);
    tasks.acker().ack(delivery.tag).await;
    TaskMessage::decode("q", &delivery.body, &delivery.properties).unwrap()
}

fn report(task: &TaskMessage, outcome: ReportOutcome) -> Report {
    Report { token: task.token.clone(), worker: None, started_at: None, outcome, child: None, answer: None }
}

fn succeeded(output: &str) -> ReportOutcome {
    ReportOutcome::Succeeded(Payload::parse(output).unwrap())
}

fn task() -> Value {
    json!({ "S": { "Type": "Task", "Resource": "arn:aws:states:::activity:a", "End": true } })
}

fn wait(seconds: u64) -> Value {
    json!({ "S": { "Type": "Wait", "Seconds": seconds, "End": true } })
}

#[tokio::test]
async fn an_execution_leaves_nothing_in_the_store() {
    let rig = Rig::new();
    let runner = rig.runner().await;
    let states = json!({
        "S": { "Type": "Pass", "Result": 1, "ResultPath": "$.a", "Next": "T" },
        "T": { "Type": "Choice", "Choices": [{ "Variable": "$.fail", "IsPresent": true, "Next": "F" }], "Default": "U" },
        "F": { "Type": "Fail", "Error": "E", "Cause": "c" },
        "U": { "Type": "Pass", "Parameters": { "id.$": "$$.Execution.Id", "a.$": "$.a" }, "End": true }
    });
    let good = rig.start(states, "{}").await;
    let id = good.execution.clone();
    runner.run(good.clone()).await.unwrap();
    let sent = rig.store.statements_sent();
    let ended = runner.run(good.clone()).await.unwrap();
    let output = json!({ "id": id.to_string(), "a": 1 });
    assert_eq!(ended.end, End::Succeeded(Payload::from_value(&output)));
    assert!(ended.peak_bytes > 0);
    let bad = ExpressStart { input: Payload::parse(r#"{"fail":1}"#).unwrap(), ..good };
    let failed = End::Failed { error: Some("E".into()), cause: Some("c".into()) };
    assert_eq!(runner.run(bad).await.unwrap().end, failed);
    // Its definition is known, so the store was not even asked.
    assert_eq!(rig.store.statements_sent(), sent);
    assert_eq!(rig.store.execution(id.id()).await.unwrap(), None);
    assert_eq!(lock(&runner.running).len(), 0);
}

#[tokio::test]
async fn attempts_are_answered_by_whoever_has_the_token_and_once() {
    let rig = Rig::new();
    let (runner, client) = (rig.runner().await, rig.client().await);
    let mut tasks = rig.tasks().await;
    let states = json!({ "S": { "Type": "Task", "Resource": "arn:aws:states:::activity:a", "HeartbeatSeconds": 60, "End": true } });
    let start = rig.start(states, "[7]").await;
    let running = tokio::spawn(async move { runner.run(start).await });
    let task = next_task(&mut *tasks).await;
    assert_eq!((task.input.as_str(), task.token.as_str().len()), ("[7]", 64));
    assert_eq!(client.report(report(&task, ReportOutcome::Started)).await.unwrap(), Reply::Accepted);
    assert_eq!(client.report(report(&task, ReportOutcome::Heartbeat)).await.unwrap(), Reply::Accepted);
    assert_eq!(client.report(report(&task, succeeded("8"))).await.unwrap(), Reply::Accepted);
    let ended = running.await.unwrap().unwrap();
    assert_eq!(ended.end, End::Succeeded(Payload::parse("8").unwrap()));
    // It is gone, and so, once the task above has let go of it, is what ran it.
    for _ in 0..2 {
        let late = client.report(report(&task, succeeded("9"))).await.unwrap();
        assert_eq!(late, Reply::TaskTimedOut);
    }
    let forged =
        Report { token: stagepost_protocol::TaskToken::from_untrusted("x"), ..report(&task, succeeded("1")) };
    assert_eq!(client.report(forged).await.unwrap(), Reply::InvalidToken);
}

#[tokio::test]
async fn no_execution_runs_longer_than_the_limit() {
    let mut rig = Rig::new();
    assert_eq!(rig.options.express_duration_max, Duration::from_secs(300));
    rig.options.express_duration_max = Duration::from_millis(200);
    let runner = rig.runner().await;
    let endless = json!({ "S": { "Type": "Pass", "Next": "C" }, "C": { "Type": "Choice", "Choices": [
        { "Variable": "$.end", "IsPresent": true, "Next": "E" } ], "Default": "S" }, "E": { "Type": "Succeed" } });
    // One that waits too long, one that nobody answers, one that never waits.
    for states in [wait(600), task(), endless] {
        let ended = runner.run(rig.start(states, "{}").await).await.unwrap();
        assert_eq!(ended.end, End::TimedOut);
        let lasted = ended.stopped_at.millis_since(ended.started_at);
        assert!((200..60_000).contains(&lasted), "{lasted}");
    }
}

#[tokio::test]
async fn waits_retries_and_timeouts_come_when_they_are_due() {
    let rig = Rig::new();
    let runner = rig.runner().await;
    let mut tasks = rig.tasks().await;
    let retry = json!([{ "ErrorEquals": ["States.Timeout"], "IntervalSeconds": 1, "MaxAttempts": 1 }]);
    let states = json!({ "S": { "Type": "Task", "Resource": "arn:aws:states:::activity:a", "TimeoutSeconds": 1, "Retry": retry, "End": true } });
    let ended = runner.run(rig.start(states, "{}").await).await.unwrap();
    assert_eq!(ended.end, End::Failed { error: Some("States.Timeout".into()), cause: None });
    assert!(ended.stopped_at.millis_since(ended.started_at) >= 3_000);
    assert_eq!(next_task(&mut *tasks).await.attempt, 1);
    assert_eq!(next_task(&mut *tasks).await.attempt, 2);
    let ended = runner.run(rig.start(wait(1), "5").await).await.unwrap();
    assert_eq!(ended.end, End::Succeeded(Payload::parse("5").unwrap()));
    assert!(ended.stopped_at.millis_since(ended.started_at) >= 1_000);
}

#[tokio::test]
async fn more_synchronous_executions_than_are_allowed_are_refused() {
    let rig = Rig::new();
    let (runner, client) = (rig.runner().await, rig.client().await);
    let mut tasks = rig.tasks().await;
    let start = rig.start(task(), "{}").await;
    let run = |n: u32| {
        let (runner, start) = (runner.clone(), start.clone());
        let execution = start.state_machine.express("e", &n.to_string());
        let start = ExpressStart { execution, ..start };
        tokio::spawn(async move { runner.run(start).await.map(|ended| ended.end) })
    };
    let first = run(1);
    let a = next_task(&mut *tasks).await;
    let second = run(2);
    let b = next_task(&mut *tasks).await;
    let refused = run(3).await.unwrap().unwrap_err();
    assert!(matches!(refused, RunError::TooMany(2)), "{refused}");
    assert!(refused.to_string().contains("try again"), "{refused}");
    // One whose caller goes away goes on, and keeps its place.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(run(4).await.unwrap().is_err());
    assert_eq!(client.report(report(&b, succeeded("1"))).await.unwrap(), Reply::Accepted);
    assert!(second.await.unwrap().is_ok());
    let fifth = run(5);
    let c = next_task(&mut *tasks).await;
    for task in [a, c] {
        assert_eq!(client.report(report(&task, succeeded("1"))).await.unwrap(), Reply::Accepted);
    }
    assert!(fifth.await.unwrap().is_ok());
    assert_eq!(runner.metrics().express_throttled.load(Relaxed), 2);
    assert_eq!(runner.metrics().express_started.load(Relaxed), 3);
}

#[tokio::test]
async fn an_asynchronous_execution_is_run_again_when_its_process_is_gone() {
    let rig = Rig::new();
    let client = rig.client().await;
    let mut tasks = rig.tasks().await;
    let start = rig.start(task(), "[7]").await;
    let first = rig.coordinator().await;
    client.start_express(&start).await.unwrap();
    let lost = next_task(&mut *tasks).await;
    // As if it had been killed.
    drop(first);
    let second = rig.coordinator().await;
    let again = next_task(&mut *tasks).await;
    assert_eq!((again.input.as_str(), &again.execution), ("[7]", &lost.execution));
    assert_ne!(again.token, lost.token);
    let late = client.report(report(&lost, succeeded("1"))).await.unwrap();
    assert_eq!(late, Reply::TaskTimedOut);
    assert_eq!(client.report(report(&again, succeeded("2"))).await.unwrap(), Reply::Accepted);
    second.shutdown().await;
    assert_eq!(rig.depth().await, 0);
    let third = rig.coordinator().await;
    third.shutdown().await;
    assert_eq!(rig.depth().await, 0);
}

/// A connection that is lost before a start is confirmed has it published again, and the broker may have both.
#[tokio::test]
async fn a_start_that_was_published_twice_is_run_once_and_leaves_nothing() {
    let rig = Rig::new();
    let client = rig.client().await;
    let mut tasks = rig.tasks().await;
    let start = rig.start(task(), "[7]").await;
    let coordinator = rig.coordinator().await;
    client.start_express(&start).await.unwrap();
    let task = next_task(&mut *tasks).await;
    client.start_express(&start).await.unwrap();
    while rig.depth().await > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.report(report(&task, succeeded("1"))).await.unwrap(), Reply::Accepted);
    coordinator.shutdown().await;
    assert_eq!(rig.depth().await, 0);
}

#[tokio::test]
async fn a_shutdown_gives_back_what_it_cuts_off() {
    let rig = Rig::new();
    let client = rig.client().await;
    let coordinator = rig.coordinator().await;
    let mut tasks = rig.tasks().await;
    let start = rig.start(task(), "{}").await;
    client.start_express(&start).await.unwrap();
    next_task(&mut *tasks).await;
    coordinator.shutdown().await;
    assert_eq!(rig.depth().await, 1);
}

#[tokio::test]
async fn what_cannot_be_run_is_a_dead_letter_with_the_reason() {
    let rig = Rig::new();
    let client = rig.client().await;
    let coordinator = rig.coordinator().await;
    let start = ExpressStart { definition_id: "gone".into(), ..rig.start(task(), "1").await };
    client.start_express(&start).await.unwrap();
    let nonsense = Message {
        queue: rig.options.topology.express(),
        body: "{}".into(),
        properties: Properties::default(),
        persistent: true,
    };
    rig.broker.publish(vec![nonsense]).await.remove(0).unwrap();
    let letters = rig.options.topology.dead_letters();
    let mut letters = rig.broker.consume(&letters, ConsumeOptions { prefetch: 2 }).await.unwrap();
    let mut reasons = Vec::new();
    while reasons.len() < 2 {
        for letter in letters.next(2).await.unwrap() {
            reasons.push(letter.properties.headers["stagepost-reason"].as_text().unwrap().to_owned());
        }
    }
    reasons.sort();
    assert!(reasons[0].contains("its type is not"), "{reasons:?}");
    assert!(reasons[1].contains("'gone' is not in the store"), "{reasons:?}");
    coordinator.shutdown().await;
    assert_eq!(rig.depth().await, 0);
}

#[tokio::test]
async fn a_token_message_reaches_its_execution_or_the_dead_letters() {
    let rig = Rig::new();
    let coordinator = rig.coordinator().await;
    let mut tasks = rig.tasks().await;
    let answer = |task: &TaskMessage| Message {
        queue: rig.options.topology.callbacks(),
        body: json!({ "taskToken": task.token.as_str(), "output": 5 }).to_string().into(),
        properties: Properties::default(),
        persistent: true,
    };
    rig.broker.declare(&[QueueSpec::ours(rig.options.topology.callbacks())]).await.unwrap();
    let (runner, start) = (coordinator.runner(), rig.start(task(), "1").await);
    let running = tokio::spawn(async move { runner.run(start).await });
    let task = next_task(&mut *tasks).await;
    rig.broker.publish(vec![answer(&task)]).await.remove(0).unwrap();
    assert_eq!(running.await.unwrap().unwrap().end, End::Succeeded(Payload::parse("5").unwrap()));

    let first = task.clone();
    let gone = TaskMessage {
        token: rig.key.of_runner(RunnerId::from_bytes([1; 8])).sign(ExecutionId::from_bytes([2; 16]), 3),
        ..task
    };
    rig.broker.publish(vec![answer(&gone)]).await.remove(0).unwrap();
    let letters = rig.options.topology.dead_letters();
    let mut letters = rig.broker.consume(&letters, ConsumeOptions { prefetch: 1 }).await.unwrap();
    let letter = letters.next(1).await.unwrap().remove(0);
    let reason = letter.properties.headers["stagepost-reason"].as_text().unwrap();
    assert!(reason.contains("is gone"), "{reason}");
    let body: Value = serde_json::from_slice(&letter.body).unwrap();
    assert_eq!(body, json!({ "taskToken": gone.token.as_str(), "output": 5 }));
    letters.acker().ack(letter.tag).await;
    // The first one's answer once more: this process has run its execution, and it has ended.
    rig.broker.publish(vec![answer(&first)]).await.remove(0).unwrap();
    let letter = letters.next(1).await.unwrap().remove(0);
    assert_eq!(letter.properties.headers["stagepost-reason-kind"].as_text(), Some("expired"));
    coordinator.shutdown().await;
}

/// What is written while it lives.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn take(&self) -> Vec<Value> {
        let text = std::mem::take(&mut *lock(&self.0));
        let lines = String::from_utf8(text).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn events_are_logged_as_the_state_machine_asks() {
    let rig = Rig::new();
    let runner = rig.runner().await;
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let states = json!({
        "S": { "Type": "Pass", "Next": "F" }, "F": { "Type": "Fail", "Error": "E", "Cause": "c" }
    });
    let row = rig.machine(states, json!({})).await;
    let mut shown = Vec::new();
    for (level, data) in [("OFF", true), ("FATAL", true), ("ERROR", false), ("ALL", false), ("ALL", true)] {
        let settings = json!({ "loggingConfiguration": { "level": level, "includeExecutionData": data } });
        let row = StateMachineRow { settings: Payload::from_value(&settings), ..row.clone() };
        runner.run(start(&row, "e", Payload::parse(r#"{"secret":1}"#).unwrap())).await.unwrap();
        let lines = lines.take();
        assert!(lines.iter().all(|line| line["target"] == "stagepost::express"), "{lines:?}");
        shown.push((
            lines.iter().map(|l| l["fields"]["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
            lines,
        ));
    }
    let all =
        ["ExecutionStarted", "PassStateEntered", "PassStateExited", "FailStateEntered", "ExecutionFailed"];
    assert_eq!(shown[0].0, [""; 0]);
    assert_eq!(shown[1].0, all[4..]);
    assert_eq!(shown[2].0, all[3..]);
    assert_eq!(shown[3].0, all);
    assert!(!format!("{:?}", shown[3].1).contains("secret"));
    let fields = &shown[4].1[1]["fields"];
    let details: Value = serde_json::from_str(fields["details"].as_str().unwrap()).unwrap();
    let expected = json!({ "name": "S", "input": r#"{"secret":1}"#, "inputDetails": { "truncated": false } });
    assert_eq!((details, &fields["id"], &fields["previous_event_id"]), (expected, &json!(2), &json!(0)));
    assert!(fields["execution_arn"].as_str().unwrap().contains(":express:m-"), "{fields}");
}
