//! Why a worker could not run.

use std::fmt;

/// Why a worker did not start, or stopped before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// Activities take state that was not given to the worker.
    #[error("state is missing: {0}. Give it to the worker with `.state(value)` before `.run()`")]
    MissingState(MissingStates),
    /// Nothing was registered.
    #[error("the worker has no activities: register some with `.register(activities![…])`")]
    NoActivities,
    /// Two activities would take each other's tasks.
    #[error(
        "the activities '{first}' and '{second}' share the queue '{queue}': tasks carry no names, so each activity needs \
         a queue of its own"
    )]
    SharedQueue {
        /// One of them.
        first: &'static str,
        /// The other one.
        second: &'static str,
        /// The queue.
        queue: String,
    },
    /// The URL cannot be used.
    #[error("'{url}' cannot be used to connect a worker: {reason}")]
    Url {
        /// The URL, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The broker refused something for good, or its connection was closed.
    #[error("the worker cannot use the broker: {0}")]
    Broker(#[from] stagepost_broker::Error),
    /// The API refused what a worker needs.
    #[error("the API refused {operation}: {error}")]
    Api {
        /// The operation.
        operation: &'static str,
        /// What it said.
        error: String,
    },
    /// Signals cannot be waited for.
    #[error("the worker cannot wait for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// A part of the worker panicked: an error in this library.
    #[error("a part of the worker failed; this is an error in stagepost: {0}")]
    Internal(String),
}

/// Which activities lack which state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingStates(pub(super) Vec<(&'static str, &'static str)>);

impl MissingStates {
    /// Pairs of an activity's name and the name of a type.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.0.iter().copied()
    }
}

impl fmt::Display for MissingStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (activity, type_name)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}the activity '{activity}' takes State<{type_name}>")?;
        }
        Ok(())
    }
}
