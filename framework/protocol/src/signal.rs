//! Signals: what is sent to a running execution by its name, and waits there for a state that asks for it.

use serde::{Deserialize, Serialize};

use crate::{ExecutionArn, Payload, limits};

/// A signal on a shard queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// The execution that it is for.
    pub execution: ExecutionArn,
    /// Its name, which a state asks for.
    pub name: String,
    /// Names this signal among all of the execution: a repetition has the same one.
    pub id: String,
    /// What the state gets.
    pub input: Payload,
}

/// The body of a message on `stagepost.signals`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignalMessage {
    /// The ARN of the execution.
    pub execution_arn: String,
    /// The name of the signal.
    pub signal_name: String,
    /// What the state that waits for it gets; `{}` if absent.
    #[serde(default = "Payload::empty_object")]
    pub input: Payload,
    /// A message that comes twice signals once. The message's `message_id` stands for it where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_id: Option<String>,
}

/// Why a signal cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// Its name is empty or too long.
    #[error("a signal's name has 1 to {max} characters, this one has {0}", max = limits::SIGNAL_NAME_CHARS_MAX)]
    Name(usize),
    /// Its id is empty or too long.
    #[error("a signal's id has 1 to {max} characters, this one has {0}", max = limits::SIGNAL_ID_CHARS_MAX)]
    Id(usize),
    /// Its input is too large.
    #[error("its input has {0} bytes, more than {max}", max = limits::PAYLOAD_BYTES_MAX)]
    Input(usize),
}

impl Signal {
    /// Checks the limits of its parts.
    pub fn check(&self) -> Result<(), SignalError> {
        check_name(&self.name)?;
        match self.id.chars().count() {
            n if n == 0 || n > limits::SIGNAL_ID_CHARS_MAX => return Err(SignalError::Id(n)),
            _ => {}
        }
        match self.input.len() {
            n if n > limits::PAYLOAD_BYTES_MAX => Err(SignalError::Input(n)),
            _ => Ok(()),
        }
    }
}

/// Checks the name of a signal.
pub fn check_name(name: &str) -> Result<(), SignalError> {
    match name.chars().count() {
        n if n == 0 || n > limits::SIGNAL_NAME_CHARS_MAX => Err(SignalError::Name(n)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_messages_are_read_as_documented() {
        let read = |text: &str| serde_json::from_str::<SignalMessage>(text);
        let least = read(r#"{"executionArn":"e","signalName":"approved"}"#).unwrap();
        assert_eq!((least.input.as_str(), least.signal_id), ("{}", None));
        let all = read(r#"{"executionArn":"e","signalName":"n","input":null,"signalId":"1"}"#).unwrap();
        assert_eq!((all.input.as_str(), all.signal_id.as_deref()), ("null", Some("1")));
        for bad in [r#"{"executionArn":"e"}"#, r#"{"executionArn":"e","signalName":"n","name":"n"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_ids_and_inputs_have_limits() {
        let signal = |name: &str, id: &str, bytes: usize| Signal {
            execution: "arn:aws:states:us-east-1:000000000000:execution:m:e".parse().unwrap(),
            name: name.to_owned(),
            id: id.to_owned(),
            input: Payload::from_value(&"x".repeat(bytes - 2).into()),
        };
        let max = limits::PAYLOAD_BYTES_MAX;
        let (name, id) = ("ä".repeat(256), "ä".repeat(128));
        for (signal, expected) in [
            (signal(&name, &id, max), Ok(())),
            (signal("", "1", 2), Err(SignalError::Name(0))),
            (signal(&format!("{name}x"), "1", 2), Err(SignalError::Name(257))),
            (signal("n", "", 2), Err(SignalError::Id(0))),
            (signal("n", &format!("{id}x"), 2), Err(SignalError::Id(129))),
            (signal("n", "1", max + 1), Err(SignalError::Input(max + 1))),
        ] {
            assert_eq!(signal.check(), expected);
        }
    }
}
