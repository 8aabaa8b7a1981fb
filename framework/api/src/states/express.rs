//! Executions of EXPRESS state machines. They are kept nowhere, so nothing but their start is an operation on them: the
//! service too refuses their ARNs everywhere else.

use serde_json::{Value, json};
use stagepost_coordinator::express::{self, Ended};
use stagepost_engine::End;
use stagepost_protocol::{Payload, error_names};
use stagepost_store::StateMachineRow;

use super::{Context, now};
use crate::wire::{ApiError, Code};

/// `billedDurationInMilliseconds` is counted in steps of so many milliseconds, `billedMemoryUsedInMB` in steps of so many
/// MB (Step Functions pricing). Nobody is billed here; what is shown is what it would be.
const BILLED_MILLIS: i64 = 100;
const BILLED_MB: usize = 64;

/// Refuses an operation on a state machine whose executions are kept nowhere, or are.
pub(super) fn wrong_type() -> ApiError {
    let message = "This operation is not supported by this type of state machine";
    ApiError::new(Code::StateMachineTypeNotSupported, message)
}

/// StartExecution of an EXPRESS state machine. Answered when the broker has it.
pub(super) async fn start(
    cx: &Context<'_>,
    machine: &StateMachineRow,
    name: &str,
    input: Payload,
) -> Result<Value, ApiError> {
    let start = express::start(machine, name, input);
    let (arn, started_at) = (start.execution.to_string(), now());
    cx.api.commands.start_express(start).await?;
    Ok(json!({ "executionArn": arn, "startDate": started_at.as_seconds_f64() }))
}

/// StartSyncExecution, once its request is read. Answered at the execution's end; that it did not succeed is no error.
pub(super) async fn start_sync(
    cx: &Context<'_>,
    machine: &StateMachineRow,
    name: &str,
    input: Payload,
    trace_header: Option<&str>,
    metadata_only: bool,
) -> Result<Value, ApiError> {
    let start = express::start(machine, name, input.clone());
    let arn = start.execution.clone();
    let Ended { end, started_at, stopped_at, peak_bytes } = cx.api.commands.run_express(start).await?;
    let duration = stopped_at.millis_since(started_at).max(1);
    let mut answer = json!({
        "executionArn": arn.to_string(),
        "stateMachineArn": machine.arn.to_string(),
        "name": arn.name,
        "startDate": started_at.as_seconds_f64(),
        "stopDate": stopped_at.as_seconds_f64(),
        "billingDetails": {
            "billedDurationInMilliseconds": (duration + BILLED_MILLIS - 1) / BILLED_MILLIS * BILLED_MILLIS,
            "billedMemoryUsedInMB": peak_bytes.max(1).div_ceil(BILLED_MB * 1024 * 1024) * BILLED_MB,
        },
    });
    if let Some(trace_header) = trace_header {
        answer["traceHeader"] = trace_header.into();
    }
    let included = json!({ "included": true });
    if !metadata_only {
        answer["input"] = input.as_str().into();
        answer["inputDetails"] = included.clone();
    }
    let (status, error, cause) = match end {
        End::Succeeded(output) => {
            if !metadata_only {
                answer["output"] = output.as_str().into();
                answer["outputDetails"] = included;
            }
            ("SUCCEEDED", None, None)
        }
        End::TimedOut => ("TIMED_OUT", Some(error_names::TIMEOUT.to_owned()), None),
        // Nobody can stop an Express execution, so the service has no other status.
        End::Failed { error, cause } | End::Aborted { error, cause } => ("FAILED", error, cause),
    };
    answer["status"] = status.into();
    for (name, text) in [("error", error), ("cause", cause)] {
        if let Some(text) = text.filter(|_| !metadata_only) {
            answer[name] = text.into();
        }
    }
    Ok(answer)
}
