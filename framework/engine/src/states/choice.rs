//! Choice: goes where the first rule that holds leads.

use stagepost_asl::{ChoiceState, StateIndex, Transition};

use crate::{
    dataflow::{Evaluation, Exit},
    decide::{Decider, Ready, StateFailure},
    history::ScopeId,
};

pub(crate) fn run(decider: &mut Decider<'_>, scope: ScopeId, choice: &ChoiceState) -> Option<Ready> {
    match choose(&decider.evaluation(scope), choice) {
        Ok((exit, next)) => decider.leave(scope, exit, Transition::Next(next)),
        Err(failure) => decider.fail(scope, failure),
    }
}

fn choose(evaluation: &Evaluation<'_>, choice: &ChoiceState) -> Result<(Exit, StateIndex), StateFailure> {
    let input = evaluation.input()?.into_value();
    let rules = choice.choices.iter().map(|choice| &choice.rule);
    let (next, output, assign) = match evaluation.first_rule(rules, &input)? {
        Some(place) => {
            let chosen = &choice.choices[place];
            (chosen.next, chosen.output.as_ref(), chosen.assign.as_ref())
        }
        None => {
            let next = choice.default.ok_or_else(|| {
                // In the service's words; it does not use States.NoChoiceMatched here.
                evaluation.runtime(
                    "Failed to transition out of the state. The state does not point to a next state.",
                )
            })?;
            let (output, assign) = evaluation.own();
            (next, output, assign)
        }
    };
    Ok((evaluation.pass_on(output, assign)?, next))
}
