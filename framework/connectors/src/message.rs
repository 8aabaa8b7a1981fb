//! Messages to RabbitMQ, from the parameters that SQS and SNS share.

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::Bytes;
use md5::{Digest, Md5};
use serde_json::Value;
use stagepost_protocol::{HeaderValue, Properties};

/// The body that a parameter has: a text as it is, anything else as JSON. `None`: there is none.
pub(crate) fn body(parameters: &Value, member: &str) -> Option<Bytes> {
    match parameters.get(member) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(Bytes::from(text.clone())),
        Some(other) => Some(Bytes::from(other.to_string())),
    }
}

/// The properties: message attributes become headers. The id is a function of the attempt, so that a message which is
/// sent again after a crash can be told from another one. The error says what is wrong.
pub(crate) fn properties(parameters: &Value, attempt_id: &str) -> Result<Properties, String> {
    let mut headers = BTreeMap::new();
    match parameters.get("MessageAttributes") {
        None | Some(Value::Null) => {}
        Some(Value::Object(attributes)) => {
            for (name, attribute) in attributes {
                let Some(value) = attribute.get("StringValue").and_then(Value::as_str) else {
                    return Err(format!("the message attribute '{name}' has no StringValue"));
                };
                headers.insert(name.clone(), HeaderValue::from(value));
            }
        }
        Some(_) => return Err("MessageAttributes must be an object".to_owned()),
    }
    let hex = md5(attempt_id.as_bytes());
    let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    Ok(Properties { message_id: Some(id), headers, ..Properties::default() })
}

/// The MD5 of bytes, in hexadecimal digits.
pub(crate) fn md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
