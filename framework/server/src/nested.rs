//! `states:startExecution`: a state starts an execution of another state machine (developer guide, "Start workflow
//! executions from a task state"). By the same way as StartExecution of the API.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};
use stagepost_api::{Api, Refused};
use stagepost_connectors::{Answer, Call, Connector, Failure};
use stagepost_coordinator::start_answer;
use stagepost_protocol::{
    ExecutionArn, IntegrationPattern, Namespace, Parent, ParentKind, Timestamp, error_names,
};

/// How long a start waits that failed by no fault of its own, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The connector.
pub(crate) struct StartExecution {
    api: Arc<Api>,
}

impl StartExecution {
    pub(crate) fn new(api: Arc<Api>) -> StartExecution {
        StartExecution { api }
    }
}

/// The request that the parameters of a call ask for. A repetition of the call asks for the same one: where the
/// parameters have no name, the attempt gives it.
fn request(call: &Call) -> Map<String, Value> {
    let parameters = call.input.to_value();
    let given = |name: &str| parameters.get(name).filter(|value| !value.is_null());
    let mut request = Map::new();
    request.insert("name".to_owned(), call.attempt_id.as_str().into());
    for (parameter, member) in
        [("StateMachineArn", "stateMachineArn"), ("Name", "name"), ("TraceHeader", "traceHeader")]
    {
        if let Some(value) = given(parameter) {
            request.insert(member.to_owned(), value.clone());
        }
    }
    let input = match given("Input") {
        None => "{}".to_owned(),
        // A text that is JSON is the input itself.
        Some(Value::String(text)) if serde_json::from_str::<Value>(text).is_ok() => text.clone(),
        Some(value) => value.to_string(),
    };
    request.insert("input".to_owned(), input.into());
    request
}

fn parent(call: &Call) -> Parent {
    let kind = match call.pattern {
        IntegrationPattern::RequestResponse | IntegrationPattern::WaitForTaskToken => ParentKind::Request,
        IntegrationPattern::Sync => ParentKind::Sync,
        IntegrationPattern::Sync2 => ParentKind::Sync2,
    };
    Parent { token: call.token.clone(), kind }
}

/// The service's error, as Step Functions shows it.
fn failure(call: &Call, refused: &Refused) -> Failure {
    let Refused { code, message, .. } = refused;
    let exception = if code.ends_with("Exception") { "" } else { "Exception" };
    let request = &call.attempt_id;
    let cause = format!(
        "{message} (Service: AWSStepFunctions; Status Code: 400; Error Code: {code}; Request ID: {request}; \
         Proxy: null)"
    );
    Failure::new(format!("StepFunctions.{code}{exception}"), cause)
}

#[async_trait]
impl Connector for StartExecution {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let namespace =
            ExecutionArn::parse(&call.execution).map_or_else(|_| Namespace::default(), |a| a.namespace);
        let request = request(&call);
        let mut pause = PAUSE_MIN;
        let answer = loop {
            let started =
                stagepost_api::start_execution(&self.api, namespace.clone(), &request, parent(&call));
            match started.await {
                Ok(answer) => break answer,
                // The attempt's deadline ends it from outside.
                Err(refused) if refused.transient => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(refused) => return Err(failure(&call, &refused)),
            }
        };
        let execution = answer["executionArn"].as_str().and_then(|arn| ExecutionArn::parse(arn).ok());
        let seconds = answer["startDate"].as_f64();
        let (Some(execution), Some(seconds)) = (execution, seconds) else {
            return Err(Failure::new(error_names::RUNTIME, "StartExecution answered without an execution."));
        };
        let output = start_answer(&execution, Timestamp::from_millis((seconds * 1000.0).round() as i64));
        match call.pattern {
            IntegrationPattern::Sync | IntegrationPattern::Sync2 => Ok(Answer::Submitted(output)),
            IntegrationPattern::RequestResponse | IntegrationPattern::WaitForTaskToken => {
                Ok(Answer::Done(output))
            }
        }
    }

    /// A child tells its parent of its end.
    fn offers(&self, _: IntegrationPattern) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stagepost_protocol::{Payload, TaskToken};

    use super::*;

    fn call(input: &Value, pattern: IntegrationPattern) -> Call {
        Call {
            service: "states".into(),
            action: "startExecution".into(),
            pattern,
            function: None,
            input: Payload::from_value(input),
            execution: "arn:aws:states:us-east-1:000000000000:execution:m:e".into(),
            state: "S".into(),
            attempt: 1,
            attempt_id: "attempt-7".into(),
            idempotency_key: "k".into(),
            token: TaskToken::from_untrusted("t"),
        }
    }

    #[test]
    fn parameters_become_a_request_that_is_the_same_when_the_call_comes_again() {
        for (input, expected) in [
            (json!({}), json!({ "name": "attempt-7", "input": "{}" })),
            (
                json!({ "StateMachineArn": "m", "Name": "n", "Input": { "a": 1 }, "TraceHeader": "x" }),
                json!({ "stateMachineArn": "m", "name": "n", "input": "{\"a\":1}", "traceHeader": "x" }),
            ),
            (json!({ "Input": null }), json!({ "name": "attempt-7", "input": "{}" })),
            (json!({ "Input": "[1]" }), json!({ "name": "attempt-7", "input": "[1]" })),
            (json!({ "Input": "plain" }), json!({ "name": "attempt-7", "input": "\"plain\"" })),
        ] {
            assert_eq!(Value::from(request(&call(&input, IntegrationPattern::Sync))), expected);
        }
    }

    #[test]
    fn errors_are_named_as_the_service_names_them() {
        let call = call(&json!({}), IntegrationPattern::RequestResponse);
        for (code, name) in [
            ("ExecutionAlreadyExists", "StepFunctions.ExecutionAlreadyExistsException"),
            ("ValidationException", "StepFunctions.ValidationException"),
        ] {
            let failure = failure(&call, &Refused { code, message: "why".into(), transient: false });
            assert_eq!(stagepost::ActivityError::name(&failure), name);
            assert!(
                failure.cause().starts_with("why (Service: AWSStepFunctions; Status Code: 400; Error Code: ")
            );
        }
    }
}
