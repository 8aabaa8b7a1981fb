//! Warnings about what is correct, but probably not as meant.

use std::collections::HashSet;

use stagepost_protocol::error_names;

use super::{
    finding::{Severity, codes},
    node::Findings,
};
use crate::model::{
    ErrorHandling, FailState, IntegrationPattern, Resource, State, StateKind, TaskState, Text,
};

/// Looks at each state of a machine.
pub(super) fn check(found: &mut Findings, states: &[State]) {
    let raised: HashSet<&str> = states.iter().filter_map(raises).collect();
    for state in states {
        match &state.kind {
            StateKind::Task(task) => {
                waits(found, state, task);
                errors(found, state, &task.errors, &raised);
            }
            StateKind::Parallel(parallel) => errors(found, state, &parallel.errors, &raised),
            StateKind::Map(map) => errors(found, state, &map.errors, &raised),
            StateKind::Choice(choice) if choice.default.is_none() => {
                let message =
                    "Without 'Default', data that no rule matches fails with States.NoChoiceMatched";
                let help = "name the state that follows then in 'Default'";
                warn(found, codes::MISSING_DEFAULT, state.pointer.as_str(), message, help);
            }
            _ => {}
        }
    }
}

/// The error that a Fail state ends with.
fn raises(state: &State) -> Option<&str> {
    match &state.kind {
        StateKind::Fail(FailState { error: Some(Text::Fixed(error)), .. }) => Some(error),
        _ => None,
    }
}

fn warn(found: &mut Findings, code: &'static str, pointer: &str, message: &str, help: &str) {
    found.add(Severity::Warning, code, pointer, message).help = Some(help.to_owned());
}

/// A task that waits for somebody's answer.
fn waits(found: &mut Findings, state: &State, task: &TaskState) {
    let by_token =
        matches!(&task.resource, Resource::Service { pattern: IntegrationPattern::WaitForTaskToken, .. });
    if !by_token && !task.resource.waits_for_signal() {
        return;
    }
    let pointer = state.pointer.as_str();
    if task.timeout_seconds.is_none() && task.heartbeat_seconds.is_none() {
        let message = "This task waits for an answer that may never come: it has no time limit";
        let help = "set TimeoutSeconds, and catch States.Timeout";
        warn(found, codes::NO_TIMEOUT, pointer, message, help);
    }
    // A parameter that is the whole context, or a part of it, may well hold the token.
    let told = task.parameters.as_ref().is_some_and(|parameters| {
        let text = parameters.source().to_string();
        ["$$.Task", "\"$$\"", "$$[", "$$,", "$$)", "$states.context", "$states %"]
            .iter()
            .any(|part| text.contains(part))
    });
    // An approval is answered by its id.
    if by_token && !told && !task.resource.asks_for_approval() {
        let message = "Nobody is told the token that completes this task";
        let help =
            "put the token into the parameters: $$.Task.Token, or $states.context.Task.Token in JSONata";
        warn(found, codes::NO_TASK_TOKEN, pointer, message, help);
    }
}

/// Names of errors that do not exist, and rules that never apply because an earlier one does.
fn errors(found: &mut Findings, state: &State, handling: &ErrorHandling, raised: &HashSet<&str>) {
    let retry = handling.retry.iter().map(|rule| &rule.error_equals);
    let catch = handling.catch.iter().map(|rule| &rule.error_equals);
    rules(found, &format!("{}/Retry", state.pointer), retry, raised);
    rules(found, &format!("{}/Catch", state.pointer), catch, raised);
}

fn rules<'a>(
    found: &mut Findings,
    pointer: &str,
    rules: impl Iterator<Item = &'a Vec<String>>,
    raised: &HashSet<&str>,
) {
    let mut earlier: HashSet<&str> = HashSet::new();
    for (index, names) in rules.enumerate() {
        for (place, name) in names.iter().enumerate() {
            let at = || format!("{pointer}/{index}/ErrorEquals/{place}");
            if earlier.contains(name.as_str()) {
                let message = format!("An earlier rule has '{name}' already: this one never sees it");
                found.add(Severity::Warning, codes::UNREACHABLE_RULE, at(), message);
            } else if name.starts_with("States.")
                && !error_names::is_reserved(name)
                && !raised.contains(name.as_str())
            {
                let help = found.near_match(name, error_names::RESERVED);
                let message =
                    format!("'{name}' is no error of the language: names in 'States.' are reserved");
                found.add(Severity::Warning, codes::UNKNOWN_ERROR, at(), message).help = help;
            }
        }
        earlier.extend(names.iter().map(String::as_str));
    }
}
