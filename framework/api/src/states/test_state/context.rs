//! The context object of a state that is tried on its own.

use serde_json::{Map, Value, json};
use stagepost_asl::{Resource, State, StateKind, StateMachine};
use stagepost_engine::Origin;
use stagepost_protocol::IntegrationPattern;

/// The name of the state in the context object, whatever it is called in its definition: recorded from the service.
const STATE_NAME: &str = stagepost_asl::LONE_STATE;

/// The context object where the request gives none.
pub(super) fn default(
    machine: &StateMachine,
    state: &State,
    origin: &Origin,
    role_arn: Option<&str>,
    retries: u32,
) -> Value {
    let (namespace, execution) = (&origin.arn.namespace, &origin.arn.name);
    let name = &origin.state_machine.name;
    let id = format!("arn:aws:states:{}:{}:express:{name}:{execution}", namespace.region, namespace.account);
    let started = origin.started_at.to_string();
    let mut context = json!({
        "Execution": {
            "Id": id,
            "Input": origin.input.to_value(),
            "Name": execution,
            "RoleArn": role_arn,
            "StartTime": started,
        },
        "StateMachine": { "Id": origin.state_machine.to_string(), "Name": name },
        "State": { "Name": STATE_NAME, "EnteredTime": started },
    });
    if matches!(state.kind, StateKind::Task(_) | StateKind::Parallel(_) | StateKind::Map(_)) {
        context["State"]["RetryCount"] = retries.into();
    }
    if in_map(machine, state) {
        context["Map"] = json!({ "Item": { "Index": 0, "Value": origin.input.to_value() } });
    }
    context
}

/// Whether the state belongs to the iterations of a Map state.
fn in_map(machine: &StateMachine, state: &State) -> bool {
    let mut maps = machine.states.iter().filter(|s| matches!(s.kind, StateKind::Map(_)));
    maps.any(|map| state.pointer.strip_prefix(map.pointer.as_str()).is_some_and(|rest| rest.starts_with('/')))
}

/// A field and what it may hold.
enum Field {
    Text,
    Integer,
    Fields(&'static [(&'static str, Field)]),
    Anything,
}

const FIELDS: &[(&str, Field)] = &[
    (
        "Execution",
        Field::Fields(&[
            ("Id", Field::Text),
            ("Input", Field::Anything),
            ("Name", Field::Text),
            ("RoleArn", Field::Text),
            ("StartTime", Field::Text),
            ("RedriveCount", Field::Integer),
            ("RedriveTime", Field::Text),
        ]),
    ),
    (
        "State",
        Field::Fields(&[("EnteredTime", Field::Text), ("Name", Field::Text), ("RetryCount", Field::Integer)]),
    ),
    ("StateMachine", Field::Fields(&[("Id", Field::Text), ("Name", Field::Text)])),
    ("Task", Field::Fields(&[("Token", Field::Text)])),
    ("Map", Field::Anything),
];

/// The context object that the request gives. The error is the end of the service's message.
pub(super) fn given(text: &str, state: &State) -> Result<Value, String> {
    let context: Value =
        serde_json::from_str(text).map_err(|_| "Context object must be valid JSON".to_owned())?;
    let Value::Object(fields) = &context else {
        return Err("Context object must be a JSON object".to_owned());
    };
    check(fields, FIELDS, "")?;
    if fields.contains_key("Map") {
        return Err("'Map' field is not supported when mocking a Context object".to_owned());
    }
    if fields.contains_key("Task") && !has_token(state) {
        return Err("Context object contains 'Task' when state is not a Task state with a '.sync' or \
                    '.waitForTaskToken' service integration pattern"
            .to_owned());
    }
    Ok(context)
}

fn has_token(state: &State) -> bool {
    let StateKind::Task(task) = &state.kind else { return false };
    match &task.resource {
        Resource::Service { pattern, .. } => *pattern != IntegrationPattern::RequestResponse,
        Resource::Activity { .. } | Resource::Lambda { .. } => false,
    }
}

fn check(fields: &Map<String, Value>, allowed: &[(&str, Field)], path: &str) -> Result<(), String> {
    for (name, value) in fields {
        let Some((_, field)) = allowed.iter().find(|(allowed, _)| allowed == name) else {
            return Err(format!("Field '{name}' is not allowed"));
        };
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let (fits, expected) = match field {
            Field::Text => (value.is_string(), "a string"),
            Field::Integer => (value.is_i64() || value.is_u64(), "an integer"),
            Field::Anything => (true, ""),
            Field::Fields(allowed) => match value {
                Value::Object(fields) => {
                    check(fields, allowed, &path)?;
                    (true, "")
                }
                _ => (false, "an object"),
            },
        };
        if !fits {
            return Err(format!("{path} must be {expected}"));
        }
    }
    Ok(())
}
