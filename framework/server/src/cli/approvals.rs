//! `approvals`: tasks for people.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use stagepost_protocol::{Namespace, approval::ApprovalStatus};
use stagepost_server::{ApiClient, CallError};

use super::{args::ClientArgs, failure::Failure, output};

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// List approvals, the oldest first
    List(ListArgs),
    /// Show what an approval asks, and what happened to it
    Show(ShowArgs),
    /// Say yes: the tasks go on
    Approve(ApproveArgs),
    /// Say no: the tasks fail with Approval.Rejected, which Catch matches
    Reject(RejectArgs),
    /// Let others be asked instead
    Delegate(DelegateArgs),
    /// Make a signed link to a page that shows the approval and takes an answer, once
    Link(LinkArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those that stand so: open, approved, rejected, failed, timed-out, cancelled; or all
    #[arg(long, default_value = "open", value_parser = status)]
    status: Status,
    /// Only those that ask this person or group
    #[arg(long = "for", value_name = "NAME")]
    approver: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "N")]
    max: usize,
    #[command(flatten)]
    client: ClientArgs,
}

/// A status as the API spells it; `None`: all.
#[derive(Debug, Clone)]
struct Status(Option<&'static str>);

fn status(text: &str) -> Result<Status, String> {
    let spelled = text.to_ascii_uppercase().replace('-', "_");
    match ApprovalStatus::NAMES.iter().find(|name| **name == spelled) {
        Some(name) => Ok(Status(Some(name))),
        None if spelled == "ALL" => Ok(Status(None)),
        None => Err("it must be open, approved, rejected, failed, timed-out, cancelled or all".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The approval's id
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Who acts.
#[derive(Debug, Args)]
struct WhoArgs {
    /// Who you are, as it is kept with the approval. Default: the user's name
    #[arg(long, env = "USER", hide_env = true, value_name = "NAME")]
    by: Option<String>,
    /// What you add
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// The approvals' ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// The answer, where more than a yes is asked for: JSON, `@FILE`, or `@-` for standard input
    #[arg(long, value_name = "JSON|@FILE")]
    answer: Option<String>,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RejectArgs {
    /// The approvals' ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DelegateArgs {
    /// The approval's id
    id: String,
    /// Who is asked from now on. Repeatable
    #[arg(long, required = true, value_name = "NAME")]
    to: Vec<String>,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LinkArgs {
    /// The approval's id
    id: String,
    /// Who answers by it, as it is kept with the approval. Default: whoever opens it says who they are
    #[arg(long = "for", value_name = "NAME")]
    name: Option<String>,
    /// How long it is good: a number and s, m, h or d
    #[arg(long, default_value = "7d", value_parser = seconds, value_name = "TIME")]
    expires: u64,
    /// It only shows the approval
    #[arg(long)]
    view: bool,
    #[command(flatten)]
    client: ClientArgs,
}

fn seconds(text: &str) -> Result<u64, String> {
    let expected = || "it must be a number and s, m, h or d, for instance 2d".to_owned();
    let unit = text.chars().last().ok_or_else(expected)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(expected()),
    };
    let number =
        text.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok()).ok_or_else(expected)?;
    number.checked_mul(factor).filter(|seconds| *seconds > 0).ok_or_else(expected)
}

pub(crate) async fn run(command: ApprovalsCommand, namespace: Namespace) -> Result<ExitCode, Failure> {
    match command {
        ApprovalsCommand::List(args) => list(args, namespace).await,
        ApprovalsCommand::Show(args) => show(args, namespace).await,
        ApprovalsCommand::Approve(ApproveArgs { ids, answer, who, client }) => {
            let answer = answer.map(|text| output::typed_json("--answer", &text)).transpose()?;
            let mut request = acting(&who);
            request["decision"] = "APPROVE".into();
            if let Some(answer) = answer {
                request["answer"] = answer.into();
            }
            answer_all(&client, namespace, &ids, request, "approved").await
        }
        ApprovalsCommand::Reject(RejectArgs { ids, who, client }) => {
            let mut request = acting(&who);
            request["decision"] = "REJECT".into();
            answer_all(&client, namespace, &ids, request, "rejected").await
        }
        ApprovalsCommand::Delegate(DelegateArgs { id, to, who, client }) => {
            let mut request = acting(&who);
            request["approvalId"] = id.as_str().into();
            request["to"] = json!(to);
            client.client(namespace)?.call_own("DelegateApproval", &request).await?;
            done(client.json, &json!({}), &format!("{id} asks {} now", to.join(", ")));
            Ok(ExitCode::SUCCESS)
        }
        ApprovalsCommand::Link(args) => link(args, namespace).await,
    }
}

/// A request of somebody who acts by the command line.
fn acting(who: &WhoArgs) -> Value {
    let mut request = json!({ "via": "cli" });
    for (member, text) in [("by", &who.by), ("comment", &who.comment)] {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            request[member] = text.into();
        }
    }
    request
}

fn done(json: bool, answer: &Value, note: &str) {
    if json {
        output::json(answer);
    } else {
        output::note(note);
    }
}

async fn list(args: ListArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let mut request = json!({});
    if let Some(status) = args.status.0 {
        request["status"] = status.into();
    }
    if let Some(approver) = args.approver {
        request["approver"] = approver.into();
    }
    let mut items = pages(&args.client.client(namespace)?, request, args.max).await?;
    // Pages come in the order of ids.
    items.sort_by(|a, b| {
        a["openedAt"].as_f64().unwrap_or(0.0).total_cmp(&b["openedAt"].as_f64().unwrap_or(0.0))
    });
    if args.client.json {
        output::json(&Value::Array(items));
        return Ok(ExitCode::SUCCESS);
    }
    if items.is_empty() {
        output::note("there are no such approvals\nhint: --status all shows those that are answered too");
        return Ok(ExitCode::SUCCESS);
    }
    let text = |item: &Value, member: &str| item[member].as_str().unwrap_or("-").to_owned();
    let row = |item: &Value| {
        let approvers: Vec<&str> =
            item["approvers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        vec![
            text(item, "approvalId"),
            text(item, "status"),
            output::time(&item["openedAt"]),
            output::time(&item["deadline"]),
            output::short(&approvers.join(", "), 30),
            output::short(&text(item, "title"), 60),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    output::data(&output::table(&["ID", "STATUS", "OPENED", "DEADLINE", "FOR", "TITLE"], &rows));
    Ok(ExitCode::SUCCESS)
}

/// Up to `max` approvals. A page may hold fewer than were asked for, where others are passed over.
async fn pages(api: &ApiClient, mut request: Value, max: usize) -> Result<Vec<Value>, CallError> {
    let mut items = Vec::new();
    loop {
        let page = api.call_own("ListApprovals", &request).await?;
        items.extend(page["approvals"].as_array().into_iter().flatten().cloned());
        items.truncate(max);
        match page.get("nextToken") {
            Some(token) if items.len() < max => request["nextToken"] = token.clone(),
            _ => return Ok(items),
        }
    }
}

async fn show(args: ShowArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let approval = api.call_own("DescribeApproval", &json!({ "approvalId": args.id })).await?;
    if args.client.json {
        output::json(&approval);
        return Ok(ExitCode::SUCCESS);
    }
    output::data(&output::harmless(&shown(&approval)));
    Ok(ExitCode::SUCCESS)
}

/// An approval as lines for people.
fn shown(approval: &Value) -> String {
    let text = |member: &str| approval[member].as_str().unwrap_or("-").to_owned();
    let list = |value: &Value| {
        let names: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        names.join(", ")
    };
    let mut lines = vec![
        text("title"),
        format!("  status     {}", text("status")),
        format!("  execution  {}", text("executionArn")),
        format!("  state      {}, attempt {}", text("state"), approval["attempt"]),
        format!("  for        {}", list(&approval["approvers"])),
        format!("  deadline   {}", output::time(&approval["deadline"])),
    ];
    for (member, heading) in [("details", "details"), ("schema", "the answer must be")] {
        if let Some(document) = approval[member].as_str() {
            let document: Value = serde_json::from_str(document).unwrap_or_else(|_| document.into());
            lines.push(format!("{heading}\n{document:#}"));
        }
    }
    lines.push("history".to_owned());
    for entry in approval["history"].as_array().into_iter().flatten() {
        let mut line = format!("  {}  {}", output::time(&entry["at"]), entry["type"].as_str().unwrap_or("-"));
        for (member, before) in [("by", " by "), ("via", " via "), ("comment", ": ")] {
            if let Some(text) = entry[member].as_str() {
                line.push_str(before);
                line.push_str(text);
            }
        }
        if entry["type"] == "DELEGATED" {
            line.push_str(&format!(" → {}", list(&entry["to"])));
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// Answers several approvals alike. One that is refused does not hold up the others; the exit code tells of it.
async fn answer_all(
    client: &ClientArgs,
    namespace: Namespace,
    ids: &[String],
    mut request: Value,
    what: &str,
) -> Result<ExitCode, Failure> {
    let api = client.client(namespace)?;
    let mut refused = Vec::new();
    for id in ids {
        request["approvalId"] = id.as_str().into();
        match api.call_own("AnswerApproval", &request).await {
            Ok(_) => {
                done(client.json, &json!({ "approvalId": id, "result": what }), &format!("{id} is {what}"))
            }
            Err(error @ CallError::Refused { .. }) => refused.push((id, error)),
            Err(error) => return Err(error.into()),
        }
    }
    let all = refused.len();
    let Some((id, error)) = refused.pop() else { return Ok(ExitCode::SUCCESS) };
    for (id, error) in refused {
        Failure::from(error).about(id).print();
    }
    let failure = Failure::from(error).about(id);
    Err(if ids.len() > 1 {
        failure.with_hint(format!("{all} of {} were refused", ids.len()))
    } else {
        failure
    })
}

async fn link(args: LinkArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let mut request =
        json!({ "approvalId": args.id, "expiresInSeconds": args.expires, "viewOnly": args.view });
    if let Some(name) = args.name {
        request["for"] = name.into();
    }
    let link = args.client.client(namespace)?.call_own("CreateApprovalLink", &request).await?;
    if args.client.json {
        output::json(&link);
    } else {
        output::data(link["url"].as_str().unwrap_or_default());
        output::note(&format!("good until {}; whoever has it can use it", output::time(&link["expires"])));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (text, expected) in [("30s", 30), ("5m", 300), ("2h", 7_200), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "7", "d", "0d", "-1d", "1w", "1dd", "99999999999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_approval_is_shown_with_all_that_happened() {
        let approval = json!({
            "approvalId": "x-1", "status": "APPROVED", "title": "Pay?", "approvers": ["bob"], "attempt": 1,
            "executionArn": "arn", "state": "Ask", "openedAt": 0.0, "details": "{\"cents\":5}",
            "history": [
                { "type": "OPENED", "at": 0.0, "to": ["ada"] },
                { "type": "DELEGATED", "at": 1.0, "to": ["bob"], "by": "ada", "via": "cli" },
                { "type": "APPROVED", "at": 2.0, "by": "bob", "via": "link", "comment": "fine" }
            ]
        });
        let text = shown(&approval);
        for expected in [
            "status     APPROVED",
            "\"cents\": 5",
            "1970-01-01T00:00:01.000Z  DELEGATED by ada via cli → bob",
            "1970-01-01T00:00:02.000Z  APPROVED by bob via link: fine",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
