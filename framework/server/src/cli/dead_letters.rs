//! `dead-letters`: list, show, requeue and discard messages that could not be used.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use stagepost_protocol::{DeadReason, Namespace};
use stagepost_server::{ApiClient, Style};

use super::{args::ClientArgs, failure::Failure, output};

/// Letters that one request requeues or discards.
const CHANGED_MAX: usize = 100;
/// Longest reason in a table, in characters.
const REASON_CHARS_MAX: usize = 80;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List them, newest first
    List(ListArgs),
    /// Show one with its headers and its body
    Show(ShowArgs),
    /// Publish them again, to the queues that they came from, oldest first
    Requeue(RequeueArgs),
    /// Delete them
    Discard(DiscardArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only those that came from this queue
    #[arg(long, value_name = "QUEUE")]
    source: Option<String>,
    /// Only those that could not be used for this reason, for instance `not-json` or `expired`
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Option<String>,
}

impl Filter {
    fn request(&self) -> Value {
        let mut request = json!({});
        for (member, text) in [("source", &self.source), ("reason", &self.reason)] {
            if let Some(text) = text {
                request[member] = text.as_str().into();
            }
        }
        request
    }
}

fn reason(text: &str) -> Result<String, String> {
    let reasons: Vec<&str> = DeadReason::ALL.iter().map(|reason| reason.as_str()).collect();
    if reasons.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("the reasons are {}", reasons.join(", ")))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "N")]
    max: usize,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its id
    id: String,
    /// Show task tokens, which are secrets, and bodies that are no text
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Which letters.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Their ids
    #[arg(required_unless_present = "all", value_name = "ID")]
    ids: Vec<String>,
    /// All of them, or those that --source and --reason leave
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Args)]
pub(crate) struct RequeueArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Publish them to this queue instead
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    client: ClientArgs,
}

pub(crate) async fn run(command: DeadLettersCommand, namespace: Namespace) -> Result<ExitCode, Failure> {
    match command {
        DeadLettersCommand::List(args) => list(args, namespace).await,
        DeadLettersCommand::Show(args) => show(args, namespace).await,
        DeadLettersCommand::Requeue(args) => {
            let api = args.client.client(namespace)?;
            let request = args.queue.map_or_else(|| json!({}), |queue| json!({ "queue": queue }));
            change(&api, args.chosen, "RequeueDeadLetters", "requeued", request, args.client.json).await
        }
        DeadLettersCommand::Discard(args) => {
            let api = args.client.client(namespace)?;
            change(&api, args.chosen, "DiscardDeadLetters", "discarded", json!({}), args.client.json).await
        }
    }
}

async fn list(args: ListArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let letters = api.own_pages("ListDeadLetters", args.filter.request(), "deadLetters", args.max).await?;
    if args.client.json {
        output::json(&Value::Array(letters));
    } else if letters.is_empty() {
        output::note("there are no such dead letters");
    } else {
        output::data(&table(&letters));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(letters: &[Value]) -> String {
    let text = |letter: &Value, member: &str| output::harmless(letter[member].as_str().unwrap_or("-"));
    let row = |letter: &Value| {
        vec![
            text(letter, "deadLetterId"),
            output::time(&letter["takenDate"]),
            text(letter, "source"),
            text(letter, "reason"),
            output::short(letter["message"].as_str().unwrap_or("-"), REASON_CHARS_MAX),
        ]
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    output::table(&["ID", "TAKEN", "SOURCE", "REASON", "WHY"], &rows)
}

async fn show(args: ShowArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let request = json!({ "deadLetterId": args.id, "reveal": args.reveal });
    let letter = api.call_own("DescribeDeadLetter", &request).await?;
    if args.client.json {
        output::json(&letter);
    } else {
        output::data(&shown(&letter, Style::of(&std::io::stdout())));
    }
    Ok(ExitCode::SUCCESS)
}

/// A letter for people: a line for each property and header, the body last.
fn shown(letter: &Value, style: Style) -> String {
    let mut lines = Vec::new();
    let mut line = |label: &str, value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        lines.push(format!("{}  {}", style.dim(&format!("{label:<13}")), output::harmless(&text)));
    };
    for (member, label) in
        [("deadLetterId", "id"), ("source", "source"), ("reason", "reason"), ("message", "why")]
    {
        if let Some(value) = letter.get(member) {
            line(label, value);
        }
    }
    line("taken", &output::time(&letter["takenDate"]).into());
    for (member, kind) in [("properties", "property"), ("headers", "header")] {
        for (name, value) in letter[member].as_object().into_iter().flatten() {
            line(
                kind,
                &format!("{name}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                    .into(),
            );
        }
    }
    let bytes = &letter["bodyBytes"];
    let (label, body) = match (letter["body"].as_str(), letter["bodyEncoding"].as_str()) {
        (None, _) => {
            (format!("body, {bytes} bytes that are no text"), "--reveal shows them as base64".to_owned())
        }
        (Some(body), Some("base64")) => (format!("body, {bytes} bytes as base64"), body.to_owned()),
        (Some(body), _) => (format!("body, {bytes} bytes"), output::harmless(body)),
    };
    lines.push(format!("{}\n  {}", style.dim(&label), body.replace('\n', "\n  ")));
    lines.join("\n")
}

/// Requeues or discards letters and says how many; exit code 3 if any is left.
async fn change(
    api: &ApiClient,
    chosen: Chosen,
    operation: &str,
    done: &str,
    mut request: Value,
    json: bool,
) -> Result<ExitCode, Failure> {
    let ids = if chosen.all { all(api, &chosen.filter).await? } else { chosen.ids };
    let (mut changed, mut failures) = (Vec::new(), Vec::new());
    for ids in ids.chunks(CHANGED_MAX) {
        request["deadLetterIds"] = json!(ids);
        let answer = match api.call_own(operation, &request).await {
            Ok(answer) => answer,
            Err(error) if changed.is_empty() => return Err(error.into()),
            Err(error) => {
                let told = format!("{} dead letters were {done}, then: {error}", changed.len());
                return Err(Failure { message: told, ..error.into() });
            }
        };
        changed.extend(answer[done].as_array().into_iter().flatten().cloned());
        failures.extend(answer["failures"].as_array().into_iter().flatten().cloned());
    }
    if json {
        output::json(&json!({ done: changed, "failures": failures }));
    } else {
        output::note(&format!("{} {done}", counted(changed.len())));
        for failure in &failures {
            output::note(&output::harmless(failure["message"].as_str().unwrap_or("-")));
        }
    }
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::refused(format!("{} could not be {done}", counted(failures.len())))
        .with_hint("`stagepost dead-letters list` shows what is left"))
}

fn counted(count: usize) -> String {
    format!("{count} dead letter{}", if count == 1 { "" } else { "s" })
}

/// The ids of all letters that the filter leaves, oldest first. They are gathered before anything is done: what is
/// requeued may become a dead letter again, and shall not go round and round.
async fn all(api: &ApiClient, filter: &Filter) -> Result<Vec<String>, Failure> {
    let letters = api.own_pages("ListDeadLetters", filter.request(), "deadLetters", usize::MAX).await?;
    let ids = letters.iter().filter_map(|letter| letter["deadLetterId"].as_str().map(str::to_owned));
    let mut ids: Vec<String> = ids.collect();
    ids.sort_unstable();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_shown_with_headers_and_body() {
        let letter = json!({
            "deadLetterId": "id", "source": "web", "reason": "not-json", "message": "its body is not JSON",
            "takenDate": 0.0, "bodyBytes": 8, "bodyEncoding": "utf-8", "body": "<order/>",
            "properties": { "messageId": "m" }, "headers": { "tenant": 7 },
        });
        assert_eq!(
            shown(&letter, Style::plain()),
            "id             id\nsource         web\nreason         not-json\nwhy            its body is not JSON\n\
             taken          1970-01-01T00:00:00.000Z\nproperty       messageId: m\nheader         tenant: 7\n\
             body, 8 bytes\n  <order/>"
        );
        let packed = json!({ "takenDate": 0.0, "bodyBytes": 3, "bodyEncoding": "base64" });
        assert!(
            shown(&packed, Style::plain())
                .ends_with("3 bytes that are no text\n  --reveal shows them as base64")
        );
    }
}
