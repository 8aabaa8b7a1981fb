//! From commands to messages.

use stagepost_broker::Delivery;
use stagepost_engine::{Command, StartChild, StopChild};
use stagepost_protocol::{
    DeadLetter, DeadReason, ExecutionArn, ExecutionId, MapItem, Message, ShardMessage, Shards, TaskMessage,
    shard::{Start, Stop},
    topology::Topology,
};

/// Whose command it is.
pub(crate) struct Sender<'a> {
    pub(crate) id: ExecutionId,
    pub(crate) arn: &'a ExecutionArn,
    /// The definition that it runs.
    pub(crate) definition_id: &'a str,
    /// The queue that what becomes of an attempt is reported to.
    pub(crate) reply_to: &'a str,
}

/// The message of a command.
pub(crate) fn message(
    topology: &Topology,
    shards: Shards,
    from: &Sender<'_>,
    command: Command,
    republished: bool,
) -> Message {
    let Sender { id, arn, definition_id, reply_to } = *from;
    let task = match command {
        Command::StartChild(child) => {
            return start_child(topology, shards, definition_id, child, republished);
        }
        Command::RedriveChild(child) => {
            let queue = topology.shard(shards.of(child.execution.id()));
            return ShardMessage::RedriveChild(child).encode(queue, None);
        }
        Command::StopChild(child) => return stop_child(topology, shards, child),
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
            returns: dispatch.returns,
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
            returns: call.returns,
            traceparent: None,
        },
    };
    task.encode()
}

/// Starts a child execution of an execution that runs this definition.
fn start_child(
    topology: &Topology,
    shards: Shards,
    definition_id: &str,
    child: StartChild,
    republished: bool,
) -> Message {
    let queue = topology.shard(shards.of(child.execution.id()));
    // A child's own definition names its parent's too: labels are unique in it, so it is the base of its children's.
    let base = definition_id.split_once('/').map_or(definition_id, |(base, _)| base);
    let start = Start {
        execution: child.execution,
        state_machine: child.state_machine,
        definition_id: format!("{base}/{}", child.label),
        role_arn: child.role_arn,
        input: child.input,
        trace_header: None,
        // Its name is made of what has never been asked for before.
        fresh: !child.again && !republished,
        parent: Some(child.parent),
        map_item: Some(MapItem { map_run: child.map_run, items: child.items }),
    };
    ShardMessage::Start(Box::new(start)).encode(queue, None)
}

fn stop_child(topology: &Topology, shards: Shards, child: StopChild) -> Message {
    let queue = topology.shard(shards.of(child.execution.id()));
    let StopChild { execution, parent, redrives } = child;
    let stop = Stop { execution, error: None, cause: None, parent: Some(parent), redrives: Some(redrives) };
    ShardMessage::Stop(stop).encode(queue, None)
}

/// A message of a queue that could not be used, as it goes to the dead letters: see [`DeadLetter::bury`].
pub(crate) fn dead_letter(
    topology: &Topology,
    source: &str,
    delivery: &Delivery,
    kind: DeadReason,
    reason: &str,
) -> Message {
    let (body, properties) = (delivery.body.clone(), delivery.properties.clone());
    let message = Message { queue: source.to_owned(), body, properties, persistent: true };
    dead_message(topology, message, kind, reason)
}

/// As [`dead_letter`], for a message of our own making, or one that did not reach its queue.
pub(crate) fn dead_message(topology: &Topology, message: Message, kind: DeadReason, reason: &str) -> Message {
    DeadLetter::bury(topology.dead_letters(), message, kind, reason, uuid::Uuid::now_v7().to_string())
}
