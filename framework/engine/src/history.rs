//! The events of a history: AWS's, with what replay needs besides.

use stagepost_protocol::Timestamp;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEvent {
    /// Counts from 1. A hidden note has the id of the visible event before it.
    pub id: u64,
    /// The event that led to it.
    pub previous_id: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What happened. The engine's own notes are among them; they are not shown.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventKind {}

/// The text of the events of one decision, as the store keeps it.
pub fn encode(events: &[HistoryEvent]) -> String {
    let _ = events;
    unimplemented!()
}

/// Reads what [`encode`] wrote.
pub fn decode(text: &str) -> Result<Vec<HistoryEvent>, serde_json::Error> {
    let _ = text;
    unimplemented!()
}

/// The event as GetExecutionHistory shows it (`timestamp` in seconds, `id`, `previousEventId`, `type` and its details);
/// `None` for a hidden note. Without `include_data`, inputs and outputs are left out.
pub fn describe(event: &HistoryEvent, include_data: bool) -> Option<serde_json::Value> {
    let _ = (event, include_data);
    unimplemented!()
}
