//! A definition, parsed and compiled.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::Value;
pub use stagepost_protocol::IntegrationPattern;
use stagepost_protocol::approval;

use crate::{
    choice::Rule,
    intrinsic::Intrinsic,
    path::{Path, ReferencePath},
    template::Template,
};

/// A state machine: all its states in one arena, those of branches and iterations included. Names are unique in
/// the whole machine, as the service demands.
#[derive(Debug)]
pub struct StateMachine {
    /// For people.
    pub comment: Option<String>,
    /// The language of states that name none.
    pub query_language: QueryLanguage,
    /// The execution as a whole may take so many seconds.
    pub timeout_seconds: Option<u64>,
    /// Where it starts.
    pub start_at: StateIndex,
    /// All states.
    pub states: Arc<[State]>,
    /// Their indices by name.
    pub by_name: Arc<HashMap<Arc<str>, StateIndex>>,
}

impl StateMachine {
    /// The state at an index of this machine.
    pub fn state(&self, index: StateIndex) -> &State {
        &self.states[index.0 as usize]
    }

    /// The state of a name.
    pub fn state_named(&self, name: &str) -> Option<&State> {
        self.by_name.get(name).map(|i| self.state(*i))
    }

    /// The variables that each of its states refers to, by the state's name; states that refer to none are left out
    /// (DescribeStateMachine, "variableReferences").
    pub fn variable_references(&self) -> BTreeMap<&str, Vec<&str>> {
        let all = self.states.iter().map(|state| (&*state.name, state.variable_references()));
        all.filter(|(_, names)| !names.is_empty()).collect()
    }

    /// The item processor of the distributed Map state with this label, as the machine that its child executions run.
    /// It shares the states of this one and starts in the processor.
    pub fn processor(&self, label: &str) -> Option<StateMachine> {
        let (_, map, _) = self.distributed_maps().find(|(_, _, d)| &*d.label == label)?;
        Some(StateMachine {
            comment: None,
            query_language: self.query_language,
            timeout_seconds: None,
            start_at: map.start_at,
            states: Arc::clone(&self.states),
            by_name: Arc::clone(&self.by_name),
        })
    }

    /// Its distributed Map states.
    pub fn distributed_maps(&self) -> impl Iterator<Item = (&State, &MapState, &Distributed)> {
        self.states.iter().filter_map(|state| match &state.kind {
            StateKind::Map(map) => Some((state, map, map.distributed.as_deref()?)),
            _ => None,
        })
    }

    /// The ARNs of the activities that its tasks name with account and region, and which must therefore exist.
    pub fn registered_activities(&self) -> impl Iterator<Item = &str> {
        self.states.iter().filter_map(|s| match &s.kind {
            StateKind::Task(TaskState {
                resource: Resource::Activity { arn, registered: true, .. }, ..
            }) => Some(arn.as_str()),
            _ => None,
        })
    }
}

/// The place of a state in its machine's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateIndex(pub u32);

/// The language of a state's expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueryLanguage {
    /// JSONPath, the default.
    #[default]
    JsonPath,
    /// JSONata.
    Jsonata,
}

/// One state.
#[derive(Debug)]
pub struct State {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands in the document, as a JSON pointer.
    pub pointer: String,
    /// For people.
    pub comment: Option<String>,
    /// The language of its expressions.
    pub query_language: QueryLanguage,
    /// What it does.
    pub kind: StateKind,
    /// `InputPath`.
    pub input_path: DataPath,
    /// `OutputPath`.
    pub output_path: DataPath,
    /// `Output`, of states in JSONata.
    pub output: Option<Template>,
    /// `Assign`: an object of variables.
    pub assign: Option<Template>,
}

impl State {
    /// The names of the variables that it may assign, those of its catchers and choices included.
    pub fn assigned_names(&self) -> impl Iterator<Item = &str> {
        let catchers: &[Catcher] = match &self.kind {
            StateKind::Task(task) => &task.errors.catch,
            StateKind::Parallel(parallel) => &parallel.errors.catch,
            StateKind::Map(map) => &map.errors.catch,
            _ => &[],
        };
        let choices: &[Choice] = match &self.kind {
            StateKind::Choice(choice) => &choice.choices,
            _ => &[],
        };
        let own = self.assign.iter();
        let templates = own
            .chain(catchers.iter().filter_map(|c| c.assign.as_ref()))
            .chain(choices.iter().filter_map(|c| c.assign.as_ref()));
        templates.flat_map(Template::names)
    }

    /// The names of the workflow's variables that it refers to, sorted, each once.
    pub fn variable_references(&self) -> Vec<&str> {
        let mut used = Used { templates: Vec::new(), paths: Vec::new(), names: Vec::new() };
        used.data_path(&self.input_path);
        used.data_path(&self.output_path);
        used.templates.extend(self.output.iter().chain(&self.assign));
        match &self.kind {
            StateKind::Task(task) => {
                used.templates
                    .extend(task.parameters.iter().chain(&task.result_selector).chain(&task.credentials));
                used.numbers(task.timeout_seconds.iter().chain(&task.heartbeat_seconds));
                used.errors(&task.errors);
            }
            StateKind::Pass(pass) => used.templates.extend(&pass.parameters),
            StateKind::Choice(choice) => {
                for choice in &choice.choices {
                    used.names.extend(choice.rule.references());
                    used.templates.extend(choice.assign.iter().chain(&choice.output));
                }
            }
            StateKind::Wait(wait) => match &wait.until {
                WaitUntil::SecondsPath(path) | WaitUntil::TimestampPath(path) => used.paths.push(path),
                WaitUntil::SecondsQuery(query) | WaitUntil::TimestampQuery(query) => {
                    used.templates.push(query);
                }
                WaitUntil::Seconds(_) | WaitUntil::Timestamp(_) => {}
            },
            StateKind::Succeed => {}
            StateKind::Fail(fail) => {
                for text in fail.error.iter().chain(&fail.cause) {
                    match text {
                        Text::Path(path) => used.paths.push(path),
                        Text::Intrinsic(call) => used.paths.extend(call.paths()),
                        Text::Query(query) => used.templates.push(query),
                        Text::Fixed(_) => {}
                    }
                }
            }
            StateKind::Parallel(parallel) => {
                used.templates.extend(parallel.parameters.iter().chain(&parallel.result_selector));
                used.errors(&parallel.errors);
            }
            StateKind::Map(map) => {
                used.templates.extend(map.item_selector.iter().chain(&map.result_selector).chain(&map.items));
                used.paths.extend(&map.items_path);
                used.numbers(map.max_concurrency.iter().chain(&map.tolerated_failure_count));
                match &map.tolerated_failure_percentage {
                    Some(Percentage::Path(path)) => used.paths.push(path),
                    Some(Percentage::Query(query)) => used.templates.push(query),
                    Some(Percentage::Fixed(_)) | None => {}
                }
                if let Some(distributed) = &map.distributed {
                    used.templates.extend(distributed.templates());
                    used.numbers(distributed.numbers());
                }
                used.errors(&map.errors);
            }
        }
        used.names()
    }
}

/// What of a state may refer to variables.
struct Used<'s> {
    templates: Vec<&'s Template>,
    paths: Vec<&'s Path>,
    names: Vec<&'s str>,
}

impl<'s> Used<'s> {
    fn data_path(&mut self, path: &'s DataPath) {
        if let DataPath::Path(path) = path {
            self.paths.push(path);
        }
    }

    fn numbers(&mut self, numbers: impl Iterator<Item = &'s Number>) {
        for number in numbers {
            match number {
                Number::Path(path) => self.paths.push(path),
                Number::Query(query) => self.templates.push(query),
                Number::Fixed(_) => {}
            }
        }
    }

    fn errors(&mut self, errors: &'s ErrorHandling) {
        for catcher in &errors.catch {
            self.templates.extend(catcher.assign.iter().chain(&catcher.output));
        }
    }

    fn names(self) -> Vec<&'s str> {
        let mut names = self.names;
        names.extend(self.paths.into_iter().filter_map(Path::variable));
        names.extend(self.templates.into_iter().flat_map(Template::references));
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// `InputPath` or `OutputPath`.
#[derive(Debug, Clone)]
pub enum DataPath {
    /// Absent or `$`: all of it.
    Whole,
    /// `null`: an empty object.
    Discard,
    /// A path.
    Path(Path),
}

/// `ResultPath`.
#[derive(Debug, Clone)]
pub enum ResultPath {
    /// Absent or `$`: the result replaces the input.
    Replace,
    /// `null`: the input stays, the result is dropped.
    Discard,
    /// The result goes there.
    At(ReferencePath),
}

/// What a state does; one variant per state type.
#[derive(Debug)]
pub enum StateKind {
    /// Does work elsewhere.
    Task(TaskState),
    /// Passes its input on, or a result.
    Pass(PassState),
    /// Branches on data.
    Choice(ChoiceState),
    /// Waits.
    Wait(WaitState),
    /// Ends the scope with success.
    Succeed,
    /// Ends the scope with an error.
    Fail(FailState),
    /// Runs branches side by side.
    Parallel(ParallelState),
    /// Runs one branch per item.
    Map(MapState),
}

impl StateKind {
    /// The value of its `Type` field.
    pub const fn type_name(&self) -> &'static str {
        match self {
            StateKind::Task(_) => "Task",
            StateKind::Pass(_) => "Pass",
            StateKind::Choice(_) => "Choice",
            StateKind::Wait(_) => "Wait",
            StateKind::Succeed => "Succeed",
            StateKind::Fail(_) => "Fail",
            StateKind::Parallel(_) => "Parallel",
            StateKind::Map(_) => "Map",
        }
    }
}

/// What follows a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// That state.
    Next(StateIndex),
    /// The end of the scope.
    End,
}

/// What a Task state calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// An activity.
    Activity {
        /// As it was written.
        arn: String,
        /// Its name: the last part of the ARN.
        name: String,
        /// It names an account and a region, and must exist in the registry when the state is entered.
        /// `arn:aws:states:::activity:NAME` names the activity of that name in the execution's own namespace, and
        /// needs no registration: its queue is enough.
        registered: bool,
    },
    /// A Lambda function by its own ARN.
    Lambda {
        /// The ARN.
        arn: String,
    },
    /// A service integration, `arn:aws:states:::SERVICE:ACTION[.PATTERN]`.
    Service {
        /// As it was written.
        arn: String,
        /// For instance `sqs`, `aws-sdk:s3`.
        service: String,
        /// For instance `sendMessage`.
        action: String,
        /// What the state waits for.
        pattern: IntegrationPattern,
    },
}

impl Resource {
    /// Whether it is `arn:aws:states:::stagepost:waitForSignal`: the task ends when its execution gets a signal of the
    /// name in its parameters. Nobody else is asked.
    pub fn waits_for_signal(&self) -> bool {
        matches!(self, Resource::Service { service, action, .. }
            if service == "stagepost" && action == "waitForSignal")
    }

    /// Whether it is `arn:aws:states:::stagepost:requestApproval.waitForTaskToken`: the task ends when people answer.
    pub fn asks_for_approval(&self) -> bool {
        matches!(self, Resource::Service { service, action, .. }
            if service == approval::SERVICE && action == approval::ACTION)
    }
}

/// A number that is written in the definition or found in the data.
#[derive(Debug, Clone)]
pub enum Number {
    /// `TimeoutSeconds`.
    Fixed(u64),
    /// `TimeoutSecondsPath`.
    Path(Path),
    /// `TimeoutSeconds` with a JSONata expression.
    Query(Template),
}

/// `ToleratedFailurePercentage`: from 0 to 100, fractions included.
#[derive(Debug, Clone)]
pub enum Percentage {
    /// `ToleratedFailurePercentage`.
    Fixed(f64),
    /// `ToleratedFailurePercentagePath`.
    Path(Path),
    /// `ToleratedFailurePercentage` with a JSONata expression.
    Query(Template),
}

/// A text that is written in the definition or computed from the data.
#[derive(Debug, Clone)]
pub enum Text {
    /// `Error`, `Cause`.
    Fixed(String),
    /// `ErrorPath`, `CausePath` with a path.
    Path(Path),
    /// `ErrorPath`, `CausePath` with an intrinsic function.
    Intrinsic(Intrinsic),
    /// `Error`, `Cause` with a JSONata expression.
    Query(Template),
}

/// Where a catcher or retrier applies, and what it does, is shared by Task, Parallel and Map.
#[derive(Debug, Default)]
pub struct ErrorHandling {
    /// `Retry`, in order.
    pub retry: Vec<Retrier>,
    /// `Catch`, in order.
    pub catch: Vec<Catcher>,
}

/// One element of `Retry`. Its arithmetic is in [`crate::retry`].
#[derive(Debug, Clone)]
pub struct Retrier {
    /// `ErrorEquals`.
    pub error_equals: Vec<String>,
    /// `IntervalSeconds`, default 1.
    pub interval_seconds: u64,
    /// `MaxAttempts`, default 3; 0: never.
    pub max_attempts: u64,
    /// `BackoffRate`, default 2.0.
    pub backoff_rate: f64,
    /// `MaxDelaySeconds`.
    pub max_delay_seconds: Option<u64>,
    /// `JitterStrategy` is `FULL`.
    pub full_jitter: bool,
}

/// One element of `Catch`.
#[derive(Debug, Clone)]
pub struct Catcher {
    /// `ErrorEquals`.
    pub error_equals: Vec<String>,
    /// `Next`.
    pub next: StateIndex,
    /// `ResultPath`.
    pub result_path: ResultPath,
    /// `Output`, in JSONata.
    pub output: Option<Template>,
    /// `Assign`.
    pub assign: Option<Template>,
}

/// A Task state.
#[derive(Debug)]
pub struct TaskState {
    /// `Resource`.
    pub resource: Resource,
    /// `Credentials`: a role to act in. Read and evaluated; there is no one to act for yet.
    pub credentials: Option<Template>,
    /// `Parameters`, or `Arguments` in JSONata.
    pub parameters: Option<Template>,
    /// `ResultSelector`.
    pub result_selector: Option<Template>,
    /// `ResultPath`.
    pub result_path: ResultPath,
    /// `TimeoutSeconds` or `TimeoutSecondsPath`; the service's default is 99,999,999.
    pub timeout_seconds: Option<Number>,
    /// `HeartbeatSeconds` or `HeartbeatSecondsPath`.
    pub heartbeat_seconds: Option<Number>,
    /// `Retry` and `Catch`.
    pub errors: ErrorHandling,
    /// `Next` or `End`.
    pub transition: Transition,
}

/// A Pass state.
#[derive(Debug)]
pub struct PassState {
    /// `Result`.
    pub result: Option<Value>,
    /// `Parameters`.
    pub parameters: Option<Template>,
    /// `ResultPath`.
    pub result_path: ResultPath,
    /// `Next` or `End`.
    pub transition: Transition,
}

/// A Choice state.
#[derive(Debug)]
pub struct ChoiceState {
    /// `Choices`, in order.
    pub choices: Vec<Choice>,
    /// `Default`.
    pub default: Option<StateIndex>,
}

/// One element of `Choices`.
#[derive(Debug)]
pub struct Choice {
    /// When it applies.
    pub rule: Rule,
    /// `Next`.
    pub next: StateIndex,
    /// `Output`, in JSONata; instead of the state's.
    pub output: Option<Template>,
    /// `Assign`; instead of the state's.
    pub assign: Option<Template>,
}

/// A Wait state.
#[derive(Debug)]
pub struct WaitState {
    /// Until when.
    pub until: WaitUntil,
    /// `Next` or `End`.
    pub transition: Transition,
}

/// Until when a Wait state waits.
#[derive(Debug, Clone)]
pub enum WaitUntil {
    /// `Seconds`.
    Seconds(u64),
    /// `SecondsPath`.
    SecondsPath(Path),
    /// `Timestamp`.
    Timestamp(stagepost_protocol::Timestamp),
    /// `TimestampPath`.
    TimestampPath(Path),
    /// `Seconds` with a JSONata expression.
    SecondsQuery(Template),
    /// `Timestamp` with a JSONata expression.
    TimestampQuery(Template),
}

/// A Fail state.
#[derive(Debug)]
pub struct FailState {
    /// `Error` or `ErrorPath`.
    pub error: Option<Text>,
    /// `Cause` or `CausePath`.
    pub cause: Option<Text>,
}

/// A Parallel state.
#[derive(Debug)]
pub struct ParallelState {
    /// Where each branch starts.
    pub branches: Vec<StateIndex>,
    /// `Parameters`, or `Arguments` in JSONata.
    pub parameters: Option<Template>,
    /// `ResultSelector`.
    pub result_selector: Option<Template>,
    /// `ResultPath`.
    pub result_path: ResultPath,
    /// `Retry` and `Catch`.
    pub errors: ErrorHandling,
    /// `Next` or `End`.
    pub transition: Transition,
}

/// A Map state.
#[derive(Debug)]
pub struct MapState {
    /// Where each iteration starts (`ItemProcessor`, or `Iterator` in older definitions).
    pub start_at: StateIndex,
    /// `ItemsPath`.
    pub items_path: Option<Path>,
    /// `Items`, in JSONata.
    pub items: Option<Template>,
    /// `ItemSelector`, or `Parameters` in older definitions.
    pub item_selector: Option<Template>,
    /// `MaxConcurrency` or `MaxConcurrencyPath`; `None` or 0: no limit.
    pub max_concurrency: Option<Number>,
    /// `ToleratedFailureCount` or its path.
    pub tolerated_failure_count: Option<Number>,
    /// `ToleratedFailurePercentage` or its path.
    pub tolerated_failure_percentage: Option<Percentage>,
    /// What makes it distributed: `None` where `ProcessorConfig` has the mode `INLINE` or there is none.
    pub distributed: Option<Box<Distributed>>,
    /// `ResultSelector`.
    pub result_selector: Option<Template>,
    /// `ResultPath`.
    pub result_path: ResultPath,
    /// `Retry` and `Catch`.
    pub errors: ErrorHandling,
    /// `Next` or `End`.
    pub transition: Transition,
}

/// What only a Map state has whose `ProcessorConfig` has the mode `DISTRIBUTED`: each of its items, or batches of items,
/// is processed by a child execution of its own.
#[derive(Debug)]
pub struct Distributed {
    /// `Label`, a part of the ARNs of its Map Runs and child executions. Where there is none, it is made from the name
    /// of the state, so that it is the same in every version of the definition. Unique in the machine.
    pub label: Arc<str>,
    /// `ExecutionType` of `ProcessorConfig`; required by the service.
    pub execution_type: ExecutionType,
    /// `ItemReader`: the items are not in the state's input.
    pub reader: Option<ItemReader>,
    /// `ItemBatcher`: a child execution gets several items.
    pub batcher: Option<ItemBatcher>,
    /// `ResultWriter`: the results are not in the state's output.
    pub writer: Option<ResultWriter>,
}

impl Distributed {
    fn templates(&self) -> impl Iterator<Item = &Template> {
        let reader = self.reader.iter().flat_map(|r| r.parameters.iter().chain(&r.config));
        let batcher = self.batcher.iter().filter_map(|b| b.input.as_ref());
        reader.chain(batcher).chain(self.writer.iter().filter_map(|w| w.parameters.as_ref()))
    }

    fn numbers(&self) -> impl Iterator<Item = &Number> {
        let reader = self.reader.iter().filter_map(|r| r.max_items.as_ref());
        let batcher = self.batcher.iter().flat_map(|b| b.max_items.iter().chain(&b.max_bytes));
        reader.chain(batcher)
    }
}

/// `ExecutionType`: what the child executions of a distributed Map state are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionType {
    /// `STANDARD`.
    Standard,
    /// `EXPRESS`.
    Express,
}

/// `ItemReader`.
#[derive(Debug)]
pub struct ItemReader {
    /// `Resource`, for instance `arn:aws:states:::s3:getObject`.
    pub resource: String,
    /// `Parameters`, or `Arguments` in JSONata.
    pub parameters: Option<Template>,
    /// `ReaderConfig`, but for `MaxItems` and `MaxItemsPath`.
    pub config: Option<Template>,
    /// `MaxItems` or `MaxItemsPath` of `ReaderConfig`; 0: all.
    pub max_items: Option<Number>,
}

/// `ItemBatcher`. One of the two limits at least is there.
#[derive(Debug)]
pub struct ItemBatcher {
    /// `MaxItemsPerBatch` or its path.
    pub max_items: Option<Number>,
    /// `MaxInputBytesPerBatch` or its path.
    pub max_bytes: Option<Number>,
    /// `BatchInput`, a part of the input of each child execution.
    pub input: Option<Template>,
}

/// `ResultWriter`. It has a resource, a configuration or both.
#[derive(Debug)]
pub struct ResultWriter {
    /// `Resource`, for instance `arn:aws:states:::s3:putObject`. Without one, the results are the state's output.
    pub resource: Option<String>,
    /// `Parameters`, or `Arguments` in JSONata.
    pub parameters: Option<Template>,
    /// `Transformation` of `WriterConfig`.
    pub transformation: Option<Transformation>,
    /// `OutputType` of `WriterConfig` is `JSONL`.
    pub json_lines: bool,
}

/// `Transformation` of a `WriterConfig`: what becomes of the child executions' results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transformation {
    /// `NONE`: each output with what there is to say about its execution.
    None,
    /// `COMPACT`: the outputs.
    Compact,
    /// `FLATTEN`: the outputs, and of those that are arrays the elements.
    Flatten,
}
