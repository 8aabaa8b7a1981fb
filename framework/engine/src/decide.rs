//! From an input to the events that it leads to.
//!
//! A decision runs every scope that can go on until it waits: for an attempt, for time, or for its branches. Whatever
//! happens is an event first, and changes the execution only by that event.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use stagepost_asl::{
    ErrorHandling, State, StateIndex, StateKind, StateMachine, Transition,
    retry::{self, Handling},
};
use stagepost_protocol::{MapChild, MapRunStatus, Payload, ReportOutcome, Timestamp, error_names, limits};

use crate::{
    command::{Applied, Command, Env, Ignored, Input, Outcome, Taken, Way},
    dataflow::{Doc, Evaluation, Exit},
    execution::Execution,
    history::{EventKind, Failure, HistoryEvent, ScopeId, StateType, TOP_LEVEL},
    hold,
    live::{Current, DeadlineKind, MapRun, Phase, Scope, Step},
    redrive, signals, states,
};

/// A decision that has made so many events stops and leaves the rest to the next wake-up, which is due at once: an
/// endless loop of states that do not wait must not stop everything else.
const DECISION_EVENTS_MAX: usize = 4096;

/// Starts an execution.
pub(crate) fn start(execution: &mut Execution, env: &Env<'_>) -> Applied {
    let definition = Arc::clone(execution.definition());
    let (input, role_arn) = (execution.origin().input.clone(), execution.origin().role_arn.as_str().into());
    let mut decider = Decider::new(execution, &definition, env);
    decider.emit(TOP_LEVEL, 0, EventKind::ExecutionStarted { input: input.clone(), role_arn });
    decider.run(Some(Ready::Enter { scope: TOP_LEVEL, state: definition.start_at, input }));
    decider.finish()
}

/// Decides what an input leads to.
pub(crate) fn decide(execution: &mut Execution, input: Input, env: &Env<'_>) -> Outcome {
    if execution.end().is_some() && !matches!(input, Input::Redrive { .. }) {
        return Outcome::Ignored(Ignored::Ended);
    }
    let definition = Arc::clone(execution.definition());
    let mut decider = Decider::new(execution, &definition, env);
    let ignored = match input {
        Input::Report { event_id, worker, started_at, outcome, child } => {
            match states::distributed::scope_of_report(decider.execution, event_id) {
                Some(scope) => decider.report_to_map_run(scope, event_id, child, outcome),
                None if child.is_some() || states::distributed::is_part(event_id) => {
                    let known = states::distributed::is_known(decider.execution, event_id);
                    Some(if known { Ignored::AttemptClosed } else { Ignored::UnknownAttempt })
                }
                None => decider.report(event_id, worker, started_at, outcome),
            }
        }
        Input::UpdateMapRun {
            arn,
            max_concurrency,
            tolerated_failure_count,
            tolerated_failure_percentage,
        } => {
            let settings = (max_concurrency, tolerated_failure_count, tolerated_failure_percentage);
            match states::distributed::update(&mut decider, &arn, settings) {
                Ok(next) => {
                    decider.run(next);
                    None
                }
                Err(ignored) => Some(ignored),
            }
        }
        Input::Signal { id, name, input } => signals::receive(&mut decider, &id, &name, input),
        Input::Claim { event_id, worker, claim, doubt_millis } => {
            hold::claim(&mut decider, event_id, worker, claim, doubt_millis)
        }
        Input::LeaseOver { event_id } => hold::lease_over(&mut decider, event_id),
        Input::Wake => decider.wake(),
        Input::Expire => {
            decider.emit(TOP_LEVEL, 0, EventKind::ExecutionTimedOut(Failure::default()));
            None
        }
        Input::Redrive { client_token, count } => redrive::redrive(&mut decider, client_token, count),
        Input::Stop { error, cause } => {
            decider.end_map_runs();
            decider.emit(TOP_LEVEL, 0, EventKind::ExecutionAborted(Failure::bounded(error, cause)));
            None
        }
    };
    match ignored {
        Some(ignored) => Outcome::Ignored(ignored),
        None => Outcome::Applied(decider.finish()),
    }
}

/// What a scope does next, within this decision.
pub(crate) enum Ready {
    /// Enter a state.
    Enter { scope: ScopeId, state: StateIndex, input: Payload },
    /// Try the state again.
    Retry { scope: ScopeId },
}

/// Why a state failed.
#[derive(Debug, Clone)]
pub(crate) struct StateFailure {
    pub(crate) failure: Failure,
    /// The name that Retry and Catch match, where it is another than the one that is shown.
    matched: Option<&'static str>,
    /// A JSONata expression failed, and no event says so yet.
    evaluation: Option<FailedEvaluation>,
    /// The Map Run of the state had begun, and has ended.
    work_begun: bool,
}

/// What the event of a failed expression says.
#[derive(Debug, Clone)]
pub(crate) struct FailedEvaluation {
    /// The field.
    pub(crate) location: Option<String>,
    /// The expression itself gave a value, and only then the state had no use for it. The service shows the event
    /// after the state's entry then, and otherwise after what the entry followed.
    pub(crate) late: bool,
}

impl StateFailure {
    pub(crate) fn new(error: &str, cause: String) -> StateFailure {
        Failure::bounded(Some(error.to_owned()), Some(cause)).into()
    }

    /// An attempt that took too long or was silent for too long. The service records both as `States.Timeout`.
    fn timeout(heartbeat: bool) -> StateFailure {
        StateFailure {
            failure: Failure { error: Some(error_names::TIMEOUT.to_owned()), cause: None },
            matched: heartbeat.then_some(error_names::HEARTBEAT_TIMEOUT),
            evaluation: None,
            work_begun: false,
        }
    }

    /// Of a state whose Map Run has ended: the state is said to have failed too.
    pub(crate) fn of_work_begun(mut self) -> StateFailure {
        self.work_begun = true;
        self
    }

    pub(crate) fn of_evaluation(mut self, evaluation: FailedEvaluation) -> StateFailure {
        self.evaluation = Some(evaluation);
        self
    }

    pub(crate) fn name(&self) -> &str {
        self.matched.or(self.failure.error.as_deref()).unwrap_or("")
    }

    /// `{"Error": …, "Cause": …}`, as a catcher gets it.
    pub(crate) fn output(&self) -> Doc {
        let Failure { error, cause } = &self.failure;
        Doc::Parsed(serde_json::json!({ "Error": error, "Cause": cause }))
    }
}

impl From<Failure> for StateFailure {
    fn from(failure: Failure) -> StateFailure {
        StateFailure { failure, matched: None, evaluation: None, work_begun: false }
    }
}

/// One decision under way.
pub(crate) struct Decider<'d> {
    pub(crate) execution: &'d mut Execution,
    pub(crate) definition: &'d StateMachine,
    pub(crate) env: &'d Env<'d>,
    applied: Applied,
    /// Scopes that can go on besides the one that runs.
    ready: VecDeque<Ready>,
    /// Those whose Map Runs have changed.
    touched_map_runs: BTreeSet<ScopeId>,
}

impl<'d> Decider<'d> {
    fn new(execution: &'d mut Execution, definition: &'d StateMachine, env: &'d Env<'d>) -> Decider<'d> {
        Decider {
            execution,
            definition,
            env,
            applied: Applied::default(),
            ready: VecDeque::new(),
            touched_map_runs: BTreeSet::new(),
        }
    }

    /// The time of the next event: now, but never before the last event.
    pub(crate) fn now(&self) -> Timestamp {
        self.env.now.max(self.execution.live.last_at)
    }

    pub(crate) fn emit(&mut self, scope: ScopeId, previous_id: u64, kind: EventKind) -> u64 {
        self.emit_at(self.now(), scope, previous_id, kind)
    }

    fn emit_at(&mut self, at: Timestamp, scope: ScopeId, previous_id: u64, kind: EventKind) -> u64 {
        let id = self.execution.last_event_id() + u64::from(!kind.is_hidden());
        let event = HistoryEvent { id, previous_id, at, scope, kind };
        self.execution.evolve(&event).expect("a decision makes events that follow from its state");
        self.applied.events.push(event);
        id
    }

    /// Emits an event that follows the scope's own last one.
    pub(crate) fn emit_next(&mut self, scope: ScopeId, kind: EventKind) -> u64 {
        self.emit(scope, self.scope(scope).chain, kind)
    }

    /// Notes the way that the state of a scope goes.
    pub(crate) fn take(&mut self, scope: ScopeId, way: Way) {
        let state = self.step(scope).state();
        self.applied.ways.push(Taken { scope, state, way });
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.applied.commands.push(command);
    }

    pub(crate) fn go_on_later(&mut self, ready: Ready) {
        self.ready.push_back(ready);
    }

    pub(crate) fn scope(&self, scope: ScopeId) -> &Scope {
        self.execution.live.scope(scope).expect("a decision looks only at scopes that are open")
    }

    pub(crate) fn step(&self, scope: ScopeId) -> &Step {
        self.scope(scope).step().expect("a decision looks only at scopes that are in a state")
    }

    pub(crate) fn state(&self, scope: ScopeId) -> &'d State {
        self.definition.state(self.step(scope).state())
    }

    pub(crate) fn evaluation(&self, scope: ScopeId) -> Evaluation<'_> {
        Evaluation::new(self.execution, scope, self.step(scope), self.state(scope), self.env)
    }

    /// So many events that the decision should stop.
    pub(crate) fn is_long(&self) -> bool {
        self.applied.events.len() >= DECISION_EVENTS_MAX
    }

    /// Runs everything that can go on.
    pub(crate) fn run(&mut self, first: Option<Ready>) {
        self.ready.extend(first);
        while let Some(ready) = self.ready.pop_front() {
            let mut next = Some(ready);
            while let Some(ready) = next {
                next = self.advance(ready);
            }
        }
    }

    fn advance(&mut self, ready: Ready) -> Option<Ready> {
        let (Ready::Enter { scope, .. } | Ready::Retry { scope }) = ready;
        // A scope that was ready is gone when another branch failed meanwhile.
        self.execution.live.scope(scope)?;
        if self.execution.live.end.is_some() {
            return None;
        }
        if self.execution.last_event_id() >= limits::HISTORY_EVENTS_MAX {
            return self.end_long_history(scope);
        }
        match ready {
            Ready::Enter { scope, state, input } if self.is_long() => {
                let name = Arc::clone(&self.definition.state(state).name);
                let chain = self.scope(scope).chain;
                self.emit(scope, chain, EventKind::Yielded { name, input });
                None
            }
            Ready::Enter { scope, state, input } => self.enter(scope, state, input),
            Ready::Retry { scope } => self.begin(scope),
        }
    }

    fn end_long_history(&mut self, scope: ScopeId) -> Option<Ready> {
        let max = limits::HISTORY_EVENTS_MAX;
        let failure = Failure {
            error: Some(error_names::RUNTIME.to_owned()),
            cause: Some(format!("The execution reached the maximum number of history events ({max}).")),
        };
        let chain = self.scope(scope).chain;
        self.end_map_runs();
        self.emit(TOP_LEVEL, chain, EventKind::ExecutionFailed(failure));
        None
    }

    fn enter(&mut self, scope: ScopeId, state: StateIndex, input: Payload) -> Option<Ready> {
        let state = self.definition.state(state);
        let entered = EventKind::StateEntered {
            state_type: StateType::of(&state.kind),
            name: Arc::clone(&state.name),
            input,
        };
        self.emit_next(scope, entered);
        self.begin(scope)
    }

    /// Does the work of the state that the scope is in, or begins it.
    fn begin(&mut self, scope: ScopeId) -> Option<Ready> {
        match &self.state(scope).kind {
            StateKind::Task(task) => states::task::begin(self, scope, task),
            StateKind::Pass(pass) => states::pass::run(self, scope, pass),
            StateKind::Choice(choice) => states::choice::run(self, scope, choice),
            StateKind::Wait(wait) => states::wait::begin(self, scope, wait),
            StateKind::Succeed => states::succeed::run(self, scope),
            StateKind::Fail(fail) => states::fail::run(self, scope, fail),
            StateKind::Parallel(parallel) => states::parallel::begin(self, scope, parallel),
            StateKind::Map(map) => match &map.distributed {
                None => states::map::begin(self, scope, map),
                Some(_) if self.scope(scope).closed_map_run().is_some() => {
                    states::distributed::redrive(self, scope, map)
                }
                Some(distributed) => states::distributed::begin(self, scope, map, distributed),
            },
        }
    }

    /// Leaves the state with its output, or fails with what kept it from having one.
    pub(crate) fn conclude(
        &mut self,
        scope: ScopeId,
        exit: Result<Exit, StateFailure>,
        transition: Transition,
    ) -> Option<Ready> {
        match exit {
            Ok(exit) => self.leave(scope, exit, transition),
            Err(failure) => self.fail(scope, failure),
        }
    }

    pub(crate) fn leave(&mut self, scope: ScopeId, exit: Exit, transition: Transition) -> Option<Ready> {
        let Exit { output, assigned } = exit;
        let state = self.state(scope);
        let parent = self.scope(scope).parent;
        let exited = EventKind::StateExited {
            state_type: StateType::of(&state.kind),
            name: Arc::clone(&state.name),
            output: output.clone(),
            last: transition == Transition::End,
            assigned,
        };
        self.emit_next(scope, exited);
        match (transition, parent) {
            (Transition::Next(state), _) => Some(Ready::Enter { scope, state, input: output }),
            (Transition::End, None) => {
                self.emit_next(scope, EventKind::ExecutionSucceeded { output });
                None
            }
            (Transition::End, Some(parent)) => match &self.state(parent).kind {
                StateKind::Map(map) => states::map::iteration_succeeded(self, parent, scope, map),
                StateKind::Parallel(parallel) => states::parallel::branch_succeeded(self, parent, parallel),
                _ => None,
            },
        }
    }

    /// The state of a scope failed, after the scope's last event.
    pub(crate) fn fail(&mut self, scope: ScopeId, failure: StateFailure) -> Option<Ready> {
        let chain = self.scope(scope).chain;
        self.fail_after(scope, chain, failure)
    }

    /// The state of a scope failed, after the event `chain`: Retry, Catch, or the scope fails with it.
    pub(crate) fn fail_after(
        &mut self,
        scope: ScopeId,
        chain: u64,
        mut failure: StateFailure,
    ) -> Option<Ready> {
        let announced = self.announce_evaluation(scope, chain, &mut failure);
        let chain = announced.unwrap_or(chain);
        let none = ErrorHandling::default();
        let (errors, closing) = match &self.state(scope).kind {
            StateKind::Task(task) => (&task.errors, None),
            StateKind::Parallel(parallel) => (&parallel.errors, Some(EventKind::ParallelStateFailed)),
            StateKind::Map(map) => (&map.errors, Some(EventKind::MapStateFailed)),
            _ => (&none, None),
        };
        // Only a state whose branches or iterations have begun closes them, or one whose expressions failed.
        let begun = announced.is_some() || failure.work_begun || self.scope(scope).children().is_some();
        let closing = closing.filter(|_| begun);
        let random = fraction((self.env.random)());
        match retry::handle(errors, failure.name(), &self.step(scope).used, random) {
            Handling::Retry { retrier, delay_seconds } => {
                let due = self.now().plus_seconds_f64(delay_seconds);
                let retrier = u32::try_from(retrier).unwrap_or(u32::MAX);
                self.take(scope, Way::Retrier(retrier));
                self.emit(scope, chain, EventKind::RetryScheduled { retrier, due });
                None
            }
            Handling::Catch(catcher) => {
                let place = errors.catch.iter().position(|c| std::ptr::eq(c, catcher)).unwrap_or_default();
                self.take(scope, Way::Catcher(u32::try_from(place).unwrap_or(u32::MAX)));
                if let Some(closing) = closing {
                    self.emit(scope, chain, closing);
                }
                match self.evaluation(scope).caught(failure.output(), catcher) {
                    Ok(exit) => self.leave(scope, exit, Transition::Next(catcher.next)),
                    Err(mut failure) => {
                        let chain = self.scope(scope).chain;
                        self.announce_evaluation(scope, chain, &mut failure);
                        self.fail_scope(scope, failure)
                    }
                }
            }
            Handling::Fail => {
                self.take(scope, Way::Uncaught);
                if let Some(closing) = closing {
                    self.emit(scope, chain, closing);
                }
                self.fail_scope(scope, failure)
            }
        }
    }

    /// Says that an expression failed, if one did and nothing says so yet. Gives the id of that event.
    fn announce_evaluation(&mut self, scope: ScopeId, chain: u64, failure: &mut StateFailure) -> Option<u64> {
        let FailedEvaluation { location, late } = failure.evaluation.take()?;
        let step = self.step(scope);
        let follows = if chain == step.entered_id && !late { step.entered_after } else { chain };
        let state = Arc::clone(&self.state(scope).name);
        let failed = EventKind::EvaluationFailed { state, location, failure: failure.failure.clone() };
        Some(self.emit(scope, follows, failed))
    }

    fn fail_scope(&mut self, scope: ScopeId, failure: StateFailure) -> Option<Ready> {
        let Some(parent) = self.scope(scope).parent else {
            self.emit_next(scope, EventKind::ExecutionFailed(failure.failure));
            return None;
        };
        match &self.state(parent).kind {
            StateKind::Map(map) => states::map::iteration_failed(self, parent, scope, map, failure),
            StateKind::Parallel(_) => states::parallel::branch_failed(self, parent, scope, failure),
            _ => None,
        }
    }

    fn report(
        &mut self,
        event_id: u64,
        worker: Option<String>,
        started_at: Option<Timestamp>,
        outcome: ReportOutcome,
    ) -> Option<Ignored> {
        let Some(scope) = self.execution.live.scope_of_attempt(event_id) else {
            let known = event_id >= 1 && event_id <= self.execution.last_event_id();
            return Some(if known { Ignored::AttemptClosed } else { Ignored::UnknownAttempt });
        };
        let StateKind::Task(task) = &self.state(scope).kind else { return Some(Ignored::UnknownAttempt) };
        match &outcome {
            ReportOutcome::Released { holder, returns } => {
                return hold::release(self, event_id, holder, *returns);
            }
            // It is decided with what the shell knows besides: as another input.
            ReportOutcome::Claimed(_) => return Some(Ignored::HeldElsewhere),
            _ => {}
        }
        let attempt = self.scope(scope).attempt()?;
        if matches!(outcome, ReportOutcome::Held { returns, .. } if returns < attempt.returns) {
            return Some(Ignored::GivenAgain);
        }
        let (started, heartbeats) = (attempt.started, attempt.heartbeat_millis.is_some());
        if matches!(outcome, ReportOutcome::Submitted(_))
            && (attempt.submitted || !states::task::is_submitted(&task.resource))
        {
            return Some(Ignored::AlreadySubmitted);
        }
        if !started {
            // Timestamps do not go backwards, whatever the worker's clock says.
            let at = started_at.map_or(self.now(), |at| at.clamp(self.execution.live.last_at, self.now()));
            let chain = self.scope(scope).chain;
            self.emit_at(at, scope, chain, states::task::started(&task.resource, worker.clone()));
        }
        match outcome {
            ReportOutcome::Held { lease, .. } => hold::hold(self, scope, worker, &lease).filter(|_| started),
            // Those two never get here.
            ReportOutcome::Released { .. } | ReportOutcome::Claimed(_) => None,
            ReportOutcome::Started if started => Some(Ignored::AlreadyStarted),
            ReportOutcome::Started => None,
            ReportOutcome::Heartbeat if started && !heartbeats => Some(Ignored::AlreadyStarted),
            ReportOutcome::Heartbeat => {
                if started {
                    self.emit_next(scope, EventKind::HeartbeatReceived);
                }
                None
            }
            ReportOutcome::Submitted(output) => {
                self.emit_next(scope, states::task::submitted(&task.resource, output));
                None
            }
            ReportOutcome::Succeeded(output) => {
                let next = states::task::succeeded(self, scope, task, output);
                self.run(next);
                None
            }
            ReportOutcome::Failed { error, cause }
            | ReportOutcome::TimedOut { error, cause }
            | ReportOutcome::Aborted { error, cause } => {
                let next = states::task::failed(self, scope, task, Failure::bounded(error, cause));
                self.run(next);
                None
            }
        }
    }

    /// What became of a child execution of a Map Run, or of what is read or written for it.
    fn report_to_map_run(
        &mut self,
        scope: ScopeId,
        event_id: u64,
        child: Option<MapChild>,
        outcome: ReportOutcome,
    ) -> Option<Ignored> {
        match states::distributed::report(self, scope, event_id, child, outcome) {
            Ok(next) => {
                self.run(next);
                None
            }
            Err(ignored) => Some(ignored),
        }
    }

    fn wake(&mut self) -> Option<Ignored> {
        while let Some(deadline) = self.execution.live.first_deadline() {
            if deadline.at > self.env.now || self.is_long() {
                break;
            }
            let before = self.applied.events.len();
            let next = self.due(deadline.scope, deadline.kind);
            self.run(next);
            if self.applied.events.len() == before {
                // Cannot be: whatever is due leads to an event that moves it. But never spin.
                break;
            }
        }
        self.applied.events.is_empty().then_some(Ignored::NothingDue)
    }

    fn due(&mut self, scope: ScopeId, kind: DeadlineKind) -> Option<Ready> {
        match kind {
            DeadlineKind::Execution => {
                self.end_map_runs();
                self.emit(TOP_LEVEL, 0, EventKind::ExecutionTimedOut(Failure::default()));
                None
            }
            DeadlineKind::Wait => match &self.state(scope).kind {
                StateKind::Wait(wait) => states::wait::elapsed(self, scope, wait),
                _ => None,
            },
            DeadlineKind::Retry => Some(Ready::Retry { scope }),
            DeadlineKind::Timeout | DeadlineKind::Heartbeat => match &self.state(scope).kind {
                StateKind::Task(task) => {
                    let failure = StateFailure::timeout(kind == DeadlineKind::Heartbeat);
                    states::task::timed_out(self, scope, task, failure)
                }
                _ => None,
            },
            DeadlineKind::Enter => match &self.scope(scope).current {
                Current::ToEnter { state, input, .. } => {
                    Some(Ready::Enter { scope, state: StateIndex(*state), input: input.clone() })
                }
                Current::Between | Current::In(_) | Current::Done => None,
            },
            DeadlineKind::Iterate => match &self.state(scope).kind {
                StateKind::Map(map) if self.map_run(scope).is_some() => {
                    states::distributed::start_children(self, scope, map)
                }
                StateKind::Map(map) => states::map::start_iterations(self, scope, map),
                _ => None,
            },
        }
    }

    /// Says of the state that a scope is in, and of all that runs below it, that it was aborted; after the event
    /// `chain`. The scope itself is closed by another event.
    pub(crate) fn abort_state(&mut self, scope: ScopeId, chain: u64) {
        let Some(step) = self.scope(scope).step() else { return };
        let state_type = StateType::of(&self.definition.state(step.state()).kind);
        let announced = match &step.phase {
            Phase::Children(_) => {
                self.abort_children(scope, chain);
                true
            }
            Phase::MapRun(_) => {
                self.abort_map_run(scope, chain);
                true
            }
            Phase::Deciding
            | Phase::Closed(_)
            | Phase::ClosedMapRun(_)
            | Phase::Waiting(_)
            | Phase::Retrying(_)
            | Phase::Attempting(_) => {
                // The API has no such event for the other types, and a Parallel or Map state that failed has said so.
                matches!(state_type, StateType::Task | StateType::Wait)
            }
        };
        if announced {
            let parent = self.scope(scope).parent.unwrap_or(TOP_LEVEL);
            self.emit(parent, chain, EventKind::StateAborted { state_type });
        }
    }

    /// Aborts the branches or iterations of a scope's state, after the event `chain`.
    pub(crate) fn abort_children(&mut self, scope: ScopeId, chain: u64) {
        let Some(children) = self.scope(scope).children() else { return };
        let open: Vec<_> = children.open.iter().copied().collect();
        let name = Arc::clone(&self.state(scope).name);
        let is_map = children.is_map;
        for child in open {
            if is_map {
                let index = self.scope(child).index;
                let state = self.aborted_below(child);
                let aborted = EventKind::MapIterationAborted { name: Arc::clone(&name), index };
                if let Some(nested) = state.nested {
                    self.abort_children(nested, chain);
                    self.abort_map_run(nested, chain);
                }
                self.emit(child, chain, aborted);
                if let Some(state_type) = state.announced {
                    self.emit(scope, chain, EventKind::StateAborted { state_type });
                }
            } else {
                self.abort_state(child, chain);
            }
        }
    }

    /// Aborts the Map Run of a scope's state, if it has one, after the event `chain`.
    fn abort_map_run(&mut self, scope: ScopeId, chain: u64) {
        if self.map_run(scope).is_none() {
            return;
        }
        states::distributed::stop_children(self, scope);
        self.end_map_run(scope, MapRunStatus::Aborted, false);
        self.emit(scope, chain, EventKind::MapRunAborted);
    }

    /// The execution is going to end: the Map Runs that are open end with it.
    fn end_map_runs(&mut self) {
        for scope in self.execution.live.scopes_of_map_runs() {
            states::distributed::stop_children(self, scope);
            self.end_map_run(scope, MapRunStatus::Aborted, false);
        }
    }

    /// The Map Run that a scope waits for.
    pub(crate) fn map_run(&self, scope: ScopeId) -> Option<&MapRun> {
        self.execution.live.map_run(scope)
    }

    /// The Map Run of a scope has changed, so its record is to be written.
    pub(crate) fn touch_map_run(&mut self, scope: ScopeId) {
        self.touched_map_runs.insert(scope);
    }

    /// Makes the last record of a Map Run, which is about to end.
    pub(crate) fn end_map_run(&mut self, scope: ScopeId, status: MapRunStatus, written: bool) {
        self.touched_map_runs.remove(&scope);
        let Some(mut record) = states::distributed::record(self.execution, scope) else { return };
        (record.status, record.stopped_at) = (status, Some(self.now()));
        for counts in [&mut record.items, &mut record.executions] {
            counts.aborted += std::mem::take(&mut counts.running);
            if written {
                counts.results_written = counts.total() - counts.pending;
            }
        }
        self.applied.map_runs.push(record);
    }

    /// What the decision came to.
    fn finish(mut self) -> Applied {
        for scope in std::mem::take(&mut self.touched_map_runs) {
            self.applied.map_runs.extend(states::distributed::record(self.execution, scope));
        }
        self.applied
    }

    fn aborted_below(&self, scope: ScopeId) -> Aborted {
        let Some(step) = self.scope(scope).step() else { return Aborted { nested: None, announced: None } };
        let state_type = StateType::of(&self.definition.state(step.state()).kind);
        let nested = matches!(step.phase, Phase::Children(_) | Phase::MapRun(_)).then_some(scope);
        let shown = nested.is_some() || matches!(state_type, StateType::Task | StateType::Wait);
        Aborted { nested, announced: shown.then_some(state_type) }
    }
}

/// What an aborted iteration leaves to say.
struct Aborted {
    nested: Option<ScopeId>,
    announced: Option<StateType>,
}

/// A number of 64 random bits as one in `0.0..1.0`.
fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}
