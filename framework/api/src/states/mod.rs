//! The operations of Step Functions, one file per family.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use serde_json::{Map, Value, json};
use stagepost_protocol::{Namespace, Parent, Timestamp};

use crate::{
    api::Api,
    wire::{ApiError, Members},
};

mod activities;
mod definitions;
mod executions;
mod express;
mod history;
mod map_runs;
mod names;
mod settings;
mod state_machines;
mod tags;
mod tasks;
mod test_state;

/// What an operation works with.
pub(crate) struct Context<'a> {
    pub(crate) api: &'a Api,
    /// Where the caller is: listings and new things are in it. Things that are named by an ARN are where it says.
    pub(crate) namespace: Namespace,
    /// The headers of the request.
    pub(crate) headers: &'a HeaderMap,
}

type Answer = Result<Value, ApiError>;

/// What an operation answers.
pub(crate) struct Answered {
    /// The members.
    pub(crate) body: Value,
    /// Headers that only our own clients look at, with values that are visible ASCII.
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl From<Value> for Answered {
    fn from(body: Value) -> Answered {
        Answered { body, headers: Vec::new() }
    }
}

macro_rules! operations {
    ($($name:literal => $function:path,)*) => {
        /// The operations of Step Functions that there are.
        pub const OPERATIONS: &[&str] = &[$($name,)*];

        /// The operation of that name, if it is one.
        pub(crate) fn operation(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some($name),)*
                _ => None,
            }
        }

        /// Runs an operation that [`operation`] returned.
        pub(crate) async fn run(cx: &Context<'_>, operation: &str, members: &Map<String, Value>) -> Result<Answered, ApiError> {
            let members = Members::new(members);
            match operation {
                $($name => Ok(Answered::from($function(cx, members).await?)),)*
                other => Err(ApiError::internal(format!("'{other}' is in no table of operations"))),
            }
        }
    };
}

operations! {
    "CreateActivity" => activities::create,
    "CreateStateMachine" => state_machines::create,
    "DeleteActivity" => activities::delete,
    "DeleteStateMachine" => state_machines::delete,
    "DescribeActivity" => activities::describe,
    "DescribeExecution" => executions::describe,
    "DescribeMapRun" => map_runs::describe,
    "DescribeStateMachine" => state_machines::describe,
    "DescribeStateMachineForExecution" => state_machines::describe_for_execution,
    "GetActivityTask" => tasks::get_activity_task,
    "GetExecutionHistory" => history::get,
    "ListActivities" => activities::list,
    "ListExecutions" => executions::list,
    "ListMapRuns" => map_runs::list,
    "ListStateMachines" => state_machines::list,
    "ListTagsForResource" => tags::list,
    "RedriveExecution" => executions::redrive,
    "SendTaskFailure" => tasks::send_failure,
    "SendTaskHeartbeat" => tasks::send_heartbeat,
    "SendTaskSuccess" => tasks::send_success,
    "StartExecution" => executions::start,
    "StartSyncExecution" => executions::start_sync,
    "StopExecution" => executions::stop,
    "TagResource" => tags::tag,
    "TestState" => test_state::test,
    "UntagResource" => tags::untag,
    "UpdateMapRun" => map_runs::update,
    "UpdateStateMachine" => state_machines::update,
    "ValidateStateMachineDefinition" => definitions::validate,
}

/// Why an execution was not started for an attempt: the code and the message of StartExecution's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For instance `StateMachineDoesNotExist`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The fault is this installation's: the same request may succeed later.
    pub transient: bool,
}

/// StartExecution for an attempt of another execution, named by `parent`: with the members of a request, and with what
/// it answers.
///
/// # Errors
/// As those of the operation.
pub async fn start_execution(
    api: &Api,
    namespace: Namespace,
    request: &Map<String, Value>,
    parent: Parent,
) -> Result<Value, Refused> {
    let headers = HeaderMap::new();
    let cx = Context { api, namespace, headers: &headers };
    let answer = executions::start_for(&cx, Members::new(request), Some(parent)).await;
    answer.map_err(|error| Refused {
        code: error.code.as_str(),
        transient: error.code.status().is_server_error(),
        message: error.message,
    })
}

/// The answer of operations that have nothing to say.
fn nothing() -> Answer {
    Ok(json!({}))
}

/// The time, which operations put into what they register.
fn now() -> Timestamp {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}
