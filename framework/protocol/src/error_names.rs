//! The reserved error names of the Amazon States Language (specification, appendix A, and the Step Functions
//! developer guide, "Handling errors in Step Functions workflows").

/// Matches any error but `States.Runtime`.
pub const ALL: &str = "States.ALL";
/// A task sent no heartbeat for longer than its `HeartbeatSeconds`, or its worker was lost.
pub const HEARTBEAT_TIMEOUT: &str = "States.HeartbeatTimeout";
/// A task or an execution ran longer than its `TimeoutSeconds`.
pub const TIMEOUT: &str = "States.Timeout";
/// A task failed; in a Retry or Catch it matches any task error but `States.Timeout`.
pub const TASK_FAILED: &str = "States.TaskFailed";
/// A task lacked the privileges to run.
pub const PERMISSIONS: &str = "States.Permissions";
/// A `ResultPath` could not be applied to the state's input.
pub const RESULT_PATH_MATCH_FAILURE: &str = "States.ResultPathMatchFailure";
/// A path in a payload template found nothing.
pub const PARAMETER_PATH_FAILURE: &str = "States.ParameterPathFailure";
/// A branch of a Parallel state failed.
pub const BRANCH_FAILED: &str = "States.BranchFailed";
/// No rule of a Choice state matched and it has no default.
pub const NO_CHOICE_MATCHED: &str = "States.NoChoiceMatched";
/// An intrinsic function failed.
pub const INTRINSIC_FAILURE: &str = "States.IntrinsicFailure";
/// More iterations of a Map state failed than it tolerates.
pub const EXCEED_TOLERATED_FAILURE_THRESHOLD: &str = "States.ExceedToleratedFailureThreshold";
/// A Map state's item reader failed.
pub const ITEM_READER_FAILED: &str = "States.ItemReaderFailed";
/// A Map state's result writer failed.
pub const RESULT_WRITER_FAILED: &str = "States.ResultWriterFailed";
/// A payload is larger than the limit.
pub const DATA_LIMIT_EXCEEDED: &str = "States.DataLimitExceeded";
/// The definition could not be applied to this input. `States.ALL` does not match it.
pub const RUNTIME: &str = "States.Runtime";
/// A JSONata expression failed.
pub const QUERY_EVALUATION_ERROR: &str = "States.QueryEvaluationError";
/// A task of an HTTP endpoint could not reach it, or was answered with an error: what follows is the status code.
const HTTP_STATUS_CODE: &str = "States.Http.StatusCode.";

/// The names above, in the order of the alphabet.
pub const RESERVED: &[&str] = &[
    ALL,
    BRANCH_FAILED,
    DATA_LIMIT_EXCEEDED,
    EXCEED_TOLERATED_FAILURE_THRESHOLD,
    HEARTBEAT_TIMEOUT,
    "States.Http.Socket",
    INTRINSIC_FAILURE,
    ITEM_READER_FAILED,
    NO_CHOICE_MATCHED,
    PARAMETER_PATH_FAILURE,
    PERMISSIONS,
    QUERY_EVALUATION_ERROR,
    RESULT_PATH_MATCH_FAILURE,
    RESULT_WRITER_FAILED,
    RUNTIME,
    TASK_FAILED,
    TIMEOUT,
];

/// Whether a name in `States.` is one that the language knows.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with(HTTP_STATUS_CODE)
}

/// A Rust activity panicked: this attempt failed, its worker goes on.
pub const ACTIVITY_PANICKED: &str = "Stagepost.ActivityPanicked";
/// The input of an activity is not of the type that its function takes.
pub const INVALID_INPUT: &str = "Stagepost.InvalidInput";
/// The output of an activity cannot be written as JSON.
pub const INVALID_OUTPUT: &str = "Stagepost.InvalidOutput";
/// An activity noticed that it was cancelled and stopped.
pub const CANCELLED: &str = "Stagepost.Cancelled";
/// An activity failed with an error that names no type.
pub const ACTIVITY_FAILED: &str = "Stagepost.ActivityFailed";
