//! Executions: start, stop, describe, list.

use serde_json::{Value, json};
use stagepost_protocol::{
    ExecutionArn, MapItem, Parent, ParentKind, Payload,
    shard::{Redrive, Reply, Start, Stop},
};
use stagepost_store::{ExecutionStatus, ExecutionSummary, ExecutionsOf, ListExecutions, StateMachineRow};
use uuid::Uuid;

use super::{Answer, Context, express, map_runs, names, state_machines};
use crate::wire::{
    ApiError, Code, Members, Text, json as json_text,
    members::{ARN, CAUSE, DATA, ERROR, NAME},
    page,
};

/// In the order of the service's messages.
const STATUSES: &[&str] = &["SUCCEEDED", "TIMED_OUT", "PENDING_REDRIVE", "ABORTED", "FAILED", "RUNNING"];
const TRACE_HEADER: Text = Text::new(0, 256);
const CLIENT_TOKEN: Text = Text::new(1, 64);

/// What StartExecution and StartSyncExecution ask for.
struct StartRequest<'a> {
    machine: StateMachineRow,
    name: Option<&'a str>,
    input: Payload,
    trace_header: Option<&'a str>,
}

impl<'a> StartRequest<'a> {
    /// Checks what was read, the last member of it included, in the service's order.
    async fn read(cx: &Context<'_>, mut m: Members<'a>) -> Result<StartRequest<'a>, ApiError> {
        let machine_arn = m.required_text("stateMachineArn", ARN);
        let name = m.text("name", NAME);
        let input = m.text("input", DATA).unwrap_or("{}");
        let trace_header = m.text("traceHeader", TRACE_HEADER);
        m.finish()?;
        names::state_machine(machine_arn)?;
        name.map_or(Ok(()), names::name)?;
        if trace_header.is_some_and(|t| !t.is_ascii()) {
            let rule = r"Member must satisfy regular expression pattern: \p{ASCII}*";
            let message = format!(
                "1 validation error detected: Value at 'traceHeader' failed to satisfy constraint: {rule}"
            );
            return Err(ApiError::validation(message));
        }
        let input = json_text::payload(input, "Invalid execution input.")
            .map_err(|e| ApiError::about(Code::InvalidExecutionInput, e))?;
        let machine = state_machines::find(cx, machine_arn).await?;
        Ok(StartRequest { machine, name, input, trace_header })
    }

    /// The execution's name; a new one if the request has none.
    fn name(&self) -> String {
        self.name.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
    }
}

/// StartExecution. Answered after the commit: the execution exists and survives whatever follows.
pub(super) async fn start(cx: &Context<'_>, m: Members<'_>) -> Answer {
    start_for(cx, m, None).await
}

/// StartExecution, asked for by an attempt of another execution or by nobody that is one.
pub(super) async fn start_for(cx: &Context<'_>, m: Members<'_>, parent: Option<Parent>) -> Answer {
    let request = StartRequest::read(cx, m).await?;
    let (fresh, name) = (request.name.is_none(), request.name());
    let StartRequest { machine, input, trace_header, .. } = request;
    if machine.is_express() {
        // Nobody is told of its end.
        if parent.is_some_and(|parent| parent.kind != ParentKind::Request) {
            return Err(express::wrong_type());
        }
        return express::start(cx, &machine, &name, input).await;
    }
    let execution = machine.arn.execution(&name);
    let start = Start {
        execution: execution.clone(),
        state_machine: machine.arn,
        definition_id: machine.definition_id,
        role_arn: machine.role_arn,
        input,
        trace_header: trace_header.map(str::to_owned),
        fresh,
        parent,
        map_item: None,
    };
    match cx.api.commands.start(start).await? {
        Reply::Started { started_at } => Ok(json!({
            "executionArn": execution.to_string(),
            "startDate": started_at.as_seconds_f64(),
        })),
        Reply::AlreadyExists => Err(ApiError::about(Code::ExecutionAlreadyExists, execution)),
        Reply::Refused(why) => Err(ApiError::validation(why)),
        other => Err(unexpected("StartExecution", &other)),
    }
}

/// StartSyncExecution: for state machines of type EXPRESS.
pub(super) async fn start_sync(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let metadata_only = state_machines::metadata_only(&mut m);
    let request = StartRequest::read(cx, m).await?;
    if !request.machine.is_express() {
        return Err(express::wrong_type());
    }
    let name = request.name();
    let StartRequest { machine, input, trace_header, .. } = request;
    express::start_sync(cx, &machine, &name, input, trace_header, metadata_only).await
}

/// StopExecution.
pub(super) async fn stop(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("executionArn", ARN);
    let error = m.text("error", ERROR).map(str::to_owned);
    let cause = m.text("cause", CAUSE).map(str::to_owned);
    m.finish()?;
    let execution = names::execution(arn)?;
    // Asked first, so that nobody can wake a shard for executions that never were.
    find(cx, &execution).await?;
    let stop = Stop { execution: execution.clone(), error, cause, parent: None, redrives: None };
    match cx.api.commands.stop(stop).await? {
        Reply::Stopped { stopped_at } => Ok(json!({ "stopDate": stopped_at.as_seconds_f64() })),
        Reply::NotFound => Err(missing(&execution)),
        Reply::Refused(why) => Err(ApiError::validation(why)),
        other => Err(unexpected("StopExecution", &other)),
    }
}

/// RedriveExecution: an execution that ended without success goes on where it stopped.
pub(super) async fn redrive(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("executionArn", ARN);
    let client_token = m.text("clientToken", CLIENT_TOKEN);
    m.finish()?;
    let execution = names::execution(arn)?;
    find(cx, &execution).await?;
    // A request without a token is repeated by nobody but the broker.
    let client_token = client_token.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let redrive = Redrive { execution: execution.clone(), client_token };
    match cx.api.commands.redrive(redrive).await? {
        Reply::Redriven { redriven_at } => Ok(json!({ "redriveDate": redriven_at.as_seconds_f64() })),
        Reply::NotRedrivable(why) => Err(ApiError::new(Code::ExecutionNotRedrivable, why)),
        Reply::NotFound => Err(missing(&execution)),
        Reply::Refused(why) => Err(ApiError::validation(why)),
        other => Err(unexpected("RedriveExecution", &other)),
    }
}

/// DescribeExecution.
pub(super) async fn describe(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("executionArn", ARN);
    let metadata_only = state_machines::metadata_only(&mut m);
    m.finish()?;
    let mut execution = find(cx, &names::execution(arn)?).await?;
    if map_runs::awaits_redrive(cx, &execution).await? {
        execution.status = ExecutionStatus::PendingRedrive;
    }
    let mut answer = item(&execution);
    if let Some(trace_header) = &execution.trace_header {
        answer["traceHeader"] = trace_header.as_str().into();
    }
    show_redrive(&mut answer, &execution);
    if metadata_only {
        return Ok(answer);
    }
    let included = json!({ "included": true });
    answer["input"] = execution.input.as_str().into();
    answer["inputDetails"] = included.clone();
    if let Some(output) = &execution.output {
        answer["output"] = output.as_str().into();
        answer["outputDetails"] = included;
    }
    for (name, text) in [("error", &execution.error), ("cause", &execution.cause)] {
        if let Some(text) = text {
            answer[name] = text.as_str().into();
        }
    }
    Ok(answer)
}

fn show_redrive(answer: &mut Value, execution: &ExecutionSummary) {
    let of_map_run = execution.parent.as_ref().is_some_and(|p| matches!(p.kind, ParentKind::MapItem { .. }));
    match execution.not_redrivable(super::now()) {
        None if of_map_run => answer["redriveStatus"] = "REDRIVABLE_BY_MAP_RUN".into(),
        None => answer["redriveStatus"] = "REDRIVABLE".into(),
        Some(why) => {
            answer["redriveStatus"] = "NOT_REDRIVABLE".into();
            answer["redriveStatusReason"] = why.into();
        }
    }
}

/// ListExecutions.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let machine_arn = m.text("stateMachineArn", ARN);
    let status = m.one_of("statusFilter", STATUSES);
    let limit = page::size(m.integer("maxResults", 0, page::PAGE_MAX));
    let token = m.text("nextToken", Text::new(1, 3096));
    let map_run = m.text("mapRunArn", map_runs::MAP_RUN_ARN);
    let redrive = m.one_of("redriveFilter", &["REDRIVEN", "NOT_REDRIVEN"]);
    m.finish()?;
    let of = match (machine_arn, map_run) {
        (Some(arn), None) => {
            let machine = state_machines::find(cx, arn).await?;
            if machine.is_express() {
                return Err(express::wrong_type());
            }
            ExecutionsOf::StateMachine(machine.arn)
        }
        (None, Some(arn)) => {
            let run = map_runs::find(cx, &names::map_run(arn)?).await?;
            match map_runs::redriven_since(&run) {
                Some(since) => ExecutionsOf::RedrivenMapRun(run.arn, since),
                None => ExecutionsOf::MapRun(run.arn),
            }
        }
        _ => {
            let message = "Exactly one of stateMachineArn and mapRunArn must be specified";
            return Err(ApiError::validation(message));
        }
    };
    let what = match &of {
        ExecutionsOf::StateMachine(arn) => arn.to_string(),
        ExecutionsOf::MapRun(arn) | ExecutionsOf::RedrivenMapRun(arn, _) => arn.to_string(),
    };
    let shown = redrive.unwrap_or("");
    let listing = format!("ListExecutions {what} {} {shown}", status.unwrap_or(""));
    let after = page::after(&listing, token)?;
    let status = status.and_then(ExecutionStatus::parse);
    let redriven = redrive.map(|redrive| redrive == "REDRIVEN");
    let query = ListExecutions { of, status, redriven, limit, after };
    let found = cx.api.reader.executions(&query).await?;
    let items: Vec<Value> = found.items.iter().map(listed).collect();
    Ok(page::answer("executions", items, &listing, found.next.as_deref()))
}

/// What a listing shows of an execution.
fn listed(execution: &ExecutionSummary) -> Value {
    let mut item = item(execution);
    if let Some(MapItem { items, .. }) = &execution.map_item {
        item["itemCount"] = (*items).into();
    }
    item
}

/// What a listing and a description show of an execution.
fn item(execution: &ExecutionSummary) -> Value {
    let mut item = json!({
        "executionArn": execution.arn.to_string(),
        "stateMachineArn": execution.state_machine.to_string(),
        "name": execution.arn.name,
        "status": execution.status.as_str(),
        "startDate": execution.started_at.as_seconds_f64(),
        "redriveCount": execution.redrive_count,
    });
    if let Some(redriven_at) = execution.redriven_at {
        item["redriveDate"] = redriven_at.as_seconds_f64().into();
    }
    if let Some(MapItem { map_run, .. }) = &execution.map_item {
        item["mapRunArn"] = map_run.to_string().into();
    }
    if let Some(stopped_at) = execution.stopped_at {
        item["stopDate"] = stopped_at.as_seconds_f64().into();
    }
    item
}

/// The summary of an execution that must be there.
pub(crate) async fn find(cx: &Context<'_>, arn: &ExecutionArn) -> Result<ExecutionSummary, ApiError> {
    cx.api.reader.execution(arn.id()).await?.ok_or_else(|| missing(arn))
}

pub(crate) fn missing(arn: &ExecutionArn) -> ApiError {
    ApiError::about(Code::ExecutionDoesNotExist, arn)
}

/// A reply that the coordinator never gives to this request.
pub(crate) fn unexpected(operation: &str, reply: &Reply) -> ApiError {
    ApiError::internal(format!("{operation} was answered with {reply:?}"))
}
