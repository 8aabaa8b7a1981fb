//! `stagepost schedule …`: cron patterns, rates and single times that start executions.

use std::process::ExitCode;

use serde_json::{Value, json};
use stagepost_protocol::Namespace;
use stagepost_server::Style;

use super::{
    args::schedule::{
        BackfillArgs, ListSchedulesArgs, NameArgs, NextArgs, ScheduleArgs, ScheduleCommand, SettingsArgs,
    },
    executions::machine_arn,
    failure::Failure,
    output,
};

/// The most schedules of a page.
const PAGE_MAX: usize = 100;

pub(crate) async fn run(args: ScheduleArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    match args.command {
        ScheduleCommand::Create(args) => set("CreateSchedule", "created", args, namespace).await,
        ScheduleCommand::Update(args) => set("UpdateSchedule", "updated", args, namespace).await,
        ScheduleCommand::List(args) => list(args, namespace).await,
        ScheduleCommand::Show(args) => show(args, namespace).await,
        ScheduleCommand::Next(args) => next(args, namespace).await,
        ScheduleCommand::Pause(args) => change("PauseSchedule", "paused", args, namespace).await,
        ScheduleCommand::Resume(args) => change("ResumeSchedule", "resumed", args, namespace).await,
        ScheduleCommand::Backfill(args) => backfill(args, namespace).await,
        ScheduleCommand::Delete(args) => change("DeleteSchedule", "deleted", args, namespace).await,
    }
}

async fn set(
    operation: &str,
    done: &str,
    args: SettingsArgs,
    namespace: Namespace,
) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let mut request = json!({
        "name": args.name,
        "scheduleExpression": args.expression,
        "timeZone": args.time_zone,
        "stateMachineArn": machine_arn(&api, &args.state_machine)?,
        "input": output::typed_json("--input", &args.input)?,
        "overlapPolicy": args.overlap.as_str(),
        "jitterSeconds": args.jitter,
        "catchUpWindowSeconds": args.catch_up,
    });
    for (member, time) in [("startTime", args.start), ("endTime", args.end)] {
        if let Some(time) = time {
            request[member] = time.into();
        }
    }
    let answer = api.call_own(operation, &request).await?;
    if args.client.json {
        output::json(&answer);
    } else {
        let style = Style::of(&std::io::stderr());
        output::note(&format!("{} {done} {}", style.green("✓"), style.bold(&args.name)));
        output::note(&format!("fires next at {}", text(&answer, "nextTime")));
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(
    operation: &str,
    done: &str,
    args: NameArgs,
    namespace: Namespace,
) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let answer = api.call_own(operation, &json!({ "name": args.name })).await?;
    if args.client.json {
        output::json(&answer);
    } else {
        output::note(&format!("{done} {}", args.name));
    }
    Ok(ExitCode::SUCCESS)
}

async fn backfill(args: BackfillArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let request = json!({ "name": args.name, "from": args.from, "to": args.to });
    let answer = api.call_own("BackfillSchedule", &request).await?;
    if args.client.json {
        output::json(&answer);
    } else {
        output::note(&format!(
            "{} makes up for {} to {}\nhint: `stagepost schedule show {}` tells how far it has come",
            args.name, args.from, args.to, args.name
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: ListSchedulesArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let mut request = json!({ "maxResults": args.max.clamp(1, PAGE_MAX) });
    if let Some(status) = args.status {
        request["statusFilter"] = status.as_str().into();
    }
    let items = api.own_pages("ListSchedules", request, "schedules", args.max).await?;
    if args.client.json {
        output::json(&Value::Array(items));
    } else if items.is_empty() {
        output::note(
            "there are no such schedules\nhint: stagepost schedule create NAME '0 9 * * *' --state-machine NAME",
        );
    } else {
        let columns = ["name", "status", "scheduleExpression", "timeZone", "nextTime"];
        let rows: Vec<_> =
            items.iter().map(|item| columns.map(|column| text(item, column)).to_vec()).collect();
        output::data(&output::table(&["NAME", "STATUS", "EXPRESSION", "ZONE", "NEXT"], &rows));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(args: NameArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let answer = api.call_own("DescribeSchedule", &json!({ "name": args.name })).await?;
    if args.client.json {
        output::json(&answer);
    } else {
        output::data(&shown(&answer));
    }
    Ok(ExitCode::SUCCESS)
}

async fn next(args: NextArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let mut request = json!({ "maxResults": args.max });
    match (&args.name, &args.expression) {
        (Some(name), _) => request["name"] = name.as_str().into(),
        (None, expression) => {
            request["scheduleExpression"] = expression.as_deref().unwrap_or_default().into();
            request["timeZone"] = args.time_zone.into();
        }
    }
    if let Some(after) = args.after {
        request["after"] = after.into();
    }
    let answer = api.call_own("ListScheduleTimes", &request).await?;
    if args.client.json {
        output::json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let times: Vec<&str> =
        answer["times"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if times.is_empty() {
        output::note("it fires no more");
    } else {
        output::data(&times.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(item: &Value, member: &str) -> String {
    match &item[member] {
        Value::String(text) => output::harmless(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// The fields that a person wants, one to a line, and the newest firings.
fn shown(schedule: &Value) -> String {
    let fields = [
        ("name", "name"),
        ("status", "status"),
        ("scheduleExpression", "expression"),
        ("timeZone", "time zone"),
        ("stateMachineArn", "state machine"),
        ("overlapPolicy", "overlap"),
        ("jitterSeconds", "jitter (s)"),
        ("catchUpWindowSeconds", "catch up (s)"),
        ("startTime", "starts"),
        ("endTime", "ends"),
        ("nextTime", "next"),
        ("waitingTime", "waiting"),
        ("input", "input"),
    ];
    let there = fields.into_iter().filter(|(member, _)| !schedule[*member].is_null());
    let mut lines: Vec<String> =
        there.map(|(member, title)| format!("{title:13}  {}", text(schedule, member))).collect();
    let counts = &schedule["counts"];
    let count = |name: &str| format!("{} {name}", counts[name]);
    let counts = ["started", "skipped", "missed", "failed"].map(count).join(", ");
    lines.push(format!("{:13}  {counts}", "firings"));
    for backfill in schedule["backfills"].as_array().into_iter().flatten() {
        lines.push(format!("{:13}  {} to {}", "backfill", text(backfill, "from"), text(backfill, "to")));
    }
    let recent = schedule["recent"].as_array();
    let row = |fired: &Value| {
        let became = if fired["error"].is_null() { "executionArn" } else { "error" };
        vec![text(fired, "scheduledTime"), text(fired, "time"), text(fired, became)]
    };
    let rows: Vec<_> = recent.into_iter().flatten().map(row).collect();
    if !rows.is_empty() {
        lines.push(format!("\n{}", output::table(&["SCHEDULED", "FIRED", "EXECUTION"], &rows)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_shown_with_its_newest_firings() {
        let schedule = json!({
            "name": "daily", "status": "ACTIVE", "scheduleExpression": "0 9 * * *", "timeZone": "UTC",
            "jitterSeconds": 0, "nextTime": "2026-11-28T09:00:00.000Z",
            "counts": {"started": 1, "skipped": 0, "missed": 2, "failed": 1},
            "backfills": [{"from": "a", "to": "b"}],
            "recent": [
                {"scheduledTime": "s2", "time": "t2", "error": "there is no state machine x"},
                {"scheduledTime": "s1", "time": "t1", "executionArn": "arn:x"},
            ],
        });
        let expected = "\
name           daily
status         ACTIVE
expression     0 9 * * *
time zone      UTC
jitter (s)     0
next           2026-11-28T09:00:00.000Z
firings        1 started, 0 skipped, 2 missed, 1 failed
backfill       a to b

SCHEDULED  FIRED  EXECUTION
s2         t2     there is no state machine x
s1         t1     arn:x";
        assert_eq!(shown(&schedule), expected);
    }
}
