//! Succeed: ends its scope with its input.

use stagepost_asl::Transition;

use crate::{
    decide::{Decider, Ready},
    history::ScopeId,
};

pub(crate) fn run(decider: &mut Decider<'_>, scope: ScopeId) -> Option<Ready> {
    let evaluation = decider.evaluation(scope);
    let (output, assign) = evaluation.own();
    let exit = evaluation.pass_on(output, assign);
    decider.conclude(scope, exit, Transition::End)
}
