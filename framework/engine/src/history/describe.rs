//! Events as GetExecutionHistory shows them.

use serde_json::{Map, Value, json};
use stagepost_protocol::Payload;

use super::{EventKind, Failure, HistoryEvent, Service};

/// The event as GetExecutionHistory shows it (`timestamp` in seconds, `id`, `previousEventId`, `type` and its details);
/// `None` for a hidden note. Without `include_data`, inputs and outputs are left out.
pub fn describe(event: &HistoryEvent, include_data: bool) -> Option<Value> {
    let (name, details) = details(&event.kind, include_data)?;
    let mut shown = Map::new();
    shown.insert("timestamp".into(), json!(event.at.as_seconds_f64()));
    shown.insert("type".into(), name.as_str().into());
    shown.insert("id".into(), event.id.into());
    shown.insert("previousEventId".into(), event.previous_id.into());
    if let Some((key, Details(fields))) = details {
        shown.insert(key, fields.into());
    }
    Some(shown.into())
}

/// The type of the event as the API names it; `None` for a hidden note.
pub fn type_name(kind: &EventKind) -> Option<String> {
    details(kind, false).map(|(name, _)| name)
}

#[derive(Default)]
struct Details(Map<String, Value>);

impl Details {
    fn with(mut self, name: &str, value: impl Into<Value>) -> Details {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Details {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn data(self, name: &str, payload: &Payload, include: bool) -> Details {
        if !include {
            return self;
        }
        self.with(name, payload.as_str()).with(&format!("{name}Details"), json!({ "truncated": false }))
    }

    fn failure(self, failure: &Failure) -> Details {
        self.with_some("error", failure.error.as_deref()).with_some("cause", failure.cause.as_deref())
    }

    fn credentials(self, role_arn: Option<&str>) -> Details {
        self.with_some("taskCredentials", role_arn.map(|arn| json!({ "roleArn": arn })))
    }

    fn service(self, service: &Service) -> Details {
        self.with("resourceType", &*service.resource_type).with("resource", &*service.resource)
    }
}

/// The name of the event's type, and its details under their key.
fn details(kind: &EventKind, data: bool) -> Option<(String, Option<(String, Details)>)> {
    let new = Details::default;
    let (name, details) = match kind {
        EventKind::ExecutionStarted { input, role_arn } => {
            ("ExecutionStarted", new().data("input", input, data).with("roleArn", &**role_arn))
        }
        EventKind::ExecutionSucceeded { output } => {
            ("ExecutionSucceeded", new().data("output", output, data))
        }
        EventKind::ExecutionFailed(failure) => ("ExecutionFailed", new().failure(failure)),
        EventKind::ExecutionTimedOut(failure) => ("ExecutionTimedOut", new().failure(failure)),
        EventKind::ExecutionAborted(failure) => ("ExecutionAborted", new().failure(failure)),
        EventKind::ExecutionRedriven { count, .. } => {
            ("ExecutionRedriven", new().with("redriveCount", *count))
        }
        EventKind::StateEntered { state_type, name, input } => {
            let details = new().with("name", &**name).data("input", input, data);
            let key = "stateEnteredEventDetails".to_owned();
            return Some((format!("{}StateEntered", state_type.name()), Some((key, details))));
        }
        EventKind::StateExited { state_type, name, output, assigned, .. } => {
            let mut details = new().with("name", &**name).data("output", output, data);
            if data && !assigned.is_empty() {
                let texts = assigned.iter().map(|a| (a.name.to_string(), a.value.as_str().into()));
                details = details
                    .with("assignedVariables", texts.collect::<Map<String, Value>>())
                    .with("assignedVariablesDetails", json!({ "truncated": false }));
            }
            let key = "stateExitedEventDetails".to_owned();
            return Some((format!("{}StateExited", state_type.name()), Some((key, details))));
        }
        EventKind::EvaluationFailed { state, location, failure } => (
            "EvaluationFailed",
            new().failure(failure).with_some("location", location.as_deref()).with("state", &**state),
        ),
        EventKind::StateAborted { state_type } => {
            return Some((format!("{}StateAborted", state_type.name()), None));
        }
        EventKind::ActivityScheduled { resource, input, timeout_seconds, heartbeat_seconds } => (
            "ActivityScheduled",
            new()
                .with("resource", &**resource)
                .data("input", input, data)
                .with_some("timeoutInSeconds", *timeout_seconds)
                .with_some("heartbeatInSeconds", *heartbeat_seconds),
        ),
        EventKind::ActivityStarted { worker_name } => {
            ("ActivityStarted", new().with_some("workerName", worker_name.as_deref()))
        }
        EventKind::ActivitySucceeded { output } => ("ActivitySucceeded", new().data("output", output, data)),
        EventKind::ActivityFailed(failure) => ("ActivityFailed", new().failure(failure)),
        EventKind::ActivityTimedOut(failure) => ("ActivityTimedOut", new().failure(failure)),
        EventKind::LambdaFunctionScheduled { resource, input, timeout_seconds, role_arn } => (
            "LambdaFunctionScheduled",
            new()
                .with("resource", &**resource)
                .data("input", input, data)
                .with_some("timeoutInSeconds", *timeout_seconds)
                .credentials(role_arn.as_deref()),
        ),
        EventKind::LambdaFunctionSucceeded { output } => {
            ("LambdaFunctionSucceeded", new().data("output", output, data))
        }
        EventKind::LambdaFunctionFailed(failure) => ("LambdaFunctionFailed", new().failure(failure)),
        EventKind::LambdaFunctionTimedOut(failure) => ("LambdaFunctionTimedOut", new().failure(failure)),
        EventKind::TaskScheduled {
            service,
            region,
            parameters,
            timeout_seconds,
            heartbeat_seconds,
            role_arn,
        } => {
            let parameters = if data { parameters.as_str() } else { "" };
            (
                "TaskScheduled",
                new()
                    .service(service)
                    .with("region", &**region)
                    .with("parameters", parameters)
                    .with_some("timeoutInSeconds", *timeout_seconds)
                    .with_some("heartbeatInSeconds", *heartbeat_seconds)
                    .credentials(role_arn.as_deref()),
            )
        }
        EventKind::TaskStarted { service } => ("TaskStarted", new().service(service)),
        EventKind::TaskSubmitted { service, output } => {
            ("TaskSubmitted", new().service(service).data("output", output, data))
        }
        EventKind::TaskSucceeded { service, output } => {
            ("TaskSucceeded", new().service(service).data("output", output, data))
        }
        EventKind::TaskFailed { service, failure } => ("TaskFailed", new().service(service).failure(failure)),
        EventKind::TaskTimedOut { service, failure } => {
            ("TaskTimedOut", new().service(service).failure(failure))
        }
        EventKind::MapStateStarted { length, .. } => ("MapStateStarted", new().with("length", *length)),
        EventKind::MapIterationStarted { name, index } => ("MapIterationStarted", iteration(name, *index)),
        EventKind::MapIterationSucceeded { name, index } => {
            ("MapIterationSucceeded", iteration(name, *index))
        }
        EventKind::MapIterationFailed { name, index, .. } => ("MapIterationFailed", iteration(name, *index)),
        EventKind::MapIterationAborted { name, index } => ("MapIterationAborted", iteration(name, *index)),
        EventKind::MapRunStarted { arn, .. } => ("MapRunStarted", new().with("mapRunArn", &**arn)),
        EventKind::MapRunRedriven { arn, count } => {
            ("MapRunRedriven", new().with("mapRunArn", &**arn).with("redriveCount", *count))
        }
        EventKind::MapRunFailed(failure) => ("MapRunFailed", new().failure(failure)),
        EventKind::MapRunSucceeded => return plain("MapRunSucceeded"),
        EventKind::MapRunAborted => return plain("MapRunAborted"),
        EventKind::LambdaFunctionStarted => return plain("LambdaFunctionStarted"),
        EventKind::ParallelStateStarted { .. } => return plain("ParallelStateStarted"),
        EventKind::ParallelStateSucceeded => return plain("ParallelStateSucceeded"),
        EventKind::ParallelStateFailed => return plain("ParallelStateFailed"),
        EventKind::MapStateSucceeded => return plain("MapStateSucceeded"),
        EventKind::MapStateFailed => return plain("MapStateFailed"),
        EventKind::WaitScheduled { .. }
        | EventKind::RetryScheduled { .. }
        | EventKind::HeartbeatReceived
        | EventKind::SignalAwaited { .. }
        | EventKind::SignalReceived { .. }
        | EventKind::SignalTaken
        | EventKind::AttemptLeased { .. }
        | EventKind::AttemptReleased { .. }
        | EventKind::Yielded { .. }
        | EventKind::MapPaused
        | EventKind::MapItemsRequested
        | EventKind::MapItemsRead { .. }
        | EventKind::MapChildrenStarted { .. }
        | EventKind::MapChildrenRedriven { .. }
        | EventKind::MapChildNotRedrivable { .. }
        | EventKind::MapChildEnded { .. }
        | EventKind::MapRunFailing(_)
        | EventKind::MapResultsRequested
        | EventKind::MapRunUpdated { .. } => return None,
    };
    Some((name.to_owned(), Some((details_key(name), details))))
}

fn plain(name: &str) -> Option<(String, Option<(String, Details)>)> {
    Some((name.to_owned(), None))
}

fn iteration(name: &str, index: u32) -> Details {
    Details::default().with("name", name).with("index", index)
}

/// `ActivityFailed` → `activityFailedEventDetails`.
fn details_key(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    format!("{}{rest}EventDetails", first.to_ascii_lowercase())
}
