//! From a JSON text to a [`StateMachine`], with every finding.
//!
//! ```text
//! text ── json ──► Value ── machine ──► scopes ── states, map, errors, resource ──► StateMachine
//!            │                │             │
//!            └────────────────┴── findings ─┴── graph (targets, reachability), variables, lint (warnings)
//! ```
//!
//! Called when a definition is created, updated or validated, and when the coordinator loads one. It never
//! stops at the first problem, and it never panics on what a user wrote.
//!
//! [`StateMachine`]: crate::model::StateMachine

mod errors;
mod finding;
mod graph;
mod json;
mod lint;
mod locate;
mod machine;
mod map;
mod node;
mod resource;
mod states;
mod variables;

pub use finding::{Finding, Severity, Spot, codes, express_findings};
pub use machine::{LONE_STATE, parse, parse_state};
pub(crate) use node::{Findings, Node};
pub use states::TYPES;

#[cfg(test)]
mod tests;
