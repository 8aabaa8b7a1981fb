//! One execution under virtual time: the real engine, a clock that jumps from one thing to the next, and somebody who
//! answers for the tasks.
//!
//! ```text
//! Execution ── events ──► World ── Asked ──► Answers
//!     ▲                     │ open attempts,     │
//!     └── Report, Wake ─────┘ the clock     ◄────┘ Answer
//! ```
//!
//! It looks at events, not at commands: whatever an attempt is given to, a worker, a service, another execution, it is
//! open from its `…Scheduled` event on, and answered by a report.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use serde_json::Value;
use stagepost_asl::{IntegrationPattern, Resource, StateIndex, StateKind, StateMachine};
use stagepost_engine::{
    Applied, EventKind, Execution, HistoryEvent, Input, Origin, Outcome,
    command::{Env, Taken},
    history::{Assigned, ScopeId, TOP_LEVEL},
};
use stagepost_protocol::{Payload, ReportOutcome, Timestamp, TokenKey, error_names};

/// An attempt of a task that wants an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The event that scheduled it.
    pub event_id: u64,
    /// Where it runs.
    pub scope: ScopeId,
    /// Its state.
    pub state: StateIndex,
    /// The event that entered the state: the same for all attempts of one visit.
    pub entered_id: u64,
    /// The number of the attempt within the visit, from 1.
    pub attempt: u32,
    /// The place of the item, in an iteration of a Map state: of the innermost one.
    pub item: Option<u32>,
    /// What the task is given.
    pub input: Payload,
    /// `TimeoutSeconds`, where it has one.
    pub timeout_seconds: Option<u64>,
    /// `HeartbeatSeconds`, where it has one.
    pub heartbeat_seconds: Option<u64>,
}

impl Asked {
    /// It fails by itself when nobody answers.
    pub fn ends_by_itself(&self) -> bool {
        self.timeout_seconds.is_some() || self.heartbeat_seconds.is_some()
    }
}

/// What a task says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// It succeeded.
    Result(Value),
    /// It failed.
    Error {
        /// Its name, which Retry and Catch match.
        error: Option<String>,
        /// For people.
        cause: Option<String>,
    },
    /// Nothing, until its `TimeoutSeconds` or `HeartbeatSeconds` is over; `States.Timeout` at once where it has neither.
    Timeout,
    /// Nothing, ever.
    Never,
}

/// What a task says, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What.
    pub said: Said,
    /// So long after the attempt was scheduled, in milliseconds.
    pub after_millis: i64,
}

impl From<Said> for Answer {
    fn from(said: Said) -> Answer {
        Answer { said, after_millis: 0 }
    }
}

/// Answers for tasks.
pub(crate) trait Answers {
    /// The answer to an attempt; `Err` stops the world, which asks again when it goes on.
    fn answer(&mut self, asked: &Asked) -> Result<Answer, Stop>;
}

/// Why a world stands still.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// The execution has ended.
    Ended,
    /// Nobody will ever answer, and no time is awaited.
    WaitsForever,
    /// So many events happened that it may be endless.
    Endless,
    /// There is no answer for this task.
    NoAnswer {
        /// Its state.
        state: String,
        /// How many answers it had before.
        had: u32,
        /// What it was given.
        input: Value,
    },
    /// Whoever answers wants to think first.
    Paused,
}

/// Where, in which state.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) parent: Option<ScopeId>,
    /// The item, if it is an iteration.
    item: Option<u32>,
    state: Option<StateIndex>,
    entered_id: u64,
    attempts: u32,
}

/// An entry of a state, with what its expressions can see.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) scope: ScopeId,
    pub(crate) state: StateIndex,
    pub(crate) input: Payload,
    /// The variables in sight.
    pub(crate) variables: Arc<BTreeMap<String, Value>>,
    /// How many ways had been taken before the decision that entered it.
    pub(crate) ways: usize,
    /// How many events had happened before it.
    pub(crate) event: usize,
}

/// An attempt whose answer is on its way.
#[derive(Debug, Clone)]
struct Open {
    event_id: u64,
    due: Option<Timestamp>,
    said: Said,
}

/// An execution under virtual time.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) execution: Execution,
    pub(crate) now: Timestamp,
    pub(crate) events: Vec<HistoryEvent>,
    /// The states, in the order in which they were entered.
    pub(crate) entries: Vec<Entry>,
    /// What was answered, in the order in which it was asked for.
    pub(crate) given: Vec<(Asked, Answer)>,
    pub(crate) ways: Vec<Taken>,
    pub(crate) places: BTreeMap<ScopeId, Place>,
    variables: BTreeMap<ScopeId, Arc<BTreeMap<String, Value>>>,
    next_scope: ScopeId,
    to_ask: Vec<Asked>,
    open: Vec<Open>,
    random: Cell<u64>,
    key: TokenKey,
    events_max: u64,
}

/// How a world begins.
#[derive(Debug, Clone)]
pub(crate) struct Beginning {
    pub(crate) origin: Origin,
    pub(crate) seed: u64,
    pub(crate) events_max: u64,
}

impl World {
    pub(crate) fn start(machine: &Arc<StateMachine>, beginning: &Beginning) -> World {
        let Beginning { origin, seed, events_max } = beginning;
        let (key, random) = (TokenKey::new(b"virtual time"), Cell::new(*seed));
        let next = || next_random(&random);
        let env = Env { now: origin.started_at, token_key: &key, random: &next, activity_exists: &|_| true };
        let (execution, applied) = Execution::start(origin.clone(), Arc::clone(machine), &env);
        let mut world = World {
            now: origin.started_at,
            execution,
            events: Vec::new(),
            entries: Vec::new(),
            given: Vec::new(),
            ways: Vec::new(),
            places: BTreeMap::from([(TOP_LEVEL, Place::new(None, None))]),
            variables: BTreeMap::new(),
            next_scope: TOP_LEVEL + 1,
            to_ask: Vec::new(),
            open: Vec::new(),
            random,
            key,
            events_max: *events_max,
        };
        world.take(applied);
        world
    }

    /// Goes on until it cannot.
    pub(crate) fn run(&mut self, answers: &mut dyn Answers) -> Stop {
        loop {
            if self.execution.end().is_some() {
                return Stop::Ended;
            }
            if self.events.len() as u64 >= self.events_max {
                return Stop::Endless;
            }
            if let Some(asked) = self.to_ask.first().cloned() {
                match answers.answer(&asked) {
                    Ok(answer) => self.begin(&asked, answer),
                    Err(stop) => return stop,
                }
                continue;
            }
            // An answer that comes at the moment of a deadline counts.
            let answer = self.open.iter().filter_map(|open| open.due).min();
            match (answer, self.execution.next_deadline()) {
                (None, None) => return Stop::WaitsForever,
                (Some(due), deadline) if deadline.is_none_or(|deadline| due <= deadline) => {
                    self.now = self.now.max(due);
                    self.deliver(due);
                }
                (_, deadline) => {
                    self.now = self.now.max(deadline.unwrap_or(self.now));
                    self.decide(Input::Wake);
                }
            }
        }
    }

    /// What whoever answers was asked last.
    pub(crate) fn asks(&self) -> Option<&Asked> {
        self.to_ask.first()
    }

    /// All attempts that have no answer yet.
    pub(crate) fn to_ask(&self) -> &[Asked] {
        &self.to_ask
    }

    fn begin(&mut self, asked: &Asked, answer: Answer) {
        self.to_ask.remove(0);
        self.given.push((asked.clone(), answer.clone()));
        let said = match answer.said {
            Said::Timeout if !asked.ends_by_itself() => {
                Said::Error { error: Some(error_names::TIMEOUT.to_owned()), cause: None }
            }
            said => said,
        };
        let silent = matches!(said, Said::Timeout | Said::Never);
        if said == Said::Timeout || answer.after_millis > 0 {
            // Heartbeats are awaited of what has begun.
            self.report(asked.event_id, ReportOutcome::Started);
        }
        if !matches!(said, Said::Error { .. }) && self.is_submitted(asked.state) {
            self.report(asked.event_id, ReportOutcome::Submitted(Payload::empty_object()));
        }
        let due = (!silent).then(|| self.now.plus_millis(answer.after_millis));
        self.open.push(Open { event_id: asked.event_id, due, said });
    }

    /// Whether a task is a call that is accepted first and ends later.
    fn is_submitted(&self, state: StateIndex) -> bool {
        let StateKind::Task(task) = &self.machine().state(state).kind else { return false };
        matches!(&task.resource, Resource::Service { pattern, .. } if *pattern != IntegrationPattern::RequestResponse)
    }

    fn deliver(&mut self, due: Timestamp) {
        let Some(place) = self.open.iter().position(|open| open.due == Some(due)) else { return };
        let Open { event_id, said, .. } = self.open.remove(place);
        let outcome = match said {
            Said::Result(value) => ReportOutcome::Succeeded(Payload::from_value(&value)),
            Said::Error { error, cause } => ReportOutcome::Failed { error, cause },
            Said::Timeout | Said::Never => return,
        };
        self.report(event_id, outcome);
    }

    fn report(&mut self, event_id: u64, outcome: ReportOutcome) {
        self.decide(Input::Report { event_id, worker: None, started_at: None, child: None, outcome });
    }

    fn decide(&mut self, input: Input) {
        let random = &self.random;
        let next = || next_random(random);
        let env = Env { now: self.now, token_key: &self.key, random: &next, activity_exists: &|_| true };
        match self.execution.decide(input, &env) {
            Outcome::Applied(applied) => self.take(applied),
            // An answer to an attempt that another branch has aborted meanwhile, or a repetition.
            Outcome::Ignored(_) => {}
        }
    }

    fn take(&mut self, applied: Applied) {
        for event in applied.events {
            self.note(&event);
            self.events.push(event);
        }
        self.ways.extend(applied.ways);
        let closed = |execution: &Execution, event_id| !execution.is_open(event_id);
        self.to_ask.retain(|asked| !closed(&self.execution, asked.event_id));
        self.open.retain(|open| !closed(&self.execution, open.event_id));
    }

    fn note(&mut self, event: &HistoryEvent) {
        let HistoryEvent { id, scope, ref kind, .. } = *event;
        match kind {
            EventKind::StateEntered { name, input, .. } => self.enter(event, name, input),
            EventKind::StateExited { assigned, .. } => self.assign(scope, assigned),
            EventKind::ActivityScheduled { input, timeout_seconds, heartbeat_seconds, .. } => {
                self.ask(id, scope, input, *timeout_seconds, *heartbeat_seconds);
            }
            EventKind::LambdaFunctionScheduled { input, timeout_seconds, .. } => {
                self.ask(id, scope, input, *timeout_seconds, None);
            }
            EventKind::TaskScheduled { parameters, timeout_seconds, heartbeat_seconds, .. } => {
                self.ask(id, scope, parameters, *timeout_seconds, *heartbeat_seconds);
            }
            EventKind::ParallelStateStarted { branches } => {
                (0..*branches).for_each(|_| self.open_scope(scope, None));
            }
            EventKind::MapIterationStarted { index, .. } => self.open_scope(scope, Some(*index)),
            _ => {}
        }
    }

    fn open_scope(&mut self, parent: ScopeId, item: Option<u32>) {
        let item = item.or_else(|| self.places.get(&parent)?.item);
        self.places.insert(self.next_scope, Place::new(Some(parent), item));
        let seen = self.variables.get(&parent).cloned().unwrap_or_default();
        self.variables.insert(self.next_scope, seen);
        self.next_scope += 1;
    }

    fn enter(&mut self, event: &HistoryEvent, name: &str, input: &Payload) {
        let Some(state) = self.execution.definition().by_name.get(name).copied() else { return };
        let scope = event.scope;
        if let Some(place) = self.places.get_mut(&scope) {
            (place.state, place.entered_id, place.attempts) = (Some(state), event.id, 0);
        }
        let variables = self.variables.get(&scope).cloned().unwrap_or_default();
        let (ways, event) = (self.ways.len(), self.events.len());
        self.entries.push(Entry { scope, state, input: input.clone(), variables, ways, event });
    }

    fn assign(&mut self, scope: ScopeId, assigned: &[Assigned]) {
        if assigned.is_empty() {
            return;
        }
        let seen = Arc::make_mut(self.variables.entry(scope).or_default());
        seen.extend(assigned.iter().map(|a| (a.name.to_string(), a.value.to_value())));
    }

    fn ask(
        &mut self,
        event_id: u64,
        scope: ScopeId,
        input: &Payload,
        timeout_seconds: Option<u64>,
        heartbeat_seconds: Option<u64>,
    ) {
        let Some(place) = self.places.get_mut(&scope) else { return };
        let Some(state) = place.state else { return };
        place.attempts += 1;
        self.to_ask.push(Asked {
            event_id,
            scope,
            state,
            entered_id: place.entered_id,
            attempt: place.attempts,
            item: place.item,
            input: input.clone(),
            timeout_seconds,
            heartbeat_seconds,
        });
    }

    /// What it runs.
    pub(crate) fn machine(&self) -> &Arc<StateMachine> {
        self.execution.definition()
    }
}

impl Place {
    fn new(parent: Option<ScopeId>, item: Option<u32>) -> Place {
        Place { parent, item, state: None, entered_id: 0, attempts: 0 }
    }
}

/// SplitMix64: every run with the same seed is the same run.
fn next_random(state: &Cell<u64>) -> u64 {
    state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut z = state.get();
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
