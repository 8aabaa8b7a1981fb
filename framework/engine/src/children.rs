//! The executions that a state waits for: `startExecution.sync`.

use stagepost_asl::{Resource, State, StateKind, StateMachine};
use stagepost_protocol::{ExecutionArn, IntegrationPattern, StateMachineArn, TaskToken, TokenKey};

use crate::{command::StopChild, execution::Execution, history::ScopeId, live::Attempt, states::distributed};

/// An execution that an attempt started and waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncChild {
    /// The event that scheduled the attempt.
    pub event_id: u64,
    /// The child.
    pub execution: ExecutionArn,
    /// Names the attempt.
    pub parent: TaskToken,
}

fn waits(definition: &StateMachine, state: usize) -> bool {
    let Some(StateKind::Task(task)) = definition.states.get(state).map(|state| &state.kind) else {
        return false;
    };
    matches!(&task.resource, Resource::Service { service, action, pattern, .. }
        if service == "states" && action == "startExecution"
            && matches!(pattern, IntegrationPattern::Sync | IntegrationPattern::Sync2))
}

/// Whether a state of the definition waits for executions that it starts.
pub fn waits_for_executions(definition: &StateMachine) -> bool {
    (0..definition.states.len()).any(|state| waits(definition, state))
}

/// Whether executions of the definition have child executions that end with them.
pub fn has_children(definition: &StateMachine) -> bool {
    let distributed = |state: &State| matches!(&state.kind, StateKind::Map(map) if map.distributed.is_some());
    waits_for_executions(definition) || definition.states.iter().any(distributed)
}

/// The child of an attempt, by its parameters; where they have no name, the attempt gives it.
fn child(execution: &Execution, attempt: &Attempt) -> Option<ExecutionArn> {
    let parameters = attempt.input.to_value();
    let machine = StateMachineArn::parse(parameters.get("StateMachineArn")?.as_str()?).ok()?;
    let name = parameters.get("Name").and_then(|name| name.as_str());
    let derived = || format!("{}-{}", execution.id(), attempt.scheduled_id);
    Some(machine.execution(&name.map_or_else(derived, str::to_owned)))
}

impl Execution {
    /// The executions that it waits for; of one that has ended, those that it waited for at its end.
    pub fn sync_children(&self, token_key: &TokenKey) -> Vec<SyncChild> {
        let open = self.live.attempting().filter(|(state, _)| waits(self.definition(), state.0 as usize));
        let of = |attempt: &Attempt| {
            let event_id = attempt.scheduled_id;
            let parent = token_key.sign(self.id(), event_id);
            child(self, attempt).map(|execution| SyncChild { event_id, execution, parent })
        };
        open.filter_map(|(_, attempt)| of(attempt)).collect()
    }

    /// The child executions of its Map Runs that run; of one that has ended, those that ran at its end.
    pub fn map_children(&self, token_key: &TokenKey) -> Vec<StopChild> {
        let runs = self.live.unfinished_map_runs().into_iter();
        runs.flat_map(|(scope, run)| distributed::stops(self, scope, run, token_key)).collect()
    }

    /// Those of the Map Run in a scope.
    pub fn map_children_of(&self, scope: ScopeId, token_key: &TokenKey) -> Vec<StopChild> {
        let run = self.live.map_run(scope);
        run.map_or_else(Vec::new, |run| distributed::stops(self, scope, run, token_key))
    }
}
