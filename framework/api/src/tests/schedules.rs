//! Schedules: what is kept, what is refused, and what an operator sees.

use serde_json::{Value, json};

use super::{PASS, ROLE, Server};

fn daily(machine: &str) -> Value {
    json!({ "name": "daily", "scheduleExpression": "0 9 * * MON-FRI", "stateMachineArn": machine })
}

fn with(mut request: Value, change: &Value) -> Value {
    request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    request
}

#[tokio::test]
async fn a_schedule_is_created_shown_changed_and_deleted() {
    let s = Server::new();
    let machine = s.machine("report").await;
    let own = async |operation: &str, body: Value| s.call_own(operation, body).await.unwrap();
    let more = json!({ "timeZone": "Europe/Berlin", "input": "{\"a\":1}", "overlapPolicy": "BUFFER_ONE",
        "jitterSeconds": 60, "catchUpWindowSeconds": 120, "startTime": "2100-01-01T00:00:00Z" });
    let request = with(daily(&machine), &more);
    let created = own("CreateSchedule", request.clone()).await;
    // The 1st of January 2100 is a Friday.
    for (member, expected) in [
        ("name", json!("daily")),
        ("status", json!("ACTIVE")),
        ("scheduleExpression", json!("0 9 * * MON-FRI")),
        ("nextTime", json!("2100-01-01T08:00:00.000Z")),
        ("input", json!("{\"a\":1}")),
        ("overlapPolicy", json!("BUFFER_ONE")),
        ("startTime", json!("2100-01-01T00:00:00.000Z")),
        ("counts", json!({ "started": 0, "skipped": 0, "missed": 0, "failed": 0 })),
        ("recent", json!([])),
    ] {
        assert_eq!(created[member], expected, "{member}");
    }
    // The same request again is that one; another one under its name is not.
    assert_eq!(own("CreateSchedule", request.clone()).await["creationTime"], created["creationTime"]);
    let error = s.call_own("CreateSchedule", daily(&machine)).await.unwrap_err();
    assert_eq!(error, ("ScheduleAlreadyExists".into(), "Schedule Already Exists: 'daily'".into()));

    let name = json!({ "name": "daily" });
    let paused = own("PauseSchedule", name.clone()).await;
    assert_eq!((&paused["status"], &paused["nextTime"]), (&json!("PAUSED"), &Value::Null));
    let record = s.memory.tables().records.values().next().unwrap().clone();
    assert_eq!((record.label.as_str(), record.due_at), ("PAUSED", None));
    let listed = own("ListSchedules", json!({ "statusFilter": "ACTIVE" })).await;
    assert_eq!(listed, json!({ "schedules": [] }));
    assert_eq!(own("ResumeSchedule", name.clone()).await["nextTime"], created["nextTime"]);
    let listed = own("ListSchedules", json!({ "statusFilter": "ACTIVE" })).await;
    assert_eq!(listed["schedules"][0]["nextTime"], created["nextTime"]);

    // An update gives what is left out its default.
    let updated = own("UpdateSchedule", daily(&machine)).await;
    assert_eq!((&updated["timeZone"], &updated["jitterSeconds"]), (&json!("UTC"), &json!(0)));
    assert_eq!(updated["creationTime"], created["creationTime"]);
    assert_ne!(updated["nextTime"], created["nextTime"]);
    let record = s.memory.tables().records.values().next().unwrap().clone();
    assert_eq!(record.due_at.unwrap().to_string(), updated["nextTime"]);

    let range = json!({ "name": "daily", "from": "2026-01-01T00:00:00Z", "to": "2026-01-31T00:00:00Z" });
    let filling = own("BackfillSchedule", range.clone()).await;
    assert_eq!(filling["backfills"][0]["to"], "2026-01-31T00:00:00.000Z");
    let due_at = s.memory.tables().records.values().next().unwrap().due_at.unwrap();
    assert!(due_at < record.due_at.unwrap(), "it begins at once");

    assert_eq!(own("DeleteSchedule", name.clone()).await, json!({}));
    for operation in ["DescribeSchedule", "PauseSchedule", "ResumeSchedule", "DeleteSchedule"] {
        let error = s.call_own(operation, name.clone()).await.unwrap_err();
        assert_eq!(error.0, "ScheduleDoesNotExist", "{operation}");
    }
    assert_eq!(s.call_own("BackfillSchedule", range).await.unwrap_err().0, "ScheduleDoesNotExist");
    assert_eq!(s.call_own("UpdateSchedule", daily(&machine)).await.unwrap_err().0, "ScheduleDoesNotExist");
}

#[tokio::test]
async fn what_cannot_be_a_schedule_is_refused_and_changes_nothing() {
    let s = Server::new();
    let machine = s.machine("report").await;
    let express = json!({ "name": "fast", "definition": PASS, "roleArn": ROLE, "type": "EXPRESS" });
    let express = s.ok("CreateStateMachine", express).await["stateMachineArn"].clone();
    let other = machine.replace(":report", ":nobody");
    for (change, code, told) in [
        (json!({ "scheduleExpression": "0 25 * * *" }), "InvalidSchedule", "the field 'hour' has '25'"),
        (json!({ "scheduleExpression": "0 0 30 2 *" }), "InvalidSchedule", "never fires"),
        (json!({ "timeZone": "Europe/Nowhere" }), "InvalidSchedule", "is no time zone"),
        (json!({ "name": "a b" }), "InvalidSchedule", "'a b' is no name of a schedule"),
        (json!({ "jitterSeconds": 100_000 }), "InvalidSchedule", "a jitter of 100000 seconds"),
        (json!({ "jitterSeconds": -1 }), "ValidationException", "jitterSeconds"),
        (json!({ "overlapPolicy": "SOMETIMES" }), "ValidationException", "BUFFER_ONE"),
        (json!({ "startTime": "tomorrow" }), "ValidationException", "'startTime' is no time: 'tomorrow'"),
        (json!({ "endTime": "2001-01-01T00:00:00Z" }), "InvalidSchedule", "never fires"),
        (json!({ "input": "{" }), "InvalidExecutionInput", "EOF"),
        (json!({ "stateMachineArn": other }), "StateMachineDoesNotExist", "nobody"),
        (json!({ "stateMachineArn": express, "overlapPolicy": "SKIP" }), "ValidationException", "ALLOW_ALL"),
    ] {
        let error = s.call_own("CreateSchedule", with(daily(&machine), &change)).await.unwrap_err();
        assert!(error.0 == code && error.1.contains(told), "{change}: {error:?}");
    }
    assert!(s.memory.tables().records.is_empty());
    s.call_own("CreateSchedule", with(daily(&machine), &json!({ "stateMachineArn": express })))
        .await
        .unwrap();
    let range = json!({ "name": "daily", "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z" });
    assert_eq!(s.call_own("BackfillSchedule", range).await.unwrap_err().0, "InvalidSchedule");
}

#[tokio::test]
async fn times_are_shown_before_they_come() {
    let s = Server::new();
    let machine = s.machine("report").await;
    s.call_own("CreateSchedule", daily(&machine)).await.unwrap();
    let times = async |body: Value| s.call_own("ListScheduleTimes", body).await.map(|a| a["times"].clone());
    let after = "2026-11-27T09:00:00Z";
    let expected = json!(["2026-11-30T09:00:00.000Z", "2026-12-01T09:00:00.000Z"]);
    assert_eq!(times(json!({ "name": "daily", "after": after, "maxResults": 2 })).await.unwrap(), expected);
    let expression = json!({ "scheduleExpression": "0 10 * * MON-TUE", "timeZone": "Europe/Berlin",
        "after": after, "maxResults": 2 });
    assert_eq!(times(expression).await.unwrap(), expected);
    assert_eq!(times(json!({ "name": "daily" })).await.unwrap().as_array().unwrap().len(), 10);
    assert_eq!(times(json!({})).await.unwrap_err().0, "ValidationException");
    assert_eq!(times(json!({ "scheduleExpression": "daily" })).await.unwrap_err().0, "InvalidSchedule");
}
