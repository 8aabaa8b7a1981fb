//! Data that makes a Choice state go a certain way: candidates, generously. The engine decides which of them do.

use serde_json::{Map, Value, json};

use super::{
    plan::{Found, Place},
    refs::{self, Base, Kind, Ref},
};

/// Values for places; `None`: nothing is there.
pub(super) type Assignment = Vec<(Place, Option<Value>)>;

/// Most candidates for one way.
const CANDIDATES_MAX: usize = 48;
/// Most places of a JSONata condition that values are tried for.
const PLACES_MAX: usize = 3;

/// A value that is only to be there.
const PRESENT: &str = "present";

/// Whether a value of an assignment is only to be there.
pub(super) fn is_present(value: &Value) -> bool {
    value == PRESENT
}

/// Finds what a path names.
pub(super) type Lookup<'l> = &'l dyn Fn(&Ref) -> Found;

/// Candidates for the way `rule` (`None`: the default) of a Choice state.
pub(super) fn candidates(choices: &[Value], rule: Option<usize>, lookup: Lookup<'_>) -> Vec<Assignment> {
    let rules: Vec<&Map<String, Value>> = choices.iter().filter_map(Value::as_object).collect();
    let mut found = match rule {
        Some(n) => {
            let holds = rules.get(n).map(|rule| wanted(rule, true, lookup)).unwrap_or_default();
            // The rules before it must not hold: what they ask of other places is set against them.
            let before: Vec<Assignment> = rules[..n.min(rules.len())]
                .iter()
                .filter_map(|rule| wanted(rule, false, lookup).into_iter().find(|a| !a.is_empty()))
                .collect();
            let mut all = holds.clone();
            for base in &holds {
                let joined =
                    before.iter().fold(base.clone(), |all, more| join(&all, more, false).unwrap_or(all));
                all.push(joined);
            }
            all
        }
        None => {
            let mut all = vec![Vec::new()];
            for rule in &rules {
                let fails = wanted(rule, false, lookup);
                all = product(&all, &fails);
            }
            all
        }
    };
    found.retain(|assignment| !assignment.is_empty());
    found.dedup();
    found.truncate(CANDIDATES_MAX);
    found
}

/// One assignment of both; `None` where they want different things, unless the first may have its way.
fn join(a: &Assignment, b: &Assignment, strict: bool) -> Option<Assignment> {
    let mut all = a.clone();
    for (place, value) in b {
        let present = |value: &Option<Value>| value.as_ref().is_some_and(|value| value == PRESENT);
        // Of what has only to be there, whatever else is wanted of it or of what is in it says more.
        all.retain(|(other, is)| !present(is) || !(other == place || below(place, other)));
        if present(value)
            && all.iter().any(|(other, is)| is.is_some() && (other == place || below(other, place)))
        {
            continue;
        }
        match all.iter().find(|(other, _)| other == place) {
            Some((_, other)) if other == value => {}
            Some(_) if strict => return None,
            Some(_) => {}
            None => all.push((place.clone(), value.clone())),
        }
    }
    Some(all)
}

/// The numbers that rules compare with, and their neighbours.
pub(super) fn numbers(rules: &[Value], found: &mut Vec<Value>) {
    for rule in rules {
        match rule {
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(0.0);
                found.extend([number, number + 1.0, number - 1.0].map(shown));
            }
            Value::Object(fields) => {
                fields.values().for_each(|value| numbers(std::slice::from_ref(value), found))
            }
            Value::Array(items) => numbers(items, found),
            Value::String(text) if stagepost_asl::jsonata::expression(text).is_some() => {
                found.extend(literals(text).into_iter().flatten().filter(Value::is_number));
            }
            _ => {}
        }
    }
}

fn product(a: &[Assignment], b: &[Assignment]) -> Vec<Assignment> {
    let joined = a.iter().flat_map(|a| b.iter().filter_map(move |b| join(a, b, true)));
    let joined: Vec<Assignment> = joined.take(CANDIDATES_MAX).collect();
    // Where nothing fits together, a part may still do.
    if joined.is_empty() { a.to_vec() } else { joined }
}

fn wanted(rule: &Map<String, Value>, holds: bool, lookup: Lookup<'_>) -> Vec<Assignment> {
    if let Some(condition) = rule.get("Condition").and_then(Value::as_str) {
        return of_condition(condition, lookup);
    }
    let list = |field: &str| {
        let items = rule.get(field)?.as_array()?;
        Some(items.iter().filter_map(Value::as_object).collect::<Vec<_>>())
    };
    let all = |tests: &[&Map<String, Value>]| {
        tests.iter().fold(vec![Vec::new()], |all, test| product(&all, &wanted(test, holds, lookup)))
    };
    let any = |tests: &[&Map<String, Value>]| {
        tests.iter().flat_map(|test| wanted(test, holds, lookup)).take(CANDIDATES_MAX).collect::<Vec<_>>()
    };
    match (list("And"), list("Or"), rule.get("Not").and_then(Value::as_object)) {
        (Some(tests), _, _) => {
            if holds {
                all(&tests)
            } else {
                any(&tests)
            }
        }
        (_, Some(tests), _) => {
            if holds {
                any(&tests)
            } else {
                all(&tests)
            }
        }
        (_, _, Some(test)) => wanted(test, !holds, lookup),
        _ => of_comparison(rule, holds, lookup),
    }
}

fn of_comparison(rule: &Map<String, Value>, holds: bool, lookup: Lookup<'_>) -> Vec<Assignment> {
    let reference = |text: &str| {
        let mut refs = Vec::new();
        refs::of_text(text, &Base::Input, Kind::Anything, &mut refs);
        refs.into_iter().next()
    };
    let Some(variable) = rule.get("Variable").and_then(Value::as_str) else { return vec![Vec::new()] };
    let operator =
        rule.iter().find(|(name, _)| !["Variable", "Comment", "Next", "Assign"].contains(&name.as_str()));
    let Some((operator, operand)) = operator else { return vec![Vec::new()] };
    let found = reference(variable).map(|r| lookup(&r));
    let mut also = None;
    let operand = match operator.strip_suffix("Path").and_then(|_| operand.as_str()) {
        None => operand.clone(),
        Some(path) => match (reference(path).map(|r| lookup(&r)), &found) {
            (Some(Found::Known(value)), _) => value,
            // What is computed is compared with what is unknown.
            (Some(Found::Unknown { place, .. }), Some(Found::Known(value))) => {
                let number = value.as_f64().unwrap_or(0.0);
                let near = [value.clone(), shown(number - 1.0), shown(number + 1.0), example(operator)];
                return near.into_iter().map(|value| vec![(place.clone(), Some(value))]).collect();
            }
            (Some(Found::Unknown { place, .. }), _) => {
                let value = example(operator);
                also = Some((place, Some(value.clone())));
                value
            }
            _ => example(operator),
        },
    };
    let unknown = match found {
        Some(Found::Unknown { place, .. }) => Some(place),
        _ => None,
    };
    let operator = operator.strip_suffix("Path").unwrap_or(operator);
    match unknown {
        None => vec![also.into_iter().collect()],
        Some(place) => {
            let mut found: Vec<Assignment> = values(operator, &operand, holds)
                .into_iter()
                .map(|value| also.iter().cloned().chain([(place.clone(), value)]).collect())
                .collect();
            if found.is_empty() {
                found.push(Vec::new());
            }
            found
        }
    }
}

fn example(operator: &str) -> Value {
    match operator {
        _ if operator.starts_with("Numeric") => json!(5),
        _ if operator.starts_with("Timestamp") => json!("2026-01-01T00:00:00Z"),
        _ if operator.starts_with("Boolean") => json!(true),
        _ => json!("m"),
    }
}

/// Values for which a comparison holds, or does not.
fn values(operator: &str, operand: &Value, holds: bool) -> Vec<Option<Value>> {
    let some = |values: &[Value]| values.iter().cloned().map(Some).collect::<Vec<_>>();
    let ordered = |below: Value, equal: Value, above: Value, other: Value| {
        let order = operator
            .trim_start_matches("String")
            .trim_start_matches("Numeric")
            .trim_start_matches("Timestamp");
        let (yes, no) = match order {
            "LessThan" => (vec![below], vec![equal, above]),
            "GreaterThan" => (vec![above], vec![equal, below]),
            "LessThanEquals" => (vec![equal, below], vec![above]),
            "GreaterThanEquals" => (vec![equal, above], vec![below]),
            _ => (vec![equal], vec![other, below, above]),
        };
        some(if holds { &yes } else { &no })
    };
    let is = |yes: Value, no: Value| {
        let expected = operand == &Value::Bool(true);
        some(&[if expected == holds { yes } else { no }])
    };
    match operator {
        "IsPresent" => {
            let present = (operand == &Value::Bool(true)) == holds;
            if present { vec![Some(json!(PRESENT))] } else { vec![None] }
        }
        "IsNull" => is(Value::Null, json!("not null")),
        "IsNumeric" => is(json!(1), json!("no number")),
        "IsString" => is(json!("text"), json!(1)),
        "IsBoolean" => is(json!(true), json!("no boolean")),
        "IsTimestamp" => is(json!("2026-01-01T00:00:00Z"), json!("no time")),
        "BooleanEquals" => {
            let value = operand.as_bool().unwrap_or(true);
            some(&[json!(value == holds)])
        }
        "StringMatches" => {
            let pattern = operand.as_str().unwrap_or_default();
            if holds { some(&[json!(matching(pattern))]) } else { some(&[json!("no match"), json!("")]) }
        }
        _ if operator.starts_with("Numeric") => {
            let number = operand.as_f64().unwrap_or(0.0);
            ordered(shown(number - 1.0), operand.clone(), shown(number + 1.0), shown(number + 2.0))
        }
        _ if operator.starts_with("Timestamp") => ordered(
            json!("1970-01-01T00:00:00Z"),
            operand.clone(),
            json!("9999-01-01T00:00:00Z"),
            json!("2001-01-01T00:00:00Z"),
        ),
        _ => {
            let text = operand.as_str().unwrap_or_default();
            ordered(json!(""), operand.clone(), json!(format!("{text}~")), json!("something else"))
        }
    }
}

fn shown(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

/// A text that a pattern of StringMatches matches.
fn matching(pattern: &str) -> String {
    let mut text = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => text.push('x'),
            '\\' => text.push(chars.next_if(|c| matches!(c, '*' | '\\')).unwrap_or('\\')),
            c => text.push(c),
        }
    }
    text
}

/// A JSONata condition: its own literals, and what is near them, at the places that it names.
fn of_condition(condition: &str, lookup: Lookup<'_>) -> Vec<Assignment> {
    let mut refs = Vec::new();
    refs::of_jsonata(condition, Kind::Anything, &mut refs);
    let mut places: Vec<Place> = Vec::new();
    for found in refs.iter().map(lookup) {
        if let Found::Unknown { place, .. } = found
            && !places.contains(&place)
        {
            places.push(place);
        }
    }
    // Of a place and one below it, the one below says more.
    let inner = places.clone();
    places.retain(|place| !inner.iter().any(|other| below(other, place)));
    places.truncate(PLACES_MAX);
    let values = literals(condition);
    let mut all: Vec<Assignment> = vec![Vec::new()];
    let each = (CANDIDATES_MAX as f64).powf(1.0 / places.len().max(1) as f64) as usize;
    for place in &places {
        let with = |assignment: &Assignment, value: &Option<Value>| {
            let mut more = assignment.clone();
            more.push((place.clone(), value.clone()));
            more
        };
        let values = &values[..values.len().min(each.max(3))];
        all = all.iter().flat_map(|a| values.iter().map(move |value| with(a, value))).collect();
    }
    all.truncate(CANDIDATES_MAX * 4);
    all
}

/// Whether a place lies within another one.
fn below(place: &Place, other: &Place) -> bool {
    place.source == other.source && place.path.len() > other.path.len() && place.path.starts_with(&other.path)
}

/// Values that may matter to an expression: its literals first.
fn literals(expression: &str) -> Vec<Option<Value>> {
    let mut values: Vec<Option<Value>> = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(['"', '\'', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
        let c = rest[at..].chars().next().unwrap_or(' ');
        let before = rest[..at].chars().next_back();
        if c == '"' || c == '\'' {
            let inside = &rest[at + 1..];
            let Some(end) = inside.find(c) else { break };
            values.push(Some(inside[..end].into()));
            rest = &inside[end + 1..];
            continue;
        }
        let text = &rest[at..];
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        rest = &text[end..];
        // A digit in a name is no number.
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        if let Ok(number) = text[..end].trim_end_matches('.').parse::<f64>() {
            values.extend([number, number + 1.0, number - 1.0].map(|n| Some(shown(n))));
        }
    }
    values.extend([json!(true), json!(false)].map(Some));
    values.push(None);
    values.extend([json!(["x"]), json!([]), json!("something else"), Value::Null, json!(1)].map(Some));
    let mut distinct: Vec<Option<Value>> = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}
