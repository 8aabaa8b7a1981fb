//! The composition root: puts store, broker, coordinator and API together. Used by the `stagepost` binary, by
//! programs that embed an installation (the examples), and by tests.
//!
//! ```text
//! Settings ──► Installation ─┬─ Store, Broker
//!                            ├─ Coordinator ── Client
//!                            └─ API at an address ◄── ApiClient ──► Steps (what a person sees of a run)
//! ```
//!
//! * [`Installation::open`] opens what [`Settings`] name: the embedded default (SQLite and a broker in process) or
//!   RabbitMQ and PostgreSQL.
//! * [`ApiClient`] asks an installation over HTTP, this one or any other; [`Steps`] shows the history of an
//!   execution as lines that pass by.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use stagepost_server::{Installation, Steps, Style};
//!
//! let mut installation = Installation::open_embedded(None).await?;
//! let api = installation.api_client().await?;
//! let definition = r#"{"StartAt": "Hello", "States": {"Hello": {"Type": "Pass", "End": true}}}"#;
//! let machine = api.deploy("hello", definition).await?;
//! let execution = api.start(&machine, r#"{"who": "world"}"#, None).await?;
//! let mut steps = Steps::new(Style::plain());
//! let ended = api.follow(&execution, |events| print!("{}", steps.show(events))).await?;
//! println!("{:?}", ended.output);
//! installation.shutdown().await;
//! # Ok(()) }
//! ```

mod api_client;
pub mod bench;
mod children;
mod history;
mod installation;
mod nested;
mod retry;
mod settings;
mod steps;

pub use api_client::{
    ApiClient, CallError, DEFAULT_ENDPOINT, DEFAULT_ROLE, Deployed, EndpointError, ExecutionDescription,
};
pub use history::HistoryEvent;
pub use installation::{Installation, OpenError, recover};
pub use settings::{Backend, Roles, Settings, SettingsError};
pub use steps::{Steps, Style};
