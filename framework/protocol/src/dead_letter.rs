//! Dead letters: messages that could not be used. How they travel to `stagepost.dead-letters`, and how they are kept.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    HeaderValue, Message, Payload, Properties, Timestamp,
    message::{HEADER_DEAD_LETTER, HEADER_REASON, HEADER_REASON_KIND, HEADER_SOURCE, HEADER_TASK_TOKEN},
};

/// What the broker adds to a message that it delivers again, or that it moves to a dead-letter exchange by itself.
const BROKER_HEADERS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];
const BROKER_SOURCE: &str = "x-first-death-queue";
const BROKER_REASON: &str = "x-first-death-reason";
/// The longest name of a source that listings can be narrowed to, in characters: AMQP's own limit.
const SOURCE_CHARS_MAX: usize = 255;

/// Headers of a letter have so many bytes at most: RabbitMQ takes no message whose headers fill a frame, 128 KiB.
const HEADERS_BYTES_MAX: usize = 100 * 1024;
/// Longest name of a header, in bytes: AMQP's own limit.
const HEADER_NAME_BYTES_MAX: usize = 255;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 2_048;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident $text:literal,)*) => {
        /// Why a message could not be used, in kinds that can be counted. The reason itself is a sentence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DeadReason { $($(#[doc = $doc])* $name,)* }

        impl DeadReason {
            /// All of them.
            pub const ALL: &'static [DeadReason] = &[$(DeadReason::$name,)*];

            /// As headers, metrics and the API spell it.
            pub const fn as_str(self) -> &'static str {
                match self { $(DeadReason::$name => $text,)* }
            }

            /// Reads what [`DeadReason::as_str`] gave.
            pub fn parse(text: &str) -> Option<DeadReason> {
                match text { $($text => Some(DeadReason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Its body is not JSON.
    NotJson "not-json",
    /// Its body is larger than what it is meant for may be.
    TooLarge "too-large",
    /// It is not of the form that its queue is for.
    Malformed "malformed",
    /// Its task token is forged, or of another installation.
    InvalidToken "invalid-token",
    /// Its task token is of a task that there is not.
    UnknownTask "unknown-task",
    /// The task had ended before the answer came, and in another way.
    Expired "expired",
    /// The process that ran the Express execution is gone.
    Gone "gone",
    /// Its body is packed, or its text encoded, in a way that is not read.
    Encoding "encoding",
    /// A trigger's mapping made nothing of it that an execution could be started with.
    Mapping "mapping",
    /// What it asks for was refused.
    Refused "refused",
    /// No queue takes it.
    Unroutable "unroutable",
    /// Somebody else put it there: RabbitMQ itself, or a program.
    Other "other",
}

/// A message that could not be used, as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The queue that it came from, where that is known.
    pub source: Option<String>,
    /// Why it could not be used.
    pub kind: DeadReason,
    /// The same for people.
    pub reason: String,
    /// When it was taken off the queue of dead letters.
    pub taken_at: Timestamp,
    /// Its body, as it came.
    pub body: Bytes,
    /// Its properties, as they came.
    pub properties: Properties,
}

/// [`DeadLetter`] as JSON.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    kind: String,
    reason: String,
    taken_at: i64,
    /// `body` is base64: it is no UTF-8.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    base64: bool,
    body: String,
    properties: Properties,
}

impl DeadLetter {
    /// The kind of the records that keep them.
    pub const RECORD: &'static str = "dead-letter";

    /// A message that could not be used, on its way to the queue `dead_letters`: body and properties as they were, and in
    /// headers why and where it came from. `id` is a UUID that orders them by time; whoever keeps the letter does so
    /// under this id, so that one that is delivered twice is kept once. Headers that AMQP could not carry, of a message from
    /// elsewhere for instance, are left out, and the reason names them: a letter that cannot be published would hold up
    /// whatever comes after it.
    pub fn bury(
        dead_letters: String,
        message: Message,
        kind: DeadReason,
        reason: &str,
        id: String,
    ) -> Message {
        let Message { queue: source, body, mut properties, .. } = message;
        let mut reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        let dropped = drop_large(&mut properties.headers);
        if !dropped.is_empty() {
            let names: Vec<String> = dropped.iter().map(|name| name.chars().take(64).collect()).collect();
            let names: String = names.join(", ").chars().take(REASON_CHARS_MAX).collect();
            reason += &format!(" (without its headers {names}, which are too large to be kept)");
        }
        for (name, value) in [
            (HEADER_REASON, reason),
            (HEADER_REASON_KIND, kind.as_str().to_owned()),
            (HEADER_SOURCE, source),
            (HEADER_DEAD_LETTER, id),
        ] {
            properties.headers.insert(name.to_owned(), HeaderValue::Text(value));
        }
        Message { queue: dead_letters, body, properties, persistent: true }
    }

    /// Reads a message of the queue of dead letters, and the id that it came with. Whatever is there can be kept: where
    /// others put it there, RabbitMQ's own headers may say where it came from.
    pub fn read(
        body: Bytes,
        mut properties: Properties,
        taken_at: Timestamp,
    ) -> (Option<String>, DeadLetter) {
        let mut take = |name: &str| match properties.headers.remove(name) {
            Some(HeaderValue::Text(text)) => Some(text),
            _ => None,
        };
        let (id, kind) = (take(HEADER_DEAD_LETTER), take(HEADER_REASON_KIND));
        let (reason, source) = (take(HEADER_REASON), take(HEADER_SOURCE));
        for name in BROKER_HEADERS {
            properties.headers.remove(name);
        }
        let theirs = |name: &str| properties.headers.get(name).and_then(HeaderValue::as_text);
        let source = source.as_deref().or(theirs(BROKER_SOURCE)).map(plain).filter(|name| !name.is_empty());
        let reason = reason.unwrap_or_else(|| match theirs(BROKER_REASON) {
            Some(reason) => format!("the broker moved it here: {reason}"),
            None => "whoever put it here gave no reason".to_owned(),
        });
        let kind = kind.and_then(|kind| DeadReason::parse(&kind)).unwrap_or(DeadReason::Other);
        (id.filter(|id| is_id(id)), DeadLetter { source, kind, reason, taken_at, body, properties })
    }

    /// As it is kept.
    pub fn to_payload(&self) -> Payload {
        let (base64, body) = match std::str::from_utf8(&self.body) {
            Ok(text) => (false, text.to_owned()),
            Err(_) => (true, STANDARD.encode(&self.body)),
        };
        let kept = Kept {
            source: self.source.clone(),
            kind: self.kind.as_str().to_owned(),
            reason: self.reason.clone(),
            taken_at: self.taken_at.as_millis(),
            base64,
            body,
            properties: self.properties.clone(),
        };
        Payload::from_serialize(&kept).expect("the keys of headers are texts")
    }

    /// Reads what [`DeadLetter::to_payload`] wrote.
    pub fn from_payload(payload: &Payload) -> Option<DeadLetter> {
        let kept: Kept = payload.read().ok()?;
        let body = if kept.base64 { STANDARD.decode(kept.body).ok()?.into() } else { kept.body.into() };
        Some(DeadLetter {
            source: kept.source,
            // A kind of a newer version.
            kind: DeadReason::parse(&kept.kind).unwrap_or(DeadReason::Other),
            reason: kept.reason,
            taken_at: Timestamp::from_millis(kept.taken_at),
            body,
            properties: kept.properties,
        })
    }

    /// The message as it was, for a queue. A task is marked as published again: nobody knows whether it was delivered
    /// before, and begun. To what is no task the mark would mean nothing.
    pub fn revive(self, queue: String) -> Message {
        let task = self.properties.headers.contains_key(HEADER_TASK_TOKEN);
        let mut message = Message { queue, body: self.body, properties: self.properties, persistent: true };
        if task {
            message.mark_republished();
        }
        message
    }
}

/// Takes the largest headers out until the rest can be carried, and says which.
fn drop_large(headers: &mut BTreeMap<String, HeaderValue>) -> Vec<String> {
    let size = |(name, value): (&String, &HeaderValue)| 1 + name.len() + amqp_bytes(value);
    let mut sizes: Vec<(usize, String)> =
        headers.iter().map(|header| (size(header), header.0.clone())).collect();
    sizes.sort_unstable();
    let mut total: usize = sizes.iter().map(|(size, _)| size).sum();
    let mut dropped: Vec<String> =
        headers.keys().filter(|name| name.len() > HEADER_NAME_BYTES_MAX).cloned().collect();
    while total > HEADERS_BYTES_MAX
        && let Some((size, name)) = sizes.pop()
    {
        total -= size;
        dropped.push(name);
    }
    dropped.iter().for_each(|name| drop(headers.remove(name)));
    dropped
}

/// About how many bytes a header's value takes in AMQP.
fn amqp_bytes(value: &HeaderValue) -> usize {
    match value {
        HeaderValue::Text(text) => 5 + text.len(),
        HeaderValue::Bool(_) => 2,
        HeaderValue::Int(_) | HeaderValue::Float(_) => 9,
        HeaderValue::Other(json) => match serde_json::from_str(json) {
            Ok(value) => json_bytes(&value),
            Err(_) => 5 + json.len(),
        },
    }
}

fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null => 1,
        Value::Bool(_) => 2,
        Value::Number(_) => 9,
        Value::String(text) => 5 + text.len(),
        Value::Array(items) => 5 + items.iter().map(json_bytes).sum::<usize>(),
        Value::Object(members) => {
            5 + members.iter().map(|(name, value)| 1 + name.len() + json_bytes(value)).sum::<usize>()
        }
    }
}

/// A name without what a store or a terminal would stumble over.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(SOURCE_CHARS_MAX).collect()
}

/// The form of a UUID, in small letters as we write them.
fn is_id(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(place, c)| match place {
            8 | 13 | 18 | 23 => c == '-',
            _ => matches!(c, '0'..='9' | 'a'..='f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0190a5b2-0000-7000-8000-0123456789ab";

    fn message(body: &'static [u8]) -> Message {
        let headers = [
            ("tenant".to_owned(), HeaderValue::Int(7)),
            ("list".to_owned(), HeaderValue::Other("[1,null]".into())),
            ("ratio".to_owned(), HeaderValue::Float(2.0)),
        ];
        let properties = Properties {
            message_id: Some("m".into()),
            priority: Some(3),
            headers: headers.into(),
            ..Properties::default()
        };
        Message { queue: "orders".into(), body: body.into(), properties, persistent: false }
    }

    #[test]
    fn a_letter_is_kept_and_revived_as_it_was() {
        for body in [&b"{\"a\":1}"[..], b"<order/>", b"\xff\x00\xfe", b"", b"\0"] {
            let original = message(body);
            let reason = "its body is not JSON";
            let queue = "stagepost.dead-letters".to_owned();
            let buried = DeadLetter::bury(queue, original.clone(), DeadReason::NotJson, reason, ID.into());
            assert_eq!((buried.queue.as_str(), buried.persistent), ("stagepost.dead-letters", true));
            let at = Timestamp::from_millis(17);
            let (id, letter) = DeadLetter::read(buried.body, buried.properties, at);
            assert_eq!(id.as_deref(), Some(ID));
            let kept = DeadLetter::from_payload(&letter.to_payload()).unwrap();
            assert_eq!(kept, letter);
            assert_eq!((kept.source.as_deref(), kept.reason.as_str()), (Some("orders"), reason));
            assert_eq!((kept.kind, kept.taken_at), (DeadReason::NotJson, at));
            assert_eq!(kept.revive("orders".into()), Message { persistent: true, ..original });
        }
    }

    #[test]
    fn a_task_that_is_revived_may_have_been_begun() {
        let mut task = message(b"{}");
        task.properties.headers.insert(HEADER_TASK_TOKEN.to_owned(), "t".into());
        let buried = DeadLetter::bury("d".into(), task.clone(), DeadReason::Other, "r", ID.into());
        let (_, letter) = DeadLetter::read(buried.body, buried.properties, Timestamp::from_millis(17));
        task.mark_republished();
        task.persistent = true;
        assert_eq!(letter.revive("orders".into()), task);
    }

    #[test]
    fn a_letter_has_no_headers_that_could_not_be_carried() {
        let mut original = message(b"x");
        let numbers = format!("[{}]", vec!["1"; 12_000].join(","));
        for (name, value) in [
            ("numbers".to_owned(), HeaderValue::Other(numbers)),
            ("large".to_owned(), HeaderValue::from("x".repeat(95_000))),
            ("some".to_owned(), HeaderValue::from("x".repeat(10_000))),
            ("n".repeat(256), HeaderValue::Bool(true)),
        ] {
            original.properties.headers.insert(name, value);
        }
        let buried =
            DeadLetter::bury("d".into(), original, DeadReason::Mapping, &"r".repeat(5_000), ID.into());
        let headers = &buried.properties.headers;
        let names: Vec<&str> =
            headers.keys().map(String::as_str).filter(|n| !n.starts_with("stagepost-")).collect();
        assert_eq!(names, ["list", "ratio", "some", "tenant"]);
        let reason = headers[HEADER_REASON].as_text().unwrap();
        assert!(
            reason.contains("rr (without its headers nnn") && reason.contains("numbers, large"),
            "{reason:.3000}"
        );
        let total: usize = headers.iter().map(|(name, value)| name.len() + amqp_bytes(value)).sum();
        assert!(total < 128 * 1024, "{total}");
    }

    #[test]
    fn letters_of_others_are_kept_too() {
        let header = |name: &str, text: &str| (name.to_owned(), HeaderValue::from(text));
        let read = |headers: Vec<(String, HeaderValue)>| {
            let properties = Properties { headers: headers.into_iter().collect(), ..Properties::default() };
            DeadLetter::read(Bytes::new(), properties, Timestamp::from_millis(0))
        };
        let (id, letter) = read(vec![]);
        assert_eq!((id, letter.source, letter.kind), (None, None, DeadReason::Other));
        let (_, letter) = read(vec![
            header("x-first-death-queue", "web\n"),
            header("x-first-death-reason", "delivery_limit"),
            ("x-delivery-count".to_owned(), HeaderValue::Int(21)),
        ]);
        assert_eq!(letter.source.as_deref(), Some("web"));
        assert_eq!(letter.reason, "the broker moved it here: delivery_limit");
        assert!(!letter.properties.headers.contains_key("x-delivery-count"));
        // What only looks like ours is not trusted to be.
        let (id, letter) = read(vec![
            header(HEADER_DEAD_LETTER, "no uuid"),
            header(HEADER_REASON_KIND, "nonsense"),
            (HEADER_SOURCE.to_owned(), HeaderValue::Int(1)),
        ]);
        assert_eq!((id, letter.source, letter.kind), (None, None, DeadReason::Other));
        assert!(letter.properties.headers.is_empty());
    }

    #[test]
    fn reasons_are_read_as_they_are_spelled() {
        for reason in DeadReason::ALL {
            assert_eq!(DeadReason::parse(reason.as_str()), Some(*reason));
        }
    }
}
