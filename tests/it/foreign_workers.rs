//! Workers that are not of the SDK: programs that take task messages off an activity's queue and answer with token
//! messages, as docs/messages.md says.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use serde_json::{Value, json};
use stagepost_protocol::ExecutionArn;
use stagepost_tests::{Letter, Queues, Servers, Site, orders, until};

use crate::{PATIENCE, ended, letter, output, reaches};

const HEARTBEAT: Duration = Duration::from_secs(2);
const TASK_TOKEN: &str = "stagepost-task-token";

/// An installation with an activity that only such a program performs.
struct Foreign {
    servers: Servers,
    site: Site,
    queues: Queues,
    /// Where its tasks are.
    tasks: String,
    /// Where they are answered.
    callbacks: String,
}

impl Foreign {
    fn new(servers: Servers, queues: Queues) -> Foreign {
        let site = Site::on(&servers);
        let (tasks, callbacks) = (servers.queue("activity.foreign"), servers.queue("callbacks"));
        Foreign { servers, site, queues, tasks, callbacks }
    }

    /// Starts an execution of one task with these further fields. What it does not catch goes on as `Caught`.
    async fn begin(&self, name: &str, further: &Value, input: &Value) -> ExecutionArn {
        let mut state = json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::activity:foreign",
            "TimeoutSeconds": 600,
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}],
            "End": true
        });
        for (name, value) in further.as_object().unwrap() {
            state[name] = value.clone();
        }
        let definition =
            json!({"StartAt": "Work", "States": {"Work": state, "Caught": {"Type": "Pass", "End": true}}});
        let machine = self.site.api.deploy(name, &definition.to_string()).await.unwrap();
        self.site.api.start(&machine, &input.to_string(), None).await.unwrap()
    }

    async fn task(&mut self) -> Letter {
        self.queues.taken(&self.tasks, PATIENCE).await
    }

    /// Publishes a token message about a task.
    async fn say(&self, task: &Letter, mut message: Value) {
        message["taskToken"] = task.header(TASK_TOKEN).unwrap().into();
        self.queues
            .publish(&self.callbacks, message.to_string().as_bytes(), BasicProperties::default())
            .await;
    }

    async fn output(&self, execution: &ExecutionArn) -> Value {
        let ended = ended(&self.site.api, execution).await;
        orders::check_history(&self.site.api.history(execution).await.unwrap()).unwrap();
        output(&ended)
    }

    async fn attempts(&self, execution: &ExecutionArn) -> usize {
        let events = self.site.api.history(execution).await.unwrap();
        events.iter().filter(|event| event.kind == "ActivityScheduled").count()
    }

    async fn dead_letters(&self) -> Vec<Value> {
        self.site.api.own_pages("ListDeadLetters", json!({}), "deadLetters", 10).await.unwrap()
    }

    async fn end(self) {
        self.queues.delete(&self.tasks).await;
    }
}

/// The headers that are ours: RabbitMQ adds some.
fn ours(task: &Letter) -> Vec<&str> {
    task.header_names().into_iter().filter(|name| name.starts_with("stagepost-")).collect()
}

/// Messages say that an attempt is worked on; once they have begun, silence ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_by_message_keep_an_attempt_alive_and_silence_ends_it() {
    let Some(servers) = Servers::shared().await else { return };
    let queues = servers.queues().await;
    let mut f = Foreign::new(servers, queues);
    let _server = f.site.start().await;
    let api = f.site.api.clone();
    let beats = || json!({"heartbeat": true});
    let heartbeat = json!({
        "HeartbeatSeconds": HEARTBEAT.as_secs(),
        "Catch": [{"ErrorEquals": ["States.HeartbeatTimeout"], "Next": "Caught"}]
    });

    // Taken, which acknowledges it, and then nothing: nobody can know that it was begun.
    let unheard = f.begin("unheard", &heartbeat, &json!({})).await;
    let unheard_task = f.task().await;
    assert_eq!(unheard_task.number("stagepost-heartbeat"), Some(2_000));
    let silent = f.begin("silent", &heartbeat, &json!({})).await;
    // As long work is begun: heard of before it is acknowledged.
    let silent_task = f.queues.borrowed(&f.tasks, PATIENCE).await;
    f.say(&silent_task, beats()).await;
    silent_task.acknowledge().await;
    reaches(&api, &silent, "ActivityStarted").await;
    let alive = f.begin("alive", &heartbeat, &json!({})).await;
    let alive_task = f.queues.borrowed(&f.tasks, PATIENCE).await;
    f.say(&alive_task, beats()).await;
    alive_task.acknowledge().await;
    reaches(&api, &alive, "ActivityStarted").await;

    let began = Instant::now();
    until("it has been alive for longer than without heartbeats", PATIENCE, async || {
        f.say(&alive_task, beats()).await;
        (began.elapsed() > HEARTBEAT.mul_f64(1.5)).then_some(())
    })
    .await;
    // Caught as `States.HeartbeatTimeout`, and recorded as the service does.
    assert_eq!(f.output(&silent).await["Error"], "States.Timeout");
    f.say(&alive_task, json!({"output": "alive"})).await;
    assert_eq!(f.output(&alive).await, "alive");
    assert_eq!(api.describe(&unheard).await.unwrap().status.as_str(), "RUNNING");
    f.say(&unheard_task, json!({"output": "unheard"})).await;
    assert_eq!(f.output(&unheard).await, "unheard");

    // A heartbeat that comes too late says nothing that somebody must look at; a result does.
    let ignored = async || f.site.metric("stagepost_coordinator_inputs_ignored").await;
    let before = ignored().await.unwrap();
    f.say(&silent_task, beats()).await;
    until("it is counted", PATIENCE, async || (ignored().await? > before).then_some(())).await;
    f.say(&silent_task, json!({"output": "silent"})).await;
    let late = letter(&api, Some(&f.callbacks)).await;
    assert_eq!(late["reason"], "expired");
    assert!(late["body"].as_str().unwrap().contains("output"), "{late}");
    assert_eq!(f.dead_letters().await, Vec::<Value>::new());
    f.end().await;
}

/// What an answer says is what Retry and Catch see, and what a task message says is what the documentation does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_answered_by_messages() {
    let Some(servers) = Servers::shared().await else { return };
    let queues = servers.queues().await;
    let mut f = Foreign::new(servers, queues);
    let _server = f.site.start().await;
    let retry = json!({"Retry": [{"ErrorEquals": ["Gateway.Down"], "IntervalSeconds": 1, "MaxAttempts": 3}]});

    let execution = f.begin("succeeds", &retry, &json!({"n": 1})).await;
    let first = f.task().await;
    assert_eq!(first.json(), json!({"n": 1}));
    let properties = &first.properties;
    assert_eq!(properties.content_type().as_ref().map(|text| text.as_str()), Some("application/json"));
    assert_eq!(*properties.delivery_mode(), Some(2));
    let reply_to = properties.reply_to().as_ref().unwrap().to_string();
    assert!(reply_to.starts_with(&f.servers.queue("shard.")), "{reply_to}");
    // No heartbeats are needed, and nothing says that it was published before.
    let expected = ["attempt", "deadline", "execution", "idempotency-key", "state", "task-token"];
    assert_eq!(ours(&first), expected.map(|name| format!("stagepost-{name}")));
    assert_eq!(first.header("stagepost-execution"), Some(execution.to_string()));
    assert_eq!(first.header("stagepost-state").as_deref(), Some("Work"));
    let started = f.site.api.describe(&execution).await.unwrap().started_at.as_millis();
    let deadline = first.number("stagepost-deadline").unwrap();
    assert!((started + 600_000..started + 660_000).contains(&deadline), "{deadline} after {started}");
    assert!(!first.redelivered);

    // An error that is retried: another attempt of the same step.
    f.say(&first, json!({"error": "Gateway.Down", "cause": "nobody answers"})).await;
    let second = f.task().await;
    assert_eq!((first.number("stagepost-attempt"), second.number("stagepost-attempt")), (Some(1), Some(2)));
    assert_ne!(first.header(TASK_TOKEN), second.header(TASK_TOKEN));
    assert_ne!(first.properties.message_id(), second.properties.message_id());
    let key = "stagepost-idempotency-key";
    assert_eq!(first.header(key), second.header(key));
    f.say(&second, json!({"output": {"paid": 12}})).await;
    assert_eq!(f.output(&execution).await, json!({"paid": 12}));

    // One that is not: Catch has error and cause, whichever is given.
    for (name, failure, expected) in [
        (
            "fails",
            json!({"error": "Card.Refused", "cause": "no money"}),
            json!({"Error": "Card.Refused", "Cause": "no money"}),
        ),
        ("fails-without-cause", json!({"error": "Card.Refused"}), json!({"Error": "Card.Refused"})),
    ] {
        let execution = f.begin(name, &retry, &json!({})).await;
        let task = f.task().await;
        f.say(&task, failure).await;
        let caught = f.output(&execution).await;
        for (member, value) in expected.as_object().unwrap() {
            assert_eq!(caught[member], *value, "{name}: {caught}");
        }
        assert_eq!(f.attempts(&execution).await, 1);
    }
    assert_eq!(f.dead_letters().await, Vec::<Value>::new());
    f.end().await;
}

/// A task that may have been begun elsewhere is marked, and declined as the documentation says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_comes_again_is_declined_and_retried() {
    let Some(servers) = Servers::shared().await else { return };
    let queues = servers.queues().await;
    let mut f = Foreign::new(servers, queues);
    let _server = f.site.start().await;
    let lost = "States.HeartbeatTimeout";
    let retry = json!({"Retry": [{"ErrorEquals": [lost], "IntervalSeconds": 1, "MaxAttempts": 3}]});
    let declined = || json!({"error": lost, "cause": "may have been begun elsewhere"});

    // Another program had it and died.
    let execution = f.begin("again", &retry, &json!({})).await;
    reaches(&f.site.api, &execution, "ActivityScheduled").await;
    let other = f.servers.queues().await;
    let first = other.borrowed(&f.tasks, PATIENCE).await;
    assert!(!first.redelivered);
    other.close().await;
    let again = f.task().await;
    assert!(again.redelivered);
    assert_eq!(again.properties.message_id(), first.properties.message_id());
    f.say(&again, declined()).await;
    let fresh = f.task().await;
    assert_eq!((fresh.redelivered, fresh.number("stagepost-attempt")), (false, Some(2)));
    f.say(&fresh, json!({"output": 2})).await;
    assert_eq!(f.output(&execution).await, 2);
    // The other one was not dead after all: nobody waits for its answer any more.
    f.say(&first, json!({"output": 1})).await;
    assert_eq!(letter(&f.site.api, Some(&f.callbacks)).await["reason"], "expired");

    // What is pending is published again, and says so.
    let execution = f.begin("republished", &retry, &json!({})).await;
    let first = f.task().await;
    let recovered = f.site.cli(&["recover"]).await;
    assert!(recovered.status.success(), "{}", String::from_utf8_lossy(&recovered.stderr));
    let again = f.task().await;
    assert!(!again.redelivered && ours(&again).contains(&"stagepost-republished"));
    assert_eq!(again.header(TASK_TOKEN), first.header(TASK_TOKEN));
    assert_eq!(again.properties.message_id(), first.properties.message_id());
    f.say(&again, declined()).await;
    let fresh = f.task().await;
    assert_eq!(fresh.number("stagepost-attempt"), Some(2));
    assert!(!ours(&fresh).contains(&"stagepost-republished"));
    f.say(&fresh, json!({"output": 2})).await;
    assert_eq!(f.output(&execution).await, 2);
    f.end().await;
}
