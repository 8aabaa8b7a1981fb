//! The worker: takes tasks, runs activities, reports what became of them.
//!
//! ```text
//!  stagepost.activity.NAME ──► queue ──► attempt (a tokio task) ──► reporter ──► stagepost.shard.NN
//!            ▲                   │           ▲                          │
//!            └──── ack ──────────┴── ledger ─┼──────────────────────────┘
//!                                          watch
//! ```
//!
//! A delivery is acknowledged only after the broker has confirmed its attempt's last report, or its announcement: a
//! worker that dies loses nothing. What it had begun is known by the flag of a delivery that comes again, or by a lease
//! that runs out; nobody runs it without asking the coordinator (`control`).

mod attempt;
mod builder;
mod client;
mod connect;
mod control;
mod error;
mod lease;
mod ledger;
mod poller;
mod pulse;
mod queue;
mod reporter;
mod run;
mod shared;
mod watch;

pub use builder::Worker;
pub use error::{MissingStates, WorkerError};
pub(crate) use ledger::Delivered;
