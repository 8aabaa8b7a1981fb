//! The AWS-compatible HTTP API.
//!
//! ```text
//! SDKs, CLI, boto3 ──POST /──► wire (protocol) ──► states, own (operations) ──► Reader: what is stored
//!                                                                         └──► Commands: what changes executions
//! people ──► /approvals/ID (pages behind signed links)
//! operators ──► /healthz, /readyz, /metrics
//! ```
//!
//! Reads and the registry of state machines and activities go to the store; whatever changes an execution is a
//! request to its shard and is answered after the commit. This crate never writes executions.

mod api;
mod approvals;
mod commands;
mod health;
pub mod metrics;
mod operations;
mod own;
mod server;
mod states;
mod wire;

pub use api::{Api, Options};
pub use own::OPERATIONS as OWN_OPERATIONS;
pub use server::{health_router, router, serve};
pub use states::{OPERATIONS, Refused, start_execution};

#[cfg(test)]
mod tests;
