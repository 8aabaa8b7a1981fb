//! Which worker has an attempt: leases, the claims of workers that were delivered one which may have been begun
//! elsewhere, and what they are answered. JSON, internal to one installation.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Message, Properties, TaskToken};

/// A worker stands for an attempt as long as it is heard of this often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Names the running worker and nobody else, ever; answers go to the queue that is called after it.
    pub holder: String,
    /// For how long it may be silent, in milliseconds.
    pub millis: u64,
    /// The attempt may run twice: when the lease is over, another worker gets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
}

/// A holder that was not heard of for its lease has stopped its attempts only after a part of it more: this one.
const MARGIN: u64 = 3;

/// How long after its last sign of life a worker with a lease of so many milliseconds has certainly stopped what it
/// had begun: the lease, in which it notices that it is not heard, and a third of it for its attempts to stop.
pub fn certainly_over_after(millis: u64) -> i64 {
    i64::try_from(millis.saturating_add(millis.div_ceil(MARGIN))).unwrap_or(i64::MAX)
}

/// How often a worker with a lease of so many milliseconds says that it is there, and how long its attempts may take
/// to stop when it was not heard.
pub fn part_of_lease(millis: u64) -> u64 {
    (millis / MARGIN).max(1)
}

/// What a worker says of a task that it was delivered and does not begin, because another one may have begun it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// As in [`TaskMessage::returns`](crate::TaskMessage::returns).
    #[serde(default, skip_serializing_if = "crate::is_zero")]
    pub returns: u32,
    /// What it would hold it by. Absent for those who poll the API: nothing but the definition's limits stands for
    /// what they have taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// What is known of the message that it was delivered.
    pub delivered: DeliveredAs,
}

/// Whether a task message may be a repetition of another one.
///
/// Each time that an attempt is given out one message of it is [`First`](DeliveredAs::First) to one worker. So who has that
/// one knows that nobody else has begun it, but by a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveredAs {
    /// It is none: published once, and delivered for the first time.
    First,
    /// It was published again: after a crash, because the broker's confirmation was lost, or from the dead letters.
    Republished,
    /// It was delivered before.
    Redelivered,
}

impl DeliveredAs {
    /// What is known of a message that was delivered.
    pub fn of(redelivered: bool, republished: bool) -> DeliveredAs {
        match (redelivered, republished) {
            (true, _) => DeliveredAs::Redelivered,
            (false, true) => DeliveredAs::Republished,
            (false, false) => DeliveredAs::First,
        }
    }
}

/// What the worker is to do with the task that it claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Run it: it is this worker's.
    Run,
    /// Acknowledge it and forget it. It has ended, or is another worker's, or the coordinator looks after it.
    Drop,
}

/// A worker that holds attempts says that it is there. Sent to each shard of which it holds some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// The worker, as in [`Lease::holder`].
    pub holder: String,
    /// As in [`Lease::millis`].
    pub millis: u64,
}

/// What a coordinator says to a worker of one attempt. It may come late and more than once, so it names what it is about
/// as exactly as the claim did: an answer to one says nothing about another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Names the attempt.
    pub token: TaskToken,
    /// As in [`TaskMessage::returns`](crate::TaskMessage::returns).
    #[serde(default, skip_serializing_if = "crate::is_zero")]
    pub returns: u32,
    /// As in the claim that is answered. Absent: nobody asked, and it is about what the worker runs in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<DeliveredAs>,
    /// What to do.
    pub verdict: Verdict,
}

/// What a coordinator says to a worker, on the worker's own queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlMessage {
    /// Answers to claims, and what is to be stopped.
    Verdicts(Vec<Told>),
}

impl ControlMessage {
    /// The kind that these messages carry in their `type` property.
    pub const KIND: &'static str = "stagepost.control.1";

    /// A message for `queue`. It may be lost: who waits for an answer asks again.
    pub fn encode(&self, queue: String) -> Message {
        let body = serde_json::to_vec(self).expect("control messages have no maps and so always serialise");
        Message {
            queue,
            body: Bytes::from(body),
            properties: Properties {
                content_type: Some("application/json".into()),
                kind: Some(ControlMessage::KIND.into()),
                ..Properties::default()
            },
            persistent: false,
        }
    }

    /// Reads a message; the error says why it is none.
    pub fn decode(body: &[u8], properties: &Properties) -> Result<ControlMessage, String> {
        if properties.kind.as_deref() != Some(ControlMessage::KIND) {
            return Err(format!("its type is not {}", ControlMessage::KIND));
        }
        serde_json::from_slice(body).map_err(|e| format!("its body is not a control message: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_stopped_before_its_lease_is_certainly_over() {
        for millis in [1, 2, 3, 1_000, 30_000, 30_001] {
            let stopped = i64::try_from(millis + part_of_lease(millis)).unwrap();
            assert!(stopped <= certainly_over_after(millis), "{millis}");
        }
        assert_eq!((certainly_over_after(30_000), part_of_lease(30_000)), (40_000, 10_000));
        assert_eq!(certainly_over_after(u64::MAX), i64::MAX);
    }

    #[test]
    fn verdicts_survive_the_broker_and_strangers_are_named() {
        let token = TaskToken::from_untrusted("t");
        let told = Told { token, returns: 1, delivered: Some(DeliveredAs::First), verdict: Verdict::Run };
        let unasked = Told { returns: 0, delivered: None, verdict: Verdict::Drop, ..told.clone() };
        let message = ControlMessage::Verdicts(vec![told, unasked]);
        let m = message.encode("q".into());
        assert_eq!(ControlMessage::decode(&m.body, &m.properties), Ok(message));
        assert!(ControlMessage::decode(&m.body, &Properties::default()).unwrap_err().contains("type"));
        assert!(ControlMessage::decode(b"{}", &m.properties).is_err());
    }
}
