//! Map Runs: describe, list, update.

use serde_json::{Value, json};
use stagepost_protocol::{
    MapRun, MapRunArn, MapRunCounts, MapRunStatus, Timestamp,
    shard::{Reply, UpdateMapRun},
};
use stagepost_store::ExecutionSummary;

use super::{Answer, Context, executions, names, nothing};
use crate::wire::{ApiError, Code, Members, Text, members::ARN, page};

/// The ARN of a Map Run is longer than others.
pub(super) const MAP_RUN_ARN: Text = Text::new(1, 2000);

/// DescribeMapRun.
pub(super) async fn describe(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("mapRunArn", MAP_RUN_ARN);
    m.finish()?;
    let run = find(cx, &names::map_run(arn)?).await?;
    let mut answer = json!({
        "mapRunArn": run.arn.to_string(),
        "executionArn": run.execution.to_string(),
        "status": run.status.as_str(),
        "startDate": run.started_at.as_seconds_f64(),
        "maxConcurrency": run.max_concurrency,
        "toleratedFailurePercentage": run.tolerated_failure_percentage,
        "toleratedFailureCount": run.tolerated_failure_count,
        "itemCounts": counts(&run.items, &run),
        "executionCounts": counts(&run.executions, &run),
        "redriveCount": run.redrive_count,
    });
    if let Some(stopped_at) = run.stopped_at {
        answer["stopDate"] = stopped_at.as_seconds_f64().into();
    }
    if let Some(redriven_at) = run.redriven_at {
        answer["redriveDate"] = redriven_at.as_seconds_f64().into();
    }
    Ok(answer)
}

fn counts(counts: &MapRunCounts, run: &MapRun) -> Value {
    // Nothing redrives a Map Run that succeeded, and so none of its failures.
    let not_redrivable = match run.status {
        MapRunStatus::Succeeded => counts.failed + counts.timed_out + counts.aborted,
        MapRunStatus::Running | MapRunStatus::Failed | MapRunStatus::Aborted => {
            counts.failures_not_redrivable
        }
    };
    json!({
        "pending": counts.pending,
        "running": counts.running,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "timedOut": counts.timed_out,
        "aborted": counts.aborted,
        "total": counts.total(),
        "resultsWritten": counts.results_written,
        "failuresNotRedrivable": not_redrivable,
        "pendingRedrive": counts.pending_redrive,
    })
}

/// ListMapRuns.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("executionArn", ARN);
    let limit = page::size(m.integer("maxResults", 0, page::PAGE_MAX));
    let token = m.text("nextToken", Text::new(1, 3096));
    m.finish()?;
    let execution = executions::find(cx, &names::execution(arn)?).await?;
    let listing = format!("ListMapRuns {}", execution.arn);
    let after = page::after(&listing, token)?;
    let found = cx.api.reader.map_runs(execution.id, limit, after.as_deref()).await?;
    let items: Vec<Value> = found.items.iter().map(item).collect();
    Ok(page::answer("mapRuns", items, &listing, found.next.as_deref()))
}

fn item(run: &MapRun) -> Value {
    let (machine, _) = run.arn.name.rsplit_once(':').unwrap_or((&run.arn.name, ""));
    let (region, account) = (&run.arn.namespace.region, &run.arn.namespace.account);
    let mut item = json!({
        "executionArn": run.execution.to_string(),
        "mapRunArn": run.arn.to_string(),
        "stateMachineArn": format!("arn:aws:states:{region}:{account}:stateMachine:{machine}"),
        "startDate": run.started_at.as_seconds_f64(),
    });
    if let Some(stopped_at) = run.stopped_at {
        item["stopDate"] = stopped_at.as_seconds_f64().into();
    }
    item
}

/// UpdateMapRun.
pub(super) async fn update(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("mapRunArn", MAP_RUN_ARN);
    let max_concurrency = m.integer("maxConcurrency", 0, i64::MAX);
    let count = m.integer("toleratedFailureCount", 0, i64::MAX);
    let percentage = m.number("toleratedFailurePercentage", 0.0, 100.0);
    m.finish()?;
    let arn = names::map_run(arn)?;
    let run = find(cx, &arn).await?;
    if max_concurrency.is_none() && count.is_none() && percentage.is_none() {
        let message = "At least one of maxConcurrency, toleratedFailurePercentage and toleratedFailureCount must be \
                       specified";
        return Err(ApiError::new(Code::MissingRequiredParameter, message));
    }
    if run.status != MapRunStatus::Running {
        return Err(ended(&arn));
    }
    let update = UpdateMapRun {
        execution: run.execution,
        map_run: arn.clone(),
        max_concurrency: max_concurrency.map(i64::unsigned_abs),
        tolerated_failure_count: count.map(i64::unsigned_abs),
        tolerated_failure_percentage: percentage,
    };
    match cx.api.commands.update_map_run(update).await? {
        Reply::Accepted => nothing(),
        Reply::NotFound => Err(ended(&arn)),
        Reply::Refused(why) => Err(ApiError::validation(why)),
        other => Err(executions::unexpected("UpdateMapRun", &other)),
    }
}

fn ended(arn: &MapRunArn) -> ApiError {
    ApiError::validation(format!("The Map Run has ended and cannot be updated: '{arn}'"))
}

/// Since when a Map Run is being redriven, if it is.
pub(super) fn redriven_since(run: &MapRun) -> Option<Timestamp> {
    run.redriven_at.filter(|_| run.status == MapRunStatus::Running)
}

/// Whether an execution is the child of a Map Run that will redrive it.
pub(super) async fn awaits_redrive(cx: &Context<'_>, execution: &ExecutionSummary) -> Result<bool, ApiError> {
    let Some(item) = execution.map_item.as_ref().filter(|_| execution.status.is_unsuccessful()) else {
        return Ok(false);
    };
    let run = cx.api.reader.map_run(&item.map_run).await?;
    let since = run.as_ref().and_then(redriven_since);
    Ok(execution.stopped_at.zip(since).is_some_and(|(stopped_at, since)| stopped_at < since))
}

/// A Map Run that must be there.
pub(super) async fn find(cx: &Context<'_>, arn: &MapRunArn) -> Result<MapRun, ApiError> {
    let found = cx.api.reader.map_run(arn).await?;
    found.ok_or_else(|| ApiError::about(Code::ResourceNotFound, arn))
}
