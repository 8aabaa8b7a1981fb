//! Write activities as async functions and run them in a worker.
//!
//! An activity is a step of a workflow whose work is done by your code. A definition names it
//! (`"Resource": "arn:aws:states:us-east-1:000000000000:activity:charge_card"`), the coordinator puts its tasks on a
//! queue, a [`Worker`] takes them, calls the function and reports what it returned. Whether and when a failed step is
//! tried again is the definition's business (`Retry`, `Catch`), not the activity's.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use stagepost::{ActivityError, Context, State, Worker, activities, activity};
//!
//! #[derive(Deserialize)]
//! struct Charge { amount_cents: u64 }
//!
//! #[derive(Debug, PartialEq, Serialize)]
//! struct Receipt { charge_id: String }
//!
//! #[derive(Debug, thiserror::Error, ActivityError)]
//! enum ChargeError {
//!     #[error("card declined: {reason}")]
//!     #[activity_error("Payments.CardDeclined")] // matched by Retry and Catch
//!     Declined { reason: String },
//! }
//!
//! /// Charges the customer's card.
//! #[activity(timeout = "30s", heartbeat = "10s", idempotent)]
//! async fn charge_card(cx: Context, gateway: State<Gateway>, input: Charge) -> Result<Receipt, ChargeError> {
//!     let charge_id = gateway.charge(cx.idempotency_key(), input.amount_cents).await?;
//!     cx.heartbeat(&charge_id);
//!     Ok(Receipt { charge_id })
//! }
//! # struct Gateway { limit_cents: u64 }
//! # impl Gateway {
//! #     async fn charge(&self, key: &str, amount_cents: u64) -> Result<String, ChargeError> {
//! #         if amount_cents > self.limit_cents { return Err(ChargeError::Declined { reason: "limit".into() }); }
//! #         Ok(format!("charge-{key}"))
//! #     }
//! # }
//!
//! async fn work(url: &str) -> Result<(), stagepost::WorkerError> {
//!     let gateway = Gateway { limit_cents: 10_000 };
//!     Worker::connect(url).state(gateway).register(activities![charge_card]).run().await
//! }
//!
//! // The function stays what it was: a test calls it.
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let gateway = State::new(Gateway { limit_cents: 10_000 });
//! let cx = Context::for_test().idempotency_key("order-7").build();
//! let receipt = charge_card(cx, gateway, Charge { amount_cents: 999 }).await.unwrap();
//! assert_eq!(receipt, Receipt { charge_id: "charge-order-7".into() });
//! # }
//! ```
//!
//! # The parts of an activity
//!
//! * **Parameters**: extractors first, in any order ([`Context`], [`State<T>`](State)); at most one input, last: any
//!   type that implements `serde::Deserialize` and owns its data. An input that does not fit fails the attempt with
//!   `Stagepost.InvalidInput`.
//! * **Result**: `Result<impl Serialize, impl ActivityError>`. [`Failure`] is the error for those without a type: `?`
//!   makes one of any [`std::error::Error`]. An output of more than 256 KiB fails with `States.DataLimitExceeded`.
//! * **A panic** fails the attempt with `Stagepost.ActivityPanicked`; the worker goes on.
//!
//! # Methods
//!
//! Activities that belong together can be the methods of a type, which then is their state: `#[activity]` on the impl
//! block and on each of them, `&self` (or `self: Arc<Self>`) before the other parameters, and
//! `Worker::register(value)`. See [`Activities`] for an example.
//!
//! # The options of `#[activity(…)]`
//!
//! | option | meaning | default |
//! | --- | --- | --- |
//! | `name = "charge-card"` | its name in definitions and histories | the function's name |
//! | `queue = "payments"` | its queue is `stagepost.activity.payments`: a definition then names `…:activity:payments` | its name |
//! | `timeout = "30s"` | the worker ends an attempt that runs longer with `States.Timeout` (units: ms, s, m, h, d) | the definition's `TimeoutSeconds` alone |
//! | `heartbeat = "10s"` | the worker ends an attempt that sends no heartbeat for so long with `States.HeartbeatTimeout` | the definition's `HeartbeatSeconds` alone |
//! | `concurrency = 4` | attempts of it that run at a time in one worker | [`Worker::concurrency`] |
//! | `idempotent` | it may run twice without harm, so a task whose worker died can be given to another at once | after a crash, `Retry` decides |
//! | `blocking` | a plain `fn` that blocks: it runs on a thread for that | an `async fn` |
//!
//! # Embedded
//!
//! [`Worker::with_broker`] runs the same worker on a broker of the same process, [`Worker::run_until`] until a future
//! completes instead of a signal.

mod activity;
#[doc(hidden)]
pub mod calls;
mod context;
mod failure;
#[doc(hidden)]
pub mod private;
mod state;
pub mod testing;
mod worker;

pub use stagepost_broker::Broker;
pub use stagepost_macros::{ActivityError, activity};
pub use stagepost_protocol::Namespace;

pub use activity::{
    Activities, Activity, ActivityResult, Extract, Input, Options, Output, Register, Registration,
    Requirement, Run, Task,
};
pub use context::Context;
pub use failure::{ActivityError, Cancelled, Failure};
pub use state::State;
pub use worker::{MissingStates, Worker, WorkerError};
