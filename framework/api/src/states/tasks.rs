//! Tasks: workers that poll for them, and what becomes of them.

use std::time::Duration;

use serde_json::json;
use stagepost_coordinator::Poller;
use stagepost_protocol::{
    Report, ReportOutcome, TaskToken,
    approval::{self, Via},
    http,
    message::{HEADER_IDEMPOTENT, HEADER_LEASE, HEADER_WAIT},
    shard::Reply,
};

use super::{Answer, Context, activities, executions::unexpected, names, nothing};
use crate::{
    operations::Answered,
    wire::{
        ApiError, Code, Members, Text, json as json_text,
        members::{ARN, CAUSE, DATA, ERROR, NAME},
    },
};

const TOKEN: Text = Text::sensitive(1, 2048);

/// GetActivityTask: a long poll. A client that goes away while it waits loses no task: this future is dropped
/// then, and what had come for it goes to somebody else. What was announced as started and could not be sent is lost to this
/// worker and ends by the task's timeout or heartbeat, as with the service. A worker that is going to stop avoids
/// that: its header `stagepost-wait` asks for a shorter poll, which it can wait for.
///
/// The headers of the answer tell a worker of ours what the members do not: the attempt's number, the execution, the
/// state, the idempotency key and the limits.
pub(super) async fn get_activity_task(cx: &Context<'_>, mut m: Members<'_>) -> Result<Answered, ApiError> {
    let arn = m.required_text("activityArn", ARN);
    let worker = m.text("workerName", NAME);
    m.finish()?;
    let arn = names::activity(arn)?;
    worker.map_or(Ok(()), names::name)?;
    activities::find(cx, &arn).await?;
    let header = |name: &str| cx.headers.get(name).and_then(|value| value.to_str().ok());
    let asked = header(HEADER_WAIT).and_then(|millis| millis.parse().ok());
    let poller = Poller {
        worker: worker.map(str::to_owned),
        lease_millis: header(HEADER_LEASE).and_then(|millis| millis.parse().ok()),
        idempotent: header(HEADER_IDEMPOTENT) == Some("true"),
    };
    let wait = cx.api.options.activity_poll.min(asked.map_or(Duration::MAX, Duration::from_millis));
    let task = tokio::select! {
        task = cx.api.commands.poll_activity(&arn.namespace, &arn.name, poller, wait) => task?,
        () = cx.api.closed() => None,
    };
    Ok(match task {
        Some(task) => Answered {
            body: json!({ "taskToken": task.token.as_str(), "input": task.input.as_str() }),
            headers: http::task_headers(&task),
        },
        None => json!({ "taskToken": null }).into(),
    })
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
    let token = TaskToken::from_untrusted(token);
    let answer = Some(approval::Answer { via: Via::Api, by: None, comment: None });
    let report = Report { token, worker: None, started_at: None, outcome, child: None, answer };
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
