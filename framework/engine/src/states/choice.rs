//! Choice: goes where the first rule that holds leads.

use stagepost_asl::{ChoiceState, StateIndex, Transition};

use crate::{
    command::Way,
    dataflow::{Evaluation, Exit},
    decide::{Decider, Ready, StateFailure},
    history::ScopeId,
};

pub(crate) fn run(decider: &mut Decider<'_>, scope: ScopeId, choice: &ChoiceState) -> Option<Ready> {
    let (way, chosen) = choose(&decider.evaluation(scope), choice);
    if let Some(way) = way {
        decider.take(scope, way);
    }
    match chosen {
        Ok((exit, next)) => decider.leave(scope, exit, Transition::Next(next)),
        Err(failure) => decider.fail(scope, failure),
    }
}

pub(crate) type Chosen = Result<(Exit, StateIndex), StateFailure>;

/// The way, if the rules could be evaluated, and what it leads to.
pub(crate) fn choose(evaluation: &Evaluation<'_>, choice: &ChoiceState) -> (Option<Way>, Chosen) {
    let rules = choice.choices.iter().map(|choice| &choice.rule);
    let first = evaluation.input().and_then(|input| evaluation.first_rule(rules, &input.into_value()));
    let place = match first {
        Ok(place) => place,
        Err(failure) => return (None, Err(failure)),
    };
    let (way, next, output, assign) = match (place, choice.default) {
        (Some(place), _) => {
            let chosen = &choice.choices[place];
            let way = Way::Rule(u32::try_from(place).unwrap_or(u32::MAX));
            (way, chosen.next, chosen.output.as_ref(), chosen.assign.as_ref())
        }
        (None, Some(next)) => {
            let (output, assign) = evaluation.own();
            (Way::Default, next, output, assign)
        }
        (None, None) => {
            // In the service's words; it does not use States.NoChoiceMatched here.
            let cause = "Failed to transition out of the state. The state does not point to a next state.";
            return (Some(Way::NoDefault), Err(evaluation.runtime(cause)));
        }
    };
    (Some(way), evaluation.pass_on(output, assign).map(|exit| (exit, next)))
}
