//! Approvals: tasks for people (`stagepost:requestApproval.waitForTaskToken`). What such a task asks, the record that is
//! kept of it, and the links that answer it.
//!
//! The record of an approval is the list of what happened to it, which is its audit trail: the coordinator appends that
//! it was opened and how it was closed, in the commits of the decisions that did so; delegations come in between.

mod link;
mod schema;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ExecutionArn, ExecutionId, Payload, Timestamp, limits};

pub use link::{Link, LinkError, LinkKey, LinkScope};
pub use schema::{Kind, Schema};

/// The kind of an approval's record; its key is the [`ApprovalId`], its label the [`ApprovalStatus`].
pub const RECORD_KIND: &str = "approval";
/// The service of the resource that asks for an approval.
pub const SERVICE: &str = "stagepost";
/// The action of the resource that asks for an approval.
pub const ACTION: &str = "requestApproval";
/// The error of a task whose approval was rejected.
pub const REJECTED: &str = "Approval.Rejected";

/// Longest title, in characters.
pub const TITLE_CHARS_MAX: usize = 200;
/// Longest name of a person or a group, in characters.
pub const NAME_CHARS_MAX: usize = 256;
/// Longest comment, in characters.
pub const COMMENT_CHARS_MAX: usize = 4_000;
/// Most approvers.
pub const APPROVERS_MAX: usize = 50;
/// Most delegations of one approval.
pub const DELEGATIONS_MAX: usize = 100;

/// Names an approval: it is the id of the attempt that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApprovalId {
    /// The execution.
    pub execution: ExecutionId,
    /// The event that scheduled the attempt.
    pub event_id: u64,
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.execution, self.event_id)
    }
}

impl FromStr for ApprovalId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ApprovalId, &'static str> {
        const EXPECTED: &str = "an approval's id is an execution's id, '-' and a number";
        let (execution, event_id) = text.split_once('-').ok_or(EXPECTED)?;
        let id = ApprovalId {
            execution: execution.parse().map_err(|_| EXPECTED)?,
            event_id: event_id.parse().map_err(|_| EXPECTED)?,
        };
        // One spelling: it is the key of a record.
        if id.to_string() == text { Ok(id) } else { Err(EXPECTED) }
    }
}

/// How an approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ApprovalStatus {
    /// Somebody is to answer.
    Open,
    /// Somebody said yes: its task succeeded.
    Approved,
    /// Somebody said no: its task failed with [`REJECTED`].
    Rejected,
    /// Its task was failed by whoever had its token, with another error.
    Failed,
    /// Nobody answered in time.
    TimedOut,
    /// Its execution went on or ended without it.
    Cancelled,
}

impl ApprovalStatus {
    /// All of them, as they are spelled.
    pub const NAMES: &[&str] = &["OPEN", "APPROVED", "REJECTED", "FAILED", "TIMED_OUT", "CANCELLED"];

    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        ApprovalStatus::NAMES[self as usize]
    }
}

/// By which way somebody acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// A request to the API.
    Api,
    /// The command line.
    Cli,
    /// A token message.
    Message,
    /// A signed link.
    Link,
}

impl Via {
    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Via::Api => "api",
            Via::Cli => "cli",
            Via::Message => "message",
            Via::Link => "link",
        }
    }
}

/// Who completes a task, as they say of themselves, and how: kept with the approval if the task is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// By which way.
    pub via: Via,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What they add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// What a task asks people: the parameters of `stagepost:requestApproval`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ApprovalRequest {
    /// What is to be approved, in a line.
    pub title: String,
    /// Whatever people must see to decide.
    #[serde(default)]
    pub details: Option<Payload>,
    /// What the answer must look like; see [`Schema`].
    #[serde(default)]
    pub schema: Option<Payload>,
    /// Who is asked: people or groups. Listings can be narrowed to one of them.
    #[serde(default)]
    pub approvers: Vec<String>,
    /// Where a message about it goes.
    #[serde(default)]
    pub notify: Option<Notify>,
}

/// Where a message about an approval goes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Notify {
    /// A queue, as in `sqs:sendMessage`.
    pub queue_url: String,
}

impl ApprovalRequest {
    /// Reads the parameters of a task; the error says what is wrong with them.
    pub fn read(parameters: &Payload) -> Result<ApprovalRequest, String> {
        let request: ApprovalRequest = parameters.read().map_err(|error| error.to_string())?;
        if !(1..=TITLE_CHARS_MAX).contains(&request.title.chars().count()) {
            return Err(format!("Title must have 1 to {TITLE_CHARS_MAX} characters"));
        }
        check_names("Approvers", &request.approvers)?;
        request.schema()?;
        Ok(request)
    }

    /// What the answer must look like.
    pub fn schema(&self) -> Result<Option<Schema>, String> {
        self.schema.as_ref().map(Schema::parse).transpose().map_err(|why| format!("Schema: {why}"))
    }
}

/// Whether these can be the names of who is asked.
pub fn check_names(what: &str, names: &[String]) -> Result<(), String> {
    if names.len() > APPROVERS_MAX {
        return Err(format!("{what} has {} names, more than {APPROVERS_MAX}", names.len()));
    }
    if names.iter().any(|name| !(1..=NAME_CHARS_MAX).contains(&name.chars().count())) {
        return Err(format!("a name in {what} must have 1 to {NAME_CHARS_MAX} characters"));
    }
    Ok(())
}

/// Something that happened to an approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalEntry {
    /// It was asked for.
    Opened(Opened),
    /// Others are asked instead.
    Delegated(Delegated),
    /// It was answered, or nobody is to answer it any more.
    Closed(Closed),
}

impl ApprovalEntry {
    /// As it is stored.
    pub fn to_payload(&self) -> Payload {
        Payload::from_serialize(self).expect("entries have no maps and so always serialise")
    }
}

/// How an approval was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// When.
    pub at: Timestamp,
    /// By which execution.
    pub execution: ExecutionArn,
    /// By which state.
    pub state: String,
    /// The number of the attempt: more than 1 when it is asked for again.
    pub attempt: u32,
    /// When it is too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// See [`ApprovalRequest::title`].
    pub title: String,
    /// See [`ApprovalRequest::details`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Payload>,
    /// See [`ApprovalRequest::schema`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Payload>,
    /// See [`ApprovalRequest::approvers`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
}

/// How an approval was handed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delegated {
    /// When.
    pub at: Timestamp,
    /// To whom.
    pub to: Vec<String>,
    /// Who did it.
    pub answer: Answer,
}

/// How an approval was closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// When.
    pub at: Timestamp,
    /// How it stands since then.
    pub status: ApprovalStatus,
    /// Who did it, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// The output of its task, if it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// The error of its task, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The cause of its task's failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// An approval and what happened to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// How it was asked for.
    pub opened: Opened,
    /// How it was handed on, in order.
    pub delegated: Vec<Delegated>,
    /// How it was closed.
    pub closed: Option<Closed>,
}

impl Approval {
    /// Reads the body of its record; the error says why it is none.
    pub fn read(body: &Payload) -> Result<Approval, String> {
        let entries: Vec<ApprovalEntry> = body.read().map_err(|error| error.to_string())?;
        let (mut opened, mut delegated, mut closed) = (None, Vec::new(), None);
        for entry in entries {
            match entry {
                ApprovalEntry::Opened(entry) => opened = Some(entry),
                ApprovalEntry::Delegated(entry) => delegated.push(entry),
                ApprovalEntry::Closed(entry) => closed = Some(entry),
            }
        }
        let opened = opened.ok_or("the record of an approval does not say how it was opened")?;
        Ok(Approval { opened, delegated, closed })
    }

    /// How it stands.
    pub fn status(&self) -> ApprovalStatus {
        self.closed.as_ref().map_or(ApprovalStatus::Open, |closed| closed.status)
    }

    /// Who is asked now.
    pub fn approvers(&self) -> &[String] {
        self.delegated.last().map_or(&self.opened.approvers, |delegated| &delegated.to)
    }

    /// What an answer must look like.
    pub fn schema(&self) -> Result<Option<Schema>, String> {
        self.opened.schema.as_ref().map(Schema::parse).transpose()
    }
}

/// What a task gives whose approval was answered with yes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ApprovalOutput {
    /// Who.
    pub by: Option<String>,
    /// What they add.
    pub comment: Option<String>,
    /// When.
    pub at: String,
    /// The answer itself, if one was asked for or given.
    pub answer: Option<Payload>,
}

/// The cause of a task's failure whose approval was rejected: a JSON text, as causes of services are.
pub fn rejection_cause(answer: &Answer, at: Timestamp) -> String {
    let mut comment = answer.comment.clone();
    loop {
        let output = ApprovalOutput {
            by: answer.by.clone(),
            comment: comment.take(),
            at: at.to_string(),
            answer: None,
        };
        let mut told = serde_json::to_value(&output).expect("an output has no maps and so always serialises");
        if let Some(members) = told.as_object_mut() {
            members.remove("Answer");
        }
        let text = told.to_string();
        // Escapes may make a long comment too long for a cause, which must stay JSON.
        if text.chars().count() <= limits::CAUSE_CHARS_MAX || output.comment.is_none() {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(parameters: &serde_json::Value) -> Result<ApprovalRequest, String> {
        ApprovalRequest::read(&Payload::from_value(parameters))
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = ApprovalId { execution: ExecutionId::from_bytes([0xab; 16]), event_id: 7 };
        assert_eq!(id.to_string(), format!("{}-7", "ab".repeat(16)));
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "ab-7",
            &"ab".repeat(16),
            &format!("{}-07", "ab".repeat(16)),
            &format!("{}-7", "AB".repeat(16)),
        ] {
            assert!(bad.parse::<ApprovalId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_are_checked_whole() {
        let whole = json!({
            "Title": "Pay?", "Details": [1, { "a": null }], "Schema": { "type": "object" }, "Approvers": ["ada"],
            "Notify": { "QueueUrl": "mail" }
        });
        let read = request(&whole).unwrap();
        assert_eq!((read.title.as_str(), read.approvers.len()), ("Pay?", 1));
        assert_eq!(read.details.unwrap().as_str(), r#"[1,{"a":null}]"#);
        for (bad, told) in [
            (json!({}), "missing field `Title`"),
            (json!([]), "invalid length"),
            (json!({ "Title": "" }), "1 to 200 characters"),
            (json!({ "Title": "x".repeat(201) }), "1 to 200 characters"),
            (json!({ "Title": "t", "Approvers": [""] }), "Approvers"),
            (json!({ "Title": "t", "Approvers": vec!["a"; 51] }), "more than 50"),
            (json!({ "Title": "t", "Schema": { "type": "money" } }), "Schema: "),
            (json!({ "Title": "t", "Timeout": 1 }), "unknown field `Timeout`"),
            (json!({ "Title": "t", "Notify": {} }), "missing field `QueueUrl`"),
        ] {
            let error = request(&bad).unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn a_record_is_the_list_of_what_happened() {
        let opened = r#"{"opened":{"at":5,"execution":"arn:aws:states:us-east-1:000000000000:execution:m:e","state":"S","attempt":1,"title":"t","approvers":["ada"]}}"#;
        let delegated = r#"{"delegated":{"at":6,"to":["bob"],"answer":{"via":"cli","by":"ada"}}}"#;
        let closed =
            r#"{"closed":{"at":7,"status":"APPROVED","answer":{"via":"link","by":"bob"},"output":{"n":1}}}"#;
        let read =
            |entries: &[&str]| Approval::read(&Payload::parse(&format!("[{}]", entries.join(","))).unwrap());
        let fresh = read(&[opened]).unwrap();
        assert_eq!((fresh.status(), fresh.approvers()), (ApprovalStatus::Open, &["ada".to_owned()][..]));
        let handed_on = read(&[opened, delegated]).unwrap();
        assert_eq!(handed_on.approvers(), &["bob".to_owned()][..]);
        let done = read(&[opened, delegated, closed]).unwrap();
        assert_eq!(done.status(), ApprovalStatus::Approved);
        // What is stored is written as it was read.
        let again = [
            ApprovalEntry::Opened(done.opened),
            ApprovalEntry::Delegated(done.delegated.into_iter().next().unwrap()),
            ApprovalEntry::Closed(done.closed.unwrap()),
        ];
        let again = again.map(|entry| entry.to_payload().as_str().to_owned());
        assert_eq!(again, [opened, delegated, closed]);
        assert!(read(&[closed]).is_err());
    }

    #[test]
    fn statuses_are_spelled_once() {
        use ApprovalStatus::*;
        for status in [Open, Approved, Rejected, Failed, TimedOut, Cancelled] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }

    #[test]
    fn the_cause_of_a_rejection_is_json_that_fits() {
        let told = |comment: &str| {
            let answer = Answer { via: Via::Api, by: Some("ada".into()), comment: Some(comment.into()) };
            rejection_cause(&answer, Timestamp::from_millis(0))
        };
        assert_eq!(told("no"), r#"{"By":"ada","Comment":"no","At":"1970-01-01T00:00:00.000Z"}"#);
        let long = told(&"\u{1}".repeat(limits::CAUSE_CHARS_MAX / 2));
        assert_eq!(long, r#"{"By":"ada","Comment":null,"At":"1970-01-01T00:00:00.000Z"}"#);
    }
}
