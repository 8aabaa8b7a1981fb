//! The events of Express executions, as log events: the only trace that they leave, and only where the state machine's
//! `loggingConfiguration` asks for it. Standard executions have a history instead.
//!
//! The fields are those of the service's log events (developer guide, "Using CloudWatch Logs to log execution history"):
//! `id`, `type`, `details`, `previous_event_id`, `event_timestamp` in milliseconds, `execution_arn`, `redrive_count`.

use stagepost_engine::{HistoryEvent, history};
use stagepost_protocol::{
    ExecutionArn,
    express::{LogLevel, Logging},
};

/// Logs those of the events that the configuration names.
pub(super) fn events(arn: &ExecutionArn, logging: Logging, events: &[HistoryEvent]) {
    if logging.level == LogLevel::Off {
        return;
    }
    for event in events {
        let Some(name) = history::type_name(&event.kind) else { continue };
        let level = level(&name);
        if level <= logging.level {
            write(arn, event, &name, level, logging.include_execution_data);
        }
    }
}

/// The lowest level at which events of a type are logged (developer guide, "Log levels for Step Functions execution
/// events").
fn level(event_type: &str) -> LogLevel {
    match event_type {
        "ExecutionFailed" | "ExecutionTimedOut" | "ExecutionAborted" => LogLevel::Fatal,
        "FailStateEntered" => LogLevel::Error,
        other if ["Failed", "TimedOut", "Aborted"].iter().any(|end| other.ends_with(end)) => LogLevel::Error,
        _ => LogLevel::All,
    }
}

fn write(arn: &ExecutionArn, event: &HistoryEvent, name: &str, level: LogLevel, include_data: bool) {
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                target: "stagepost::express",
                id = event.id,
                r#type = name,
                details = details(event, include_data),
                previous_event_id = event.previous_id,
                event_timestamp = event.at.as_millis(),
                execution_arn = %arn,
                redrive_count = 0,
            )
        };
    }
    match level {
        LogLevel::Fatal => log!(error),
        LogLevel::Error => log!(warn),
        LogLevel::All | LogLevel::Off => log!(info),
    }
}

/// The event's details as JSON text, without the name that the API wraps them in.
fn details(event: &HistoryEvent, include_data: bool) -> String {
    let shown = history::describe(event, include_data);
    let fields = shown.as_ref().and_then(serde_json::Value::as_object);
    let details = fields.and_then(|fields| fields.iter().find(|(name, _)| name.ends_with("Details")));
    details.map_or_else(|| "{}".to_owned(), |(_, details)| details.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_event_has_the_level_of_the_service() {
        for (name, expected) in [
            ("ExecutionFailed", LogLevel::Fatal),
            ("ExecutionAborted", LogLevel::Fatal),
            ("ExecutionTimedOut", LogLevel::Fatal),
            ("FailStateEntered", LogLevel::Error),
            ("LambdaFunctionScheduleFailed", LogLevel::Error),
            ("TaskTimedOut", LogLevel::Error),
            ("WaitStateAborted", LogLevel::Error),
            ("MapIterationFailed", LogLevel::Error),
            ("ExecutionStarted", LogLevel::All),
            ("ExecutionSucceeded", LogLevel::All),
            ("TaskStateEntered", LogLevel::All),
        ] {
            assert_eq!(level(name), expected, "{name}");
        }
    }
}
