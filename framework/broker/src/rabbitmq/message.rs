//! Messages as lapin knows them, and back.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Map, Number, Value};
use stagepost_protocol::{HeaderValue, Message, Properties};

/// AMQP's mark of a message that is written to disk.
const PERSISTENT: u8 = 2;

/// The AMQP properties of a message. The error says what does not fit into AMQP.
pub(super) fn to_amqp(message: &Message) -> Result<BasicProperties, String> {
    let p = &message.properties;
    let mut amqp = BasicProperties::default();
    if message.persistent {
        amqp = amqp.with_delivery_mode(PERSISTENT);
    }
    if let Some(message_id) = &p.message_id {
        amqp = amqp.with_message_id(short("message_id", message_id)?);
    }
    if let Some(correlation_id) = &p.correlation_id {
        amqp = amqp.with_correlation_id(short("correlation_id", correlation_id)?);
    }
    if let Some(reply_to) = &p.reply_to {
        amqp = amqp.with_reply_to(short("reply_to", reply_to)?);
    }
    if let Some(content_type) = &p.content_type {
        amqp = amqp.with_content_type(short("content_type", content_type)?);
    }
    if let Some(content_encoding) = &p.content_encoding {
        amqp = amqp.with_content_encoding(short("content_encoding", content_encoding)?);
    }
    if let Some(kind) = &p.kind {
        amqp = amqp.with_type(short("kind", kind)?);
    }
    if let Some(priority) = p.priority {
        amqp = amqp.with_priority(priority);
    }
    if let Some(timestamp) = p.timestamp {
        amqp = amqp.with_timestamp(timestamp);
    }
    if !p.headers.is_empty() {
        let mut headers = BTreeMap::new();
        for (name, value) in &p.headers {
            headers.insert(short("a header's name", name)?, header_to_amqp(value));
        }
        amqp = amqp.with_headers(FieldTable::from(headers));
    }
    Ok(amqp)
}

/// A text of at most 255 bytes.
pub(super) fn short(what: &str, text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|_| format!("{what} is longer than 255 bytes"))
}

fn header_to_amqp(value: &HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        HeaderValue::Int(n) => AMQPValue::LongLongInt(*n),
        HeaderValue::Bool(b) => AMQPValue::Boolean(*b),
        HeaderValue::Float(f) => AMQPValue::Double(*f),
        HeaderValue::Other(json) => match serde_json::from_str(json) {
            Ok(value) => json_to_amqp(value),
            Err(_) => AMQPValue::LongString(json.as_str().into()),
        },
    }
}

fn json_to_amqp(value: Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(b) => AMQPValue::Boolean(b),
        Value::Number(n) => match n.as_i64() {
            Some(n) => AMQPValue::LongLongInt(n),
            None => AMQPValue::Double(n.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => AMQPValue::LongString(text.into()),
        Value::Array(items) => {
            AMQPValue::FieldArray(FieldArray::from(items.into_iter().map(json_to_amqp).collect::<Vec<_>>()))
        }
        Value::Object(members) => {
            // AMQP has no names of more than 255 bytes; such a member cannot be carried.
            let fields = members
                .into_iter()
                .filter_map(|(name, value)| Some((ShortString::try_new(name).ok()?, json_to_amqp(value))));
            AMQPValue::FieldTable(FieldTable::from(fields.collect::<BTreeMap<_, _>>()))
        }
    }
}

/// The properties of a message that came.
pub(super) fn from_amqp(amqp: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let headers = amqp.headers().as_ref().map(FieldTable::inner);
    Properties {
        message_id: text(amqp.message_id()),
        correlation_id: text(amqp.correlation_id()),
        reply_to: text(amqp.reply_to()),
        content_type: text(amqp.content_type()),
        content_encoding: text(amqp.content_encoding()),
        kind: text(amqp.kind()),
        priority: *amqp.priority(),
        timestamp: *amqp.timestamp(),
        headers: headers
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str().to_owned(), header_from_amqp(value)))
            .collect(),
    }
}

fn header_from_amqp(value: &AMQPValue) -> HeaderValue {
    match amqp_to_json(value) {
        Value::String(text) => HeaderValue::Text(text),
        Value::Bool(b) => HeaderValue::Bool(b),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) if !matches!(value, AMQPValue::Double(_) | AMQPValue::Float(_)) => {
                HeaderValue::Int(n)
            }
            (_, Some(f)) => HeaderValue::Float(f),
            _ => HeaderValue::Other(n.to_string()),
        },
        other => HeaderValue::Other(other.to_string()),
    }
}

fn amqp_to_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(b) => Value::Bool(*b),
        AMQPValue::ShortShortInt(n) => (*n).into(),
        AMQPValue::ShortShortUInt(n) => (*n).into(),
        AMQPValue::ShortInt(n) => (*n).into(),
        AMQPValue::ShortUInt(n) => (*n).into(),
        AMQPValue::LongInt(n) => (*n).into(),
        AMQPValue::LongUInt(n) => (*n).into(),
        AMQPValue::LongLongInt(n) => (*n).into(),
        AMQPValue::Timestamp(n) => (*n).into(),
        AMQPValue::Float(f) => float_to_json(f64::from(*f)),
        AMQPValue::Double(f) => float_to_json(*f),
        AMQPValue::DecimalValue(d) => float_to_json(f64::from(d.value) / 10f64.powi(i32::from(d.scale))),
        AMQPValue::ShortString(text) => Value::String(text.as_str().to_owned()),
        AMQPValue::LongString(text) => Value::String(text.to_string()),
        AMQPValue::FieldArray(items) => Value::Array(items.as_slice().iter().map(amqp_to_json).collect()),
        AMQPValue::FieldTable(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| (name.as_str().to_owned(), amqp_to_json(value)))
                .collect::<Map<_, _>>(),
        ),
        AMQPValue::ByteArray(bytes) => Value::Array(bytes.as_slice().iter().map(|b| (*b).into()).collect()),
        AMQPValue::Void => Value::Null,
    }
}

/// JSON has no infinity and no NaN; they become texts.
fn float_to_json(f: f64) -> Value {
    Number::from_f64(f).map_or_else(|| Value::String(f.to_string()), Value::Number)
}

#[cfg(test)]
mod tests {
    use lapin::types::{ByteArray, DecimalValue};

    use super::*;

    #[test]
    fn headers_of_every_amqp_type_are_read() {
        let table = FieldTable::from(BTreeMap::from([("a".into(), AMQPValue::LongInt(1))]));
        let array = FieldArray::from(vec![AMQPValue::Void, AMQPValue::Float(0.5)]);
        let other = |json: &str| HeaderValue::Other(json.into());
        for (amqp, expected) in [
            (AMQPValue::Boolean(true), HeaderValue::Bool(true)),
            (AMQPValue::ShortShortInt(-1), HeaderValue::Int(-1)),
            (AMQPValue::ShortShortUInt(255), HeaderValue::Int(255)),
            (AMQPValue::ShortInt(-2), HeaderValue::Int(-2)),
            (AMQPValue::ShortUInt(2), HeaderValue::Int(2)),
            (AMQPValue::LongInt(-3), HeaderValue::Int(-3)),
            (AMQPValue::LongUInt(u32::MAX), HeaderValue::Int(i64::from(u32::MAX))),
            (AMQPValue::LongLongInt(i64::MIN), HeaderValue::Int(i64::MIN)),
            (AMQPValue::Timestamp(17), HeaderValue::Int(17)),
            (AMQPValue::Float(0.5), HeaderValue::Float(0.5)),
            (AMQPValue::Double(2.0), HeaderValue::Float(2.0)),
            (AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 125 }), HeaderValue::Float(1.25)),
            (AMQPValue::ShortString("s".into()), HeaderValue::Text("s".into())),
            (AMQPValue::LongString("l".into()), HeaderValue::Text("l".into())),
            (AMQPValue::ByteArray(ByteArray::from(vec![1, 2])), other("[1,2]")),
            (AMQPValue::FieldArray(array), other("[null,0.5]")),
            (AMQPValue::FieldTable(table), other(r#"{"a":1}"#)),
            (AMQPValue::Void, other("null")),
        ] {
            assert_eq!(header_from_amqp(&amqp), expected, "{amqp:?}");
        }
    }

    #[test]
    fn what_amqp_cannot_carry_is_refused() {
        let mut message = Message {
            queue: "q".into(),
            body: bytes::Bytes::new(),
            properties: Properties::default(),
            persistent: true,
        };
        assert_eq!(to_amqp(&message).map(|amqp| *amqp.delivery_mode()), Ok(Some(2)));
        message.properties.message_id = Some("x".repeat(256));
        assert_eq!(to_amqp(&message), Err("message_id is longer than 255 bytes".into()));
    }
}
