//! Wait: lets time pass.

use serde_json::Value;
use stagepost_asl::{WaitState, WaitUntil, path::Path};
use stagepost_protocol::Timestamp;

use crate::{
    dataflow::Evaluation,
    decide::{Decider, Ready, StateFailure},
    history::{EventKind, ScopeId},
};

/// The longest wait that the service takes, about 68 years.
const WAIT_SECONDS_MAX: i64 = i32::MAX as i64;

pub(crate) fn begin(decider: &mut Decider<'_>, scope: ScopeId, wait: &WaitState) -> Option<Ready> {
    let now = decider.now();
    match until(&decider.evaluation(scope), wait, now) {
        Ok(until) if until <= now => elapsed(decider, scope, wait),
        Ok(until) => {
            decider.emit_next(scope, EventKind::WaitScheduled { until });
            None
        }
        Err(failure) => decider.fail(scope, failure),
    }
}

pub(crate) fn elapsed(decider: &mut Decider<'_>, scope: ScopeId, wait: &WaitState) -> Option<Ready> {
    let evaluation = decider.evaluation(scope);
    let (output, assign) = evaluation.own();
    let exit = evaluation.pass_on(output, assign);
    decider.conclude(scope, exit, wait.transition)
}

pub(crate) fn until(
    evaluation: &Evaluation<'_>,
    wait: &WaitState,
    now: Timestamp,
) -> Result<Timestamp, StateFailure> {
    let until = match &wait.until {
        WaitUntil::Seconds(seconds) => after(evaluation, now, i64::try_from(*seconds).unwrap_or(i64::MAX))?,
        WaitUntil::SecondsPath(path) => {
            let value = find(evaluation, path, "SecondsPath")?;
            let seconds = value.as_i64().ok_or_else(|| {
                let shown = shown(&value);
                let source = path.source();
                evaluation.runtime(&format!(
                    "The SecondsPath parameter cannot be parsed as a long value: {source} == {shown}"
                ))
            })?;
            if seconds < 0 {
                let source = path.source();
                return Err(evaluation.runtime(&format!(
                    "The SecondsPath parameter references a negative value: {source} == {seconds}"
                )));
            }
            after(evaluation, now, seconds)?
        }
        WaitUntil::SecondsQuery(query) => {
            let value = evaluation.query_for(query, "Seconds", "number")?;
            let seconds = value.as_i64().filter(|seconds| *seconds >= 0).ok_or_else(|| {
                let cause = format!("The Seconds field must be a non-negative integer but was: {value}");
                evaluation.useless("Seconds", &cause)
            })?;
            after(evaluation, now, seconds)?
        }
        WaitUntil::TimestampQuery(query) => {
            let value = evaluation.query_for(query, "Timestamp", "string")?;
            value.as_str().and_then(Timestamp::parse_rfc3339).ok_or_else(|| {
                let cause = format!(
                    "The Timestamp field cannot be parsed as an ISO-8601 extended offset date-time format \
                     string: {}",
                    shown(&value)
                );
                evaluation.useless("Timestamp", &cause)
            })?
        }
        WaitUntil::Timestamp(until) => *until,
        WaitUntil::TimestampPath(path) => {
            let value = find(evaluation, path, "TimestampPath")?;
            value.as_str().and_then(Timestamp::parse_rfc3339).ok_or_else(|| {
                let (source, shown) = (path.source(), shown(&value));
                evaluation.runtime(&format!(
                    "The TimestampPath parameter does not reference a valid ISO-8601 extended offset date-time \
                     format string: {source} == {shown}"
                ))
            })?
        }
    };
    if until.millis_since(now) > WAIT_SECONDS_MAX * 1000 {
        return Err(too_long(evaluation));
    }
    Ok(until)
}

fn after(evaluation: &Evaluation<'_>, now: Timestamp, seconds: i64) -> Result<Timestamp, StateFailure> {
    if seconds > WAIT_SECONDS_MAX { Err(too_long(evaluation)) } else { Ok(now.plus_millis(seconds * 1000)) }
}

fn too_long(evaluation: &Evaluation<'_>) -> StateFailure {
    evaluation.runtime("Wait state delay is too long.")
}

fn find(evaluation: &Evaluation<'_>, path: &Path, field: &str) -> Result<Value, StateFailure> {
    let input = evaluation.input()?.into_value();
    evaluation.find(path, &input).ok_or_else(|| {
        let source = path.source();
        evaluation.runtime(&format!("The {field} parameter does not reference an input value: {source}"))
    })
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
