//! Signals to running executions.

use serde_json::json;
use stagepost_protocol::{Signal, limits, shard::Reply};
use uuid::Uuid;

use crate::{
    operations::{Answer, Context},
    states::{
        executions::{find, missing, unexpected},
        names,
    },
    wire::{
        ApiError, Code, Members, Text, json as json_text,
        members::{ARN, DATA},
    },
};

const SIGNAL_NAME: Text = Text::new(1, limits::SIGNAL_NAME_CHARS_MAX);
const SIGNAL_ID: Text = Text::new(1, limits::SIGNAL_ID_CHARS_MAX);

/// SignalExecution. Answered after the commit: the execution has the signal, whatever follows.
pub(super) async fn send(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("executionArn", ARN);
    let name = m.required_text("signalName", SIGNAL_NAME);
    let input = m.text("input", DATA).unwrap_or("{}");
    let id = m.text("signalId", SIGNAL_ID);
    m.finish()?;
    let execution = names::execution(arn)?;
    let input = json_text::payload(input, "Invalid signal input.")
        .map_err(|e| ApiError::about(Code::InvalidExecutionInput, e))?;
    // Asked first, so that nobody can wake a shard for executions that never were.
    find(cx, &execution).await?;
    // A request without an id is repeated by nobody but the broker.
    let id = id.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let signal = Signal { execution: execution.clone(), name: name.to_owned(), id: id.clone(), input };
    match cx.api.commands.signal(signal).await? {
        Reply::Accepted => Ok(json!({ "signalId": id })),
        Reply::NotFound => Err(missing(&execution)),
        Reply::Ended => Err(ApiError::about(Code::ExecutionNotRunning, &execution)),
        Reply::TooManySignals => {
            let (count, bytes) = (limits::SIGNALS_KEPT_MAX, limits::SIGNALS_KEPT_BYTES_MAX);
            let message = format!(
                "Signal Limit Exceeded: '{execution}' keeps {count} signals or {bytes} bytes of them that no state \
                 has taken. Send the signal when a state waits for it."
            );
            Err(ApiError::new(Code::SignalLimitExceeded, message))
        }
        Reply::Refused(why) => Err(ApiError::validation(why)),
        other => Err(unexpected("SignalExecution", &other)),
    }
}
