//! What lies on a shard queue: everything that changes an execution. JSON, internal to one installation.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Alive, Claim, ExecutionArn, ExecutionId, Lease, MapItem, MapRunArn, Message, Payload, Properties, Signal,
    StateMachineArn, TaskToken, Timestamp, TokenMessage, approval::Answer, payload::json_problem,
};

/// The number of a shard, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

/// A fixed slice of executions, finer than a shard; what the store keeps, so that the number of shards stays a
/// setting that can be changed (stop the coordinators, change it, `stagepost recover`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// How many slots there are. Never changes.
pub const SLOTS: u16 = 1024;

impl Slot {
    /// The slot of an execution.
    pub fn of(id: ExecutionId) -> Slot {
        let b = id.as_bytes();
        Slot(u16::from_be_bytes([b[14], b[15]]) % SLOTS)
    }
}

/// How executions are spread: each shard is a range of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards(u16);

impl Shards {
    /// `count` shards; `None` unless it is 1 to 1,024.
    pub fn new(count: u16) -> Option<Shards> {
        (1..=SLOTS).contains(&count).then_some(Shards(count))
    }

    /// How many there are.
    pub fn count(self) -> u16 {
        self.0
    }

    /// All of them.
    pub fn all(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }

    /// The shard of an execution.
    pub fn of(self, id: ExecutionId) -> ShardId {
        let slot = u32::from(Slot::of(id).0);
        ShardId((slot * u32::from(self.0) / u32::from(SLOTS)) as u16)
    }

    /// The slots of a shard.
    pub fn slots(self, shard: ShardId) -> std::ops::Range<u16> {
        let first = |n: u32| (n * u32::from(SLOTS)).div_ceil(u32::from(self.0)) as u16;
        first(u32::from(shard.0))..first(u32::from(shard.0) + 1)
    }
}

/// A message on a shard queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardMessage {
    /// What became of attempts; a worker sends those that are ready together.
    Reports(Vec<Report>),
    /// Token messages; one that comes too late becomes a dead letter.
    Answers(Vec<TokenAnswer>),
    /// Start an execution. Answered after the commit when the message has `reply_to`.
    Start(Box<Start>),
    /// Stop an execution. Answered like a start.
    Stop(Stop),
    /// Let an execution that ended without success go on. Answered like a start.
    Redrive(Redrive),
    /// Let the child execution of a Map Run go on. Not answered: its end is reported.
    RedriveChild(RedriveChild),
    /// Change how a Map Run runs. Answered like a start.
    UpdateMapRun(UpdateMapRun),
    /// Signal a running execution. Answered like a start.
    Signal(Signal),
    /// A worker that holds attempts is there.
    Alive(Alive),
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Names the attempt.
    pub token: TaskToken,
    /// Who says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// When the attempt was begun, if it was not announced before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// What became of it.
    pub outcome: ReportOutcome,
    /// The child of a Map Run that says so. Absent where the attempt speaks for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<MapChild>,
    /// Who completes the attempt, where somebody does so by hand: for the record of an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// The child of a Map Run that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredMapChild")]
pub struct MapChild {
    /// The place of its item, or of its batch of items.
    pub index: u64,
    /// How often it was redriven before it ended so.
    pub redrives: u32,
    /// It ended without success and can never be redriven.
    pub not_redrivable: bool,
}

impl MapChild {
    /// The child at this place, which was never redriven.
    pub const fn first(index: u64) -> MapChild {
        MapChild { index, redrives: 0, not_redrivable: false }
    }
}

/// Before Map Runs were redriven, the place was all that a report said.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredMapChild {
    Index(u64),
    Whole { index: u64, redrives: u32, not_redrivable: bool },
}

impl From<StoredMapChild> for MapChild {
    fn from(stored: StoredMapChild) -> MapChild {
        match stored {
            StoredMapChild::Index(index) => MapChild::first(index),
            StoredMapChild::Whole { index, redrives, not_redrivable } => {
                MapChild { index, redrives, not_redrivable }
            }
        }
    }
}

/// A token message, with what makes it a dead letter if it comes too late.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// What it says.
    pub report: Report,
    /// The queue that it came from.
    pub source: String,
    /// Its properties, as they came.
    #[serde(default)]
    pub properties: Properties,
}

impl TokenAnswer {
    /// The message as it came, but for the spelling of its JSON. `None`: it is a heartbeat, which says nothing that could
    /// be lost.
    pub fn message(self) -> Option<Message> {
        let by = self.report.answer.and_then(|answer| answer.by);
        let body = TokenMessage::of(self.report.token, self.report.outcome, by)?;
        let body = serde_json::to_vec(&body).expect("a token message has no maps and so always serialises");
        Some(Message {
            queue: self.source,
            body: Bytes::from(body),
            properties: self.properties,
            persistent: true,
        })
    }
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportOutcome {
    /// A worker has begun it, and nothing but the definition's limits stands for it.
    Started,
    /// A worker has begun it and stands for it by its lease, not by an unacknowledged delivery.
    Held {
        /// What it stands for it by.
        #[serde(flatten)]
        lease: Lease,
        /// As in [`TaskMessage::returns`](crate::TaskMessage::returns).
        #[serde(default, skip_serializing_if = "crate::is_zero")]
        returns: u32,
    },
    /// A worker was delivered what another one may have begun, and asks whether it is to run it. The answer is a
    /// [`ControlMessage`](crate::ControlMessage), or a [`Reply`] where the message asks for one.
    Claimed(Claim),
    /// A worker gives it back: it has not begun it, or it may run twice. Another one gets it.
    Released {
        /// The worker, as in [`Lease::holder`].
        holder: String,
        /// As in [`TaskMessage::returns`](crate::TaskMessage::returns).
        #[serde(default, skip_serializing_if = "crate::is_zero")]
        returns: u32,
    },
    /// It is still being worked on.
    Heartbeat,
    /// The service has accepted the request with this answer; the attempt stays open until its token is used or the job
    /// that it began has ended. Only for calls with `.waitForTaskToken` or `.sync`.
    Submitted(Payload),
    /// It succeeded with this output.
    Succeeded(Payload),
    /// It failed.
    Failed {
        /// The name that Retry and Catch match. May be absent, as in the API.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// For people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// The child of a Map Run ran longer than its definition allows.
    TimedOut {
        /// Its error, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// For people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// The child of a Map Run was stopped.
    Aborted {
        /// The error that it was stopped with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// For people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
}

impl ReportOutcome {
    /// Whether the attempt ends by it.
    pub fn is_end(&self) -> bool {
        match self {
            ReportOutcome::Succeeded(_)
            | ReportOutcome::Failed { .. }
            | ReportOutcome::TimedOut { .. }
            | ReportOutcome::Aborted { .. } => true,
            ReportOutcome::Started
            | ReportOutcome::Held { .. }
            | ReportOutcome::Claimed(_)
            | ReportOutcome::Released { .. }
            | ReportOutcome::Heartbeat
            | ReportOutcome::Submitted(_) => false,
        }
    }
}

/// A request to start an execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What it is to be called.
    pub execution: ExecutionArn,
    /// What it is an execution of.
    pub state_machine: StateMachineArn,
    /// The immutable definition that it runs to its end.
    pub definition_id: String,
    /// Its role, shown in the history.
    pub role_arn: String,
    /// Its input.
    pub input: Payload,
    /// W3C or X-Ray trace header, kept with the execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_header: Option<String>,
    /// The sender made the name up and has used it for nothing else, so it is known to be free.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// The attempt that waits for its end. A start that is repeated must name the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// What it is of a Map Run, if it is a child execution of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map_item: Option<MapItem>,
}

/// The attempt of another execution that waits for the end of this one. When this one ends, its end goes to the
/// parent's shard as a [`Report`] on that attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Names the attempt.
    pub token: TaskToken,
    /// What the attempt is told.
    pub kind: ParentKind,
}

/// What a child's end is told as, if it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParentKind {
    /// `startExecution` without `.sync`: nothing waits for its end. Whose start it was is kept, so that the same start
    /// is recognised when it comes again.
    Request,
    /// `startExecution.sync`: a description of the child, its input and output as texts of JSON.
    Sync,
    /// `startExecution.sync:2`: a description of the child, its input and output as JSON.
    Sync2,
    /// The child of a Map Run: its plain output, or its error and cause.
    MapItem {
        /// The place of its item, or of its batch of items; what [`MapChild`] repeats.
        index: u64,
    },
}

impl Parent {
    /// As the store keeps it.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a parent has no maps and so always serialises")
    }

    /// Reads what [`Parent::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<Parent> {
        serde_json::from_str(text).ok()
    }
}

/// A request to stop an execution (StopExecution).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// Which one.
    pub execution: ExecutionArn,
    /// The error that it ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Only if this attempt of a parent started it: so that a parent stops its own children and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskToken>,
    /// Only if it was not redriven more often than this: so that a stop that comes late stops nothing that goes on since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrives: Option<u32>,
}

/// A request to redrive an execution (RedriveExecution).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Redrive {
    /// Which one.
    pub execution: ExecutionArn,
    /// A request that repeats the newest redrive has the same one.
    pub client_token: String,
}

/// A request of a Map Run that has its child execution go on. One that has ended well says so again; one that still runs
/// is stopped first, since it was to be stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedriveChild {
    /// Which one.
    pub execution: ExecutionArn,
    /// What it was started for.
    pub parent: Parent,
    /// How often it has been redriven then: the request repeats nothing that was done.
    pub redrives: u32,
}

/// A request to change how a Map Run runs (UpdateMapRun). What is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdateMapRun {
    /// Whose Map Run it is.
    pub execution: ExecutionArn,
    /// Which one.
    pub map_run: MapRunArn,
    /// How many child executions may run at a time; 0: no limit but the engine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u64>,
    /// How many items may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerated_failure_count: Option<u64>,
    /// How many percent of the items may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerated_failure_percentage: Option<f64>,
}

/// The answer to a [`ShardMessage`] that has `reply_to`, sent after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The execution runs since then; also for a start that repeats one with the same name and input.
    Started {
        /// StartDate.
        started_at: Timestamp,
    },
    /// There is an execution of this name with another input (ExecutionAlreadyExists).
    AlreadyExists,
    /// The execution was stopped then; also when it had ended before.
    Stopped {
        /// StopDate.
        stopped_at: Timestamp,
    },
    /// The execution goes on since then; also for a request that repeats its newest redrive.
    Redriven {
        /// RedriveDate.
        redriven_at: Timestamp,
    },
    /// The execution cannot be redriven (ExecutionNotRedrivable); the text says why.
    NotRedrivable(String),
    /// There is no such execution.
    NotFound,
    /// The report, the signal or the change of a Map Run was taken.
    Accepted,
    /// The execution has ended and takes no more signals (ExecutionNotRunning).
    Ended,
    /// The execution keeps as many signals as it may (SignalLimitExceeded).
    TooManySignals,
    /// The token is none of this installation's (InvalidToken).
    InvalidToken,
    /// The attempt has ended, by a result or a timeout (TaskTimedOut).
    TaskTimedOut,
    /// The execution of this token is gone (TaskDoesNotExist).
    TaskDoesNotExist,
    /// The request is refused; the text says why and what to do.
    Refused(String),
}

impl ShardMessage {
    /// The kind that messages on shard queues carry in their `type` property.
    pub const KIND: &'static str = "stagepost.shard.1";

    /// A message for `queue`. Requests with a reply may be transient: their sender asks again.
    pub fn encode(&self, queue: String, reply: Option<(String, String)>) -> Message {
        let body = serde_json::to_vec(self).expect("shard messages have no maps and so always serialise");
        let persistent = reply.is_none();
        let (reply_to, correlation_id) = reply.unzip();
        Message {
            queue,
            body: Bytes::from(body),
            properties: Properties {
                content_type: Some("application/json".into()),
                kind: Some(ShardMessage::KIND.into()),
                reply_to,
                correlation_id,
                ..Properties::default()
            },
            persistent,
        }
    }

    /// Reads a message of a shard queue; the error says, for a dead letter's reason, why it is none.
    pub fn decode(body: &[u8], properties: &Properties) -> Result<ShardMessage, String> {
        if properties.kind.as_deref() != Some(ShardMessage::KIND) {
            return Err(format!("its type is not {}", ShardMessage::KIND));
        }
        if body.len() > crate::limits::SHARD_MESSAGE_BYTES_MAX {
            return Err(format!(
                "its body has {} bytes, more than {}",
                body.len(),
                crate::limits::SHARD_MESSAGE_BYTES_MAX
            ));
        }
        serde_json::from_slice(body)
            .map_err(|e| format!("its body is not a shard message: {}", json_problem(&e)))
    }
}

impl Reply {
    /// A reply to the queue and correlation id of a request.
    pub fn encode(&self, reply_to: &str, correlation_id: &str) -> Message {
        Message {
            queue: reply_to.to_owned(),
            body: Bytes::from(
                serde_json::to_vec(self).expect("replies have no maps and so always serialise"),
            ),
            properties: Properties {
                content_type: Some("application/json".into()),
                correlation_id: Some(correlation_id.to_owned()),
                ..Properties::default()
            },
            persistent: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::Via;

    #[test]
    fn each_slot_belongs_to_one_shard_whatever_their_number() {
        for count in [1, 2, 3, 7, 16, 1000, 1024] {
            let shards = Shards::new(count).unwrap();
            let mut next = 0;
            for shard in shards.all() {
                let slots = shards.slots(shard);
                assert_eq!(slots.start, next);
                next = slots.end;
                for slot in slots {
                    let mut id = [0; 16];
                    id[14..].copy_from_slice(&slot.to_be_bytes());
                    assert_eq!(shards.of(ExecutionId::from_bytes(id)), shard);
                }
            }
            assert_eq!(next, SLOTS);
        }
        assert_eq!(Shards::new(0), None);
    }

    #[test]
    fn a_parent_is_read_as_it_was_written() {
        for kind in
            [ParentKind::Request, ParentKind::Sync, ParentKind::Sync2, ParentKind::MapItem { index: 9 }]
        {
            let parent = Parent { token: TaskToken::from_untrusted("t"), kind };
            assert_eq!(Parent::from_text(&parent.to_text()), Some(parent));
        }
        // What is stored stays readable.
        let stored = r#"{"token":"t","kind":{"map_item":{"index":9}}}"#;
        assert_eq!(Parent::from_text(stored).map(|p| p.kind), Some(ParentKind::MapItem { index: 9 }));
        assert_eq!(Parent::from_text("{}"), None);
    }

    #[test]
    fn reports_survive_the_broker_and_strangers_are_named() {
        let message = ShardMessage::Reports(vec![Report {
            token: TaskToken::from_untrusted("t"),
            worker: Some("w".into()),
            started_at: Some(Timestamp::from_millis(5)),
            outcome: ReportOutcome::Succeeded(Payload::parse("[1]").unwrap()),
            child: Some(MapChild { index: 7, redrives: 2, not_redrivable: true }),
            answer: Some(Answer { via: Via::Link, by: Some("ada".into()), comment: None }),
        }]);
        let m = message.encode("q".into(), None);
        assert_eq!(ShardMessage::decode(&m.body, &m.properties), Ok(message));
        // As it was written before there were redrives.
        assert_eq!(serde_json::from_str::<MapChild>("7").unwrap(), MapChild::first(7));
        let error = ShardMessage::decode(&m.body, &Properties::default()).unwrap_err();
        assert!(error.contains("type"), "{error}");
        let error = ShardMessage::decode(b"{\"surprise\":1}", &m.properties).unwrap_err();
        assert!(error.contains("unknown") && !error.contains("surprise"), "{error}");
    }
}
