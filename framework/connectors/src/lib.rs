//! Service integrations as built-in activities: what a state with `"Resource": "arn:aws:states:::SERVICE:ACTION"` or the
//! ARN of a Lambda function calls.
//!
//! ```text
//!  stagepost.connectors ──► worker ──► Registry ──► Connector ──► the service
//!            (the slots, reports and graceful stop of the SDK's worker)
//! ```
//!
//! The coordinator puts every call on one queue ([`Topology::connectors`](stagepost_protocol::topology::Topology)),
//! with its evaluated parameters as the body. A connector makes the call and says what became of it; everything else
//! (Retry, Catch, timeouts, the history) is the coordinator's business. A call may be made twice after a crash, as any
//! attempt may; [`Call::idempotency_key`] is the same for all attempts of a step.

mod approval;
pub mod aws;
mod call;
mod http;
pub mod inbound;
pub mod items;
mod lambda;
mod message;
mod optimized;
mod registry;
mod s3;
mod sdk;
mod sns;
mod sqs;
#[cfg(test)]
mod testing;

pub use approval::RequestApproval;
pub use call::{Answer, Call, Connector};
pub use registry::{Registry, worker};
pub use stagepost::Failure;
