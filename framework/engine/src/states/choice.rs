//! Choice: goes where the first rule that holds leads.

use stagepost_asl::{ChoiceState, StateIndex, Transition};
use stagepost_protocol::Payload;

use crate::{
    dataflow::Evaluation,
    decide::{Decider, Ready, StateFailure},
    history::ScopeId,
};

pub(crate) fn run(decider: &mut Decider<'_>, scope: ScopeId, choice: &ChoiceState) -> Option<Ready> {
    match choose(&decider.evaluation(scope), choice) {
        Ok((output, next)) => decider.leave(scope, output, Transition::Next(next)),
        Err(failure) => decider.fail(scope, failure),
    }
}

fn choose(evaluation: &Evaluation<'_>, choice: &ChoiceState) -> Result<(Payload, StateIndex), StateFailure> {
    let input = evaluation.input()?;
    let value = input.clone().into_value();
    let rules = choice.choices.iter().map(|(rule, _)| rule);
    let next = match evaluation.first_rule(rules, &value)? {
        Some(place) => choice.choices[place].1,
        None => choice.default.ok_or_else(|| {
            // In the service's words; it does not use States.NoChoiceMatched here.
            evaluation
                .runtime("Failed to transition out of the state. The state does not point to a next state.")
        })?,
    };
    let output = evaluation.bounded(evaluation.through_output_path(input)?)?;
    Ok((output, next))
}
