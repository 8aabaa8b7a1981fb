//! Distributed Map: each item, or batch of items, is processed by a child execution.
//!
//! ```text
//! begin ─► read a window of items ─► start children ─► their ends ─┬─► write results ─► succeeded
//!              ▲                                                   │         ▲
//!              └── when few are left ──────────────────────────────┤         │
//!                                         too many failed ─► stop the rest ──┴──────► failed
//! ```
//!
//! What expressions give is in the events: `ItemSelector` is evaluated once per item, when the item is read, all else
//! when the Map Run starts.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use stagepost_asl::{Distributed, MapState, StateKind, Transformation};
use stagepost_protocol::{
    IntegrationPattern, MapChild, MapRun as Record, MapRunArn, MapRunStatus, Parent, ParentKind, Payload,
    ReportOutcome, ServiceCall, TokenKey, error_names, map_run::child_name, shard::RedriveChild,
};

use crate::{
    command::{Call, Command, Env, Ignored, StartChild, StopChild},
    context::Item,
    dataflow::{Doc, Evaluation, too_large},
    decide::{Decider, Ready, StateFailure},
    execution::Execution,
    history::{Batching, ChildEnd, EventKind, Failure, MapRunSettings, ScopeId},
    live::{MapRun, OpenChild, Source, Stage},
    states::map::{
        found_items, join, max_concurrency, tolerated_count, tolerated_percentage, too_many_failed,
    },
};

/// So many child executions of a Map Run are open unless the definition or UpdateMapRun says otherwise. The service has
/// 10,000; whoever wants as many says so.
const OPEN_CHILDREN_DEFAULT: u64 = 1_000;
/// More are never open.
const OPEN_CHILDREN_MAX: u64 = 10_000;
/// The inputs of the open ones together have at most so many bytes, unless there is only one.
const OPEN_BYTES_MAX: usize = 8 << 20;
/// So many items are read at a time, and at most so many bytes.
const WINDOW_ITEMS: u64 = 1_000;
const WINDOW_BYTES: usize = 192 * 1024;
/// The next ones are read when fewer than these are left.
const LOW_ITEMS: usize = 500;
/// So many child executions start in one decision.
const STARTS_AT_ONCE: usize = 1_024;

/// What is read or written for a Map Run has an event id of its own, for its token: the number of the window stands
/// above the event that began the Map Run. No history has as many events as fit below.
const PART_SHIFT: u32 = 40;
/// The results that are written after the last window; after each redrive those before them.
const PART_WRITING: u64 = (1 << (64 - PART_SHIFT)) - 1;

/// The event that began a Map Run, and which part of it an event id names.
fn split(event_id: u64) -> (u64, u64) {
    (event_id & ((1 << PART_SHIFT) - 1), event_id >> PART_SHIFT)
}

fn part(run: &MapRun, part: u64) -> u64 {
    run.started_id | (part << PART_SHIFT)
}

fn part_writing(run: &MapRun) -> u64 {
    part(run, PART_WRITING.saturating_sub(run.redrives.into()))
}

pub(crate) fn begin(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    map: &MapState,
    distributed: &Distributed,
) -> Option<Ready> {
    let evaluation = decider.evaluation(scope);
    let found = match &distributed.reader {
        Some(_) => Ok(None),
        None => found_items(&evaluation, map, true).map(Some),
    };
    let prepared = found.and_then(|found| Ok((found, max_concurrency(&evaluation, map)?)));
    let (found, max_concurrency) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return decider.fail(scope, failure),
    };
    let length = found.as_ref().map_or(0, |found| match found {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    });
    decider.emit_next(
        scope,
        EventKind::MapStateStarted {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            max_concurrency,
            tolerated_failures: None,
            items: None,
        },
    );
    let settings = settings(&decider.evaluation(scope), map, distributed, max_concurrency);
    let (settings, max_items) = match settings {
        Ok(settings) => settings,
        Err(failure) => return decider.fail(scope, failure),
    };
    let event_id = decider.execution.last_event_id() + 1;
    let children = decider.execution.origin().state_machine.labelled(&distributed.label);
    let arn = MapRunArn::new(&children, decider.execution.id(), event_id);
    decider.emit_next(
        scope,
        EventKind::MapRunStarted { arn: arn.to_string().into(), settings: Box::new(settings) },
    );
    if max_items < 0 {
        let failure =
            StateFailure::new(error_names::ITEM_READER_FAILED, "field MaxItems must be positive".to_owned());
        return fail(decider, scope, failure.failure);
    }
    if let Some(found) = found {
        decider.emit_next(scope, EventKind::MapItemsRequested);
        return take_items(decider, scope, map, Items::of_state(found), None);
    }
    go_on(decider, scope, map)
}

/// The execution is redriven, and the Map Run of its state with it.
pub(crate) fn redrive(decider: &mut Decider<'_>, scope: ScopeId, map: &MapState) -> Option<Ready> {
    let run = decider.scope(scope).closed_map_run()?;
    let (arn, count) = (Arc::clone(&run.arn), run.redrives.saturating_add(1));
    decider.emit_next(scope, EventKind::MapRunRedriven { arn, count });
    go_on(decider, scope, map)
}

/// The settings, and `MaxItems`, which may be of no use.
fn settings(
    evaluation: &Evaluation<'_>,
    map: &MapState,
    distributed: &Distributed,
    max_concurrency: u32,
) -> Result<(MapRunSettings, i64), StateFailure> {
    let input = evaluation.input()?.into_value();
    let count = tolerated_count(evaluation, map, &input)?.unwrap_or(0);
    let percentage = tolerated_percentage(evaluation, map, &input)?.unwrap_or(0.0);
    let batch = match &distributed.batcher {
        None => None,
        Some(batcher) => {
            let limit = |number: &Option<_>, field: &str| match number {
                None => Ok(None),
                Some(number) => match evaluation.whole_number(number, field, &input)? {
                    limit if limit > 0 => Ok(Some(limit.unsigned_abs())),
                    _ => Err(evaluation.runtime(&format!("{field} must be positive."))),
                },
            };
            let max_items = limit(&batcher.max_items, "MaxItemsPerBatch")?;
            let max_bytes = limit(&batcher.max_bytes, "MaxInputBytesPerBatch")?;
            let template = batcher.input.as_ref();
            let batch_input = template.map(|t| evaluation.fill(Some(t), Doc::Parsed(input.clone())));
            let batch_input = batch_input.transpose()?.map(|doc| evaluation.bounded(doc)).transpose()?;
            Some(Batching { max_items, max_bytes, input: batch_input })
        }
    };
    let fill = |template: &Option<_>| match template {
        None => Ok(None),
        Some(template) => {
            evaluation.fill(Some(template), Doc::Parsed(input.clone())).map(|doc| Some(doc.into_value()))
        }
    };
    let mut max_items = 0;
    let mut reader = None;
    if let Some(item_reader) = &distributed.reader {
        if let Some(number) = &item_reader.max_items {
            max_items = evaluation.whole_number(number, "MaxItems", &input)?;
        }
        reader = Some(Payload::from_value(&json!({
            "resource": item_reader.resource,
            "parameters": fill(&item_reader.parameters)?,
            "reader_config": fill(&item_reader.config)?,
        })));
    }
    let mut writer = None;
    if let Some((result_writer, resource)) =
        distributed.writer.as_ref().and_then(|w| Some((w, w.resource.as_ref()?)))
    {
        let transformation = match result_writer.transformation {
            None | Some(Transformation::None) => "NONE",
            Some(Transformation::Compact) => "COMPACT",
            Some(Transformation::Flatten) => "FLATTEN",
        };
        writer = Some(Payload::from_value(&json!({
            "resource": resource,
            "parameters": fill(&result_writer.parameters)?,
            "writer_config": {
                "Transformation": transformation,
                "OutputType": if result_writer.json_lines { "JSONL" } else { "JSON" },
            },
        })));
    }
    let without_file = distributed.writer.as_ref().filter(|writer| writer.resource.is_none());
    let settings = MapRunSettings {
        max_concurrency: max_concurrency.into(),
        tolerated_failure_count: count.into(),
        tolerated_failure_percentage: percentage,
        batch,
        reader,
        max_items: (max_items > 0).then_some(max_items.unsigned_abs()),
        writer,
        collected: without_file.is_some_and(|w| w.transformation == Some(Transformation::None)),
    };
    Ok((settings, max_items))
}

/// Items as they were found, with what the context object says of them.
struct Items {
    values: Vec<Found>,
    /// The place of the first.
    first: u64,
}

struct Found {
    key: Option<String>,
    value: Value,
    source: Arc<str>,
}

impl Items {
    fn of_state(found: Value) -> Items {
        let source: Arc<str> = Item::STATE_DATA.into();
        let item = |key, value| Found { key, value, source: Arc::clone(&source) };
        let values = match found {
            Value::Array(items) => items.into_iter().map(|value| item(None, value)).collect(),
            Value::Object(fields) => fields.into_iter().map(|(key, value)| item(Some(key), value)).collect(),
            _ => Vec::new(),
        };
        Items { values, first: 0 }
    }
}

/// What `stagepost:readItems` answers.
#[derive(Deserialize)]
struct Window {
    items: Vec<Value>,
    /// Where the next window begins; none: there is none.
    cursor: Option<Payload>,
    /// Where the fields of an object are the items: their names, as many as there are items.
    keys: Option<Vec<Option<String>>>,
    /// Where the items come from, in their order.
    #[serde(default)]
    sources: Vec<SourceRun>,
}

/// Items in succession that come from the same place.
#[derive(Deserialize)]
struct SourceRun {
    source: Arc<str>,
    items: usize,
}

impl Window {
    fn found(self) -> Vec<Found> {
        let sources = self.sources.into_iter().flat_map(|run| std::iter::repeat_n(run.source, run.items));
        let mut sources = sources.chain(std::iter::repeat(Arc::from("")));
        let mut keys = self.keys.into_iter().flatten();
        let found = |value| Found {
            key: keys.next().flatten(),
            value,
            source: sources.next().unwrap_or_else(|| Arc::from("")),
        };
        self.items.into_iter().map(found).collect()
    }
}

/// Items have been read: as the child executions get them, they wait to be started.
fn take_items(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    map: &MapState,
    items: Items,
    cursor: Option<Payload>,
) -> Option<Ready> {
    let selected = match select(&decider.evaluation(scope), map, items) {
        Ok(selected) => selected,
        Err(failure) => return fail(decider, scope, failure.failure),
    };
    let items = join(selected.iter()).into_payload();
    decider.emit_next(scope, EventKind::MapItemsRead { items, cursor });
    go_on(decider, scope, map)
}

/// What `ItemSelector` makes of each of the items that were found in the state's input.
pub(crate) fn select_found(
    evaluation: &Evaluation<'_>,
    map: &MapState,
    found: Value,
) -> Result<Vec<Payload>, StateFailure> {
    select(evaluation, map, Items::of_state(found))
}

/// `ItemSelector`, on each item.
fn select(evaluation: &Evaluation<'_>, map: &MapState, items: Items) -> Result<Vec<Payload>, StateFailure> {
    let whole = |found: Found| match found.key {
        None => found.value,
        Some(key) => json!({ "Key": key, "Value": found.value }),
    };
    let Some(selector) = &map.item_selector else {
        let values = items.values.into_iter().map(whole);
        return values.map(|value| evaluation.bounded(Doc::Parsed(value))).collect();
    };
    let input = evaluation.input()?.into_value();
    let mut selected = Vec::with_capacity(items.values.len());
    for (index, Found { key, value, source }) in (items.first..).zip(items.values) {
        let filled = evaluation.fill_for_item(selector, &input, &Item { index, key, value, source })?;
        selected.push(evaluation.bounded(filled)?);
    }
    Ok(selected)
}

/// Does what there is to do now.
fn go_on(decider: &mut Decider<'_>, scope: ScopeId, map: &MapState) -> Option<Ready> {
    decider.touch_map_run(scope);
    match &decider.map_run(scope)?.stage {
        Stage::Processing => process(decider, scope, map),
        Stage::Failing(_) => fail_when_stopped(decider, scope),
        Stage::Writing(_) => None,
    }
}

/// Starts, after a pause, as many child executions as may run now.
pub(crate) fn start_children(decider: &mut Decider<'_>, scope: ScopeId, map: &MapState) -> Option<Ready> {
    go_on(decider, scope, map)
}

fn process(decider: &mut Decider<'_>, scope: ScopeId, map: &MapState) -> Option<Ready> {
    if decider.map_run(scope)?.exceeds_tolerance() {
        return fail(decider, scope, too_many_failed().failure);
    }
    if decider.map_run(scope)?.is_done() {
        if decider.map_run(scope)?.settings.asks_for_results() {
            return write(decider, scope);
        }
        return succeed(decider, scope, map, None);
    }
    start(decider, scope);
    read(decider, scope);
    None
}

/// Redrives and starts as many child executions as may run now.
fn start(decider: &mut Decider<'_>, scope: ScopeId) {
    if decider.is_long() {
        decider.emit_next(scope, EventKind::MapPaused);
        return;
    }
    let redriven = redrive_next(decider, scope);
    let started =
        if redriven < STARTS_AT_ONCE { start_next(decider, scope, STARTS_AT_ONCE - redriven) } else { 0 };
    let Some(run) = decider.map_run(scope) else { return };
    let more = run.to_redrive() > 0 || run.next_size(0).is_some() && !is_full(run, run.open_bytes, 0);
    if redriven + started >= STARTS_AT_ONCE && more && free(run) > 0 {
        decider.emit_next(scope, EventKind::MapPaused);
    }
}

/// How many child executions may run besides those that do.
fn free(run: &MapRun) -> usize {
    let concurrency = match run.settings.max_concurrency {
        0 => OPEN_CHILDREN_DEFAULT,
        max => max.min(OPEN_CHILDREN_MAX),
    };
    usize::try_from(concurrency).unwrap_or(usize::MAX).saturating_sub(run.open.len())
}

fn is_full(run: &MapRun, bytes: usize, more: usize) -> bool {
    bytes > OPEN_BYTES_MAX && run.open.len() + more > 0
}

fn redrive_next(decider: &mut Decider<'_>, scope: ScopeId) -> usize {
    let Some(run) = decider.map_run(scope) else { return 0 };
    let indices = run.next_to_redrive(free(run).min(STARTS_AT_ONCE));
    if let Some(count) = u32::try_from(indices.len()).ok().filter(|count| *count > 0) {
        decider.emit_next(scope, EventKind::MapChildrenRedriven { count });
        for index in &indices {
            begin_child(decider, scope, *index);
        }
    }
    indices.len()
}

fn start_next(decider: &mut Decider<'_>, scope: ScopeId, most: usize) -> usize {
    let Some(run) = decider.map_run(scope) else { return 0 };
    let most = free(run).min(most);
    let (mut sizes, mut skipped, mut bytes) = (Vec::new(), 0, run.open_bytes);
    while let Some((size, size_bytes)) = run.next_size(skipped) {
        if sizes.len() >= most || is_full(run, bytes, sizes.len()) {
            break;
        }
        bytes += size_bytes;
        skipped += size as usize;
        sizes.push(size);
    }
    if sizes.is_empty() {
        return 0;
    }
    let (first, started) = (run.next_child, sizes.len());
    decider.emit_next(scope, EventKind::MapChildrenStarted { sizes });
    for index in first..first + started as u64 {
        begin_child(decider, scope, index);
    }
    started
}

fn begin_child(decider: &mut Decider<'_>, scope: ScopeId, index: u64) {
    let commands = child(decider.execution, scope, index, decider.env);
    commands.into_iter().for_each(|command| decider.command(command));
}

/// Asks for the next items, when few are left.
fn read(decider: &mut Decider<'_>, scope: ScopeId) {
    let Some(run) = decider.map_run(scope) else { return };
    let wanting = run.unstarted.len() < LOW_ITEMS || run.next_size(0).is_none();
    if !wanting || !matches!(run.source, Source::At(_)) {
        return;
    }
    decider.emit_next(scope, EventKind::MapItemsRequested);
    let command = reading(decider.execution, scope, decider.env);
    command.into_iter().for_each(|command| decider.command(command));
}

/// The Map Run is going to fail: what runs is stopped first, and what there is of results is written.
fn fail(decider: &mut Decider<'_>, scope: ScopeId, failure: Failure) -> Option<Ready> {
    decider.touch_map_run(scope);
    decider.emit_next(scope, EventKind::MapRunFailing(failure));
    stop_children(decider, scope);
    fail_when_stopped(decider, scope)
}

fn fail_when_stopped(decider: &mut Decider<'_>, scope: ScopeId) -> Option<Ready> {
    let run = decider.map_run(scope)?;
    if !run.open.is_empty() {
        return None;
    }
    if run.settings.writer.is_some() && run.next_child > 0 {
        return write(decider, scope);
    }
    let Stage::Failing(failure) = run.stage.clone() else { return None };
    failed(decider, scope, failure)
}

fn failed(decider: &mut Decider<'_>, scope: ScopeId, failure: Failure) -> Option<Ready> {
    decider.end_map_run(scope, MapRunStatus::Failed, false);
    decider.emit_next(scope, EventKind::MapRunFailed(failure.clone()));
    decider.fail(scope, StateFailure::from(failure).of_work_begun())
}

fn write(decider: &mut Decider<'_>, scope: ScopeId) -> Option<Ready> {
    decider.emit_next(scope, EventKind::MapResultsRequested);
    let command = writing(decider.execution, scope, decider.env);
    command.into_iter().for_each(|command| decider.command(command));
    None
}

/// All items are processed. `written` is what the result writer answered.
fn succeed(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    map: &MapState,
    written: Option<&Payload>,
) -> Option<Ready> {
    let run = decider.map_run(scope)?;
    let writer = map.distributed.as_ref().and_then(|d| d.writer.as_ref());
    let flatten = writer.is_some_and(|w| w.transformation == Some(Transformation::Flatten));
    let results = match written {
        Some(written) => Ok(Doc::Text(written.clone())),
        None if run.overflowed => Err(too_large(&decider.state(scope).name).of_work_begun()),
        None if flatten => Ok(flattened(run.results.values())),
        None => Ok(join(run.results.values())),
    };
    let in_files = written.is_some() && run.settings.writer.is_some();
    decider.end_map_run(scope, MapRunStatus::Succeeded, in_files);
    decider.emit_next(scope, EventKind::MapRunSucceeded);
    let results = match results {
        Ok(results) => results,
        Err(failure) => return decider.fail(scope, failure),
    };
    decider.emit_next(scope, EventKind::MapStateSucceeded);
    let output = decider.evaluation(scope).output(results, map.result_selector.as_ref(), &map.result_path);
    decider.conclude(scope, output, map.transition)
}

/// The results, and of those that are arrays the elements.
fn flattened<'p>(results: impl Iterator<Item = &'p Payload>) -> Doc {
    let elements: Vec<Payload> =
        results.flat_map(|result| result.read().unwrap_or_else(|_| vec![result.clone()])).collect();
    join(elements.iter())
}

/// The scope whose Map Run a report is about.
pub(crate) fn scope_of_report(execution: &Execution, event_id: u64) -> Option<ScopeId> {
    execution.live.scope_of_map_run(split(event_id).0)
}

/// Whether an event id names a call of a Map Run, not an attempt.
pub(crate) fn is_part(event_id: u64) -> bool {
    split(event_id).1 > 0
}

/// Whether there was such a part of a Map Run, or may have been.
pub(crate) fn is_known(execution: &Execution, event_id: u64) -> bool {
    (1..=execution.last_event_id()).contains(&split(event_id).0)
}

/// What became of a child execution, or of a call that reads items or writes results.
pub(crate) fn report(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    event_id: u64,
    child: Option<MapChild>,
    outcome: ReportOutcome,
) -> Result<Option<Ready>, Ignored> {
    let StateKind::Map(map) = &decider.state(scope).kind else { return Err(Ignored::UnknownAttempt) };
    let run = decider.map_run(scope).ok_or(Ignored::AttemptClosed)?;
    // No worker stands for these by a lease: their deliveries stay unacknowledged.
    if !outcome.is_end() {
        return Err(Ignored::AlreadyStarted);
    }
    if let (Some(child), (_, 0)) = (child, split(event_id)) {
        return child_ended(decider, scope, map, child, outcome);
    }
    if event_id == part(run, u64::from(run.windows)) && matches!(run.source, Source::Reading(_)) {
        return Ok(items_read(decider, scope, map, outcome));
    }
    if event_id == part_writing(run) && matches!(run.stage, Stage::Writing(_)) {
        return Ok(results_written(decider, scope, map, outcome));
    }
    Err(Ignored::AttemptClosed)
}

fn child_ended(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    map: &MapState,
    child: MapChild,
    outcome: ReportOutcome,
) -> Result<Option<Ready>, Ignored> {
    let MapChild { index, redrives, not_redrivable } = child;
    let run = decider.map_run(scope).ok_or(Ignored::AttemptClosed)?;
    let open = run.open.get(&index).ok_or(Ignored::AttemptClosed)?;
    let succeeded = matches!(outcome, ReportOutcome::Succeeded(_));
    // Only these two ends are for ever: any other may be one that a redrive has overtaken.
    if open.redrives != redrives && !succeeded && !not_redrivable {
        return Err(Ignored::AttemptClosed);
    }
    // What is stopped when the Map Run fails is no result; what succeeds is one after a redrive.
    let wanted = succeeded || matches!(run.stage, Stage::Processing);
    let keep = !run.settings.asks_for_results() && !run.overflowed && wanted;
    let (end, result) = match outcome {
        ReportOutcome::Succeeded(output) => (ChildEnd::Succeeded, output),
        ReportOutcome::Failed { error, cause } => (ChildEnd::Failed, described("FAILED", error, cause)),
        ReportOutcome::TimedOut { error, cause } => {
            let error = error.or_else(|| Some(error_names::TIMEOUT.to_owned()));
            (ChildEnd::TimedOut, described("TIMED_OUT", error, cause))
        }
        ReportOutcome::Aborted { error, cause } => (ChildEnd::Aborted, described("ABORTED", error, cause)),
        ReportOutcome::Started
        | ReportOutcome::Held { .. }
        | ReportOutcome::Claimed(_)
        | ReportOutcome::Released { .. }
        | ReportOutcome::Heartbeat
        | ReportOutcome::Submitted(_) => return Err(Ignored::AlreadyStarted),
    };
    let result = keep.then_some(result);
    if not_redrivable {
        decider.emit_next(scope, EventKind::MapChildNotRedrivable { index });
    }
    decider.emit_next(scope, EventKind::MapChildEnded { index, end, result });
    Ok(go_on(decider, scope, map))
}

/// What stands in the results for a child execution that failed and is tolerated.
fn described(status: &str, error: Option<String>, cause: Option<String>) -> Payload {
    let Failure { error, cause } = Failure::bounded(error, cause);
    Payload::from_value(&json!({ "Status": status, "Error": error, "Cause": cause }))
}

fn items_read(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    map: &MapState,
    outcome: ReportOutcome,
) -> Option<Ready> {
    let answer = match outcome {
        ReportOutcome::Succeeded(answer) => answer,
        other => return fail(decider, scope, failure_of(other, error_names::ITEM_READER_FAILED)),
    };
    let Ok(mut window) = answer.read::<Window>() else { return unusable(decider, scope) };
    let run = decider.map_run(scope)?;
    if let Some(max) = run.settings.max_items {
        let left = usize::try_from(max.saturating_sub(run.read)).unwrap_or(usize::MAX);
        window.items.truncate(left);
        if window.items.len() >= left {
            window.cursor = None;
        }
    }
    let (cursor, first) = (window.cursor.take(), run.read);
    take_items(decider, scope, map, Items { values: window.found(), first }, cursor)
}

fn unusable(decider: &mut Decider<'_>, scope: ScopeId) -> Option<Ready> {
    let cause = "The item reader answered with something else than items.".to_owned();
    let failure = StateFailure::new(error_names::ITEM_READER_FAILED, cause);
    fail(decider, scope, failure.failure)
}

fn failure_of(outcome: ReportOutcome, default: &str) -> Failure {
    let (error, cause) = match outcome {
        ReportOutcome::Failed { error, cause }
        | ReportOutcome::TimedOut { error, cause }
        | ReportOutcome::Aborted { error, cause } => (error, cause),
        ReportOutcome::Succeeded(_)
        | ReportOutcome::Started
        | ReportOutcome::Held { .. }
        | ReportOutcome::Claimed(_)
        | ReportOutcome::Released { .. }
        | ReportOutcome::Heartbeat
        | ReportOutcome::Submitted(_) => (None, None),
    };
    Failure::bounded(error.or_else(|| Some(default.to_owned())), cause)
}

fn results_written(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    map: &MapState,
    outcome: ReportOutcome,
) -> Option<Ready> {
    let Stage::Writing(failing) = decider.map_run(scope)?.stage.clone() else { return None };
    match (failing, outcome) {
        // It fails anyway, with what it failed for.
        (Some(failure), _) => failed(decider, scope, failure),
        (None, ReportOutcome::Succeeded(written)) => succeed(decider, scope, map, Some(&written)),
        (None, other) => failed(decider, scope, failure_of(other, error_names::RESULT_WRITER_FAILED)),
    }
}

/// UpdateMapRun.
pub(crate) fn update(
    decider: &mut Decider<'_>,
    arn: &MapRunArn,
    settings: (Option<u64>, Option<u64>, Option<f64>),
) -> Result<Option<Ready>, Ignored> {
    let (max_concurrency, tolerated_failure_count, tolerated_failure_percentage) = settings;
    let arn = arn.to_string();
    let scopes = decider.execution.live.scopes_of_map_runs();
    let named = |scope: &ScopeId| decider.map_run(*scope).is_some_and(|run| *run.arn == arn);
    let scope = scopes.into_iter().find(named).ok_or(Ignored::AttemptClosed)?;
    let StateKind::Map(map) = &decider.state(scope).kind else { return Err(Ignored::UnknownAttempt) };
    decider.emit_next(
        scope,
        EventKind::MapRunUpdated { max_concurrency, tolerated_failure_count, tolerated_failure_percentage },
    );
    Ok(go_on(decider, scope, map))
}

/// Has the open child executions stopped.
pub(crate) fn stop_children(decider: &mut Decider<'_>, scope: ScopeId) {
    let Some(run) = decider.map_run(scope) else { return };
    for command in stops(decider.execution, scope, run, decider.env.token_key) {
        decider.command(Command::StopChild(command));
    }
}

/// The commands of a Map Run that is open, to carry out again.
pub(crate) fn pending(execution: &Execution, scope: ScopeId, env: &Env<'_>) -> Vec<Command> {
    let Some(run) = execution.live.map_run(scope) else { return Vec::new() };
    let mut commands = Vec::new();
    for index in run.open.keys() {
        commands.extend(child(execution, scope, *index, env));
    }
    match run.stage {
        Stage::Processing => commands.extend(reading(execution, scope, env)),
        Stage::Failing(_) => {
            let stops = stops(execution, scope, run, env.token_key);
            commands.extend(stops.into_iter().map(Command::StopChild));
        }
        Stage::Writing(_) => commands.extend(writing(execution, scope, env)),
    }
    commands
}

/// What stops the open child executions of a Map Run.
pub(crate) fn stops(
    execution: &Execution,
    scope: ScopeId,
    run: &MapRun,
    token_key: &TokenKey,
) -> Vec<StopChild> {
    let Some(label) = label(execution, scope) else { return Vec::new() };
    let machine = execution.origin().state_machine.labelled(&label);
    let token = token_key.sign(execution.id(), run.started_id);
    let stop = |(index, open): (&u64, &OpenChild)| StopChild {
        execution: machine.execution(&child_name(execution.id(), run.started_id, *index)),
        parent: token.clone(),
        redrives: open.redrives,
    };
    run.open.iter().map(stop).collect()
}

/// What lets a child execution run that is to: it starts, or is redriven. One that ran when the Map Run ended may never
/// have started, so it does both.
fn child(execution: &Execution, scope: ScopeId, index: u64, env: &Env<'_>) -> Vec<Command> {
    let of_child = || {
        let run = execution.live.map_run(scope)?;
        Some((run, run.open.get(&index)?, label(execution, scope)?, run.arn.parse::<MapRunArn>().ok()?))
    };
    let Some((run, open, label, map_run)) = of_child() else { return Vec::new() };
    let origin = execution.origin();
    let state_machine = origin.state_machine.labelled(&label);
    let child = state_machine.execution(&child_name(execution.id(), run.started_id, index));
    let parent = Parent {
        token: env.token_key.sign(execution.id(), run.started_id),
        kind: ParentKind::MapItem { index },
    };
    let start = open.input.as_ref().map(|input| {
        Command::StartChild(StartChild {
            execution: child.clone(),
            state_machine,
            label,
            role_arn: origin.role_arn.clone(),
            input: input.clone(),
            parent: parent.clone(),
            map_run,
            items: open.items,
            again: open.redrives > 0,
        })
    });
    let redrives = open.redrives;
    let redrive =
        (redrives > 0).then_some(Command::RedriveChild(RedriveChild { execution: child, parent, redrives }));
    start.into_iter().chain(redrive).collect()
}

fn label(execution: &Execution, scope: ScopeId) -> Option<Arc<str>> {
    let step = execution.live.scope(scope)?.step()?;
    match &execution.definition().state(step.state()).kind {
        StateKind::Map(map) => map.distributed.as_ref().map(|d| Arc::clone(&d.label)),
        _ => None,
    }
}

fn reading(execution: &Execution, scope: ScopeId, env: &Env<'_>) -> Option<Command> {
    let run = execution.live.map_run(scope)?;
    let Source::Reading(cursor) = &run.source else { return None };
    let mut input = run.settings.reader.as_ref()?.to_value();
    let left = run.settings.max_items.map_or(WINDOW_ITEMS, |max| max.saturating_sub(run.read));
    let window: Map<String, Value> = Map::from_iter([
        ("cursor".to_owned(), cursor.as_ref().map_or(Value::Null, Payload::to_value)),
        ("limit".to_owned(), left.min(WINDOW_ITEMS).into()),
        ("max_bytes".to_owned(), WINDOW_BYTES.into()),
    ]);
    input.as_object_mut()?.extend(window);
    Some(call(execution, scope, "readItems", part(run, u64::from(run.windows)), &input, env))
}

fn writing(execution: &Execution, scope: ScopeId, env: &Env<'_>) -> Option<Command> {
    let run = execution.live.map_run(scope)?;
    let (action, writer) = match &run.settings.writer {
        Some(writer) => ("writeResults", writer.clone()),
        None if run.settings.collected => ("collectResults", Payload::empty_object()),
        None => return None,
    };
    let mut input = writer.to_value();
    let about: Map<String, Value> = Map::from_iter([
        ("map_run".to_owned(), (*run.arn).into()),
        ("redrive_count".to_owned(), run.redrives.into()),
    ]);
    input.as_object_mut()?.extend(about);
    Some(call(execution, scope, action, part_writing(run), &input, env))
}

fn call(
    execution: &Execution,
    scope: ScopeId,
    action: &str,
    event_id: u64,
    input: &Value,
    env: &Env<'_>,
) -> Command {
    let step = execution.live.scope(scope).and_then(|s| s.step());
    let state = step.map(|step| execution.definition().state(step.state()).name.to_string());
    Command::Call(Call {
        event_id,
        target: ServiceCall {
            service: "stagepost".to_owned(),
            action: action.to_owned(),
            pattern: IntegrationPattern::RequestResponse,
            function: None,
        },
        state: state.unwrap_or_default(),
        attempt: 1,
        token: env.token_key.sign(execution.id(), event_id),
        entered_event_id: event_id,
        input: Payload::from_value(input),
        deadline: None,
        heartbeat_millis: None,
        returns: 0,
    })
}

/// A Map Run as it is stored and shown.
pub(crate) fn record(execution: &Execution, scope: ScopeId) -> Option<Record> {
    let run = execution.live.map_run(scope)?;
    Some(Record {
        arn: run.arn.parse().ok()?,
        execution: execution.origin().arn.clone(),
        status: MapRunStatus::Running,
        started_at: run.started_at,
        stopped_at: None,
        max_concurrency: run.settings.max_concurrency,
        tolerated_failure_count: run.settings.tolerated_failure_count,
        tolerated_failure_percentage: run.settings.tolerated_failure_percentage,
        items: run.item_counts(),
        executions: run.execution_counts(),
        redrive_count: run.redrives,
        redriven_at: run.redriven_at,
    })
}
