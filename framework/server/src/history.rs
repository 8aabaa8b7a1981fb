//! Events of a history, as the API shows them.

use serde_json::{Map, Value};
use stagepost_protocol::Timestamp;

/// An event of an execution's history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEvent {
    /// Counts from 1.
    pub id: u64,
    /// The event that led to it; 0 for the first.
    pub previous_id: u64,
    /// When.
    pub at: Timestamp,
    /// Its type, for instance `TaskStateEntered`.
    pub kind: String,
    /// Its details, whatever their key; empty where it has none.
    pub details: Map<String, Value>,
}

impl HistoryEvent {
    /// Reads an event of GetExecutionHistory; `None` when it is none.
    pub fn from_json(event: &Value) -> Option<HistoryEvent> {
        let fields = event.as_object()?;
        let details = fields.iter().find(|(name, _)| name.ends_with("EventDetails"));
        Some(HistoryEvent {
            id: fields.get("id")?.as_u64()?,
            previous_id: fields.get("previousEventId").and_then(Value::as_u64).unwrap_or(0),
            at: timestamp(fields.get("timestamp")?)?,
            kind: fields.get("type")?.as_str()?.to_owned(),
            details: details.and_then(|(_, details)| details.as_object()).cloned().unwrap_or_default(),
        })
    }

    /// A detail that is text.
    pub fn text(&self, detail: &str) -> Option<&str> {
        self.details.get(detail).and_then(Value::as_str)
    }

    /// Whether the execution ended with it.
    pub fn is_last(&self) -> bool {
        let last = ["ExecutionSucceeded", "ExecutionFailed", "ExecutionTimedOut", "ExecutionAborted"];
        last.contains(&self.kind.as_str())
    }
}

/// A time of the JSON protocol: seconds since the epoch, with a fraction.
pub(crate) fn timestamp(seconds: &Value) -> Option<Timestamp> {
    seconds.as_f64().map(|seconds| Timestamp::from_millis((seconds * 1000.0).round() as i64))
}
