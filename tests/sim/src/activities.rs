//! What the simulated workers do: steps whose result is known beforehand, and calls of services that do not exist.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use stagepost::{
    Context, Failure, State, activity,
    calls::{CallTask, Called},
};
use stagepost_broker::Broker;
use stagepost_protocol::{
    IntegrationPattern, Parent, ParentKind, Payload, ShardMessage, Shards, StateMachineArn, TaskToken,
    limits, shard::Start, topology::Topology,
};

use crate::{
    broker::SimBroker,
    process::Process,
    workflow::{self, FLAKY},
};

/// How long an activity works between two looks at its worker's life.
const PAUSE: Duration = Duration::from_millis(400);

/// What happened to attempts, in all workers.
#[derive(Default)]
pub(crate) struct Attempts {
    /// How often each was begun, by its token.
    begun: Mutex<BTreeMap<String, u32>>,
    /// Executions that were redriven, or are about to be.
    redriven: Mutex<BTreeSet<String>>,
    /// Express executions that were accepted, and those whose activity was performed.
    expected: Mutex<BTreeSet<String>>,
    performed: Mutex<BTreeSet<String>>,
    /// What somebody was asked, and has not answered.
    asked: Mutex<VecDeque<Asked>>,
}

/// Somebody is to answer this.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) token: String,
    /// `Err`: the error to fail with.
    pub(crate) answer: Result<Value, &'static str>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Attempts {
    /// Notes that an attempt is begun; how often by now.
    fn begin(&self, token: &str) -> u32 {
        let mut begun = lock(&self.begun);
        let times = begun.entry(token.to_owned()).or_default();
        *times += 1;
        *times
    }

    pub(crate) fn redrive(&self, execution: &str) {
        lock(&self.redriven).insert(execution.to_owned());
    }

    /// An Express execution was accepted: its activity must be performed.
    pub(crate) fn expect(&self, execution: String) {
        lock(&self.expected).insert(execution);
    }

    /// One of those whose activity was not.
    pub(crate) fn not_performed(&self) -> Option<String> {
        lock(&self.expected).difference(&lock(&self.performed)).next().cloned()
    }

    pub(crate) fn next_question(&self) -> Option<Asked> {
        lock(&self.asked).pop_front()
    }
}

/// Where an activity runs.
pub(crate) struct Site {
    pub(crate) process: Arc<Process>,
}

/// What an activity is told to do.
#[derive(Deserialize)]
pub(crate) struct Work {
    v: Value,
    salt: u64,
    /// How long it takes.
    millis: u64,
    /// It fails in so many attempts.
    fails: u32,
    /// Whether it sends heartbeats.
    pub(crate) beats: bool,
    /// It fails until its execution is redriven.
    redriven: bool,
    /// The execution that is redriven, if its own is a child of that.
    #[serde(default)]
    root: Option<String>,
}

/// An attempt that is worked on.
pub(crate) struct Attempt<'a> {
    pub(crate) token: &'a str,
    pub(crate) state: &'a str,
    pub(crate) execution: &'a str,
    pub(crate) number: u32,
}

impl<'a> Attempt<'a> {
    fn of(cx: &'a Context) -> Attempt<'a> {
        Attempt { token: cx.task_token(), state: cx.state(), execution: cx.execution(), number: cx.attempt() }
    }

    fn is_express(&self) -> bool {
        TaskToken::from_untrusted(self.token).claimed_runner().is_some()
    }

    /// Notes that it is begun, which must happen once.
    pub(crate) fn begin_once(&self, process: &Process) {
        let world = &process.world;
        // What an Express execution calls is called at least once.
        if self.is_express() {
            return;
        }
        let times = world.attempts.begin(self.token);
        // A broker that loses what it had confirmed, as one does that dies with its process, is beyond what is promised.
        if world.broker_keeps() && times > 1 {
            world.violate(format!(
                "{} begins an attempt of {} that was begun before",
                process.name, self.state
            ));
        }
    }
}

/// A step that must not be done twice.
#[activity(name = "step")]
pub(crate) async fn once(cx: Context, site: State<Site>, work: Work) -> Result<Value, Failure> {
    Attempt::of(&cx).begin_once(&site.process);
    assigned(&cx, &site.process, work).await
}

/// A step that may be done twice.
#[activity(name = "sure", idempotent)]
pub(crate) async fn sure(cx: Context, site: State<Site>, work: Work) -> Result<Value, Failure> {
    assigned(&cx, &site.process, work).await
}

async fn assigned(cx: &Context, process: &Process, work: Work) -> Result<Value, Failure> {
    let beats = work.beats;
    let goes_on = || {
        cx.check_cancelled()?;
        if beats {
            cx.heartbeat(&());
        }
        Ok(())
    };
    perform(&Attempt::of(cx), process, work, goes_on).await
}

/// Does what an activity is told. `goes_on` is asked now and then whether it is still to be done.
pub(crate) async fn perform(
    attempt: &Attempt<'_>,
    process: &Process,
    work: Work,
    goes_on: impl Fn() -> Result<(), Failure> + Send,
) -> Result<Value, Failure> {
    let world = &process.world;
    let Attempt { state, execution, number, .. } = attempt;
    world.note(&process.name, format!("works on {state} of {execution}, attempt {number}"));
    let mut left = Duration::from_millis(work.millis);
    while !left.is_zero() {
        let pause = left.min(PAUSE);
        tokio::time::sleep(pause).await;
        left -= pause;
        process.survive(world.faults.die_in_activity).await;
        goes_on()?;
    }
    process.survive(world.faults.die_in_activity).await;
    let root = work.root.as_deref().unwrap_or(execution);
    let early = work.redriven && !lock(&world.attempts.redriven).contains(root);
    if early || *number <= work.fails {
        return Err(Failure::new(FLAKY, "as it was told"));
    }
    if attempt.is_express() {
        lock(&world.attempts.performed).insert((*execution).to_owned());
    }
    Ok(workflow::step(&work.v, work.salt))
}

/// The services that a connector calls.
pub(crate) struct Services {
    process: Arc<Process>,
    broker: Arc<SimBroker>,
    topology: Topology,
    shards: Shards,
}

/// The body of a message to somebody.
#[derive(Deserialize)]
struct Question {
    token: String,
    v: Value,
    salt: u64,
    fails: u32,
}

impl Services {
    pub(crate) fn new(process: &Arc<Process>, broker: &Arc<SimBroker>, shards: Shards) -> Services {
        let (process, broker) = (Arc::clone(process), Arc::clone(broker));
        Services { process, broker, topology: Topology::default(), shards }
    }

    /// Makes a call.
    pub(crate) async fn call(self: Arc<Services>, task: CallTask) -> Result<Called, Failure> {
        let world = &self.process.world;
        self.process.call(format!("calls {task} for {}", task.context.execution())).await;
        tokio::time::sleep(world.up_to(Duration::from_millis(50))).await;
        let called = match task.call.pattern {
            IntegrationPattern::WaitForTaskToken => self.ask(&task)?,
            _ => self.start_child(&task).await?,
        };
        self.process.survive(world.faults.die_in_activity).await;
        Ok(called)
    }

    /// Leaves a question for somebody.
    fn ask(&self, task: &CallTask) -> Result<Called, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Request {
            message_body: Question,
        }
        let request: Request = task.input.read().map_err(|error| Failure::new("Unreadable", error))?;
        let Question { token, v, salt, fails } = request.message_body;
        let fail = task.context.attempt() <= fails;
        let answer = if fail { Err(FLAKY) } else { Ok(workflow::step(&v, salt)) };
        lock(&self.process.world.attempts.asked).push_back(Asked { token, answer });
        Ok(Called::Submitted(Payload::empty_object()))
    }

    /// Starts another execution; it reports itself to its parent.
    async fn start_child(&self, task: &CallTask) -> Result<Called, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Request {
            state_machine_arn: String,
            input: Value,
        }
        let request: Request = task.input.read().map_err(|error| Failure::new("Unreadable", error))?;
        let machine = StateMachineArn::parse(&request.state_machine_arn)
            .map_err(|error| Failure::new("Unreadable", error))?;
        let name: String = task.attempt_id.chars().take(limits::NAME_CHARS_MAX).collect();
        let execution = machine.execution(&name);
        let token = TaskToken::from_untrusted(task.context.task_token());
        let start = Start {
            state_machine: machine.clone(),
            definition_id: machine.name.clone(),
            role_arn: "r".to_owned(),
            input: Payload::from_value(&request.input),
            trace_header: None,
            fresh: false,
            parent: Some(Parent { token, kind: ParentKind::Sync2 }),
            map_item: None,
            execution,
        };
        let queue = self.topology.shard(self.shards.of(start.execution.id()));
        let answer = stagepost_coordinator::start_answer(&start.execution, self.process.now());
        let message = ShardMessage::Start(Box::new(start)).encode(queue, None);
        loop {
            let published = self.broker.publish(vec![message.clone()]).await;
            if published.iter().all(Result::is_ok) {
                return Ok(Called::Submitted(answer));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
