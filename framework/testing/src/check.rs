//! What was expected against what came: differences that a person can read.

use serde_json::Value;

use crate::{
    cases::{Case, Expect},
    run::{Run, Status},
    world::Stop,
};

/// Longest value in a difference, in characters.
const SHOWN_CHARS_MAX: usize = 200;
/// Most differences of one output.
const DIFFERENCES_MAX: usize = 20;

/// What is wrong with a run, as sentences; empty when nothing is.
pub(crate) fn differences(case: &Case, run: &Run) -> Vec<String> {
    let expect = &case.expect;
    let mut found = Vec::new();
    if let Stop::NoAnswer { state, had, input } = run.stop() {
        let given = shown(input);
        found.push(match had {
            0 => format!("the state '{state}' has no mock; it was given {given}"),
            1 => format!(
                "the state '{state}' was asked again, and its mock has 1 answer; it was given {given}"
            ),
            _ => format!(
                "the state '{state}' was asked again, and its mock has {had} answers; it was given {given}"
            ),
        });
    }
    status(expect, run, &mut found);
    texts(expect, run, &mut found);
    if let (Some(expected), Some(output)) = (&expect.output, run.output()) {
        compare("output", expected, &output, false, &mut found);
    }
    if let (Some(expected), Some(output)) = (&expect.output_includes, run.output()) {
        compare("output", expected, &output, true, &mut found);
    }
    path(expect, run, &mut found);
    visits(expect, run, &mut found);
    for (what, range, number) in [
        ("duration in seconds", expect.duration, run.duration_seconds()),
        ("number of events", expect.events, run.events() as f64),
    ] {
        if let Some(range) = range.filter(|range| !range.holds(number)) {
            found.push(format!("{what}: expected {range}, was {number}"));
        }
    }
    found
}

/// The status that a case expects: what it says, or what follows from the rest of what it says.
fn expected_status(expect: &Expect) -> Option<Status> {
    let failed = expect.error.is_some() || expect.cause.is_some() || expect.cause_includes.is_some();
    let succeeded = expect.output.is_some() || expect.output_includes.is_some();
    // A case that says nothing of the end expects a good one, so that no case passes because its run broke off.
    match expect.status {
        Some(status) => Some(status),
        None if failed => None,
        None if succeeded => Some(Status::Succeeded),
        None => Some(Status::Succeeded),
    }
}

fn status(expect: &Expect, run: &Run, found: &mut Vec<String>) {
    let was = run.status();
    let Some(expected) = expected_status(expect) else {
        if matches!(was, Status::Succeeded | Status::Running) {
            found.push(format!("status: expected a failure, was {}", standing(run)));
        }
        return;
    };
    if expected != was && !matches!(run.stop(), Stop::NoAnswer { .. }) {
        found.push(format!("status: expected {expected}, was {}", standing(run)));
    }
}

/// The status, and why.
fn standing(run: &Run) -> String {
    let status = run.status();
    let last = run.path().last().unwrap_or_default().to_owned();
    match (run.stop(), run.error()) {
        (Stop::WaitsForever, _) => format!("{status}: '{last}' waits, and nobody will ever answer"),
        (Stop::Endless, _) => format!("{status} after {} events, in '{last}'", run.events()),
        (_, None) => status.to_string(),
        (_, Some(error)) => match run.cause() {
            Some(cause) => format!("{status} with {error} in '{last}': {}", short(cause)),
            None => format!("{status} with {error} in '{last}'"),
        },
    }
}

fn texts(expect: &Expect, run: &Run, found: &mut Vec<String>) {
    let mut differ = |what: &str, expected: &Option<String>, was: Option<&str>, part: bool| {
        let Some(expected) = expected else { return };
        let holds = was.is_some_and(|was| if part { was.contains(expected) } else { was == expected });
        if !holds {
            let includes = if part { "to include " } else { "" };
            let was = was.map_or_else(|| "absent".to_owned(), |was| format!("{:?}", short(was)));
            found.push(format!("{what}: expected {includes}{expected:?}, was {was}"));
        }
    };
    differ("error", &expect.error, run.error(), false);
    differ("cause", &expect.cause, run.cause(), false);
    differ("cause", &expect.cause_includes, run.cause(), true);
}

fn path(expect: &Expect, run: &Run, found: &mut Vec<String>) {
    let Some(expected) = &expect.path else { return };
    let was: Vec<&str> = run.path().collect();
    if expected.iter().map(String::as_str).eq(was.iter().copied()) {
        return;
    }
    let same = expected.iter().zip(&was).take_while(|(a, b)| a == *b).count();
    let name = |name: Option<&str>| name.map_or_else(|| "the end".to_owned(), |name| format!("'{name}'"));
    let expected = name(expected.get(same).map(String::as_str));
    found.push(format!(
        "path: expected {expected} as state {}, was {}; it went {}",
        same + 1,
        name(was.get(same).copied()),
        short(&was.join(" → "))
    ));
}

fn visits(expect: &Expect, run: &Run, found: &mut Vec<String>) {
    let count = |name: &str| run.path().filter(|visited| *visited == name).count() as u64;
    for name in expect.visited.iter().filter(|name| count(name) == 0) {
        found.push(format!("visited: expected '{name}', which was never entered"));
    }
    for (name, was) in expect.not_visited.iter().map(|name| (name, count(name))).filter(|(_, was)| *was > 0) {
        found.push(format!("notVisited: '{name}' was entered {}", times(was)));
    }
    for (name, expected) in &expect.visits {
        let was = count(name);
        if was != *expected {
            found.push(format!("visits of '{name}': expected {expected}, was {was}"));
        }
    }
}

fn times(n: u64) -> String {
    if n == 1 { "once".to_owned() } else { format!("{n} times") }
}

/// The places where two values differ. `part`: objects may hold more than is expected.
fn compare(place: &str, expected: &Value, was: &Value, part: bool, found: &mut Vec<String>) {
    if found.len() >= DIFFERENCES_MAX {
        return;
    }
    match (expected, was) {
        (Value::Object(expected), Value::Object(was)) => {
            for (name, value) in expected {
                let place = format!("{place}.{name}");
                match was.get(name) {
                    Some(was) => compare(&place, value, was, part, found),
                    None => found.push(format!("{place}: expected {}, was absent", shown(value))),
                }
            }
            if !part {
                for (name, value) in was.iter().filter(|(name, _)| !expected.contains_key(*name)) {
                    found.push(format!("{place}.{name}: was {}, not expected", shown(value)));
                }
            }
        }
        (Value::Array(expected), Value::Array(was)) if expected.len() == was.len() => {
            for (n, (expected, was)) in expected.iter().zip(was).enumerate() {
                compare(&format!("{place}[{n}]"), expected, was, part, found);
            }
        }
        _ if same(expected, was) => {}
        _ => found.push(format!("{place}: expected {}, was {}", shown(expected), shown(was))),
    }
}

/// Numbers are equal by value: 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn shown(value: &Value) -> String {
    short(&value.to_string())
}

fn short(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS_MAX - 1).chain(['…']).collect()
}
