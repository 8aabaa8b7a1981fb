//! What operations answer when something is wrong. Messages that are known from the service are compared.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use stagepost_protocol::{limits, shard::Reply};

use super::{BASE, FAIL, PASS, ROLE, Server};

#[tokio::test]
async fn bad_requests_have_the_services_codes() {
    let s = Server::new();
    let sm = s.machine("m").await;
    s.activity("a").await;
    let ex =
        s.ok("StartExecution", json!({ "stateMachineArn": sm, "name": "one" })).await["executionArn"].clone();
    s.memory.succeed("one", "1");
    let (no_sm, no_ex, no_act) = (
        format!("{BASE}:stateMachine:none"),
        format!("{BASE}:execution:none:x"),
        format!("{BASE}:activity:none"),
    );
    let create = |changes: Value| {
        let mut body = json!({ "name": "x", "definition": PASS, "roleArn": ROLE });
        for (key, value) in changes.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let tags: Vec<Value> = (0..51).map(|i| json!({ "key": format!("k{i}"), "value": "v" })).collect();
    let big = format!("\"{}\"", "x".repeat(limits::PAYLOAD_BYTES_MAX - 1));
    for (operation, body, code) in [
        ("CreateStateMachine", create(json!({ "name": "n".repeat(81) })), "ValidationException"),
        ("CreateStateMachine", create(json!({ "name": "bad name" })), "InvalidName"),
        ("CreateStateMachine", create(json!({ "name": "bad*name" })), "InvalidName"),
        ("CreateStateMachine", create(json!({ "roleArn": "not-an-arn" })), "InvalidArn"),
        ("CreateStateMachine", create(json!({ "definition": "{oops" })), "InvalidDefinition"),
        ("CreateStateMachine", create(json!({ "definition": "[]" })), "InvalidDefinition"),
        ("CreateStateMachine", create(json!({ "definition": "" })), "ValidationException"),
        ("CreateStateMachine", create(json!({ "definition": null })), "ValidationException"),
        ("CreateStateMachine", create(json!({ "type": "TURBO" })), "ValidationException"),
        ("CreateStateMachine", create(json!({ "publish": true })), "ValidationException"),
        ("CreateStateMachine", create(json!({ "versionDescription": "d" })), "ValidationException"),
        ("CreateStateMachine", create(json!({ "tags": tags })), "TooManyTags"),
        (
            "CreateStateMachine",
            create(json!({ "name": "m", "definition": FAIL })),
            "StateMachineAlreadyExists",
        ),
        ("CreateStateMachine", create(json!({ "name": 7 })), "SerializationException"),
        (
            "CreateStateMachine",
            create(json!({ "loggingConfiguration": { "level": "ALL" } })),
            "InvalidLoggingConfiguration",
        ),
        ("DescribeStateMachine", json!({ "stateMachineArn": no_sm }), "StateMachineDoesNotExist"),
        ("DescribeStateMachine", json!({ "stateMachineArn": format!("{sm}:9") }), "StateMachineDoesNotExist"),
        ("DescribeStateMachine", json!({ "stateMachineArn": "bad" }), "InvalidArn"),
        ("DescribeStateMachine", json!({}), "ValidationException"),
        (
            "UpdateStateMachine",
            json!({ "stateMachineArn": no_sm, "definition": PASS }),
            "StateMachineDoesNotExist",
        ),
        ("UpdateStateMachine", json!({ "stateMachineArn": sm, "definition": "[]" }), "InvalidDefinition"),
        (
            "UpdateStateMachine",
            json!({ "stateMachineArn": "arn:nonsense", "definition": PASS }),
            "InvalidArn",
        ),
        ("DeleteStateMachine", json!({ "stateMachineArn": "bad" }), "InvalidArn"),
        ("DeleteStateMachine", json!({ "stateMachineArn": format!("{sm}:1") }), "ValidationException"),
        ("ListStateMachines", json!({ "nextToken": "bogus" }), "InvalidToken"),
        ("ListStateMachines", json!({ "maxResults": 1001 }), "ValidationException"),
        ("ListStateMachines", json!({ "maxResults": "1" }), "SerializationException"),
        ("DescribeStateMachineForExecution", json!({ "executionArn": no_ex }), "ExecutionDoesNotExist"),
        (
            "ValidateStateMachineDefinition",
            json!({ "definition": PASS, "severity": "LOUD" }),
            "ValidationException",
        ),
        ("StartExecution", json!({ "stateMachineArn": no_sm }), "StateMachineDoesNotExist"),
        ("StartExecution", json!({ "stateMachineArn": "bad" }), "InvalidArn"),
        ("StartExecution", json!({ "stateMachineArn": sm, "input": "{nope" }), "InvalidExecutionInput"),
        ("StartExecution", json!({ "stateMachineArn": sm, "input": big }), "ValidationException"),
        (
            "StartExecution",
            json!({ "stateMachineArn": sm, "input": "[".repeat(200) }),
            "InvalidExecutionInput",
        ),
        ("StartExecution", json!({ "stateMachineArn": sm, "name": "n".repeat(81) }), "ValidationException"),
        ("StartExecution", json!({ "stateMachineArn": sm, "name": "a<b>" }), "InvalidName"),
        ("StartExecution", json!({ "stateMachineArn": sm, "name": "one" }), "ExecutionAlreadyExists"),
        ("StartExecution", json!({ "stateMachineArn": sm, "traceHeader": "ü" }), "ValidationException"),
        ("StartSyncExecution", json!({ "stateMachineArn": sm }), "StateMachineTypeNotSupported"),
        ("StartSyncExecution", json!({ "stateMachineArn": no_sm }), "StateMachineDoesNotExist"),
        ("DescribeExecution", json!({ "executionArn": no_ex }), "ExecutionDoesNotExist"),
        ("DescribeExecution", json!({ "executionArn": sm }), "InvalidArn"),
        ("StopExecution", json!({ "executionArn": no_ex }), "ExecutionDoesNotExist"),
        ("StopExecution", json!({ "executionArn": ex, "error": "e".repeat(257) }), "ValidationException"),
        ("ListExecutions", json!({ "stateMachineArn": no_sm }), "StateMachineDoesNotExist"),
        ("ListExecutions", json!({}), "ValidationException"),
        ("ListExecutions", json!({ "stateMachineArn": sm, "nextToken": "bogus" }), "InvalidToken"),
        ("GetExecutionHistory", json!({ "executionArn": no_ex }), "ExecutionDoesNotExist"),
        ("GetExecutionHistory", json!({ "executionArn": "bad" }), "InvalidArn"),
        ("GetExecutionHistory", json!({ "executionArn": ex, "nextToken": "bogus" }), "InvalidToken"),
        ("GetExecutionHistory", json!({ "executionArn": ex, "maxResults": -1 }), "ValidationException"),
        ("CreateActivity", json!({ "name": "a|b" }), "InvalidName"),
        ("CreateActivity", json!({ "name": "a".repeat(81) }), "ValidationException"),
        (
            "CreateActivity",
            json!({ "name": "a", "encryptionConfiguration": { "type": "CUSTOMER_MANAGED_KMS_KEY" } }),
            "ActivityAlreadyExists",
        ),
        ("DescribeActivity", json!({ "activityArn": no_act }), "ActivityDoesNotExist"),
        ("DeleteActivity", json!({ "activityArn": "bad" }), "InvalidArn"),
        ("GetActivityTask", json!({ "activityArn": no_act }), "ActivityDoesNotExist"),
        ("ListActivities", json!({ "nextToken": "bogus" }), "InvalidToken"),
        ("SendTaskSuccess", json!({ "taskToken": "t", "output": "{" }), "InvalidOutput"),
        ("SendTaskSuccess", json!({ "taskToken": "t" }), "ValidationException"),
        ("SendTaskSuccess", json!({ "taskToken": "", "output": "1" }), "ValidationException"),
        ("ListTagsForResource", json!({ "resourceArn": no_sm }), "ResourceNotFound"),
        ("ListTagsForResource", json!({ "resourceArn": "bad" }), "InvalidArn"),
        ("TagResource", json!({ "resourceArn": sm, "tags": tags }), "TooManyTags"),
        ("UntagResource", json!({ "resourceArn": no_act, "tagKeys": ["a"] }), "ResourceNotFound"),
        ("ShredState", json!({}), "UnknownOperationException"),
    ] {
        assert_eq!(s.code(operation, body.clone()).await, code, "{operation} {body}");
    }
}

#[tokio::test]
async fn messages_are_the_services() {
    let s = Server::new();
    let sm = s.machine("m").await;
    for (operation, body, message) in [
        (
            "CreateStateMachine",
            json!({ "name": "x", "definition": r#"{"StartAt":"State_1"}"#, "roleArn": ROLE }),
            "Invalid State Machine Definition: 'SCHEMA_VALIDATION_FAILED: These fields are required: [States] at /'",
        ),
        (
            "CreateStateMachine",
            json!({ "name": "m", "definition": FAIL, "roleArn": ROLE }),
            "State Machine Already Exists: 'arn:aws:states:us-east-1:000000000000:stateMachine:m'",
        ),
        (
            "CreateStateMachine",
            json!({ "name": "x", "definition": PASS, "roleArn": ROLE, "versionDescription": "v" }),
            "Version description can only be set when publish is true",
        ),
        (
            "UpdateStateMachine",
            json!({ "stateMachineArn": sm }),
            "Either the definition, the role ARN, the LoggingConfiguration, or the TracingConfiguration must be specified",
        ),
        (
            "DescribeStateMachine",
            json!({ "stateMachineArn": "not_a_valid_arn" }),
            "Invalid Arn: 'Invalid ARN prefix: not_a_valid_arn'",
        ),
        (
            "StartExecution",
            json!({ "stateMachineArn": sm, "input": "" }),
            "Invalid State Machine Execution Input: 'Invalid execution input.'",
        ),
        (
            "StartExecution",
            json!({ "stateMachineArn": sm, "input": "{'not': 'json'" }),
            "Invalid State Machine Execution Input: 'Unexpected character (''' (code 39)): was expecting double-quote to start field name'",
        ),
        (
            "ListExecutions",
            json!({ "stateMachineArn": sm, "statusFilter": "succeeded" }),
            "1 validation error detected: Value 'succeeded' at 'statusFilter' failed to satisfy constraint: Member must satisfy enum value set: [SUCCEEDED, TIMED_OUT, PENDING_REDRIVE, ABORTED, FAILED, RUNNING]",
        ),
        (
            "GetActivityTask",
            json!({ "activityArn": format!("{BASE}:activity:x") }),
            "Activity Does Not Exist: 'arn:aws:states:us-east-1:000000000000:activity:x'",
        ),
        ("CreateActivity", json!({ "name": "activity name" }), "Invalid Name: 'activity name'"),
    ] {
        let (_, found) = s.call(operation, body).await.unwrap_err();
        assert_eq!(found, message);
    }
}

#[tokio::test]
async fn replies_about_tokens_become_their_errors() {
    let s = Server::new();
    for (reply, code, message) in [
        (Reply::InvalidToken, "InvalidToken", "Invalid Token: 'Invalid token'"),
        (Reply::TaskTimedOut, "TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'"),
        (Reply::TaskDoesNotExist, "TaskDoesNotExist", "Task Does Not Exist: 'Provided task does not exist'"),
        (Reply::Refused("too large".into()), "ValidationException", "too large"),
    ] {
        s.memory.tables().report_reply = Some(reply);
        let error = s.call("SendTaskHeartbeat", json!({ "taskToken": "t" })).await.unwrap_err();
        assert_eq!(error, (code.to_owned(), message.to_owned()));
    }
}

#[tokio::test]
async fn requests_that_are_not_of_the_protocol_are_refused() {
    let s = Server::new();
    let big = "x".repeat(limits::REQUEST_BYTES_MAX + 1);
    for (target, body, status, code) in [
        (Some("AWSStepFunctions.ListActivities"), "{", StatusCode::BAD_REQUEST, "SerializationException"),
        (Some("AWSStepFunctions.ListActivities"), "[]", StatusCode::BAD_REQUEST, "SerializationException"),
        (
            Some("AWSStepFunctions.ListActivities"),
            "\u{feff}{}",
            StatusCode::BAD_REQUEST,
            "SerializationException",
        ),
        (
            Some("AWSStepFunctions.ListActivities"),
            &big,
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLargeException",
        ),
        (Some("AWSStepFunctions.Surprise"), "{}", StatusCode::BAD_REQUEST, "UnknownOperationException"),
        (
            Some("SimpleWorkflowService.ListDomains"),
            "{}",
            StatusCode::BAD_REQUEST,
            "UnknownOperationException",
        ),
        (Some("ListActivities"), "{}", StatusCode::BAD_REQUEST, "UnknownOperationException"),
        (None, "{}", StatusCode::BAD_REQUEST, "UnknownOperationException"),
    ] {
        let mut request = Request::post("/");
        if let Some(target) = target {
            request = request.header("X-Amz-Target", target);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let (found, headers, text) = s.send(request).await;
        assert_eq!((found, headers["x-amzn-errortype"].to_str().unwrap()), (status, code), "{target:?}");
        assert!(serde_json::from_str::<Value>(&text).unwrap()["__type"].as_str().unwrap().ends_with(code));
    }
    // An empty body is an empty request, as curl sends it.
    let request = Request::post("/").header("X-Amz-Target", "AWSStepFunctions.ListActivities");
    let (status, _, text) = s.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "{\"activities\":[]}"));
}
