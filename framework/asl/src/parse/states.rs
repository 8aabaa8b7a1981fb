//! The eight state types.

use serde_json::Value;
use stagepost_protocol::{Timestamp, signal::check_name};

use super::{
    errors,
    finding::{Severity, codes},
    graph::Origin,
    machine::Parser,
    map,
    node::{COUNT_MAX, Findings, Node, push_segment},
    resource,
};
use crate::{
    choice::Rule,
    intrinsic::Intrinsic,
    jsonata::expression,
    model::{
        Choice, ChoiceState, FailState, ParallelState, PassState, Resource, StateKind, TaskState, Text,
        Transition, WaitState, WaitUntil,
    },
    path::Path,
    template::Template,
};

/// What every state may have.
pub(super) const COMMON: &[&str] = &["Type", "Comment", "QueryLanguage"];
/// What all but Fail have.
pub(super) const PATHS: &[&str] = &["InputPath", "OutputPath", "Output"];
/// What follows.
pub(super) const FLOW: &[&str] = &["Next", "End", "Assign"];
/// What states with a result have.
pub(super) const RESULT: &[&str] = &["Parameters", "ResultPath"];
/// What states whose work may fail have, on top.
pub(super) const WORK: &[&str] = &["ResultSelector", "Retry", "Catch"];
/// What Task and Parallel states in JSONata have.
const ARGUMENTS: &[&str] = &["Arguments"];

/// The values of `Type`.
pub const TYPES: &[&str] = &["Task", "Wait", "Pass", "Succeed", "Fail", "Choice", "Parallel", "Map"];

/// Reads what is particular to the state's type.
pub(super) fn read(parser: &mut Parser, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> Option<StateKind> {
    parser.findings.required(node, &["Type"]);
    let Some(kind) = parser.findings.one_of(node, "Type", TYPES) else {
        origin.incomplete();
        return None;
    };
    match kind {
        "Task" => task(&mut parser.findings, origin, node).map(StateKind::Task),
        "Pass" => pass(&mut parser.findings, origin, node).map(StateKind::Pass),
        "Choice" => choice(&mut parser.findings, origin, node).map(StateKind::Choice),
        "Wait" => wait(&mut parser.findings, origin, node).map(StateKind::Wait),
        "Succeed" => {
            parser.findings.only(node, &[COMMON, PATHS]);
            origin.ends();
            Some(StateKind::Succeed)
        }
        "Fail" => fail(&mut parser.findings, origin, node).map(StateKind::Fail),
        "Parallel" => parallel(parser, origin, node).map(StateKind::Parallel),
        _ => map::read(parser, origin, node).map(StateKind::Map),
    }
}

/// `Next` or `End`.
pub(super) fn transition(
    found: &mut Findings,
    origin: &mut Origin<'_, '_>,
    node: &Node<'_>,
) -> Option<Transition> {
    // `"End": false` says nothing.
    let end = found.boolean(node, "End").unwrap_or(false);
    match (node.has("Next"), end) {
        (true, true) => {
            found.at_most_one(node, &["Next", "End"]);
            origin.ends();
            origin.target(found, node, "Next");
            None
        }
        (true, false) => origin.target(found, node, "Next").map(Transition::Next),
        (false, true) => {
            origin.ends();
            Some(Transition::End)
        }
        (false, false) => {
            // Where `End` is there with a wrong value, that was said already, or is `false`.
            found
                .schema(node.pointer.as_str(), "Exactly one of these fields is required: [Next, End]")
                .help = Some("name the state that follows in 'Next', or set '\"End\": true'".to_owned());
            origin.incomplete();
            None
        }
    }
}

fn task(found: &mut Findings, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> Option<TaskState> {
    const OWN: &[&str] = &[
        "Resource",
        "TimeoutSeconds",
        "TimeoutSecondsPath",
        "HeartbeatSeconds",
        "HeartbeatSecondsPath",
        "Credentials",
    ];
    found.only(node, &[COMMON, PATHS, FLOW, RESULT, WORK, ARGUMENTS, OWN]);
    found.required(node, &["Resource"]);
    let resource = task_resource(found, node);
    let timeout_seconds = found.number(node, "TimeoutSeconds", 1..=COUNT_MAX);
    let heartbeat_seconds = found.number(node, "HeartbeatSeconds", 1..=COUNT_MAX);
    let fixed = |field: &str| node.get(field).and_then(Value::as_u64);
    if let (Some(timeout), Some(heartbeat)) = (fixed("TimeoutSeconds"), fixed("HeartbeatSeconds"))
        && heartbeat >= timeout
    {
        let message =
            format!("HeartbeatSeconds ({heartbeat}) must be smaller than TimeoutSeconds ({timeout})");
        found.schema(node.at("HeartbeatSeconds"), message);
    }
    let credentials = credentials(found, node);
    let parameters = parameters(found, node);
    if resource.as_ref().is_some_and(Resource::waits_for_signal) {
        signal(found, node);
    }
    let result_selector = found.template(node, "ResultSelector");
    let result_path = found.result_path(node);
    let errors = errors::read(found, origin, node);
    let transition = transition(found, origin, node);
    Some(TaskState {
        resource: resource?,
        credentials,
        parameters,
        result_selector,
        result_path,
        timeout_seconds,
        heartbeat_seconds,
        errors,
        transition: transition?,
    })
}

/// What is particular to a task that waits for a signal.
fn signal(found: &mut Findings, node: &Node<'_>) {
    let (field, names): (_, &[&str]) =
        if found.is_jsonata() { ("Arguments", &["Name"]) } else { ("Parameters", &["Name", "Name.$"]) };
    found.required(node, &[field]);
    // In JSONata they may be one expression.
    if let Some(fields @ Value::Object(_)) = node.get(field)
        && let Some(parameters) = found.object(fields, node.at(field))
    {
        found.only(&parameters, &[names]);
        found.exactly_one(&parameters, names);
        if let Some(name) = found.string(&parameters, "Name")
            && expression(name).is_none()
            && let Err(error) = check_name(name)
        {
            found.schema(parameters.at("Name"), error.to_string());
        }
    }
    for field in ["HeartbeatSeconds", "HeartbeatSecondsPath"] {
        if node.has(field) {
            let message =
                format!("A task that waits for a signal gets no heartbeats: '{field}' would end it");
            found.schema(node.at(field), message).help = Some("use TimeoutSeconds".to_owned());
        }
    }
}

/// `Parameters`, or `Arguments` in JSONata.
pub(super) fn parameters(found: &mut Findings, node: &Node<'_>) -> Option<Template> {
    found.template(node, if found.is_jsonata() { "Arguments" } else { "Parameters" })
}

fn task_resource(found: &mut Findings, node: &Node<'_>) -> Option<Resource> {
    let arn = found.string(node, "Resource")?;
    match resource::parse(arn) {
        Ok(resource) => {
            if let Resource::Service { service, .. } = &resource
                && !resource::is_known_service(service)
            {
                let message = format!("'{service}' is not a service that is known to be offered");
                found.add(Severity::Warning, codes::UNKNOWN_SERVICE, node.at("Resource"), message);
            }
            Some(resource)
        }
        Err(help) => {
            let message = format!(
                "The resource provided {arn} is not recognized. The value is not a valid resource ARN, or the resource \
                 is not available in this region."
            );
            found.schema(node.at("Resource"), message).help = Some(help);
            None
        }
    }
}

fn credentials(found: &mut Findings, node: &Node<'_>) -> Option<Template> {
    let credentials = found.object_field(node, "Credentials")?;
    found.only(&credentials, &[&["RoleArn", "RoleArn.$"]]);
    match found.at_most_one(&credentials, &["RoleArn", "RoleArn.$"]) {
        0 => {
            let message = "The field 'RoleArn' is required but was missing";
            found.schema(credentials.pointer, message);
            None
        }
        _ => found.template(node, "Credentials"),
    }
}

fn pass(found: &mut Findings, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> Option<PassState> {
    found.only(node, &[COMMON, PATHS, FLOW, RESULT, &["Result"]]);
    let result = node.get("Result").cloned();
    if let Some(result) = &result {
        warn_about_paths(found, result, &mut node.at("Result"));
    }
    let parameters = found.template(node, "Parameters");
    let result_path = found.result_path(node);
    let transition = transition(found, origin, node);
    Some(PassState { result, parameters, result_path, transition: transition? })
}

/// `Result` is taken as it stands: a field in it that asks for a path gets none.
fn warn_about_paths(found: &mut Findings, value: &Value, pointer: &mut String) {
    let length = pointer.len();
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        push_segment(pointer, name);
        if name.ends_with(".$") {
            let message = format!("The value of '{name}' in a Result is not evaluated");
            found.add(Severity::Warning, codes::STATIC_RESULT, pointer.as_str(), message).help =
                Some("use Parameters instead of Result".to_owned());
        }
        warn_about_paths(found, value, pointer);
        pointer.truncate(length);
    }
}

fn choice(found: &mut Findings, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> Option<ChoiceState> {
    found.only(node, &[COMMON, PATHS, &["Choices", "Default", "Assign"]]);
    found.required(node, &["Choices"]);
    let list = found.filled_array(node, "Choices");
    if list.is_none() {
        origin.incomplete();
    }
    let mut choices = Vec::new();
    for (index, value) in list.into_iter().flatten().enumerate() {
        let pointer = format!("{}/{index}", node.at("Choices"));
        let Some(rule_node) = found.object(value, pointer) else {
            origin.incomplete();
            continue;
        };
        let rule = Rule::read(found, &rule_node);
        found.required(&rule_node, &["Next"]);
        if !rule_node.has("Next") {
            origin.incomplete();
            continue;
        }
        let next = origin.target(found, &rule_node, "Next");
        let assign = found.assign(&rule_node, &format!("Choices[{index}]/Assign"));
        let output = found.output(&rule_node, &format!("Choices[{index}]/Output"));
        choices.extend(rule.zip(next).map(|(rule, next)| Choice { rule, next, output, assign }));
    }
    let default = node.has("Default").then(|| origin.target(found, node, "Default")).flatten();
    Some(ChoiceState { choices, default })
}

fn wait(found: &mut Findings, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> Option<WaitState> {
    const UNTIL: &[&str] = &["Seconds", "SecondsPath", "Timestamp", "TimestampPath"];
    found.only(node, &[COMMON, PATHS, FLOW, UNTIL]);
    found.exactly_one(node, UNTIL);
    if found.has_query(node, "Seconds") || found.has_query(node, "Timestamp") {
        let seconds = found.has_query(node, "Seconds");
        let field = if seconds { "Seconds" } else { "Timestamp" };
        let make = if seconds { WaitUntil::SecondsQuery } else { WaitUntil::TimestampQuery };
        let until = found.query(node, field, field).map(make);
        let transition = transition(found, origin, node);
        return Some(WaitState { until: until?, transition: transition? });
    }
    let seconds = found.integer(node, "Seconds", 0..=COUNT_MAX).map(WaitUntil::Seconds);
    let timestamp = found.string(node, "Timestamp").and_then(|text| {
        let timestamp = Timestamp::parse_rfc3339(text);
        if timestamp.is_none() {
            found.schema(node.at("Timestamp"), "String does not match RFC3339 timestamp").help =
                Some("for instance 2026-11-22T17:00:00Z".to_owned());
        }
        timestamp.map(WaitUntil::Timestamp)
    });
    let seconds_path = found.single_path(node, "SecondsPath").map(WaitUntil::SecondsPath);
    let timestamp_path = found.single_path(node, "TimestampPath").map(WaitUntil::TimestampPath);
    let transition = transition(found, origin, node);
    let until = seconds.or(timestamp).or(seconds_path).or(timestamp_path);
    Some(WaitState { until: until?, transition: transition? })
}

fn fail(found: &mut Findings, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> Option<FailState> {
    found.only(node, &[COMMON, &["Error", "ErrorPath", "Cause", "CausePath"]]);
    origin.ends();
    let error = text(found, node, "Error", "ErrorPath");
    let cause = text(found, node, "Cause", "CausePath");
    Some(FailState { error, cause })
}

/// `Error` or `ErrorPath`, and the like for `Cause`.
fn text(found: &mut Findings, node: &Node<'_>, field: &str, path_field: &str) -> Option<Text> {
    if found.has_query(node, field) {
        return found.query(node, field, field).map(Text::Query);
    }
    found.at_most_one(node, &[field, path_field]);
    found.warn_about_missing_path(node, field);
    let fixed = found.string(node, field).map(|text| Text::Fixed(text.to_owned()));
    let source = found.string(node, path_field);
    let computed = source.and_then(|source| {
        let compiled = if source.starts_with('$') {
            Path::parse(source).map(Text::Path)
        } else {
            Intrinsic::parse(source).map(Text::Intrinsic)
        };
        match compiled {
            Ok(text) => Some(text),
            Err(why) => {
                let message = format!(
                    "The value for the field '{path_field}' must be a valid JSONPath or a valid intrinsic function call"
                );
                found.schema(node.at(path_field), message).help = Some(why);
                None
            }
        }
    });
    fixed.or(computed)
}

fn parallel(parser: &mut Parser, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> Option<ParallelState> {
    let found = &mut parser.findings;
    found.only(node, &[COMMON, PATHS, FLOW, RESULT, WORK, ARGUMENTS, &["Branches"]]);
    found.required(node, &["Branches"]);
    let parameters = parameters(found, node);
    let result_selector = found.template(node, "ResultSelector");
    let result_path = found.result_path(node);
    let errors = errors::read(found, origin, node);
    let transition = transition(found, origin, node);
    let list = found.filled_array(node, "Branches");
    let mut branches = Some(Vec::new());
    for (index, value) in list.into_iter().flatten().enumerate() {
        let branch = parser.findings.object(value, format!("{}/{index}", node.at("Branches")));
        let start = branch.and_then(|branch| {
            parser.findings.only(&branch, &[&["StartAt", "States", "Comment"]]);
            parser.findings.comment(&branch);
            parser.scope(&branch)
        });
        branches = branches.zip(start).map(|(mut all, start)| {
            all.push(start);
            all
        });
    }
    Some(ParallelState {
        branches: branches?,
        parameters,
        result_selector,
        result_path,
        errors,
        transition: transition?,
    })
}
