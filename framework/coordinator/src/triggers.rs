//! Triggers: each message on a queue of an existing producer starts an execution. Its `message_id` names the
//! execution, so that a message that comes twice starts one. It is acknowledged when the start is confirmed.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use stagepost_broker::Delivery;
use stagepost_protocol::{DeadReason, ExpressStart, Message, Payload, ShardMessage, limits, shard::Start};
use stagepost_store::StateMachineRow;
use tokio_util::sync::CancellationToken;

use crate::{
    callbacks::{consume, publish},
    dispatch, express,
    options::{Options, Trigger},
    pipeline::{Backoff, Shared, await_store},
};

const PREFETCH: u16 = 64;

/// Consumes a trigger's queue until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    options: Options,
    trigger: Trigger,
    shutdown: CancellationToken,
) {
    let Some(mut consumer) = consume(&shared, &trigger.queue, PREFETCH, &shutdown).await else { return };
    let acker = consumer.acker();
    loop {
        let deliveries = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            deliveries = consumer.next(usize::from(PREFETCH)) => deliveries,
        };
        let Some(deliveries) = deliveries else { return };
        let machine = state_machine(&shared, &trigger).await;
        let mut messages = Vec::new();
        for delivery in &deliveries {
            messages.push(match start(&trigger, machine.as_ref(), delivery) {
                Ok(Started::Standard(start)) => {
                    let queue = options.topology.shard(options.shards.of(start.execution.id()));
                    ShardMessage::Start(start).encode(queue, None)
                }
                Ok(Started::Express(start)) => start.encode(options.topology.express()),
                Err((kind, reason)) => dead(&options, &trigger, delivery, kind, &reason),
            });
        }
        publish(&shared, messages).await;
        if let Some(last) = deliveries.last() {
            acker.ack_up_to(last.tag).await;
        }
    }
}

fn dead(
    options: &Options,
    trigger: &Trigger,
    delivery: &Delivery,
    kind: DeadReason,
    reason: &str,
) -> Message {
    tracing::warn!(reason, queue = trigger.queue, "a message started nothing; it is among the dead letters");
    dispatch::dead_letter(&options.topology, &trigger.queue, delivery, kind, reason)
}

async fn state_machine(shared: &Shared, trigger: &Trigger) -> Option<StateMachineRow> {
    let mut backoff = Backoff::new();
    loop {
        match shared.store.state_machine(&trigger.state_machine).await {
            Ok(row) => return row.filter(|row| row.status == "ACTIVE"),
            Err(error) => {
                tracing::warn!(%error, "a state machine could not be looked up; trying again");
                backoff.wait().await;
                await_store(shared).await;
            }
        }
    }
}

/// What a message starts.
#[derive(Debug)]
enum Started {
    Standard(Box<Start>),
    Express(Box<ExpressStart>),
}

/// The start that a message asks for, or why it asks for none.
fn start(
    trigger: &Trigger,
    machine: Option<&StateMachineRow>,
    delivery: &Delivery,
) -> Result<Started, (DeadReason, String)> {
    let machine = machine.ok_or_else(|| {
        (DeadReason::NoStateMachine, format!("there is no state machine {}", trigger.state_machine))
    })?;
    if delivery.body.len() > limits::PAYLOAD_BYTES_MAX {
        let (bytes, max) = (delivery.body.len(), limits::PAYLOAD_BYTES_MAX);
        let reason = format!("its body has {bytes} bytes, more than the {max} of an execution's input");
        return Err((DeadReason::TooLarge, reason));
    }
    let input = Payload::parse_bytes(&delivery.body)
        .map_err(|e| (DeadReason::NotJson, format!("its body is not JSON: {e}")))?;
    let name = execution_name(delivery);
    if machine.is_express() {
        return Ok(Started::Express(Box::new(express::start(machine, &name, input))));
    }
    Ok(Started::Standard(Box::new(Start {
        execution: trigger.state_machine.execution(&name),
        state_machine: trigger.state_machine.clone(),
        definition_id: machine.definition_id.clone(),
        role_arn: machine.role_arn.clone(),
        input,
        trace_header: None,
        fresh: delivery.properties.message_id.is_none(),
        parent: None,
        map_item: None,
    })))
}

/// The message's id, if it can be the name of an execution; else a hash of it. A message without an id cannot be
/// recognised when it comes again, so it gets a new name.
fn execution_name(delivery: &Delivery) -> String {
    let Some(id) = &delivery.properties.message_id else { return uuid::Uuid::now_v7().to_string() };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !id.is_empty() && id.len() <= limits::NAME_CHARS_MAX && id.chars().all(plain) {
        return id.clone();
    }
    let digest = Sha256::digest(id);
    digest[..16].iter().fold("message-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use stagepost_broker::DeliveryTag;
    use stagepost_protocol::{Namespace, Properties, StateMachineArn, Timestamp};

    fn delivery(id: Option<&str>, body: &'static str) -> Delivery {
        Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            body: Bytes::from_static(body.as_bytes()),
            properties: Properties { message_id: id.map(str::to_owned), ..Properties::default() },
            redelivered: false,
        }
    }

    #[test]
    fn a_message_starts_an_execution_of_its_own_name_or_is_refused_with_a_reason() {
        let arn = StateMachineArn { namespace: Namespace::default(), name: "orders".into() };
        let trigger = Trigger { queue: "web".into(), state_machine: arn.clone() };
        let machine = StateMachineRow {
            arn,
            definition_id: "d".into(),
            role_arn: "r".into(),
            kind: "STANDARD".into(),
            status: "ACTIVE".into(),
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            settings: Payload::empty_object(),
        };
        let standard = |delivery: &Delivery| match start(&trigger, Some(&machine), delivery).unwrap() {
            Started::Standard(start) => start,
            express => panic!("{express:?}"),
        };
        let named = standard(&delivery(Some("order-1"), "{}"));
        assert_eq!((named.execution.name.as_str(), named.fresh), ("order-1", false));
        let odd = |id| standard(&delivery(Some(id), "{}")).execution.name;
        assert!(odd("a b").starts_with("message-") && odd("a b") == odd("a b") && odd("a b") != odd("a c"));
        assert!(standard(&delivery(None, "1")).fresh);
        assert!(start(&trigger, None, &delivery(None, "1")).unwrap_err().1.contains("no state machine"));
        assert!(
            start(&trigger, Some(&machine), &delivery(None, "<xml/>")).unwrap_err().1.contains("not JSON")
        );
        let machine = StateMachineRow { kind: "EXPRESS".into(), ..machine };
        let started = start(&trigger, Some(&machine), &delivery(Some("order-1"), "[]")).unwrap();
        let Started::Express(express) = started else { panic!("{started:?}") };
        assert_eq!((express.execution.name.as_str(), express.input.as_str()), ("order-1", "[]"));
    }
}
