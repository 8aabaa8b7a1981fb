//! A coordinator and workers that claim: over the in-process broker and SQLite, with leases that are short.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::json;
use stagepost_broker::{Broker, ConsumeOptions, Consumer, QueueSpec, in_process::InProcessBroker};
use stagepost_coordinator::{Client, Coordinator, Options, Parts, Poller, installation_token_key};
use stagepost_protocol::{
    Alive, Claim, ControlMessage,
    DeliveredAs::{self, First, Redelivered, Republished},
    ExecutionArn, Lease, Namespace, Payload, Report, ReportOutcome, ShardMessage, Shards, StateMachineArn,
    TaskMessage, Timestamp, TokenKey, Verdict, error_names,
    shard::{Reply, Start},
};
use stagepost_store::{
    DefinitionRow, ExecutionStatus, ExecutionSummary, Reader, StateMachineRow, sqlite, sqlite::SqliteStore,
};

/// Everything that is waited for comes within this time, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(30);
/// Certainly over after 800 ms.
const LEASE_MILLIS: u64 = 600;
/// Nothing that takes a lease has happened yet, or never will.
const LONG_LEASE_MILLIS: u64 = 600_000;

fn machine() -> StateMachineArn {
    StateMachineArn { namespace: Namespace::default(), name: "m".into() }
}

async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

fn start(name: &str) -> Start {
    Start {
        execution: machine().execution(name),
        state_machine: machine(),
        definition_id: "d".into(),
        role_arn: "r".into(),
        input: Payload::empty_object(),
        trace_header: None,
        fresh: false,
        parent: None,
        map_item: None,
    }
}

struct Rig {
    directory: PathBuf,
    store: Arc<SqliteStore>,
    broker: Arc<dyn Broker>,
    options: Options,
    key: TokenKey,
    client: Arc<Client>,
    coordinator: Option<Coordinator>,
    tasks: Box<dyn Consumer>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It lies in a temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Rig {
    /// An installation with a state machine of one task of the activity `a`, tried once.
    async fn new() -> Rig {
        let directory = std::env::temp_dir().join(format!("stagepost-claims-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory).unwrap();
        let store = SqliteStore::open(directory.join("db"), &sqlite::Options::default()).unwrap();
        let task = json!({ "Type": "Task", "Resource": "arn:aws:states:::activity:a", "End": true });
        let definition = json!({ "StartAt": "A", "States": { "A": task } });
        let row = StateMachineRow {
            arn: machine(),
            definition_id: "d".into(),
            role_arn: "r".into(),
            kind: "STANDARD".into(),
            status: "ACTIVE".into(),
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            settings: Payload::empty_object(),
        };
        let definition = DefinitionRow { id: "d".into(), text: definition.to_string() };
        store.create_state_machine(&row, &definition).await.unwrap();
        let broker: Arc<dyn Broker> = InProcessBroker::new();
        let options = Options {
            shards: Shards::new(1).unwrap(),
            lease_ttl: Duration::from_millis(600),
            ..Options::default()
        };
        let key = installation_token_key(&*store).await.unwrap();
        let topology = options.topology.clone();
        let client =
            Client::connect(broker.clone(), topology.clone(), options.shards, key.clone()).await.unwrap();
        let queue = topology.activity(&Namespace::default(), "a");
        broker.declare(&[QueueSpec::ours(&queue)]).await.unwrap();
        let tasks = broker.consume(&queue, ConsumeOptions { prefetch: 100 }).await.unwrap();
        let mut rig = Rig { directory, store, broker, options, key, client, coordinator: None, tasks };
        rig.start_coordinator().await;
        rig
    }

    async fn start_coordinator(&mut self) {
        let parts = Parts { store: self.store.clone(), broker: self.broker.clone() };
        let options = Options { owner: uuid::Uuid::new_v4().to_string(), ..self.options.clone() };
        self.coordinator = Some(Coordinator::start(parts, options, self.key.clone()).await.unwrap());
    }

    /// Starts an execution.
    async fn start(&self, name: &str) -> ExecutionArn {
        let start = start(name);
        let execution = start.execution.clone();
        assert!(matches!(self.client.start(start).await.unwrap(), Reply::Started { .. }));
        execution
    }

    /// Takes the next task off the queue and acknowledges it.
    async fn task(&mut self) -> TaskMessage {
        let came = tokio::time::timeout(PATIENCE, self.tasks.next(1)).await.expect("a task comes");
        let delivery = came.unwrap().remove(0);
        self.tasks.acker().ack(delivery.tag).await;
        TaskMessage::decode("q", &delivery.body, &delivery.properties).unwrap()
    }

    async fn no_task(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.tasks.next(1)).await.is_err()
    }

    async fn publish(&self, queue: &str, message: ShardMessage) {
        let published = self.broker.publish(vec![message.encode(queue.into(), None)]).await;
        published.into_iter().for_each(|published| published.unwrap());
    }

    async fn report(&self, task: &TaskMessage, outcome: ReportOutcome) {
        let worker = Some("w".to_owned());
        let report = Report {
            token: task.token.clone(),
            worker,
            started_at: None,
            outcome,
            child: None,
            answer: None,
        };
        self.publish(&task.reply_to, ShardMessage::Reports(vec![report])).await;
    }

    async fn ended(&self, execution: &ExecutionArn) -> ExecutionSummary {
        until("it has ended", async || {
            let summary = self.store.execution(execution.id()).await.unwrap()?;
            (summary.status != ExecutionStatus::Running).then_some(summary)
        })
        .await
    }

    async fn is_running(&self, execution: &ExecutionArn) -> bool {
        let summary = self.store.execution(execution.id()).await.unwrap().unwrap();
        summary.status == ExecutionStatus::Running
    }
}

/// A worker that claims.
struct Claimant {
    lease: Lease,
    answers: Box<dyn Consumer>,
}

impl Claimant {
    async fn new(rig: &Rig, millis: u64, idempotent: bool) -> Claimant {
        let holder = uuid::Uuid::new_v4().to_string();
        let answers = rig.broker.private_queue(&rig.options.topology.control(&holder)).await.unwrap();
        Claimant { lease: Lease { holder, millis, idempotent }, answers }
    }

    async fn claims(&mut self, rig: &Rig, task: &TaskMessage, delivered: DeliveredAs) -> Verdict {
        let (returns, lease) = (task.returns, Some(self.lease.clone()));
        let claim = Claim { returns, lease, delivered };
        rig.report(task, ReportOutcome::Claimed(claim)).await;
        self.answer(task).await
    }

    async fn answer(&mut self, task: &TaskMessage) -> Verdict {
        let came = tokio::time::timeout(PATIENCE, self.answers.next(1)).await.expect("an answer comes");
        let answer = came.unwrap().remove(0);
        let ControlMessage::Verdicts(verdicts) =
            ControlMessage::decode(&answer.body, &answer.properties).unwrap();
        assert_eq!(verdicts.len(), 1);
        assert_eq!((&verdicts[0].token, verdicts[0].returns), (&task.token, task.returns));
        verdicts[0].verdict
    }

    async fn is_alive(&self, rig: &Rig, task: &TaskMessage) {
        let (holder, millis) = (self.lease.holder.clone(), self.lease.millis);
        rig.publish(&task.reply_to, ShardMessage::Alive(Alive { holder, millis })).await;
    }
}

fn held(lease: &Lease) -> ReportOutcome {
    ReportOutcome::Held { lease: lease.clone(), returns: 0 }
}

fn output() -> ReportOutcome {
    ReportOutcome::Succeeded(Payload::parse("1").unwrap())
}

fn lost(ended: &ExecutionSummary) {
    assert_eq!(ended.status, ExecutionStatus::Failed);
    assert_eq!(ended.error.as_deref(), Some(error_names::HEARTBEAT_TIMEOUT), "{ended:?}");
}

#[tokio::test]
async fn of_two_claimants_one_gets_the_attempt() {
    let mut rig = Rig::new().await;
    let execution = rig.start("e").await;
    let task = rig.task().await;
    let mut one = Claimant::new(&rig, LONG_LEASE_MILLIS, true).await;
    let mut two = Claimant::new(&rig, LONG_LEASE_MILLIS, true).await;
    assert_eq!(one.claims(&rig, &task, Redelivered).await, Verdict::Run);
    assert_eq!(two.claims(&rig, &task, Redelivered).await, Verdict::Drop);
    assert_eq!(
        one.claims(&rig, &task, Redelivered).await,
        Verdict::Run,
        "an answer that was lost is given again"
    );
    rig.report(&task, output()).await;
    assert_eq!(rig.ended(&execution).await.status, ExecutionStatus::Succeeded);
    assert_eq!(one.claims(&rig, &task, Redelivered).await, Verdict::Drop, "it has ended");
}

#[tokio::test]
async fn what_was_delivered_before_ends_when_nobody_announces_it() {
    let mut rig = Rig::new().await;
    let (execution, other) = (rig.start("e").await, rig.start("f").await);
    let (first, second) = (rig.task().await, rig.task().await);
    let mut claimant = Claimant::new(&rig, LEASE_MILLIS, false).await;
    for task in [&first, &second] {
        assert_eq!(claimant.claims(&rig, task, Redelivered).await, Verdict::Drop);
    }
    // The earlier holder of the other one lives, and ends it.
    rig.report(&second, output()).await;
    assert_eq!(rig.ended(&other).await.status, ExecutionStatus::Succeeded);
    lost(&rig.ended(&execution).await);
    assert!(rig.no_task().await);
}

#[tokio::test]
async fn what_was_only_published_again_is_given_out_afresh() {
    let mut rig = Rig::new().await;
    let execution = rig.start("e").await;
    let task = rig.task().await;
    let mut claimant = Claimant::new(&rig, LEASE_MILLIS, false).await;
    assert_eq!(claimant.claims(&rig, &task, Republished).await, Verdict::Drop);
    let again = rig.task().await;
    assert_eq!((again.attempt_id, again.republished), (task.attempt_id.clone(), false));
    rig.report(&task, output()).await;
    assert_eq!(rig.ended(&execution).await.status, ExecutionStatus::Succeeded);
}

/// A worker has what it announced as long as it is heard of, by whichever coordinator; and is told what it runs in vain.
#[tokio::test]
async fn a_lease_lasts_as_long_as_its_holder_is_heard_of() {
    let mut rig = Rig::new().await;
    let execution = rig.start("e").await;
    let task = rig.task().await;
    // So long that a machine that is busy does not make it miss one.
    let mut claimant = Claimant::new(&rig, 4 * LEASE_MILLIS, false).await;
    rig.report(&task, held(&claimant.lease)).await;
    for round in 0..30 {
        claimant.is_alive(&rig, &task).await;
        tokio::time::sleep(Duration::from_millis(LEASE_MILLIS / 6)).await;
        if round == 10 {
            // As if the process had died.
            rig.coordinator = None;
        }
        if round == 12 {
            rig.start_coordinator().await;
        }
        assert!(rig.is_running(&execution).await, "{round}");
    }
    lost(&rig.ended(&execution).await);
    rig.report(&task, held(&claimant.lease)).await;
    assert_eq!(claimant.answer(&task).await, Verdict::Drop);
}

#[tokio::test]
async fn what_a_worker_gives_back_is_given_out_once() {
    let mut rig = Rig::new().await;
    let execution = rig.start("e").await;
    let task = rig.task().await;
    let (mut claimant, holder) = (Claimant::new(&rig, LONG_LEASE_MILLIS, false).await, "h".to_owned());
    // Somebody else asks for another copy of it: that it is in doubt then holds nobody up.
    assert_eq!(claimant.claims(&rig, &task, Redelivered).await, Verdict::Drop);
    for _ in 0..2 {
        let returns = task.returns;
        rig.report(&task, ReportOutcome::Released { holder: holder.clone(), returns }).await;
    }
    let again = rig.task().await;
    assert!(!again.republished && again.token == task.token && again.returns == 1);
    assert!(rig.no_task().await);
    // What was given out before is nobody's any more, what is given out now is.
    assert_eq!(claimant.claims(&rig, &task, Redelivered).await, Verdict::Drop);
    rig.report(&task, held(&claimant.lease)).await;
    assert_eq!(claimant.answer(&task).await, Verdict::Drop);
    assert_eq!(claimant.claims(&rig, &again, First).await, Verdict::Run);
    rig.report(&task, output()).await;
    assert_eq!(rig.ended(&execution).await.status, ExecutionStatus::Succeeded);
}

/// A request of which it was not known whether it had arrived may have been carried out to the end.
#[tokio::test]
async fn a_start_that_is_published_again_is_the_same_start() {
    let mut rig = Rig::new().await;
    let execution = rig.start("e").await;
    let task = rig.task().await;
    rig.report(&task, output()).await;
    rig.ended(&execution).await;
    let mut answers = rig.broker.private_queue("answers").await.unwrap();
    for republished in [false, true] {
        let reply = Some(("answers".to_owned(), "c".to_owned()));
        let mut message = ShardMessage::Start(Box::new(start("e"))).encode(task.reply_to.clone(), reply);
        if republished {
            message.mark_republished();
        }
        rig.broker.publish(vec![message]).await.remove(0).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answers.next(1)).await.expect("an answer comes").unwrap();
        let reply: Reply = serde_json::from_slice(&answer[0].body).unwrap();
        assert_eq!(matches!(reply, Reply::Started { .. }), republished, "{reply:?}");
        assert!(republished || reply == Reply::AlreadyExists, "{reply:?}");
    }
}

/// A poll that its asker gave up leaves its task to the next one, and not in doubt.
#[tokio::test]
async fn a_poll_that_was_given_up_loses_nothing() {
    let mut rig = Rig::new().await;
    // Nobody but the polls.
    rig.tasks.cancel().await;
    let (namespace, poller) = (Namespace::default(), Poller::default());
    for n in 0..20 {
        let execution = rig.start(&format!("e{n}")).await;
        {
            let poll = rig.client.poll_activity(&namespace, "a", poller.clone(), PATIENCE);
            tokio::pin!(poll);
            // Given up at another moment each time: before the task comes, while it is announced, and after.
            let given_up = tokio::time::timeout(Duration::from_micros(100 * n), &mut poll).await;
            if let Ok(Ok(Some(task))) = given_up {
                rig.report(&task, output()).await;
                rig.ended(&execution).await;
                continue;
            }
        }
        let task =
            rig.client.poll_activity(&namespace, "a", poller.clone(), PATIENCE).await.unwrap().unwrap();
        assert_eq!(task.execution, execution.to_string());
        rig.report(&task, output()).await;
        assert_eq!(rig.ended(&execution).await.status, ExecutionStatus::Succeeded);
    }
}
