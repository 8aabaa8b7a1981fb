//! The operations of Step Functions, one file per family.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use serde_json::{Map, Value, json};
use stagepost_protocol::{Namespace, Parent, Timestamp};

pub(crate) use crate::operations::{Answer, Context};
use crate::{api::Api, operations::operations, wire::Members};

mod activities;
mod definitions;
pub(crate) mod executions;
mod express;
mod history;
mod map_runs;
pub(crate) mod names;
mod settings;
pub(crate) mod state_machines;
mod tags;
mod tasks;
mod test_state;

operations! {
    /// The operations of Step Functions that there are.
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
pub(crate) fn now() -> Timestamp {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}
