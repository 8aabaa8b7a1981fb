//! What operations do when nothing is wrong.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use stagepost_protocol::{
    MapItem, MapRun, MapRunCounts, MapRunStatus, Payload, ReportOutcome, TaskMessage, TaskToken, Timestamp,
};
use stagepost_store::ExecutionStatus;

use super::{BASE, FAIL, PASS, ROLE, Server};

#[tokio::test]
async fn a_state_machine_is_created_described_updated_listed_and_deleted() {
    let s = Server::new();
    let request = json!({ "name": "orders", "definition": PASS, "roleArn": ROLE, "tags": [{ "key": "a", "value": "1" }] });
    let created = s.ok("CreateStateMachine", request.clone()).await;
    let arn = format!("{BASE}:stateMachine:orders");
    assert_eq!(created["stateMachineArn"], arn.as_str());
    assert!(created["creationDate"].as_f64().unwrap() > 1.7e9);

    // Idempotent; role and tags are not compared.
    let again = json!({ "name": "orders", "definition": PASS, "roleArn": format!("{ROLE}2") });
    assert_eq!(s.ok("CreateStateMachine", again).await, created);

    let described = s.ok("DescribeStateMachine", json!({ "stateMachineArn": arn })).await;
    assert_eq!(
        described,
        json!({
            "stateMachineArn": arn, "name": "orders", "status": "ACTIVE", "definition": PASS, "roleArn": ROLE,
            "type": "STANDARD", "creationDate": created["creationDate"],
            "loggingConfiguration": { "level": "OFF", "includeExecutionData": false },
            "tracingConfiguration": { "enabled": false },
            "encryptionConfiguration": { "type": "AWS_OWNED_KEY" },
        })
    );
    let meta = json!({ "stateMachineArn": arn, "includedData": "METADATA_ONLY" });
    assert_eq!(s.ok("DescribeStateMachine", meta).await["definition"], "{}");

    let updated = s.ok("UpdateStateMachine", json!({ "stateMachineArn": arn, "definition": FAIL })).await;
    let revision = updated["revisionId"].as_str().unwrap();
    let described = s.ok("DescribeStateMachine", json!({ "stateMachineArn": arn })).await;
    assert_eq!((&described["definition"], &described["revisionId"]), (&json!(FAIL), &json!(revision)));
    // An update that changes nothing makes no revision; one of the role alone does.
    let same = s.ok("UpdateStateMachine", json!({ "stateMachineArn": arn, "definition": FAIL })).await;
    assert_eq!(same["revisionId"], revision);
    let role = json!({ "stateMachineArn": arn, "roleArn": format!("{ROLE}2") });
    assert_ne!(s.ok("UpdateStateMachine", role).await["revisionId"], revision);

    assert_eq!(s.ok("DeleteStateMachine", json!({ "stateMachineArn": arn })).await, json!({}));
    assert_eq!(s.ok("DeleteStateMachine", json!({ "stateMachineArn": arn })).await, json!({}));
    assert_eq!(s.ok("ListStateMachines", json!({})).await, json!({ "stateMachines": [] }));
}

#[tokio::test]
async fn states_are_described_with_the_variables_that_they_refer_to() {
    let s = Server::new();
    let definition = r#"{"StartAt": "A", "States": {
        "A": {"Type": "Pass", "Assign": {"x": 1}, "Next": "B"},
        "B": {"Type": "Pass", "InputPath": "$x", "End": true}}}"#;
    let arn = s
        .ok("CreateStateMachine", json!({ "name": "v", "definition": definition, "roleArn": ROLE }))
        .await["stateMachineArn"]
        .clone();
    let described = s.ok("DescribeStateMachine", json!({ "stateMachineArn": arn })).await;
    assert_eq!(described["variableReferences"], json!({ "B": ["x"] }));
    let meta = json!({ "stateMachineArn": arn, "includedData": "METADATA_ONLY" });
    assert_eq!(s.ok("DescribeStateMachine", meta).await.get("variableReferences"), None);
}

#[tokio::test]
async fn settings_of_a_state_machine_are_kept() {
    let s = Server::new();
    let arn = s.machine("m").await;
    let tracing = json!({ "stateMachineArn": arn, "tracingConfiguration": { "enabled": true } });
    s.ok("UpdateStateMachine", tracing).await;
    let group =
        json!({ "cloudWatchLogsLogGroup": { "logGroupArn": "arn:aws:logs:us-east-1:0:log-group:g:*" } });
    let logging = json!({ "level": "ALL", "includeExecutionData": true, "destinations": [group] });
    s.ok("UpdateStateMachine", json!({ "stateMachineArn": arn, "loggingConfiguration": logging })).await;
    let described = s.ok("DescribeStateMachine", json!({ "stateMachineArn": arn })).await;
    assert_eq!(described["tracingConfiguration"], json!({ "enabled": true }));
    assert_eq!(described["loggingConfiguration"], logging);
    assert_eq!(described["definition"], PASS);
}

#[tokio::test]
async fn an_execution_is_started_described_listed_and_stopped() {
    let s = Server::new();
    let machine = s.machine("m").await;
    let request =
        json!({ "stateMachineArn": machine, "name": "one", "input": " {\"a\": 1}", "traceHeader": "Root=1" });
    let started = s.ok("StartExecution", request.clone()).await;
    let arn = format!("{BASE}:execution:m:one");
    assert_eq!(started, json!({ "executionArn": arn, "startDate": 1000.5 }));
    assert_eq!(s.ok("StartExecution", request).await, started);

    let running = s.ok("DescribeExecution", json!({ "executionArn": arn })).await;
    assert_eq!(
        running,
        json!({
            "executionArn": arn, "stateMachineArn": machine, "name": "one", "status": "RUNNING",
            "startDate": 1000.5, "redriveCount": 0, "redriveStatus": "NOT_REDRIVABLE",
            "redriveStatusReason": "Execution is RUNNING and cannot be redriven", "traceHeader": "Root=1",
            "input": "{\"a\": 1}", "inputDetails": { "included": true },
        })
    );
    // A running execution keeps its definition.
    s.ok("UpdateStateMachine", json!({ "stateMachineArn": machine, "definition": FAIL })).await;
    let described = s.ok("DescribeStateMachineForExecution", json!({ "executionArn": arn })).await;
    assert_eq!((&described["definition"], &described["name"]), (&json!(PASS), &json!("m")));
    assert!(described.get("revisionId").is_none());

    let stop = json!({ "executionArn": arn, "error": "E", "cause": "c" });
    assert_eq!(s.ok("StopExecution", stop).await, json!({ "stopDate": 2000.25 }));
    let stopped = s.ok("DescribeExecution", json!({ "executionArn": arn })).await;
    for (name, value) in [
        ("status", json!("ABORTED")),
        ("error", json!("E")),
        ("cause", json!("c")),
        ("stopDate", json!(2000.25)),
        ("redriveStatus", json!("NOT_REDRIVABLE")),
        ("redriveStatusReason", json!("Execution redrivable period exceeded and cannot be redriven")),
    ] {
        assert_eq!(stopped[name], value, "{name}");
    }

    // Without a name it gets a UUID, without an input an empty object.
    let unnamed = s.ok("StartExecution", json!({ "stateMachineArn": machine })).await;
    let arn = unnamed["executionArn"].as_str().unwrap().to_owned();
    let name = arn.rsplit_once(':').unwrap().1;
    assert_eq!(name.len(), 36);
    s.memory.succeed(name, "[1]");
    let succeeded = s.ok("DescribeExecution", json!({ "executionArn": arn })).await;
    assert_eq!(
        (&succeeded["input"], &succeeded["output"], &succeeded["outputDetails"]),
        (&json!("{}"), &json!("[1]"), &json!({ "included": true }))
    );
    let meta = json!({ "executionArn": arn, "includedData": "METADATA_ONLY" });
    let meta = s.ok("DescribeExecution", meta).await;
    assert!(meta.get("input").is_none() && meta.get("output").is_none());

    let list = |status: Value| json!({ "stateMachineArn": machine, "statusFilter": status });
    let listed = s.ok("ListExecutions", list("SUCCEEDED".into())).await;
    assert_eq!(
        listed,
        json!({ "executions": [{
            "executionArn": arn, "stateMachineArn": machine, "name": name, "status": "SUCCEEDED",
            "startDate": 1000.501, "stopDate": 3000.0, "redriveCount": 0,
        }] })
    );
    assert_eq!(s.ok("ListExecutions", list(Value::Null)).await["executions"].as_array().unwrap().len(), 2);
    assert_eq!(s.ok("ListExecutions", list("RUNNING".into())).await, json!({ "executions": [] }));
}

#[tokio::test]
async fn a_stopped_execution_is_redriven() {
    let s = Server::new();
    let machine = s.machine("m").await;
    for name in ["one", "two"] {
        s.ok("StartExecution", json!({ "stateMachineArn": machine, "name": name })).await;
    }
    let arn = format!("{BASE}:execution:m:one");
    let refused = s.call("RedriveExecution", json!({ "executionArn": arn })).await.unwrap_err();
    let why = "Execution is RUNNING and cannot be redriven";
    assert_eq!(refused, ("ExecutionNotRedrivable".to_owned(), why.to_owned()));
    s.ok("StopExecution", json!({ "executionArn": arn })).await;
    let request = json!({ "executionArn": arn, "clientToken": "t" });
    assert_eq!(s.ok("RedriveExecution", request).await, json!({ "redriveDate": 4000.0 }));
    let described = s.ok("DescribeExecution", json!({ "executionArn": arn })).await;
    assert_eq!((&described["status"], &described["redriveCount"]), (&json!("RUNNING"), &json!(1)));
    assert_eq!(described["redriveDate"], 4000.0);
    for (filter, name) in [("REDRIVEN", "one"), ("NOT_REDRIVEN", "two")] {
        let request = json!({ "stateMachineArn": machine, "redriveFilter": filter });
        let listed = s.ok("ListExecutions", request).await;
        assert_eq!(listed["executions"].as_array().unwrap().len(), 1, "{filter}");
        assert_eq!(listed["executions"][0]["name"], name);
    }
}

#[tokio::test]
async fn the_children_of_a_map_run_wait_to_be_redriven() {
    let s = Server::new();
    let machine = s.machine("m").await;
    for name in ["parent", "failed", "again"] {
        s.ok("StartExecution", json!({ "stateMachineArn": machine, "name": name })).await;
    }
    let arn = format!("{BASE}:mapRun:m/l:5b2c");
    let at = Timestamp::from_millis;
    let counts =
        MapRunCounts { failed: 1, pending_redrive: 1, failures_not_redrivable: 1, ..MapRunCounts::default() };
    let mut run = MapRun {
        arn: arn.parse().unwrap(),
        execution: format!("{BASE}:execution:m:parent").parse().unwrap(),
        status: MapRunStatus::Running,
        started_at: at(1_000),
        stopped_at: None,
        max_concurrency: 0,
        tolerated_failure_count: 0,
        tolerated_failure_percentage: 0.0,
        items: counts,
        executions: counts,
        redrive_count: 2,
        redriven_at: Some(at(5_000)),
    };
    for (name, stopped_at) in [("failed", 4_000), ("again", 6_000)] {
        let mut tables = s.memory.tables();
        let child = tables.executions.iter_mut().find(|e| e.arn.name == name).unwrap();
        child.map_item = Some(MapItem { map_run: run.arn.clone(), items: 1 });
        (child.status, child.stopped_at) = (ExecutionStatus::Failed, Some(at(stopped_at)));
    }
    s.memory.tables().map_runs.push(run.clone());
    let described = s.ok("DescribeMapRun", json!({ "mapRunArn": arn })).await;
    assert_eq!((&described["redriveCount"], &described["redriveDate"]), (&json!(2), &json!(5.0)));
    for counts in [&described["itemCounts"], &described["executionCounts"]] {
        let of = |name: &str| counts[name].as_u64().unwrap();
        assert_eq!((of("total"), of("pendingRedrive"), of("failuresNotRedrivable")), (2, 1, 1));
    }
    for (filter, names) in
        [("PENDING_REDRIVE", vec!["failed"]), ("FAILED", vec!["again"]), ("ABORTED", vec![])]
    {
        let listed = s.ok("ListExecutions", json!({ "mapRunArn": arn, "statusFilter": filter })).await;
        let listed = listed["executions"].as_array().unwrap().iter();
        let shown: Vec<_> = listed.map(|e| (e["name"].clone(), e["status"].clone())).collect();
        assert_eq!(shown, names.into_iter().map(|n| (json!(n), json!(filter))).collect::<Vec<_>>());
    }
    let child = json!({ "executionArn": format!("{BASE}:execution:m:failed") });
    let described = s.ok("DescribeExecution", child.clone()).await;
    assert_eq!(
        (&described["status"], &described["redriveStatusReason"]),
        (&json!("PENDING_REDRIVE"), &json!("Execution is PENDING_REDRIVE and cannot be redriven"))
    );
    // When the Map Run has ended, nothing redrives it.
    (run.status, run.stopped_at) = (MapRunStatus::Failed, Some(at(7_000)));
    s.memory.tables().map_runs[0] = run;
    assert_eq!(s.ok("DescribeExecution", child).await["status"], "FAILED");
}

#[tokio::test]
async fn an_activity_is_created_polled_answered_and_deleted() {
    let s = Server::new();
    let arn = s.activity("charge").await;
    assert_eq!(arn, format!("{BASE}:activity:charge"));
    let created = s.ok("CreateActivity", json!({ "name": "charge" })).await;
    let described = s.ok("DescribeActivity", json!({ "activityArn": arn })).await;
    assert_eq!(
        described,
        json!({
            "activityArn": arn, "name": "charge", "creationDate": created["creationDate"],
            "encryptionConfiguration": { "type": "AWS_OWNED_KEY" },
        })
    );

    let poll = json!({ "activityArn": arn, "workerName": "w" });
    assert_eq!(s.ok("GetActivityTask", poll.clone()).await, json!({ "taskToken": null }));
    s.memory.tables().task = Some(task("token-1", "{\"n\": 7}"));
    let task = s.ok("GetActivityTask", poll).await;
    assert_eq!(task, json!({ "taskToken": "token-1", "input": "{\"n\": 7}" }));

    s.ok("SendTaskHeartbeat", json!({ "taskToken": "token-1" })).await;
    s.ok("SendTaskSuccess", json!({ "taskToken": "token-1", "output": " [1, 2]" })).await;
    s.ok("SendTaskFailure", json!({ "taskToken": "token-1", "error": "E" })).await;
    let outcomes: Vec<_> = s.memory.tables().reports.drain(..).map(|r| r.outcome).collect();
    assert_eq!(
        outcomes,
        [
            ReportOutcome::Heartbeat,
            ReportOutcome::Succeeded(Payload::parse("[1, 2]").unwrap()),
            ReportOutcome::Failed { error: Some("E".into()), cause: None },
        ]
    );
    assert_eq!(s.ok("DeleteActivity", json!({ "activityArn": arn })).await, json!({}));
    assert_eq!(s.ok("DeleteActivity", json!({ "activityArn": arn })).await, json!({}));
    assert_eq!(s.code("GetActivityTask", json!({ "activityArn": arn })).await, "ActivityDoesNotExist");
}

/// What the SDK's worker reads of a task: an SDK of AWS looks at none of these headers.
#[tokio::test]
async fn the_headers_of_a_polled_task_tell_its_attempt() {
    let s = Server::new();
    let arn = s.activity("charge").await;
    s.memory.tables().task = Some(TaskMessage {
        attempt: 2,
        execution: format!("{BASE}:execution:m:é"),
        state: "Charge the card\n支付 100%".into(),
        idempotency_key: "e/7".into(),
        deadline: Some(Timestamp::from_millis(1_500)),
        heartbeat_millis: Some(10_000),
        call: None,
        ..task("token-1", "1")
    });
    let poll = |wait: &str| {
        Request::post("/")
            .header("X-Amz-Target", "AWSStepFunctions.GetActivityTask")
            .header("stagepost-wait", wait)
            .body(Body::from(json!({ "activityArn": arn }).to_string()))
            .unwrap()
    };
    let (status, headers, body) = s.send(poll("10000")).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"taskToken":"token-1","input":"1"}"#));
    for (name, value) in [
        ("stagepost-attempt", "2"),
        ("stagepost-execution", "arn:aws:states:us-east-1:000000000000:execution:m:%C3%A9"),
        ("stagepost-state", "Charge%20the%20card%0A%E6%94%AF%E4%BB%98%20100%25"),
        ("stagepost-idempotency-key", "e/7"),
        ("stagepost-deadline", "1500"),
        ("stagepost-heartbeat", "10000"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    let ours =
        |headers: &axum::http::HeaderMap| headers.keys().any(|name| name.as_str().starts_with("stagepost-"));
    // A wait that is none is passed over, as a header that means something else.
    for wait in ["1", "0", "soon"] {
        let (status, headers, body) = s.send(poll(wait)).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"taskToken":null}"#), "{wait}");
        assert!(!ours(&headers), "{headers:?}");
    }
}

fn task(token: &str, input: &str) -> TaskMessage {
    TaskMessage {
        queue: "q".into(),
        attempt_id: "a".into(),
        token: TaskToken::from_untrusted(token),
        attempt: 1,
        execution: "e".into(),
        state: "S".into(),
        idempotency_key: "k".into(),
        deadline: None,
        heartbeat_millis: None,
        call: None,
        input: Payload::parse(input).unwrap(),
        reply_to: "r".into(),
        priority: 0,
        fairness_key: String::new(),
        republished: false,
        returns: 0,
        traceparent: None,
    }
}

#[tokio::test]
async fn pages_cover_everything_once() {
    let s = Server::new();
    let machine = s.machine("m0").await;
    for i in 1..5 {
        s.machine(&format!("m{i}")).await;
        s.activity(&format!("a{i}")).await;
        s.ok("StartExecution", json!({ "stateMachineArn": machine, "name": format!("e{i}") })).await;
    }
    let two = json!({ "maxResults": 2 });
    let (sizes, names) = s.pages("ListStateMachines", "stateMachines", "name", two.clone()).await;
    assert_eq!((sizes, names), (vec![2, 2, 1], ["m0", "m1", "m2", "m3", "m4"].map(Value::from).to_vec()));
    let (sizes, names) = s.pages("ListActivities", "activities", "name", two).await;
    assert_eq!((sizes, names), (vec![2, 2], ["a1", "a2", "a3", "a4"].map(Value::from).to_vec()));
    let query = json!({ "stateMachineArn": machine, "maxResults": 3 });
    let (sizes, names) = s.pages("ListExecutions", "executions", "name", query).await;
    assert_eq!((sizes, names), (vec![3, 1], ["e4", "e3", "e2", "e1"].map(Value::from).to_vec()));
}

#[tokio::test]
async fn a_token_of_another_listing_is_refused() {
    let s = Server::new();
    let (a, b) = (s.machine("a").await, s.machine("b").await);
    for machine in [&a, &b] {
        for _ in 0..2 {
            s.ok("StartExecution", json!({ "stateMachineArn": machine })).await;
        }
    }
    let page = s.ok("ListExecutions", json!({ "stateMachineArn": a, "maxResults": 1 })).await;
    let query = json!({ "stateMachineArn": b, "nextToken": page["nextToken"] });
    assert_eq!(s.code("ListExecutions", query).await, "InvalidToken");
}

#[tokio::test]
async fn namespaces_see_only_what_is_theirs() {
    let s = Server::new();
    s.machine("here").await;
    let body = json!({ "name": "there", "definition": PASS, "roleArn": ROLE });
    let created = s.call_as("CreateStateMachine", body, "111122223333", "eu-west-1").await.unwrap();
    assert_eq!(created["stateMachineArn"], "arn:aws:states:eu-west-1:111122223333:stateMachine:there");
    let names = |answer: Value| answer["stateMachines"][0]["name"].clone();
    assert_eq!(names(s.ok("ListStateMachines", json!({})).await), "here");
    let listed = s.call_as("ListStateMachines", json!({}), "111122223333", "eu-west-1").await.unwrap();
    assert_eq!(names(listed.clone()), "there");
    assert_eq!(listed["stateMachines"].as_array().unwrap().len(), 1);
    // What is named by its ARN is found wherever the caller is.
    s.ok("StartExecution", json!({ "stateMachineArn": created["stateMachineArn"] })).await;
}

#[tokio::test]
async fn tags_are_added_replaced_and_removed() {
    let s = Server::new();
    let request =
        json!({ "name": "m", "definition": PASS, "roleArn": ROLE, "tags": [{ "key": "a", "value": "1" }] });
    let arn = s.ok("CreateStateMachine", request).await["stateMachineArn"].clone();
    let tags = json!([{ "key": "a", "value": "2" }, { "key": "b" }]);
    s.ok("TagResource", json!({ "resourceArn": arn, "tags": tags })).await;
    let listed = s.ok("ListTagsForResource", json!({ "resourceArn": arn })).await;
    assert_eq!(listed, json!({ "tags": [{ "key": "a", "value": "2" }, { "key": "b", "value": "" }] }));
    s.ok("UntagResource", json!({ "resourceArn": arn, "tagKeys": ["a", "none"] })).await;
    let listed = s.ok("ListTagsForResource", json!({ "resourceArn": arn })).await;
    assert_eq!(listed, json!({ "tags": [{ "key": "b", "value": "" }] }));
    let activity = s.activity("a").await;
    s.ok("TagResource", json!({ "resourceArn": activity, "tags": [{ "key": "k", "value": "" }] })).await;
    let listed = s.ok("ListTagsForResource", json!({ "resourceArn": activity })).await;
    assert_eq!(listed, json!({ "tags": [{ "key": "k", "value": "" }] }));
    // Tags are no part of a revision.
    let described = s.ok("DescribeStateMachine", json!({ "stateMachineArn": arn })).await;
    assert!(described.get("revisionId").is_none());
}

#[tokio::test]
async fn definitions_are_validated() {
    let s = Server::new();
    let validate = async |body: Value| s.ok("ValidateStateMachineDefinition", body).await;
    let fine = json!({ "result": "OK", "diagnostics": [], "truncated": false });
    assert_eq!(validate(json!({ "definition": PASS, "type": "EXPRESS" })).await, fine);
    let no_start = r#"{"States":{"P":{"Type":"Pass","End":true}}}"#;
    assert_eq!(
        validate(json!({ "definition": no_start })).await,
        json!({ "result": "FAIL", "truncated": false, "diagnostics": [{
            "severity": "ERROR", "code": "SCHEMA_VALIDATION_FAILED",
            "message": "These fields are required: [StartAt]", "location": "/",
        }] })
    );
    let bad = r#"{"StartAt":"A","States":{"A":{"Type":"Pass","Next":"X"},"B":{"Type":"Pass","Next":"Y"},"C":{"Type":"Pass","Next":"Z"}}}"#;
    let answer = validate(json!({ "definition": bad, "maxResults": 2 })).await;
    assert_eq!((answer["diagnostics"].as_array().unwrap().len(), &answer["truncated"]), (2, &json!(true)));
    let answer = validate(json!({ "definition": "not a definition" })).await;
    let diagnostic = &answer["diagnostics"][0];
    assert_eq!(
        (&answer["result"], &diagnostic["code"]),
        (&json!("FAIL"), &json!("INVALID_JSON_DESCRIPTION"))
    );
    assert_eq!(diagnostic["location"], "[Source: (String)\"not a definition\"; line: 1, column: 4]");
    let diagnostic = &validate(json!({ "definition": " " })).await["diagnostics"][0];
    assert!(diagnostic.get("location").is_none(), "{diagnostic}");
}
