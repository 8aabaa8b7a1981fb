//! The events of a history: AWS's, with what replay needs besides.

mod codec;
mod describe;
mod repetition;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stagepost_asl::StateKind;
use stagepost_protocol::{Payload, Timestamp, limits};

pub use codec::{decode, encode};
pub use describe::{describe, type_name};
pub use repetition::Repetition;

/// A scope of an execution: the top level is 0, every Parallel branch and Map iteration has its own, numbered in
/// the order in which they begin.
pub type ScopeId = u32;

/// The scope of the top level.
pub const TOP_LEVEL: ScopeId = 0;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEvent {
    /// Counts from 1. A hidden note has the id of the visible event before it.
    pub id: u64,
    /// The event that led to it.
    pub previous_id: u64,
    /// When.
    pub at: Timestamp,
    /// Where it happened. Hidden.
    pub scope: ScopeId,
    /// What.
    pub kind: EventKind,
}

/// The type of a state, as event types are named after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the variants are the state types")]
pub enum StateType {
    Task,
    Pass,
    Choice,
    Wait,
    Succeed,
    Fail,
    Parallel,
    Map,
}

impl StateType {
    /// In the order of their numbers in stored histories: append only.
    pub(crate) const ALL: [StateType; 8] = [
        StateType::Task,
        StateType::Pass,
        StateType::Choice,
        StateType::Wait,
        StateType::Succeed,
        StateType::Fail,
        StateType::Parallel,
        StateType::Map,
    ];

    /// The type of a state.
    pub const fn of(kind: &StateKind) -> StateType {
        match kind {
            StateKind::Task(_) => StateType::Task,
            StateKind::Pass(_) => StateType::Pass,
            StateKind::Choice(_) => StateType::Choice,
            StateKind::Wait(_) => StateType::Wait,
            StateKind::Succeed => StateType::Succeed,
            StateKind::Fail(_) => StateType::Fail,
            StateKind::Parallel(_) => StateType::Parallel,
            StateKind::Map(_) => StateType::Map,
        }
    }

    /// As in the definition's `Type` field.
    pub const fn name(self) -> &'static str {
        match self {
            StateType::Task => "Task",
            StateType::Pass => "Pass",
            StateType::Choice => "Choice",
            StateType::Wait => "Wait",
            StateType::Succeed => "Succeed",
            StateType::Fail => "Fail",
            StateType::Parallel => "Parallel",
            StateType::Map => "Map",
        }
    }
}

/// What a service integration calls, as its events name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// For instance `sqs`.
    pub resource_type: Arc<str>,
    /// For instance `sendMessage.waitForTaskToken`.
    pub resource: Arc<str>,
}

/// An error and its cause, both of which may be absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Failure {
    /// Its name, which Retry and Catch match.
    pub error: Option<String>,
    /// For people.
    pub cause: Option<String>,
}

impl Failure {
    /// A failure within the API's limits (256 and 32,768 characters): what is longer is cut. A cause can quote a
    /// state's whole input.
    pub(crate) fn bounded(error: Option<String>, cause: Option<String>) -> Failure {
        Failure {
            error: error.map(|text| cut(text, limits::ERROR_CHARS_MAX)),
            cause: cause.map(|text| cut(text, limits::CAUSE_CHARS_MAX)),
        }
    }
}

fn cut(mut text: String, chars_max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
    }
    text
}

/// A variable and its new value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Its name, without `$`.
    pub name: Arc<str>,
    /// Its value.
    pub value: Payload,
}

/// How a Map Run runs: what its Map state's expressions gave.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MapRunSettings {
    /// How many child executions may run at a time; 0: no limit but the engine's own.
    pub max_concurrency: u64,
    /// How many items may fail; 0: not limited by number, or none where the percentage is 0 too.
    pub tolerated_failure_count: u64,
    /// How many percent of the items may fail; 0: not limited so.
    pub tolerated_failure_percentage: f64,
    /// How many items a child execution gets at most, where there is an `ItemBatcher`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batching>,
    /// What is asked for to read items, but for the place; `None` where the items are in the state's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<Payload>,
    /// At most so many items are read; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u64>,
    /// What is asked for to write the results; `None` where they are the state's output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Payload>,
    /// They are the state's output, each with what there is to say about its child execution: they are collected at the
    /// end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub collected: bool,
}

impl MapRunSettings {
    /// Whether somebody else is asked for the results when all items are processed.
    pub(crate) const fn asks_for_results(&self) -> bool {
        self.writer.is_some() || self.collected
    }
}

/// `ItemBatcher`, evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// `MaxItemsPerBatch`.
    pub max_items: Option<u64>,
    /// `MaxInputBytesPerBatch`.
    pub max_bytes: Option<u64>,
    /// `BatchInput`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,
}

/// How a child execution of a Map Run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChildEnd {
    /// Well.
    Succeeded,
    /// With an error.
    Failed,
    /// It ran too long.
    TimedOut,
    /// It was stopped.
    Aborted,
}

impl ChildEnd {
    /// In the order of their numbers in stored histories: append only.
    pub(crate) const ALL: [ChildEnd; 4] =
        [ChildEnd::Succeeded, ChildEnd::Failed, ChildEnd::TimedOut, ChildEnd::Aborted];
}

/// What happened. The engine's own notes are among them; they are not shown.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// The execution began.
    ExecutionStarted {
        /// Its input.
        input: Payload,
        /// Its role.
        role_arn: Arc<str>,
    },
    /// It ended well.
    ExecutionSucceeded {
        /// Its output.
        output: Payload,
    },
    /// It failed.
    ExecutionFailed(Failure),
    /// It took longer than the definition allows.
    ExecutionTimedOut(Failure),
    /// It was stopped.
    ExecutionAborted(Failure),
    /// It goes on where it stopped.
    ExecutionRedriven {
        /// How often it has been redriven by now.
        count: u32,
        /// `clientToken` of the request. Hidden.
        client_token: Option<Arc<str>>,
    },
    /// `TaskStateEntered` and its siblings.
    StateEntered {
        /// The type of the state.
        state_type: StateType,
        /// Its name.
        name: Arc<str>,
        /// Its input.
        input: Payload,
    },
    /// `TaskStateExited` and its siblings.
    StateExited {
        /// The type of the state.
        state_type: StateType,
        /// Its name.
        name: Arc<str>,
        /// Its output.
        output: Payload,
        /// It was the last state of its scope. Hidden.
        last: bool,
        /// The variables that it assigned.
        assigned: Vec<Assigned>,
    },
    /// A JSONata expression of a state failed.
    EvaluationFailed {
        /// The name of the state.
        state: Arc<str>,
        /// The field, if it was one.
        location: Option<String>,
        /// Why.
        failure: Failure,
    },
    /// `TaskStateAborted` and its siblings: another branch failed.
    StateAborted {
        /// The type of the state.
        state_type: StateType,
    },
    /// An attempt of an activity began to wait for a worker.
    ActivityScheduled {
        /// The ARN of the activity.
        resource: Arc<str>,
        /// The input of the activity.
        input: Payload,
        /// How long it may take.
        timeout_seconds: Option<u64>,
        /// How often it must report.
        heartbeat_seconds: Option<u64>,
    },
    /// A worker took it.
    ActivityStarted {
        /// Which, if it said so.
        worker_name: Option<String>,
    },
    /// It succeeded.
    ActivitySucceeded {
        /// Its output.
        output: Payload,
    },
    /// It failed.
    ActivityFailed(Failure),
    /// It took too long, or its heartbeats stopped.
    ActivityTimedOut(Failure),
    /// A call of a Lambda function was scheduled.
    LambdaFunctionScheduled {
        /// The ARN of the function.
        resource: Arc<str>,
        /// Its input.
        input: Payload,
        /// How long it may take.
        timeout_seconds: Option<u64>,
        /// The role to act in (`Credentials`).
        role_arn: Option<Arc<str>>,
    },
    /// It began.
    LambdaFunctionStarted,
    /// It succeeded.
    LambdaFunctionSucceeded {
        /// Its output.
        output: Payload,
    },
    /// It failed.
    LambdaFunctionFailed(Failure),
    /// It took too long.
    LambdaFunctionTimedOut(Failure),
    /// A call of a service was scheduled.
    TaskScheduled {
        /// The service.
        service: Service,
        /// Where.
        region: Arc<str>,
        /// The parameters of the call.
        parameters: Payload,
        /// How long it may take.
        timeout_seconds: Option<u64>,
        /// How often it must report.
        heartbeat_seconds: Option<u64>,
        /// The role to act in (`Credentials`).
        role_arn: Option<Arc<str>>,
    },
    /// It began.
    TaskStarted {
        /// The service.
        service: Service,
    },
    /// The request was sent; the answer comes with the task token.
    TaskSubmitted {
        /// The service.
        service: Service,
        /// What the service said to the request.
        output: Payload,
    },
    /// It succeeded.
    TaskSucceeded {
        /// The service.
        service: Service,
        /// Its output.
        output: Payload,
    },
    /// It failed.
    TaskFailed {
        /// The service.
        service: Service,
        /// Why.
        failure: Failure,
    },
    /// It took too long, or its heartbeats stopped.
    TaskTimedOut {
        /// The service.
        service: Service,
        /// Why.
        failure: Failure,
    },
    /// The branches of a Parallel state began.
    ParallelStateStarted {
        /// How many. Hidden.
        branches: u32,
    },
    /// All of them succeeded.
    ParallelStateSucceeded,
    /// One of them failed, and no retry follows.
    ParallelStateFailed,
    /// The iterations of a Map state began.
    MapStateStarted {
        /// How many items there are.
        length: u32,
        /// How many may run at a time; 0: all. Hidden.
        max_concurrency: u32,
        /// How many may fail; `None`: a failure is the state's own. Hidden.
        tolerated_failures: Option<u32>,
        /// The items, where evaluating their expression again might give others. Hidden.
        items: Option<Payload>,
    },
    /// All of them ended.
    MapStateSucceeded,
    /// One failed, or more than tolerated, and no retry follows.
    MapStateFailed,
    /// An iteration began.
    MapIterationStarted {
        /// The name of the Map state.
        name: Arc<str>,
        /// The place of its item.
        index: u32,
    },
    /// It succeeded.
    MapIterationSucceeded {
        /// The name of the Map state.
        name: Arc<str>,
        /// The place of its item.
        index: u32,
    },
    /// It failed.
    MapIterationFailed {
        /// The name of the Map state.
        name: Arc<str>,
        /// The place of its item.
        index: u32,
        /// What stands in the result for it, when the failure is tolerated. Hidden.
        result: Option<Payload>,
    },
    /// Another one failed.
    MapIterationAborted {
        /// The name of the Map state.
        name: Arc<str>,
        /// The place of its item.
        index: u32,
    },
    /// A Map Run began: a visit of a distributed Map state.
    MapRunStarted {
        /// Its ARN.
        arn: Arc<str>,
        /// How it runs. Hidden.
        settings: Box<MapRunSettings>,
    },
    /// It goes on: the execution was redriven.
    MapRunRedriven {
        /// Its ARN.
        arn: Arc<str>,
        /// How often it has been redriven by now.
        count: u32,
    },
    /// All its items are processed, and few enough of them failed.
    MapRunSucceeded,
    /// It failed; its child executions have ended.
    MapRunFailed(Failure),
    /// Another branch failed; its child executions are being stopped.
    MapRunAborted,
    /// Hidden: the next items of a Map Run are being read.
    MapItemsRequested,
    /// Hidden: items of a Map Run were read.
    MapItemsRead {
        /// As its child executions get them: an array.
        items: Payload,
        /// Where the next ones begin; `None`: there are no more.
        cursor: Option<Payload>,
    },
    /// Hidden: the next child executions of a Map Run began.
    MapChildrenStarted {
        /// How many items each of them has, in the order of the items.
        sizes: Vec<u32>,
    },
    /// Hidden: the next child executions of a Map Run that had ended without success are redriven.
    MapChildrenRedriven {
        /// How many.
        count: u32,
    },
    /// Hidden: a child execution of a Map Run can never be redriven; its end follows.
    MapChildNotRedrivable {
        /// Its number, from 0.
        index: u64,
    },
    /// Hidden: a child execution of a Map Run ended.
    MapChildEnded {
        /// Its number, from 0.
        index: u64,
        /// How.
        end: ChildEnd,
        /// What stands in the result for it, if it is kept.
        result: Option<Payload>,
    },
    /// Hidden: a Map Run is going to fail, as soon as its child executions have ended.
    MapRunFailing(Failure),
    /// Hidden: the results of a Map Run are being written.
    MapResultsRequested,
    /// Hidden: the settings of a Map Run were changed (UpdateMapRun). What is `None` stays as it was.
    MapRunUpdated {
        /// How many child executions may run at a time; 0: no limit but the engine's own.
        max_concurrency: Option<u64>,
        /// How many items may fail.
        tolerated_failure_count: Option<u64>,
        /// How many percent of the items may fail.
        tolerated_failure_percentage: Option<f64>,
    },
    /// Hidden: a Wait state knows until when.
    WaitScheduled {
        /// Until when.
        until: Timestamp,
    },
    /// Hidden: the state will be tried again.
    RetryScheduled {
        /// The place of the retrier that applied.
        retrier: u32,
        /// When.
        due: Timestamp,
    },
    /// Hidden: an attempt is alive.
    HeartbeatReceived,
    /// Hidden: an attempt ends with the next signal of this name.
    SignalAwaited {
        /// The name.
        name: Arc<str>,
    },
    /// Hidden: a signal came, and is kept until a state takes it.
    SignalReceived {
        /// Names it among the signals of the execution.
        id: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// What the state gets.
        input: Payload,
    },
    /// Hidden: an attempt takes the oldest signal of the name that it waits for.
    SignalTaken,
    /// Hidden: a worker has an attempt as long as it is heard of; or somebody may have it, it is not known who.
    AttemptLeased {
        /// The worker, by what no other one is called.
        holder: Option<Arc<str>>,
        /// The name that it goes by.
        worker: Option<Arc<str>>,
        /// How long it may be silent, in milliseconds.
        millis: u64,
        /// When the lease is over another worker gets the attempt. If not, it ends.
        again: bool,
    },
    /// Hidden: an attempt waits for another worker.
    AttemptReleased {
        /// Who gave it back; `None`: its lease was over.
        by: Option<Arc<str>>,
    },
    /// Hidden: too much happened in one decision; the state is entered in the next one.
    Yielded {
        /// The state to enter.
        name: Arc<str>,
        /// Its input.
        input: Payload,
    },
    /// Hidden: too much happened in one decision; the Map state starts its other iterations in the next one.
    MapPaused,
}

impl EventKind {
    /// Whether it is the engine's own note.
    pub const fn is_hidden(&self) -> bool {
        matches!(
            self,
            EventKind::WaitScheduled { .. }
                | EventKind::RetryScheduled { .. }
                | EventKind::HeartbeatReceived
                | EventKind::SignalAwaited { .. }
                | EventKind::SignalReceived { .. }
                | EventKind::SignalTaken
                | EventKind::AttemptLeased { .. }
                | EventKind::AttemptReleased { .. }
                | EventKind::Yielded { .. }
                | EventKind::MapPaused
                | EventKind::MapItemsRequested
                | EventKind::MapItemsRead { .. }
                | EventKind::MapChildrenStarted { .. }
                | EventKind::MapChildrenRedriven { .. }
                | EventKind::MapChildNotRedrivable { .. }
                | EventKind::MapChildEnded { .. }
                | EventKind::MapRunFailing(_)
                | EventKind::MapResultsRequested
                | EventKind::MapRunUpdated { .. }
        )
    }
}
