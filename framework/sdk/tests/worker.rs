//! A whole worker on the in-process broker, seen from the coordinator's side.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Coordinator, until};
use serde::{Deserialize, Serialize};
use stagepost::{
    ActivityError, Broker, Cancelled, Context, Failure, State, Worker, WorkerError, activities, activity,
};
use stagepost_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use stagepost_protocol::message::{HEADER_REASON, HEADER_SOURCE};
use stagepost_protocol::topology::Topology;
use stagepost_protocol::{
    ExecutionId, Message, Properties, ReportOutcome, RunnerId, ShardId, TaskMessage, Timestamp, TokenKey,
    error_names,
};
use tokio::sync::{Notify, Semaphore};

impl Coordinator {
    /// Schedules one attempt and waits for its end.
    async fn perform(&mut self, activity: &str, input: &impl Serialize) -> Result<String, (String, String)> {
        self.schedule(activity, "one", input).await;
        self.ended().await.1
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Charge {
    amount_cents: u64,
}

struct Gateway {
    limit_cents: u64,
}

#[derive(Debug, thiserror::Error, ActivityError)]
enum ChargeError {
    #[error("card declined: {reason}")]
    #[activity_error("Payments.CardDeclined")]
    Declined { reason: String },
    #[error("nothing to charge")]
    Nothing,
}

#[activity(idempotent)]
async fn charge_card(cx: Context, gateway: State<Gateway>, input: Charge) -> Result<String, ChargeError> {
    match input.amount_cents {
        0 => Err(ChargeError::Nothing),
        n if n > gateway.limit_cents => Err(ChargeError::Declined { reason: "limit".into() }),
        n => Ok(format!("{n}/{}/{}", cx.idempotency_key(), cx.attempt())),
    }
}

#[activity]
async fn echo(input: serde_json::Value) -> Result<serde_json::Value, Failure> {
    Ok(input)
}

#[activity]
async fn panics(input: bool) -> Result<(), Failure> {
    assert!(input, "the input was {input}");
    Ok(())
}

#[activity]
async fn any_error() -> Result<u64, Failure> {
    Ok("x".parse()?)
}

#[activity]
async fn too_large() -> Result<String, Failure> {
    Ok("x".repeat(256 * 1024))
}

#[activity(blocking, name = "sum-up")]
fn sum(numbers: Vec<u64>) -> Result<u64, Failure> {
    if numbers.is_empty() {
        panic!("no numbers");
    }
    Ok(numbers.into_iter().sum())
}

fn failed(error: &str, cause: &str) -> Result<String, (String, String)> {
    Err((error.into(), cause.into()))
}

#[tokio::test]
async fn results_and_errors_arrive_under_their_names() {
    let mut c = Coordinator::new().await;
    let worker = Worker::with_broker(c.broker.clone())
        .state(Gateway { limit_cents: 100 })
        .register(activities![charge_card, any_error, too_large, sum])
        .name("w1");
    let worker = c.start(worker, &["charge_card", "any_error", "too_large", "sum-up"]).await;

    assert_eq!(c.perform("charge_card", &Charge { amount_cents: 7 }).await, Ok("\"7/one-step/1\"".into()));
    for (activity, input, expected) in [
        ("charge_card", "{\"amount_cents\":101}", failed("Payments.CardDeclined", "card declined: limit")),
        ("charge_card", "{\"amount_cents\":0}", failed("ChargeError.Nothing", "nothing to charge")),
        ("any_error", "{}", failed(error_names::ACTIVITY_FAILED, "invalid digit found in string")),
        ("sum-up", "[1,2,3]", Ok("6".into())),
        ("sum-up", "[]", failed(error_names::ACTIVITY_PANICKED, "the activity panicked: no numbers")),
    ] {
        let input: serde_json::Value = serde_json::from_str(input).unwrap();
        assert_eq!(c.perform(activity, &input).await, expected, "{activity}({input})");
    }
    let (error, cause) = c.perform("charge_card", &serde_json::json!({"cents": 1})).await.unwrap_err();
    assert_eq!(error, error_names::INVALID_INPUT);
    assert!(cause.contains("'charge_card'") && cause.contains("missing field `amount_cents`"), "{cause}");
    let (error, cause) = c.perform("too_large", &()).await.unwrap_err();
    assert_eq!(error, error_names::DATA_LIMIT_EXCEEDED);
    assert!(cause.contains("262146 bytes"), "{cause}");

    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_panic_fails_the_attempt_and_the_worker_goes_on() {
    let mut c = Coordinator::new().await;
    let worker = Worker::with_broker(c.broker.clone()).register(activities![panics]);
    let worker = c.start(worker, &["panics"]).await;
    let panicked = failed(error_names::ACTIVITY_PANICKED, "the activity panicked: the input was false");
    assert_eq!(c.perform("panics", &false).await, panicked);
    assert_eq!(c.perform("panics", &true).await, Ok("null".into()));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn reports_say_who_and_when() {
    let mut c = Coordinator::new().await;
    let worker = Worker::with_broker(c.broker.clone()).register(activities![echo]).name("w1");
    let worker = c.start(worker, &["echo"]).await;
    c.schedule("echo", "t", &1).await;
    let report = c.any_report().await;
    assert_eq!(report.worker.as_deref(), Some("w1"));
    assert!(report.started_at.unwrap() > Timestamp::from_millis(1_600_000_000_000));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_no_task_becomes_a_dead_letter_with_the_reason() {
    let mut c = Coordinator::new().await;
    let worker = Worker::with_broker(c.broker.clone()).register(activities![echo]);
    let worker = c.start(worker, &["echo"]).await;
    let properties = Properties { message_id: Some("m".into()), ..Properties::default() };
    let stranger = Message { queue: c.queue("echo"), body: "{}".into(), properties, persistent: true };
    c.broker.publish(vec![stranger]).await.remove(0).unwrap();
    let letter = c.take_one(&c.topology.dead_letters()).await;
    let header = |name: &str| letter.properties.headers[name].as_text().unwrap().to_owned();
    assert!(header(HEADER_REASON).contains("stagepost-task-token"), "{}", header(HEADER_REASON));
    assert_eq!(header(HEADER_SOURCE), c.queue("echo"));
    assert_eq!(letter.properties.message_id.as_deref(), Some("m"));
    assert_eq!(c.perform("echo", &1).await, Ok("1".into()));
    worker.stop().await.unwrap();
}

/// Reports to a process that ran Express executions and is gone are given up; what comes after them is worked on.
#[tokio::test]
async fn nobody_waits_for_a_runner_that_is_gone() {
    let mut c = Coordinator::new().await;
    // One slot: the next task is delivered when the first one is settled.
    let worker = Worker::with_broker(c.broker.clone()).register(activities![echo]).concurrency(1);
    let worker = c.start(worker, &["echo"]).await;
    let runner = RunnerId::from_bytes([1; 8]);
    let token = TokenKey::new(b"k").of_runner(runner).sign(ExecutionId::from_bytes([2; 16]), 3);
    let gone = TaskMessage { token, reply_to: c.topology.runner(runner), ..c.task("echo", "gone", &1) };
    c.publish([gone, c.task("echo", "next", &2)]).await;
    assert_eq!(c.ended().await, ("next".to_owned(), Ok("2".to_owned())));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_task_whose_deadline_passed_is_not_begun() {
    let mut c = Coordinator::new().await;
    let worker = Worker::with_broker(c.broker.clone()).register(activities![echo]);
    let mut late = c.task("echo", "late", &1);
    late.deadline = Some(Timestamp::from_millis(1));
    let worker = c.start(worker, &["echo"]).await;
    c.publish([late, c.task("echo", "fine", &2)]).await;
    assert_eq!(c.ended().await.0, "fine");
    worker.stop().await.unwrap();
    assert_eq!(c.broker.depth(&c.queue("echo")).await.unwrap(), Some(0));
}

/// Stops its attempts until the test lets them go on.
struct Gate {
    begun: AtomicUsize,
    open: Semaphore,
    at_gate: Notify,
}

impl Gate {
    fn new() -> Arc<Gate> {
        Arc::new(Gate { begun: AtomicUsize::new(0), open: Semaphore::new(0), at_gate: Notify::new() })
    }

    async fn wait_for(&self, begun: usize) {
        until("the attempts have begun", || async { self.begun.load(Ordering::SeqCst) >= begun }).await;
    }
}

#[activity(concurrency = 2)]
async fn gated(cx: Context, gate: State<Gate>) -> Result<(), Failure> {
    gate.begun.fetch_add(1, Ordering::SeqCst);
    gate.at_gate.notify_waiters();
    cx.heartbeat("at the gate");
    gate.open.acquire().await?.forget();
    Ok(())
}

#[activity(concurrency = 2, idempotent)]
async fn gated_twice(gate: State<Gate>) -> Result<(), Failure> {
    gate.begun.fetch_add(1, Ordering::SeqCst);
    gate.open.acquire().await?.forget();
    Ok(())
}

#[tokio::test]
async fn long_attempts_are_announced_and_heartbeats_are_reports() {
    let mut c = Coordinator::new().await;
    let gate = Gate::new();
    let worker =
        Worker::with_broker(c.broker.clone()).shared_state(gate.clone()).register(activities![gated]);
    let worker = c.start(worker, &["gated"]).await;
    c.schedule("gated", "t", &()).await;
    // A heartbeat does not come before the announcement: nobody would stand for an attempt that is known to run.
    let started = c.any_report().await;
    assert!(
        matches!(&started.outcome, ReportOutcome::Held { lease, .. } if !lease.idempotent),
        "{started:?}"
    );
    assert!(started.started_at.is_some());
    assert_eq!(c.any_report().await.outcome, ReportOutcome::Heartbeat);
    gate.open.add_permits(1);
    assert_eq!(c.ended().await, ("t".into(), Ok("null".into())));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn no_more_attempts_run_than_there_are_slots_and_none_waits_here() {
    let mut c = Coordinator::new().await;
    let gate = Gate::new();
    let worker =
        Worker::with_broker(c.broker.clone()).shared_state(gate.clone()).register(activities![gated]);
    let worker = c.start(worker, &["gated"]).await;
    c.publish((0..5).map(|n| c.task("gated", &n.to_string(), &()))).await;
    gate.wait_for(2).await;
    assert_eq!(c.broker.depth(&c.queue("gated")).await.unwrap(), Some(3));
    gate.open.add_permits(5);
    let mut ids = HashSet::new();
    for _ in 0..5 {
        ids.insert(c.ended().await.0);
    }
    assert_eq!(ids.len(), 5);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn of_a_task_that_comes_twice_nothing_stays_unsettled() {
    let mut c = Coordinator::new().await;
    let gate = Gate::new();
    let worker =
        Worker::with_broker(c.broker.clone()).shared_state(gate.clone()).register(activities![gated]);
    let worker = c.start(worker, &["gated"]).await;
    let task = c.task("gated", "t", &());
    c.publish([task.clone()]).await;
    gate.wait_for(1).await;
    c.publish([TaskMessage { republished: true, ..task }]).await;
    let queue = c.queue("gated");
    until("both are delivered", || async { c.broker.depth(&queue).await.unwrap() == Some(0) }).await;
    gate.open.add_permits(1);
    assert_eq!(c.ended().await, ("t".into(), Ok("null".into())));
    worker.stop().await.unwrap();
    // What a worker leaves unsettled goes back to the queue.
    assert_eq!(c.broker.depth(&queue).await.unwrap(), Some(0));
    assert_eq!(gate.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_graceful_stop_lets_running_attempts_end_and_takes_no_more() {
    let mut c = Coordinator::new().await;
    let gate = Gate::new();
    let worker =
        Worker::with_broker(c.broker.clone()).shared_state(gate.clone()).register(activities![gated]);
    let mut worker = c.start(worker, &["gated"]).await;
    c.publish((0..3).map(|n| c.task("gated", &n.to_string(), &()))).await;
    gate.wait_for(2).await;
    worker.tell();
    gate.open.add_permits(2);
    for _ in 0..2 {
        assert_eq!(c.ended().await.1, Ok("null".into()));
    }
    worker.ended().await.unwrap();
    assert_eq!(gate.begun.load(Ordering::SeqCst), 2);
    assert_eq!(c.broker.depth(&c.queue("gated")).await.unwrap(), Some(1));
}

#[activity]
async fn until_cancelled(cx: Context, gate: State<Gate>) -> Result<(), Failure> {
    gate.begun.fetch_add(1, Ordering::SeqCst);
    Err(cx.cancelled().await.into())
}

#[tokio::test]
async fn when_the_grace_is_over_attempts_are_asked_to_stop() {
    let mut c = Coordinator::new().await;
    let gate = Gate::new();
    let worker = Worker::with_broker(c.broker.clone())
        .shared_state(gate.clone())
        .register(activities![until_cancelled])
        .shutdown_grace(Duration::from_millis(20));
    let worker = c.start(worker, &["until_cancelled"]).await;
    c.schedule("until_cancelled", "t", &()).await;
    gate.wait_for(1).await;
    worker.stop().await.unwrap();
    let (_, ended) = c.ended().await;
    assert_eq!(ended, failed(error_names::CANCELLED, &Cancelled::Shutdown.to_string()));
}

/// An attempt that is cut off by the end of the grace: it fails, for half of its work may be done, unless it may run
/// twice.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_will_not_stop_fails_or_goes_to_another_worker() {
    let mut c = Coordinator::new().await;
    let gate = Gate::new();
    let worker = Worker::with_broker(c.broker.clone())
        .shared_state(gate.clone())
        .register(activities![gated, gated_twice])
        .name("w")
        .shutdown_grace(Duration::ZERO);
    let worker = c.start(worker, &["gated", "gated_twice"]).await;
    c.publish([c.task("gated", "once", &()), c.task("gated_twice", "twice", &())]).await;
    gate.wait_for(2).await;
    worker.stop().await.unwrap();
    let mut ends = Vec::new();
    while ends.len() < 2 {
        let report = c.any_report().await;
        match report.outcome {
            ReportOutcome::Held { .. } | ReportOutcome::Heartbeat => {}
            ReportOutcome::Released { .. } => ends.push((report.token.as_str().to_owned(), String::new())),
            ReportOutcome::Failed { error, cause } => {
                assert!(cause.unwrap().contains("the worker 'w' shut down"));
                ends.push((report.token.as_str().to_owned(), error.unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
    ends.sort();
    let once = ("once".to_owned(), error_names::HEARTBEAT_TIMEOUT.to_owned());
    assert_eq!(ends, [once, ("twice".to_owned(), String::new())]);
    // Nothing is left of either at the broker.
    for activity in ["gated", "gated_twice"] {
        assert_eq!(c.broker.depth(&c.queue(activity)).await.unwrap(), Some(0));
    }
}

#[activity(timeout = "200ms")]
async fn limited() -> Result<(), Failure> {
    std::future::pending().await
}

#[activity(heartbeat = "200ms")]
async fn silent(cx: Context) -> Result<(), Failure> {
    Err(cx.cancelled().await.into())
}

#[tokio::test]
async fn the_limits_of_the_attribute_end_an_attempt() {
    let mut c = Coordinator::new().await;
    let worker = Worker::with_broker(c.broker.clone()).register(activities![limited, silent]);
    let worker = c.start(worker, &["limited", "silent"]).await;
    let (error, cause) = c.perform("limited", &()).await.unwrap_err();
    assert_eq!((error.as_str(), cause.contains("200ms")), (error_names::TIMEOUT, true), "{cause}");
    let (error, cause) = c.perform("silent", &()).await.unwrap_err();
    assert_eq!((error.as_str(), cause.contains("200ms")), (error_names::HEARTBEAT_TIMEOUT, true), "{cause}");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_passed_deadline_asks_the_activity_to_stop() {
    let mut c = Coordinator::new().await;
    let gate = Gate::new();
    let worker = Worker::with_broker(c.broker.clone())
        .shared_state(gate.clone())
        .register(activities![until_cancelled]);
    let worker = c.start(worker, &["until_cancelled"]).await;
    let mut task = c.task("until_cancelled", "t", &());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    task.deadline = Some(Timestamp::from_millis(now.as_millis() as i64 + 300));
    c.publish([task]).await;
    assert_eq!(c.ended().await.1, failed(error_names::CANCELLED, &Cancelled::Deadline.to_string()));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn mistakes_are_reported_before_anything_is_taken() {
    let c = Coordinator::new().await;
    let worker = || Worker::with_broker(c.broker.clone());
    let error = worker().register(activities![charge_card, gated]).run().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("'charge_card' takes State<worker::Gateway>"), "{text}");
    assert!(text.contains("'gated' takes State<worker::Gate>"), "{text}");
    assert!(matches!(worker().run().await, Err(WorkerError::NoActivities)));
    let error = worker().register(activities![echo, echo]).run().await.unwrap_err();
    assert!(error.to_string().contains("stagepost.activity.echo"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_tasks_come_back_once_each_in_batches() {
    const TASKS: usize = 5_000;
    let mut c = Coordinator::new().await;
    let worker = Worker::with_broker(c.broker.clone()).register(activities![echo]);
    let worker = c.start(worker, &["echo"]).await;
    let begun = Instant::now();
    c.publish((0..TASKS).map(|n| c.task("echo", &n.to_string(), &n))).await;
    let mut seen = HashSet::new();
    for _ in 0..TASKS {
        let (id, output) = c.ended().await;
        assert_eq!(output, Ok(id.clone()));
        assert!(seen.insert(id));
    }
    println!("{TASKS} tasks in {:?}, {} messages", begun.elapsed(), c.messages);
    assert!(c.messages * 2 <= TASKS, "results travel together: {} messages", c.messages);
    worker.stop().await.unwrap();
    assert_eq!(c.broker.depth(&c.queue("echo")).await.unwrap(), Some(0));
}

/// Needs AMQP_URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_rabbitmq_tasks_come_back_once_each_and_nothing_is_left() {
    const TASKS: u64 = 2_000;
    let Ok(url) = std::env::var("AMQP_URL") else {
        println!("skipped: AMQP_URL is not set");
        return;
    };
    let prefix = format!("sdk-test-{}", std::process::id());
    let broker = RabbitMqBroker::connect(&url, RabbitMqOptions::default()).await.unwrap();
    let mut c = Coordinator::on(broker.clone(), Topology::new(&prefix)).await;
    let worker = Worker::connect(&url).queue_prefix(&prefix).register(activities![echo]);
    let worker = c.start(worker, &["echo"]).await;
    let begun = Instant::now();
    c.publish((0..TASKS).map(|n| c.task("echo", &n.to_string(), &n))).await;
    let mut seen = HashSet::new();
    for _ in 0..TASKS {
        let (id, output) = c.ended().await;
        assert_eq!(output, Ok(id.clone()));
        assert!(seen.insert(id));
    }
    println!("{TASKS} tasks in {:?}, {} messages", begun.elapsed(), c.messages);
    worker.stop().await.unwrap();
    let queue = c.queue("echo");
    assert_eq!(broker.depth(&queue).await.unwrap(), Some(0));
    for queue in [queue, c.topology.shard(ShardId(0)), c.topology.dead_letters()] {
        broker.delete(&queue).await.unwrap();
    }
    broker.close().await;
}

#[tokio::test]
async fn activities_stay_functions() {
    let cx = Context::for_test().idempotency_key("k").attempt(3).build();
    let gateway = State::new(Gateway { limit_cents: 10 });
    assert_eq!(charge_card(cx, gateway, Charge { amount_cents: 5 }).await.unwrap(), "5/k/3");
    assert_eq!(sum(vec![1, 2]), Ok(3));
    static CALLED: AtomicBool = AtomicBool::new(false);
    CALLED.store(panics(true).await.is_ok(), Ordering::SeqCst);
    assert!(CALLED.load(Ordering::SeqCst));
}
