//! `arn:aws:states:::sqs:sendMessage[.waitForTaskToken]` to a RabbitMQ queue.

use std::fmt;

use md5::{Digest, Md5};
use serde_json::{Value, json};
use stagepost_protocol::{ExecutionId, Payload};

use crate::command::Send;

/// Why parameters name no message.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Not by this version.
    Unsupported(String),
    /// Not by SQS either.
    Invalid(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Problem::Unsupported(text) | Problem::Invalid(text)) = self;
        f.write_str(text)
    }
}

/// The message that the parameters of the call ask for. Its id is a function of the attempt, so that a message
/// which is sent again after a crash can be told from another one.
pub(crate) fn message(execution: ExecutionId, event_id: u64, parameters: &Payload) -> Result<Send, Problem> {
    let parameters = parameters.to_value();
    let queue = queue(parameters.get("QueueUrl"))?;
    let body = match parameters.get("MessageBody") {
        None | Some(Value::Null) => {
            return Err(Problem::Invalid("The request must contain the parameter MessageBody.".to_owned()));
        }
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let attributes = match parameters.get("MessageAttributes") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(attributes)) => attributes
            .iter()
            .map(|(name, attribute)| {
                let value = attribute.get("StringValue").and_then(Value::as_str).ok_or_else(|| {
                    Problem::Unsupported(format!("the message attribute '{name}' has no StringValue"))
                })?;
                Ok((name.clone(), value.to_owned()))
            })
            .collect::<Result<_, Problem>>()?,
        Some(_) => return Err(Problem::Invalid("MessageAttributes must be an object".to_owned())),
    };
    let message_id = message_id(execution, event_id);
    Ok(Send { event_id, queue, message_id, body, attributes })
}

fn queue(url: Option<&Value>) -> Result<String, Problem> {
    let url = match url {
        Some(Value::String(url)) if !url.is_empty() => url,
        _ => return Err(Problem::Invalid("The request must contain the parameter QueueUrl.".to_owned())),
    };
    let name = url.strip_prefix("amqp:///").unwrap_or(url);
    if name.is_empty() || name.contains("://") {
        return Err(Problem::Unsupported(format!(
            "this version of Stagepost sends to RabbitMQ queues only; QueueUrl must be amqp:///QUEUE or the name of \
             a queue, but was '{url}'"
        )));
    }
    Ok(name.to_owned())
}

fn message_id(execution: ExecutionId, event_id: u64) -> String {
    let mut digest = Md5::new();
    digest.update(execution.as_bytes());
    digest.update(event_id.to_be_bytes());
    let hex = hex(&digest.finalize());
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// What SQS answers to a request.
pub(crate) fn answer(message: &Send) -> Payload {
    let digest = hex(&Md5::digest(message.body.as_bytes()));
    Payload::from_value(&json!({ "MD5OfMessageBody": digest, "MessageId": message.message_id }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(parameters: &Value) -> Result<Send, Problem> {
        message(ExecutionId::from_bytes([1; 16]), 3, &Payload::from_value(parameters))
    }

    #[test]
    fn parameters_become_a_message() {
        for (url, queue) in [("amqp:///orders", "orders"), ("orders", "orders")] {
            let attribute = json!({ "kind": { "DataType": "String", "StringValue": "a" } });
            let parameters =
                json!({ "QueueUrl": url, "MessageBody": { "x": 1 }, "MessageAttributes": attribute });
            let message = send(&parameters).unwrap();
            assert_eq!((message.queue.as_str(), message.body.as_str()), (queue, r#"{"x":1}"#));
            assert_eq!(message.attributes, [("kind".to_owned(), "a".to_owned())]);
        }
        let message = send(&json!({ "QueueUrl": "q", "MessageBody": "hello" })).unwrap();
        let answer = answer(&message).to_value();
        assert_eq!(answer["MD5OfMessageBody"], "5d41402abc4b2a76b9719d911017c592");
        assert_eq!(answer["MessageId"].as_str().map(str::len), Some(36));
    }

    #[test]
    fn what_cannot_be_sent_says_why() {
        for bad in [
            json!({}),
            json!({ "QueueUrl": "q" }),
            json!({ "QueueUrl": "", "MessageBody": "x" }),
            json!({ "QueueUrl": "q", "MessageBody": "x", "MessageAttributes": 1 }),
        ] {
            assert!(matches!(send(&bad), Err(Problem::Invalid(_))), "{bad}");
        }
        let http = json!({ "QueueUrl": "http://sqs/1/q", "MessageBody": "x" });
        assert!(matches!(send(&http), Err(Problem::Unsupported(_))));
    }
}
