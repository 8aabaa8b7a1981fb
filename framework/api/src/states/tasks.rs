//! Tasks: workers that poll for them, and what becomes of them.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use stagepost_protocol::{
    Report, ReportOutcome, TaskMessage, TaskToken,
    message::{
        HEADER_ATTEMPT, HEADER_DEADLINE, HEADER_EXECUTION, HEADER_HEARTBEAT, HEADER_IDEMPOTENCY_KEY,
        HEADER_STATE,
    },
    shard::Reply,
};

use super::{Answer, Context, activities, executions::unexpected, names, nothing};
use crate::wire::{
    ApiError, Code, Members, Text, json as json_text,
    members::{ARN, CAUSE, DATA, ERROR, NAME},
};

const TOKEN: Text = Text::sensitive(1, 2048);

/// GetActivityTask: a long poll. A client that goes away while it waits loses no task: this future is dropped
/// then, and with it the delivery goes back. What was announced as started and could not be sent is lost to this
/// worker and ends by the task's timeout or heartbeat, as with the service.
pub(super) async fn get_activity_task(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("activityArn", ARN);
    let worker = m.text("workerName", NAME);
    m.finish()?;
    let arn = names::activity(arn)?;
    worker.map_or(Ok(()), names::name)?;
    activities::find(cx, &arn).await?;
    let wait = cx.api.options.activity_poll;
    let task = tokio::select! {
        task = cx.api.commands.poll_activity(&arn.namespace, &arn.name, worker, wait) => task?,
        () = cx.api.closed() => None,
    };
    Ok(match task {
        Some(task) => {
            // Nobody else sets them.
            let _ = cx.headers.set(task_headers(&task));
            json!({ "taskToken": task.token.as_str(), "input": task.input.as_str() })
        }
        None => json!({ "taskToken": null }),
    })
}

/// What the task message says of the attempt and the service's answer has no member for. A text that no header can
/// carry, such as a state's name that is not ASCII, is left out.
fn task_headers(task: &TaskMessage) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut header = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    header(HEADER_ATTEMPT, &task.attempt.to_string());
    header(HEADER_EXECUTION, &task.execution);
    header(HEADER_STATE, &task.state);
    header(HEADER_IDEMPOTENCY_KEY, &task.idempotency_key);
    if let Some(deadline) = task.deadline {
        header(HEADER_DEADLINE, &deadline.as_millis().to_string());
    }
    if let Some(heartbeat) = task.heartbeat_millis {
        header(HEADER_HEARTBEAT, &heartbeat.to_string());
    }
    headers
}

/// SendTaskSuccess.
pub(super) async fn send_success(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let token = m.required_text("taskToken", TOKEN);
    let output = m.required_text("output", DATA);
    m.finish()?;
    let output =
        json_text::payload(output, "Invalid output.").map_err(|e| ApiError::about(Code::InvalidOutput, e))?;
    report(cx, token, ReportOutcome::Succeeded(output)).await
}

/// SendTaskFailure.
pub(super) async fn send_failure(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let token = m.required_text("taskToken", TOKEN);
    let error = m.text("error", ERROR).map(str::to_owned);
    let cause = m.text("cause", CAUSE).map(str::to_owned);
    m.finish()?;
    report(cx, token, ReportOutcome::Failed { error, cause }).await
}

/// SendTaskHeartbeat.
pub(super) async fn send_heartbeat(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let token = m.required_text("taskToken", TOKEN);
    m.finish()?;
    report(cx, token, ReportOutcome::Heartbeat).await
}

async fn report(cx: &Context<'_>, token: &str, outcome: ReportOutcome) -> Answer {
    let report = Report { token: TaskToken::from_untrusted(token), worker: None, started_at: None, outcome };
    match cx.api.commands.report(report).await? {
        Reply::Accepted => nothing(),
        Reply::InvalidToken => Err(ApiError::about(Code::InvalidToken, "Invalid token")),
        Reply::TaskTimedOut => {
            Err(ApiError::about(Code::TaskTimedOut, "Provided task does not exist anymore"))
        }
        Reply::TaskDoesNotExist => {
            Err(ApiError::about(Code::TaskDoesNotExist, "Provided task does not exist"))
        }
        Reply::Refused(why) => Err(ApiError::validation(why)),
        other => Err(unexpected("a task's report", &other)),
    }
}
