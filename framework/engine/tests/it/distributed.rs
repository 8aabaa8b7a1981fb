//! Distributed Map: its Map Run, its child executions and what is read and written for it.

use serde_json::{Value, json};
use stagepost_engine::{Call, Command, End, Ignored, Input, StartChild, StopChild};
use stagepost_protocol::{MapChild, MapRun, MapRunStatus, ReportOutcome, shard::RedriveChild};

use crate::support::{Run, payload, states, task};

/// A distributed Map state `M` with more fields, and nothing else.
fn map(more: Value) -> Value {
    let mut state = json!({
        "Type": "Map",
        "Label": "l",
        "ItemProcessor": {
            "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" },
            "StartAt": "I",
            "States": { "I": { "Type": "Pass", "End": true } },
        },
        "End": true,
    });
    state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    state
}

fn start(more: Value, input: Value) -> Run {
    Run::start(&states("M", json!({ "M": map(more) })), input)
}

/// A map that reads its items.
fn reader(more: Value) -> Value {
    let mut all = json!({ "ItemReader": { "Resource": "arn:aws:states:::s3:getObject",
        "Parameters": { "Bucket.$": "$.bucket" }, "ReaderConfig": { "InputType": "JSON" } } });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

const TOO_MANY: &str = "The specified tolerated failure threshold was exceeded";

/// What was decided since the last time: starts, stops and calls.
#[derive(Default)]
struct Wanted {
    starts: Vec<StartChild>,
    redrives: Vec<RedriveChild>,
    stops: Vec<StopChild>,
    calls: Vec<Call>,
}

fn take(run: &mut Run) -> Wanted {
    let mut wanted = Wanted::default();
    for command in std::mem::take(&mut run.commands) {
        match command {
            Command::StartChild(start) => wanted.starts.push(start),
            Command::RedriveChild(redrive) => wanted.redrives.push(redrive),
            Command::StopChild(stop) => wanted.stops.push(stop),
            Command::Call(call) => wanted.calls.push(call),
            Command::Dispatch(_) => panic!("no activity is called here"),
        }
    }
    wanted
}

fn inputs(starts: &[StartChild]) -> Vec<Value> {
    starts.iter().map(|start| start.input.to_value()).collect()
}

/// The id of the event that began the Map Run, which is the only one.
fn begun(run: &Run) -> u64 {
    let started =
        run.events.iter().find(|e| matches!(e.kind, stagepost_engine::EventKind::MapRunStarted { .. }));
    started.expect("a Map Run began").id
}

fn end_child(run: &mut Run, index: u64, outcome: ReportOutcome) -> Result<(), Ignored> {
    end(run, MapChild::first(index), outcome)
}

fn end(run: &mut Run, child: MapChild, outcome: ReportOutcome) -> Result<(), Ignored> {
    let event_id = begun(run);
    run.decide(Input::Report { event_id, worker: None, started_at: None, outcome, child: Some(child) })
}

/// A child that was redriven so often.
fn redriven(index: u64, redrives: u32) -> MapChild {
    MapChild { index, redrives, not_redrivable: false }
}

fn succeeded(output: Value) -> ReportOutcome {
    ReportOutcome::Succeeded(payload(&output))
}

fn failed(error: &str) -> ReportOutcome {
    ReportOutcome::Failed { error: Some(error.into()), cause: None }
}

fn aborted() -> ReportOutcome {
    ReportOutcome::Aborted { error: None, cause: None }
}

fn redrive(run: &mut Run) {
    run.decide(Input::Redrive { client_token: None, count: None }).unwrap();
}

/// Which child executions are redriven, and for the how manieth time.
fn redrives(wanted: &Wanted) -> Vec<(u64, u32)> {
    let of = |redrive: &RedriveChild| {
        let stagepost_protocol::ParentKind::MapItem { index } = redrive.parent.kind else { panic!() };
        (index, redrive.redrives)
    };
    wanted.redrives.iter().map(of).collect()
}

fn succeed(run: &mut Run, index: u64, output: Value) {
    end_child(run, index, ReportOutcome::Succeeded(payload(&output))).unwrap();
}

fn fail(run: &mut Run, index: u64, error: &str) {
    end_child(run, index, ReportOutcome::Failed { error: Some(error.into()), cause: None }).unwrap();
}

fn answer(run: &mut Run, call: &Call, output: Value) {
    run.report(call.event_id, ReportOutcome::Succeeded(payload(&output))).unwrap();
}

/// Everything that is started ends with its input as output.
fn echo(run: &mut Run) {
    loop {
        let starts = take(run).starts;
        if starts.is_empty() {
            return;
        }
        for start in starts {
            let stagepost_protocol::ParentKind::MapItem { index } = start.parent.kind else { panic!() };
            succeed(run, index, start.input.to_value());
        }
    }
}

fn output(run: &Run) -> Value {
    match run.execution.end() {
        Some((End::Succeeded(output), _)) => output.to_value(),
        other => panic!("it should have succeeded: {other:?}\n{}", run.history()),
    }
}

fn error(run: &Run) -> (String, String) {
    match run.execution.end() {
        Some((End::Failed { error, cause }, _)) => {
            (error.clone().unwrap(), cause.clone().unwrap_or_default())
        }
        other => panic!("it should have failed: {other:?}\n{}", run.history()),
    }
}

fn record(run: &Run) -> &MapRun {
    run.map_runs.last().expect("there was a Map Run")
}

#[test]
fn each_item_is_a_child_execution_and_the_results_are_in_order() {
    let selector = json!({ "v.$": "$$.Map.Item.Value", "i.$": "$$.Map.Item.Index", "s.$": "$$.Map.Item.Source",
        "from.$": "$.x" });
    let mut run = start(
        json!({ "ItemSelector": selector, "ItemsPath": "$.items" }),
        json!({ "items": ["a", "b"], "x": 1 }),
    );
    let starts = take(&mut run).starts;
    assert_eq!(
        inputs(&starts),
        [
            json!({ "v": "a", "i": 0, "s": "STATE_DATA", "from": 1 }),
            json!({ "v": "b", "i": 1, "s": "STATE_DATA", "from": 1 })
        ]
    );
    let (first, second) = (&starts[0], &starts[1]);
    assert_eq!(first.state_machine.to_string(), "arn:aws:states:us-east-1:000000000000:stateMachine:m/l");
    assert_eq!(first.execution.state_machine_arn(), first.state_machine);
    assert_eq!((&*first.label, first.items, first.role_arn.as_str()), ("l", 1, "role"));
    assert_ne!(first.execution, second.execution);
    // What is asked for again is the same.
    let again: Vec<Command> = run.pending();
    assert_eq!(again, [first.clone(), second.clone()].map(Command::StartChild));
    assert_eq!((record(&run).items.running, record(&run).executions.running), (2, 2));

    succeed(&mut run, 1, json!("B"));
    assert_eq!(
        end_child(&mut run, 1, ReportOutcome::Succeeded(payload(&json!(0)))),
        Err(Ignored::AttemptClosed)
    );
    assert_eq!(
        end_child(&mut run, 2, ReportOutcome::Succeeded(payload(&json!(0)))),
        Err(Ignored::AttemptClosed)
    );
    succeed(&mut run, 0, json!({ "a": 1 }));
    assert_eq!(output(&run), json!([{ "a": 1 }, "B"]));
    let arn = record(&run).arn.to_string();
    run.shows(&format!(
        r#"1<-0 ExecutionStarted < {{"items":["a","b"],"x":1}}
           2<-0 MapStateEntered M < {{"items":["a","b"],"x":1}}
           3<-2 MapStateStarted #2
           4<-3 MapRunStarted mapRunArn={arn}
           5<-4 MapRunSucceeded
           6<-5 MapStateSucceeded
           7<-5 MapStateExited M > [{{"a":1}},"B"]
           8<-7 ExecutionSucceeded > [{{"a":1}},"B"]"#
    ));
    let record = record(&run);
    assert_eq!((record.status, record.stopped_at.is_some()), (MapRunStatus::Succeeded, true));
    assert_eq!((record.items.succeeded, record.items.total(), record.executions.total()), (2, 2, 2));
}

#[test]
fn no_items_are_no_children() {
    let run = start(json!({}), json!([]));
    assert_eq!(output(&run), json!([]));
    assert!(run.history().contains("3<-2 MapStateStarted #0\n4<-3 MapRunStarted"));
}

#[test]
fn an_objects_fields_are_items_with_keys() {
    let mut run = start(json!({ "ItemsPath": "$.o" }), json!({ "o": { "a": 1, "b": [2] } }));
    assert_eq!(
        inputs(&take(&mut run).starts),
        [json!({ "Key": "a", "Value": 1 }), json!({ "Key": "b", "Value": [2] })]
    );
    let more = json!({ "QueryLanguage": "JSONata", "Items": { "k": "{% 1 + 1 %}" },
        "ItemSelector": "{% $states.context.Map.Item.Key & $string($states.context.Map.Item.Value) %}" });
    let mut run = start(more, json!(null));
    assert_eq!(inputs(&take(&mut run).starts), [json!("k2")]);
    // An inline one takes arrays only, as the service does.
    let mut inline = map(json!({ "ItemsPath": "$.o" }));
    inline["ItemProcessor"]["ProcessorConfig"] = json!({ "Mode": "INLINE" });
    let run = Run::start(&states("M", json!({ "M": inline })), json!({ "o": { "a": 1 } }));
    assert_eq!(error(&run).0, "States.Runtime");
}

#[test]
fn at_most_so_many_children_run_at_a_time() {
    let mut run = start(json!({ "MaxConcurrency": 2 }), json!([0, 1, 2, 3]));
    assert_eq!(inputs(&take(&mut run).starts), [0, 1]);
    succeed(&mut run, 1, json!(0));
    assert_eq!(inputs(&take(&mut run).starts), [2]);
    let arn = record(&run).arn.clone();
    let update = |max| Input::UpdateMapRun {
        arn: arn.clone(),
        max_concurrency: Some(max),
        tolerated_failure_count: None,
        tolerated_failure_percentage: Some(50.0),
    };
    run.decide(update(3)).unwrap();
    assert_eq!(inputs(&take(&mut run).starts), [3]);
    assert_eq!((record(&run).max_concurrency, record(&run).tolerated_failure_percentage), (3, 50.0));
    for index in [0, 2, 3] {
        succeed(&mut run, index, json!(index));
    }
    assert!(run.execution.end().is_some());
    assert_eq!(run.decide(update(1)), Err(Ignored::Ended));
}

#[test]
fn a_failure_that_is_not_tolerated_stops_the_others_first() {
    let mut run = start(json!({}), json!([0, 1, 2]));
    let starts = take(&mut run).starts;
    fail(&mut run, 1, "E");
    let wanted = take(&mut run);
    let stopped: Vec<_> = wanted.stops.iter().map(|stop| &stop.execution).collect();
    assert_eq!(stopped, [&starts[0].execution, &starts[2].execution]);
    assert!(run.execution.end().is_none());
    // A start or a stop that got lost is asked for again.
    assert_eq!(run.pending().len(), 4);
    succeed(&mut run, 0, json!(1));
    end_child(&mut run, 2, ReportOutcome::Aborted { error: None, cause: None }).unwrap();
    let threshold = "The specified tolerated failure threshold was exceeded".to_owned();
    assert_eq!(error(&run), ("States.ExceedToleratedFailureThreshold".to_owned(), threshold));
    assert!(run.history().contains("5<-4 MapRunFailed"), "{}", run.history());
    assert!(run.history().contains("6<-5 MapStateFailed\n7<-6 ExecutionFailed"), "{}", run.history());
    let items = record(&run).items;
    assert_eq!((items.succeeded, items.failed, items.aborted, items.running), (1, 1, 1, 0));
    assert_eq!(record(&run).status, MapRunStatus::Failed);
}

/// (failed, total, ToleratedFailureCount, ToleratedFailurePercentage, whether that is too many): 0 is as good as nothing,
/// unless both are. As a percentage, what counts is what was exceeded, not what was reached.
const TOLERANCES: [(u64, u64, u64, f64, bool); 14] = [
    (1, 3, 0, 0.0, true),
    (1, 3, 1, 0.0, false),
    (2, 3, 1, 0.0, true),
    (3, 3, 3, 0.0, false),
    (1, 3, 0, 100.0, false),
    (3, 3, 0, 100.0, false),
    (1, 3, 0, 34.0, false),
    (1, 3, 0, 33.0, true),
    (1, 4, 0, 25.0, false),
    (1, 4, 0, 24.5, true),
    (3, 3, 1, 100.0, true),
    (2, 3, 5, 50.0, true),
    (2, 5, 2, 100.0, false),
    (2, 5, 9, 40.0, false),
];

#[test]
fn failures_are_tolerated_by_number_and_by_percentage() {
    for (failed, total, count, percentage, exceeded) in TOLERANCES {
        let more = json!({ "ToleratedFailureCount": count, "ToleratedFailurePercentage": percentage });
        let mut run = start(more, (0..total).collect::<Vec<u64>>().into());
        for index in failed..total {
            succeed(&mut run, index, json!(index));
        }
        for index in 0..failed {
            if run.execution.end().is_none() {
                let _ = end_child(
                    &mut run,
                    index,
                    ReportOutcome::Failed { error: Some("E".into()), cause: None },
                );
            }
        }
        let case = format!("{failed} of {total}, {count}, {percentage}");
        if exceeded {
            assert_eq!(error(&run).0, "States.ExceedToleratedFailureThreshold", "{case}");
            continue;
        }
        let described = json!({ "Status": "FAILED", "Error": "E", "Cause": null });
        let results = output(&run);
        assert_eq!(results[0], described, "{case}");
        let rest = &results.as_array().unwrap()[usize::try_from(failed).unwrap()..];
        assert_eq!(rest, (failed..total).map(|i| json!(i)).collect::<Vec<_>>(), "{case}");
    }
}

#[test]
fn settings_of_no_use_fail_the_state_before_its_map_run() {
    for (more, cause) in [
        (json!({ "ToleratedFailureCountPath": "$.n" }), "ToleratedFailureCount cannot be negative."),
        (
            json!({ "ToleratedFailurePercentagePath": "$.p" }),
            "ToleratedFailurePercentage must be between 0 and 100.",
        ),
        (
            json!({ "ToleratedFailureCountPath": "$.t" }),
            "The ToleratedFailureCountPath field refers to value \"x\" which is not a valid integer: $.t",
        ),
        (json!({ "ItemBatcher": { "MaxItemsPerBatchPath": "$.n" } }), "MaxItemsPerBatch must be positive."),
    ] {
        let mut more = more;
        more["ItemsPath"] = json!("$.i");
        let run = start(more, json!({ "i": [0], "n": -1, "p": 100.1, "t": "x" }));
        let (name, told) = error(&run);
        assert_eq!((name.as_str(), told.ends_with(cause)), ("States.Runtime", true), "{told}");
        assert!(run.history().contains("3<-2 MapStateStarted #1\n4<-3 ExecutionFailed"), "{}", run.history());
    }
}

#[test]
fn items_are_read_in_windows_before_the_last_ones_are_started() {
    let mut run = start(reader(json!({ "MaxConcurrency": 3 })), json!({ "bucket": "b" }));
    assert!(run.history().contains("3<-2 MapStateStarted #0\n4<-3 MapRunStarted"));
    let first = take(&mut run).calls.pop().unwrap();
    assert_eq!((first.target.service.as_str(), first.target.action.as_str()), ("stagepost", "readItems"));
    assert_eq!(
        first.input.to_value(),
        json!({ "resource": "arn:aws:states:::s3:getObject", "parameters": { "Bucket": "b" },
            "reader_config": { "InputType": "JSON" }, "cursor": null, "limit": 1000, "max_bytes": 196608 })
    );
    assert_eq!(run.pending(), [Command::Call(first.clone())]);
    answer(&mut run, &first, json!({ "items": (0..600).collect::<Vec<_>>(), "cursor": "c1" }));
    let wanted = take(&mut run);
    assert_eq!((inputs(&wanted.starts), wanted.calls.len()), (vec![json!(0), json!(1), json!(2)], 0));
    // What is repeated is of no use.
    let again = run
        .report(first.event_id, ReportOutcome::Succeeded(payload(&json!({ "items": [], "cursor": null }))));
    assert_eq!(again, Err(Ignored::AttemptClosed));
    let mut second = None;
    for index in 0..600 {
        succeed(&mut run, index, json!(null));
        second = second.or(take(&mut run).calls.pop().map(|call| (index, call)));
    }
    let (index, second) = second.unwrap();
    assert_eq!(index, 97, "the next window is read when fewer than 500 are left");
    assert_eq!(second.input.to_value()["cursor"], "c1");
    assert_ne!(second.event_id, first.event_id);
    assert_eq!(run.execution.end(), None);
    answer(&mut run, &second, json!({ "items": [7], "cursor": null }));
    assert_eq!(inputs(&take(&mut run).starts), [7]);
    succeed(&mut run, 600, json!(null));
    assert_eq!(output(&run).as_array().map(Vec::len), Some(601));
    assert_eq!(record(&run).items.succeeded, 601);
}

#[test]
fn max_items_bounds_what_is_read() {
    let with = |config: Value| {
        let mut more = reader(json!({}));
        more["ItemReader"]["ReaderConfig"] = config;
        more
    };
    let mut run = start(with(json!({ "MaxItems": 2 })), json!({ "bucket": "b" }));
    let call = take(&mut run).calls.pop().unwrap();
    assert_eq!(call.input.to_value()["limit"], 2);
    answer(&mut run, &call, json!({ "items": [1, 2, 3], "cursor": 9 }));
    echo(&mut run);
    assert_eq!(output(&run), json!([1, 2]));
    // 0 is no limit, less is none at all.
    let mut run = start(with(json!({ "MaxItemsPath": "$.n" })), json!({ "bucket": "b", "n": 0 }));
    assert_eq!(take(&mut run).calls[0].input.to_value()["limit"], 1000);
    let run = start(with(json!({ "MaxItemsPath": "$.n" })), json!({ "bucket": "b", "n": -1 }));
    assert_eq!(
        error(&run),
        ("States.ItemReaderFailed".to_owned(), "field MaxItems must be positive".to_owned())
    );
    assert!(run.history().contains("5<-4 MapRunFailed"), "{}", run.history());
}

#[test]
fn a_reader_that_fails_fails_the_map_run() {
    for outcome in [
        ReportOutcome::Failed { error: None, cause: Some("no such key".into()) },
        ReportOutcome::Succeeded(payload(&json!("nonsense"))),
        ReportOutcome::Succeeded(payload(&json!({ "items": 1 }))),
    ] {
        let mut run = start(reader(json!({})), json!({ "bucket": "b" }));
        let call = take(&mut run).calls.pop().unwrap();
        run.report(call.event_id, outcome).unwrap();
        assert_eq!(error(&run).0, "States.ItemReaderFailed");
        assert!(run.history().contains("6<-5 MapStateFailed\n7<-6 ExecutionFailed"), "{}", run.history());
    }
}

#[test]
fn the_fields_of_an_object_that_is_read_are_items_with_keys() {
    let selector = json!({ "k.$": "$$.Map.Item.Key", "v.$": "$$.Map.Item.Value" });
    for (more, expected) in [
        (json!({}), json!({ "Key": "a", "Value": 1 })),
        (json!({ "ItemSelector": selector }), json!({ "k": "a", "v": 1 })),
    ] {
        let mut run = start(reader(more), json!({ "bucket": "b" }));
        let call = take(&mut run).calls.pop().unwrap();
        answer(&mut run, &call, json!({ "items": [1], "keys": ["a"], "cursor": null, "first_index": 0 }));
        assert_eq!(inputs(&take(&mut run).starts), [expected]);
    }
}

#[test]
fn the_source_and_the_place_of_items_that_are_read_are_in_the_context() {
    let selector = json!({ "i.$": "$$.Map.Item.Index", "s.$": "$$.Map.Item.Source" });
    let mut run = start(reader(json!({ "ItemSelector": selector })), json!({ "bucket": "b" }));
    for (cursor, index) in [(json!(1), 0), (json!(null), 1)] {
        let call = take(&mut run).calls.pop().unwrap();
        let sources = json!([{ "source": "S3://b/k", "items": 1 }]);
        answer(&mut run, &call, json!({ "items": ["x"], "cursor": cursor, "sources": sources }));
        let started: Vec<Value> = run
            .pending()
            .into_iter()
            .filter_map(|c| match c {
                Command::StartChild(start) => Some(start.input.to_value()),
                _ => None,
            })
            .collect();
        assert_eq!(started.last(), Some(&json!({ "i": index, "s": "S3://b/k" })));
    }
}

#[test]
fn items_are_batched_by_number_and_by_size() {
    let batch = |batcher: Value| {
        let mut run = start(
            json!({ "ItemBatcher": batcher, "ItemsPath": "$.i" }),
            json!({ "i": ["aa", "bb", "cc"], "n": 7 }),
        );
        inputs(&take(&mut run).starts)
    };
    assert_eq!(
        batch(json!({ "MaxItemsPerBatch": 2, "BatchInput": { "n.$": "$.n" } })),
        [
            json!({ "BatchInput": { "n": 7 }, "Items": ["aa", "bb"] }),
            json!({ "BatchInput": { "n": 7 }, "Items": ["cc"] })
        ]
    );
    // {"Items":["aa","bb"]} has 21 bytes.
    let two = [json!({ "Items": ["aa", "bb"] }), json!({ "Items": ["cc"] })];
    assert_eq!(batch(json!({ "MaxInputBytesPerBatch": 21 })), two);
    assert_eq!(batch(json!({ "MaxInputBytesPerBatch": 20 })).len(), 3);
    assert_eq!(batch(json!({ "MaxInputBytesPerBatch": 1 })).len(), 3, "a batch has one item at least");
    assert_eq!(batch(json!({ "MaxItemsPerBatch": 9, "MaxInputBytesPerBatch": 21 })), two);
}

#[test]
fn a_batch_waits_for_the_items_of_the_next_window_and_fails_as_a_whole() {
    let more = json!({ "ItemBatcher": { "MaxItemsPerBatch": 3 }, "ToleratedFailureCount": 2 });
    let mut run = start(reader(more), json!({ "bucket": "b" }));
    let call = take(&mut run).calls.pop().unwrap();
    answer(&mut run, &call, json!({ "items": [1, 2], "cursor": 1 }));
    let wanted = take(&mut run);
    assert_eq!((wanted.starts.len(), wanted.calls.len()), (0, 1));
    answer(&mut run, &wanted.calls[0], json!({ "items": [3, 4], "cursor": null }));
    let starts = take(&mut run).starts;
    assert_eq!(inputs(&starts), [json!({ "Items": [1, 2, 3] }), json!({ "Items": [4] })]);
    assert_eq!(starts.iter().map(|s| s.items).collect::<Vec<_>>(), [3, 1]);
    fail(&mut run, 1, "E");
    assert_eq!((record(&run).items.failed, record(&run).executions.failed), (1, 1));
    fail(&mut run, 0, "E");
    assert_eq!(error(&run).0, "States.ExceedToleratedFailureThreshold");
    assert_eq!((record(&run).items.failed, record(&run).executions.failed), (4, 2));
}

#[test]
fn results_are_written_where_the_definition_says() {
    let writer = json!({ "ResultWriter": { "Resource": "arn:aws:states:::s3:putObject",
        "Parameters": { "Bucket.$": "$.b" }, "WriterConfig": { "Transformation": "COMPACT" } }, "ItemsPath": "$.i" });
    let mut run = start(writer.clone(), json!({ "b": "x", "i": [1, 2] }));
    echo(&mut run);
    // `echo` dropped the call; it is pending.
    let pending = run.pending();
    let [Command::Call(call)] = pending.as_slice() else { panic!("{pending:?}") };
    let call = call.clone();
    assert_eq!(call.target.action, "writeResults");
    let input = call.input.to_value();
    assert_eq!((&input["parameters"]["Bucket"], &input["redrive_count"]), (&json!("x"), &json!(0)));
    assert_eq!(input["writer_config"], json!({ "Transformation": "COMPACT", "OutputType": "JSON" }));
    assert_eq!(input["map_run"], record(&run).arn.to_string());
    answer(&mut run, &call, json!({ "MapRunArn": "a", "ResultWriterDetails": {} }));
    assert_eq!(output(&run), json!({ "MapRunArn": "a", "ResultWriterDetails": {} }));
    assert_eq!(record(&run).items.results_written, 2);

    // With NONE and no resource they are collected at the end, with what there is to say about each execution.
    let none = json!({ "ResultWriter": { "WriterConfig": { "Transformation": "NONE" } } });
    let mut collected = start(none.clone(), json!([1]));
    succeed(&mut collected, 0, json!("one"));
    let call = take(&mut collected).calls.remove(0);
    let arn = record(&collected).arn.to_string();
    assert_eq!(call.target.action, "collectResults");
    assert_eq!(call.input.to_value(), json!({ "map_run": arn, "redrive_count": 0 }));
    answer(&mut collected, &call, json!([{ "Output": "\"one\"" }]));
    assert_eq!(output(&collected), json!([{ "Output": "\"one\"" }]));
    assert_eq!(record(&collected).items.results_written, 0, "they are in no file");
    let mut collected = start(none, json!([1]));
    fail(&mut collected, 0, "E");
    assert_eq!(error(&collected).0, "States.ExceedToleratedFailureThreshold");

    // A Map Run that fails writes what there is, and keeps its own error.
    let mut run = start(writer.clone(), json!({ "b": "x", "i": [1] }));
    fail(&mut run, 0, "E");
    let call = take(&mut run).calls.pop().unwrap();
    run.report(call.event_id, ReportOutcome::Failed { error: Some("x".into()), cause: None }).unwrap();
    assert_eq!(error(&run).0, "States.ExceedToleratedFailureThreshold");

    let mut run = start(writer, json!({ "b": "x", "i": [1] }));
    succeed(&mut run, 0, json!(1));
    let call = take(&mut run).calls.pop().unwrap();
    run.report(call.event_id, ReportOutcome::Failed { error: None, cause: Some("no".into()) }).unwrap();
    assert_eq!(error(&run), ("States.ResultWriterFailed".to_owned(), "no".to_owned()));
}

#[test]
fn results_are_flattened_on_request_and_must_fit_an_output() {
    let flatten = json!({ "ResultWriter": { "WriterConfig": { "Transformation": "FLATTEN" } } });
    let mut run = start(flatten, json!([[1, 2], 3, [], [[4]]]));
    echo(&mut run);
    assert_eq!(output(&run), json!([1, 2, 3, [4]]));

    let big = "x".repeat(100_000);
    let mut run = start(json!({}), json!([0, 1, 2]));
    for index in 0..3 {
        succeed(&mut run, index, json!(big));
    }
    assert_eq!(error(&run).0, "States.DataLimitExceeded");
    assert!(run.history().contains("5<-4 MapRunSucceeded\n6<-5 MapStateFailed"), "{}", run.history());
}

#[test]
fn what_ends_the_execution_stops_the_children() {
    let stopped = |run: &mut Run, children: usize| {
        let stops = take(run).stops;
        assert_eq!(stops.len(), children);
        // Whoever finds the execution ended can have them stopped again.
        assert_eq!(run.execution.map_children(run.key()), stops);
        assert_eq!(record(run).status, MapRunStatus::Aborted);
        assert_eq!(record(run).items.aborted, children as u64);
    };
    let mut run = start(json!({}), json!([0, 1]));
    run.decide(Input::Stop { error: None, cause: None }).unwrap();
    stopped(&mut run, 2);

    let definition = crate::support::machine(
        &json!({ "StartAt": "M", "TimeoutSeconds": 5, "States": { "M": map(json!({})) } }),
    );
    let mut run = Run::start(&definition, json!([0]));
    run.wake_at_deadline();
    stopped(&mut run, 1);

    let branches = json!([
        { "StartAt": "M", "States": { "M": map(json!({})) } },
        { "StartAt": "W", "States": { "W": { "Type": "Wait", "Seconds": 3, "Next": "F" }, "F": { "Type": "Fail", "Error": "X" } } },
    ]);
    let definition = states("P", json!({ "P": { "Type": "Parallel", "Branches": branches, "End": true } }));
    let mut run = Run::start(&definition, json!([0]));
    run.wake_at_deadline();
    stopped(&mut run, 1);
    assert!(run.history().contains("MapRunAborted"), "{}", run.history());
    assert!(run.history().contains("MapStateAborted"), "{}", run.history());
}

#[test]
fn a_map_run_that_failed_may_be_tried_again_and_is_another_one_then() {
    let more = json!({ "Retry": [{ "ErrorEquals": ["States.ExceedToleratedFailureThreshold"] }],
        "Catch": [{ "ErrorEquals": ["States.ALL"], "Next": "C" }] });
    let definition = states("M", json!({ "M": map(more), "C": { "Type": "Succeed" } }));
    let mut run = Run::start(&definition, json!([0]));
    let first = take(&mut run).starts.pop().unwrap();
    fail(&mut run, 0, "E");
    run.wake_at_deadline();
    let second = take(&mut run).starts.pop().unwrap();
    assert_ne!(first.execution, second.execution);
    assert_ne!(first.map_run, second.map_run);
    assert_eq!(
        end_child(&mut run, 0, ReportOutcome::Succeeded(payload(&json!(1)))),
        Err(Ignored::AttemptClosed)
    );
    let statuses: Vec<_> = run.map_runs.iter().map(|r| (r.arn == first.map_run, r.status)).collect();
    assert!(
        statuses.contains(&(true, MapRunStatus::Failed))
            && statuses.contains(&(false, MapRunStatus::Running))
    );
}

#[test]
fn a_child_runs_the_processor_and_sees_no_variables_of_its_parent() {
    let processor = json!({ "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS" }, "StartAt": "I",
        "States": { "I": { "Type": "Pass", "Parameters": { "v.$": "$v" }, "End": true } } });
    let definition = states(
        "S",
        json!({ "S": { "Type": "Pass", "Assign": { "v": 1 }, "Next": "M" }, "M": map(json!({ "ItemProcessor": processor })) }),
    );
    let mut run = Run::start(&definition, json!([5]));
    let child = take(&mut run).starts.pop().unwrap();
    let machine = std::sync::Arc::new(definition.processor(&child.label).unwrap());
    let run = Run::start(&machine, child.input.to_value());
    assert_eq!(error(&run).0, "States.Runtime");
    assert!(run.history().contains("2<-0 PassStateEntered I < 5"), "{}", run.history());
}

#[test]
fn very_many_items_are_processed_in_little_memory() {
    const ITEMS: usize = 20_000;
    let mut run = start(reader(json!({ "MaxConcurrency": 50 })), json!({ "bucket": "b" }));
    run.checked = false;
    let (mut largest, mut ended, mut read) = (0, 0, 0);
    while run.execution.end().is_none() {
        let wanted = take(&mut run);
        for call in &wanted.calls {
            let window: Vec<Value> = (read..(read + 1000).min(ITEMS)).map(|n| json!({ "n": n })).collect();
            read += window.len();
            let cursor = if read < ITEMS { json!(read) } else { json!(null) };
            answer(&mut run, call, json!({ "items": window, "cursor": cursor }));
        }
        for start in &wanted.starts {
            let stagepost_protocol::ParentKind::MapItem { index } = start.parent.kind else { panic!() };
            succeed(&mut run, index, json!({ "done": "0123456789" }));
            ended += 1;
        }
        largest = largest.max(run.execution.approximate_bytes());
        // The first ones name the Map Run.
        run.events.truncate(8);
    }
    assert_eq!(ended, ITEMS);
    assert!(largest < 2 << 20, "{largest} bytes");
    assert_eq!(error(&run).0, "States.DataLimitExceeded");
}

#[test]
fn a_redrive_goes_on_with_the_children_that_failed_and_the_items_that_never_began() {
    let mut run = start(json!({ "MaxConcurrency": 2 }), json!(["a", "b", "c", "d"]));
    let first = take(&mut run).starts.remove(0);
    succeed(&mut run, 0, json!("A"));
    fail(&mut run, 1, "E");
    assert_eq!(take(&mut run).stops.iter().map(|stop| stop.redrives).collect::<Vec<_>>(), [0]);
    end_child(&mut run, 2, aborted()).unwrap();
    assert_eq!(error(&run).0, "States.ExceedToleratedFailureThreshold");
    let counts = |run: &Run| {
        let record = record(run);
        assert_eq!(record.items, record.executions, "each item is an execution");
        let c = record.items;
        (c.pending, c.running, c.succeeded, c.failed, c.aborted, c.pending_redrive)
    };
    assert_eq!((record(&run).status, counts(&run)), (MapRunStatus::Failed, (1, 0, 1, 1, 1, 0)));

    redrive(&mut run);
    let wanted = take(&mut run);
    assert_eq!(redrives(&wanted), [(1, 1), (2, 1)]);
    assert_eq!(wanted.redrives[0].parent.token, first.parent.token);
    assert!(wanted.starts.is_empty(), "they were started before");
    assert_eq!(run.pending(), wanted.redrives.into_iter().map(Command::RedriveChild).collect::<Vec<_>>());
    let now = record(&run);
    assert_eq!((now.arn.clone(), now.status, now.stopped_at), (first.map_run, MapRunStatus::Running, None));
    assert_eq!((now.redrive_count, now.redriven_at), (1, Some(run.now)));
    assert_eq!(counts(&run), (1, 2, 1, 0, 0, 0));

    // What is said of the time before the redrive comes too late.
    assert_eq!(end_child(&mut run, 1, failed("E")), Err(Ignored::AttemptClosed));
    end(&mut run, redriven(1, 1), succeeded(json!("B"))).unwrap();
    let wanted = take(&mut run);
    assert_eq!((inputs(&wanted.starts), wanted.redrives.len()), (vec![json!("d")], 0));
    succeed(&mut run, 3, json!("D"));
    end(&mut run, redriven(2, 1), failed("E")).unwrap();
    assert_eq!((record(&run).status, counts(&run)), (MapRunStatus::Failed, (0, 0, 3, 1, 0, 0)));

    // Another redrive counts for itself.
    redrive(&mut run);
    assert_eq!(redrives(&take(&mut run)), [(2, 2)]);
    end(&mut run, redriven(2, 2), succeeded(json!("C"))).unwrap();
    assert_eq!(output(&run), json!(["A", "B", "C", "D"]));
    let arn = record(&run).arn.to_string();
    run.shows(&format!(
        r#"1<-0 ExecutionStarted < ["a","b","c","d"]
           2<-0 MapStateEntered M < ["a","b","c","d"]
           3<-2 MapStateStarted #4
           4<-3 MapRunStarted mapRunArn={arn}
           5<-4 MapRunFailed error=States.ExceedToleratedFailureThreshold cause={TOO_MANY}
           6<-5 MapStateFailed
           7<-6 ExecutionFailed error=States.ExceedToleratedFailureThreshold cause={TOO_MANY}
           8<-7 ExecutionRedriven redriveCount=1
           9<-8 MapRunRedriven mapRunArn={arn} redriveCount=1
           10<-9 MapRunFailed error=States.ExceedToleratedFailureThreshold cause={TOO_MANY}
           11<-10 MapStateFailed
           12<-11 ExecutionFailed error=States.ExceedToleratedFailureThreshold cause={TOO_MANY}
           13<-12 ExecutionRedriven redriveCount=2
           14<-13 MapRunRedriven mapRunArn={arn} redriveCount=2
           15<-14 MapRunSucceeded
           16<-15 MapStateSucceeded
           17<-15 MapStateExited M > ["A","B","C","D"]
           18<-17 ExecutionSucceeded > ["A","B","C","D"]"#
    ));
}

#[test]
fn children_that_ran_when_the_execution_was_stopped_are_started_if_they_were_not_and_redriven() {
    let mut run = start(json!({}), json!(["a", "b", "c"]));
    let before = take(&mut run).starts;
    run.decide(Input::Stop { error: None, cause: None }).unwrap();
    assert_eq!(end_child(&mut run, 0, aborted()), Err(Ignored::Ended));
    run.commands.clear();
    redrive(&mut run);
    let wanted = take(&mut run);
    assert_eq!(redrives(&wanted), [(0, 1), (1, 1), (2, 1)]);
    // Nobody knows whether they began: they are asked to, which repeats nothing.
    assert!(wanted.starts.iter().all(|start| start.again));
    let names = |starts: &[StartChild]| starts.iter().map(|s| s.execution.clone()).collect::<Vec<_>>();
    assert_eq!((names(&wanted.starts), inputs(&wanted.starts)), (names(&before), inputs(&before)));
    // One had succeeded before it could be stopped, which no redrive changes.
    assert_eq!(end_child(&mut run, 0, aborted()), Err(Ignored::AttemptClosed));
    end(&mut run, redriven(0, 0), succeeded(json!("A"))).unwrap();
    for (index, output) in [(1, "B"), (2, "C")] {
        end(&mut run, redriven(index, 1), succeeded(json!(output))).unwrap();
    }
    assert_eq!(output(&run), json!(["A", "B", "C"]));
}

#[test]
fn what_cannot_be_redriven_counts_as_failed_for_ever() {
    let mut run = start(json!({ "ToleratedFailureCount": 1 }), json!([0, 1, 2]));
    fail(&mut run, 0, "E");
    fail(&mut run, 1, "E");
    end_child(&mut run, 2, aborted()).unwrap();
    redrive(&mut run);
    assert_eq!(redrives(&take(&mut run)), [(0, 1), (1, 1), (2, 1)]);
    let lost = |index| MapChild { index, redrives: 0, not_redrivable: true };
    end(&mut run, lost(0), failed("Old")).unwrap();
    let items = record(&run).items;
    assert_eq!((items.failed, items.failures_not_redrivable, items.running), (1, 1, 2));
    // The other one uses what is tolerated up.
    end(&mut run, lost(1), failed("Old")).unwrap();
    end(&mut run, redriven(2, 1), aborted()).unwrap();
    assert_eq!(error(&run).0, "States.ExceedToleratedFailureThreshold");
    let items = record(&run).items;
    assert_eq!((items.failed, items.aborted, items.failures_not_redrivable), (2, 1, 2));
    // So a redrive cannot help any more.
    run.commands.clear();
    redrive(&mut run);
    assert_eq!(error(&run).0, "States.ExceedToleratedFailureThreshold");
    assert_eq!(redrives(&take(&mut run)), []);
    assert_eq!(record(&run).redrive_count, 2);
}

#[test]
fn a_redrive_reads_on_and_writes_all_results_again() {
    let writer = json!({ "Resource": "arn:aws:states:::s3:putObject", "Parameters": { "Bucket": "b" } });
    let mut run = start(
        reader(json!({ "ResultWriter": writer, "ToleratedFailureCount": 1 })),
        json!({ "bucket": "b" }),
    );
    let first = take(&mut run).calls.remove(0);
    answer(&mut run, &first, json!({ "items": [0, 1], "cursor": "here" }));
    let second = take(&mut run).calls.remove(0);
    fail(&mut run, 0, "E");
    fail(&mut run, 1, "E");
    let written = take(&mut run).calls.remove(0);
    assert_eq!(written.target.action, "writeResults");
    answer(&mut run, &written, json!({}));
    assert_eq!(error(&run).0, "States.ExceedToleratedFailureThreshold");

    redrive(&mut run);
    let wanted = take(&mut run);
    assert_eq!(redrives(&wanted), [(0, 1), (1, 1)]);
    let third = &wanted.calls[0];
    assert_eq!((third.input.to_value()["cursor"].clone(), &third.input), (json!("here"), &second.input));
    assert_ne!(third.event_id, second.event_id, "what was being read then is not what is read now");
    answer(&mut run, third, json!({ "items": [2], "cursor": null }));
    assert_eq!(inputs(&take(&mut run).starts), [json!(2)]);
    end(&mut run, redriven(0, 1), succeeded(json!(0))).unwrap();
    end(&mut run, redriven(1, 1), failed("E")).unwrap();
    succeed(&mut run, 2, json!(2));
    let again = take(&mut run).calls.remove(0);
    assert_eq!(again.input.to_value()["redrive_count"], 1);
    assert_ne!(again.event_id, written.event_id);
    let late = run.report(written.event_id, succeeded(json!({})));
    assert_eq!(late, Err(Ignored::AttemptClosed));
    answer(&mut run, &again, json!({ "where": "there" }));
    assert_eq!(output(&run), json!({ "where": "there" }));
    let items = record(&run).items;
    assert_eq!((items.succeeded, items.failed, items.results_written, items.total()), (2, 1, 3, 3));
}

#[test]
fn a_map_run_that_failed_before_its_first_child_or_for_its_data_begins_anew() {
    let mut run = start(reader(json!({})), json!({ "bucket": "b" }));
    let call = take(&mut run).calls.remove(0);
    run.report(call.event_id, failed("States.ItemReaderFailed")).unwrap();
    let before = record(&run).arn.clone();
    redrive(&mut run);
    assert_ne!(record(&run).arn, before);
    assert!(!run.history().contains("MapRunRedriven"), "{}", run.history());

    let mut run = start(json!({}), json!([0, 1, 2]));
    for index in 0..3 {
        succeed(&mut run, index, json!("x".repeat(100_000)));
    }
    assert_eq!(error(&run).0, "States.DataLimitExceeded");
    run.commands.clear();
    redrive(&mut run);
    assert_eq!(take(&mut run).starts.len(), 3);
}

#[test]
fn a_branch_that_was_aborted_goes_on_with_its_map_run() {
    let branches = json!([
        { "StartAt": "M", "States": { "M": map(json!({})) } },
        { "StartAt": "T", "States": { "T": task("t", json!({ "End": true })) } },
    ]);
    let definition = states("P", json!({ "P": { "Type": "Parallel", "Branches": branches, "End": true } }));
    let mut run = Run::start(&definition, json!(["a"]));
    let arn = record(&run).arn.clone();
    // The second time, the branch fails after it has been redriven.
    for times in 1..3 {
        run.fail(run.dispatches()[0].event_id, "X");
        assert_eq!((error(&run).0.as_str(), record(&run).status), ("X", MapRunStatus::Aborted));
        redrive(&mut run);
        assert_eq!((&record(&run).arn, record(&run).redrive_count), (&arn, times));
    }
    end(&mut run, redriven(0, 2), succeeded(json!("A"))).unwrap();
    run.succeed(run.dispatches()[0].event_id, json!("T"));
    assert_eq!(output(&run), json!([["A"], "T"]));
}

#[test]
fn very_many_children_are_redriven_in_windows_and_in_little_memory() {
    const ITEMS: u64 = 5_000;
    let items: Vec<u64> = (0..ITEMS).collect();
    let mut run = start(
        json!({ "MaxConcurrency": 2_000, "ToleratedFailurePercentage": 100, "ItemsPath": "$.items" }),
        json!({ "items": items }),
    );
    run.checked = false;
    let mut open: Vec<u64> = Vec::new();
    let mut ended = 0;
    while ended < ITEMS - 1 {
        open.extend(take(&mut run).starts.into_iter().map(|start| start.input.to_value().as_u64().unwrap()));
        match open.pop() {
            Some(index) => {
                fail(&mut run, index, "E");
                ended += 1;
            }
            None => run.wake_at_deadline(),
        }
    }
    run.check();
    run.decide(Input::Stop { error: None, cause: None }).unwrap();
    let before = run.execution.approximate_bytes();
    run.commands.clear();
    redrive(&mut run);
    run.check();
    let at_once = run.commands.iter().filter(|c| matches!(c, Command::RedriveChild(_))).count();
    assert_eq!(at_once, 1_024, "the next ones come with the next decision");
    let (mut largest, mut ended) = (0, 0);
    while run.execution.end().is_none() {
        let wanted = take(&mut run);
        for (index, redrives) in redrives(&wanted) {
            end(&mut run, redriven(index, redrives), succeeded(json!(1))).unwrap();
            ended += 1;
        }
        largest = largest.max(run.execution.approximate_bytes());
        if run.commands.is_empty() && run.execution.end().is_none() {
            run.wake_at_deadline();
        }
    }
    assert_eq!(ended, ITEMS);
    assert!(largest < before + (1 << 20), "{largest} bytes");
    assert_eq!(output(&run), json!(vec![1; ITEMS as usize]));
}
