//! Token messages: how a person's approval, a foreign worker or an SQS-like consumer answers. Each goes on to its
//! execution's shard queue; the message is acknowledged when that is confirmed.

use std::{collections::BTreeMap, sync::Arc};

use stagepost_broker::Delivery;
use stagepost_protocol::{
    DeadReason, Message, Report, ReportOutcome, ShardMessage, TokenAnswer, TokenKey, TokenMessage,
    approval::{Answer, NAME_CHARS_MAX, Via},
    limits,
    payload::json_problem,
};
use tokio_util::sync::CancellationToken;

use crate::{
    dispatch,
    options::Options,
    pipeline::{Backoff, Shared},
    sources::consume,
};

const PREFETCH: u16 = 256;
/// A process that runs Express executions is gone when its queue is missing so many times, some two seconds: longer than
/// it takes to connect again.
const RUNNER_ATTEMPTS: u32 = 6;
/// Answers that go on in one message have about so many bytes at most: a quarter of what a shard accepts, since a
/// text can take more room in JSON that is written anew.
const FORWARD_BYTES_MAX: usize = limits::SHARD_MESSAGE_BYTES_MAX / 4;

/// Why a token message cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unusable {
    #[error("its body has {0} bytes, more than {max}", max = limits::PAYLOAD_BYTES_MAX)]
    TooLarge(usize),
    #[error("its body is not JSON: {0}")]
    NotJson(String),
    #[error("its body is not a token message, {{\"taskToken\": …, \"output\": …}}: {0}")]
    Members(String),
    #[error(
        "it has none of 'output', 'error' or 'cause', and 'heartbeat'; exactly one says what became of the task"
    )]
    NoOutcome,
    #[error(
        "it has more than one of 'output', 'error' or 'cause', and 'heartbeat'; exactly one says what became of the task"
    )]
    ManyOutcomes,
    #[error("its task token is not of this installation")]
    Token,
    #[error("'by' has more than {NAME_CHARS_MAX} characters")]
    By,
}

impl Unusable {
    fn body(error: &serde_json::Error) -> Unusable {
        match error.classify() {
            serde_json::error::Category::Data => Unusable::Members(json_problem(error)),
            _ => Unusable::NotJson(json_problem(error)),
        }
    }

    fn kind(&self) -> DeadReason {
        match self {
            Unusable::TooLarge(_) => DeadReason::TooLarge,
            Unusable::NotJson(_) => DeadReason::NotJson,
            Unusable::Members(_) | Unusable::NoOutcome | Unusable::ManyOutcomes | Unusable::By => {
                DeadReason::Malformed
            }
            Unusable::Token => DeadReason::InvalidToken,
        }
    }
}

/// Consumes a callback queue, which is named or has a URL, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    options: Options,
    token_key: TokenKey,
    queue: String,
    shutdown: CancellationToken,
) {
    let Some(mut consumer) = consume(&shared, &queue, PREFETCH, &shutdown).await else { return };
    let acker = consumer.acker();
    loop {
        let deliveries = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            deliveries = consumer.next(usize::from(PREFETCH)) => deliveries,
        };
        let Some(deliveries) = deliveries else { return };
        let messages = forward(&options, &token_key, &queue, &deliveries);
        publish(&shared, messages).await;
        if let Some(last) = deliveries.last() {
            acker.ack_up_to(last.tag).await;
        }
    }
}

/// Publishes until every message is confirmed. What is meant for a process that is gone goes to the dead letters.
pub(crate) async fn publish(shared: &Shared, mut messages: Vec<Message>) {
    let mut backoff = Backoff::new();
    for attempt in 1.. {
        if messages.is_empty() {
            return;
        }
        let results = shared.broker.publish(messages.clone()).await;
        let refused = |(message, result): (Message, stagepost_broker::Published)| match result {
            Ok(()) | Err(stagepost_broker::Error::Closed) => Vec::new(),
            Err(stagepost_broker::Error::Unroutable { queue })
                if attempt >= RUNNER_ATTEMPTS && shared.topology.is_runner(&queue) =>
            {
                let reason = "the process that ran its Express execution is gone";
                tracing::warn!(reason, queue, "a message could not be used; it is among the dead letters");
                let bury =
                    |message| dispatch::dead_message(&shared.topology, message, DeadReason::Gone, reason);
                match ShardMessage::decode(&message.body, &message.properties) {
                    // Each as it came.
                    Ok(ShardMessage::Answers(answers)) => {
                        answers.into_iter().filter_map(TokenAnswer::message).map(bury).collect()
                    }
                    _ => vec![bury(message)],
                }
            }
            Err(error) => {
                tracing::error!(%error, queue = message.queue, "a message was refused; trying again");
                vec![message]
            }
        };
        messages = messages.into_iter().zip(results).flat_map(refused).collect();
        if !messages.is_empty() {
            backoff.wait().await;
        }
    }
}

fn forward(options: &Options, token_key: &TokenKey, queue: &str, deliveries: &[Delivery]) -> Vec<Message> {
    let mut answers: BTreeMap<String, (Vec<TokenAnswer>, usize)> = BTreeMap::new();
    let mut messages = Vec::new();
    let encode = |queue, answers| ShardMessage::Answers(answers).encode(queue, None);
    for delivery in deliveries {
        match report(token_key, &delivery.body) {
            Ok((execution, report)) => {
                let to = match report.token.claimed_runner() {
                    Some(runner) => options.topology.runner(runner),
                    None => options.topology.shard(options.shards.of(execution)),
                };
                let (gathered, bytes) = answers.entry(to.clone()).or_default();
                let more = delivery.body.len() + delivery.properties.header_bytes();
                if *bytes + more > FORWARD_BYTES_MAX && !gathered.is_empty() {
                    messages.push(encode(to, std::mem::take(gathered)));
                    *bytes = 0;
                }
                *bytes += more;
                let (source, properties) = (queue.to_owned(), delivery.properties.clone());
                gathered.push(TokenAnswer { report, source, properties });
            }
            Err(reason) => {
                tracing::warn!(%reason, queue, "a message could not be used; it is among the dead letters");
                let (kind, reason) = (reason.kind(), reason.to_string());
                messages.push(dispatch::dead_letter(&options.topology, queue, delivery, kind, &reason));
            }
        }
    }
    messages.extend(answers.into_iter().map(|(queue, (answers, _))| encode(queue, answers)));
    messages
}

fn report(token_key: &TokenKey, body: &[u8]) -> Result<(stagepost_protocol::ExecutionId, Report), Unusable> {
    // The output may have its full size besides the token and the field names.
    if body.len() > limits::PAYLOAD_BYTES_MAX + 4096 {
        return Err(Unusable::TooLarge(body.len()));
    }
    let message: TokenMessage = serde_json::from_slice(body).map_err(|error| Unusable::body(&error))?;
    let (execution, _) = token_key.verify(message.task_token.as_str()).ok_or(Unusable::Token)?;
    if message.by.as_ref().is_some_and(|by| by.chars().count() > NAME_CHARS_MAX) {
        return Err(Unusable::By);
    }
    let failed = message.error.is_some() || message.cause.is_some();
    let outcome = match (message.output, failed, message.heartbeat) {
        (Some(output), false, false) => ReportOutcome::Succeeded(output),
        (None, true, false) => ReportOutcome::Failed { error: message.error, cause: message.cause },
        (None, false, true) => ReportOutcome::Heartbeat,
        (None, false, false) => return Err(Unusable::NoOutcome),
        _ => return Err(Unusable::ManyOutcomes),
    };
    Ok((
        execution,
        Report {
            token: message.task_token,
            worker: None,
            started_at: None,
            outcome,
            child: None,
            answer: Some(Answer { via: Via::Message, by: message.by, comment: None }),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stagepost_protocol::ExecutionId;

    #[test]
    fn each_token_message_becomes_a_report_or_a_reason() {
        let key = TokenKey::new(b"k");
        let token = key.sign(ExecutionId::from_bytes([1; 16]), 5);
        let t = token.as_str();
        let read = |body: String| report(&key, body.as_bytes()).map(|(_, r)| r.outcome);
        let ok = read(format!(r#"{{"taskToken":"{t}","output":null}}"#)).unwrap();
        assert!(matches!(ok, ReportOutcome::Succeeded(p) if p.as_str() == "null"));
        let failed = read(format!(r#"{{"taskToken":"{t}","error":"E","cause":"c"}}"#)).unwrap();
        assert_eq!(failed, ReportOutcome::Failed { error: Some("E".into()), cause: Some("c".into()) });
        assert_eq!(read(format!(r#"{{"taskToken":"{t}","heartbeat":true}}"#)), Ok(ReportOutcome::Heartbeat));
        assert_eq!(read(format!(r#"{{"taskToken":"{t}"}}"#)), Err(Unusable::NoOutcome));
        assert_eq!(
            read(format!(r#"{{"taskToken":"{t}","output":1,"error":"E"}}"#)),
            Err(Unusable::ManyOutcomes)
        );
        assert_eq!(read(r#"{"taskToken":"forged","output":1}"#.into()), Err(Unusable::Token));
        assert!(matches!(read("not json".into()), Err(Unusable::NotJson(_))));
        // A byte order mark, and what is no UTF-8: strict as JSON is.
        for bytes in [&b"\xef\xbb\xbf{}"[..], b"{\"taskToken\":\"\xff\"}", b"\x1f\x8b\x08", b"{\0}\0"] {
            let unusable = report(&key, bytes).unwrap_err();
            assert_eq!(unusable.kind(), DeadReason::NotJson, "{unusable}");
        }
        // What a reason says is logged, and must quote nothing.
        for body in [
            format!(r#"{{"taskToken":"{t}","heartbeat":"{t}"}}"#),
            format!(r#"{{"taskToken":"{t}","{t}":1}}"#),
            format!(r#"{{"taskToken":["{t}"],"output":1}}"#),
            format!(r#"["{t}"]"#),
            format!(r#""{t}""#),
        ] {
            let unusable = read(body.clone()).unwrap_err();
            assert_eq!(unusable.kind(), DeadReason::Malformed, "{body}");
            assert!(!unusable.to_string().contains(t), "{unusable}");
        }
        let by = |name: &str| format!(r#"{{"taskToken":"{t}","output":1,"by":"{name}"}}"#);
        let (_, answered) = report(&key, by("ada").as_bytes()).unwrap();
        assert_eq!(
            answered.answer,
            Some(Answer { via: Via::Message, by: Some("ada".into()), comment: None })
        );
        assert_eq!(read(by(&"x".repeat(257))), Err(Unusable::By));
        assert!(matches!(read("x".repeat(400_000)), Err(Unusable::TooLarge(400_000))));
    }
}
