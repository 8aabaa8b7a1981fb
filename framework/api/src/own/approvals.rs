//! Approvals: list, describe, answer, delegate, and links to them.

use axum::http::header::HOST;
use serde_json::{Value, json};
use stagepost_protocol::{
    Payload, Timestamp,
    approval::{
        Answer as Answered, Approval, ApprovalId, ApprovalStatus, COMMENT_CHARS_MAX, Link, LinkScope,
        NAME_CHARS_MAX, RECORD_KIND, Via,
    },
};
use stagepost_store::Record;

use super::records;
use crate::{
    approvals::{self, Verdict},
    operations::{Answer, Context},
    states::now,
    wire::{ApiError, Code, Members, Text, json as json_text, members::DATA, page},
};

const ID: Text = Text::new(1, 64);
const PERSON: Text = Text::new(1, NAME_CHARS_MAX);
const COMMENT: Text = Text::sensitive(0, COMMENT_CHARS_MAX * 4);
const TOKEN: Text = Text::new(1, 1024);
/// How long links are good, in seconds: unless it is said, and at most.
const LINK_SECONDS: i64 = 7 * 24 * 60 * 60;
const LINK_SECONDS_MAX: i64 = 365 * 24 * 60 * 60;

fn id(text: &str) -> Result<ApprovalId, ApiError> {
    text.parse().map_err(|_| ApiError::about(Code::ApprovalDoesNotExist, text))
}

/// Who acts, as members `by`, `comment` and `via` say.
fn answered(m: &mut Members<'_>) -> Answered {
    let by = m.text("by", PERSON).map(str::to_owned);
    let comment = m.text("comment", COMMENT).map(str::to_owned).filter(|comment| !comment.is_empty());
    let via = if m.one_of("via", &["api", "cli"]) == Some("cli") { Via::Cli } else { Via::Api };
    Answered { via, by, comment }
}

/// ListApprovals: by status, and by who is asked.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let status = m.one_of("status", ApprovalStatus::NAMES);
    let approver = m.text("approver", PERSON);
    let limit = page::size(m.integer("maxResults", 0, page::PAGE_MAX));
    let token = m.text("nextToken", TOKEN);
    m.finish()?;
    let listing = format!("ListApprovals {} {status:?} {approver:?}", cx.namespace);
    let found = records(cx, RECORD_KIND, status, limit, page::after(&listing, token)?).await?;
    let mut listed = Vec::with_capacity(found.items.len());
    for record in &found.items {
        let approval = approvals::read(record)?;
        if approver.is_none_or(|name| approval.approvers().iter().any(|approver| approver == name)) {
            listed.push(summary(record, &approval));
        }
    }
    Ok(page::answer("approvals", listed, &listing, found.next.as_deref()))
}

/// DescribeApproval: what is asked, and all that happened to it.
pub(super) async fn describe(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let id = m.required_text("approvalId", ID);
    m.finish()?;
    let (record, approval) = approvals::find(cx.api, self::id(id)?).await?;
    let mut answer = summary(&record, &approval);
    let text = |payload: &Payload| payload.as_str().to_owned();
    let opened = &approval.opened;
    for (member, value) in
        [("details", opened.details.as_ref().map(text)), ("schema", opened.schema.as_ref().map(text))]
    {
        if let Some(value) = value {
            answer[member] = value.into();
        }
    }
    answer["history"] = history(&approval).into();
    Ok(answer)
}

/// AnswerApproval. Answered when the task is completed.
pub(super) async fn answer(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let id = m.required_text("approvalId", ID);
    m.require("decision");
    let decision = m.one_of("decision", &["APPROVE", "REJECT"]);
    let answer = m.text("answer", DATA);
    let answered = answered(&mut m);
    m.finish()?;
    let verdict = match (decision, answer) {
        (Some("REJECT"), None) => Verdict::Reject,
        (Some("REJECT"), Some(_)) => {
            return Err(ApiError::validation("Who rejects gives no 'answer'; say why in 'comment'."));
        }
        (_, answer) => {
            let read = |text| json_text::payload(text, "Invalid answer.");
            let answer = answer.map(read).transpose();
            Verdict::Approve(answer.map_err(|why| ApiError::about(Code::InvalidOutput, why))?)
        }
    };
    approvals::answer(cx.api, self::id(id)?, verdict, answered, now()).await?;
    Ok(json!({}))
}

/// DelegateApproval: others are asked instead.
pub(super) async fn delegate(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let id = m.required_text("approvalId", ID);
    m.require("to");
    let to = m.texts("to", PERSON).unwrap_or_default().into_iter().map(str::to_owned).collect();
    let answered = answered(&mut m);
    m.finish()?;
    approvals::delegate(cx.api, self::id(id)?, to, answered, now()).await?;
    Ok(json!({}))
}

/// CreateApprovalLink: a signed link to see an approval, or to answer it.
pub(super) async fn link(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let id = m.required_text("approvalId", ID);
    let by = m.text("for", PERSON).map(str::to_owned);
    let seconds = m.integer("expiresInSeconds", 1, LINK_SECONDS_MAX).unwrap_or(LINK_SECONDS);
    let view_only = m.flag("viewOnly").unwrap_or(false);
    m.finish()?;
    let approval = self::id(id)?;
    // That there is one, and in time: a link to nothing helps nobody.
    approvals::find(cx.api, approval).await?;
    let expires = now().as_millis() / 1000 + seconds;
    let scope = if view_only { LinkScope::View } else { LinkScope::Answer };
    let link = Link { approval, scope, by, expires };
    let url = cx.api.token_key.link_key().url(&public_url(cx)?, &link);
    Ok(json!({ "url": url, "expires": expires }))
}

/// Where people reach this server: as it was told, else as this request did.
fn public_url(cx: &Context<'_>) -> Result<String, ApiError> {
    if let Some(url) = &cx.api.options.public_url {
        return Ok(url.clone());
    }
    let host = cx.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.ok_or_else(|| {
        ApiError::validation(
            "The request has no Host header, and the server has no --public-url: where should the link lead?",
        )
    })?;
    Ok(format!("http://{host}"))
}

fn seconds(at: Timestamp) -> Value {
    at.as_seconds_f64().into()
}

fn summary(record: &Record, approval: &Approval) -> Value {
    let opened = &approval.opened;
    let mut summary = json!({
        "approvalId": record.key,
        "status": approval.status(),
        "title": opened.title,
        "approvers": approval.approvers(),
        "executionArn": opened.execution,
        "state": opened.state,
        "attempt": opened.attempt,
        "openedAt": seconds(opened.at),
    });
    if let Some(deadline) = opened.deadline {
        summary["deadline"] = seconds(deadline);
    }
    if let Some(closed) = &approval.closed {
        summary["closedAt"] = seconds(closed.at);
        let by = closed.answer.as_ref().and_then(|answer| answer.by.as_deref());
        if let Some(by) = by {
            summary["by"] = by.into();
        }
    }
    summary
}

/// What happened, in order.
fn history(approval: &Approval) -> Vec<Value> {
    let mut history =
        vec![json!({ "type": "OPENED", "at": seconds(approval.opened.at), "to": approval.opened.approvers })];
    let named = |mut entry: Value, answer: Option<&Answered>| {
        if let Some(Answered { via, by, comment }) = answer {
            entry["via"] = via.as_str().into();
            for (member, text) in [("by", by), ("comment", comment)] {
                if let Some(text) = text {
                    entry[member] = text.as_str().into();
                }
            }
        }
        entry
    };
    for entry in &approval.delegated {
        let told = json!({ "type": "DELEGATED", "at": seconds(entry.at), "to": entry.to });
        history.push(named(told, Some(&entry.answer)));
    }
    if let Some(closed) = &approval.closed {
        let mut told =
            named(json!({ "type": closed.status, "at": seconds(closed.at) }), closed.answer.as_ref());
        for (member, text) in [
            ("output", closed.output.as_ref().map(Payload::as_str)),
            ("error", closed.error.as_deref()),
            ("cause", closed.cause.as_deref()),
        ] {
            if let Some(text) = text {
                told[member] = text.into();
            }
        }
        history.push(told);
    }
    history
}
