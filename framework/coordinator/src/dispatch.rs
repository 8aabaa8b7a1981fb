//! From commands to messages.

use bytes::Bytes;
use stagepost_broker::Delivery;
use stagepost_engine::{Command, Dispatch, Send};
use stagepost_protocol::{
    ExecutionArn, ExecutionId, HeaderValue, Message, Properties, TaskMessage,
    message::{HEADER_REASON, HEADER_SOURCE},
    topology::Topology,
};

/// The message of a command. What becomes of an attempt is reported to the queue `reply_to`.
pub(crate) fn message(
    topology: &Topology,
    reply_to: &str,
    id: ExecutionId,
    arn: &ExecutionArn,
    command: Command,
    republished: bool,
) -> Message {
    match command {
        Command::Dispatch(dispatch) => task(topology, reply_to, id, arn, dispatch, republished),
        Command::Send(send) => user_message(send),
    }
}

fn task(
    topology: &Topology,
    reply_to: &str,
    id: ExecutionId,
    arn: &ExecutionArn,
    dispatch: Dispatch,
    republished: bool,
) -> Message {
    TaskMessage {
        queue: topology.activity(&arn.namespace, &dispatch.activity),
        attempt_id: format!("{id}-{}", dispatch.event_id),
        idempotency_key: format!("{id}-{}", dispatch.entered_event_id),
        token: dispatch.token,
        attempt: dispatch.attempt,
        execution: arn.to_string(),
        state: dispatch.state,
        deadline: dispatch.deadline,
        heartbeat_millis: dispatch.heartbeat_millis,
        input: dispatch.input,
        reply_to: reply_to.to_owned(),
        priority: 0,
        fairness_key: String::new(),
        republished,
        traceparent: None,
    }
    .encode()
}

fn user_message(send: Send) -> Message {
    let headers = send.attributes.into_iter().map(|(name, value)| (name, HeaderValue::Text(value))).collect();
    Message {
        queue: send.queue,
        body: Bytes::from(send.body),
        properties: Properties { message_id: Some(send.message_id), headers, ..Properties::default() },
        persistent: true,
    }
}

/// A message that could not be used, as it goes to the dead letters: body and properties as they were, the
/// reason and the queue that it came from in headers.
pub(crate) fn dead_letter(topology: &Topology, source: &str, delivery: &Delivery, reason: &str) -> Message {
    let (body, properties) = (delivery.body.clone(), delivery.properties.clone());
    dead_message(
        topology,
        source,
        Message { queue: source.to_owned(), body, properties, persistent: true },
        reason,
    )
}

/// As [`dead_letter`], for a message of our own making.
pub(crate) fn dead_message(topology: &Topology, source: &str, message: Message, reason: &str) -> Message {
    let mut properties = message.properties;
    properties.headers.insert(HEADER_REASON.to_owned(), reason.into());
    properties.headers.insert(HEADER_SOURCE.to_owned(), source.into());
    Message { queue: topology.dead_letters(), body: message.body, properties, persistent: true }
}
