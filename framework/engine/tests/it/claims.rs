//! Who gets an attempt that more than one worker may have been delivered.

use serde_json::{Value, json};
use stagepost_engine::{Command, EventKind, Held, HistoryEvent, Ignored, Input};
use stagepost_protocol::{
    Claim,
    DeliveredAs::{self, First, Redelivered, Republished},
    Lease, ReportOutcome,
};

use crate::support::{Run, machine, states, task};

/// What no lease is longer than.
const DOUBT_MILLIS: u64 = 30_000;

fn lease(holder: &str, idempotent: bool) -> Lease {
    Lease { holder: holder.into(), millis: 30_000, idempotent }
}

fn one_task(more: Value) -> Run {
    let mut state = task("a", json!({ "End": true }));
    state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut run = Run::start(&states("A", json!({ "A": state })), json!(1));
    run.commands.clear();
    run
}

/// What can happen to the attempt.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// `h` says that it has begun it; whether it may run twice.
    Held(&'static str, bool),
    /// Somebody without a lease does.
    Started,
    Succeeded,
    Released(&'static str),
    /// A claim by `h`: of what kind of message, idempotent.
    Claimed(&'static str, DeliveredAs, bool),
    /// A claim by somebody without a lease.
    Polled(DeliveredAs),
    /// One of these, about what was given out at first; else all are about what was given out last.
    Late(&'static Step),
    Over,
}

fn take(run: &mut Run, step: Step) -> Result<(), Ignored> {
    let returned = |event: &&HistoryEvent| matches!(event.kind, EventKind::AttemptReleased { .. });
    let returns = u32::try_from(run.events.iter().filter(returned).count()).unwrap();
    match step {
        Step::Late(step) => take_of(run, *step, 0),
        step => take_of(run, step, returns),
    }
}

fn take_of(run: &mut Run, step: Step, returns: u32) -> Result<(), Ignored> {
    let claim = |lease, delivered| Input::Claim {
        event_id: 3,
        worker: Some("w".into()),
        claim: Claim { returns, lease, delivered },
        doubt_millis: DOUBT_MILLIS,
    };
    match step {
        Step::Held(holder, twice) => {
            run.report(3, ReportOutcome::Held { lease: lease(holder, twice), returns })
        }
        Step::Started => run.report(3, ReportOutcome::Started),
        Step::Succeeded => {
            run.succeed(3, json!(2));
            Ok(())
        }
        Step::Released(holder) => run.report(3, ReportOutcome::Released { holder: holder.into(), returns }),
        Step::Claimed(holder, delivered, twice) => run.decide(claim(Some(lease(holder, twice)), delivered)),
        Step::Polled(delivered) => run.decide(claim(None, delivered)),
        Step::Late(step) => take_of(run, *step, 0),
        Step::Over => run.decide(Input::LeaseOver { event_id: 3 }),
    }
}

/// What happened, what happens then, what that comes to, who has it, how many tasks it made.
type Case = (&'static [Step], Step, Result<(), Ignored>, Option<Held<'static>>, usize);

#[test]
fn one_worker_has_an_attempt() {
    use Step::{Claimed, Held as Holds, Late, Over, Polled, Released, Started, Succeeded};
    let by = |holder| Some(Held::ByWorker(holder));
    let (nobody, taken, doubt) = (Some(Held::ByNobody), Some(Held::Taken), Some(Held::InDoubt));
    let cases: &[Case] = &[
        // Nobody is known to have it.
        (&[], Claimed("h", Redelivered, true), Ok(()), by("h"), 0),
        (&[], Claimed("h", Republished, true), Ok(()), by("h"), 0),
        (&[], Claimed("h", Redelivered, false), Ok(()), doubt, 0),
        (&[], Claimed("h", Republished, false), Ok(()), doubt, 0),
        (&[], Polled(Redelivered), Ok(()), doubt, 0),
        (&[], Over, Err(Ignored::NothingDue), nobody, 0),
        // Somebody has it.
        (&[Holds("h", false)], Claimed("i", Redelivered, true), Err(Ignored::HeldElsewhere), by("h"), 0),
        (&[Holds("h", true)], Claimed("h", Redelivered, true), Err(Ignored::AlreadyHeld), by("h"), 0),
        // It has ended there, or it would not ask.
        (&[Holds("h", false)], Claimed("h", Redelivered, false), Ok(()), doubt, 0),
        (&[Holds("h", false)], Holds("h", false), Err(Ignored::AlreadyStarted), by("h"), 0),
        (&[Holds("h", true)], Holds("i", true), Ok(()), by("i"), 0),
        (&[Started], Claimed("h", Redelivered, true), Err(Ignored::HeldElsewhere), taken, 0),
        (&[Started], Polled(Republished), Err(Ignored::HeldElsewhere), taken, 0),
        (&[Started], Holds("h", false), Ok(()), by("h"), 0),
        (&[Succeeded], Claimed("h", Redelivered, true), Err(Ignored::Ended), None, 0),
        // Of two claims one is granted, and the answer to the other does not change when it asks again.
        (
            &[Claimed("h", Redelivered, true)],
            Claimed("i", Redelivered, true),
            Err(Ignored::HeldElsewhere),
            by("h"),
            0,
        ),
        (
            &[Claimed("h", Redelivered, true)],
            Claimed("h", Redelivered, true),
            Err(Ignored::AlreadyHeld),
            by("h"),
            0,
        ),
        (&[Claimed("h", Redelivered, true)], Holds("h", true), Ok(()), by("h"), 0),
        // In doubt: whoever has it may say so; what may run twice need not wait; a worse doubt takes the place of a
        // better one.
        (
            &[Claimed("h", Redelivered, false)],
            Claimed("i", Redelivered, false),
            Err(Ignored::HeldElsewhere),
            doubt,
            0,
        ),
        (&[Claimed("h", Republished, false)], Claimed("i", Redelivered, false), Ok(()), doubt, 0),
        (
            &[Claimed("h", Redelivered, false)],
            Claimed("i", Republished, false),
            Err(Ignored::HeldElsewhere),
            doubt,
            0,
        ),
        (&[Claimed("h", Redelivered, false)], Claimed("i", Redelivered, true), Ok(()), by("i"), 0),
        (&[Claimed("h", Redelivered, false)], Holds("i", false), Ok(()), by("i"), 0),
        (&[Claimed("h", Redelivered, false)], Started, Ok(()), taken, 0),
        // Nobody else can have begun what somebody has the first delivery of: it may have it, or give it back.
        (&[], Claimed("h", First, false), Ok(()), by("h"), 0),
        (&[Claimed("h", First, false)], Claimed("h", First, false), Err(Ignored::AlreadyHeld), by("h"), 0),
        (
            &[Claimed("h", First, false)],
            Claimed("i", Redelivered, false),
            Err(Ignored::HeldElsewhere),
            by("h"),
            0,
        ),
        (&[Claimed("h", Redelivered, false)], Claimed("i", First, false), Ok(()), by("i"), 0),
        (&[Claimed("h", Redelivered, false)], Released("i"), Ok(()), nobody, 1),
        (&[Claimed("h", Republished, false)], Released("i"), Ok(()), nobody, 1),
        (&[Claimed("h", First, false)], Claimed("h", Redelivered, false), Ok(()), doubt, 0),
        (&[Claimed("h", First, false)], Over, Ok(()), None, 0),
        (&[Started], Claimed("h", First, false), Err(Ignored::HeldElsewhere), taken, 0),
        (&[Succeeded], Claimed("h", First, false), Err(Ignored::Ended), None, 0),
        // It is given to another worker: after a lease only if that does no harm.
        (&[Claimed("h", Republished, false)], Over, Ok(()), nobody, 1),
        (&[Holds("h", true)], Over, Ok(()), nobody, 1),
        (&[], Released("h"), Ok(()), nobody, 1),
        (&[Holds("h", true)], Released("h"), Ok(()), nobody, 1),
        (&[Holds("h", true)], Released("i"), Err(Ignored::HeldElsewhere), by("h"), 0),
        (&[Released("h")], Released("i"), Ok(()), nobody, 1),
        // What was given out before it was given back is over.
        (&[Released("h")], Late(&Released("h")), Err(Ignored::GivenAgain), nobody, 0),
        (&[Released("h")], Late(&Claimed("i", Redelivered, false)), Err(Ignored::GivenAgain), nobody, 0),
        (&[Released("h")], Late(&Claimed("i", First, true)), Err(Ignored::GivenAgain), nobody, 0),
        (&[Released("h")], Late(&Polled(Redelivered)), Err(Ignored::GivenAgain), nobody, 0),
        (&[Released("h")], Late(&Holds("i", false)), Err(Ignored::GivenAgain), nobody, 0),
        (&[Released("h"), Holds("i", false)], Late(&Holds("j", false)), Err(Ignored::GivenAgain), by("i"), 0),
        (
            &[Claimed("h", Republished, false), Over],
            Late(&Released("i")),
            Err(Ignored::GivenAgain),
            nobody,
            0,
        ),
        (&[Holds("h", true), Over], Claimed("i", Redelivered, false), Ok(()), doubt, 0),
        // It ends.
        (&[Claimed("h", Redelivered, false)], Over, Ok(()), None, 0),
        (&[Holds("h", false)], Over, Ok(()), None, 0),
    ];
    for (before, then, expected, held, tasks) in cases {
        let mut run = one_task(json!({}));
        before.iter().for_each(|step| take(&mut run, *step).unwrap());
        run.commands.clear();
        let what = format!("{before:?}, then {then:?}");
        assert_eq!(take(&mut run, *then), *expected, "{what}");
        assert_eq!(run.execution.held(3), *held, "{what}");
        assert_eq!(run.commands.len(), *tasks, "{what}");
        let pending = usize::from(*held == Some(Held::ByNobody));
        assert_eq!(run.pending().len(), pending, "what somebody has is not published again: {what}");
        assert_eq!(run.commands, run.pending()[..*tasks], "{what}");
    }
}

#[test]
fn what_its_worker_left_behind_fails_and_is_tried_again() {
    let retry =
        json!([{ "ErrorEquals": ["States.HeartbeatTimeout"], "IntervalSeconds": 1, "MaxAttempts": 1 }]);
    let mut run = one_task(json!({ "Retry": retry }));
    take(&mut run, Step::Held("h", false)).unwrap();
    take(&mut run, Step::Over).unwrap();
    run.wake_at_deadline();
    assert_eq!(run.dispatches()[0].attempt, 2);
    let claim = Claim { returns: 0, lease: Some(lease("i", false)), delivered: Redelivered };
    run.decide(Input::Claim { event_id: 6, worker: None, claim, doubt_millis: DOUBT_MILLIS }).unwrap();
    run.decide(Input::LeaseOver { event_id: 6 }).unwrap();
    run.shows(
        "
        1<-0 ExecutionStarted < 1
        2<-0 TaskStateEntered A < 1
        3<-2 ActivityScheduled < 1
        4<-3 ActivityStarted workerName=w
        5<-4 ActivityTimedOut error=States.HeartbeatTimeout cause=The worker 'w' that had begun the attempt was not \
         heard of for its lease of 30s.
        6<-5 ActivityScheduled < 1
        7<-6 ActivityTimedOut error=States.HeartbeatTimeout cause=The attempt may have been begun by a worker that is \
         gone, and is not known to be idempotent.
        8<-7 ExecutionFailed error=States.HeartbeatTimeout cause=The attempt may have been begun by a worker that is \
         gone, and is not known to be idempotent.",
    );
}

#[test]
fn a_lost_worker_loses_all_that_it_has_and_nobody_elses() {
    let item = json!({ "StartAt": "A", "States": { "A": task("a", json!({ "End": true })) } });
    let map = json!({ "Type": "Map", "ToleratedFailureCount": 9, "ItemProcessor": item, "End": true });
    let mut run =
        Run::start(&machine(&json!({ "StartAt": "M", "States": { "M": map } })), json!([1, 2, 3, 4]));
    let attempts: Vec<u64> = run.dispatches().iter().map(|dispatch| dispatch.event_id).collect();
    for (attempt, (holder, twice)) in
        attempts.iter().zip([("h", false), ("h", true), ("i", false), ("h", false)])
    {
        run.report(*attempt, ReportOutcome::Held { lease: lease(holder, twice), returns: 0 }).unwrap();
    }
    let holders: Vec<_> = run.execution.leases().map(|leased| leased.holder).collect();
    assert_eq!(holders, [Some("h"), Some("i")], "one lease of each worker");
    run.commands.clear();
    run.decide(Input::LeaseOver { event_id: attempts[0] }).unwrap();
    let held: Vec<_> = attempts.iter().map(|attempt| run.execution.held(*attempt)).collect();
    assert_eq!(held, [None, Some(Held::ByNobody), Some(Held::ByWorker("i")), None]);
    assert!(matches!(&run.commands[..], [Command::Dispatch(again)] if again.event_id == attempts[1]));
}

/// A call is said to have started when it is scheduled; that is nobody's yet. What was accepted is asked for no more.
#[test]
fn calls_are_claimed_too() {
    let call = |resource: &str| {
        let state = json!({ "Type": "Task", "Resource": resource, "Parameters": {}, "End": true });
        Run::start(&states("A", json!({ "A": state })), json!(1))
    };
    let claim = Step::Claimed("h", Redelivered, false);
    let mut run = call("arn:aws:states:::lambda:invoke");
    assert_eq!(run.execution.held(3), Some(Held::ByNobody));
    assert_eq!(take(&mut run, claim), Ok(()));
    assert_eq!(run.execution.held(3), Some(Held::InDoubt));
    // The announcement costs no event that is shown.
    take(&mut run, Step::Held("h", false)).unwrap();
    assert!(matches!(run.events.last().map(|event| &event.kind), Some(EventKind::AttemptLeased { .. })));

    let mut run = call("arn:aws:states:::sqs:sendMessage.waitForTaskToken");
    take(&mut run, Step::Held("h", false)).unwrap();
    run.report(3, ReportOutcome::Submitted(crate::support::payload(&json!({})))).unwrap();
    assert_eq!(run.execution.leases().count(), 0, "its worker has done its part");
    assert_eq!(take(&mut run, claim), Err(Ignored::HeldElsewhere));
}
