//! One state on its own, as the API's TestState runs it: with the evaluation that an execution uses, stopped where the
//! state's work is done elsewhere, and watched on the way.
//!
//! ```text
//! Setup ── begin ──► Ended(Probed)                       Pass, Choice, Wait, Succeed, Fail, or a failure
//!            └─────► Working ── finish(outcome) ──► Probed    Task, Parallel, Map
//! ```
//!
//! Whoever calls it does the work or has a mock of its outcome. A Wait state does not wait: its time is computed, and
//! is over.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};
use stagepost_asl::{
    ErrorHandling, MapState, State, StateIndex, StateKind, StateMachine, Transition,
    retry::{self, Handling},
};
use stagepost_protocol::{ExecutionArn, Payload, ServiceCall, limits};

use crate::{
    command::Env,
    dataflow::{Doc, Evaluation, Exit, too_large},
    decide::StateFailure,
    execution::{Execution, Origin, ReplayError},
    history::{Assigned, EventKind, Failure, HistoryEvent, StateType, TOP_LEVEL},
    observe::Observer,
    states,
};

pub use crate::observe::Stage;

/// The state to try, and what is around it.
pub struct Setup {
    /// What the state is a part of.
    pub definition: Arc<StateMachine>,
    /// The state.
    pub state: StateIndex,
    /// The execution that it pretends to be in. Its input is the state's.
    pub origin: Origin,
    /// The context object. The item of an iteration and a missing task token are added where the state has them.
    pub context: Value,
    /// The variables that it sees.
    pub variables: Map<String, Value>,
    /// The items of a Map state, instead of those in its input: what its item reader read.
    pub items: Option<Value>,
    /// How many iterations of a Map state failed.
    pub failed_iterations: u32,
    /// How often the retrier was used that applies to the failure, if there is one.
    pub retries: u32,
}

/// How the state came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has an output.
    Succeeded,
    /// It failed, and so would its scope.
    Failed,
    /// It failed and would be tried again.
    Retriable,
    /// It failed, and a catcher has an output.
    Caught,
}

impl Status {
    /// As the API spells it (TestState, `status`).
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Succeeded => "SUCCEEDED",
            Status::Failed => "FAILED",
            Status::Retriable => "RETRIABLE",
            Status::Caught => "CAUGHT_ERROR",
        }
    }
}

/// What became of the state.
#[derive(Debug, Clone)]
pub struct Probed {
    /// How it came out.
    pub status: Status,
    /// Its output or that of the catcher.
    pub output: Option<Payload>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The state that follows.
    pub next: Option<Arc<str>>,
    /// What its data looked like on the way, as far as it came.
    pub seen: BTreeMap<Stage, Payload>,
    /// The variables after it, by name.
    pub variables: BTreeMap<Arc<str>, Payload>,
    /// The place of the retrier that matches the failure, used up or not.
    pub retrier: Option<usize>,
    /// How long the retry would wait at most, in seconds: without jitter.
    pub backoff_seconds: Option<f64>,
    /// The place of the catcher that caught the failure.
    pub catcher: Option<usize>,
}

/// Where a state has come to by itself.
pub enum Begun {
    /// To its end.
    Ended(Probed),
    /// To work that is done elsewhere.
    Working(Box<Working>),
}

/// A Task, Parallel or Map state whose work can begin.
pub struct Working {
    probe: Probe,
    parameters: Payload,
    timeout_seconds: Option<u64>,
    items: Option<Items>,
}

/// The items of a Map state.
struct Items {
    count: usize,
    /// How many of their iterations may fail, if the state says so.
    tolerated_failures: Option<u32>,
}

/// Runs the state as far as it goes by itself. The error is a fault of the caller's: a state that is not in the
/// definition.
pub fn begin(setup: Setup, env: &Env<'_>) -> Result<Begun, ReplayError> {
    let probe = Probe::new(setup, env)?;
    let definition = Arc::clone(probe.execution.definition());
    Ok(match &definition.state(probe.state).kind {
        StateKind::Pass(pass) => {
            let exit = states::pass::exit(&probe.evaluation(env), pass);
            Begun::Ended(probe.conclude(exit, pass.transition, env))
        }
        StateKind::Choice(choice) => match states::choice::choose(&probe.evaluation(env), choice).1 {
            Ok((exit, next)) => Begun::Ended(probe.left(exit, Transition::Next(next))),
            Err(failure) => Begun::Ended(probe.failed(failure, env)),
        },
        StateKind::Wait(wait) => {
            let evaluation = probe.evaluation(env);
            let (output, assign) = evaluation.own();
            let exit = states::wait::until(&evaluation, wait, env.now)
                .and_then(|_| evaluation.pass_on(output, assign));
            Begun::Ended(probe.conclude(exit, wait.transition, env))
        }
        StateKind::Succeed => {
            let evaluation = probe.evaluation(env);
            let (output, assign) = evaluation.own();
            let exit = evaluation.pass_on(output, assign);
            Begun::Ended(probe.conclude(exit, Transition::End, env))
        }
        StateKind::Fail(fail) => {
            let evaluation = probe.evaluation(env);
            // Its input is shown as that of the other states, although it has no InputPath.
            let failure = evaluation.input().and_then(|_| states::fail::failure(&evaluation, fail));
            Begun::Ended(probe.failed(failure.unwrap_or_else(|failure| failure), env))
        }
        StateKind::Task(task) => match states::task::work(probe.evaluation(env), task) {
            Ok(work) => probe.working(work.input, work.timeout_seconds, None),
            Err(failure) => Begun::Ended(probe.failed(failure, env)),
        },
        StateKind::Parallel(parallel) => {
            let evaluation = probe.evaluation(env);
            let input = evaluation.parameters(parallel.parameters.as_ref());
            match input.and_then(|doc| evaluation.bounded(doc)) {
                Ok(input) => probe.working(input, None, None),
                Err(failure) => Begun::Ended(probe.failed(failure, env)),
            }
        }
        StateKind::Map(map) => match probe.items(map, env) {
            Ok((items, inputs)) => probe.working(inputs, None, Some(items)),
            Err(failure) => Begun::Ended(probe.failed(failure, env)),
        },
    })
}

impl Working {
    /// What the work is given: the input of an activity, the parameters of a service, the input of the branches or an
    /// array of those of the iterations.
    pub fn parameters(&self) -> &Payload {
        &self.parameters
    }

    /// What a Task state calls; `None` for activities and the other states.
    pub fn target(&self) -> Option<ServiceCall> {
        match &self.probe.state().kind {
            StateKind::Task(task) => states::task::target(&task.resource),
            _ => None,
        }
    }

    /// The execution that the state pretends to be in.
    pub fn execution(&self) -> &ExecutionArn {
        &self.probe.execution.origin().arn
    }

    /// The name of the state.
    pub fn state_name(&self) -> &str {
        &self.probe.state().name
    }

    /// How long the work may take, if the state says so.
    pub fn timeout_seconds(&self) -> Option<u64> {
        self.timeout_seconds
    }

    /// How many items a Map state has.
    pub fn items(&self) -> Option<usize> {
        self.items.as_ref().map(|items| items.count)
    }

    /// Goes on with what the work gave: the result of the task, the array of the branches' outputs, the result of the
    /// Map state. A result of a Map state counts only where its failed iterations are tolerated; a failure is its own.
    pub fn finish(self, outcome: Result<Payload, Failure>, env: &Env<'_>) -> Probed {
        let Working { probe, items, .. } = self;
        let result = match outcome {
            Ok(result) => result,
            Err(failure) => return probe.failed(failure.into(), env),
        };
        // Without a tolerance the service takes the result, however many iterations are said to have failed.
        let tolerated = items.and_then(|items| items.tolerated_failures);
        if tolerated.is_some_and(|max| probe.failed_iterations > max) {
            return probe.failed(states::map::too_many_failed(), env);
        }
        if result.len() > limits::PAYLOAD_BYTES_MAX {
            let failure = too_large(&probe.state().name);
            return probe.failed(failure, env);
        }
        let (selector, result_path, transition) = match &probe.state().kind {
            StateKind::Task(task) => (&task.result_selector, &task.result_path, task.transition),
            StateKind::Parallel(parallel) => {
                (&parallel.result_selector, &parallel.result_path, parallel.transition)
            }
            StateKind::Map(map) => (&map.result_selector, &map.result_path, map.transition),
            // `begin` gives no work to any other.
            _ => return probe.failed(Failure::default().into(), env),
        };
        let evaluation = probe.evaluation(env);
        let exit = evaluation.output(Doc::Text(result.clone()), selector.as_ref(), result_path);
        probe.observer.saw(Stage::Result, result);
        probe.conclude(exit, transition, env)
    }
}

/// The state under test in the execution that it pretends to be in.
struct Probe {
    execution: Execution,
    state: StateIndex,
    observer: Observer,
    variables: BTreeMap<Arc<str>, Payload>,
    items: Option<Value>,
    failed_iterations: u32,
    retries: u32,
}

impl Probe {
    fn new(setup: Setup, env: &Env<'_>) -> Result<Probe, ReplayError> {
        let Setup { definition, state, origin, context, variables, items, failed_iterations, retries } =
            setup;
        let observer = Observer::new(context);
        observer.saw(Stage::Input, origin.input.clone());
        let variables: BTreeMap<Arc<str>, Payload> =
            variables.into_iter().map(|(name, value)| (name.into(), Payload::from_value(&value))).collect();
        let execution = entered(definition, state, origin, &variables, env)?;
        Ok(Probe { execution, state, observer, variables, items, failed_iterations, retries })
    }

    fn state(&self) -> &State {
        self.execution.definition().state(self.state)
    }

    fn evaluation<'e>(&'e self, env: &'e Env<'e>) -> Evaluation<'e> {
        let step = self.execution.live.scope(TOP_LEVEL).and_then(|scope| scope.step());
        let step = step.expect("the execution was built with the state entered");
        Evaluation::new(&self.execution, TOP_LEVEL, step, self.state(), env).observed(&self.observer)
    }

    /// The items of a Map state, and an array of what its iterations are given.
    fn items(&self, map: &MapState, env: &Env<'_>) -> Result<(Items, Payload), StateFailure> {
        let evaluation = self.evaluation(env);
        let found = match &self.items {
            Some(items) => items.clone(),
            None => states::map::found_items(&evaluation, map, map.distributed.is_some())?,
        };
        self.observer.saw(Stage::ItemsPath, Payload::from_value(&found));
        let max_concurrency = states::map::max_concurrency(&evaluation, map)?;
        self.observer.saw(Stage::MaxConcurrency, Payload::from_value(&max_concurrency.into()));
        let input = evaluation.input()?.into_value();
        let tolerated = states::map::tolerated_count(&evaluation, map, &input)?;
        if let Some(count) = tolerated {
            self.observer.saw(Stage::ToleratedFailureCount, Payload::from_value(&count.into()));
        }
        let percentage = states::map::tolerated_percentage(&evaluation, map, &input)?;
        if let Some(percentage) = percentage {
            self.observer.saw(Stage::ToleratedFailurePercentage, Payload::from_value(&percentage.into()));
        }
        let inputs = states::distributed::select_found(&evaluation, map, found)?;
        let count = inputs.len();
        let inputs = states::map::join(inputs.iter()).into_payload();
        if map.item_selector.is_some() {
            self.observer.saw(Stage::ItemSelector, inputs.clone());
        }
        let by_percentage = percentage.map(|percentage| (percentage / 100.0 * count as f64) as u32);
        let tolerated_failures = tolerated.into_iter().chain(by_percentage).min();
        Ok((Items { count, tolerated_failures }, inputs))
    }

    fn working(self, parameters: Payload, timeout_seconds: Option<u64>, items: Option<Items>) -> Begun {
        Begun::Working(Box::new(Working { probe: self, parameters, timeout_seconds, items }))
    }

    fn conclude(self, exit: Result<Exit, StateFailure>, transition: Transition, env: &Env<'_>) -> Probed {
        match exit {
            Ok(exit) => self.left(exit, transition),
            Err(failure) => self.failed(failure, env),
        }
    }

    fn left(self, exit: Exit, transition: Transition) -> Probed {
        let next = match transition {
            Transition::Next(next) => Some(Arc::clone(&self.execution.definition().state(next).name)),
            Transition::End => None,
        };
        let mut probed = self.probed(Status::Succeeded);
        probed.next = next;
        probed.leave(exit);
        probed
    }

    fn failed(self, failure: StateFailure, env: &Env<'_>) -> Probed {
        let definition = Arc::clone(self.execution.definition());
        let none = ErrorHandling::default();
        let errors = match &definition.state(self.state).kind {
            StateKind::Task(task) => &task.errors,
            StateKind::Parallel(parallel) => &parallel.errors,
            StateKind::Map(map) => &map.errors,
            _ => &none,
        };
        let name = failure.name();
        let retrier = errors.retry.iter().position(|r| retry::error_matches(&r.error_equals, name));
        let mut used = vec![0; errors.retry.len()];
        if let Some(retrier) = retrier {
            used[retrier] = self.retries;
        }
        // The whole of the delay, not a random part of it.
        let handling = retry::handle(errors, name, &used, 1.0);
        let mut probed = match handling {
            Handling::Retry { delay_seconds, .. } => {
                let mut probed = self.probed(Status::Retriable);
                probed.backoff_seconds = Some(delay_seconds);
                probed
            }
            Handling::Catch(catcher) => match self.evaluation(env).caught(failure.output(), catcher) {
                Ok(exit) => {
                    let mut probed = self.probed(Status::Caught);
                    probed.next = Some(Arc::clone(&definition.state(catcher.next).name));
                    probed.catcher = errors.catch.iter().position(|c| std::ptr::eq(c, catcher));
                    probed.leave(exit);
                    probed
                }
                Err(failure) => {
                    let mut probed = self.probed(Status::Failed);
                    probed.failure = Some(failure.failure);
                    return probed;
                }
            },
            Handling::Fail => self.probed(Status::Failed),
        };
        probed.retrier = retrier;
        probed.failure = Some(failure.failure);
        probed
    }

    fn probed(self, status: Status) -> Probed {
        let shown = shown(self.state());
        let mut seen = self.observer.into_seen();
        seen.retain(|stage, _| shown.contains(stage));
        Probed {
            status,
            output: None,
            failure: None,
            next: None,
            seen,
            variables: self.variables,
            retrier: None,
            backoff_seconds: None,
            catcher: None,
        }
    }
}

impl Probed {
    fn leave(&mut self, exit: Exit) {
        self.output = Some(exit.output);
        self.variables.extend(exit.assigned.into_iter().map(|a| (a.name, a.value)));
    }
}

/// The execution after it entered the state, with these variables.
fn entered(
    definition: Arc<StateMachine>,
    index: StateIndex,
    origin: Origin,
    variables: &BTreeMap<Arc<str>, Payload>,
    env: &Env<'_>,
) -> Result<Execution, ReplayError> {
    let state = definition.state(index);
    let (state_type, name, input) =
        (StateType::of(&state.kind), Arc::clone(&state.name), origin.input.clone());
    let enter = EventKind::StateEntered { state_type, name: Arc::clone(&name), input: input.clone() };
    let assigned =
        variables.iter().map(|(name, value)| Assigned { name: Arc::clone(name), value: value.clone() });
    // A state before it assigned the variables; which one does not matter.
    let before = EventKind::StateExited {
        state_type,
        name,
        output: input.clone(),
        last: false,
        assigned: assigned.collect(),
    };
    let role_arn = origin.role_arn.as_str().into();
    let kinds = [EventKind::ExecutionStarted { input, role_arn }, enter.clone(), before, enter];
    let events = (1..).zip(kinds).map(|(id, kind)| HistoryEvent {
        id,
        previous_id: id - 1,
        at: env.now,
        scope: TOP_LEVEL,
        kind,
    });
    let events: Vec<HistoryEvent> = events.collect();
    Execution::replay(origin, definition, &events)
}

/// What is shown of a state, as recorded from the service: less than there is.
fn shown(state: &State) -> &'static [Stage] {
    use Stage::{
        Arguments, Input, InputPath, ItemSelector, ItemsPath, MaxConcurrency, Parameters, ResultPath,
        ResultSelector, ToleratedFailureCount, ToleratedFailurePercentage,
    };
    let jsonata = state.query_language == stagepost_asl::QueryLanguage::Jsonata;
    match &state.kind {
        StateKind::Task(_) if jsonata => &[Input, Arguments, Stage::Result],
        StateKind::Map(_) if jsonata => {
            &[Input, ItemSelector, MaxConcurrency, ToleratedFailureCount, ToleratedFailurePercentage]
        }
        _ if jsonata => &[Input],
        StateKind::Task(_) => &[Input, InputPath, Parameters, Stage::Result, ResultSelector, ResultPath],
        StateKind::Pass(pass) if pass.result.is_some() => &[Input, Stage::Result, ResultSelector, ResultPath],
        StateKind::Pass(_) => &[Input, InputPath, Parameters, ResultSelector, ResultPath],
        StateKind::Parallel(_) => &[Input, ResultSelector, ResultPath],
        StateKind::Map(_) => &[
            Input,
            InputPath,
            ItemsPath,
            ItemSelector,
            MaxConcurrency,
            ToleratedFailureCount,
            ToleratedFailurePercentage,
            ResultSelector,
            ResultPath,
        ],
        StateKind::Choice(_) | StateKind::Wait(_) | StateKind::Succeed | StateKind::Fail(_) => {
            &[Input, InputPath]
        }
    }
}
