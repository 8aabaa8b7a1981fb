//! TestState: states by inspection level and mock. Where the developer guide or a recording of the service shows an
//! answer, it is that one.

use serde_json::{Map, Value, json};
use stagepost_protocol::{Payload, ReportOutcome};

use super::{ROLE, Server};

/// A request; `input`, `variables`, `context` and the mock's `result` are given as JSON and sent as texts.
fn request(state: &Value, input: &Value, more: &Value) -> Value {
    let mut body = json!({ "definition": state.to_string(), "input": input.to_string() });
    for (name, value) in more.as_object().unwrap() {
        body[name] = match (name.as_str(), value) {
            ("variables" | "context", value) => value.to_string().into(),
            ("mock", Value::Object(mock)) if mock.contains_key("result") => {
                let mut mock = mock.clone();
                mock.insert("result".to_owned(), mock["result"].to_string().into());
                mock.into()
            }
            (_, value) => value.clone(),
        };
    }
    body
}

/// An answer with the JSON in its texts read.
fn read(answer: Value) -> Value {
    let texts = |fields: &mut Map<String, Value>| {
        for (name, value) in fields {
            let holds_json = name.starts_with("after")
                || ["output", "input", "result", "variables"].contains(&name.as_str());
            if let (true, Value::String(text)) = (holds_json, &*value) {
                *value = serde_json::from_str(text).unwrap();
            }
        }
    };
    let mut answer = answer;
    texts(answer.as_object_mut().unwrap());
    if let Some(data) = answer.get_mut("inspectionData") {
        texts(data.as_object_mut().unwrap());
    }
    answer
}

fn task(more: &Value) -> Value {
    let mut task = json!({ "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "Next": "After" });
    task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    task
}

const INPUT: &str = r#"{"a":{"b":1},"c":2}"#;

#[tokio::test]
async fn each_state_shows_its_data_on_the_way() {
    let s = Server::new();
    let input: Value = serde_json::from_str(INPUT).unwrap();
    let fields = json!({
        "InputPath": "$.a", "Parameters": { "x.$": "$.b" }, "ResultPath": "$.r", "OutputPath": "$.r",
        "ResultSelector": { "s.$": "$.v" },
    });
    let branches = json!([{ "StartAt": "B", "States": { "B": { "Type": "Pass", "End": true } } }]);
    let jsonata = |mut state: Value| {
        state["QueryLanguage"] = "JSONata".into();
        state
    };
    let rows = [
        // The developer guide's second example.
        (
            json!({
                "Type": "Pass", "InputPath": "$.a", "Parameters": { "data": 1 }, "ResultPath": "$.result",
                "OutputPath": "$.result.data", "Next": "Another State",
            }),
            json!(null),
            json!({ "status": "SUCCEEDED", "output": 1, "nextState": "Another State" }),
            json!({
                "afterInputPath": { "b": 1 }, "afterParameters": { "data": 1 },
                "afterResultSelector": { "data": 1 },
                "afterResultPath": { "a": { "b": 1 }, "c": 2, "result": { "data": 1 } },
            }),
        ),
        (
            json!({ "Type": "Pass", "Result": 5, "ResultPath": "$.r", "End": true }),
            json!(null),
            json!({ "status": "SUCCEEDED", "output": { "a": { "b": 1 }, "c": 2, "r": 5 } }),
            json!({
                "result": 5, "afterResultSelector": 5, "afterResultPath": { "a": { "b": 1 }, "c": 2, "r": 5 },
            }),
        ),
        (
            json!({ "Type": "Choice", "InputPath": "$.a", "Default": "D",
                    "Choices": [{ "Variable": "$.b", "NumericEquals": 1, "Next": "One" }] }),
            json!(null),
            json!({ "status": "SUCCEEDED", "output": { "b": 1 }, "nextState": "One" }),
            json!({ "afterInputPath": { "b": 1 } }),
        ),
        (
            json!({ "Type": "Wait", "Seconds": 99_999, "OutputPath": "$.c", "Next": "Later" }),
            json!(null),
            json!({ "status": "SUCCEEDED", "output": 2, "nextState": "Later" }),
            json!({ "afterInputPath": input }),
        ),
        (
            json!({ "Type": "Succeed", "InputPath": "$.c" }),
            json!(null),
            json!({ "status": "SUCCEEDED", "output": 2 }),
            json!({ "afterInputPath": 2 }),
        ),
        (
            json!({ "Type": "Fail", "Error": "E", "CausePath": "States.Format('c is {}', $.c)" }),
            json!(null),
            json!({ "status": "FAILED", "error": "E", "cause": "c is 2" }),
            json!({ "afterInputPath": input }),
        ),
        (
            task(&fields),
            json!({ "result": { "v": 7 } }),
            json!({ "status": "SUCCEEDED", "output": { "s": 7 }, "nextState": "After" }),
            json!({
                "afterInputPath": { "b": 1 }, "afterParameters": { "x": 1 }, "result": { "v": 7 },
                "afterResultSelector": { "s": 7 },
                "afterResultPath": { "a": { "b": 1 }, "c": 2, "r": { "s": 7 } },
            }),
        ),
        (
            task(&fields),
            json!({ "errorOutput": { "error": "E", "cause": "C" } }),
            json!({ "status": "FAILED", "error": "E", "cause": "C" }),
            json!({ "afterInputPath": { "b": 1 }, "afterParameters": { "x": 1 } }),
        ),
        // It came as far as its parameters.
        (
            task(&json!({ "Parameters": { "x.$": "$.none" } })),
            json!({ "result": {} }),
            json!({
                "status": "FAILED", "error": "States.Runtime",
                "cause": "The JSONPath '$.none' specified for the field 'x.$' could not be found in the input \
                          '{\"a\":{\"b\":1},\"c\":2}'",
            }),
            json!({ "afterInputPath": input }),
        ),
        (
            json!({ "Type": "Parallel", "Branches": branches, "ResultPath": "$.r", "OutputPath": "$.r", "End": true }),
            json!({ "result": [3] }),
            json!({ "status": "SUCCEEDED", "output": [3] }),
            json!({ "afterResultSelector": [3], "afterResultPath": { "a": { "b": 1 }, "c": 2, "r": [3] } }),
        ),
        (
            jsonata(json!({ "Type": "Pass", "Output": { "o": "{% $states.input.c + 1 %}" }, "End": true })),
            json!(null),
            json!({ "status": "SUCCEEDED", "output": { "o": 3 } }),
            json!({}),
        ),
        (
            jsonata(task(&json!({
                "Arguments": { "x": "{% $states.input.c %}" }, "Output": "{% $states.result.v %}",
            }))),
            json!({ "result": { "v": 7 } }),
            json!({ "status": "SUCCEEDED", "output": 7, "nextState": "After" }),
            json!({ "afterArguments": { "x": 2 }, "result": { "v": 7 } }),
        ),
        (
            jsonata(json!({ "Type": "Parallel", "Branches": branches, "Arguments": "{% $states.input.c %}",
                            "Output": "{% $states.result %}", "End": true })),
            json!({ "result": [4] }),
            json!({ "status": "SUCCEEDED", "output": [4] }),
            json!({}),
        ),
    ];
    for (state, mock, expected, inspection) in rows {
        for level in [None, Some("INFO"), Some("DEBUG"), Some("TRACE")] {
            let more = json!({ "mock": mock, "inspectionLevel": level });
            let answer = s.ok("TestState", request(&state, &input, &more)).await;
            let mut expected = expected.clone();
            if let Some("DEBUG" | "TRACE") = level {
                expected["inspectionData"] = inspection.clone();
                expected["inspectionData"]["input"] = input.clone();
            }
            assert_eq!(read(answer), expected, "{state} {level:?}");
        }
    }
}

#[tokio::test]
async fn failures_meet_the_retrier_or_catcher_that_applies() {
    let s = Server::new();
    let state = task(&json!({
        "Retry": [
            { "ErrorEquals": ["Never"], "MaxAttempts": 0 },
            { "ErrorEquals": ["A", "B"], "IntervalSeconds": 2, "MaxAttempts": 3, "MaxDelaySeconds": 9 },
            { "ErrorEquals": ["J"], "IntervalSeconds": 4, "JitterStrategy": "FULL" },
        ],
        "Catch": [
            { "ErrorEquals": ["X"], "Next": "One" },
            { "ErrorEquals": ["B", "Never"], "ResultPath": "$.error", "Next": "Two" },
        ],
    }));
    for (error, retries, expected, details) in [
        (
            "A",
            json!(null),
            json!({ "status": "RETRIABLE" }),
            json!({ "retryIndex": 1, "retryBackoffIntervalSeconds": 2 }),
        ),
        (
            "A",
            json!(1),
            json!({ "status": "RETRIABLE" }),
            json!({ "retryIndex": 1, "retryBackoffIntervalSeconds": 4 }),
        ),
        (
            "A",
            json!(2),
            json!({ "status": "RETRIABLE" }),
            json!({ "retryIndex": 1, "retryBackoffIntervalSeconds": 8 }),
        ),
        ("A", json!(3), json!({ "status": "FAILED" }), json!({ "retryIndex": 1 })),
        (
            "J",
            json!(0),
            json!({ "status": "RETRIABLE" }),
            json!({ "retryIndex": 2, "retryBackoffIntervalSeconds": 4 }),
        ),
        (
            "B",
            json!(3),
            json!({ "status": "CAUGHT_ERROR", "nextState": "Two",
                    "output": { "in": 1, "error": { "Error": "B", "Cause": "why" } } }),
            json!({ "retryIndex": 1, "catchIndex": 1 }),
        ),
        (
            "Never",
            json!(null),
            json!({ "status": "CAUGHT_ERROR", "nextState": "Two",
                    "output": { "in": 1, "error": { "Error": "Never", "Cause": "why" } } }),
            json!({ "retryIndex": 0, "catchIndex": 1 }),
        ),
        (
            "X",
            json!(5),
            json!({ "status": "CAUGHT_ERROR", "nextState": "One", "output": { "Error": "X", "Cause": "why" } }),
            json!({ "catchIndex": 0 }),
        ),
        ("Other", json!(null), json!({ "status": "FAILED" }), json!(null)),
    ] {
        let more = json!({
            "mock": { "errorOutput": { "error": error, "cause": "why" } },
            "stateConfiguration": { "retrierRetryCount": retries }, "inspectionLevel": "DEBUG",
        });
        let mut answer = read(s.ok("TestState", request(&state, &json!({ "in": 1 }), &more)).await);
        let shown = answer["inspectionData"]["errorDetails"].take();
        answer.as_object_mut().unwrap().remove("inspectionData");
        let mut expected = expected;
        expected["error"] = error.into();
        expected["cause"] = "why".into();
        assert_eq!((answer, shown), (expected, details), "{error} after {retries} retries");
    }
}

#[tokio::test]
async fn states_see_the_variables_and_the_context_object_that_are_given() {
    let s = Server::new();
    let machine = json!({
        "QueryLanguage": "JSONata", "StartAt": "A",
        "States": {
            "A": { "Type": "Pass", "Assign": { "x": 1 }, "Next": "B" },
            "B": { "Type": "Pass", "Assign": { "y": "{% $x + 1 %}" }, "Output": "{% $x %}", "End": true },
        },
    });
    let more = json!({ "stateName": "B", "variables": { "x": 41 }, "inspectionLevel": "DEBUG" });
    let answer = read(s.ok("TestState", request(&machine, &json!({}), &more)).await);
    assert_eq!(answer["output"], 41);
    assert_eq!(answer["inspectionData"]["variables"], json!({ "x": 41, "y": 42 }));

    let show = |resource: &str| {
        json!({
            "Type": "Task", "Resource": resource, "Parameters": { "all.$": "$$" }, "ResultSelector": { "all.$": "$$" },
            "End": true,
        })
    };
    let (call, waiting) =
        ("arn:aws:states:::sqs:sendMessage", "arn:aws:states:::sqs:sendMessage.waitForTaskToken");
    for (resource, context) in [
        (call, json!({})),
        (
            call,
            json!({ "Execution": { "Id": "e", "Input": [1], "Name": "n" }, "State": { "RetryCount": 3 } }),
        ),
        (waiting, json!({ "Task": { "Token": "t" } })),
    ] {
        let more = json!({ "context": context, "mock": { "result": {} }, "inspectionLevel": "DEBUG" });
        let answer = read(s.ok("TestState", request(&show(resource), &json!({}), &more)).await);
        assert_eq!(answer["inspectionData"]["afterParameters"]["all"], context);
        assert_eq!(answer["output"]["all"], context);
    }

    // Without one, as the service makes it.
    let more = json!({ "mock": { "result": {} }, "roleArn": ROLE, "stateConfiguration": { "retrierRetryCount": 2 } });
    let answer = read(s.ok("TestState", request(&show(call), &json!({ "i": 1 }), &more)).await);
    let context = &answer["output"]["all"];
    assert_eq!(context["Execution"]["Input"], json!({ "i": 1 }));
    assert_eq!(context["Execution"]["RoleArn"], ROLE);
    assert_eq!(context["State"]["Name"], "StateName");
    assert_eq!(context["State"]["RetryCount"], 2);
    assert!(context.get("Task").is_none() && context.get("Map").is_none(), "{context}");
    let more = json!({ "mock": { "result": {} }, "inspectionLevel": "DEBUG" });
    let answer = read(s.ok("TestState", request(&show(waiting), &json!({}), &more)).await);
    assert!(answer["inspectionData"]["afterParameters"]["all"]["Task"]["Token"].is_string());

    // A state of a Map state's iterations is in the first of them.
    let machine = json!({
        "StartAt": "M",
        "States": { "M": {
            "Type": "Map", "End": true,
            "ItemProcessor": { "StartAt": "P", "States": { "P": {
                "Type": "Pass", "Parameters": { "item.$": "$$.Map.Item" }, "End": true,
            } } },
        } },
    });
    let answer = read(s.ok("TestState", request(&machine, &json!("in"), &json!({ "stateName": "P" }))).await);
    assert_eq!(answer["output"]["item"], json!({ "Index": 0, "Value": "in" }));
}

#[tokio::test]
async fn what_cannot_be_tested_is_refused() {
    let s = Server::new();
    let mock = |result: Value| json!({ "mock": { "result": result } });
    let pass = json!({ "Type": "Pass", "End": true });
    let branch = json!({ "StartAt": "B", "States": { "B": { "Type": "Pass", "End": true } } });
    let parallel = json!({ "Type": "Parallel", "Branches": [branch, ], "End": true });
    let map = json!({ "Type": "Map", "ItemProcessor": branch, "End": true });
    let no_map = "TestState API does not support Map or Parallel states. Supported state types include: [Task, Wait, \
                  Pass, Succeed, Fail, Choice]";
    let context = "Invalid Context object provided: ";
    let definition = "Invalid State Machine Definition: 'SCHEMA_VALIDATION_FAILED: ";
    for (state, more, code, message) in [
        (json!({ "Type": "Pass" }), json!({}), "InvalidDefinition", format!("{definition}Exactly one of these fields is required: [Next, End] at /States/StateName'")),
        (json!({ "Type": "Parallel", "Branches": [], "End": true }), mock(json!([])), "InvalidDefinition", format!("{definition}Value cannot be empty at /States/StateName/Branches'")),
        (json!({ "StartAt": "P", "States": { "P": pass } }), json!({ "stateName": "Q" }), "ValidationException", "State not found in definition".into()),
        (pass.clone(), json!({ "stateName": "" }), "ValidationException", "1 validation error detected: Value '' at 'stateName' failed to satisfy constraint: Member must have length greater than or equal to 1".into()),
        (pass.clone(), json!({ "roleArn": "nobody" }), "InvalidArn", "Invalid Arn: 'Invalid ARN prefix: nobody'".into()),
        (pass.clone(), mock(json!({})), "ValidationException", "State type 'Pass' is not supported when a mock is specified".into()),
        (json!({ "Type": "Wait", "Seconds": 1, "End": true }), mock(json!({})), "ValidationException", "State type 'Wait' is not supported when a mock is specified".into()),
        (task(&json!({})), json!({}), "ValidationException", "RoleArn must be specified when testing a Task state".into()),
        (task(&json!({})), json!({ "mock": {} }), "ValidationException", "A test mock should have only one of the following fields: [result, errorOutput].".into()),
        (task(&json!({})), json!({ "mock": { "result": {}, "errorOutput": {} } }), "ValidationException", "A test mock should have only one of the following fields: [result, errorOutput].".into()),
        (task(&json!({})), json!({ "mock": { "result": {} }, "revealSecrets": true }), "ValidationException", "TestState does not support RevealSecrets when a mock is specified.".into()),
        (task(&json!({})), mock(json!({ "MessageId": 1 })), "ValidationException", "Mock result schema validation error: Field 'MessageId' must be a string".into()),
        (parallel.clone(), json!({}), "InvalidDefinition", no_map.into()),
        (map.clone(), json!({}), "InvalidDefinition", no_map.into()),
        (map.clone(), json!({ "stateConfiguration": { "mapIterationFailureCount": 0 } }), "ValidationException", "TestState does not support MapIterationFailureCount when a mock is not specified.".into()),
        (map.clone(), mock(json!({})), "ValidationException", "Mocked result must be an array.".into()),
        (parallel.clone(), mock(json!({})), "ValidationException", "Mocked result must be an array.".into()),
        (parallel.clone(), mock(json!([1, 2])), "ValidationException", "Mocked result must contain the same number of items as number of Parallel branches.".into()),
        (parallel, json!({ "mock": { "errorOutput": {} }, "stateConfiguration": { "errorCausedByState": "C" } }), "ValidationException", "ErrorCausedByState 'C' is not a state within the Map or Parallel state under test.".into()),
        (pass.clone(), json!({ "context": { "Map": {} } }), "ValidationException", format!("{context}'Map' field is not supported when mocking a Context object")),
        (pass.clone(), json!({ "context": { "Execution": { "Who": 1 } } }), "ValidationException", format!("{context}Field 'Who' is not allowed")),
        (pass.clone(), json!({ "context": { "State": { "Name": 1 } } }), "ValidationException", format!("{context}State.Name must be a string")),
        (pass.clone(), json!({ "context": { "State": [] } }), "ValidationException", format!("{context}State must be an object")),
        (pass.clone(), json!({ "context": { "Task": {} } }), "ValidationException", format!("{context}Context object contains 'Task' when state is not a Task state with a '.sync' or '.waitForTaskToken' service integration pattern")),
        (pass.clone(), json!({ "variables": [] }), "ValidationException", "Variables must be a JSON object in a text".into()),
    ] {
        let body = request(&state, &json!({}), &more);
        let refused = s.call("TestState", body.clone()).await.unwrap_err();
        assert_eq!(refused, (code.to_owned(), message), "{body}");
    }
    for resource in ["activity:a", "sqs:sendMessage.waitForTaskToken", "states:startExecution.sync"] {
        let state = task(&json!({ "Resource": format!("arn:aws:states:::{resource}") }));
        let (code, message) =
            s.call("TestState", request(&state, &json!({}), &json!({ "roleArn": ROLE }))).await.unwrap_err();
        assert_eq!(code, "ValidationException");
        assert!(message.contains("only when a mock is specified"), "{message}");
    }
    let mut body = request(&pass, &json!({}), &json!({}));
    body["input"] = "{".into();
    assert_eq!(s.code("TestState", body).await, "InvalidExecutionInput");
    let mut body = request(&task(&json!({})), &json!({}), &json!({ "mock": {} }));
    body["mock"]["result"] = "{".into();
    let refused = s.call("TestState", body).await.unwrap_err();
    assert_eq!(refused, ("ValidationException".to_owned(), "Mocked result must be valid JSON".to_owned()));
}

#[tokio::test]
async fn a_task_without_a_mock_calls_its_service() {
    let s = Server::new();
    let function = "arn:aws:lambda:us-east-1:000000000000:function:f";
    let failed = |error: &str| ReportOutcome::Failed { error: Some(error.into()), cause: Some("why".into()) };
    let answered = ReportOutcome::Succeeded(Payload::parse("{\"v\":7}").unwrap());
    let sqs = "sqs:sendMessage";
    for (resource, called, outcome, timeout, expected) in [
        (
            function,
            "lambda:function",
            Some(answered.clone()),
            None,
            json!({ "status": "SUCCEEDED", "output": 7, "nextState": "After" }),
        ),
        (
            "arn:aws:states:::sqs:sendMessage",
            sqs,
            Some(answered),
            Some(9),
            json!({ "status": "SUCCEEDED", "output": 7, "nextState": "After" }),
        ),
        (
            "arn:aws:states:::sqs:sendMessage",
            sqs,
            Some(failed("E")),
            None,
            json!({ "status": "FAILED", "error": "E", "cause": "why" }),
        ),
        (
            "arn:aws:states:::sqs:sendMessage",
            sqs,
            None,
            Some(999),
            json!({ "status": "RETRIABLE", "error": "States.Timeout" }),
        ),
    ] {
        s.memory.tables().call_outcome = outcome;
        let mut state = task(&json!({
            "Resource": resource, "Parameters": { "x.$": "$.in" }, "OutputPath": "$.v",
            "Retry": [{ "ErrorEquals": ["States.Timeout"] }],
        }));
        if let Some(seconds) = timeout {
            state["TimeoutSeconds"] = seconds.into();
        }
        let answer =
            s.ok("TestState", request(&state, &json!({ "in": 1 }), &json!({ "roleArn": ROLE }))).await;
        assert_eq!(read(answer), expected, "{resource}");
        let (call, wait) = s.memory.tables().calls.pop().unwrap();
        assert_eq!(call.target.resource(), called);
        assert_eq!(call.target.function.as_deref(), (called == "lambda:function").then_some(function));
        assert_eq!(call.input.as_str(), "{\"x\":1}");
        assert_eq!(wait.as_secs(), timeout.unwrap_or(300).min(300));
    }
}

/// A distributed Map state.
fn map(more: &Value) -> Value {
    let mut map = json!({
        "Type": "Map", "End": true,
        "ItemProcessor": {
            "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" },
            "StartAt": "One", "States": { "One": { "Type": "Pass", "End": true } },
        },
    });
    map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    map
}

#[tokio::test]
async fn a_map_state_shows_its_items_and_limits() {
    let s = Server::new();
    let input = json!({ "items": ["a", "b", "c", "d"], "n": 2, "p": 30.5 });
    let items = &input["items"];
    let of = |query: &str| format!("{{% {query} %}}");
    for (more, expected) in [
        (
            json!({ "ItemsPath": "$.items" }),
            json!({ "afterInputPath": input, "afterItemsPath": items, "maxConcurrency": 0,
                    "afterResultSelector": [9], "afterResultPath": [9] }),
        ),
        (
            json!({
                "InputPath": "$", "ItemsPath": "$.items", "MaxConcurrencyPath": "$.n",
                "ToleratedFailureCountPath": "$.n", "ToleratedFailurePercentagePath": "$.p",
                "ItemSelector": { "at.$": "$$.Map.Item.Index", "it.$": "$$.Map.Item.Value", "n.$": "$.n" },
                "ResultSelector": { "r.$": "$[0]" },
            }),
            json!({
                "afterInputPath": input, "afterItemsPath": items, "maxConcurrency": 2,
                "toleratedFailureCount": 2, "toleratedFailurePercentage": 30.5,
                "afterItemSelector": [
                    { "at": 0, "it": "a", "n": 2 }, { "at": 1, "it": "b", "n": 2 },
                    { "at": 2, "it": "c", "n": 2 }, { "at": 3, "it": "d", "n": 2 },
                ],
                "afterResultSelector": { "r": 9 }, "afterResultPath": { "r": 9 },
            }),
        ),
        (
            json!({
                "QueryLanguage": "JSONata", "Items": of("$states.input.items"), "MaxConcurrency": of("1 + 1"),
                "ToleratedFailurePercentage": 5, "ItemSelector": of("$states.context.Map.Item.Value & '!'"),
            }),
            json!({
                "maxConcurrency": 2, "toleratedFailurePercentage": 5.0,
                "afterItemSelector": ["a!", "b!", "c!", "d!"],
            }),
        ),
    ] {
        let asked = json!({ "mock": { "result": [9] }, "inspectionLevel": "DEBUG" });
        let answer = read(s.ok("TestState", request(&map(&more), &input, &asked)).await);
        assert_eq!(answer["status"], "SUCCEEDED", "{answer}");
        let mut expected = expected;
        expected["input"] = input.clone();
        assert_eq!(answer["inspectionData"], expected, "{more}");
    }
    // What keeps it from having items is told with what it came to before.
    let wrong = map(&json!({ "ItemsPath": "$.n" }));
    let asked = json!({ "mock": { "result": [9] }, "inspectionLevel": "DEBUG" });
    let answer = read(s.ok("TestState", request(&wrong, &input, &asked)).await);
    assert_eq!(answer["error"], "States.Runtime");
    assert_eq!(answer["inspectionData"], json!({ "input": input, "afterInputPath": input }));
    // What an item reader read is given instead of the input.
    let reader = map(&json!({ "ItemReader": {
        "Resource": "arn:aws:states:::s3:getObject", "ReaderConfig": { "InputType": "JSON" },
        "Parameters": { "Bucket": "b", "Key": "k" },
    } }));
    let asked = json!({
        "mock": { "result": [9] }, "inspectionLevel": "DEBUG", "stateConfiguration": { "mapItemReaderData": "[5,6]" },
    });
    let answer = read(s.ok("TestState", request(&reader, &json!({}), &asked)).await);
    assert_eq!(answer["inspectionData"]["afterItemsPath"], json!([5, 6]));
}

#[tokio::test]
async fn iterations_that_failed_are_weighed_against_the_tolerance() {
    let s = Server::new();
    let input = json!([1, 2, 3, 4]);
    let result = json!({ "result": [0] });
    for (more, failed, mock, expected) in [
        // The service asks no more where the state tolerates nothing.
        (json!({}), 3, result.clone(), "SUCCEEDED"),
        (json!({ "ToleratedFailureCount": 2 }), 2, result.clone(), "SUCCEEDED"),
        (
            json!({ "ToleratedFailureCount": 2 }),
            3,
            result.clone(),
            "FAILED States.ExceedToleratedFailureThreshold",
        ),
        (json!({ "ToleratedFailurePercentage": 50 }), 2, result.clone(), "SUCCEEDED"),
        (
            json!({ "ToleratedFailurePercentage": 49 }),
            2,
            result.clone(),
            "FAILED States.ExceedToleratedFailureThreshold",
        ),
        (
            json!({ "ToleratedFailureCount": 0, "Retry": [{ "ErrorEquals": ["States.ExceedToleratedFailureThreshold"] }] }),
            1,
            result,
            "RETRIABLE States.ExceedToleratedFailureThreshold",
        ),
        (json!({ "ToleratedFailureCount": 2 }), 0, json!({ "errorOutput": { "error": "E" } }), "FAILED E"),
    ] {
        let asked = json!({ "mock": mock, "stateConfiguration": { "mapIterationFailureCount": failed } });
        let answer = s.ok("TestState", request(&map(&more), &input, &asked)).await;
        let error = answer["error"].as_str().unwrap_or_default();
        let came_to = format!("{} {error}", answer["status"].as_str().unwrap());
        assert_eq!(came_to.trim(), expected, "{more}");
    }
    let writer = json!({ "ResultWriter": { "Resource": "arn:aws:states:::s3:putObject", "Parameters": { "Bucket": "b" } } });
    let mock = |result: Value, failed: u32| json!({ "mock": { "result": result }, "stateConfiguration": { "mapIterationFailureCount": failed } });
    for (more, asked, message) in [
        (json!({}), mock(json!([]), 5), "MapIterationFailureCount (5) exceeds the number of items (4)."),
        (json!({}), mock(json!({}), 0), "Mocked result must be an array."),
        (writer, mock(json!([]), 0), "Mocked result must be a JSON object."),
    ] {
        let refused = s.call("TestState", request(&map(&more), &input, &asked)).await.unwrap_err();
        assert_eq!(refused, ("ValidationException".to_owned(), message.to_owned()));
    }
}
