//! The worker: takes tasks, runs activities, reports what became of them.
//!
//! ```text
//!  stagepost.activity.NAME ──► queue ──► attempt (a tokio task) ──► reporter ──► stagepost.shard.NN
//!            ▲                   │           ▲                          │
//!            └──── ack ──────────┴── ledger ─┼──────────────────────────┘
//!                                          watch
//! ```
//!
//! A delivery is acknowledged only after the broker has confirmed its attempt's last report, so a worker that dies
//! loses nothing: its tasks are delivered again.

mod attempt;
mod builder;
mod client;
mod connect;
mod error;
mod ledger;
mod poller;
mod queue;
mod reporter;
mod run;
mod shared;
mod watch;

pub use builder::Worker;
pub use error::{MissingStates, WorkerError};
pub(crate) use ledger::Delivered;
