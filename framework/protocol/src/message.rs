//! Messages as a broker carries them, and the two that programs which are not ours may read and write: the task
//! message and the token message (wire contracts; `docs` of the project describe them for users).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Payload, ReportOutcome, ServiceCall, TaskToken, Timestamp};

/// Header: the attempt's task token.
pub const HEADER_TASK_TOKEN: &str = "stagepost-task-token";
/// Header: the number of the attempt, from 1.
pub const HEADER_ATTEMPT: &str = "stagepost-attempt";
/// Header: the ARN of the execution.
pub const HEADER_EXECUTION: &str = "stagepost-execution";
/// Header: the name of the state.
pub const HEADER_STATE: &str = "stagepost-state";
/// Header: the idempotency key, the same for every attempt of one step.
pub const HEADER_IDEMPOTENCY_KEY: &str = "stagepost-idempotency-key";
/// Header: when the attempt times out, in milliseconds since the epoch.
pub const HEADER_DEADLINE: &str = "stagepost-deadline";
/// Header of a task on the connectors' queue: what it calls, for instance `lambda:invoke.waitForTaskToken`.
pub const HEADER_RESOURCE: &str = "stagepost-resource";
/// Header of a task on the connectors' queue: the ARN of the function, where the resource is `lambda:function`.
pub const HEADER_FUNCTION: &str = "stagepost-function";
/// Header: heartbeats must come at least this often, in milliseconds.
pub const HEADER_HEARTBEAT: &str = "stagepost-heartbeat";
/// Header: this message was published again, after a crash or from the dead letters, and may be a repetition.
pub const HEADER_REPUBLISHED: &str = "stagepost-republished";
/// Header of a task message: how often its attempt had been given back.
pub const HEADER_RETURNS: &str = "stagepost-returns";
/// Header: the fairness key.
pub const HEADER_FAIRNESS_KEY: &str = "stagepost-fairness-key";
/// Header of a dead letter: why the message could not be used.
pub const HEADER_REASON: &str = "stagepost-reason";
/// Header of a dead letter: the same as one of a few words, which can be counted.
pub const HEADER_REASON_KIND: &str = "stagepost-reason-kind";
/// Header of a dead letter: the queue that the message came from.
pub const HEADER_SOURCE: &str = "stagepost-source";
/// Header of a dead letter: its id, a UUID that orders them by time.
pub const HEADER_DEAD_LETTER: &str = "stagepost-dead-letter";
/// Header of a GetActivityTask request over HTTP: how long the server may hold it at the most, in milliseconds.
pub const HEADER_WAIT: &str = "stagepost-wait";
/// Header of a GetActivityTask request over HTTP: the poller sends heartbeats of whatever it is given, at least so often,
/// in milliseconds, or it is gone.
pub const HEADER_LEASE: &str = "stagepost-lease";
/// Header of a GetActivityTask request over HTTP, `true`: the activity may run twice.
pub const HEADER_IDEMPOTENT: &str = "stagepost-idempotent";
/// Header: W3C trace context.
pub const HEADER_TRACEPARENT: &str = "traceparent";

/// A value in a message's headers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderValue {
    /// A text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A number.
    Float(f64),
    /// Anything else that AMQP knows, as JSON text.
    Other(String),
}

impl HeaderValue {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            HeaderValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one or a text of one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            HeaderValue::Int(n) => Some(*n),
            HeaderValue::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            HeaderValue::Text(text) => text.as_str().into(),
            HeaderValue::Int(n) => (*n).into(),
            HeaderValue::Bool(b) => (*b).into(),
            HeaderValue::Float(f) => (*f).into(),
            HeaderValue::Other(json) => serde_json::from_str(json).unwrap_or_default(),
        }
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> HeaderValue {
        HeaderValue::Text(text.into())
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> HeaderValue {
        HeaderValue::Text(text)
    }
}

impl From<i64> for HeaderValue {
    fn from(n: i64) -> HeaderValue {
        HeaderValue::Int(n)
    }
}

/// The properties of a message (AMQP 0.9.1 basic properties, those that are used).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Properties {
    /// Names the message.
    pub message_id: Option<String>,
    /// What a reply repeats.
    pub correlation_id: Option<String>,
    /// The queue to answer to.
    pub reply_to: Option<String>,
    /// For instance `application/json`.
    pub content_type: Option<String>,
    /// What the body is packed with, for instance `gzip`.
    pub content_encoding: Option<String>,
    /// The kind of the message, in our own words.
    pub kind: Option<String>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// The sender's time, in seconds since the epoch.
    pub timestamp: Option<u64>,
    /// Further headers.
    pub headers: BTreeMap<String, HeaderValue>,
}

impl Properties {
    /// About how many bytes the headers have.
    pub fn header_bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| {
            name.len()
                + match value {
                    HeaderValue::Text(text) | HeaderValue::Other(text) => text.len(),
                    HeaderValue::Int(_) | HeaderValue::Bool(_) | HeaderValue::Float(_) => 8,
                }
        });
        headers.sum()
    }
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The queue that it goes to, through the default exchange.
    pub queue: String,
    /// Its body.
    pub body: Bytes,
    /// Its properties.
    pub properties: Properties,
    /// Whether it must survive a restart of the broker. Requests and replies need not.
    pub persistent: bool,
}

impl Message {
    /// Marks it as one that the broker may have, or have had, already: whoever gets it must know that it may be the
    /// second one.
    pub fn mark_republished(&mut self) {
        self.properties.headers.insert(HEADER_REPUBLISHED.to_owned(), HeaderValue::Bool(true));
    }
}

/// The work of one attempt, as it lies on `stagepost.activity.NAME`.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskMessage {
    /// The queue that it lies on.
    pub queue: String,
    /// Names the attempt, and so the message.
    pub attempt_id: String,
    /// Completes the attempt.
    pub token: TaskToken,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The ARN of the execution.
    pub execution: String,
    /// The name of the state.
    pub state: String,
    /// Names the step (one visit of one state), the same for all its attempts and for no other step: what an
    /// activity gives to services that take an idempotency key. At most 255 characters of ASCII are portable.
    pub idempotency_key: String,
    /// When the attempt times out.
    pub deadline: Option<Timestamp>,
    /// How often heartbeats must come, in milliseconds.
    pub heartbeat_millis: Option<i64>,
    /// What it calls, where it is a call of a service and lies on the connectors' queue.
    pub call: Option<ServiceCall>,
    /// The activity's input, or the call's parameters.
    pub input: Payload,
    /// The shard queue that results go to.
    pub reply_to: String,
    /// 0 (the default) to 9.
    pub priority: u8,
    /// Tasks of one key are served in turn with those of other keys. Empty: none.
    pub fairness_key: String,
    /// Published again: after a crash, or from the dead letters.
    pub republished: bool,
    /// How often the attempt had been given back when it was given out with this message: what was given out before is
    /// to be run by nobody any more.
    pub returns: u32,
    /// W3C trace context, passed on.
    pub traceparent: Option<String>,
}

/// Why a message is not a task message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskMessageError {
    /// A header or property is missing or of another type.
    #[error("the task message has no usable '{0}'")]
    Missing(&'static str),
    /// The body is not JSON.
    #[error("the body of the task message is not JSON: {0}")]
    Body(String),
}

impl TaskMessage {
    /// As the broker carries it.
    pub fn encode(&self) -> Message {
        let mut headers = BTreeMap::new();
        let mut header = |name: &str, value: HeaderValue| headers.insert(name.to_owned(), value);
        header(HEADER_TASK_TOKEN, self.token.as_str().into());
        header(HEADER_ATTEMPT, i64::from(self.attempt).into());
        header(HEADER_EXECUTION, self.execution.as_str().into());
        header(HEADER_STATE, self.state.as_str().into());
        header(HEADER_IDEMPOTENCY_KEY, self.idempotency_key.as_str().into());
        if let Some(deadline) = self.deadline {
            header(HEADER_DEADLINE, deadline.as_millis().into());
        }
        if let Some(heartbeat) = self.heartbeat_millis {
            header(HEADER_HEARTBEAT, heartbeat.into());
        }
        if let Some(call) = &self.call {
            header(HEADER_RESOURCE, call.resource().into());
            if let Some(function) = &call.function {
                header(HEADER_FUNCTION, function.as_str().into());
            }
        }
        if !self.fairness_key.is_empty() {
            header(HEADER_FAIRNESS_KEY, self.fairness_key.as_str().into());
        }
        if self.republished {
            header(HEADER_REPUBLISHED, HeaderValue::Bool(true));
        }
        if self.returns > 0 {
            header(HEADER_RETURNS, i64::from(self.returns).into());
        }
        if let Some(traceparent) = &self.traceparent {
            header(HEADER_TRACEPARENT, traceparent.as_str().into());
        }
        Message {
            queue: self.queue.clone(),
            body: Bytes::copy_from_slice(self.input.as_str().as_bytes()),
            properties: Properties {
                message_id: Some(self.attempt_id.clone()),
                reply_to: Some(self.reply_to.clone()),
                content_type: Some("application/json".into()),
                priority: (self.priority > 0).then_some(self.priority),
                headers,
                ..Properties::default()
            },
            persistent: true,
        }
    }

    /// Reads what [`TaskMessage::encode`] wrote.
    pub fn decode(
        queue: &str,
        body: &[u8],
        properties: &Properties,
    ) -> Result<TaskMessage, TaskMessageError> {
        let header = |name| properties.headers.get(name);
        let text = |name| header(name).and_then(HeaderValue::as_text).ok_or(TaskMessageError::Missing(name));
        let attempt_id = properties.message_id.clone().ok_or(TaskMessageError::Missing("message_id"))?;
        Ok(TaskMessage {
            queue: queue.to_owned(),
            token: TaskToken::from_untrusted(text(HEADER_TASK_TOKEN)?),
            attempt: header(HEADER_ATTEMPT)
                .and_then(HeaderValue::as_int)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or(TaskMessageError::Missing(HEADER_ATTEMPT))?,
            execution: text(HEADER_EXECUTION)?.to_owned(),
            state: text(HEADER_STATE)?.to_owned(),
            idempotency_key: text(HEADER_IDEMPOTENCY_KEY)?.to_owned(),
            deadline: header(HEADER_DEADLINE).and_then(HeaderValue::as_int).map(Timestamp::from_millis),
            heartbeat_millis: header(HEADER_HEARTBEAT).and_then(HeaderValue::as_int),
            call: match header(HEADER_RESOURCE) {
                None => None,
                Some(resource) => {
                    let call = resource.as_text().and_then(ServiceCall::parse);
                    let call = call.ok_or(TaskMessageError::Missing(HEADER_RESOURCE))?;
                    Some(ServiceCall { function: text(HEADER_FUNCTION).ok().map(str::to_owned), ..call })
                }
            },
            input: Payload::parse_bytes(body).map_err(|e| TaskMessageError::Body(e.to_string()))?,
            reply_to: properties.reply_to.clone().ok_or(TaskMessageError::Missing("reply_to"))?,
            priority: properties.priority.unwrap_or(0),
            fairness_key: text(HEADER_FAIRNESS_KEY).unwrap_or("").to_owned(),
            republished: matches!(header(HEADER_REPUBLISHED), Some(HeaderValue::Bool(true))),
            returns: header(HEADER_RETURNS)
                .and_then(HeaderValue::as_int)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0),
            traceparent: text(HEADER_TRACEPARENT).ok().map(str::to_owned),
            attempt_id,
        })
    }
}

/// The body of a message on `stagepost.callbacks`: how a person's approval, a foreign worker or an SQS-like
/// consumer answers. Exactly one of `output`, `error` and `heartbeat` says what became of the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenMessage {
    /// The token of the task.
    pub task_token: TaskToken,
    /// The task succeeded with this output.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub output: Option<Payload>,
    /// The task failed with this error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The task is still being worked on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub heartbeat: bool,
    /// Who answers, for the record of an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl TokenMessage {
    /// What says this of a task, by whom if that is known; `None` for what no token message says, and for heartbeats.
    pub fn of(task_token: TaskToken, outcome: ReportOutcome, by: Option<String>) -> Option<TokenMessage> {
        let (output, error, cause) = match outcome {
            ReportOutcome::Succeeded(output) => (Some(output), None, None),
            ReportOutcome::Failed { error, cause } => (None, error, cause),
            _ => return None,
        };
        Some(TokenMessage { task_token, output, error, cause, heartbeat: false, by })
    }
}

/// `"output": null` is an output, a missing one is none: serde alone would read both as `None`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Payload>, D::Error> {
    Payload::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IntegrationPattern;

    #[test]
    fn a_task_message_survives_the_broker() {
        let task = TaskMessage {
            queue: "stagepost.activity.a".into(),
            attempt_id: "x-3".into(),
            token: TaskToken::from_untrusted("t"),
            attempt: 2,
            execution: "arn:…".into(),
            state: "Charge".into(),
            idempotency_key: "x/1".into(),
            deadline: Some(Timestamp::from_millis(17)),
            heartbeat_millis: Some(500),
            call: Some(ServiceCall {
                service: "lambda".into(),
                action: "function".into(),
                pattern: IntegrationPattern::RequestResponse,
                function: Some("arn:aws:lambda:us-east-1:000000000000:function:f".into()),
            }),
            input: Payload::parse("{\"a\":1}").unwrap(),
            reply_to: "stagepost.shard.00".into(),
            priority: 3,
            fairness_key: "tenant".into(),
            republished: true,
            returns: 2,
            traceparent: Some("00-1-2-01".into()),
        };
        let m = task.encode();
        assert!(m.persistent);
        assert_eq!(TaskMessage::decode(&m.queue, &m.body, &m.properties), Ok(task));
        assert_eq!(
            TaskMessage::decode("q", b"{}", &Properties::default()),
            Err(TaskMessageError::Missing("message_id"))
        );
    }

    #[test]
    fn token_messages_are_read_as_documented() {
        let read = |text: &str| serde_json::from_str::<TokenMessage>(text);
        assert_eq!(read(r#"{"taskToken":"t","output":null}"#).unwrap().output.unwrap().as_str(), "null");
        assert_eq!(read(r#"{"taskToken":"t","error":"E"}"#).unwrap().output, None);
        assert!(read(r#"{"taskToken":"t","heartbeat":true}"#).unwrap().heartbeat);
        assert!(read(r#"{"output":1}"#).is_err());
        assert!(read(r#"{"taskToken":"t","result":1}"#).is_err());
    }
}
