//! One run of a definition with mocked tasks, and what became of it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;
use stagepost_asl::{StateIndex, StateMachine};
use stagepost_engine::{
    End, HistoryEvent, Origin,
    command::Taken,
    history::{describe, type_name},
};
use stagepost_protocol::{Namespace, Payload, StateMachineArn, Timestamp, error_names};

use crate::world::{Answer, Answers, Asked, Beginning, Said, Stop, World};

/// The most events of a run, unless set: a run that gets so far may be endless. AWS ends an execution at 25,000.
pub const EVENTS_MAX: u64 = 25_000;

/// When a run starts, unless set.
pub const STARTS_AT: &str = "2026-01-01T00:00:00Z";

/// A definition that is going to be run.
///
/// ```
/// use serde_json::json;
/// use stagepost_testing::{Mock, Simulation, Status, parse};
///
/// let machine = parse(r#"{
///     "StartAt": "Wait",
///     "States": {
///         "Wait": {"Type": "Wait", "Seconds": 31536000, "Next": "Charge"},
///         "Charge": {
///             "Type": "Task", "Resource": "arn:aws:states:::activity:charge", "End": true,
///             "Retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 60}]
///         }
///     }
/// }"#).unwrap();
/// let run = Simulation::new(&machine)
///     .mock("Charge", Mock::new().error("Busy").result(json!({"id": 7})))
///     .run();
/// assert_eq!(run.status(), Status::Succeeded);
/// assert_eq!(run.output(), Some(json!({"id": 7})));
/// assert_eq!(run.duration_seconds(), 31_536_060.0);
/// ```
#[derive(Debug, Clone)]
pub struct Simulation {
    machine: Arc<StateMachine>,
    mocks: BTreeMap<String, Mock>,
    beginning: Beginning,
}

/// What a mocked state answers, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mock {
    /// For attempts outside Map iterations, and for items that have none of their own.
    pub answers: Vec<Repeated>,
    /// By the place of the item.
    pub items: BTreeMap<u32, Vec<Repeated>>,
}

/// An answer, so many times.
#[derive(Debug, Clone, PartialEq)]
pub struct Repeated {
    /// The answer.
    pub answer: Answer,
    /// How often; `None`: to every further attempt.
    pub times: Option<u32>,
}

impl Mock {
    /// No answers yet.
    pub fn new() -> Mock {
        Mock::default()
    }

    /// Answers every attempt with this result.
    pub fn always(result: Value) -> Mock {
        Mock { answers: vec![Repeated { answer: Said::Result(result).into(), times: None }], ..Mock::new() }
    }

    /// The next attempt succeeds with this result.
    #[must_use]
    pub fn result(self, result: Value) -> Mock {
        self.answer(Said::Result(result), 1)
    }

    /// The next attempt fails with an error of this name.
    #[must_use]
    pub fn error(self, error: &str) -> Mock {
        self.errors(error, 1)
    }

    /// So many attempts fail with an error of this name.
    #[must_use]
    pub fn errors(self, error: &str, times: u32) -> Mock {
        self.answer(Said::Error { error: Some(error.to_owned()), cause: None }, times)
    }

    /// Nobody answers the next attempt, until it times out.
    #[must_use]
    pub fn timeout(self) -> Mock {
        self.answer(Said::Timeout, 1)
    }

    fn answer(mut self, said: Said, times: u32) -> Mock {
        self.answers.push(Repeated { answer: said.into(), times: Some(times) });
        self
    }

    /// The answers for an item, and how many attempts have been answered from the same list before.
    fn list(&self, item: Option<u32>) -> (&[Repeated], Option<u32>) {
        match item.and_then(|item| Some((item, self.items.get(&item)?))) {
            Some((item, list)) => (list, Some(item)),
            None => (&self.answers, None),
        }
    }
}

impl Simulation {
    /// A run with the input `{}` at [`STARTS_AT`].
    pub fn new(machine: &Arc<StateMachine>) -> Simulation {
        let state_machine = StateMachineArn { namespace: Namespace::default(), name: "machine".to_owned() };
        let origin = Origin {
            arn: state_machine.execution("execution"),
            role_arn: "arn:aws:iam::000000000000:role/stagepost".to_owned(),
            state_machine,
            parent: None,
            input: Payload::empty_object(),
            started_at: Timestamp::parse_rfc3339(STARTS_AT).unwrap_or_default(),
        };
        let beginning = Beginning { origin, seed: 0, events_max: EVENTS_MAX };
        Simulation { machine: Arc::clone(machine), mocks: BTreeMap::new(), beginning }
    }

    /// With this input.
    #[must_use]
    pub fn input(mut self, input: &Value) -> Simulation {
        self.beginning.origin.input = Payload::from_value(input);
        self
    }

    /// At this time.
    #[must_use]
    pub fn starts_at(mut self, now: Timestamp) -> Simulation {
        self.beginning.origin.started_at = now;
        self
    }

    /// With these names in the context object, where given.
    #[must_use]
    pub fn named(mut self, machine: Option<&str>, execution: Option<&str>) -> Simulation {
        let origin = &mut self.beginning.origin;
        if let Some(name) = machine {
            origin.state_machine.name = name.to_owned();
        }
        let execution = execution.unwrap_or(&origin.arn.name).to_owned();
        origin.arn = origin.state_machine.execution(&execution);
        self
    }

    /// Random numbers (jitter, `States.UUID`, `$random`) follow from this; the same seed gives the same run.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Simulation {
        self.beginning.seed = seed;
        self
    }

    /// Stops after so many events; the run then has the status [`Status::Running`].
    #[must_use]
    pub fn events_max(mut self, events: u64) -> Simulation {
        self.beginning.events_max = events;
        self
    }

    /// What the state of this name answers.
    #[must_use]
    pub fn mock(mut self, state: &str, mock: Mock) -> Simulation {
        self.mocks.insert(state.to_owned(), mock);
        self
    }

    pub(crate) fn beginning(&self) -> &Beginning {
        &self.beginning
    }

    /// Runs it to its end, or as far as the mocks let it.
    pub fn run(&self) -> Run {
        let mut world = World::start(&self.machine, &self.beginning);
        let mut answers = Mocks { machine: &self.machine, mocks: &self.mocks, used: BTreeMap::new() };
        let stop = world.run(&mut answers);
        let used = answers.used;
        let unused = self.mocks.iter().filter(|(state, _)| !used.keys().any(|(name, _)| name == *state));
        let unused = unused.map(|(state, _)| state.clone()).collect();
        Run { world, stop, unused }
    }
}

/// Answers from lists.
struct Mocks<'m> {
    machine: &'m StateMachine,
    mocks: &'m BTreeMap<String, Mock>,
    used: BTreeMap<(&'m str, Option<u32>), u32>,
}

impl Answers for Mocks<'_> {
    fn answer(&mut self, asked: &Asked) -> Result<Answer, Stop> {
        let name = &*self.machine.state(asked.state).name;
        let none = |had| Stop::NoAnswer { state: name.to_owned(), had, input: asked.input.to_value() };
        let (name, mock) = self.mocks.get_key_value(name).ok_or_else(|| none(0))?;
        let (list, item) = mock.list(asked.item);
        let used = self.used.entry((name, item)).or_insert(0);
        let mut before = 0;
        for Repeated { answer, times } in list {
            before += times.unwrap_or(u32::MAX - before);
            if *used < before {
                *used += 1;
                return Ok(answer.clone());
            }
        }
        Err(none(*used))
    }
}

/// How an execution stands, in the API's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It ended well.
    Succeeded,
    /// It failed.
    Failed,
    /// It ran longer than its `TimeoutSeconds`.
    TimedOut,
    /// It was stopped.
    Aborted,
    /// It waits forever, or runs on and on.
    Running,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 5] =
        [Status::Succeeded, Status::Failed, Status::TimedOut, Status::Aborted, Status::Running];

    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Succeeded => "SUCCEEDED",
            Status::Failed => "FAILED",
            Status::TimedOut => "TIMED_OUT",
            Status::Aborted => "ABORTED",
            Status::Running => "RUNNING",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What became of a run.
#[derive(Debug, Clone)]
pub struct Run {
    pub(crate) world: World,
    stop: Stop,
    unused: Vec<String>,
}

impl Run {
    pub(crate) fn of(world: World, stop: Stop) -> Run {
        Run { world, stop, unused: Vec::new() }
    }

    /// Why it stands still.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// How the execution stands.
    pub fn status(&self) -> Status {
        match self.world.execution.end() {
            Some((End::Succeeded(_), _)) => Status::Succeeded,
            Some((End::Failed { .. }, _)) => Status::Failed,
            Some((End::TimedOut, _)) => Status::TimedOut,
            Some((End::Aborted { .. }, _)) => Status::Aborted,
            None => Status::Running,
        }
    }

    /// Its output, if it succeeded.
    pub fn output(&self) -> Option<Value> {
        match self.world.execution.end() {
            Some((End::Succeeded(output), _)) => Some(output.to_value()),
            _ => None,
        }
    }

    /// The name of the error that it ended with.
    pub fn error(&self) -> Option<&str> {
        match self.world.execution.end() {
            Some((End::Failed { error, .. } | End::Aborted { error, .. }, _)) => error.as_deref(),
            Some((End::TimedOut, _)) => Some(error_names::TIMEOUT),
            _ => None,
        }
    }

    /// The cause of that error.
    pub fn cause(&self) -> Option<&str> {
        match self.world.execution.end() {
            Some((End::Failed { cause, .. } | End::Aborted { cause, .. }, _)) => cause.as_deref(),
            _ => None,
        }
    }

    /// The names of the states, in the order in which they were entered.
    pub fn path(&self) -> impl Iterator<Item = &str> {
        self.visits().map(|state| &*self.world.machine().state(state).name)
    }

    /// The states, in the order in which they were entered.
    pub(crate) fn visits(&self) -> impl Iterator<Item = StateIndex> {
        self.world.entries.iter().map(|entry| entry.state)
    }

    /// How long it took, in seconds of virtual time.
    pub fn duration_seconds(&self) -> f64 {
        self.duration_millis() as f64 / 1000.0
    }

    pub(crate) fn duration_millis(&self) -> i64 {
        let ended = self.world.execution.end().map_or(self.world.now, |(_, at)| at);
        ended.millis_since(self.world.execution.origin().started_at)
    }

    /// How many events its history shows.
    pub fn events(&self) -> u64 {
        self.world.execution.last_event_id()
    }

    /// Its history: AWS's events, and the engine's own notes.
    pub fn history(&self) -> &[HistoryEvent] {
        &self.world.events
    }

    /// The events as GetExecutionHistory shows them.
    pub fn shown_history(&self) -> Vec<Value> {
        self.history().iter().filter_map(|event| describe(event, true)).collect()
    }

    /// The types of the events that are shown.
    pub fn event_types(&self) -> Vec<String> {
        self.history().iter().filter_map(|event| type_name(&event.kind)).collect()
    }

    /// The ways that its states took.
    pub fn ways(&self) -> &[Taken] {
        &self.world.ways
    }

    /// States whose mocks were never asked.
    pub fn unused_mocks(&self) -> &[String] {
        &self.unused
    }
}
