//! What of the data the expressions of a state look at: read off the definition's text, generously. The engine is the
//! judge of what follows; this only says where it is worth to know more.

use serde_json::{Map, Value, json};

use super::plan::{Names, Place, Seg};

/// Something that an expression looks at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ref {
    pub(super) base: Base,
    pub(super) path: Vec<Seg>,
    pub(super) kind: Kind,
}

/// Where a path starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// The state's input, as it came.
    Raw,
    /// What `InputPath` leaves of it.
    Input,
    /// What the state's work gave.
    Result,
    /// The item of the Map state itself.
    Item,
    /// The input of the execution.
    Execution,
    Variable(String),
}

/// What an expression needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Anything,
    Number,
    Array,
    Timestamp,
    Text,
    /// A text that holds JSON.
    Json,
}

impl Kind {
    /// A value of the kind for a place; `None`: anything will do.
    pub(super) fn example(self, names: &Names, place: &Place) -> Option<Value> {
        match self {
            Kind::Anything | Kind::Text => None,
            Kind::Number => Some(json!(1)),
            Kind::Array => Some(json!([names.leaf(&place.item(0))])),
            Kind::Timestamp => Some(json!("2026-01-01T00:00:00Z")),
            Kind::Json => Some(names.json(place)),
        }
    }
}

/// Whether a state type has a result of its own, as opposed to its input.
fn has_result(state: &Map<String, Value>) -> bool {
    matches!(state.get("Type").and_then(Value::as_str), Some("Task" | "Parallel" | "Map"))
}

/// What a state looks at, but for its choices.
pub(super) fn of_state(state: &Map<String, Value>) -> Vec<Ref> {
    let mut refs = Vec::new();
    let replaced = !state.contains_key("ResultPath");
    let is_map = state.get("Type").and_then(Value::as_str) == Some("Map");
    if is_map && !["ItemsPath", "Items", "ItemReader"].iter().any(|field| state.contains_key(*field)) {
        refs.push(Ref { base: Base::Input, path: Vec::new(), kind: Kind::Array });
    }
    for (name, value) in state {
        let (base, kind) = match name.as_str() {
            "InputPath" => (Base::Raw, Kind::Anything),
            "ItemsPath" => (Base::Input, Kind::Array),
            "SecondsPath"
            | "TimeoutSecondsPath"
            | "HeartbeatSecondsPath"
            | "MaxConcurrencyPath"
            | "ToleratedFailureCountPath"
            | "ToleratedFailurePercentagePath" => (Base::Input, Kind::Number),
            "TimestampPath" => (Base::Input, Kind::Timestamp),
            "ErrorPath" | "CausePath" => (Base::Input, Kind::Text),
            "ResultSelector" => (Base::Result, Kind::Anything),
            "OutputPath" if has_result(state) && replaced => (Base::Result, Kind::Anything),
            "OutputPath" => {
                // In the place where the result was put, it is the result.
                let part = |field: &str| path(state.get(field)?.as_str()?.strip_prefix('$')?).0.into();
                let (output, result): (Option<Vec<Seg>>, Option<Vec<Seg>>) =
                    (part("OutputPath"), part("ResultPath"));
                match (output, result) {
                    (Some(output), Some(result)) if has_result(state) && output.starts_with(&result) => {
                        let path = output[result.len()..].to_vec();
                        refs.push(Ref { base: Base::Result, path, kind: Kind::Anything });
                        continue;
                    }
                    _ => (Base::Raw, Kind::Anything),
                }
            }
            "Assign" if has_result(state) => (Base::Result, Kind::Anything),
            "Parameters" | "Arguments" | "ItemSelector" | "Assign" | "Output" | "Items" | "Seconds"
            | "Timestamp" | "TimeoutSeconds" | "HeartbeatSeconds" | "Error" | "Cause" | "MaxConcurrency"
            | "ItemReader" | "ResultWriter" | "Credentials" => (Base::Input, Kind::Anything),
            _ => continue,
        };
        match value {
            Value::String(text) if name.ends_with("Path") => {
                let kind = if text.starts_with("States.") { Kind::Anything } else { kind };
                of_text(text, &base, kind, &mut refs);
            }
            Value::String(text) if name == "Items" => of_jsonata(text, Kind::Array, &mut refs),
            Value::String(text) if name == "Seconds" => of_jsonata(text, Kind::Number, &mut refs),
            Value::String(text) if name == "Timestamp" => of_jsonata(text, Kind::Timestamp, &mut refs),
            value => of_template(value, &base, &mut refs),
        }
    }
    refs
}

fn of_template(value: &Value, base: &Base, refs: &mut Vec<Ref>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name.ends_with(".$") => of_text(text, base, Kind::Anything, refs),
                    value => of_template(value, base, refs),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| of_template(item, base, refs)),
        Value::String(text) => of_jsonata(text, Kind::Anything, refs),
        _ => {}
    }
}

/// A path, or an intrinsic function with paths in it.
pub(super) fn of_text(text: &str, base: &Base, kind: Kind, refs: &mut Vec<Ref>) {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let kind = match rest[..at].rsplit("States.").next().and_then(|call| call.split('(').next()) {
            Some("MathAdd" | "MathRandom" | "ArrayRange") => Kind::Number,
            Some("ArrayContains" | "ArrayGetItem" | "ArrayLength" | "ArrayPartition" | "ArrayUnique") => {
                Kind::Array
            }
            Some("StringToJson") => Kind::Json,
            _ => kind,
        };
        rest = &rest[at + 1..];
        let (base, after) = if let Some(context) = rest.strip_prefix('$') {
            let execution = context.strip_prefix(".Execution.Input").map(|after| (Base::Execution, after));
            let item = || context.strip_prefix(".Map.Item.Value").map(|after| (Base::Item, after));
            match execution.or_else(item) {
                Some(found) => found,
                None => {
                    rest = context;
                    continue;
                }
            }
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            match &rest[..end] {
                "" => (base.clone(), rest),
                name => (Base::Variable(name.to_owned()), &rest[end..]),
            }
        };
        let (path, left) = path(after);
        refs.push(Ref { base, path, kind });
        rest = left;
    }
}

/// The places that a JSONata expression names, if the text is one.
pub(super) fn of_jsonata(text: &str, kind: Kind, refs: &mut Vec<Ref>) {
    let Some(expression) = stagepost_asl::jsonata::expression(text) else { return };
    let whole = |left: &str| left.trim().is_empty() && expression.starts_with('$');
    let mut rest = expression;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        let at_name = expression.len() - rest.len() - 1;
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        let (base, after) = match name {
            "states" => {
                let input = after.strip_prefix(".input").map(|after| (Base::Input, after));
                let result = || after.strip_prefix(".result").map(|after| (Base::Result, after));
                let execution =
                    || after.strip_prefix(".context.Execution.Input").map(|after| (Base::Execution, after));
                let item = || after.strip_prefix(".context.Map.Item.Value").map(|after| (Base::Item, after));
                match input.or_else(result).or_else(execution).or_else(item) {
                    Some(found) => found,
                    None => continue,
                }
            }
            // A function, or a sign that stands for itself.
            "" => continue,
            _ if after.trim_start().starts_with('(') => continue,
            name => (Base::Variable(name.to_owned()), after),
        };
        let (path, left) = path(after);
        rest = left;
        // A name that is called is a function in a field.
        let parsed = expression[..at_name].trim_end().ends_with("$parse(");
        let kind = match parsed {
            true => Kind::Json,
            false if whole(left) => kind,
            false => Kind::Anything,
        };
        refs.push(Ref { base, path, kind });
    }
}

/// The definite steps at the beginning of a text, and what follows. Wildcards and filters look at the first item, slices
/// at the third.
pub(super) fn path(text: &str) -> (Vec<Seg>, &str) {
    let mut segs = Vec::new();
    let mut rest = text;
    loop {
        if let Some(inside) = rest.strip_prefix(".[").or_else(|| rest.strip_prefix('[')) {
            let Some(end) = closing(inside) else { return (segs, rest) };
            let (key, after) = (inside[..end].trim(), &inside[end + 1..]);
            let quoted = key.strip_prefix(['\'', '"']).and_then(|k| k.strip_suffix(['\'', '"']));
            segs.push(match (quoted, key.parse::<usize>()) {
                (Some(name), _) if !name.contains('\'') => Seg::Field(name.to_owned()),
                (_, Ok(index)) => Seg::Index(index),
                // Of a slice, whose first items may be left out.
                _ if key.contains(':') => Seg::Index(2),
                _ => Seg::Index(0),
            });
            rest = after;
        } else if let Some(after) = rest.strip_prefix(".*") {
            segs.push(Seg::Index(0));
            rest = after;
        } else if let Some(field) = rest.strip_prefix('.') {
            let (name, after) = if let Some(quoted) = field.strip_prefix('`') {
                match quoted.split_once('`') {
                    Some((name, after)) => (name, after),
                    None => return (segs, rest),
                }
            } else {
                let ends = |c: char| !(c.is_alphanumeric() || c == '_' || c == '-');
                field.split_at(field.find(ends).unwrap_or(field.len()))
            };
            if name.is_empty() || name.starts_with('-') {
                return (segs, rest);
            }
            segs.push(Seg::Field(name.to_owned()));
            rest = after;
        } else {
            return (segs, rest);
        }
    }
}

/// The bracket that closes what was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' if depth == 0 => return Some(at),
            ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What the rules of a Choice state look at. `tested`: also what a rule asks the presence of.
pub(super) fn of_choices(choices: &[Value], tested: bool) -> Vec<Ref> {
    let mut all = Vec::new();
    let mut present = Vec::new();
    for choice in choices {
        of_rule(choice, &mut all, &mut present);
    }
    if !tested {
        all.retain(|found| !present.contains(found));
    }
    all
}

fn of_rule(rule: &Value, all: &mut Vec<Ref>, present: &mut Vec<Ref>) {
    let Value::Object(fields) = rule else { return };
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("And" | "Or", Value::Array(rules)) => rules.iter().for_each(|rule| of_rule(rule, all, present)),
            ("Not", rule) => of_rule(rule, all, present),
            ("Condition", Value::String(text)) => {
                let mut found = Vec::new();
                of_jsonata(text, Kind::Anything, &mut found);
                // What is absent is no error in JSONata.
                present.extend(found.iter().cloned());
                all.extend(found);
            }
            (name, Value::String(text)) if name == "Variable" || name.ends_with("Path") => {
                let mut found = Vec::new();
                of_text(text, &Base::Input, Kind::Anything, &mut found);
                if fields.contains_key("IsPresent") {
                    present.extend(found.iter().cloned());
                }
                all.extend(found);
            }
            _ => {}
        }
    }
}
