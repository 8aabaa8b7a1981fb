//! Signals: which state gets which, what is kept, and what is refused.

use serde_json::{Value, json};
use stagepost_engine::{End, Ignored, Input};
use stagepost_protocol::{Payload, limits};

use crate::support::{Run, machine, payload, states, task};

fn wait(name: &str, more: Value) -> Value {
    let mut state = json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::stagepost:waitForSignal",
        "Parameters": { "Name": name },
    });
    state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    state
}

fn signal(run: &mut Run, id: &str, name: &str, input: Value) -> Result<(), Ignored> {
    run.decide(Input::Signal { id: id.into(), name: name.into(), input: payload(&input) })
}

fn output(run: &Run) -> Value {
    match run.execution.end() {
        Some((End::Succeeded(output), _)) => output.to_value(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_state_waits_for_its_signal_and_goes_on_with_what_it_brings() {
    let definition =
        states("W", json!({ "W": wait("approved", json!({ "ResultPath": "$.by", "End": true })) }));
    let mut run = Run::start(&definition, json!({ "order": 1 }));
    assert!(run.pending().is_empty(), "nobody is asked");
    assert_eq!(run.execution.next_deadline(), None);
    signal(&mut run, "1", "approved", json!({ "who": "ann" })).unwrap();
    run.shows(
        r#"
        1<-0 ExecutionStarted < {"order":1}
        2<-0 TaskStateEntered W < {"order":1}
        3<-2 TaskScheduled < {"Name":"approved"}
        4<-3 TaskStarted
        5<-4 TaskSucceeded > {"who":"ann"}
        6<-5 TaskStateExited W > {"order":1,"by":{"who":"ann"}}
        7<-6 ExecutionSucceeded > {"order":1,"by":{"who":"ann"}}
        "#,
    );
    assert_eq!(signal(&mut run, "2", "approved", json!(1)), Err(Ignored::Ended));
}

#[test]
fn signals_that_come_early_are_kept_in_order_each_for_one_state() {
    let definition = states(
        "T",
        json!({
            "T": task("t", json!({ "Next": "A" })),
            "A": wait("s", json!({ "ResultPath": "$.a", "Next": "B" })),
            "B": wait("s", json!({ "ResultPath": "$.b", "Next": "C" })),
            "C": wait("other", json!({ "ResultPath": "$.c", "End": true })),
        }),
    );
    let mut run = Run::start(&definition, json!({}));
    for (id, name, n) in [("1", "s", 1), ("2", "unasked", 2), ("3", "s", 3)] {
        signal(&mut run, id, name, json!(n)).unwrap();
    }
    run.succeed(3, json!({}));
    assert_eq!(run.execution.end(), None);
    signal(&mut run, "4", "other", json!(4)).unwrap();
    assert_eq!(output(&run), json!({ "a": 1, "b": 3, "c": 4 }));
}

#[test]
fn of_several_that_wait_the_first_gets_the_signal() {
    let branch =
        |name: &str| json!({ "StartAt": name, "States": { name: wait("s", json!({ "End": true })) } });
    let parallel = json!({ "Type": "Parallel", "Branches": [branch("A"), branch("B")], "End": true });
    let mut run = Run::start(&states("P", json!({ "P": parallel })), json!({}));
    signal(&mut run, "1", "s", json!("first")).unwrap();
    signal(&mut run, "2", "s", json!("second")).unwrap();
    assert_eq!(output(&run), json!(["first", "second"]));

    // Each iteration takes one, also those that begin later.
    let processor = json!({ "StartAt": "I", "States": { "I": wait("s", json!({ "End": true })) } });
    let map = json!({ "Type": "Map", "ItemProcessor": processor, "MaxConcurrency": 1, "End": true });
    let mut run = Run::start(&states("M", json!({ "M": map })), json!([7, 8, 9]));
    for n in 0..3 {
        signal(&mut run, &n.to_string(), "s", json!(n)).unwrap();
    }
    assert_eq!(output(&run), json!([0, 1, 2]));
}

#[test]
fn a_signal_that_is_repeated_counts_once_even_when_it_was_taken() {
    let definition = states(
        "A",
        json!({
            "A": wait("s", json!({ "Next": "B" })),
            "B": wait("s", json!({ "End": true })),
        }),
    );
    let mut run = Run::start(&definition, json!({}));
    signal(&mut run, "x", "s", json!(1)).unwrap();
    assert_eq!(signal(&mut run, "x", "s", json!(1)), Err(Ignored::AlreadySignaled));
    // It is forgotten only when so many others have come that it cannot be a repetition any more.
    for n in 1..limits::SIGNAL_IDS_MAX {
        signal(&mut run, &n.to_string(), "unasked", json!(n)).unwrap();
    }
    assert_eq!(signal(&mut run, "x", "s", json!(1)), Err(Ignored::AlreadySignaled));
    signal(&mut run, "last", "unasked", json!(0)).unwrap();
    signal(&mut run, "x", "s", json!(2)).unwrap();
    assert_eq!(output(&run), json!(2));
}

#[test]
fn what_is_kept_is_bounded_and_what_is_waited_for_always_comes_through() {
    let definition = states("W", json!({ "W": wait("s", json!({ "End": true })) }));
    let mut run = Run::start(&definition, json!({}));
    run.checked = false;
    for n in 0..limits::SIGNALS_KEPT_MAX {
        signal(&mut run, &n.to_string(), "unasked", json!(n)).unwrap();
    }
    assert_eq!(signal(&mut run, "more", "unasked", json!(1)), Err(Ignored::TooManySignals));
    run.check();
    signal(&mut run, "more", "s", json!(1)).unwrap();
    assert_eq!(output(&run), json!(1));

    let mut run = Run::start(&definition, json!({}));
    let large = Payload::from_value(&json!("x".repeat(limits::PAYLOAD_BYTES_MAX - 2)));
    let send = |run: &mut Run, n: usize| {
        run.decide(Input::Signal { id: n.to_string(), name: "unasked".into(), input: large.clone() })
    };
    let before = run.execution.approximate_bytes();
    for n in 0..4 {
        send(&mut run, n).unwrap();
    }
    assert!(run.execution.approximate_bytes() >= before + limits::SIGNALS_KEPT_BYTES_MAX);
    assert_eq!(send(&mut run, 4), Err(Ignored::TooManySignals));
}

#[test]
fn a_wait_ends_by_its_time_limit_and_a_later_state_gets_the_signal() {
    let late = json!({ "TimeoutSeconds": 5, "Next": "B", "ResultPath": "$.a",
        "Catch": [{ "ErrorEquals": ["States.Timeout"], "ResultPath": "$.late", "Next": "B" }] });
    let definition = states(
        "A",
        json!({ "A": wait("s", late), "B": wait("s", json!({ "ResultPath": "$.b", "End": true })) }),
    );
    let mut run = Run::start(&definition, json!({}));
    run.wake_at_deadline();
    assert!(run.history().contains("TaskTimedOut error=States.Timeout"), "{}", run.history());
    signal(&mut run, "1", "s", json!(1)).unwrap();
    assert_eq!(output(&run)["b"], 1);
}

#[test]
fn a_signal_that_a_failed_branch_did_not_take_is_there_for_the_retry_and_the_redrive() {
    let branches = json!([
        { "StartAt": "W", "States": { "W": wait("s", json!({ "End": true })) } },
        { "StartAt": "T", "States": { "T": task("t", json!({ "End": true })) } },
    ]);
    let parallel = json!({ "Type": "Parallel", "Branches": branches, "End": true });
    let mut run = Run::start(&states("P", json!({ "P": parallel })), json!({}));
    signal(&mut run, "1", "unasked", json!(1)).unwrap();
    let attempt = run.dispatches()[0].event_id;
    run.fail(attempt, "E");
    assert!(matches!(run.execution.end(), Some((End::Failed { .. }, _))));
    assert_eq!(signal(&mut run, "2", "s", json!(2)), Err(Ignored::Ended));
    run.decide(Input::Redrive { client_token: None, count: None }).unwrap();
    // What came before the end is still known.
    assert_eq!(signal(&mut run, "1", "unasked", json!(1)), Err(Ignored::AlreadySignaled));
    signal(&mut run, "3", "s", json!(3)).unwrap();
    let attempt = run.dispatches()[0].event_id;
    run.succeed(attempt, json!(4));
    assert_eq!(output(&run), json!([3, 4]));
}

#[test]
fn a_name_from_the_data_must_be_one() {
    let mut state = wait("", json!({ "End": true }));
    state["Parameters"] = json!({ "Name.$": "$.name" });
    let definition = machine(&json!({ "StartAt": "W", "States": { "W": state } }));
    let mut run = Run::start(&definition, json!({ "name": "dynamic" }));
    signal(&mut run, "1", "dynamic", json!(1)).unwrap();
    assert_eq!(output(&run), json!(1));
    for bad in [json!(7), json!(""), json!("x".repeat(257))] {
        let run = Run::start(&definition, json!({ "name": bad }));
        let Some((End::Failed { error, cause }, _)) = run.execution.end() else { panic!("{bad}") };
        assert_eq!(error.as_deref(), Some("States.Runtime"));
        assert!(cause.as_deref().unwrap().contains("The parameters of a task that waits for a signal"));
    }
}
