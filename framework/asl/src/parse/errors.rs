//! `Retry` and `Catch`.

use serde_json::Value;
use stagepost_protocol::error_names;

use super::{
    graph::Origin,
    node::{COUNT_MAX, Findings, Node},
};
use crate::{
    model::{Catcher, ErrorHandling, Retrier},
    template::Reserved,
};

/// Largest `MaxDelaySeconds`: 366 days.
const MAX_DELAY_SECONDS_MAX: u64 = 31_622_400;

/// Reads both from a state.
pub(super) fn read(found: &mut Findings, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> ErrorHandling {
    let mut handling = ErrorHandling::default();
    for rule in rules(found, node, "Retry") {
        handling.retry.extend(retrier(found, &rule));
    }
    for rule in rules(found, node, "Catch") {
        handling.catch.extend(catcher(found, origin, &rule));
    }
    handling
}

/// The elements that are objects; checks the place of `States.ALL`.
fn rules<'a>(found: &mut Findings, node: &Node<'a>, field: &str) -> Vec<Node<'a>> {
    let list = found.array(node, field).map(Vec::as_slice).unwrap_or_default();
    let mut rules = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let Some(rule) = found.object(value, format!("{}/{index}", node.at(field))) else { continue };
        if matches_all(&rule) && index + 1 < list.len() {
            let message = format!("'States.ALL' is only allowed in the last element of '{field}'");
            found.schema(rule.at("ErrorEquals"), message);
        }
        rules.push(rule);
    }
    rules
}

fn matches_all(rule: &Node<'_>) -> bool {
    let names = rule.get("ErrorEquals").and_then(Value::as_array);
    names.is_some_and(|names| names.iter().any(|name| name.as_str() == Some(error_names::ALL)))
}

fn error_equals(found: &mut Findings, rule: &Node<'_>) -> Vec<String> {
    found.required(rule, &["ErrorEquals"]);
    let Some(names) = found.filled_array(rule, "ErrorEquals") else { return Vec::new() };
    if names.len() > 1 && matches_all(rule) {
        found.schema(rule.at("ErrorEquals"), "'States.ALL' must stand alone in 'ErrorEquals'");
    }
    let mut texts = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        match name.as_str() {
            Some(text) => texts.push(text.to_owned()),
            None => {
                let pointer = format!("{}/{index}", rule.at("ErrorEquals"));
                found.wrong_type::<()>(pointer, "String");
            }
        }
    }
    texts
}

fn retrier(found: &mut Findings, rule: &Node<'_>) -> Option<Retrier> {
    const FIELDS: &[&str] = &[
        "ErrorEquals",
        "IntervalSeconds",
        "MaxAttempts",
        "BackoffRate",
        "MaxDelaySeconds",
        "JitterStrategy",
        "Comment",
    ];
    found.only(rule, &[FIELDS]);
    found.comment(rule);
    let error_equals = error_equals(found, rule);
    let interval_seconds = found.integer(rule, "IntervalSeconds", 1..=COUNT_MAX).unwrap_or(1);
    let max_attempts = found.integer(rule, "MaxAttempts", 0..=COUNT_MAX).unwrap_or(3);
    let max_delay_seconds = found.integer(rule, "MaxDelaySeconds", 1..=MAX_DELAY_SECONDS_MAX);
    if let Some(max_delay) = max_delay_seconds
        && max_delay <= interval_seconds
    {
        let message = format!(
            "MaxDelaySeconds ({max_delay}) must be greater than IntervalSeconds ({interval_seconds})"
        );
        found.schema(rule.at("MaxDelaySeconds"), message);
    }
    let full_jitter = found.one_of(rule, "JitterStrategy", &["FULL", "NONE"]) == Some("FULL");
    Some(Retrier {
        error_equals,
        interval_seconds,
        max_attempts,
        backoff_rate: backoff_rate(found, rule)?,
        max_delay_seconds,
        full_jitter,
    })
}

fn backoff_rate(found: &mut Findings, rule: &Node<'_>) -> Option<f64> {
    match rule.get("BackoffRate") {
        None => Some(2.0),
        Some(value) => match value.as_f64() {
            Some(rate) if rate >= 1.0 => Some(rate),
            Some(_) => {
                found.schema(rule.at("BackoffRate"), "Value must be greater than or equal to 1.0");
                None
            }
            None => found.wrong_type(rule.at("BackoffRate"), "Number"),
        },
    }
}

fn catcher(found: &mut Findings, origin: &mut Origin<'_, '_>, rule: &Node<'_>) -> Option<Catcher> {
    found.only(rule, &[&["ErrorEquals", "Next", "ResultPath", "Comment", "Assign", "Output"]]);
    found.comment(rule);
    let place = rule.pointer.rsplit('/').next().unwrap_or_default();
    found.reserved = Reserved { result: false, error_output: true };
    let assign = found.assign(rule, &format!("Catch[{place}]/Assign"));
    let output = found.output(rule, &format!("Catch[{place}]/Output"));
    found.reserved = Reserved::default();
    let error_equals = error_equals(found, rule);
    let result_path = found.result_path(rule);
    found.required(rule, &["Next"]);
    if !rule.has("Next") {
        origin.incomplete();
        return None;
    }
    let next = origin.target(found, rule, "Next");
    Some(Catcher { error_equals, next: next?, result_path, output, assign })
}
