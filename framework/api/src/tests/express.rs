//! State machines of type EXPRESS, and what may be asked of their executions.

use serde_json::{Value, json};
use stagepost_protocol::express::LogLevel;

use super::{BASE, PASS, ROLE, Server};

impl Server {
    async fn express(&self, name: &str) -> Value {
        let body = json!({ "name": name, "definition": PASS, "roleArn": ROLE, "type": "EXPRESS" });
        self.ok("CreateStateMachine", body).await["stateMachineArn"].clone()
    }
}

fn calls(resource: &str) -> String {
    let state = json!({ "Type": "Task", "Resource": resource, "End": true });
    json!({ "StartAt": "S", "States": { "S": state } }).to_string()
}

#[tokio::test]
async fn express_machines_are_registered_and_keep_their_type() {
    let s = Server::new();
    let arn = s.express("m").await;
    assert_eq!(s.ok("DescribeStateMachine", json!({ "stateMachineArn": arn })).await["type"], "EXPRESS");
    assert_eq!(s.ok("ListStateMachines", json!({})).await["stateMachines"][0]["type"], "EXPRESS");
    assert_eq!(s.express("m").await, arn);
    let standard = json!({ "name": "m", "definition": PASS, "roleArn": ROLE });
    assert_eq!(s.code("CreateStateMachine", standard).await, "StateMachineAlreadyExists");
    s.ok("DeleteStateMachine", json!({ "stateMachineArn": arn })).await;
}

#[tokio::test]
async fn express_machines_have_no_jobs_and_no_tokens() {
    let s = Server::new();
    let arn = s.express("m").await;
    let standard = s.machine("standard").await;
    // The service says the last one with a space more.
    for (resource, what) in [
        ("arn:aws:states:::states:startExecution.sync", "'.sync' service integration"),
        ("arn:aws:states:::states:startExecution.sync:2", "'.sync' service integration"),
        ("arn:aws:states:::sqs:sendMessage.waitForTaskToken", "'.waitForTaskToken' service integration "),
    ] {
        let definition = calls(resource);
        let message = format!(
            "Invalid State Machine Definition: 'SCHEMA_VALIDATION_FAILED: Express state machine does not support \
             {what} at /States/S/Resource'"
        );
        let refused = ("InvalidDefinition".to_owned(), message);
        let create = json!({ "name": "n", "definition": definition, "roleArn": ROLE, "type": "EXPRESS" });
        assert_eq!(s.call("CreateStateMachine", create).await, Err(refused.clone()));
        let update = json!({ "stateMachineArn": arn, "definition": definition });
        assert_eq!(s.call("UpdateStateMachine", update).await, Err(refused));
        s.ok("UpdateStateMachine", json!({ "stateMachineArn": standard, "definition": definition })).await;
        let validate = json!({ "definition": definition, "type": "EXPRESS" });
        let found = s.ok("ValidateStateMachineDefinition", validate).await;
        assert_eq!(
            (&found["result"], &found["diagnostics"][0]["location"]),
            (&json!("FAIL"), &json!("/States/S/Resource"))
        );
        let validate = json!({ "definition": definition, "type": "STANDARD" });
        assert_eq!(s.ok("ValidateStateMachineDefinition", validate).await["result"], "OK");
    }
    // The service refuses activities too; here they are how work is done.
    for fine in ["arn:aws:states:::activity:a", "arn:aws:states:::sqs:sendMessage"] {
        s.ok("UpdateStateMachine", json!({ "stateMachineArn": arn, "definition": calls(fine) })).await;
    }
}

#[tokio::test]
async fn a_synchronous_execution_is_answered_with_its_end() {
    let s = Server::new();
    let arn = s.express("m").await;
    let start =
        json!({ "stateMachineArn": arn, "name": "one", "input": "{\"a\": 1}", "traceHeader": "Root=1" });
    let mut answer = s.ok("StartSyncExecution", start.clone()).await;
    let execution = answer["executionArn"].take();
    let execution = execution.as_str().unwrap();
    let run = execution.strip_prefix(&format!("{BASE}:express:m:one:")).unwrap();
    assert_eq!(run.len(), 36, "{execution}");
    let expected = json!({
        "executionArn": null, "stateMachineArn": arn, "name": "one", "status": "SUCCEEDED",
        "startDate": 1.0, "stopDate": 1.101, "traceHeader": "Root=1",
        "input": "{\"a\": 1}", "inputDetails": { "included": true },
        "output": "{\"a\": 1}", "outputDetails": { "included": true },
        "billingDetails": { "billedDurationInMilliseconds": 200, "billedMemoryUsedInMB": 64 },
    });
    assert_eq!(answer, expected);
    // Names may repeat, and each run is one of its own.
    let again = s.ok("StartSyncExecution", start).await;
    assert_ne!(again["executionArn"], execution);

    let unnamed =
        s.ok("StartSyncExecution", json!({ "stateMachineArn": arn, "includedData": "METADATA_ONLY" })).await;
    assert_eq!(unnamed["name"].as_str().unwrap().len(), 36);
    assert!(["input", "output", "inputDetails", "outputDetails"].iter().all(|m| unnamed.get(m).is_none()));
    for (end, status, error) in [("late", "TIMED_OUT", "States.Timeout"), ("E", "FAILED", "E")] {
        let input = json!({ "end": end }).to_string();
        let failed = s.ok("StartSyncExecution", json!({ "stateMachineArn": arn, "input": input })).await;
        assert_eq!((&failed["status"], &failed["error"]), (&json!(status), &json!(error)));
        assert!(failed.get("output").is_none());
    }
    assert_eq!(s.memory.tables().executions.len(), 0);
}

#[tokio::test]
async fn a_synchronous_start_is_refused_with_the_services_errors() {
    let s = Server::new();
    let (express, standard) = (s.express("m").await, s.machine("standard").await);
    let gone = format!("{BASE}:stateMachine:gone");
    for (body, code) in [
        (json!({}), "ValidationException"),
        (json!({ "stateMachineArn": "x" }), "InvalidArn"),
        (json!({ "stateMachineArn": gone }), "StateMachineDoesNotExist"),
        (json!({ "stateMachineArn": standard }), "StateMachineTypeNotSupported"),
        (json!({ "stateMachineArn": express, "name": "a b" }), "InvalidName"),
        (json!({ "stateMachineArn": express, "input": "{" }), "InvalidExecutionInput"),
        (json!({ "stateMachineArn": express, "traceHeader": "ü" }), "ValidationException"),
        // So many run already; SDKs try this one again.
        (json!({ "stateMachineArn": express, "input": "{\"end\":\"busy\"}" }), "ThrottlingException"),
    ] {
        assert_eq!(s.code("StartSyncExecution", body.clone()).await, code, "{body}");
    }
}

#[tokio::test]
async fn an_asynchronous_start_is_handed_to_the_broker_and_leaves_nothing_to_ask_for() {
    let s = Server::new();
    let logging = json!({
        "level": "ERROR", "includeExecutionData": true,
        "destinations": [{ "cloudWatchLogsLogGroup": { "logGroupArn": "arn:aws:logs:us-east-1:000000000000:log-group:g:*" } }],
    });
    let create = json!({
        "name": "m", "definition": PASS, "roleArn": ROLE, "type": "EXPRESS", "loggingConfiguration": logging
    });
    let machine = s.ok("CreateStateMachine", create).await["stateMachineArn"].clone();
    let start = json!({ "stateMachineArn": machine, "name": "one", "input": "[1]" });
    let started = s.ok("StartExecution", start.clone()).await;
    let again = s.ok("StartExecution", start).await;
    assert_ne!(started["executionArn"], again["executionArn"]);
    {
        let tables = s.memory.tables();
        let express = &tables.express[0];
        assert_eq!(started["executionArn"], express.execution.to_string());
        assert_eq!((express.input.as_str(), express.logging.level), ("[1]", LogLevel::Error));
        assert!(express.logging.include_execution_data);
        assert_eq!((tables.express.len(), tables.executions.len()), (2, 0));
    }
    for operation in
        ["DescribeExecution", "GetExecutionHistory", "StopExecution", "DescribeStateMachineForExecution"]
    {
        let refused = s.call(operation, json!({ "executionArn": started["executionArn"] })).await;
        let message = "Invalid Arn: 'Resource type not valid in this context: express'";
        assert_eq!(refused, Err(("InvalidArn".to_owned(), message.to_owned())), "{operation}");
    }
    let list = s.code("ListExecutions", json!({ "stateMachineArn": machine })).await;
    assert_eq!(list, "StateMachineTypeNotSupported");
}
