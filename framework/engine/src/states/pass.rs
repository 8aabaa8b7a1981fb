//! Pass: hands its input on, or a result.

use stagepost_asl::PassState;

use crate::{
    dataflow::{Doc, Evaluation, Exit},
    decide::{Decider, Ready, StateFailure},
    history::ScopeId,
    observe::Stage,
};

pub(crate) fn run(decider: &mut Decider<'_>, scope: ScopeId, pass: &PassState) -> Option<Ready> {
    let output = exit(&decider.evaluation(scope), pass);
    decider.conclude(scope, output, pass.transition)
}

pub(crate) fn exit(evaluation: &Evaluation<'_>, pass: &PassState) -> Result<Exit, StateFailure> {
    let parameters = evaluation.parameters(pass.parameters.as_ref())?;
    let result = pass.result.as_ref().map_or(parameters, |result| Doc::Parsed(result.clone()));
    evaluation.show(Stage::Result, || result.shown());
    evaluation.output(result, None, &pass.result_path)
}
