//! What an execution is at a moment, and how one event changes it.
//!
//! [`Live::evolve`] is the only thing that changes it. It evaluates nothing: what an expression gave is in the event.
//! Every event touches its own scope and at most that scope's parent, whatever the size of the execution; only the end
//! of a state with branches or iterations takes what runs below it along.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use stagepost_asl::{StateIndex, StateKind, StateMachine};
use stagepost_protocol::{Payload, Timestamp};

use crate::{
    execution::End,
    history::{Assigned, EventKind, Failure, HistoryEvent, ScopeId, TOP_LEVEL},
};

mod attempts;
mod check;
mod children;
mod leases;
mod map_run;
mod redrive;
mod signals;
mod unsuccessful;

pub(crate) use attempts::{Attempt, Attempts};
pub(crate) use children::Children;
pub(crate) use leases::Lease;
pub(crate) use map_run::{MapRun, OpenChild, Source, Stage};

use children::Items;
use signals::Signals;

/// The state of an execution but for its origin and definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) last_event_id: u64,
    pub(crate) last_at: Timestamp,
    next_scope: ScopeId,
    scopes: BTreeMap<ScopeId, Scope>,
    /// `TimeoutSeconds` of the definition.
    timeout_at: Option<Timestamp>,
    pub(crate) end: Option<(End, Timestamp)>,
    /// When it was redriven, and by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redriven: Option<Redriven>,
    /// Those that no state has taken.
    #[serde(default, skip_serializing_if = "Signals::is_empty")]
    pub(crate) signals: Signals,
    // What follows is found from the above, and kept beside it so that it is found fast.
    #[serde(skip)]
    attempts: Attempts,
    /// Map Runs by the event that began them.
    #[serde(skip)]
    map_runs: BTreeMap<u64, ScopeId>,
    #[serde(skip)]
    deadlines: BTreeSet<Deadline>,
    #[serde(skip)]
    bytes: usize,
    /// Of the variables in all scopes.
    #[serde(skip)]
    variable_bytes: usize,
}

/// The newest redrive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Redriven {
    /// How often the execution was redriven.
    pub(crate) count: u32,
    pub(crate) at: Timestamp,
    /// `clientToken` of the request.
    pub(crate) client_token: Option<Arc<str>>,
}

/// When something becomes due, where and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline {
    pub(crate) at: Timestamp,
    pub(crate) scope: ScopeId,
    pub(crate) kind: DeadlineKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DeadlineKind {
    /// The execution takes too long.
    Execution,
    /// A Wait state is over.
    Wait,
    /// A retry begins.
    Retry,
    /// An attempt takes too long.
    Timeout,
    /// An attempt is silent for too long.
    Heartbeat,
    /// A state is entered, after [`EventKind::Yielded`].
    Enter,
    /// A Map state starts more iterations, after [`EventKind::MapPaused`].
    Iterate,
}

/// The top level, a branch or an iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scope {
    /// The scope whose Parallel or Map state this one belongs to; `None` at the top level.
    pub(crate) parent: Option<ScopeId>,
    /// The place of the branch or item.
    pub(crate) index: u32,
    /// What the next event's `previous_id` will be.
    pub(crate) chain: u64,
    pub(crate) current: Current,
    /// Its own; those of the scopes around it are seen from here too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    variables: BTreeMap<Arc<str>, Payload>,
}

/// Where a scope is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Current {
    /// Between two states; only within a decision.
    Between,
    /// A state is to be entered by a wake-up that is due already.
    ToEnter { state: u32, input: Payload, due: Timestamp },
    /// In a state.
    In(Step),
    /// The last state was left. An iteration stays so until `MapIterationSucceeded`; only within a decision.
    Done,
}

/// One visit of one state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    state: u32,
    pub(crate) entered_id: u64,
    /// The event that the entry followed.
    #[serde(default)]
    pub(crate) entered_after: u64,
    pub(crate) entered_at: Timestamp,
    pub(crate) input: Payload,
    /// Attempts scheduled so far.
    pub(crate) attempts: u32,
    /// How often each retrier was used; shorter than the retriers where the rest was not.
    pub(crate) used: Vec<u32>,
    pub(crate) phase: Phase,
}

impl Step {
    pub(crate) fn state(&self) -> StateIndex {
        StateIndex(self.state)
    }

    pub(crate) fn retries(&self) -> u32 {
        self.used.iter().sum()
    }
}

/// What a step waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Nothing; only within a decision.
    Deciding,
    /// The time of a Wait state.
    Waiting(Timestamp),
    /// The time of a retry.
    Retrying(Timestamp),
    /// The end of an attempt.
    Attempting(Attempt),
    /// The branches or iterations.
    Children(Box<Children>),
    /// Nothing, only within a decision: the state failed with these. If the execution ends so, a redrive goes on
    /// with them.
    Closed(Box<Children>),
    /// The child executions of a distributed Map state.
    MapRun(Box<MapRun>),
    /// Nothing, only within a decision: the Map Run has ended without success. If the execution ends so, a redrive goes
    /// on with it.
    ClosedMapRun(Box<MapRun>),
}

const SCOPE_BYTES: usize = 320;
const INDEX_BYTES: usize = 64;

impl Scope {
    /// About its size in memory, without the scopes below it. Cheap.
    fn bytes(&self) -> usize {
        let current = match &self.current {
            Current::Between | Current::Done => 0,
            Current::ToEnter { input, .. } => input.len(),
            Current::In(step) => {
                let phase = match &step.phase {
                    Phase::Deciding | Phase::Waiting(_) | Phase::Retrying(_) => 0,
                    Phase::Attempting(attempt) => attempt.input.len() + INDEX_BYTES,
                    // The items of a Map state are cached beside its input.
                    Phase::Children(c) | Phase::Closed(c) => {
                        let given = c.given.as_ref().map_or(0, Payload::len);
                        c.results.len() * 48 + c.result_bytes + step.input.len() + 2 * given
                    }
                    Phase::MapRun(run) | Phase::ClosedMapRun(run) => run.bytes(),
                };
                step.input.len() + 4 * step.used.len() + phase
            }
        };
        SCOPE_BYTES + current + self.variable_bytes()
    }

    fn variable_bytes(&self) -> usize {
        self.variables.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    fn deadlines(&self, scope: ScopeId) -> impl Iterator<Item = Deadline> {
        use DeadlineKind::{Enter, Heartbeat, Iterate, Retry, Timeout, Wait};
        let (first, second) = match &self.current {
            Current::Between | Current::Done => (None, None),
            Current::ToEnter { due, .. } => (Some((*due, Enter)), None),
            Current::In(step) => match &step.phase {
                Phase::Deciding | Phase::Closed(_) | Phase::ClosedMapRun(_) => (None, None),
                Phase::Waiting(until) => (Some((*until, Wait)), None),
                Phase::Retrying(due) => (Some((*due, Retry)), None),
                Phase::Attempting(attempt) => (
                    attempt.timeout_at.map(|at| (at, Timeout)),
                    attempt.heartbeat_due.map(|at| (at, Heartbeat)),
                ),
                Phase::Children(children) => (children.paused.map(|at| (at, Iterate)), None),
                Phase::MapRun(run) => (run.paused.map(|at| (at, Iterate)), None),
            },
        };
        [first, second].into_iter().flatten().map(move |(at, kind)| Deadline { at, scope, kind })
    }

    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        match &self.current {
            Current::In(Step { phase: Phase::Attempting(attempt), .. }) => Some(attempt),
            _ => None,
        }
    }

    pub(crate) fn step(&self) -> Option<&Step> {
        match &self.current {
            Current::In(step) => Some(step),
            _ => None,
        }
    }

    fn step_mut(&mut self) -> Result<&mut Step, String> {
        match &mut self.current {
            Current::In(step) => Ok(step),
            _ => Err("no state is entered in its scope".to_owned()),
        }
    }

    fn attempt_mut(&mut self) -> Result<&mut Attempt, String> {
        match &mut self.step_mut()?.phase {
            Phase::Attempting(attempt) => Ok(attempt),
            _ => Err("no attempt is open in its scope".to_owned()),
        }
    }

    pub(crate) fn children(&self) -> Option<&Children> {
        match &self.current {
            Current::In(Step { phase: Phase::Children(children), .. }) => Some(children),
            _ => None,
        }
    }

    fn children_mut(&mut self) -> Result<&mut Children, String> {
        match &mut self.step_mut()?.phase {
            Phase::Children(children) => Ok(children),
            _ => Err("no branches or iterations run in its scope".to_owned()),
        }
    }
}

impl Live {
    pub(crate) fn new() -> Live {
        Live {
            last_event_id: 0,
            last_at: Timestamp::from_millis(i64::MIN),
            next_scope: TOP_LEVEL,
            scopes: BTreeMap::new(),
            timeout_at: None,
            end: None,
            redriven: None,
            signals: Signals::default(),
            attempts: Attempts::default(),
            map_runs: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
            variable_bytes: 0,
        }
    }

    /// Fills in what is not stored.
    pub(crate) fn index_all(&mut self) {
        self.attempts.clear();
        self.deadlines.clear();
        self.map_runs.clear();
        (self.bytes, self.variable_bytes) = (0, 0);
        let scopes = std::mem::take(&mut self.scopes);
        for (id, scope) in &scopes {
            self.index(*id, scope);
        }
        self.scopes = scopes;
        self.deadlines.extend(self.execution_deadline());
    }

    /// Why this state cannot be one of an execution of `definition`.
    pub(crate) fn misfit(&self, definition: &StateMachine) -> Option<String> {
        self.scopes.values().find_map(|scope| {
            let state = match &scope.current {
                Current::Between | Current::Done => return None,
                Current::ToEnter { state, .. } => *state,
                Current::In(step) => step.state,
            };
            (state as usize >= definition.states.len()).then(|| "the definition lacks a state".to_owned())
        })
    }

    pub(crate) fn scope(&self, id: ScopeId) -> Option<&Scope> {
        self.scopes.get(&id)
    }

    pub(crate) fn scope_of_attempt(&self, event_id: u64) -> Option<ScopeId> {
        self.attempts.scope(event_id)
    }

    /// The items of the Map state in a scope, if they were kept.
    pub(crate) fn kept_items(&self, scope: ScopeId) -> Option<&Arc<Vec<Payload>>> {
        self.scope(scope)?.children()?.items.0.as_ref()
    }

    pub(crate) fn keep_items(&mut self, scope: ScopeId, items: Arc<Vec<Payload>>) {
        // What the cache weighs is in the weight of the children already, so this is no change of the state.
        if let Some(Ok(children)) = self.scopes.get_mut(&scope).map(Scope::children_mut) {
            children.items = Items(Some(items));
        }
    }

    /// Attempts that are open, or were at the end, with their states.
    pub(crate) fn attempting(&self) -> impl Iterator<Item = (StateIndex, &Attempt)> {
        self.scopes.values().filter_map(|scope| Some((scope.step()?.state(), scope.attempt()?)))
    }

    pub(crate) fn first_deadline(&self) -> Option<Deadline> {
        self.deadlines.first().copied()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.signals.bytes()
    }

    /// What all variables weigh.
    pub(crate) fn variable_bytes(&self) -> usize {
        self.variable_bytes
    }

    /// A variable as a scope sees it.
    pub(crate) fn variable(&self, scope: ScopeId, name: &str) -> Option<&Payload> {
        let mut next = Some(scope);
        while let Some(scope) = next.and_then(|id| self.scopes.get(&id)) {
            if let Some(value) = scope.variables.get(name) {
                return Some(value);
            }
            next = scope.parent;
        }
        None
    }

    fn execution_deadline(&self) -> Option<Deadline> {
        let at = self.timeout_at?;
        Some(Deadline { at, scope: TOP_LEVEL, kind: DeadlineKind::Execution })
    }

    fn index(&mut self, id: ScopeId, scope: &Scope) {
        self.bytes += scope.bytes();
        self.variable_bytes += scope.variable_bytes();
        // What has ended waits for nothing.
        if self.end.is_some() {
            return;
        }
        self.deadlines.extend(scope.deadlines(id));
        if let Some(attempt) = scope.attempt() {
            self.attempts.insert(attempt, id);
        }
        if let Some(run) = scope.map_run() {
            self.map_runs.insert(run.started_id, id);
        }
    }

    /// Changes a scope, and with it what is found from it.
    fn change<T>(
        &mut self,
        id: ScopeId,
        change: impl FnOnce(&mut Scope) -> Result<T, String>,
    ) -> Result<T, String> {
        let scope = self.scopes.get_mut(&id).ok_or_else(|| format!("there is no scope {id}"))?;
        self.bytes -= scope.bytes();
        self.variable_bytes -= scope.variable_bytes();
        for deadline in scope.deadlines(id) {
            self.deadlines.remove(&deadline);
        }
        if let Some(attempt) = scope.attempt() {
            self.attempts.remove(attempt, id);
        }
        let had_map_run = scope.map_run().map(|run| run.started_id);
        let result = change(scope);
        // As in `index`, spelled out because the scope is borrowed.
        self.bytes += scope.bytes();
        self.variable_bytes += scope.variable_bytes();
        self.deadlines.extend(scope.deadlines(id));
        if let Some(attempt) = scope.attempt() {
            self.attempts.insert(attempt, id);
        }
        let has_map_run = scope.map_run().map(|run| run.started_id);
        if had_map_run != has_map_run {
            had_map_run.map(|started| self.map_runs.remove(&started));
            self.map_runs.extend(has_map_run.map(|started| (started, id)));
        }
        result
    }

    fn open_scope(&mut self, parent: Option<ScopeId>, index: u32, chain: u64) -> ScopeId {
        let id = self.next_scope;
        self.next_scope += 1;
        let scope = Scope { parent, index, chain, current: Current::Between, variables: BTreeMap::new() };
        self.index(id, &scope);
        self.scopes.insert(id, scope);
        id
    }

    /// Closes a scope and all below it.
    fn close_scope(&mut self, id: ScopeId) {
        let mut closing = vec![id];
        while let Some(id) = closing.pop() {
            let Some(scope) = self.scopes.remove(&id) else { continue };
            self.bytes -= scope.bytes();
            self.variable_bytes -= scope.variable_bytes();
            for deadline in scope.deadlines(id) {
                self.deadlines.remove(&deadline);
            }
            if let Some(attempt) = scope.attempt() {
                self.attempts.remove(attempt, id);
            }
            if let Some(run) = scope.map_run() {
                self.map_runs.remove(&run.started_id);
            }
            if let Current::In(Step { phase: Phase::Children(c) | Phase::Closed(c), .. }) = &scope.current {
                closing.extend(c.scopes());
            }
        }
    }

    /// The step in this scope stops running what runs below it.
    fn close_children(&mut self, id: ScopeId, next: Phase) -> Result<(), String> {
        let previous = self.change(id, |scope| Ok(std::mem::replace(&mut scope.step_mut()?.phase, next)))?;
        if let Phase::Children(children) | Phase::Closed(children) = previous {
            children.scopes().for_each(|child| self.close_scope(child));
        }
        Ok(())
    }

    /// Changes the state by one event.
    pub(crate) fn evolve(&mut self, definition: &StateMachine, event: &HistoryEvent) -> Result<(), String> {
        if self.end.is_some() && !matches!(event.kind, EventKind::ExecutionRedriven { .. }) {
            return Err("the execution has ended before it".to_owned());
        }
        let expected = self.last_event_id + u64::from(!event.kind.is_hidden());
        if event.id != expected {
            return Err(format!("its id should be {expected}"));
        }
        self.apply(definition, event)?;
        self.last_event_id = event.id;
        self.last_at = self.last_at.max(event.at);
        Ok(())
    }

    fn apply(&mut self, definition: &StateMachine, event: &HistoryEvent) -> Result<(), String> {
        let HistoryEvent { id, previous_id, at, scope, ref kind } = *event;
        match kind {
            EventKind::ExecutionStarted { .. } => self.start(definition, event),
            EventKind::ExecutionSucceeded { output } => self.finish(End::Succeeded(output.clone()), at),
            EventKind::ExecutionFailed(Failure { error, cause }) => {
                self.finish(End::Failed { error: error.clone(), cause: cause.clone() }, at)
            }
            EventKind::ExecutionTimedOut(_) => self.finish(End::TimedOut, at),
            EventKind::ExecutionAborted(Failure { error, cause }) => {
                self.finish(End::Aborted { error: error.clone(), cause: cause.clone() }, at)
            }
            EventKind::ExecutionRedriven { .. } => self.redrive(definition, event),
            EventKind::StateEntered { name, input, .. } => self.enter(definition, event, name, input),
            EventKind::StateExited { output, last, assigned, .. } => {
                self.leave(scope, id, output, *last, assigned)
            }
            EventKind::EvaluationFailed { .. } => self.change(scope, |s| {
                s.chain = id;
                s.step_mut().map(|_| ())
            }),
            EventKind::StateAborted { .. } => Ok(()),
            EventKind::ActivityScheduled { input, timeout_seconds, heartbeat_seconds, .. } => {
                let attempt = Attempt::scheduled(event, input, *timeout_seconds, *heartbeat_seconds);
                self.schedule(scope, attempt)
            }
            EventKind::LambdaFunctionScheduled { input, timeout_seconds, .. } => {
                self.schedule(scope, Attempt::scheduled(event, input, *timeout_seconds, None))
            }
            EventKind::TaskScheduled { parameters, timeout_seconds, heartbeat_seconds, .. } => {
                let attempt = Attempt::scheduled(event, parameters, *timeout_seconds, *heartbeat_seconds);
                self.schedule(scope, attempt)
            }
            EventKind::ActivityStarted { .. }
            | EventKind::LambdaFunctionStarted
            | EventKind::TaskStarted { .. } => self.start_attempt(event),
            EventKind::TaskSubmitted { .. } => self.change(scope, |s| {
                s.chain = id;
                s.attempt_mut().map(Attempt::submit)
            }),
            EventKind::ActivitySucceeded { .. }
            | EventKind::ActivityFailed(_)
            | EventKind::ActivityTimedOut(_)
            | EventKind::LambdaFunctionSucceeded { .. }
            | EventKind::LambdaFunctionFailed(_)
            | EventKind::LambdaFunctionTimedOut(_)
            | EventKind::TaskSucceeded { .. }
            | EventKind::TaskFailed { .. }
            | EventKind::TaskTimedOut { .. } => self.end_attempt(event),
            EventKind::ParallelStateStarted { branches } => self.start_branches(event, *branches),
            EventKind::MapStateStarted { .. } if self.is_distributed(definition, scope) => {
                self.follow(scope, id)
            }
            EventKind::MapStateStarted { length, max_concurrency, tolerated_failures, items } => {
                self.start_children(event, *length, *max_concurrency, *tolerated_failures, true)?;
                self.change(scope, |s| {
                    s.children_mut()?.given = items.clone();
                    Ok(())
                })
            }
            EventKind::ParallelStateSucceeded | EventKind::MapStateSucceeded => {
                self.close_children(scope, Phase::Deciding)?;
                // On AWS the state's end follows the event that this one follows.
                self.follow(scope, previous_id)
            }
            EventKind::ParallelStateFailed | EventKind::MapStateFailed => {
                self.change(scope, |s| s.step_mut().map(Step::close))?;
                self.follow(scope, id)
            }
            EventKind::MapIterationStarted { index, .. } => self.start_iteration(event, *index),
            EventKind::MapIterationSucceeded { .. } => {
                let (map, _) = self.close_iteration(scope, previous_id)?;
                self.follow(map, id)
            }
            EventKind::MapIterationFailed { result, .. } => self.fail_iteration(event, result.as_ref()),
            EventKind::MapIterationAborted { .. } => self.stop_iteration(scope, previous_id).map(|_| ()),
            EventKind::WaitScheduled { until } => self.change(scope, |s| {
                s.step_mut()?.phase = Phase::Waiting(*until);
                Ok(())
            }),
            EventKind::RetryScheduled { retrier, due } => self.retry(definition, event, *retrier, *due),
            EventKind::AttemptLeased { .. } | EventKind::AttemptReleased { .. } => self.apply_lease(event),
            EventKind::HeartbeatReceived => self.change(scope, |s| s.attempt_mut().map(|a| a.alive(at))),
            EventKind::SignalAwaited { .. } | EventKind::SignalReceived { .. } | EventKind::SignalTaken => {
                self.apply_signal(event)
            }
            EventKind::Yielded { name, input } => self.put_off(definition, event, name, input),
            EventKind::MapPaused if self.map_run(scope).is_none() => self.change(scope, |s| {
                s.children_mut()?.paused = Some(at);
                Ok(())
            }),
            EventKind::MapPaused
            | EventKind::MapRunStarted { .. }
            | EventKind::MapRunRedriven { .. }
            | EventKind::MapRunSucceeded
            | EventKind::MapRunFailed(_)
            | EventKind::MapRunAborted
            | EventKind::MapItemsRequested
            | EventKind::MapItemsRead { .. }
            | EventKind::MapChildrenStarted { .. }
            | EventKind::MapChildrenRedriven { .. }
            | EventKind::MapChildNotRedrivable { .. }
            | EventKind::MapChildEnded { .. }
            | EventKind::MapRunFailing(_)
            | EventKind::MapResultsRequested
            | EventKind::MapRunUpdated { .. } => self.apply_to_map_run(definition, event),
        }
    }

    fn is_distributed(&self, definition: &StateMachine, scope: ScopeId) -> bool {
        let step = self.scope(scope).and_then(Scope::step);
        step.is_some_and(|step| is_distributed(definition, step.state()))
    }

    fn start(&mut self, definition: &StateMachine, event: &HistoryEvent) -> Result<(), String> {
        if event.id != 1 {
            return Err("an execution starts once".to_owned());
        }
        self.open_scope(None, 0, 0);
        self.timeout_at = definition.timeout_seconds.map(|s| event.at.plus_seconds_f64(s as f64));
        self.deadlines.extend(self.execution_deadline());
        Ok(())
    }

    fn enter(
        &mut self,
        definition: &StateMachine,
        event: &HistoryEvent,
        name: &str,
        input: &Payload,
    ) -> Result<(), String> {
        let StateIndex(state) = named(definition, name)?;
        self.change(event.scope, |s| {
            if !matches!(s.current, Current::Between | Current::ToEnter { .. }) {
                return Err("its scope is in another state".to_owned());
            }
            s.current = Current::In(Step {
                state,
                entered_id: event.id,
                entered_after: event.previous_id,
                entered_at: event.at,
                input: input.clone(),
                attempts: 0,
                used: Vec::new(),
                phase: Phase::Deciding,
            });
            s.chain = event.id;
            Ok(())
        })
    }

    fn put_off(
        &mut self,
        definition: &StateMachine,
        event: &HistoryEvent,
        name: &str,
        input: &Payload,
    ) -> Result<(), String> {
        let StateIndex(state) = named(definition, name)?;
        self.change(event.scope, |s| {
            if !matches!(s.current, Current::Between) {
                return Err("its scope is in another state".to_owned());
            }
            s.current = Current::ToEnter { state, input: input.clone(), due: event.at };
            Ok(())
        })
    }

    fn start_attempt(&mut self, event: &HistoryEvent) -> Result<(), String> {
        self.change(event.scope, |s| {
            s.chain = event.id;
            s.attempt_mut().map(|attempt| attempt.start(event))
        })
    }

    fn end_attempt(&mut self, event: &HistoryEvent) -> Result<(), String> {
        self.change(event.scope, |s| {
            s.attempt_mut()?;
            s.step_mut()?.phase = Phase::Deciding;
            s.chain = event.id;
            Ok(())
        })
    }

    fn retry(
        &mut self,
        definition: &StateMachine,
        event: &HistoryEvent,
        retrier: u32,
        due: Timestamp,
    ) -> Result<(), String> {
        self.close_children(event.scope, Phase::Retrying(due))?;
        let retrier = retrier as usize;
        self.change(event.scope, |s| {
            s.chain = event.previous_id;
            let step = s.step_mut()?;
            if retrier >= retriers(definition, step.state()) {
                return Err("its state has no such retrier".to_owned());
            }
            if step.used.len() <= retrier {
                step.used.resize(retrier + 1, 0);
            }
            step.used[retrier] += 1;
            Ok(())
        })
    }

    fn follow(&mut self, scope: ScopeId, chain: u64) -> Result<(), String> {
        self.change(scope, |s| {
            s.chain = chain;
            Ok(())
        })
    }

    fn finish(&mut self, end: End, at: Timestamp) -> Result<(), String> {
        if self.last_event_id == 0 {
            return Err("the execution has not started".to_owned());
        }
        // A redrive goes on where it stopped.
        if matches!(end, End::Succeeded(_)) {
            self.scopes.clear();
            self.signals = Signals::default();
            (self.bytes, self.variable_bytes) = (0, 0);
        }
        self.end = Some((end, at));
        self.timeout_at = None;
        self.attempts.clear();
        self.map_runs.clear();
        self.deadlines.clear();
        Ok(())
    }

    fn leave(
        &mut self,
        scope: ScopeId,
        id: u64,
        output: &Payload,
        last: bool,
        assigned: &[Assigned],
    ) -> Result<(), String> {
        self.close_children(scope, Phase::Deciding)?;
        let (parent, index) = self.change(scope, |s| {
            s.step_mut()?;
            s.variables.extend(assigned.iter().map(|a| (Arc::clone(&a.name), a.value.clone())));
            s.current = if last { Current::Done } else { Current::Between };
            s.chain = id;
            Ok((s.parent, s.index))
        })?;
        let Some(parent) = parent.filter(|_| last) else { return Ok(()) };
        let is_map = self.change(parent, |p| {
            let children = p.children_mut()?;
            children.put(index, output)?;
            if !children.is_map {
                children.open.remove(&scope);
                p.chain = id;
                return Ok(false);
            }
            Ok(true)
        })?;
        if !is_map {
            self.close_scope(scope);
        }
        Ok(())
    }

    fn schedule(&mut self, scope: ScopeId, attempt: Attempt) -> Result<(), String> {
        self.change(scope, |s| {
            s.chain = attempt.scheduled_id;
            let step = s.step_mut()?;
            if !matches!(step.phase, Phase::Deciding | Phase::Retrying(_)) {
                return Err("its state waits for something else".to_owned());
            }
            step.attempts += 1;
            step.phase = Phase::Attempting(attempt);
            Ok(())
        })
    }
}

fn named(definition: &StateMachine, name: &str) -> Result<StateIndex, String> {
    definition.by_name.get(name).copied().ok_or_else(|| "the definition has no such state".to_owned())
}

fn is_distributed(definition: &StateMachine, state: StateIndex) -> bool {
    matches!(&definition.state(state).kind, StateKind::Map(map) if map.distributed.is_some())
}

fn retriers(definition: &StateMachine, state: StateIndex) -> usize {
    match &definition.state(state).kind {
        StateKind::Task(task) => task.errors.retry.len(),
        StateKind::Parallel(parallel) => parallel.errors.retry.len(),
        StateKind::Map(map) => map.errors.retry.len(),
        StateKind::Pass(_)
        | StateKind::Choice(_)
        | StateKind::Wait(_)
        | StateKind::Succeed
        | StateKind::Fail(_) => 0,
    }
}
