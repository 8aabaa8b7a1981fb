//! SignalExecution: what is asked of the coordinator, and what its answers become.

use serde_json::json;
use stagepost_protocol::shard::Reply;

use super::{BASE, Server};

#[tokio::test]
async fn a_signal_goes_to_its_execution_and_each_refusal_has_its_error() {
    let s = Server::new();
    let machine = s.machine("m").await;
    let started = s.ok("StartExecution", json!({ "stateMachineArn": machine, "name": "e" })).await;
    let execution = started["executionArn"].clone();
    let signal =
        json!({ "executionArn": execution, "signalName": "approved", "input": "[1]", "signalId": "7" });
    assert_eq!(s.call_own("SignalExecution", signal.clone()).await, Ok(json!({ "signalId": "7" })));
    let least = json!({ "executionArn": execution, "signalName": "approved" });
    let answer = s.call_own("SignalExecution", least).await.unwrap();
    {
        let signals = &s.memory.tables().signals;
        let sent: Vec<_> = signals.iter().map(|s| (s.name.as_str(), s.input.as_str())).collect();
        assert_eq!(sent, [("approved", "[1]"), ("approved", "{}")]);
        assert_eq!(answer["signalId"], signals[1].id.as_str());
        assert_eq!(signals[0].execution.to_string(), execution.as_str().unwrap());
    }
    for (reply, code) in [
        (Reply::NotFound, "ExecutionDoesNotExist"),
        (Reply::Ended, "ExecutionNotRunning"),
        (Reply::TooManySignals, "SignalLimitExceeded"),
        (Reply::Refused("why".into()), "ValidationException"),
    ] {
        s.memory.tables().signal_reply = Some(reply);
        let refused = s.call_own("SignalExecution", signal.clone()).await.unwrap_err();
        assert_eq!(refused.0, code, "{}", refused.1);
    }

    let sent = s.memory.tables().signals.len();
    for (change, code) in [
        (json!({ "executionArn": format!("{BASE}:execution:m:other") }), "ExecutionDoesNotExist"),
        (json!({ "executionArn": format!("{BASE}:express:m:e:1") }), "InvalidArn"),
        (json!({ "signalName": "" }), "ValidationException"),
        (json!({ "signalName": "x".repeat(257) }), "ValidationException"),
        (json!({ "signalId": "x".repeat(129) }), "ValidationException"),
        (json!({ "input": "<xml/>" }), "InvalidExecutionInput"),
    ] {
        let mut request = signal.clone();
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(s.call_own("SignalExecution", request).await.unwrap_err().0, code, "{change}");
    }
    assert_eq!(s.memory.tables().signals.len(), sent, "what is refused reaches no coordinator");
}
