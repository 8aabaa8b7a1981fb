//! Executions of EXPRESS state machines that are started asynchronously: the message on `stagepost.express`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{ExecutionArn, Message, Payload, Properties, StateMachineArn, payload::json_problem};

/// A request to run an Express execution. It is acknowledged when the execution has ended, so that one whose process
/// dies is run again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpressStart {
    /// What it is called.
    pub execution: ExecutionArn,
    /// What it is an execution of.
    pub state_machine: StateMachineArn,
    /// The immutable definition that it runs.
    pub definition_id: String,
    /// Its role, shown in the context object.
    pub role_arn: String,
    /// Its input.
    pub input: Payload,
    /// Which of its events are logged.
    #[serde(default)]
    pub logging: Logging,
}

/// `loggingConfiguration` of a state machine: which events of its executions are logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// Which events.
    #[serde(default)]
    pub level: LogLevel,
    /// Whether inputs and outputs are shown.
    #[serde(default)]
    pub include_execution_data: bool,
}

/// A log level of Step Functions, each with all that the one before it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LogLevel {
    /// Nothing.
    #[default]
    Off,
    /// That an execution did not succeed.
    Fatal,
    /// All failures, timeouts and aborts.
    Error,
    /// Everything.
    All,
}

impl ExpressStart {
    /// The kind that these messages carry in their `type` property.
    pub const KIND: &'static str = "stagepost.express.1";

    /// A message for `queue`.
    pub fn encode(&self, queue: String) -> Message {
        let body = serde_json::to_vec(self).expect("a start has no maps and so always serialises");
        Message {
            queue,
            body: Bytes::from(body),
            properties: Properties {
                content_type: Some("application/json".into()),
                kind: Some(ExpressStart::KIND.into()),
                ..Properties::default()
            },
            persistent: true,
        }
    }

    /// Reads a message; the error says, for a dead letter's reason, why it is none.
    pub fn decode(body: &[u8], properties: &Properties) -> Result<ExpressStart, String> {
        if properties.kind.as_deref() != Some(ExpressStart::KIND) {
            return Err(format!("its type is not {}", ExpressStart::KIND));
        }
        serde_json::from_slice(body)
            .map_err(|e| format!("its body is not the start of an execution: {}", json_problem(&e)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespace;

    #[test]
    fn a_start_survives_the_broker_and_strangers_are_named() {
        let machine = StateMachineArn { namespace: Namespace::default(), name: "orders".into() };
        let start = ExpressStart {
            execution: machine.express("a", "1"),
            state_machine: machine,
            definition_id: "d".into(),
            role_arn: "r".into(),
            input: Payload::parse("[1]").unwrap(),
            logging: Logging { level: LogLevel::All, include_execution_data: true },
        };
        let m = start.encode("q".into());
        assert!(m.persistent);
        assert_eq!(ExpressStart::decode(&m.body, &m.properties), Ok(start));
        let error = ExpressStart::decode(&m.body, &Properties::default()).unwrap_err();
        assert!(error.contains("type"), "{error}");
        let error = ExpressStart::decode(b"{}", &m.properties).unwrap_err();
        assert!(error.contains("not the start of an execution"), "{error}");
    }

    #[test]
    fn levels_include_each_other() {
        assert!(LogLevel::Off < LogLevel::Fatal && LogLevel::Fatal < LogLevel::Error);
        assert_eq!(serde_json::to_string(&LogLevel::All).unwrap(), r#""ALL""#);
    }
}
