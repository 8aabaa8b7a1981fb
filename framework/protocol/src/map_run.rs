//! Map Runs as they are stored and shown: what one is at a moment, with its counts.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ExecutionArn, ExecutionId, MapRunArn, StateMachineArn, Timestamp};

/// A Map Run: one visit of a distributed Map state (DescribeMapRun).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapRun {
    /// Its ARN.
    pub arn: MapRunArn,
    /// The execution whose state it is.
    pub execution: ExecutionArn,
    /// How it stands.
    pub status: MapRunStatus,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
    /// How many child executions may run at a time; 0: no limit but the engine's own.
    pub max_concurrency: u64,
    /// How many items may fail; 0: not limited by number, or none, see `tolerated_failure_percentage`.
    pub tolerated_failure_count: u64,
    /// How many percent of the items may fail; 0: not limited so. Where both are 0, none may fail.
    pub tolerated_failure_percentage: f64,
    /// How its items stand.
    pub items: MapRunCounts,
    /// How its child executions stand.
    pub executions: MapRunCounts,
    /// How often it was redriven.
    #[serde(default)]
    pub redrive_count: u32,
    /// When it was last redriven.
    #[serde(default)]
    pub redriven_at: Option<Timestamp>,
}

impl MapRun {
    /// As the store keeps it.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a Map Run has no maps and so always serialises")
    }

    /// Reads what [`MapRun::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<MapRun> {
        serde_json::from_str(text).ok()
    }
}

/// What a child execution is of its Map Run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapItem {
    /// The Map Run.
    pub map_run: MapRunArn,
    /// How many items it processes.
    pub items: u32,
}

/// How a Map Run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MapRunStatus {
    /// Not ended.
    Running,
    /// All items are processed, and no more of them failed than are tolerated.
    Succeeded,
    /// More items failed than are tolerated, or the items could not be read or the results not written.
    Failed,
    /// Its execution ended before it.
    Aborted,
}

impl MapRunStatus {
    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            MapRunStatus::Running => "RUNNING",
            MapRunStatus::Succeeded => "SUCCEEDED",
            MapRunStatus::Failed => "FAILED",
            MapRunStatus::Aborted => "ABORTED",
        }
    }
}

/// How many items or child executions of a Map Run there are, by how they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRunCounts {
    /// Read, but not started.
    pub pending: u64,
    /// Started.
    pub running: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Failed.
    pub failed: u64,
    /// Ran too long.
    pub timed_out: u64,
    /// Were stopped.
    pub aborted: u64,
    /// Whose results the result writer has written.
    pub results_written: u64,
    /// Ended without success, and wait to be redriven.
    #[serde(default)]
    pub pending_redrive: u64,
    /// Of those that ended without success, the ones that cannot be redriven.
    #[serde(default)]
    pub failures_not_redrivable: u64,
}

impl MapRunCounts {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.pending
            + self.running
            + self.succeeded
            + self.failed
            + self.timed_out
            + self.aborted
            + self.pending_redrive
    }
}

impl StateMachineArn {
    /// The machine that the child executions of the Map state with this label run: `NAME/LABEL`. Labels are unique in
    /// a definition, so a Map state that runs in a child execution itself has no longer ARN.
    pub fn labelled(&self, label: &str) -> StateMachineArn {
        let base = self.name.split_once('/').map_or(self.name.as_str(), |(base, _)| base);
        StateMachineArn { namespace: self.namespace.clone(), name: format!("{base}/{label}") }
    }

    /// The label, if it is the machine of child executions.
    pub fn label(&self) -> Option<&str> {
        self.name.split_once('/').map(|(_, label)| label)
    }
}

impl MapRunArn {
    /// The ARN of the Map Run that event `event_id` of an execution starts, by the machine of its child executions. A
    /// function of the arguments, so that replay gives the same one.
    pub fn new(children: &StateMachineArn, execution: ExecutionId, event_id: u64) -> MapRunArn {
        let name = format!("{}:{}", children.name, derived_uuid(execution, event_id, None));
        MapRunArn { namespace: children.namespace.clone(), name }
    }

    /// The part after the last colon, which names it among those of its state.
    pub fn id(&self) -> &str {
        self.name.rsplit_once(':').map_or(&self.name, |(_, id)| id)
    }
}

/// The name of the child execution that is the one with this number of a Map Run. A function of the arguments, so that a
/// start that is repeated starts nothing twice.
pub fn child_name(execution: ExecutionId, map_run_event_id: u64, index: u64) -> String {
    derived_uuid(execution, map_run_event_id, Some(index))
}

/// In the form of a UUID of version 8 (RFC 9562, section 5.8: made by a method of one's own).
fn derived_uuid(execution: ExecutionId, event_id: u64, index: Option<u64>) -> String {
    let mut digest = Sha256::new();
    digest.update(execution.as_bytes());
    digest.update(event_id.to_be_bytes());
    if let Some(index) = index {
        digest.update(index.to_be_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_from_what_they_name() {
        let machine: StateMachineArn =
            "arn:aws:states:us-east-1:000000000000:stateMachine:m".parse().unwrap();
        let children = machine.labelled("l");
        assert_eq!(children.to_string(), "arn:aws:states:us-east-1:000000000000:stateMachine:m/l");
        assert_eq!(children.to_string().parse(), Ok(children.clone()));
        assert_eq!((machine.label(), children.label()), (None, Some("l")));
        assert_eq!(children.labelled("k").name, "m/k");
        let parent = machine.execution("e").id();
        let arn = MapRunArn::new(&children, parent, 4);
        assert_eq!(arn.to_string().parse(), Ok(arn.clone()));
        assert_eq!(arn.id().len(), 36);
        assert_ne!(arn, MapRunArn::new(&children, parent, 5));
        let names = [child_name(parent, 4, 0), child_name(parent, 4, 1), child_name(parent, 5, 0)];
        assert!(names[0] != names[1] && names[0] != names[2] && names[0] != arn.id());
        let child = children.execution(&names[0]);
        assert_eq!(child.to_string().parse(), Ok(child.clone()));
        assert_eq!(child.state_machine_arn(), children);
    }
}
