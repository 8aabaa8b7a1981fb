//! The state of an execution.

use std::sync::Arc;

use stagepost_asl::StateMachine;
use stagepost_protocol::{ExecutionArn, Payload, StateMachineArn, Timestamp};

use crate::{
    command::{Applied, Command, Env, Input, Outcome},
    history::HistoryEvent,
};

/// What an execution was started with; kept by the store beside its history.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// Its ARN.
    pub arn: ExecutionArn,
    /// What it is an execution of.
    pub state_machine: StateMachineArn,
    /// Its role.
    pub role_arn: String,
    /// Its input.
    pub input: Payload,
    /// When it started.
    pub started_at: Timestamp,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// With this output.
    Succeeded(Payload),
    /// With this error (ExecutionFailed).
    Failed {
        /// Its name.
        error: Option<String>,
        /// For people.
        cause: Option<String>,
    },
    /// It ran too long (ExecutionTimedOut).
    TimedOut,
    /// It was stopped (ExecutionAborted).
    Aborted {
        /// Its name.
        error: Option<String>,
        /// For people.
        cause: Option<String>,
    },
}

/// Why a stored history cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[error("event {event_id} of the history does not follow from what comes before it: {reason}")]
pub struct ReplayError {
    /// The event.
    pub event_id: u64,
    /// What is wrong.
    pub reason: String,
}

/// A running (or just ended) execution.
#[derive(Debug)]
pub struct Execution {
    origin: Origin,
    definition: Arc<StateMachine>,
}

impl Execution {
    /// Starts an execution.
    pub fn start(origin: Origin, definition: Arc<StateMachine>, env: &Env<'_>) -> (Execution, Applied) {
        let _ = (origin, definition, env);
        unimplemented!()
    }

    /// The state after these events.
    pub fn replay<'a>(
        origin: Origin,
        definition: Arc<StateMachine>,
        events: impl IntoIterator<Item = &'a HistoryEvent>,
    ) -> Result<Execution, ReplayError> {
        let _ = (origin, definition, events.into_iter().count());
        unimplemented!()
    }

    /// The state as a text, for [`Execution::restore`].
    pub fn snapshot(&self) -> String {
        unimplemented!()
    }

    /// The state that [`Execution::snapshot`] wrote.
    pub fn restore(
        origin: Origin,
        definition: Arc<StateMachine>,
        snapshot: &str,
    ) -> Result<Execution, ReplayError> {
        let _ = (origin, definition, snapshot);
        unimplemented!()
    }

    /// Decides what `input` leads to, and evolves by it.
    pub fn decide(&mut self, input: Input, env: &Env<'_>) -> Outcome {
        let _ = (input, env);
        unimplemented!()
    }

    /// Changes the state by one event. Evaluates nothing.
    pub fn evolve(&mut self, event: &HistoryEvent) -> Result<(), ReplayError> {
        let _ = event;
        unimplemented!()
    }

    /// What it was started with.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What it runs.
    pub fn definition(&self) -> &Arc<StateMachine> {
        &self.definition
    }

    /// The id of its newest event.
    pub fn last_event_id(&self) -> u64 {
        unimplemented!()
    }

    /// How it ended, and when; `None` while it runs.
    pub fn end(&self) -> Option<(&End, Timestamp)> {
        unimplemented!()
    }

    /// When it must be woken at the latest: the earliest of all waits, timeouts, heartbeats and retries.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        unimplemented!()
    }

    /// The commands of everything that is scheduled and not ended, to carry out again after a crash or a loss of
    /// the broker's messages.
    pub fn pending(&self, env: &Env<'_>) -> Vec<Command> {
        let _ = env;
        unimplemented!()
    }

    /// About how much memory it takes, in bytes. Cheap: kept up to date, not computed.
    pub fn approximate_bytes(&self) -> usize {
        unimplemented!()
    }
}
