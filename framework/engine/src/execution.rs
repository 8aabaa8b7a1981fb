//! An execution: what the shell holds, feeds and stores.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use stagepost_asl::StateMachine;
use stagepost_protocol::{ExecutionArn, ExecutionId, Parent, Payload, StateMachineArn, Timestamp, limits};

use crate::{
    command::{Applied, Command, Env, Held, Input, Leased, Outcome},
    decide,
    history::HistoryEvent,
    live::Live,
    situation, states,
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
    /// The attempt that waits for its end.
    pub parent: Option<Parent>,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone)]
pub struct Execution {
    origin: Origin,
    id: ExecutionId,
    definition: Arc<StateMachine>,
    pub(crate) live: Live,
}

impl fmt::Debug for Execution {
    /// Without the definition, which is large and shared.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution").field("id", &self.id).field("live", &self.live).finish_non_exhaustive()
    }
}

/// Two executions are equal when they behave alike from here on.
impl PartialEq for Execution {
    fn eq(&self, other: &Execution) -> bool {
        self.origin == other.origin && self.live == other.live
    }
}

impl Execution {
    fn new(origin: Origin, definition: Arc<StateMachine>, live: Live) -> Execution {
        Execution { id: origin.arn.id(), origin, definition, live }
    }

    /// Starts an execution.
    pub fn start(origin: Origin, definition: Arc<StateMachine>, env: &Env<'_>) -> (Execution, Applied) {
        let mut execution = Execution::new(origin, definition, Live::new());
        let applied = decide::start(&mut execution, env);
        (execution, applied)
    }

    /// The state after these events.
    pub fn replay<'a>(
        origin: Origin,
        definition: Arc<StateMachine>,
        events: impl IntoIterator<Item = &'a HistoryEvent>,
    ) -> Result<Execution, ReplayError> {
        let mut execution = Execution::new(origin, definition, Live::new());
        for event in events {
            execution.evolve(event)?;
        }
        if execution.last_event_id() == 0 {
            return Err(ReplayError { event_id: 0, reason: "the history is empty".to_owned() });
        }
        Ok(execution)
    }

    /// The state as a text, for [`Execution::restore`].
    pub fn snapshot(&self) -> String {
        serde_json::to_string(&self.live).expect("the state has only keys that JSON can write")
    }

    /// The state that [`Execution::snapshot`] wrote.
    pub fn restore(
        origin: Origin,
        definition: Arc<StateMachine>,
        snapshot: &str,
    ) -> Result<Execution, ReplayError> {
        let mut live: Live = serde_json::from_str(snapshot)
            .map_err(|e| ReplayError { event_id: 0, reason: format!("the snapshot cannot be read: {e}") })?;
        if let Some(reason) = live.misfit(&definition) {
            return Err(ReplayError { event_id: live.last_event_id, reason });
        }
        live.index_all();
        live.check_scopes().map_err(|reason| ReplayError { event_id: live.last_event_id, reason })?;
        Ok(Execution::new(origin, definition, live))
    }

    /// Decides what `input` leads to, and evolves by it.
    pub fn decide(&mut self, input: Input, env: &Env<'_>) -> Outcome {
        decide::decide(self, input, env)
    }

    /// Changes the state by one event. Evaluates nothing.
    pub fn evolve(&mut self, event: &HistoryEvent) -> Result<(), ReplayError> {
        self.live.evolve(&self.definition, event).map_err(|reason| ReplayError { event_id: event.id, reason })
    }

    /// What it was started with.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its id, a function of its ARN.
    pub fn id(&self) -> ExecutionId {
        self.id
    }

    /// What it runs.
    pub fn definition(&self) -> &Arc<StateMachine> {
        &self.definition
    }

    /// The id of its newest event.
    pub fn last_event_id(&self) -> u64 {
        self.live.last_event_id
    }

    /// How it ended, and when; `None` while it runs.
    pub fn end(&self) -> Option<(&End, Timestamp)> {
        self.live.end.as_ref().map(|(end, at)| (end, *at))
    }

    /// Whether the attempt that this event scheduled waits for its result.
    pub fn is_open(&self, event_id: u64) -> bool {
        self.live.scope_of_attempt(event_id).is_some()
    }

    /// Who has the attempt that this event scheduled; `None` when it is not open.
    pub fn held(&self, event_id: u64) -> Option<Held<'_>> {
        let attempt = self.live.attempt(event_id)?;
        Some(match &attempt.lease {
            None if attempt.taken => Held::Taken,
            None => Held::ByNobody,
            Some(lease) => lease.holder.as_deref().map_or(Held::InDoubt, Held::ByWorker),
        })
    }

    /// The leases of its open attempts: one for each worker that has some, then those of attempts of which it is not
    /// known who has them, the earliest first.
    pub fn leases(&self) -> impl Iterator<Item = Leased<'_>> {
        self.live.attempts().leased().filter_map(|event_id| {
            let lease = self.live.attempt(event_id)?.lease.as_ref()?;
            let (holder, since, millis) = (lease.holder.as_deref(), lease.since, lease.millis);
            Some(Leased { event_id, holder, since, millis })
        })
    }

    /// How often it was redriven, and when last.
    pub fn redrives(&self) -> (u32, Option<Timestamp>) {
        self.live.redriven.as_ref().map_or((0, None), |r| (r.count, Some(r.at)))
    }

    /// Whether its newest redrive was asked for with this client token, not so long ago that the token means another one.
    pub fn is_redriven_by(&self, client_token: &str, now: Timestamp) -> bool {
        self.live.redriven.as_ref().is_some_and(|redriven| {
            redriven.client_token.as_deref() == Some(client_token)
                && now.millis_since(redriven.at) <= limits::REDRIVE_TOKEN_MILLIS
        })
    }

    /// When it must be woken at the latest: the earliest of all waits, timeouts, heartbeats and retries. May be now: a
    /// decision of very many events stops and goes on with the next [`Input::Wake`].
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.live.first_deadline().map(|deadline| deadline.at)
    }

    /// The commands of everything that is scheduled, not ended, and nobody's, to carry out again after a crash or a
    /// loss of the broker's messages.
    pub fn pending(&self, env: &Env<'_>) -> Vec<Command> {
        let open = self.live.attempts().in_order().into_iter();
        let nobodys = open.filter(|(event_id, _)| self.live.attempt(*event_id).is_some_and(|a| !a.is_held()));
        let attempts = nobodys.filter_map(|(_, scope)| states::task::command(self, scope, env));
        let map_runs = self.live.scopes_of_map_runs().into_iter();
        attempts.chain(map_runs.flat_map(|scope| states::distributed::pending(self, scope, env))).collect()
    }

    /// About how much memory it takes, in bytes. Cheap: kept up to date, not computed.
    pub fn approximate_bytes(&self) -> usize {
        512 + self.origin.input.len() + self.live.bytes()
    }

    /// Where it stands, without where it came from: equal for two moments, of this or another execution of the same
    /// definition, from which the same inputs lead to the same ways. Times count from `now`; event ids, and the
    /// deadline of the execution as a whole, are left out. For tools that walk through a definition: it costs as
    /// much as the execution is large.
    pub fn situation(&self, now: Timestamp) -> String {
        situation::of(&self.live, now)
    }

    /// What must hold between two decisions; the error says what does not. Costs as much as the execution is large:
    /// for tests and for histories that were just loaded.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.live.check()
    }
}
