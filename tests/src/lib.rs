//! The harness of the end-to-end tests: an installation of processes that can be killed, on servers that can be
//! killed too.
//!
//! ```text
//! test ─┬─ Site ─┬─ Process `stagepost serve|dev`
//!       │        └─ Process workers
//!       ├─ Servers (RabbitMQ, PostgreSQL: shared, or of the test's own) ── Queues (what is on them)
//!       └─ ApiClient, `stagepost …`
//! ```
//!
//! Nothing here waits for a fixed time: [`until`] waits for a condition, with a deadline.

pub mod binaries;
pub mod chaos;
mod desk;
pub mod orders;
mod process;
mod proxy;
mod queues;
mod servers;
mod site;
mod sqs;
mod wait;

pub use desk::Desk;
pub use process::Process;
pub use proxy::{Proxy, Weather};
pub use queues::{Letter, Queues};
pub use servers::{Servers, Service};
pub use site::Site;
pub use sqs::Sqs;
pub use wait::{Random, until};

/// The activities of `test-worker`.
pub const ACTIVITIES: [&str; 8] =
    ["echo", "panics", "fails_first", "sleeps", "beats", "silent", "writes", "writes_twice"];
