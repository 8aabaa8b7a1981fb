//! Fail: ends its scope with an error.

use serde_json::Value;
use stagepost_asl::{FailState, Text};

use crate::{
    dataflow::Evaluation,
    decide::{Decider, Ready, StateFailure},
    history::{Failure, ScopeId},
};

pub(crate) fn run(decider: &mut Decider<'_>, scope: ScopeId, fail: &FailState) -> Option<Ready> {
    let evaluation = decider.evaluation(scope);
    let failure = failure(&evaluation, fail).unwrap_or_else(|failure| failure);
    decider.fail(scope, failure)
}

/// Both ways this is how the state fails; `Err` where its fields could not be evaluated.
pub(crate) fn failure(evaluation: &Evaluation<'_>, fail: &FailState) -> Result<StateFailure, StateFailure> {
    let error = fail.error.as_ref().map(|text| evaluate(evaluation, text, "Error")).transpose()?;
    let cause = fail.cause.as_ref().map(|text| evaluate(evaluation, text, "Cause")).transpose()?;
    Ok(Failure::bounded(error, cause).into())
}

fn evaluate(evaluation: &Evaluation<'_>, text: &Text, field: &str) -> Result<String, StateFailure> {
    let value = match text {
        Text::Fixed(text) => return Ok(text.clone()),
        Text::Path(path) => {
            let input = evaluation.input()?.into_value();
            evaluation.select_for(path, &format!("{field}Path"), &input)?
        }
        Text::Intrinsic(call) => {
            let input = evaluation.input()?.into_value();
            evaluation.intrinsic(call, &input)?
        }
        Text::Query(query) => evaluation.query_for(query, field, "string")?,
    };
    match value {
        Value::String(text) => Ok(text),
        other => {
            Err(evaluation.runtime(&format!("The {field}Path field must refer to a string but was: {other}")))
        }
    }
}
