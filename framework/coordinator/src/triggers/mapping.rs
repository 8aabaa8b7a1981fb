//! From a message to the input and the name of the execution that it starts. Pure: time and chance come in.

use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};
use stagepost_asl::{EvalError, jsonata};
use stagepost_broker::Delivery;
use stagepost_protocol::{HeaderValue, Payload, Properties, Timestamp, limits};

use super::{body::Unusable, model::is_plain};

/// What a mapping's result must be.
const SHAPE: &str = "it must be an object with 'input' and, if it likes, 'name'";

/// A compiled mapping.
#[derive(Debug, Clone)]
pub(super) struct Mapping(jsonata::Expr);

/// What a message starts an execution with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) input: Payload,
    /// What the message wants the execution to be named after, so that it starts one however often it comes.
    pub(super) name: Option<String>,
}

impl Mapping {
    /// Compiles an expression; the delimiters of definitions, `{% … %}`, may stand around it.
    pub(super) fn parse(text: &str) -> Result<Mapping, String> {
        let text = text.trim();
        jsonata::Expr::parse(jsonata::expression(text).unwrap_or(text)).map(Mapping)
    }

    /// Evaluates it.
    pub(super) fn apply(
        &self,
        body: &Payload,
        delivery: &Delivery,
        now: Timestamp,
        random: &dyn Fn() -> u64,
    ) -> Result<Mapped, Unusable> {
        let message = message(body.to_value(), delivery);
        let result = self.0.apply(&message, "mapping", now, random);
        let result = result.map_err(|EvalError { cause, .. }| Unusable::Mapping(cause))?;
        let wrong = |what: &str| Unusable::Mapping(format!("the result of the mapping {what}: {SHAPE}"));
        let Value::Object(mut result) = result else { return Err(wrong("is no object")) };
        let input = result.remove("input").ok_or_else(|| wrong("has no 'input'"))?;
        let name = match result.remove("name") {
            None | Some(Value::Null) => delivery.properties.message_id.clone(),
            Some(Value::String(name)) if !name.is_empty() => Some(name),
            // A number of an order, for instance.
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            Some(_) => return Err(wrong("has a 'name' that is neither text nor a whole number")),
        };
        if !result.is_empty() {
            return Err(wrong("has further members"));
        }
        Ok(Mapped { input: Payload::from_value(&input), name })
    }
}

/// A message as mappings see it.
fn message(body: Value, delivery: &Delivery) -> Value {
    let Properties {
        message_id,
        correlation_id,
        reply_to,
        content_type,
        content_encoding,
        kind,
        priority,
        timestamp,
        headers,
    } = &delivery.properties;
    let mut properties = Map::new();
    for (name, text) in [
        ("message_id", message_id),
        ("correlation_id", correlation_id),
        ("reply_to", reply_to),
        ("content_type", content_type),
        ("content_encoding", content_encoding),
        ("type", kind),
        ("routing_key", &delivery.routing_key),
    ] {
        if let Some(text) = text {
            properties.insert(name.to_owned(), text.as_str().into());
        }
    }
    for (name, number) in [("priority", priority.map(u64::from)), ("timestamp", *timestamp)] {
        if let Some(number) = number {
            properties.insert(name.to_owned(), number.into());
        }
    }
    let headers: Map<String, Value> =
        headers.iter().map(|(name, value)| (name.clone(), header(value))).collect();
    let members = [("body", body), ("headers", headers.into()), ("properties", properties.into())];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn header(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Text(text) => text.as_str().into(),
        HeaderValue::Int(n) => (*n).into(),
        HeaderValue::Bool(b) => (*b).into(),
        // Neither infinite numbers nor those that are none are JSON.
        HeaderValue::Float(f) => Number::from_f64(*f).map_or(Value::Null, Value::Number),
        HeaderValue::Other(json) => serde_json::from_str(json).unwrap_or_else(|_| json.as_str().into()),
    }
}

/// The name of an execution: what the message wants, if it can be one, else a hash of it.
pub(super) fn execution_name(wanted: &str) -> String {
    if !wanted.is_empty() && wanted.len() <= limits::NAME_CHARS_MAX && wanted.chars().all(is_plain) {
        return wanted.to_owned();
    }
    let digest = Sha256::digest(wanted);
    digest[..16].iter().fold("message-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use stagepost_broker::DeliveryTag;

    use super::*;

    fn delivery(properties: Properties) -> Delivery {
        Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            body: Bytes::new(),
            properties,
            redelivered: false,
            routing_key: Some("orders.new".into()),
        }
    }

    fn apply(mapping: &str, properties: Properties) -> Result<(String, Option<String>), String> {
        let body = Payload::parse(r#"{"order": {"id": 7, "lines": [1, 2]}}"#).unwrap();
        let mapped = Mapping::parse(mapping).unwrap().apply(
            &body,
            &delivery(properties),
            Timestamp::from_millis(1_000),
            &|| 4,
        );
        mapped.map(|m| (m.input.as_str().to_owned(), m.name)).map_err(|unusable| unusable.to_string())
    }

    fn full() -> Properties {
        let headers = [
            ("text", HeaderValue::Text("ünï".into())),
            ("int", HeaderValue::Int(-3)),
            ("bool", HeaderValue::Bool(true)),
            ("float", HeaderValue::Float(0.25)),
            ("nan", HeaderValue::Float(f64::NAN)),
            ("table", HeaderValue::Other(r#"{"a":[1,null]}"#.into())),
        ];
        Properties {
            message_id: Some("m-1".into()),
            content_type: Some("application/json".into()),
            kind: Some("OrderPlaced".into()),
            priority: Some(7),
            timestamp: Some(1_700_000_000),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            ..Properties::default()
        }
    }

    #[test]
    fn a_mapping_makes_input_and_name_of_a_message() {
        for (mapping, input, name) in [
            (r#"{"input": body.order}"#, r#"{"id":7,"lines":[1,2]}"#, Some("m-1")),
            (r#"{% {"input": body.order.lines[1], "name": body.order.id} %}"#, "2", Some("7")),
            (r#"{"input": headers.text, "name": "order-" & body.order.id}"#, "\"ünï\"", Some("order-7")),
            (
                r#"{"input": [headers.int, headers.bool, headers.float, headers.nan]}"#,
                "[-3,true,0.25,null]",
                Some("m-1"),
            ),
            (r#"{"input": headers.table.a, "name": null}"#, "[1,null]", Some("m-1")),
            (
                r#"{"input": properties.routing_key & properties.type}"#,
                "\"orders.newOrderPlaced\"",
                Some("m-1"),
            ),
            (r#"{"input": properties.[priority, timestamp]}"#, "[7,1700000000]", Some("m-1")),
            (r#"{"input": null, "name": nothing}"#, "null", Some("m-1")),
            (r#"{"input": $millis()}"#, "1000", Some("m-1")),
        ] {
            let expected = (input.to_owned(), name.map(str::to_owned));
            assert_eq!(apply(mapping, full()), Ok(expected), "{mapping}");
        }
        let unnamed = apply(r#"{"input": body.order.id}"#, Properties::default());
        assert_eq!(unnamed, Ok(("7".to_owned(), None)));
    }

    #[test]
    fn a_mapping_that_fails_says_why() {
        for (mapping, told) in [
            ("body.order", "no 'input'"),
            (r#"{"input": 1, "nme": 2}"#, "further members"),
            (r#"{"name": "x"}"#, "no 'input'"),
            (r#"{"input": nothing.there}"#, "no 'input'"),
            ("[1]", "no object"),
            ("nothing", "returned nothing"),
            (r#"{"input": 1, "name": ""}"#, "neither text"),
            (r#"{"input": 1, "name": 1.5}"#, "neither text"),
            (r#"{"input": 1, "name": [1]}"#, "neither text"),
            (r#"{"input": body.order.id + "x"}"#, "threw an error"),
            (r#"{"input": $error("no")}"#, "no"),
            (r#"($f := function($n) { $f($n + 1) }; {"input": $f(1)})"#, "threw an error"),
        ] {
            let error = apply(mapping, full()).unwrap_err();
            assert!(error.contains(told), "{mapping}: {error}");
        }
        assert!(Mapping::parse("{").is_err());
    }

    #[test]
    fn names_that_cannot_be_one_are_hashed() {
        assert_eq!(execution_name("order-1_a.b"), "order-1_a.b");
        for odd in ["", "a b", "ä", &"x".repeat(81)] {
            let name = execution_name(odd);
            assert!(name.starts_with("message-") && name.len() == 40, "{name}");
            assert_eq!(name, execution_name(odd));
        }
        assert_ne!(execution_name("a b"), execution_name("a c"));
    }
}
