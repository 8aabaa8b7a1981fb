//! RedriveExecution: each state goes on as the developer guide says ("Redrive behavior of individual states").

use serde_json::{Value, json};
use stagepost_engine::{End, Ignored, Input};
use stagepost_protocol::limits;

use crate::support::{Run, machine, states, task};

fn redrive(run: &mut Run) -> Result<(), Ignored> {
    run.decide(Input::Redrive { client_token: None, count: None })
}

fn open(run: &Run) -> Vec<(String, u64, Value)> {
    let dispatches = run.dispatches().into_iter();
    dispatches.map(|d| (d.activity, d.event_id, d.input.to_value())).collect()
}

fn output(run: &Run) -> Value {
    match run.execution.end() {
        Some((End::Succeeded(output), _)) => output.to_value(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_task_is_scheduled_again_without_being_entered_again() {
    let retry = json!([{ "ErrorEquals": ["X"], "MaxAttempts": 1 }]);
    let parameters = json!({ "count.$": "$$.Execution.RedriveCount", "retries.$": "$$.State.RetryCount" });
    let second = task("b", json!({ "End": true, "Retry": retry, "Parameters": parameters }));
    let definition = states("A", json!({ "A": task("a", json!({ "Next": "B" })), "B": second }));
    let mut run = Run::start(&definition, json!({}));
    run.succeed(3, json!(1));
    run.fail(8, "X");
    run.wake_at_deadline();
    run.fail(run.dispatches()[0].event_id, "X");
    assert!(run.execution.end().is_some());
    let before = run.execution.last_event_id();

    redrive(&mut run).unwrap();
    let parameters = json!({ "count": 1, "retries": 0 });
    assert_eq!(open(&run), [("b".to_owned(), before + 2, parameters)]);
    let history = run.history();
    let tail: Vec<&str> = history.lines().skip(before as usize).collect();
    assert_eq!(tail[0], format!("{}<-{before} ExecutionRedriven redriveCount=1", before + 1));
    assert!(tail[1].starts_with(&format!("{}<-{} ActivityScheduled", before + 2, before + 1)), "{tail:?}");
    // The retrier has its attempt again.
    run.fail(before + 2, "X");
    run.wake_at_deadline();
    run.succeed(run.dispatches()[0].event_id, json!("done"));
    assert_eq!(output(&run), json!("done"));
    assert_eq!(redrive(&mut run), Err(Ignored::Ended));
}

#[test]
fn only_the_branches_that_failed_or_were_aborted_go_on() {
    let branch =
        |name: &str| json!({ "StartAt": name, "States": { name: task(name, json!({ "End": true })) } });
    let two = json!({ "StartAt": "C", "States": {
        "C": task("c", json!({ "Next": "D" })), "D": task("d", json!({ "End": true })) } });
    let parallel = json!({ "Type": "Parallel", "Branches": [branch("a"), branch("b"), two], "End": true });
    let mut run = Run::start(&states("P", json!({ "P": parallel })), json!(0));
    let id = |run: &Run, name: &str| open(run).iter().find(|(a, ..)| a == name).unwrap().1;
    run.succeed(id(&run, "a"), json!("a"));
    run.succeed(id(&run, "c"), json!("c"));
    run.fail(id(&run, "b"), "X");
    assert!(run.execution.end().is_some());

    redrive(&mut run).unwrap();
    let names: Vec<String> = open(&run).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["b", "d"]);
    run.succeed(id(&run, "d"), json!("d"));
    run.succeed(id(&run, "b"), json!("b"));
    assert_eq!(output(&run), json!(["a", "b", "d"]));
}

#[test]
fn only_the_iterations_that_did_not_succeed_go_on() {
    let item = json!({ "StartAt": "A", "States": { "A": task("a", json!({ "End": true })) } });
    let map = json!({ "Type": "Map", "MaxConcurrency": 2, "ItemProcessor": item, "End": true });
    let mut run = Run::start(&states("M", json!({ "M": map })), json!([0, 1, 2, 3]));
    let id = |run: &Run, item: i64| open(run).iter().find(|(.., input)| *input == json!(item)).unwrap().1;
    run.succeed(id(&run, 0), json!("zero"));
    run.fail(id(&run, 1), "X");
    assert!(run.execution.end().is_some());

    redrive(&mut run).unwrap();
    let items = |run: &Run| open(run).into_iter().map(|(.., input)| input).collect::<Vec<_>>();
    assert_eq!(items(&run), [json!(1), json!(2)]);
    run.succeed(id(&run, 2), json!("two"));
    run.succeed(id(&run, 3), json!("three"));
    run.succeed(id(&run, 1), json!("one"));
    assert_eq!(output(&run), json!(["zero", "one", "two", "three"]));
}

#[test]
fn what_a_stop_or_a_timeout_interrupted_begins_anew() {
    let wait = json!({ "Type": "Wait", "Seconds": 10, "Next": "A" });
    let document = json!({ "StartAt": "W", "TimeoutSeconds": 60,
        "States": { "W": wait, "A": task("a", json!({ "End": true, "TimeoutSeconds": 100 })) } });
    let mut run = Run::start(&machine(&document), json!(0));
    run.now = run.now.plus_millis(4_000);
    run.decide(Input::Stop { error: None, cause: None }).unwrap();
    assert_eq!(run.execution.next_deadline(), None);
    run.now = run.now.plus_millis(3_600_000);
    redrive(&mut run).unwrap();
    // All of the ten seconds, and all of the timeout.
    assert_eq!(run.execution.next_deadline(), Some(run.now.plus_millis(10_000)));
    run.wake_at_deadline();
    run.wake_at_deadline();
    assert!(matches!(run.execution.end(), Some((End::TimedOut, _))));
    redrive(&mut run).unwrap();
    run.succeed(open(&run)[0].1, json!("done"));
    assert_eq!(output(&run), json!("done"));
    assert_eq!(run.execution.redrives().0, 2);
}

#[test]
fn branches_and_iterations_that_had_not_entered_a_state_begin_with_the_same_input() {
    let fails = json!({ "StartAt": "F", "States": { "F": { "Type": "Fail", "Error": "X" } } });
    let later = json!({ "StartAt": "A", "States": { "A": task("a", json!({ "End": true })) } });
    let parallel = json!({ "Type": "Parallel", "Branches": [fails, later], "End": true,
        "Parameters": { "v.$": "$.n" } });
    let mut run = Run::start(&states("P", json!({ "P": parallel })), json!({ "n": 7 }));
    assert!(run.execution.end().is_some());
    // The Fail state fails again, before the other branch begins.
    redrive(&mut run).unwrap();
    assert!(matches!(run.execution.end(), Some((End::Failed { .. }, _))));

    let choice = json!({ "Type": "Choice", "Default": "A",
        "Choices": [{ "Variable": "$.v", "NumericEquals": 1, "Next": "F" }] });
    let processor = json!({ "StartAt": "C", "States": {
        "C": choice, "F": { "Type": "Fail", "Error": "X" }, "A": task("a", json!({ "End": true })) } });
    let map = json!({ "Type": "Map", "ItemProcessor": processor, "End": true,
        "ItemSelector": { "v.$": "$$.Map.Item.Value" } });
    let mut run = Run::start(&states("M", json!({ "M": map })), json!([1, 2]));
    assert!(run.execution.end().is_some());
    redrive(&mut run).unwrap();
    assert!(run.execution.end().is_some());
}

#[test]
fn a_parallel_state_whose_result_was_of_no_use_runs_again_as_a_whole() {
    let branch = json!({ "StartAt": "A", "States": { "A": task("a", json!({ "End": true })) } });
    let parallel = json!({ "Type": "Parallel", "Branches": [branch], "End": true,
        "ResultSelector": { "v.$": "$[0].missing" } });
    let mut run = Run::start(&states("P", json!({ "P": parallel })), json!(0));
    run.succeed(open(&run)[0].1, json!({}));
    assert!(run.execution.end().is_some());
    redrive(&mut run).unwrap();
    run.succeed(open(&run)[0].1, json!({ "missing": "found" }));
    assert_eq!(output(&run), json!({ "v": "found" }));
}

#[test]
fn a_redrive_that_is_asked_for_again_is_the_same_one() {
    let mut run = Run::start(&states("A", json!({ "A": task("a", json!({ "End": true })) })), json!(0));
    let with = |token: &str| Input::Redrive { client_token: Some(token.into()), count: None };
    assert_eq!(run.decide(with("t")), Err(Ignored::NotEnded));
    run.fail(3, "X");
    run.decide(with("t")).unwrap();
    assert_eq!(run.decide(with("t")), Err(Ignored::AlreadyRedriven));
    assert_eq!(run.decide(with("u")), Err(Ignored::NotEnded));
    assert_eq!(redrive(&mut run), Err(Ignored::NotEnded));
    // However it has ended since.
    run.fail(open(&run)[0].1, "X");
    assert_eq!(run.decide(with("t")), Err(Ignored::AlreadyRedriven));
    run.decide(with("u")).unwrap();
    run.fail(open(&run)[0].1, "X");
    // A token is forgotten some time.
    run.now = run.now.plus_millis(limits::REDRIVE_TOKEN_MILLIS + 1);
    run.decide(with("u")).unwrap();
    run.succeed(open(&run)[0].1, json!("done"));
    assert_eq!(run.decide(with("u")), Err(Ignored::AlreadyRedriven));
    assert_eq!(run.execution.redrives().0, 3);
}

#[test]
fn a_catch_leaves_nothing_to_redrive_behind() {
    let item = json!({ "StartAt": "A", "States": { "A": task("a", json!({ "End": true })) } });
    let catch = json!([{ "ErrorEquals": ["States.ALL"], "Next": "B" }]);
    let map = json!({ "Type": "Map", "ItemProcessor": item, "Catch": catch, "End": true });
    let definition = states("M", json!({ "M": map, "B": task("b", json!({ "End": true })) }));
    let mut run = Run::start(&definition, json!([0, 1]));
    run.fail(open(&run)[0].1, "X");
    run.fail(open(&run)[0].1, "Y");
    redrive(&mut run).unwrap();
    let names: Vec<String> = open(&run).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["b"]);
}
