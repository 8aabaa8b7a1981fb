//! The pure heart of Stagepost: what an event leads to, without clock, randomness or IO.
//!
//! ```text
//! Input + Env ──► decide ──► HistoryEvents ──► evolve ──► Execution
//!                    └─────► Commands, for the shell to carry out after the commit
//! ```
//!
//! [`Execution::decide`] evaluates expressions and makes events; [`Execution::evolve`] is the only thing that
//! changes an execution and evaluates nothing, live and in replay alike: replaying the stored events gives the
//! state that decided them.

pub mod approvals;
pub mod children;
pub mod command;
mod context;
mod dataflow;
mod decide;
pub mod execution;
pub mod history;
mod hold;
mod live;
mod observe;
pub mod probe;
mod redrive;
mod signals;
mod situation;
mod states;

pub use children::SyncChild;
pub use command::{
    Applied, Call, Command, Dispatch, Env, Held, Ignored, Input, Leased, Outcome, StartChild, StopChild,
    Taken, Way,
};
pub use execution::{End, Execution, Origin, ReplayError};
pub use history::{EventKind, HistoryEvent};
