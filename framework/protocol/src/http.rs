//! What the answer to GetActivityTask says of a task in its HTTP headers, beside the token and the input that AWS's
//! protocol has in the body: the headers of the task message, under the same names. The API writes them, the SDK's
//! polling worker reads them, and AWS's SDKs pass them over.

use std::fmt::Write;

use crate::TaskMessage;
use crate::message::{
    HEADER_ATTEMPT, HEADER_DEADLINE, HEADER_EXECUTION, HEADER_HEARTBEAT, HEADER_IDEMPOTENCY_KEY, HEADER_STATE,
};

/// The headers of a task, their values encoded by [`encode`].
pub fn task_headers(task: &TaskMessage) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        (HEADER_ATTEMPT, task.attempt.to_string()),
        (HEADER_EXECUTION, encode(&task.execution)),
        (HEADER_STATE, encode(&task.state)),
        (HEADER_IDEMPOTENCY_KEY, encode(&task.idempotency_key)),
    ];
    headers.extend(task.deadline.map(|deadline| (HEADER_DEADLINE, deadline.as_millis().to_string())));
    headers.extend(task.heartbeat_millis.map(|millis| (HEADER_HEARTBEAT, millis.to_string())));
    headers
}

/// A text as the value of an HTTP header: what is no visible ASCII character, and `%`, is percent-encoded as UTF-8.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The text that [`encode`] was given. A `%` that begins no code stands for itself, and what is not UTF-8 becomes
/// U+FFFD: a header of somebody else is never an error.
pub fn decode(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |i: usize| bytes.get(at + i).and_then(|b| char::from(*b).to_digit(16));
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits are a byte.
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Payload, TaskToken, Timestamp};

    #[test]
    fn texts_become_header_values_and_texts_again() {
        for (text, encoded) in [
            ("Charge", "Charge"),
            ("arn:aws:states:us-east-1:0:execution:m:e", "arn:aws:states:us-east-1:0:execution:m:e"),
            ("Charge the card", "Charge%20the%20card"),
            ("100%25", "100%2525"),
            ("Prüfen\n\u{7f}", "Pr%C3%BCfen%0A%7F"),
            ("支付", "%E6%94%AF%E4%BB%98"),
            ("", ""),
        ] {
            assert_eq!(encode(text), encoded);
            assert_eq!(decode(encoded), text);
        }
        for (foreign, read) in [("50%", "50%"), ("%zz%4", "%zz%4"), ("%FF", "\u{fffd}"), ("%c3%bc", "ü")] {
            assert_eq!(decode(foreign), read, "{foreign}");
        }
    }

    #[test]
    fn a_task_without_limits_has_no_headers_for_them() {
        let mut task = TaskMessage {
            queue: "q".into(),
            attempt_id: "a".into(),
            token: TaskToken::from_untrusted("t"),
            attempt: 3,
            execution: "e".into(),
            state: "a b".into(),
            idempotency_key: "k".into(),
            deadline: None,
            heartbeat_millis: None,
            call: None,
            input: Payload::parse("{}").expect("it is JSON"),
            reply_to: String::new(),
            priority: 0,
            fairness_key: String::new(),
            republished: false,
            returns: 0,
            traceparent: None,
        };
        let names =
            |task: &TaskMessage| task_headers(task).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert!(!names(&task).contains(&HEADER_DEADLINE) && !names(&task).contains(&HEADER_HEARTBEAT));
        assert!(task_headers(&task).contains(&(HEADER_ATTEMPT, "3".to_owned())));
        assert!(task_headers(&task).contains(&(HEADER_STATE, "a%20b".to_owned())));
        (task.deadline, task.heartbeat_millis) = (Some(Timestamp::from_millis(5)), Some(500));
        assert!(task_headers(&task).contains(&(HEADER_DEADLINE, "5".to_owned())));
        assert!(task_headers(&task).contains(&(HEADER_HEARTBEAT, "500".to_owned())));
    }
}
