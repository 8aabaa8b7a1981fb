//! Signals that come as messages: each goes on to the shard of its execution; it is acknowledged when that is
//! confirmed.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use stagepost_broker::Delivery;
use stagepost_protocol::{
    ArnError, DeadReason, ExecutionArn, Message, ShardMessage, Signal, SignalMessage, limits,
    payload::json_problem, signal::SignalError,
};
use tokio_util::sync::CancellationToken;

use crate::{
    callbacks::publish,
    dispatch,
    options::{Options, Random},
    pipeline::Shared,
    sources::consume,
};

const PREFETCH: u16 = 64;
/// The largest body: the input may have its full size besides the names and ids.
const BODY_BYTES_MAX: usize = limits::PAYLOAD_BYTES_MAX + 8192;

/// Why a message is no signal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unusable {
    #[error("its body has {0} bytes, more than {BODY_BYTES_MAX}")]
    TooLarge(usize),
    #[error("its body is not a signal, {{\"executionArn\": …, \"signalName\": …, \"input\": …}}: {0}")]
    Body(String),
    #[error("its executionArn names no execution: {0}")]
    Execution(ArnError),
    #[error("it is for an Express execution, which takes no signals")]
    Express,
    #[error(transparent)]
    Signal(#[from] SignalError),
}

impl Unusable {
    fn kind(&self) -> DeadReason {
        match self {
            Unusable::TooLarge(_) => DeadReason::TooLarge,
            Unusable::Body(_) | Unusable::Execution(_) | Unusable::Signal(_) => DeadReason::Malformed,
            Unusable::Express => DeadReason::Refused,
        }
    }
}

/// Consumes the queue of signals until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, options: Options, shutdown: CancellationToken) {
    let queue = options.topology.signals();
    let Some(mut consumer) = consume(&shared, &queue, PREFETCH, &shutdown).await else { return };
    let acker = consumer.acker();
    loop {
        let deliveries = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            deliveries = consumer.next(usize::from(PREFETCH)) => deliveries,
        };
        let Some(deliveries) = deliveries else { return };
        let messages = deliveries.iter().map(|delivery| forward(&options, &queue, delivery));
        publish(&shared, messages.collect()).await;
        if let Some(last) = deliveries.last() {
            acker.ack_up_to(last.tag).await;
        }
    }
}

fn forward(options: &Options, queue: &str, delivery: &Delivery) -> Message {
    match signal(&options.random, delivery) {
        Ok(signal) => {
            let shard = options.topology.shard(options.shards.of(signal.execution.id()));
            ShardMessage::Signal(signal).encode(shard, None)
        }
        Err(reason) => {
            tracing::warn!(%reason, queue, "a message could not be used; it is among the dead letters");
            dispatch::dead_letter(&options.topology, queue, delivery, reason.kind(), &reason.to_string())
        }
    }
}

fn signal(random: &Random, delivery: &Delivery) -> Result<Signal, Unusable> {
    if delivery.body.len() > BODY_BYTES_MAX {
        return Err(Unusable::TooLarge(delivery.body.len()));
    }
    let message: SignalMessage =
        serde_json::from_slice(&delivery.body).map_err(|error| Unusable::Body(json_problem(&error)))?;
    let execution = ExecutionArn::parse(&message.execution_arn).map_err(Unusable::Execution)?;
    if execution.is_express() {
        return Err(Unusable::Express);
    }
    let id = message.signal_id.unwrap_or_else(|| signal_id(random, delivery));
    let signal = Signal { execution, name: message.signal_name, id, input: message.input };
    signal.check()?;
    Ok(signal)
}

/// The message's id, or a hash of one that is too long. A message without an id cannot be recognised when it comes
/// again, so its signal gets a new one.
fn signal_id(random: &Random, delivery: &Delivery) -> String {
    match delivery.properties.message_id.as_deref() {
        None | Some("") => format!("{:016x}{:016x}", random.next(), random.next()),
        Some(id) if id.chars().count() <= limits::SIGNAL_ID_CHARS_MAX => id.to_owned(),
        Some(id) => {
            let digest = Sha256::digest(id);
            digest[..16].iter().fold("message-".to_owned(), |id, byte| format!("{id}{byte:02x}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use stagepost_broker::DeliveryTag;
    use stagepost_protocol::Properties;

    use super::*;

    const EXECUTION: &str = "arn:aws:states:us-east-1:000000000000:execution:m:e";

    fn delivery(message_id: Option<&str>, body: String) -> Delivery {
        Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            body: Bytes::from(body),
            properties: Properties { message_id: message_id.map(str::to_owned), ..Properties::default() },
            redelivered: false,
            routing_key: None,
        }
    }

    #[test]
    fn each_message_becomes_a_signal_or_a_reason() {
        let random = Random::system();
        let read = |body: &str| signal(&random, &delivery(Some("m-1"), body.replace("EXECUTION", EXECUTION)));
        let full =
            read(r#"{"executionArn":"EXECUTION","signalName":"n","input":[1],"signalId":"1"}"#).unwrap();
        assert_eq!((full.name.as_str(), full.id.as_str(), full.input.as_str()), ("n", "1", "[1]"));
        assert_eq!(full.execution.to_string(), EXECUTION);
        let least = read(r#"{"executionArn":"EXECUTION","signalName":"n"}"#).unwrap();
        assert_eq!((least.id.as_str(), least.input.as_str()), ("m-1", "{}"));
        let express = "arn:aws:states:us-east-1:000000000000:express:m:e:1";
        for (body, told) in [
            (r#"{"signalName":"n"}"#, "a member is missing"),
            ("<signal/>", "its body is not a signal"),
            (r#"{"executionArn":"m:e","signalName":"n"}"#, "names no execution"),
            (r#"{"executionArn":"EXECUTION","signalName":""}"#, "1 to 256 characters"),
            (&format!(r#"{{"executionArn":"{express}","signalName":"n"}}"#), "Express"),
            (&"x".repeat(BODY_BYTES_MAX + 1), "more than"),
        ] {
            let reason = read(body).unwrap_err().to_string();
            assert!(reason.contains(told), "{told}: {reason}");
        }
    }

    #[test]
    fn a_message_names_its_signal_if_it_has_an_id() {
        let body = || format!(r#"{{"executionArn":"{EXECUTION}","signalName":"n"}}"#);
        let random = Random::system();
        let id = |message_id: Option<&str>| signal(&random, &delivery(message_id, body())).unwrap().id;
        let long = "x".repeat(300);
        assert!(id(Some(&long)).starts_with("message-") && id(Some(&long)) == id(Some(&long)));
        assert_ne!(id(None), id(None));
    }
}
