//! What becomes of a child execution in a result file.
//!
//! See the developer guide, [ResultWriter](https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use stagepost_protocol::{Payload, Timestamp};

use super::writer::WriteError;

/// How an execution that is a child of a Map Run stands when its results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ChildStatus {
    /// It ended well.
    Succeeded,
    /// It failed.
    Failed,
    /// It ran out of time.
    TimedOut,
    /// It was stopped.
    Aborted,
    /// It was not started, or had not ended when the Map Run did.
    Pending,
}

/// A child execution of a Map Run.
#[derive(Debug, Clone)]
pub struct Child {
    /// The place of its item, or of its batch of items.
    pub place: u64,
    /// Its ARN; empty where it was not started.
    pub execution_arn: String,
    /// The ARN of its state machine, which ends in `/` and the Map state's label.
    pub state_machine_arn: String,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: ChildStatus,
    /// Its input.
    pub input: Payload,
    /// Its output, where it succeeded.
    pub output: Option<Payload>,
    /// The error that it failed with.
    pub error: Option<String>,
    /// The cause of that.
    pub cause: Option<String>,
    /// When it began.
    pub start_date: Option<Timestamp>,
    /// When it ended.
    pub stop_date: Option<Timestamp>,
    /// How often it was redriven.
    pub redrive_count: u32,
    /// When it was last redriven.
    pub redrive_date: Option<Timestamp>,
}

/// `WriterConfig.Transformation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transformation {
    /// The execution with its input and output.
    None,
    /// Its output.
    Compact,
    /// Its output, or where that is an array, its elements.
    Flatten,
}

/// An execution as it stands in a file, its fields in the order of AWS's examples.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Record<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    execution_arn: &'a str,
    input: &'a str,
    input_details: Included,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    output_details: Included,
    redrive_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    redrive_date: Option<String>,
    redrive_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redrive_status_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_date: Option<String>,
    state_machine_arn: &'a str,
    status: ChildStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_date: Option<String>,
}

/// An item that no execution was started for.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pending<'a> {
    input: &'a str,
    input_details: Included,
    status: ChildStatus,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Included {
    included: bool,
}

const INCLUDED: Included = Included { included: true };

/// The JSON texts that stand for an execution: one, or with [`Transformation::Flatten`] any number. An execution that
/// did not succeed stands with its input and error whatever the transformation.
pub(super) fn texts(child: &Child, transformation: Transformation) -> Result<Vec<String>, WriteError> {
    let compact = match (child.status, transformation) {
        (ChildStatus::Pending, _) => {
            let record =
                Pending { input: child.input.as_str(), input_details: INCLUDED, status: child.status };
            return text(&record).map(|text| vec![text]);
        }
        (ChildStatus::Succeeded, Transformation::Compact) => true,
        (ChildStatus::Succeeded, Transformation::Flatten) => false,
        _ => return text(&record(child)).map(|text| vec![text]),
    };
    let output = child.output.as_ref().map_or("null", Payload::as_str);
    if compact {
        return Ok(vec![one_line(output)]);
    }
    match serde_json::from_str::<Vec<&RawValue>>(output) {
        Ok(elements) => Ok(elements.into_iter().map(|element| one_line(element.get())).collect()),
        Err(_) => Ok(vec![one_line(output)]),
    }
}

/// Line breaks stand between the tokens of JSON only, and would end a line of JSON Lines.
fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

fn record(child: &Child) -> Record<'_> {
    let (redrive_status, redrive_status_reason) = match child.status {
        ChildStatus::Succeeded => ("NOT_REDRIVABLE", Some("Execution is SUCCEEDED and cannot be redriven")),
        _ => ("REDRIVABLE_BY_MAP_RUN", None),
    };
    let date = |date: Option<Timestamp>| date.map(|date| date.to_string());
    Record {
        cause: child.cause.as_deref(),
        error: child.error.as_deref(),
        execution_arn: &child.execution_arn,
        input: child.input.as_str(),
        input_details: INCLUDED,
        name: &child.name,
        output: child.output.as_ref().map(Payload::as_str),
        output_details: INCLUDED,
        redrive_count: child.redrive_count,
        redrive_date: date(child.redrive_date),
        redrive_status,
        redrive_status_reason,
        start_date: date(child.start_date),
        state_machine_arn: &child.state_machine_arn,
        status: child.status,
        stop_date: date(child.stop_date),
    }
}

fn text(record: &impl Serialize) -> Result<String, WriteError> {
    serde_json::to_string(record).map_err(|e| WriteError::new(e.to_string()))
}
