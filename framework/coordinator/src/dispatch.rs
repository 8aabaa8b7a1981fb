//! From commands to messages.

use stagepost_broker::Delivery;
use stagepost_engine::Command;
use stagepost_protocol::{
    ExecutionArn, ExecutionId, Message, TaskMessage,
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
    let task = match command {
        Command::Dispatch(dispatch) => TaskMessage {
            queue: topology.activity(&arn.namespace, &dispatch.activity),
            attempt_id: format!("{id}-{}", dispatch.event_id),
            idempotency_key: format!("{id}-{}", dispatch.entered_event_id),
            token: dispatch.token,
            attempt: dispatch.attempt,
            execution: arn.to_string(),
            state: dispatch.state,
            deadline: dispatch.deadline,
            heartbeat_millis: dispatch.heartbeat_millis,
            call: None,
            input: dispatch.input,
            reply_to: reply_to.to_owned(),
            priority: 0,
            fairness_key: String::new(),
            republished,
            traceparent: None,
        },
        Command::Call(call) => TaskMessage {
            queue: topology.connectors(),
            attempt_id: format!("{id}-{}", call.event_id),
            idempotency_key: format!("{id}-{}", call.entered_event_id),
            token: call.token,
            attempt: call.attempt,
            execution: arn.to_string(),
            state: call.state,
            deadline: call.deadline,
            heartbeat_millis: call.heartbeat_millis,
            call: Some(call.target),
            input: call.input,
            reply_to: reply_to.to_owned(),
            priority: 0,
            fairness_key: String::new(),
            republished,
            traceparent: None,
        },
    };
    task.encode()
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
