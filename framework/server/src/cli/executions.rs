//! `start`, `describe`, `history`, `stop`, `redrive` and `signal`.

use std::process::ExitCode;

use serde_json::{Value, json};
use stagepost_protocol::{ExecutionArn, Namespace, StateMachineArn};
use stagepost_server::{ApiClient, ExecutionDescription, HistoryEvent, Steps, Style};
use stagepost_store::ExecutionStatus;

use super::{
    args::{DescribeArgs, HistoryArgs, RedriveArgs, SignalArgs, StartArgs, StopArgs},
    failure::Failure,
    output,
};

/// Longest text of a detail in a table, in characters.
const DETAIL_CHARS_MAX: usize = 100;
/// What a process that SIGINT ended has as its exit code.
const INTERRUPTED: u8 = 130;

pub(crate) async fn start(args: StartArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let machine = machine_arn(&api, &args.state_machine)?;
    let input = output::typed_json("--input", &args.input)?;
    if args.wait && api.is_express(&machine).await? {
        return run_express(&api, &machine, &input, &args).await;
    }
    let execution = api.start(&machine, &input, args.name.as_deref()).await?;
    if args.wait {
        return wait(&api, &execution, args.client.json).await;
    }
    if args.client.json {
        output::json(&json!({ "executionArn": execution }));
    } else {
        let style = Style::of(&std::io::stderr());
        output::note(&format!("{} started {}", style.green("✓"), style.bold(&short_name(&execution))));
        output::data(&execution.to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// An Express execution: it keeps no history, so there is nothing to show of it but its end.
async fn run_express(
    api: &ApiClient,
    machine: &StateMachineArn,
    input: &str,
    args: &StartArgs,
) -> Result<ExitCode, Failure> {
    let ended = api.run_express(machine, input, args.name.as_deref()).await?;
    if args.client.json {
        let ExecutionDescription { arn, status, output, error, cause, .. } = &ended;
        let status = status.as_str();
        output::json(&json!({
            "executionArn": arn, "status": status, "output": output, "error": error, "cause": cause
        }));
    } else {
        output::notes(&Steps::new(Style::of(&std::io::stderr())).ended(&ended));
        if let Some(text) = &ended.output {
            output::json_text(text);
        }
    }
    Ok(ExitCode::from(u8::from(ended.status != ExecutionStatus::Succeeded)))
}

async fn wait(api: &ApiClient, execution: &ExecutionArn, json: bool) -> Result<ExitCode, Failure> {
    let style = Style::of(&std::io::stderr());
    let mut steps = Steps::new(style);
    if !json {
        output::note(&format!("{} {}", style.dim("execution"), style.bold(&short_name(execution))));
    }
    let follow = api.follow(execution, |events| {
        if !json {
            output::notes(&steps.show(events));
        }
    });
    let ended = tokio::select! {
        ended = follow => ended?,
        _ = tokio::signal::ctrl_c() => {
            output::note(&format!("\nthe execution goes on: stagepost describe {}", short_name(execution)));
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    let succeeded = ended.status == ExecutionStatus::Succeeded;
    if json {
        output::json(&api.call("DescribeExecution", &json!({ "executionArn": execution })).await?);
    } else {
        output::notes(&steps.ended(&ended));
        if let Some(text) = &ended.output {
            output::json_text(text);
        }
    }
    Ok(ExitCode::from(u8::from(!succeeded)))
}

pub(crate) async fn describe(args: DescribeArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let execution = args.what.contains(":execution:") || is_short_name(&args.what);
    let answer = if execution {
        let arn = execution_arn(&api, &args.what)?;
        api.call("DescribeExecution", &json!({ "executionArn": arn })).await?
    } else {
        let arn = machine_arn(&api, &args.what)?;
        api.call("DescribeStateMachine", &json!({ "stateMachineArn": arn })).await?
    };
    if args.client.json {
        output::json(&answer);
    } else {
        output::data(&described(&answer, Style::of(&std::io::stdout())));
    }
    Ok(ExitCode::SUCCESS)
}

/// The fields of an answer that a person wants, one to a line; JSON texts last.
fn described(answer: &Value, style: Style) -> String {
    let fields = [
        ("name", "name"),
        ("status", "status"),
        ("type", "type"),
        ("executionArn", "execution"),
        ("stateMachineArn", "state machine"),
        ("revisionId", "revision"),
        ("roleArn", "role"),
        ("creationDate", "created"),
        ("startDate", "started"),
        ("stopDate", "stopped"),
        ("error", "error"),
        ("cause", "cause"),
    ];
    let mut lines = Vec::new();
    for (member, label) in fields {
        let text = match answer.get(member) {
            Some(Value::String(text)) => output::harmless(text),
            Some(time) if member.ends_with("Date") => output::time(time),
            _ => continue,
        };
        let text = if member == "status" { coloured(&text, style) } else { text };
        lines.push(format!("{}  {text}", style.dim(&format!("{label:<13}"))));
    }
    for member in ["input", "output", "definition"] {
        if let Some(text) = answer.get(member).and_then(Value::as_str) {
            let pretty = match serde_json::from_str::<Value>(text) {
                Ok(value) if text.len() > DETAIL_CHARS_MAX || text.contains('\n') => format!("{value:#}"),
                _ => text.to_owned(),
            };
            lines.push(format!("{}\n  {}", style.dim(member), pretty.replace('\n', "\n  ")));
        }
    }
    lines.join("\n")
}

fn coloured(status: &str, style: Style) -> String {
    match status {
        "SUCCEEDED" | "ACTIVE" => style.green(status),
        "RUNNING" | "ABORTED" => style.yellow(status),
        "FAILED" | "TIMED_OUT" => style.red(status),
        _ => status.to_owned(),
    }
}

pub(crate) async fn history(args: HistoryArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let arn = execution_arn(&api, &args.execution)?;
    let request = json!({ "executionArn": arn, "maxResults": 1000 });
    let events = api.pages("GetExecutionHistory", request, "events", usize::MAX).await?;
    if args.client.json {
        output::json(&Value::Array(events));
        return Ok(ExitCode::SUCCESS);
    }
    let events: Vec<_> = events.iter().filter_map(HistoryEvent::from_json).collect();
    output::data(&history_table(&events));
    Ok(ExitCode::SUCCESS)
}

fn history_table(events: &[HistoryEvent]) -> String {
    let started = events.first().map(|event| event.at).unwrap_or_default();
    let row = |event: &HistoryEvent| {
        let after = format!("+{:.3}s", event.at.millis_since(started) as f64 / 1000.0);
        vec![event.id.to_string(), after, event.kind.clone(), detail(event)]
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    output::table(&["ID", "AFTER", "EVENT", "DETAIL"], &rows)
}

/// What distinguishes an event from others of its type.
fn detail(event: &HistoryEvent) -> String {
    let mut parts = Vec::new();
    for member in ["name", "index", "length", "resource", "workerName", "error", "cause", "parameters"] {
        match event.details.get(member) {
            Some(Value::String(text)) if !text.is_empty() => parts.push(text.clone()),
            Some(Value::Number(number)) => parts.push(format!("{member} {number}")),
            _ => {}
        }
    }
    // Inputs of states repeat the outputs before them.
    if event.kind == "ExecutionStarted" {
        parts.extend(event.text("input").map(str::to_owned));
    }
    parts.extend(event.text("output").map(str::to_owned));
    output::short(&parts.join("  "), DETAIL_CHARS_MAX)
}

pub(crate) async fn stop(args: StopArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let arn = execution_arn(&api, &args.execution)?;
    let before = api.describe(&arn).await?.status;
    api.stop(&arn, args.error.as_deref(), args.cause.as_deref()).await?;
    let after = api.describe(&arn).await?.status;
    if args.client.json {
        output::json(&json!({ "executionArn": arn, "status": after.as_str() }));
    } else if before == ExecutionStatus::Running {
        output::note(&format!("stopped {}: {}", short_name(&arn), after.as_str()));
    } else {
        output::note(&format!("{} had ended before: {}", short_name(&arn), after.as_str()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn redrive(args: RedriveArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let arn = execution_arn(&api, &args.execution)?;
    api.redrive(&arn).await?;
    let status = api.describe(&arn).await?.status;
    if args.client.json {
        output::json(&json!({ "executionArn": arn, "status": status.as_str() }));
    } else {
        output::note(&format!("redriven {}: {}", short_name(&arn), status.as_str()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn signal(args: SignalArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let arn = execution_arn(&api, &args.execution)?;
    let input = output::typed_json("--input", &args.input)?;
    let id = api.signal(&arn, &args.name, &input, args.id.as_deref()).await?;
    if args.client.json {
        output::json(&json!({ "signalId": id }));
    } else {
        output::note(&format!("{} has the signal {}", short_name(&arn), args.name));
    }
    Ok(ExitCode::SUCCESS)
}

/// `STATE_MACHINE:NAME`, which people can type.
fn short_name(arn: &ExecutionArn) -> String {
    format!("{}:{}", arn.state_machine, arn.name)
}

fn is_short_name(text: &str) -> bool {
    !text.starts_with("arn:") && text.contains(':')
}

/// The ARN of a state machine that was named in either way.
pub(crate) fn machine_arn(api: &ApiClient, text: &str) -> Result<StateMachineArn, Failure> {
    if text.is_empty() || is_short_name(text) {
        return Err(Failure::usage(format!("'{text}' is not a state machine: expected its name or its ARN")));
    }
    api.state_machine_arn(text).map_err(|error| Failure::usage(error.to_string()))
}

/// The ARN of an execution that was named in either way.
fn execution_arn(api: &ApiClient, text: &str) -> Result<ExecutionArn, Failure> {
    let wrong = || {
        Failure::usage(format!("'{text}' is not an execution: expected its ARN or STATE_MACHINE:NAME"))
            .with_hint("`stagepost list STATE_MACHINE` shows the names")
    };
    if text.starts_with("arn:") {
        return ExecutionArn::parse(text).map_err(|_| wrong());
    }
    match text.split_once(':') {
        Some((machine, name)) if !machine.is_empty() && !name.is_empty() && !name.contains(':') => {
            Ok(machine_arn(api, machine)?.execution(name))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_and_machines_are_named_in_two_ways() {
        let api = ApiClient::new("http://localhost").unwrap();
        let arn = "arn:aws:states:us-east-1:000000000000:execution:orders:o-1";
        assert_eq!(execution_arn(&api, "orders:o-1").unwrap().to_string(), arn);
        assert_eq!(execution_arn(&api, arn).unwrap().to_string(), arn);
        for bad in ["orders", "", ":", "a:", ":b", "a:b:c", "arn:aws:states:us-east-1:0:activity:x"] {
            assert_eq!(execution_arn(&api, bad).unwrap_err().code, 2, "{bad}");
        }
        assert_eq!(machine_arn(&api, "orders").unwrap().name, "orders");
        assert_eq!(machine_arn(&api, "a:b").unwrap_err().code, 2);
    }

    #[test]
    fn a_history_is_a_table() {
        let events = [
            json!({"id": 1, "previousEventId": 0, "timestamp": 1.0, "type": "ExecutionStarted",
                "executionStartedEventDetails": {"input": "{}", "roleArn": "r"}}),
            json!({"id": 2, "previousEventId": 0, "timestamp": 1.25, "type": "PassStateEntered",
                "stateEnteredEventDetails": {"name": "A", "input": "{}"}}),
            json!({"id": 3, "previousEventId": 2, "timestamp": 1.5, "type": "ExecutionFailed",
                "executionFailedEventDetails": {"error": "E", "cause": "two\nlines"}}),
        ];
        let events: Vec<_> = events.iter().map(|event| HistoryEvent::from_json(event).unwrap()).collect();
        let expected = "\
ID  AFTER    EVENT             DETAIL
1   +0.000s  ExecutionStarted  {}
2   +0.250s  PassStateEntered  A
3   +0.500s  ExecutionFailed   E two lines";
        assert_eq!(history_table(&events), expected);
    }

    #[test]
    fn a_description_shows_what_is_there() {
        let answer =
            json!({"name": "x", "status": "FAILED", "startDate": 0.0, "error": "E", "input": "{\"a\":1}"});
        let shown = described(&answer, Style::plain());
        assert_eq!(
            shown,
            "name           x\nstatus         FAILED\nstarted        1970-01-01T00:00:00.000Z\nerror          E\n\
             input\n  {\"a\":1}"
        );
    }
}
