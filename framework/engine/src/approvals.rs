//! What an execution asks people: `stagepost:requestApproval.waitForTaskToken`.

use stagepost_asl::{StateIndex, StateKind, StateMachine};
use stagepost_protocol::{Payload, Timestamp};

use crate::{
    execution::Execution,
    history::{EventKind, HistoryEvent, ScopeId},
};

/// An attempt that waits for an approval.
#[derive(Debug, Clone)]
pub struct OpenApproval {
    /// The event that scheduled the attempt.
    pub event_id: u64,
    /// Where it waits.
    pub scope: ScopeId,
    /// The state.
    pub state: StateIndex,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// When it times out.
    pub deadline: Option<Timestamp>,
    /// The parameters of the task.
    pub parameters: Payload,
}

/// How an attempt ended that waited for an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalEnd {
    /// With an output.
    Succeeded(Payload),
    /// With an error.
    Failed {
        /// Its name.
        error: Option<String>,
        /// For people.
        cause: Option<String>,
    },
    /// It took too long, or was silent for too long.
    TimedOut,
    /// The execution went on or ended without it.
    Cancelled,
}

fn asks(definition: &StateMachine, state: usize) -> bool {
    let Some(StateKind::Task(task)) = definition.states.get(state).map(|state| &state.kind) else {
        return false;
    };
    task.resource.asks_for_approval()
}

/// Whether a state of the definition asks for approvals.
pub fn asks_for_approvals(definition: &StateMachine) -> bool {
    (0..definition.states.len()).any(|state| asks(definition, state))
}

impl Execution {
    /// The approvals that it waits for, in the order in which they were asked for.
    pub fn open_approvals(&self) -> Vec<OpenApproval> {
        let open = self.live.attempts().in_order().into_iter().filter_map(|(event_id, scope)| {
            let found = self.live.scope(scope)?;
            let (step, attempt) = (found.step()?, found.attempt()?);
            let state = step.state();
            asks(self.definition(), state.0 as usize).then(|| OpenApproval {
                event_id,
                scope,
                state,
                attempt: step.attempts,
                deadline: attempt.timeout_at,
                parameters: attempt.input.clone(),
            })
        });
        open.collect()
    }
}

impl OpenApproval {
    /// How it ended in a decision after which it is not open any more, by the events of that decision.
    pub fn end(&self, events: &[HistoryEvent]) -> ApprovalEnd {
        // A scope has one step at a time: its first end is that of this attempt.
        let here = events.iter().filter(|event| event.scope == self.scope);
        let end = here.map(|event| &event.kind).find_map(|kind| match kind {
            EventKind::TaskSucceeded { output, .. } => Some(ApprovalEnd::Succeeded(output.clone())),
            EventKind::TaskFailed { failure, .. } => {
                Some(ApprovalEnd::Failed { error: failure.error.clone(), cause: failure.cause.clone() })
            }
            EventKind::TaskTimedOut { .. } => Some(ApprovalEnd::TimedOut),
            _ => None,
        });
        end.unwrap_or(ApprovalEnd::Cancelled)
    }
}
