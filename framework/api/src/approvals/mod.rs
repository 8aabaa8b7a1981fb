//! Approvals: finding them, answering them, handing them on. The operations (`own::approvals`) and the pages behind signed
//! links ([`pages`]) both do so by what is here.
//!
//! An answer is a report on the attempt that waits, and the coordinator closes the record with it. Nothing here writes
//! but delegations, by compare-and-swap: the coordinator adds to the same record.

mod form;
pub(crate) mod pages;

use stagepost_protocol::{
    Payload, Report, ReportOutcome, Timestamp,
    approval::{
        Answer, Approval, ApprovalEntry, ApprovalId, ApprovalOutput, ApprovalStatus, COMMENT_CHARS_MAX,
        Closed, DELEGATIONS_MAX, Delegated, NAME_CHARS_MAX, RECORD_KIND, REJECTED, check_names,
        rejection_cause,
    },
    limits,
    shard::Reply,
};
use stagepost_store::Record;

use crate::{
    api::Api,
    wire::{ApiError, Code},
};

/// How often a delegation is tried that somebody else's change comes in the way of.
const DELEGATE_ATTEMPTS: u32 = 5;

/// What somebody says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Yes, and this besides.
    Approve(Option<Payload>),
    /// No.
    Reject,
}

/// Finds an approval and its record.
pub(crate) async fn find(api: &Api, id: ApprovalId) -> Result<(Record, Approval), ApiError> {
    let unknown = || ApiError::about(Code::ApprovalDoesNotExist, id);
    let execution = api.reader.execution(id.execution).await?.ok_or_else(unknown)?;
    let record = api.reader.record(RECORD_KIND, &execution.arn.namespace, &id.to_string()).await?;
    let record = record.ok_or_else(unknown)?;
    let approval = read(&record)?;
    Ok((record, approval))
}

/// What a record says.
pub(crate) fn read(record: &Record) -> Result<Approval, ApiError> {
    Approval::read(&record.body).map_err(|why| {
        ApiError::internal(format!("the record of approval '{}' cannot be read: {why}", record.key))
    })
}

/// Answers an approval. When this has returned, its task is completed and its record is closed.
pub(crate) async fn answer(
    api: &Api,
    id: ApprovalId,
    verdict: Verdict,
    answer: Answer,
    now: Timestamp,
) -> Result<(), ApiError> {
    check_answer(&answer)?;
    let (_, approval) = find(api, id).await?;
    if let Some(closed) = &approval.closed {
        return Err(is_closed(id, closed));
    }
    let outcome = outcome(&approval, verdict, &answer, now)?;
    let token = api.token_key.sign(id.execution, id.event_id);
    let report = Report { token, worker: None, started_at: None, outcome, child: None, answer: Some(answer) };
    match api.commands.report(report).await? {
        Reply::Accepted => Ok(()),
        // Somebody was faster.
        Reply::TaskTimedOut | Reply::TaskDoesNotExist => match find(api, id).await?.1.closed {
            Some(closed) => Err(is_closed(id, &closed)),
            None => Err(ApiError::about(Code::ApprovalDoesNotExist, id)),
        },
        Reply::Refused(why) => Err(ApiError::validation(why)),
        other => Err(ApiError::internal(format!("an answer to an approval was answered with {other:?}"))),
    }
}

fn check_answer(answer: &Answer) -> Result<(), ApiError> {
    let too_long = |what: &str, max: usize| {
        Err(ApiError::validation(format!("'{what}' has more than {max} characters.")))
    };
    let longer = |text: &Option<String>, max| text.as_ref().is_some_and(|text| text.chars().count() > max);
    if longer(&answer.by, NAME_CHARS_MAX) {
        return too_long("by", NAME_CHARS_MAX);
    }
    if longer(&answer.comment, COMMENT_CHARS_MAX) {
        return too_long("comment", COMMENT_CHARS_MAX);
    }
    Ok(())
}

/// What becomes of the task.
fn outcome(
    approval: &Approval,
    verdict: Verdict,
    answer: &Answer,
    now: Timestamp,
) -> Result<ReportOutcome, ApiError> {
    let given = match verdict {
        Verdict::Reject => {
            let cause = Some(rejection_cause(answer, now));
            return Ok(ReportOutcome::Failed { error: Some(REJECTED.to_owned()), cause });
        }
        Verdict::Approve(given) => given,
    };
    if let Some(schema) = approval.schema().map_err(ApiError::internal)? {
        let Some(given) = &given else {
            let message = "This approval asks for an answer: its schema says what it must look like.";
            return Err(ApiError::validation(message));
        };
        let problems = schema.problems(&given.to_value());
        if !problems.is_empty() {
            let message = format!("The answer is not what was asked for: {}.", problems.join("; "));
            return Err(ApiError::validation(message));
        }
    }
    let output = ApprovalOutput {
        by: answer.by.clone(),
        comment: answer.comment.clone(),
        at: now.to_string(),
        answer: given,
    };
    let output = Payload::from_serialize(&output).map_err(ApiError::internal)?;
    if output.len() > limits::PAYLOAD_BYTES_MAX {
        let message = format!(
            "The answer is too large: with who gave it, it has more than {} bytes.",
            limits::PAYLOAD_BYTES_MAX
        );
        return Err(ApiError::validation(message));
    }
    Ok(ReportOutcome::Succeeded(output))
}

/// Lets others be asked instead.
pub(crate) async fn delegate(
    api: &Api,
    id: ApprovalId,
    to: Vec<String>,
    answer: Answer,
    now: Timestamp,
) -> Result<(), ApiError> {
    check_answer(&answer)?;
    check_names("to", &to).map_err(|why| ApiError::validation(format!("{why}.")))?;
    if to.is_empty() {
        return Err(ApiError::validation("'to' names nobody."));
    }
    let entry = ApprovalEntry::Delegated(Delegated { at: now, to, answer }).to_payload();
    for _ in 0..DELEGATE_ATTEMPTS {
        let (record, approval) = find(api, id).await?;
        if let Some(closed) = &approval.closed {
            return Err(is_closed(id, closed));
        }
        if approval.delegated.len() >= DELEGATIONS_MAX {
            let message = format!("The approval was delegated {DELEGATIONS_MAX} times: answer it.");
            return Err(ApiError::validation(message));
        }
        let mut entries: Vec<Payload> = record.body.read().map_err(ApiError::internal)?;
        entries.push(entry.clone());
        let body = Payload::from_serialize(&entries).map_err(ApiError::internal)?;
        if api.reader.put_record(&Record { body, ..record }).await? {
            return Ok(());
        }
    }
    Err(ApiError::new(Code::ServiceUnavailable, "Others change the approval at the same time; try again."))
}

/// The error for what comes too late.
fn is_closed(id: ApprovalId, closed: &Closed) -> ApiError {
    ApiError::new(Code::ApprovalClosed, format!("Approval Closed: '{id}' {}.", told(closed)))
}

/// How it was closed, for people: `was approved by ada at 2026-…`.
pub(crate) fn told(closed: &Closed) -> String {
    let what = match closed.status {
        ApprovalStatus::Open => "is open",
        ApprovalStatus::Approved => "was approved",
        ApprovalStatus::Rejected => "was rejected",
        ApprovalStatus::Failed => "was failed",
        ApprovalStatus::TimedOut => "timed out",
        ApprovalStatus::Cancelled => "was cancelled",
    };
    let by = closed.answer.as_ref().and_then(|answer| answer.by.as_deref());
    let by = by.map_or_else(String::new, |by| format!(" by {by}"));
    format!("{what}{by} at {}", closed.at)
}
