//! What the fuzz targets share: how raw bytes become an expression and the data it is evaluated over.

use std::cell::Cell;

use serde_json::{Map, Value, json};
use stagepost_asl::{Data, eval::DEPTH_MAX};
use stagepost_protocol::Timestamp;

/// The first line, and the JSON document after it: a sample where the rest is none.
pub fn expression_and_input(bytes: &[u8]) -> Option<(&str, Value)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (expression, rest) = text.split_once('\n').unwrap_or((text, ""));
    let input = serde_json::from_str(rest).unwrap_or_else(|_| sample());
    Some((expression, input))
}

/// Data in which most short paths find something.
pub fn sample() -> Value {
    json!({
        "a": 1, "b": [1, 2.5, "x", null, true, { "c": "d" }], "c": { "d": [{ "e": 1 }, { "e": 2 }] }, "s": "text, more",
        "detail-type": "é", "n": 9007199254740993_i64, "j": "{\"x\":[1]}", "e": "", "z": -0.0
    })
}

/// Evaluates over `input`, with a clock that stands and a seeded generator.
pub fn over<T>(input: &Value, evaluate: impl FnOnce(&Data<'_>) -> T) -> T {
    let seed = Cell::new(0x9e37_79b9_7f4a_7c15_u64);
    let random = || {
        seed.set(seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        seed.get()
    };
    let context = json!({ "Execution": { "Id": "arn" }, "State": { "Name": "S" }, "Task": { "Token": "t" } });
    let mut variables = Map::new();
    variables.insert("v".to_owned(), json!({ "x": [1, 2, 3] }));
    evaluate(&Data {
        input,
        context: &context,
        variables: &variables,
        result: Some(input),
        error_output: None,
        now: Timestamp::from_millis(1_700_000_000_000),
        random: &random,
    })
}

/// Whatever an evaluation gives can be written, and read again by any reader of ours.
pub fn check(value: &Value) {
    assert!(depth(value) <= DEPTH_MAX + 1, "an evaluation gave {} levels", depth(value));
    let text = value.to_string();
    let again: Value = serde_json::from_str(&text).expect("what an evaluation gave cannot be read again");
    assert_eq!(again.to_string(), text);
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
