//! Succeed: ends its scope with its input.

use stagepost_asl::Transition;

use crate::{
    decide::{Decider, Ready},
    history::ScopeId,
};

pub(crate) fn run(decider: &mut Decider<'_>, scope: ScopeId) -> Option<Ready> {
    let evaluation = decider.evaluation(scope);
    let output = evaluation
        .input()
        .and_then(|doc| evaluation.through_output_path(doc))
        .and_then(|doc| evaluation.bounded(doc));
    decider.conclude(scope, output, Transition::End)
}
