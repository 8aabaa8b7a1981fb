//! Map: runs its iterations, each in a scope of its own, so many at a time.

use std::sync::Arc;

use serde_json::Value;
use stagepost_asl::{DataPath, MapState, Number, Percentage, StateKind};
use stagepost_protocol::{Payload, error_names};

use crate::{
    command::Env,
    dataflow::{Doc, Evaluation},
    decide::{Decider, Ready, StateFailure},
    execution::Execution,
    history::{EventKind, ScopeId, StateType},
};

/// So many iterations begin before the first of them is entered.
const ITERATIONS_AT_ONCE: usize = 1024;

/// The array of the results, in order; nothing is parsed for it.
pub(crate) fn join<'p>(results: impl Iterator<Item = &'p Payload>) -> Doc {
    let mut text = String::from("[");
    for (i, result) in results.enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(result.as_str());
    }
    text.push(']');
    Doc::Text(Payload::parse(&text).expect("an array of JSON documents is one"))
}

/// The items of the Map state that a scope is in.
pub(crate) fn items(
    execution: &Execution,
    scope: ScopeId,
    env: &Env<'_>,
) -> Result<Arc<Vec<Payload>>, StateFailure> {
    let step = execution.live.scope(scope).and_then(|s| s.step());
    let step =
        step.ok_or_else(|| StateFailure::new(error_names::RUNTIME, "No Map state runs.".to_owned()))?;
    if let Some(items) = execution.live.kept_items(scope) {
        return Ok(Arc::clone(items));
    }
    let given = execution.live.scope(scope).and_then(|s| s.children()).and_then(|c| c.given.as_ref());
    if let Some(Ok(items)) = given.map(Payload::read::<Vec<Payload>>) {
        return Ok(Arc::new(items));
    }
    let state = execution.definition().state(step.state());
    let evaluation = Evaluation::new(execution, scope, step, state, env);
    let StateKind::Map(map) = &state.kind else {
        return Err(evaluation.runtime("No Map state runs."));
    };
    if map.items_path.is_none()
        && map.items.is_none()
        && matches!(state.input_path, DataPath::Whole)
        && let Ok(items) = step.input.read::<Vec<Payload>>()
    {
        return Ok(Arc::new(items));
    }
    match found_items(&evaluation, map, false)? {
        Value::Array(items) => Ok(Arc::new(items.iter().map(Payload::from_value).collect())),
        other => Err(evaluation.no_array(&other)),
    }
}

/// What the state's `Items`, `ItemsPath` or input are: an array or, where they are allowed, an object. The service takes
/// objects in distributed mode only.
pub(crate) fn found_items(
    evaluation: &Evaluation<'_>,
    map: &MapState,
    objects: bool,
) -> Result<Value, StateFailure> {
    let input = evaluation.input()?.into_value();
    let found = match (&map.items_path, &map.items) {
        (_, Some(query)) => {
            let found = evaluation.query_items(query, objects)?;
            evaluation.bounded(Doc::Parsed(found.clone()))?;
            found
        }
        (Some(path), None) => match evaluation.find(path, &input) {
            Some(found @ Value::Object(_)) if objects => found,
            _ => evaluation.select_items(path, &input)?,
        },
        (None, None) => input,
    };
    match found {
        Value::Array(_) => Ok(found),
        Value::Object(_) if objects => Ok(found),
        other => Err(evaluation.no_array(&other)),
    }
}

pub(crate) fn begin(decider: &mut Decider<'_>, scope: ScopeId, map: &MapState) -> Option<Ready> {
    let prepared = items(decider.execution, scope, decider.env)
        .and_then(|items| Ok((items, max_concurrency(&decider.evaluation(scope), map)?)));
    let (items, max_concurrency) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return decider.fail(scope, failure),
    };
    let total = items.len();
    // The service looks at the tolerated failures after it has announced the start. They are in this event, so a
    // failure to evaluate them follows it.
    let tolerated = tolerated_failures(&decider.evaluation(scope), map, total);
    let started = EventKind::MapStateStarted {
        length: u32::try_from(total).unwrap_or(u32::MAX),
        max_concurrency,
        tolerated_failures: tolerated.as_ref().ok().copied().flatten(),
        items: map.items.as_ref().map(|_| join(items.iter()).into_payload()),
    };
    decider.emit_next(scope, started);
    if let Err(failure) = tolerated {
        return decider.fail(scope, failure);
    }
    if total == 0 {
        return complete(decider, scope, map);
    }
    decider.execution.live.keep_items(scope, items);
    start_iterations(decider, scope, map)
}

pub(crate) fn max_concurrency(evaluation: &Evaluation<'_>, map: &MapState) -> Result<u32, StateFailure> {
    let Some(number) = &map.max_concurrency else { return Ok(0) };
    let number = match number {
        Number::Fixed(number) => i64::try_from(*number).unwrap_or(i64::MAX),
        Number::Path(_) | Number::Query(_) => {
            evaluation.whole_number(number, "MaxConcurrency", &evaluation.input()?.into_value())?
        }
    };
    if number < 0 {
        return Err(evaluation.runtime("MaxConcurrency cannot be negative."));
    }
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

fn tolerated_failures(
    evaluation: &Evaluation<'_>,
    map: &MapState,
    total: usize,
) -> Result<Option<u32>, StateFailure> {
    if map.tolerated_failure_count.is_none() && map.tolerated_failure_percentage.is_none() {
        return Ok(None);
    }
    let input = evaluation.input()?.into_value();
    let count = tolerated_count(evaluation, map, &input)?.unwrap_or(u32::MAX);
    let percentage = tolerated_percentage(evaluation, map, &input)?;
    let by_percentage = percentage.map(|percentage| (percentage / 100.0 * total as f64) as u32);
    Ok(Some(count.min(by_percentage.unwrap_or(u32::MAX))))
}

pub(crate) fn tolerated_count(
    evaluation: &Evaluation<'_>,
    map: &MapState,
    input: &Value,
) -> Result<Option<u32>, StateFailure> {
    let Some(count) = &map.tolerated_failure_count else { return Ok(None) };
    let count = evaluation.whole_number(count, "ToleratedFailureCount", input)?;
    if count < 0 {
        return Err(evaluation.runtime("ToleratedFailureCount cannot be negative."));
    }
    Ok(Some(u32::try_from(count).unwrap_or(u32::MAX)))
}

pub(crate) fn tolerated_percentage(
    evaluation: &Evaluation<'_>,
    map: &MapState,
    input: &Value,
) -> Result<Option<f64>, StateFailure> {
    const FIELD: &str = "ToleratedFailurePercentage";
    let percentage = match &map.tolerated_failure_percentage {
        None => return Ok(None),
        Some(Percentage::Fixed(percentage)) => *percentage,
        Some(Percentage::Query(query)) => {
            evaluation.query_for(query, FIELD, "number")?.as_f64().unwrap_or(f64::NAN)
        }
        Some(Percentage::Path(path)) => {
            let value = evaluation.select(path, input)?;
            value.as_f64().ok_or_else(|| evaluation.not_a_number(FIELD, "float", &value, path))?
        }
    };
    if !(0.0..=100.0).contains(&percentage) {
        return Err(evaluation.runtime("ToleratedFailurePercentage must be between 0 and 100."));
    }
    Ok(Some(percentage))
}

/// Starts as many iterations as may run now.
pub(crate) fn start_iterations(decider: &mut Decider<'_>, scope: ScopeId, map: &MapState) -> Option<Ready> {
    let children = decider.scope(scope).children()?;
    let unstarted = children.total - children.next_index;
    let free = match children.max_concurrency {
        0 => u32::MAX,
        max => max.saturating_sub(u32::try_from(children.open.len()).unwrap_or(u32::MAX)),
    };
    let wanted = unstarted.min(free) as usize;
    if wanted == 0 {
        return None;
    }
    if decider.is_long() {
        decider.emit_next(scope, EventKind::MapPaused);
        return None;
    }
    let (first, follows) = (children.next_index, children.follows);
    let mut inputs = Vec::with_capacity(wanted.min(ITERATIONS_AT_ONCE));
    for index in (first..).take(wanted.min(ITERATIONS_AT_ONCE)) {
        match iteration_input(decider, scope, map, index) {
            Ok(input) => inputs.push(input),
            Err(failure) => {
                let chain = decider.scope(scope).chain;
                decider.abort_children(scope, chain);
                return decider.fail_after(scope, chain, failure);
            }
        }
    }
    let name = Arc::clone(&decider.state(scope).name);
    let rest = wanted - inputs.len();
    for (index, input) in (first..).zip(inputs) {
        decider.emit(scope, follows, EventKind::MapIterationStarted { name: Arc::clone(&name), index });
        let child = decider.scope(scope).children().and_then(|c| c.open.last().copied());
        let child = child.expect("the iteration that began is open");
        decider.go_on_later(Ready::Enter { scope: child, state: map.start_at, input });
    }
    if rest > 0 {
        decider.emit_next(scope, EventKind::MapPaused);
    }
    None
}

pub(crate) fn iteration_input(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    map: &MapState,
    index: u32,
) -> Result<Payload, StateFailure> {
    let items = items(decider.execution, scope, decider.env)?;
    if decider.execution.live.kept_items(scope).is_none() {
        decider.execution.live.keep_items(scope, Arc::clone(&items));
    }
    let item = &items[index as usize];
    if map.item_selector.is_none() {
        return Ok(item.clone());
    }
    let evaluation = decider.evaluation(scope).with_item(index, item);
    let input = evaluation.fill(map.item_selector.as_ref(), evaluation.input()?)?;
    evaluation.bounded(input)
}

/// The last state of an iteration was left.
pub(crate) fn iteration_succeeded(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    iteration: ScopeId,
    map: &MapState,
) -> Option<Ready> {
    let index = decider.scope(iteration).index;
    let name = Arc::clone(&decider.state(scope).name);
    decider.emit_next(iteration, EventKind::MapIterationSucceeded { name, index });
    go_on(decider, scope, map)
}

/// After an iteration: others begin, or the state is complete.
fn go_on(decider: &mut Decider<'_>, scope: ScopeId, map: &MapState) -> Option<Ready> {
    let done = decider.scope(scope).children().is_some_and(|c| c.done == c.total);
    if done { complete(decider, scope, map) } else { start_iterations(decider, scope, map) }
}

fn complete(decider: &mut Decider<'_>, scope: ScopeId, map: &MapState) -> Option<Ready> {
    let results = join(decider.scope(scope).children().iter().flat_map(|c| c.results.iter().flatten()));
    decider.emit_next(scope, EventKind::MapStateSucceeded);
    let output = decider.evaluation(scope).output(results, map.result_selector.as_ref(), &map.result_path);
    decider.conclude(scope, output, map.transition)
}

/// An iteration failed: that is tolerated, or the others are aborted and the state fails.
pub(crate) fn iteration_failed(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    iteration: ScopeId,
    map: &MapState,
    failure: StateFailure,
) -> Option<Ready> {
    let (index, chain) = (decider.scope(iteration).index, decider.scope(iteration).chain);
    let name = Arc::clone(&decider.state(scope).name);
    let limits = decider.scope(scope).children().map(|c| (c.failed, c.tolerated_failures));
    let (failed, tolerated) = limits.unwrap_or_default();
    let is_tolerated = tolerated.is_some_and(|max| failed < max);
    let aborted = matches!(decider.state(iteration).kind, StateKind::Task(_) | StateKind::Wait(_))
        .then(|| StateType::of(&decider.state(iteration).kind));
    let result = is_tolerated.then(|| failure.output().into_payload());
    decider.emit(iteration, chain, EventKind::MapIterationFailed { name, index, result });
    if let Some(state_type) = aborted {
        decider.emit(scope, chain, EventKind::StateAborted { state_type });
    }
    if is_tolerated {
        return go_on(decider, scope, map);
    }
    decider.abort_children(scope, chain);
    let failure = match tolerated {
        None => failure,
        Some(_) => too_many_failed(),
    };
    decider.fail_after(scope, chain, failure)
}

/// More iterations failed than are tolerated.
pub(crate) fn too_many_failed() -> StateFailure {
    StateFailure::new(
        error_names::EXCEED_TOLERATED_FAILURE_THRESHOLD,
        "The specified tolerated failure threshold was exceeded".to_owned(),
    )
}
