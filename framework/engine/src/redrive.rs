//! RedriveExecution: what each state does when its execution goes on (Step Functions developer guide, "Redrive
//! behavior of individual states").

use std::sync::Arc;

use stagepost_asl::StateKind;
use stagepost_protocol::{Timestamp, limits};

use crate::{
    command::Ignored,
    decide::{Decider, Ready},
    execution::{End, Execution},
    history::{EventKind, ScopeId, TOP_LEVEL},
    live::{Current, Phase},
    states,
};

/// Why an execution cannot be redriven, or need not.
fn refused(execution: &Execution, client_token: Option<&str>, now: Timestamp) -> Option<Ignored> {
    // Whether it has ended again since does not matter: who asks twice wants it once.
    if client_token.is_some_and(|token| execution.is_redriven_by(token, now)) {
        return Some(Ignored::AlreadyRedriven);
    }
    match execution.end() {
        None => return Some(Ignored::NotEnded),
        Some((End::Succeeded(_), _)) => return Some(Ignored::Ended),
        Some((End::Failed { .. } | End::TimedOut | End::Aborted { .. }, _)) => {}
    }
    // There must be room for the redrive and for what it leads to.
    let room = execution.last_event_id() + 2 <= limits::HISTORY_EVENTS_MAX;
    let often = execution.redrives().0 >= limits::REDRIVES_MAX;
    (often || !room).then_some(Ignored::RedrivenTooOften)
}

/// Lets an execution that ended without success go on.
pub(crate) fn redrive(
    decider: &mut Decider<'_>,
    client_token: Option<String>,
    count: Option<u32>,
) -> Option<Ignored> {
    if let Some(refused) = refused(decider.execution, client_token.as_deref(), decider.now()) {
        return Some(refused);
    }
    let next = decider.execution.redrives().0 + 1;
    let count = count.map_or(next, |count| count.max(next));
    let client_token = client_token.map(Arc::from);
    let last = decider.execution.last_event_id();
    decider.emit(TOP_LEVEL, last, EventKind::ExecutionRedriven { count, client_token });
    go_on(decider, TOP_LEVEL);
    decider.run(None);
    None
}

/// Lets a scope go on where it stopped, and all below it.
fn go_on(decider: &mut Decider<'_>, scope: ScopeId) {
    let ready = match &decider.scope(scope).current {
        // By the wake-up that is due already.
        Current::ToEnter { .. } => None,
        Current::Between | Current::Done => begin_scope(decider, scope),
        Current::In(step) => match &step.phase {
            Phase::Children(children) => {
                let open: Vec<ScopeId> = children.open.iter().copied().collect();
                open.into_iter().for_each(|child| go_on(decider, child));
                match &decider.state(scope).kind {
                    StateKind::Map(map) => states::map::start_iterations(decider, scope, map),
                    _ => None,
                }
            }
            // The state is not entered again: it does its work anew.
            Phase::Deciding | Phase::ClosedMapRun(_) => Some(Ready::Retry { scope }),
            Phase::Closed(_)
            | Phase::Waiting(_)
            | Phase::Retrying(_)
            | Phase::Attempting(_)
            | Phase::MapRun(_) => None,
        },
    };
    if let Some(ready) = ready {
        decider.go_on_later(ready);
    }
}

/// A branch or an iteration that had begun when another one failed, and had entered no state.
fn begin_scope(decider: &mut Decider<'_>, scope: ScopeId) -> Option<Ready> {
    let definition = decider.definition;
    let (parent, index) = (decider.scope(scope).parent, decider.scope(scope).index);
    let Some(parent) = parent else {
        let input = decider.execution.origin().input.clone();
        return Some(Ready::Enter { scope, state: definition.start_at, input });
    };
    let found = match &decider.state(parent).kind {
        StateKind::Map(map) => {
            states::map::iteration_input(decider, parent, map, index).map(|input| (map.start_at, input))
        }
        StateKind::Parallel(parallel) => {
            let state = parallel.branches.get(index as usize).copied()?;
            states::parallel::branch_input(decider, parent, parallel).map(|input| (state, input))
        }
        _ => return None,
    };
    match found {
        Ok((state, input)) => Some(Ready::Enter { scope, state, input }),
        Err(failure) => {
            let chain = decider.scope(parent).chain;
            decider.abort_children(parent, chain);
            decider.fail_after(parent, chain, failure)
        }
    }
}
