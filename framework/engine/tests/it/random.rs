//! Random definitions, driven by random reports, wake-ups and stops: after every decision the stored history replays
//! to the live state, a snapshot restores it, the invariants hold, and every execution ends.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use stagepost_engine::{Command, End, Execution, Held, Ignored, Input};
use stagepost_protocol::{
    Claim,
    DeliveredAs::{First, Redelivered, Republished},
    Lease, MapChild, MapRunStatus, Parent, ParentKind, ReportOutcome, Timestamp,
};

use crate::support::{Run, machine, payload};

/// Decisions of a generator, read from bytes so that shrinking works.
struct Choices<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(byte) % limit
    }

    fn one_in(&mut self, limit: usize) -> bool {
        self.below(limit) == limit - 1
    }
}

struct Builder<'b> {
    choices: Choices<'b>,
    names: usize,
    variables: usize,
}

const DEPTH_MAX: usize = 3;
/// The names of the signals that states wait for.
const SIGNALS: [&str; 2] = ["go", "stop"];

impl Builder<'_> {
    fn scope(&mut self, depth: usize) -> Value {
        let length = 1 + self.choices.below(3);
        let names: Vec<String> = (0..length)
            .map(|_| {
                self.names += 1;
                format!("S{}", self.names)
            })
            .collect();
        let states: Map<String, Value> =
            (0..length).map(|i| (names[i].clone(), self.state(&names, i, depth))).collect();
        json!({ "StartAt": names[0], "States": states })
    }

    fn state(&mut self, names: &[String], i: usize, depth: usize) -> Value {
        let next = names.get(i + 1);
        let mut state = match self.choices.below(if depth < DEPTH_MAX { 10 } else { 7 }) {
            0..=1 => self.task(),
            2 => self.jsonata(),
            3 => self.pass(),
            4 if self.choices.one_in(2) => {
                let seconds = ["{% 1 + 2 %}", "{% $nothing %}", "{% -1 %}"][self.choices.below(3)];
                json!({ "Type": "Wait", "QueryLanguage": "JSONata", "Seconds": seconds })
            }
            4 => json!({ "Type": "Wait", "Seconds": self.choices.below(4) }),
            5 => match next {
                Some(next) => {
                    let last = &names[names.len() - 1];
                    let rule = json!({ "Variable": "$.a", "IsPresent": true, "Next": last });
                    let loose = json!({ "Variable": "$$.State.Name", "StringEquals": "?", "Next": next });
                    return json!({ "Type": "Choice", "Choices": [rule, loose], "Default": next });
                }
                None => return json!({ "Type": "Succeed" }),
            },
            6 => match next {
                Some(_) => self.pass(),
                None => return json!({ "Type": "Fail", "Error": "X", "Cause": "f" }),
            },
            7 => {
                let branches: Vec<Value> =
                    (0..1 + self.choices.below(3)).map(|_| self.scope(depth + 1)).collect();
                json!({ "Type": "Parallel", "Branches": branches })
            }
            _ => self.map(depth),
        };
        if matches!(state["Type"].as_str(), Some("Task" | "Parallel" | "Map")) {
            self.handle_errors(&mut state, next);
        }
        match next {
            Some(next) => state["Next"] = json!(next),
            None => state["End"] = json!(true),
        }
        state
    }

    fn handle_errors(&mut self, state: &mut Value, next: Option<&String>) {
        if self.choices.one_in(2) {
            let seconds = 1 + self.choices.below(3);
            let error = ["X", "States.ALL", "States.Timeout"][self.choices.below(3)];
            let jitter = ["NONE", "FULL"][self.choices.below(2)];
            state["Retry"] = json!([{ "ErrorEquals": [error], "MaxAttempts": 1, "IntervalSeconds": seconds,
                "JitterStrategy": jitter }]);
        }
        if let Some(next) = next
            && self.choices.one_in(2)
        {
            let error = ["X", "States.ALL"][self.choices.below(2)];
            let name = self.variable();
            state["Catch"] = if state["QueryLanguage"] == "JSONata" {
                json!([{ "ErrorEquals": [error], "Next": next, "Output": "{% $states.errorOutput %}",
                    "Assign": { name: "{% $states.errorOutput.Error %}" } }])
            } else {
                json!([{ "ErrorEquals": [error], "Next": next, "ResultPath": "$.a",
                    "Assign": { format!("{name}.$"): "$.Error" } }])
            };
        }
    }

    /// A name that no other state assigns.
    fn variable(&mut self) -> String {
        self.variables += 1;
        format!("v{}", self.variables)
    }

    /// A variable that is assigned somewhere, perhaps before, perhaps in another branch.
    fn known(&mut self) -> String {
        format!("$v{}", 1 + self.choices.below(self.variables + 1))
    }

    fn jsonata(&mut self) -> Value {
        let (new, known) = (self.variable(), self.known());
        let mut state = match self.choices.below(3) {
            0 => json!({ "Type": "Pass", "Output": { "r": "{% $random() %}", "in": "{% $states.input %}" } }),
            1 => json!({ "Type": "Pass", "Output": format!("{{% {known} %}}") }),
            _ => json!({
                "Type": "Task",
                "Resource": "arn:aws:states:::activity:a",
                "Arguments": { "n": "{% $states.context.State.RetryCount %}", "u": "{% $uuid() %}" },
                "Output": { "got": "{% $states.result %}" },
                "TimeoutSeconds": "{% 2 + 2 %}",
            }),
        };
        state["QueryLanguage"] = json!("JSONata");
        let value = ["{% $states.input %}", "{% $millis() %}", "{% [1..20] %}"][self.choices.below(3)];
        state["Assign"] = json!({ new: value });
        state
    }

    fn task(&mut self) -> Value {
        if self.choices.one_in(5) {
            let mut task = json!({
                "Type": "Task",
                "Resource": "arn:aws:states:::stagepost:waitForSignal",
                "Parameters": { "Name": SIGNALS[self.choices.below(2)] },
                "ResultPath": "$.signal",
            });
            if self.choices.one_in(2) {
                task["TimeoutSeconds"] = json!(3);
            }
            return task;
        }
        if self.choices.one_in(4) {
            let token = ["", ".waitForTaskToken"][self.choices.below(2)];
            return json!({
                "Type": "Task",
                "Resource": format!("arn:aws:states:::sqs:sendMessage{token}"),
                "Parameters": { "QueueUrl": "q", "MessageBody": { "t.$": "$$.Task.Token", "in.$": "$" } },
                "HeartbeatSeconds": 30,
                "TimeoutSeconds": 100,
            });
        }
        let mut task = json!({ "Type": "Task", "Resource": "arn:aws:states:::activity:a" });
        if self.choices.one_in(2) {
            task["TimeoutSeconds"] = json!(5);
        }
        if self.choices.one_in(2) {
            task["HeartbeatSeconds"] = json!(2);
        }
        if self.choices.one_in(3) {
            task["Parameters"] = json!({ "n.$": "$$.State.RetryCount", "in.$": "$" });
            task["ResultPath"] = json!("$.r");
        }
        task
    }

    fn pass(&mut self) -> Value {
        match self.choices.below(6) {
            4 => {
                let name = format!("{}.$", self.variable());
                json!({ "Type": "Pass", "Assign": { name: "$", self.variable(): [1, "two"] } })
            }
            5 => {
                let name = format!("{}.$", self.variable());
                json!({ "Type": "Pass", "Parameters": { "v.$": self.known() }, "Assign": { name: "$.v" } })
            }
            0 => json!({ "Type": "Pass" }),
            1 => json!({ "Type": "Pass", "Result": { "a": 1 } }),
            2 => json!({ "Type": "Pass", "Parameters": { "id.$": "$$.Execution.Id", "in.$": "$" } }),
            _ => json!({ "Type": "Pass", "InputPath": "$.missing" }),
        }
    }

    /// A distributed Map state, in one of the ways to get and to end its items.
    fn distributed(&mut self, depth: usize) -> Value {
        let mut processor = self.scope(depth + 1);
        processor["ProcessorConfig"] = json!({ "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" });
        let mut map = json!({
            "Type": "Map",
            "ItemsPath": "$$.Execution.Input.items",
            "MaxConcurrency": self.choices.below(3),
            "ItemProcessor": processor,
        });
        if self.choices.one_in(2) {
            map["ItemReader"] = json!({ "Resource": "arn:aws:states:::s3:getObject", "Parameters": { "Bucket": "b" },
                "ReaderConfig": { "InputType": "JSON", "MaxItems": self.choices.below(6) } });
        }
        if self.choices.one_in(3) {
            map["ItemSelector"] = json!({ "v.$": "$$.Map.Item.Value", "i.$": "$$.Map.Item.Index" });
        }
        if self.choices.one_in(3) {
            map["ItemBatcher"] = json!({ "MaxItemsPerBatch": 2, "BatchInput": { "in.$": "$" } });
        }
        if self.choices.one_in(3) {
            map["ResultWriter"] =
                json!({ "Resource": "arn:aws:states:::s3:putObject", "Parameters": { "Bucket": "b" } });
        }
        if self.choices.one_in(2) {
            map["ToleratedFailureCount"] = json!(self.choices.below(3));
            map["ToleratedFailurePercentage"] = json!([0.0, 33.5, 100.0][self.choices.below(3)]);
        }
        map
    }

    fn map(&mut self, depth: usize) -> Value {
        if self.choices.one_in(3) {
            return self.distributed(depth);
        }
        if self.choices.one_in(3) {
            return json!({
                "Type": "Map",
                "QueryLanguage": "JSONata",
                "Items": "{% $append($states.context.Execution.Input.items, $random()) %}",
                "ItemSelector": { "v": "{% $states.context.Map.Item.Value %}" },
                "MaxConcurrency": "{% 2 %}",
                "ToleratedFailurePercentage": "{% 30 %}",
                "Output": "{% $count($states.result) %}",
                "ItemProcessor": self.scope(depth + 1),
            });
        }
        let mut map = json!({
            "Type": "Map",
            "ItemsPath": "$$.Execution.Input.items",
            "MaxConcurrency": self.choices.below(3),
            "ItemProcessor": self.scope(depth + 1),
        });
        if self.choices.one_in(2) {
            map["ItemSelector"] = json!({ "v.$": "$$.Map.Item.Value", "i.$": "$$.Map.Item.Index" });
        }
        if self.choices.one_in(3) {
            map["ToleratedFailureCount"] = json!(self.choices.below(2));
        }
        map
    }
}

/// What somebody may report on: an event id and, of a Map Run, the number of the child execution.
fn open_attempts(run: &Run) -> Vec<(u64, Option<MapChild>)> {
    let child = |parent: &Parent, redrives: u32| {
        let (_, event_id) = run.key().verify(parent.token.as_str()).unwrap();
        let ParentKind::MapItem { index } = parent.kind else { panic!("it is the child of a Map Run") };
        Some((event_id, Some(MapChild { index, redrives, not_redrivable: false })))
    };
    let about = |command| match command {
        Command::Dispatch(dispatch) => Some((dispatch.event_id, None)),
        Command::Call(call) => Some((call.event_id, None)),
        Command::StartChild(start) if start.again => None,
        Command::StartChild(start) => child(&start.parent, 0),
        Command::RedriveChild(redrive) => child(&redrive.parent, redrive.redrives),
        Command::StopChild(_) => None,
    };
    // What somebody has is open and not pending.
    let held = (1..=run.execution.last_event_id())
        .filter(|id| !matches!(run.execution.held(*id), None | Some(Held::ByNobody)));
    run.pending().into_iter().filter_map(about).chain(held.map(|id| (id, None))).collect()
}

fn signal(run: &mut Run, name: &str, id: usize) -> Result<(), Ignored> {
    let input = payload(&json!({ "id": id }));
    run.decide(Input::Signal { id: id.to_string(), name: name.to_owned(), input })
}

fn act(run: &mut Run, choices: &mut Choices<'_>) {
    if choices.one_in(6) {
        let (name, id) = (SIGNALS[choices.below(2)], choices.below(40));
        let sent = signal(run, name, id);
        assert!(matches!(sent, Ok(()) | Err(Ignored::AlreadySignaled)), "{sent:?}");
        return;
    }
    let open = open_attempts(run);
    let newest = usize::try_from(run.execution.last_event_id()).unwrap();
    let (event_id, child) = match open.len() {
        0 => (choices.below(newest + 2) as u64, None),
        n if choices.one_in(8) => (open[0].0 + choices.below(n + 1) as u64, open[0].1),
        n => open[choices.below(n)],
    };
    let started_at = choices.one_in(3).then(|| Timestamp::from_millis(choices.below(200) as i64 * 10_000));
    let outcome = match choices.below(10) {
        9 => {
            let holder = ["h", "i", "j"][choices.below(3)].to_owned();
            let lease = Lease { holder: holder.clone(), millis: 30_000, idempotent: choices.one_in(2) };
            let returns = u32::try_from(choices.below(3)).unwrap();
            match choices.below(4) {
                0 => ReportOutcome::Held { lease, returns },
                1 => ReportOutcome::Released { holder, returns },
                2 => {
                    let lease = (!choices.one_in(4)).then_some(lease);
                    let delivered = [First, Republished, Redelivered][choices.below(3)];
                    let claim = Claim { returns, lease, delivered };
                    let _ = run.decide(Input::Claim { event_id, worker: None, claim, doubt_millis: 60_000 });
                    return;
                }
                _ => {
                    let leased = run.execution.leases().next().map(|leased| leased.event_id);
                    let over = run.decide(Input::LeaseOver { event_id: leased.unwrap_or(event_id) });
                    assert!(leased.is_none() || over.is_ok());
                    return;
                }
            }
        }
        0 => {
            let items: Vec<usize> = (0..choices.below(4)).collect();
            let cursor = [json!(null), json!("c")][choices.below(2)].clone();
            ReportOutcome::Succeeded(payload(&json!({ "items": items, "cursor": cursor })))
        }
        1..=2 => ReportOutcome::Succeeded(payload(&json!({ "v": choices.below(9) }))),
        3 => ReportOutcome::Failed { error: Some("X".into()), cause: None },
        4 if choices.one_in(3) => ReportOutcome::TimedOut { error: None, cause: None },
        4 if choices.one_in(2) => ReportOutcome::Aborted { error: Some("A".into()), cause: None },
        4 => ReportOutcome::Failed { error: None, cause: Some("c".into()) },
        5 => ReportOutcome::Started,
        7 => ReportOutcome::Submitted(payload(&json!({ "MessageId": "m" }))),
        6 => ReportOutcome::Heartbeat,
        _ if choices.one_in(6) && !run.map_runs.is_empty() => {
            let arn = run.map_runs[choices.below(run.map_runs.len())].arn.clone();
            let update = Input::UpdateMapRun {
                arn,
                max_concurrency: Some(choices.below(3) as u64),
                tolerated_failure_count: Some(choices.below(2) as u64),
                tolerated_failure_percentage: None,
            };
            let _ = run.decide(update);
            return;
        }
        _ => {
            // Time passes: to the next deadline, or by some seconds.
            let later = run.now.plus_millis(choices.below(4) as i64 * 700);
            let due = run.execution.next_deadline().filter(|_| choices.one_in(2));
            run.now = due.unwrap_or(later).max(run.now);
            let before = run.execution.next_deadline();
            let woken = run.decide(Input::Wake);
            assert_eq!(woken.is_ok(), before.is_some_and(|at| at <= run.now));
            return;
        }
    };
    let child = child.map(|child| MapChild { not_redrivable: choices.one_in(6), ..child });
    // What is ignored is checked by `decide`: it changes nothing.
    let _ = run.decide(Input::Report { event_id, worker: None, started_at, outcome, child });
}

fn finish(run: &mut Run) {
    for n in 0..2_000 {
        if run.execution.end().is_some() {
            return;
        }
        match open_attempts(run).first() {
            Some((event_id, child)) => {
                let outcome = ReportOutcome::Succeeded(payload(&json!({ "items": [], "cursor": null })));
                let (event_id, child) = (*event_id, *child);
                run.decide(Input::Report { event_id, worker: None, started_at: None, outcome, child })
                    .unwrap();
            }
            None if run.execution.next_deadline().is_none() => {
                signal(run, SIGNALS[n % 2], 1_000 + n).unwrap();
            }
            None => run.wake_at_deadline(),
        }
    }
    panic!("it does not end:\n{}", run.history());
}

fn chain_holds(run: &Run) {
    let mut visible = 0;
    let mut at = Timestamp::from_millis(0);
    for event in &run.events {
        visible += u64::from(!event.kind.is_hidden());
        assert_eq!(event.id, visible);
        assert!(event.previous_id <= event.id, "an event follows an earlier one");
        assert!(event.at >= at, "timestamps do not go backwards");
        at = event.at;
    }
}

/// A stored history that lost, repeats or swaps events never panics.
fn damaged_histories_are_refused_or_lead_somewhere(run: &Run, choices: &mut Choices<'_>) {
    for _ in 0..4 {
        let mut events = run.events.clone();
        let at = choices.below(events.len());
        match choices.below(4) {
            0 => drop(events.remove(at)),
            1 => events.insert(at, events[at].clone()),
            2 => {
                let other = choices.below(events.len());
                events.swap(at, other);
                // The ids are right again, so that it is the meaning that is looked at.
                let mut visible = 0;
                for event in &mut events {
                    visible += u64::from(!event.kind.is_hidden());
                    event.id = visible;
                }
            }
            _ => events[at].scope = u32::try_from(choices.below(5)).unwrap(),
        }
        let definition = std::sync::Arc::clone(run.execution.definition());
        let _ = Execution::replay(run.execution.origin().clone(), definition, &events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replay_is_the_live_state_and_every_execution_ends(
        definition in prop::collection::vec(any::<u8>(), 0..200),
        actions in prop::collection::vec(any::<u8>(), 0..240),
        stop in prop::bool::weighted(0.1),
    ) {
        let mut builder = Builder { choices: Choices { bytes: &definition, at: 0 }, names: 0, variables: 0 };
        let mut document = builder.scope(0);
        if builder.choices.one_in(4) {
            document["TimeoutSeconds"] = json!(20);
        }
        let definition = machine(&document);
        let mut run = Run::start(&definition, json!({ "items": [1, { "a": 2 }, "three"] }));
        let mut choices = Choices { bytes: &actions, at: 0 };
        while choices.at < actions.len() && run.execution.end().is_none() {
            act(&mut run, &mut choices);
        }
        if stop && run.execution.end().is_none() {
            run.decide(Input::Stop { error: None, cause: Some("enough".into()) }).unwrap();
        }
        finish(&mut run);
        chain_holds(&run);
        prop_assert!(run.pending().is_empty());
        // What ended without success goes on as if it had never stopped, as often as it takes.
        for _ in 0..3 {
            // A redrive may lead to the end at once, so it is looked at before.
            let succeeded = matches!(run.execution.end(), Some((End::Succeeded(_), _)));
            let redriven = run.decide(Input::Redrive { client_token: None, count: None });
            if succeeded {
                prop_assert_eq!(redriven, Err(Ignored::Ended));
                break;
            }
            redriven.unwrap();
            let mut choices = Choices { bytes: &actions, at: 0 };
            while choices.at < actions.len() / 2 && run.execution.end().is_none() {
                act(&mut run, &mut choices);
            }
            if run.execution.end().is_none() {
                run.decide(Input::Stop { error: None, cause: None }).unwrap();
            }
            chain_holds(&run);
            prop_assert!(run.pending().is_empty());
        }
        prop_assert!(run.pending().is_empty());
        prop_assert_eq!(run.execution.next_deadline(), None);
        for last in run.map_runs.iter().rev().take(1) {
            prop_assert!(last.status != MapRunStatus::Running, "no Map Run outlives its execution");
        }
        damaged_histories_are_refused_or_lead_somewhere(&run, &mut Choices { bytes: &actions, at: 0 });
    }
}
