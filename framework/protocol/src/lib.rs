//! What two Stagepost processes must agree on: ids, task tokens, payloads, messages, error names and queue
//! names. Pure: no clock, no randomness, no IO. Everything that crosses a process boundary is spelled here and
//! nowhere else.

pub mod approval;
pub mod call;
pub mod claim;
pub mod dead_letter;
pub mod error_names;
pub mod express;
pub mod http;
pub mod id;
pub mod limits;
pub mod map_run;
pub mod message;
pub mod payload;
pub mod shard;
pub mod signal;
pub mod time;
pub mod token;
pub mod topology;

pub use call::{IntegrationPattern, ServiceCall};
pub use claim::{Alive, Claim, ControlMessage, DeliveredAs, Lease, Told, Verdict};
pub use dead_letter::{DeadLetter, DeadReason};
pub use express::ExpressStart;
pub use id::{ActivityArn, ArnError, ExecutionArn, ExecutionId, MapRunArn, Namespace, StateMachineArn};
pub use map_run::{MapItem, MapRun, MapRunCounts, MapRunStatus};
pub use message::{HeaderValue, Message, Properties, TaskMessage, TokenMessage};
pub use payload::Payload;
pub use shard::{
    MapChild, Parent, ParentKind, Report, ReportOutcome, ShardId, ShardMessage, Shards, Slot, TokenAnswer,
};
pub use signal::{Signal, SignalMessage};
pub use time::Timestamp;
pub use token::{RunnerId, TaskToken, TokenKey};

/// For numbers that are left out where they are 0.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
