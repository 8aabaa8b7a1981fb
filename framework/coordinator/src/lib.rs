//! The coordinator: the only writer of executions. It owns shards, and for each batch of what arrives on their
//! queues it decides, commits, publishes and acknowledges, in this order.
//!
//! ```text
//! shard queues ─► feed ─► decide ─► commit ─► publish ─► ack
//!       wake-ups ──┘    (deciding) (pipeline: in order, the next batch is decided meanwhile)
//! ```
//!
//! * [`Coordinator`] runs all of it; [`Client`] is how everybody else asks a shard for something.
//! * `lease` gains and loses shards, `deciding` is the loop, `pipeline` carries a decided batch out,
//!   `cache` holds the executions in memory, `wake` the deadlines, `dispatch` turns commands into messages,
//!   [`express`] runs Express executions, in memory, `callbacks`, `signals` and [`triggers`] turn foreign messages into
//!   shard messages, `schedules` starts what is due, `dead_letters` keeps what cannot be used, `recover` publishes
//!   again what is pending.
//!
//! Nothing here decides what a workflow does next: that is `stagepost-engine`. Nothing here calls the outside
//! world but the store and the broker.

mod cache;
mod callbacks;
pub mod client;
mod dead_letters;
mod deciding;
mod definitions;
mod dispatch;
pub mod express;
mod late;
mod lease;
pub mod metrics;
mod options;
mod pipeline;
mod recover;
mod run;
mod schedules;
mod signals;
mod sources;
pub mod triggers;
mod wake;

pub use client::{Client, ClientError, Poller};
pub use deciding::family::start_answer;
pub use metrics::Metrics;
pub use options::{Clock, Observer, Options, Random};
pub use recover::{RecoverError, Recovered, recover};
pub use run::{Coordinator, Parts, installation_token_key};
pub use sources::RemoteQueues;
