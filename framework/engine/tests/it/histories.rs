//! Histories of every type of state, event by event.

use serde_json::json;
use stagepost_engine::{Command, End, Ignored, Input};
use stagepost_protocol::{ReportOutcome, Timestamp};

use crate::support::{Run, machine, payload, states, task};

#[test]
fn a_sequence_of_activities() {
    let definition = states(
        "A",
        json!({ "A": task("a", json!({ "Next": "B" })), "B": task("b", json!({ "End": true })) }),
    );
    let mut run = Run::start(&definition, json!({ "n": 1 }));
    let [Command::Dispatch(dispatch)] = &run.commands[..] else { panic!("{:?}", run.commands) };
    assert_eq!((dispatch.activity.as_str(), dispatch.attempt, dispatch.event_id), ("a", 1, 3));
    assert_eq!(run.key().verify(dispatch.token.as_str()), Some((run.execution.id(), 3)));
    assert_eq!(run.pending(), run.commands);
    run.report(3, ReportOutcome::Started).unwrap();
    assert_eq!(run.report(3, ReportOutcome::Started), Err(Ignored::AlreadyStarted));
    run.succeed(3, json!(2));
    assert_eq!(run.report(3, ReportOutcome::Started), Err(Ignored::AttemptClosed));
    assert_eq!(run.report(99, ReportOutcome::Started), Err(Ignored::UnknownAttempt));
    run.succeed(8, json!(3));
    assert_eq!(run.decide(Input::Wake), Err(Ignored::Ended));
    assert_eq!(run.execution.end().map(|(end, _)| end), Some(&End::Succeeded(payload(&json!(3)))));
    run.shows(
        r#"
        1<-0 ExecutionStarted < {"n":1}
        2<-0 TaskStateEntered A < {"n":1}
        3<-2 ActivityScheduled < {"n":1}
        4<-3 ActivityStarted workerName=w
        5<-4 ActivitySucceeded > 2
        6<-5 TaskStateExited A > 2
        7<-6 TaskStateEntered B < 2
        8<-7 ActivityScheduled < 2
        9<-8 ActivityStarted workerName=w
        10<-9 ActivitySucceeded > 3
        11<-10 TaskStateExited B > 3
        12<-11 ExecutionSucceeded > 3"#,
    );
}

#[test]
fn a_wait_ends_by_a_wake_up_and_a_fail_state_fails_the_execution() {
    let definition = states(
        "W",
        json!({
            "W": { "Type": "Wait", "Seconds": 5, "Next": "P" },
            "P": { "Type": "Pass", "Result": [1], "Next": "F" },
            "F": { "Type": "Fail", "Error": "E", "Cause": "c" },
        }),
    );
    let mut run = Run::start(&definition, json!({}));
    assert_eq!(run.execution.next_deadline(), Some(Timestamp::from_millis(1_005_000)));
    assert_eq!(run.decide(Input::Wake), Err(Ignored::NothingDue));
    run.wake_at_deadline();
    run.shows(
        "
        1<-0 ExecutionStarted < {}
        2<-0 WaitStateEntered W < {}
        3<-2 WaitStateExited W > {}
        4<-3 PassStateEntered P < {}
        5<-4 PassStateExited P > [1]
        6<-5 FailStateEntered F < [1]
        7<-6 ExecutionFailed error=E cause=c",
    );
}

#[test]
fn retries_are_counted_and_a_catcher_takes_over() {
    let errors = json!({
        "Retry": [{ "ErrorEquals": ["X"], "IntervalSeconds": 2, "MaxAttempts": 1, "BackoffRate": 1.0 }],
        "Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "S" }],
        "End": true,
    });
    let definition = states("A", json!({ "A": task("a", errors), "S": { "Type": "Succeed" } }));
    let mut run = Run::start(&definition, json!(0));
    run.fail(3, "X");
    assert!(run.dispatches().is_empty());
    assert_eq!(run.execution.next_deadline(), Some(Timestamp::from_millis(1_002_000)));
    run.wake_at_deadline();
    let dispatches = run.dispatches();
    assert_eq!((dispatches[0].event_id, dispatches[0].attempt, dispatches[0].entered_event_id), (6, 2, 2));
    run.fail(6, "X");
    run.shows(
        r#"
        1<-0 ExecutionStarted < 0
        2<-0 TaskStateEntered A < 0
        3<-2 ActivityScheduled < 0
        4<-3 ActivityStarted workerName=w
        5<-4 ActivityFailed error=X cause=why
        6<-5 ActivityScheduled < 0
        7<-6 ActivityStarted workerName=w
        8<-7 ActivityFailed error=X cause=why
        9<-8 TaskStateExited A > {"Error":"X","Cause":"why"}
        10<-9 SucceedStateEntered S < {"Error":"X","Cause":"why"}
        11<-10 SucceedStateExited S > {"Error":"X","Cause":"why"}
        12<-11 ExecutionSucceeded > {"Error":"X","Cause":"why"}"#,
    );
}

#[test]
fn timeouts_and_missed_heartbeats_end_an_attempt() {
    let limits = json!({ "TimeoutSeconds": 60, "HeartbeatSeconds": 10, "End": true });
    let definition = states("A", json!({ "A": task("a", limits) }));
    let mut run = Run::start(&definition, json!(0));
    assert_eq!(run.execution.next_deadline(), Some(Timestamp::from_millis(1_060_000)));
    run.report(3, ReportOutcome::Started).unwrap();
    assert_eq!(run.execution.next_deadline(), Some(Timestamp::from_millis(1_010_000)));
    run.now = run.now.plus_millis(5_000);
    run.report(3, ReportOutcome::Heartbeat).unwrap();
    assert_eq!(run.execution.next_deadline(), Some(Timestamp::from_millis(1_015_000)));
    run.wake_at_deadline();
    run.shows(
        "
        1<-0 ExecutionStarted < 0
        2<-0 TaskStateEntered A < 0
        3<-2 ActivityScheduled < 0 timeoutInSeconds=60 heartbeatInSeconds=10
        4<-3 ActivityStarted workerName=w
        5<-4 ActivityTimedOut error=States.Timeout
        6<-5 ExecutionFailed error=States.Timeout",
    );
}

#[test]
fn an_activity_that_is_not_registered_fails_its_state() {
    let arn = "arn:aws:states:us-east-1:000000000000:activity:a";
    let definition = states("A", json!({ "A": { "Type": "Task", "Resource": arn, "End": true } }));
    let run = Run::start_without(&definition, json!(0), &[arn]);
    assert!(run.commands.is_empty());
    run.shows(&format!(
        "
        1<-0 ExecutionStarted < 0
        2<-0 TaskStateEntered A < 0
        3<-2 ExecutionFailed error=States.Runtime cause=An error occurred while executing the state 'A' (entered at \
         the event id #2). The activity {arn} does not exist."
    ));
}

#[test]
fn branches_join_in_order_and_follow_the_start() {
    let definition = states(
        "P",
        json!({ "P": { "Type": "Parallel", "End": true, "Branches": [
            { "StartAt": "A", "States": { "A": task("a", json!({ "End": true })) } },
            { "StartAt": "B", "States": { "B": task("b", json!({ "End": true })) } },
        ] } }),
    );
    let mut run = Run::start(&definition, json!(0));
    run.succeed(7, json!("b"));
    run.succeed(5, json!("a"));
    run.shows(
        r#"
        1<-0 ExecutionStarted < 0
        2<-0 ParallelStateEntered P < 0
        3<-2 ParallelStateStarted
        4<-3 TaskStateEntered A < 0
        5<-4 ActivityScheduled < 0
        6<-3 TaskStateEntered B < 0
        7<-6 ActivityScheduled < 0
        8<-7 ActivityStarted workerName=w
        9<-8 ActivitySucceeded > "b"
        10<-9 TaskStateExited B > "b"
        11<-5 ActivityStarted workerName=w
        12<-11 ActivitySucceeded > "a"
        13<-12 TaskStateExited A > "a"
        14<-13 ParallelStateSucceeded
        15<-13 ParallelStateExited P > ["a","b"]
        16<-15 ExecutionSucceeded > ["a","b"]"#,
    );
}

#[test]
fn a_failed_branch_aborts_the_others() {
    let definition = states(
        "P",
        json!({ "P": { "Type": "Parallel", "End": true, "Branches": [
            { "StartAt": "A", "States": { "A": task("a", json!({ "End": true })) } },
            { "StartAt": "B", "States": { "B": { "Type": "Wait", "Seconds": 9, "End": true } } },
        ] } }),
    );
    let mut run = Run::start(&definition, json!(0));
    run.fail(5, "X");
    run.shows(
        "
        1<-0 ExecutionStarted < 0
        2<-0 ParallelStateEntered P < 0
        3<-2 ParallelStateStarted
        4<-3 TaskStateEntered A < 0
        5<-4 ActivityScheduled < 0
        6<-3 WaitStateEntered B < 0
        7<-5 ActivityStarted workerName=w
        8<-7 ActivityFailed error=X cause=why
        9<-8 TaskStateAborted
        10<-8 WaitStateAborted
        11<-8 ParallelStateFailed
        12<-11 ExecutionFailed error=X cause=why",
    );
}

fn map(more: serde_json::Value) -> std::sync::Arc<stagepost_asl::StateMachine> {
    let processor = json!({ "StartAt": "A", "States": { "A": task("a", json!({ "End": true })) } });
    let mut state = json!({ "Type": "Map", "ItemProcessor": processor, "End": true });
    state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    states("M", json!({ "M": state }))
}

#[test]
fn iterations_run_at_once_without_a_limit() {
    let mut run = Run::start(&map(json!({})), json!([1, 2]));
    run.succeed(7, json!("x"));
    run.succeed(9, json!("y"));
    run.shows(
        r#"
        1<-0 ExecutionStarted < [1,2]
        2<-0 MapStateEntered M < [1,2]
        3<-2 MapStateStarted #2
        4<-3 MapIterationStarted M #0
        5<-3 MapIterationStarted M #1
        6<-4 TaskStateEntered A < 1
        7<-6 ActivityScheduled < 1
        8<-5 TaskStateEntered A < 2
        9<-8 ActivityScheduled < 2
        10<-7 ActivityStarted workerName=w
        11<-10 ActivitySucceeded > "x"
        12<-11 TaskStateExited A > "x"
        13<-12 MapIterationSucceeded M #0
        14<-9 ActivityStarted workerName=w
        15<-14 ActivitySucceeded > "y"
        16<-15 TaskStateExited A > "y"
        17<-16 MapIterationSucceeded M #1
        18<-17 MapStateSucceeded
        19<-17 MapStateExited M > ["x","y"]
        20<-19 ExecutionSucceeded > ["x","y"]"#,
    );
}

#[test]
fn iterations_wait_for_their_turn_and_a_failure_aborts_those_that_run() {
    let mut run = Run::start(&map(json!({ "MaxConcurrency": 2 })), json!([1, 2, 3]));
    run.succeed(9, json!("y"));
    run.fail(7, "X");
    run.shows(
        r#"
        1<-0 ExecutionStarted < [1,2,3]
        2<-0 MapStateEntered M < [1,2,3]
        3<-2 MapStateStarted #3
        4<-3 MapIterationStarted M #0
        5<-3 MapIterationStarted M #1
        6<-4 TaskStateEntered A < 1
        7<-6 ActivityScheduled < 1
        8<-5 TaskStateEntered A < 2
        9<-8 ActivityScheduled < 2
        10<-9 ActivityStarted workerName=w
        11<-10 ActivitySucceeded > "y"
        12<-11 TaskStateExited A > "y"
        13<-12 MapIterationSucceeded M #1
        14<-12 MapIterationStarted M #2
        15<-14 TaskStateEntered A < 3
        16<-15 ActivityScheduled < 3
        17<-7 ActivityStarted workerName=w
        18<-17 ActivityFailed error=X cause=why
        19<-18 MapIterationFailed M #0
        20<-18 TaskStateAborted
        21<-18 MapIterationAborted M #2
        22<-18 TaskStateAborted
        23<-18 MapStateFailed
        24<-23 ExecutionFailed error=X cause=why"#,
    );
    assert_eq!(run.report(16, ReportOutcome::Heartbeat), Err(Ignored::Ended));
}

#[test]
fn a_retried_map_starts_over_after_what_failed() {
    let retry = json!({ "Retry": [{ "ErrorEquals": ["X"], "MaxAttempts": 1 }] });
    let mut run = Run::start(&map(retry), json!([1]));
    run.fail(6, "X");
    run.wake_at_deadline();
    run.fail(14, "X");
    run.shows(
        "
        1<-0 ExecutionStarted < [1]
        2<-0 MapStateEntered M < [1]
        3<-2 MapStateStarted #1
        4<-3 MapIterationStarted M #0
        5<-4 TaskStateEntered A < 1
        6<-5 ActivityScheduled < 1
        7<-6 ActivityStarted workerName=w
        8<-7 ActivityFailed error=X cause=why
        9<-8 MapIterationFailed M #0
        10<-8 TaskStateAborted
        11<-8 MapStateStarted #1
        12<-11 MapIterationStarted M #0
        13<-12 TaskStateEntered A < 1
        14<-13 ActivityScheduled < 1
        15<-14 ActivityStarted workerName=w
        16<-15 ActivityFailed error=X cause=why
        17<-16 MapIterationFailed M #0
        18<-16 TaskStateAborted
        19<-16 MapStateFailed
        20<-19 ExecutionFailed error=X cause=why",
    );
}

#[test]
fn an_empty_map_ends_at_once() {
    Run::start(&map(json!({})), json!([])).shows(
        "
        1<-0 ExecutionStarted < []
        2<-0 MapStateEntered M < []
        3<-2 MapStateStarted #0
        4<-3 MapStateSucceeded
        5<-3 MapStateExited M > []
        6<-5 ExecutionSucceeded > []",
    );
}

#[test]
fn tolerated_failures_stand_in_the_result() {
    let mut run = Run::start(&map(json!({ "ToleratedFailureCount": 1 })), json!([1, 2]));
    run.fail(7, "X");
    run.succeed(9, json!("y"));
    let end = End::Succeeded(payload(&json!([{ "Error": "X", "Cause": "why" }, "y"])));
    assert_eq!(run.execution.end().map(|(end, _)| end), Some(&end));
}

#[test]
fn a_stop_follows_nothing_and_an_execution_can_time_out() {
    let states = json!({ "W": { "Type": "Wait", "Seconds": 60, "End": true } });
    let definition = machine(&json!({ "StartAt": "W", "TimeoutSeconds": 5, "States": states }));
    let mut run = Run::start(&definition, json!(0));
    run.decide(Input::Stop { error: Some("E".into()), cause: None }).unwrap();
    assert!(run.history().ends_with("3<-0 ExecutionAborted error=E"), "{}", run.history());
    let mut run = Run::start(&definition, json!(0));
    run.wake_at_deadline();
    assert!(run.history().ends_with("3<-0 ExecutionTimedOut"), "{}", run.history());
    assert_eq!(run.execution.end(), Some((&End::TimedOut, Timestamp::from_millis(1_005_000))));
}

#[test]
fn an_endless_loop_yields() {
    let fails = json!({ "StartAt": "F", "States": { "F": { "Type": "Fail", "Error": "E" } } });
    let catch = json!([{ "ErrorEquals": ["States.ALL"], "Next": "A" }]);
    let definition = states(
        "A",
        json!({
            "A": { "Type": "Pass", "Next": "P" },
            "P": { "Type": "Parallel", "Branches": [fails], "Catch": catch, "Next": "Z" },
            "Z": { "Type": "Succeed" },
        }),
    );
    let mut run = Run::start(&definition, json!(0));
    assert_eq!(run.execution.next_deadline(), Some(run.now));
    let first = run.execution.last_event_id();
    run.wake_at_deadline();
    assert!(run.execution.last_event_id() >= first + 4000);
    run.decide(Input::Stop { error: None, cause: None }).unwrap();
}

#[test]
fn a_large_map_starts_in_portions() {
    let items: Vec<u32> = (0..3000).collect();
    let mut run = Run::start(&map(json!({})), json!(items));
    while run.dispatches().len() < items.len() {
        run.wake_at_deadline();
    }
    assert_eq!(run.execution.next_deadline(), None);
}

#[test]
fn the_data_flows_through_paths_and_templates() {
    let work = json!({
        "InputPath": "$.order",
        "Parameters": { "id.$": "$.id", "of.$": "$$.Execution.Name", "retry.$": "$$.State.RetryCount" },
        "ResultSelector": { "n.$": "$.count" },
        "ResultPath": "$.stock",
        "OutputPath": "$.stock",
        "End": true,
    });
    let mut run =
        Run::start(&states("A", json!({ "A": task("a", work) })), json!({ "order": { "id": 7 }, "x": 1 }));
    run.succeed(3, json!({ "count": 2, "rest": 0 }));
    run.shows(
        r#"
        1<-0 ExecutionStarted < {"order":{"id":7},"x":1}
        2<-0 TaskStateEntered A < {"order":{"id":7},"x":1}
        3<-2 ActivityScheduled < {"id":7,"of":"e","retry":0}
        4<-3 ActivityStarted workerName=w
        5<-4 ActivitySucceeded > {"count":2,"rest":0}
        6<-5 TaskStateExited A > {"n":2}
        7<-6 ExecutionSucceeded > {"n":2}"#,
    );
}

#[test]
fn a_choice_goes_where_the_first_rule_that_holds_leads() {
    let rule = |n: i32, next: &str| json!({ "Variable": "$.n", "NumericEquals": n, "Next": next });
    let definition = states(
        "C",
        json!({
            "C": { "Type": "Choice", "Choices": [rule(1, "One"), rule(2, "Two")] },
            "One": { "Type": "Succeed" },
            "Two": { "Type": "Fail", "ErrorPath": "$.error" },
        }),
    );
    assert!(Run::start(&definition, json!({ "n": 1 })).history().contains("SucceedStateEntered One"));
    let two = Run::start(&definition, json!({ "n": 2, "error": "Late" }));
    assert!(two.history().ends_with("5<-4 ExecutionFailed error=Late"), "{}", two.history());
    Run::start(&definition, json!({ "n": 3 })).shows(
        r#"
        1<-0 ExecutionStarted < {"n":3}
        2<-0 ChoiceStateEntered C < {"n":3}
        3<-2 ExecutionFailed error=States.Runtime cause=An error occurred while executing the state 'C' (entered at the event id #2). Failed to transition out of the state. The state does not point to a next state."#,
    );
}

#[test]
fn a_message_with_a_token_waits_for_its_answer() {
    let definition = states(
        "Q",
        json!({ "Q": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Parameters": { "QueueUrl": "amqp:///approvals", "MessageBody": { "token.$": "$$.Task.Token" } },
            "HeartbeatSeconds": 10,
            "End": true,
        } }),
    );
    let mut run = Run::start(&definition, json!(0));
    let [Command::Call(call)] = &run.commands[..] else { panic!("{:?}", run.commands) };
    let token = call.input.to_value()["MessageBody"]["token"].as_str().unwrap().to_owned();
    assert_eq!(run.key().verify(&token), Some((run.execution.id(), call.event_id)));
    assert_eq!(token, call.token.as_str());
    assert_eq!(run.pending(), run.commands);
    assert_eq!(run.execution.next_deadline(), Some(Timestamp::from_millis(1_010_000)));
    run.report(3, ReportOutcome::Submitted(payload(&json!({ "MessageId": "m" })))).unwrap();
    // The message is with its consumer: sending it again would be a second one.
    assert_eq!(run.pending(), []);
    let again = ReportOutcome::Submitted(payload(&json!({ "MessageId": "n" })));
    assert_eq!(run.report(3, again), Err(Ignored::AlreadySubmitted));
    run.succeed(3, json!("yes"));
    run.shows(&format!(
        r#"
        1<-0 ExecutionStarted < 0
        2<-0 TaskStateEntered Q < 0
        3<-2 TaskScheduled < {{"QueueUrl":"amqp:///approvals","MessageBody":{{"token":"{token}"}}}} heartbeatInSeconds=10
        4<-3 TaskStarted
        5<-4 TaskSubmitted > {{"MessageId":"m"}}
        6<-5 TaskSucceeded > "yes"
        7<-6 TaskStateExited Q > "yes"
        8<-7 ExecutionSucceeded > "yes""#
    ));
}

#[test]
fn calls_are_commands_that_name_what_is_called() {
    let function = "arn:aws:lambda:us-east-1:000000000000:function:f";
    for (resource, called, events) in [
        (
            function,
            "lambda:function",
            ["LambdaFunctionScheduled", "LambdaFunctionStarted", "LambdaFunctionSucceeded"],
        ),
        (
            "arn:aws:states:::lambda:invoke",
            "lambda:invoke",
            ["TaskScheduled", "TaskStarted", "TaskSucceeded"],
        ),
        (
            "arn:aws:states:::aws-sdk:s3:getObject",
            "aws-sdk:s3:getObject",
            ["TaskScheduled", "TaskStarted", "TaskSucceeded"],
        ),
    ] {
        let task = json!({ "Type": "Task", "Resource": resource, "TimeoutSeconds": 5, "End": true });
        let mut run = Run::start(&states("Q", json!({ "Q": task })), json!({ "a": 1 }));
        let [Command::Call(call)] = &run.commands[..] else { panic!("{:?}", run.commands) };
        assert_eq!(call.target.resource(), called);
        assert_eq!(call.target.function.as_deref(), (resource == function).then_some(function));
        assert_eq!(call.input.to_value(), json!({ "a": 1 }));
        assert_eq!(call.deadline, Some(Timestamp::from_millis(1_005_000)));
        assert_eq!(run.pending(), run.commands);
        let accepted = ReportOutcome::Submitted(payload(&json!({})));
        assert_eq!(run.report(3, accepted), Err(Ignored::AlreadySubmitted), "only a result ends it");
        run.succeed(3, json!("done"));
        let types: Vec<_> = run.history().lines().map(|l| l.split(' ').nth(1).unwrap().to_owned()).collect();
        assert_eq!(types[2..5], events);
        assert!(matches!(run.execution.end(), Some((End::Succeeded(_), _))));
    }
}

#[test]
fn credentials_are_evaluated_and_shown() {
    let task = json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Credentials": { "RoleArn.$": "$.role" },
        "End": true,
    });
    let run = Run::start(&states("Q", json!({ "Q": task })), json!({ "role": "arn:aws:iam::1:role/r" }));
    let scheduled = stagepost_engine::history::describe(&run.events[2], true).unwrap();
    let shown = &scheduled["taskScheduledEventDetails"]["taskCredentials"];
    assert_eq!(*shown, json!({ "roleArn": "arn:aws:iam::1:role/r" }));
}

#[test]
fn payloads_over_the_limit_fail_their_task() {
    let mut run = Run::start(&states("A", json!({ "A": task("a", json!({ "End": true })) })), json!(0));
    run.succeed(3, json!("x".repeat(256 * 1024)));
    assert!(
        run.history().contains("ActivityFailed error=States.DataLimitExceeded cause=The state/task 'arn:")
    );
    assert!(matches!(run.execution.end(), Some((End::Failed { .. }, _))));
}

#[test]
fn a_start_that_a_worker_reports_late_never_goes_back_in_time() {
    let mut run = Run::start(&states("A", json!({ "A": task("a", json!({ "End": true })) })), json!(0));
    let started_at = Some(Timestamp::from_millis(5));
    let outcome = ReportOutcome::Succeeded(payload(&json!(1)));
    run.decide(Input::Report { event_id: 3, worker: None, started_at, outcome, child: None }).unwrap();
    assert_eq!(run.events[3].at, run.events[2].at);
}
