//! Parallel: runs its branches side by side, each in a scope of its own.

use stagepost_asl::ParallelState;
use stagepost_protocol::Payload;

use crate::{
    decide::{Decider, Ready, StateFailure},
    history::{EventKind, ScopeId},
    states::map::join,
};

pub(crate) fn begin(decider: &mut Decider<'_>, scope: ScopeId, parallel: &ParallelState) -> Option<Ready> {
    let input = match branch_input(decider, scope, parallel) {
        Ok(input) => input,
        Err(failure) => return decider.fail(scope, failure),
    };
    let branches = u32::try_from(parallel.branches.len()).unwrap_or(u32::MAX);
    decider.emit_next(scope, EventKind::ParallelStateStarted { branches });
    let open: Vec<_> = decider.scope(scope).children().iter().flat_map(|c| c.open.iter().copied()).collect();
    for (branch, state) in open.into_iter().zip(&parallel.branches) {
        decider.go_on_later(Ready::Enter { scope: branch, state: *state, input: input.clone() });
    }
    if branches == 0 { complete(decider, scope, parallel) } else { None }
}

/// What every branch is given.
pub(crate) fn branch_input(
    decider: &Decider<'_>,
    scope: ScopeId,
    parallel: &ParallelState,
) -> Result<Payload, StateFailure> {
    let evaluation = decider.evaluation(scope);
    evaluation.parameters(parallel.parameters.as_ref()).and_then(|doc| evaluation.bounded(doc))
}

/// The last state of a branch was left, which has closed the branch.
pub(crate) fn branch_succeeded(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    parallel: &ParallelState,
) -> Option<Ready> {
    let done = decider.scope(scope).children().is_some_and(|c| c.done == c.total);
    if done { complete(decider, scope, parallel) } else { None }
}

fn complete(decider: &mut Decider<'_>, scope: ScopeId, parallel: &ParallelState) -> Option<Ready> {
    let results = join(decider.scope(scope).children().iter().flat_map(|c| c.results.iter().flatten()));
    decider.emit_next(scope, EventKind::ParallelStateSucceeded);
    let output =
        decider.evaluation(scope).output(results, parallel.result_selector.as_ref(), &parallel.result_path);
    decider.conclude(scope, output, parallel.transition)
}

/// A branch failed: the others are aborted, and the state fails with its error.
pub(crate) fn branch_failed(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    branch: ScopeId,
    failure: StateFailure,
) -> Option<Ready> {
    let chain = decider.scope(branch).chain;
    decider.abort_children(scope, chain);
    decider.fail_after(scope, chain, failure)
}
