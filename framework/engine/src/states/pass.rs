//! Pass: hands its input on, or a result.

use stagepost_asl::PassState;

use crate::{
    dataflow::Doc,
    decide::{Decider, Ready},
    history::ScopeId,
};

pub(crate) fn run(decider: &mut Decider<'_>, scope: ScopeId, pass: &PassState) -> Option<Ready> {
    let evaluation = decider.evaluation(scope);
    let output = evaluation.parameters(pass.parameters.as_ref()).and_then(|parameters| {
        let result = pass.result.as_ref().map_or(parameters, |result| Doc::Parsed(result.clone()));
        evaluation.output(result, None, &pass.result_path)
    });
    decider.conclude(scope, output, pass.transition)
}
