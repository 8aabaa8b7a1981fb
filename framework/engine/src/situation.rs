//! Where an execution stands, as a text that forgets how it got there.
//!
//! Made from what a snapshot holds, so that whatever is added to the state counts here too until it is named below.

use serde_json::Value;
use stagepost_protocol::Timestamp;

use crate::live::Live;

/// Fields that hold event ids, counters that only grow, and times that have passed.
const PAST: [&str; 14] = [
    "last_event_id",
    "last_at",
    "next_scope",
    "chain",
    "entered_id",
    "entered_after",
    "entered_at",
    "attempts",
    "scheduled_id",
    "follows",
    // Of a Map Run, whose name is made from the event that began it.
    "arn",
    "started_id",
    "started_at",
    // The ids of signals.
    "seen",
];

/// Fields that hold times to come.
const TO_COME: [&str; 5] = ["timeout_at", "heartbeat_due", "due", "Waiting", "Retrying"];

/// Fields that hold the user's data, which is left as it is.
const DATA: [&str; 9] =
    ["input", "variables", "results", "given", "Succeeded", "cause", "unstarted", "reader", "writer"];

pub(crate) fn of(live: &Live, now: Timestamp) -> String {
    let mut value = serde_json::to_value(live).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.remove("timeout_at");
    }
    forget(&mut value, now);
    renumber(&mut value);
    value.to_string()
}

fn forget(value: &mut Value, now: Timestamp) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !PAST.contains(&name.as_str()));
            // What an attempt was given, a task token perhaps, is its worker's alone.
            if let Some(Value::Object(attempt)) = fields.get_mut("Attempting") {
                attempt.remove("input");
            }
            for (name, field) in fields {
                match field.as_i64() {
                    Some(at) if TO_COME.contains(&name.as_str()) => {
                        *field = Timestamp::from_millis(at).millis_since(now).into();
                    }
                    _ if DATA.contains(&name.as_str()) => {}
                    _ => forget(field, now),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| forget(item, now)),
        _ => {}
    }
}

/// Scopes are numbered in the order in which they begin; here, in the order in which they are listed.
fn renumber(value: &mut Value) {
    let Some(Value::Object(scopes)) = value.get_mut("scopes") else { return };
    let numbers: Vec<String> = scopes.keys().cloned().collect();
    let place = |number: &Value| {
        let number = number.to_string();
        numbers.iter().position(|known| *known == number).map_or(Value::Null, Value::from)
    };
    for scope in scopes.values_mut() {
        if let Some(parent) = scope.get_mut("parent").filter(|parent| !parent.is_null()) {
            *parent = place(parent);
        }
        let open = scope.pointer_mut("/current/In/phase/Children/open").and_then(Value::as_array_mut);
        open.into_iter().flatten().for_each(|number| *number = place(number));
    }
    let listed = std::mem::take(scopes).into_iter().map(|(_, scope)| scope).collect();
    value["scopes"] = Value::Array(listed);
}
