//! A Map Run at a moment, and how its events change it.
//!
//! Only what is open is kept: items that were read and not started, the inputs of the child executions that run, and
//! results as far as an output can hold them. However many items there are, this does not grow with them. Which child
//! executions ended without success is kept for a redrive, as far as that takes no more than [`UNSUCCESSFUL_PLACES`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use stagepost_asl::StateMachine;
use stagepost_protocol::{MapRunCounts, Payload, Timestamp, error_names, limits};

use super::{
    Current, Live, Phase, Scope, Step,
    unsuccessful::{Unsuccessful, UnsuccessfulChild},
};
use crate::history::{Batching, ChildEnd, EventKind, Failure, HistoryEvent, MapRunSettings, ScopeId};

/// What a visit of a distributed Map state waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MapRun {
    pub(crate) arn: Arc<str>,
    /// The event `MapRunStarted`, which names it.
    pub(crate) started_id: u64,
    pub(crate) started_at: Timestamp,
    pub(crate) settings: MapRunSettings,
    /// How many times items were asked for.
    pub(crate) windows: u32,
    pub(crate) source: Source,
    /// Read and not started, as the child executions get them.
    pub(crate) unstarted: VecDeque<Payload>,
    unstarted_bytes: usize,
    /// How many items were read.
    pub(crate) read: u64,
    /// The number of the next child execution.
    pub(crate) next_child: u64,
    /// Those that run.
    pub(crate) open: BTreeMap<u64, OpenChild>,
    pub(crate) open_bytes: usize,
    open_items: u64,
    /// `pending` and `running` are found from the above.
    ended_items: MapRunCounts,
    ended_children: MapRunCounts,
    /// By the number of the child execution.
    pub(crate) results: BTreeMap<u64, Payload>,
    result_bytes: usize,
    /// There are more results than an output can hold.
    pub(crate) overflowed: bool,
    pub(crate) stage: Stage,
    /// More child executions start by a wake-up that is due already.
    pub(crate) paused: Option<Timestamp>,
    /// How often it was redriven, and when last.
    #[serde(default)]
    pub(crate) redrives: u32,
    #[serde(default)]
    pub(crate) redriven_at: Option<Timestamp>,
    /// Those that ended without success since it began or was redriven.
    #[serde(default)]
    unsuccessful: Unsuccessful,
    /// Those that ended so before it was redriven, and are not redriven yet.
    #[serde(default)]
    awaiting: Unsuccessful,
    /// Those that ran when it ended, whose own ends are not known. They are redriven before the others.
    #[serde(default)]
    parked: BTreeMap<u64, OpenChild>,
    #[serde(default)]
    parked_bytes: usize,
    #[serde(default)]
    parked_items: u64,
    /// Of what has ended, that which cannot be redriven.
    #[serde(default)]
    lost_items: MapRunCounts,
    #[serde(default)]
    lost_children: MapRunCounts,
}

/// Where items come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Source {
    /// The next ones begin there; `None`: at the beginning.
    At(Option<Payload>),
    /// They are being read.
    Reading(Option<Payload>),
    /// There are no more.
    Exhausted,
}

/// What a Map Run is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Processing items.
    Processing,
    /// Stopping what runs, to fail.
    Failing(Failure),
    /// Writing results; then it fails, if there is a failure, or has succeeded.
    Writing(Option<Failure>),
}

/// A child execution that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OpenChild {
    pub(crate) items: u32,
    /// What it is started with. One that is redriven was started before, and needs none.
    pub(crate) input: Option<Payload>,
    /// How often it was redriven.
    #[serde(default)]
    pub(crate) redrives: u32,
    /// Its end is about to be noted, and it can never be redriven.
    #[serde(default)]
    not_redrivable: bool,
}

impl OpenChild {
    fn bytes(&self) -> usize {
        self.input.as_ref().map_or(0, Payload::len)
    }
}

/// Child executions that ended without success take at most so many places; neighbours that are alike share one. What
/// has no place cannot be redriven.
const UNSUCCESSFUL_PLACES: usize = 100_000;

/// Besides its input and the name of an open child execution.
const CHILD_BYTES: usize = 96;
const ITEM_BYTES: usize = 32;
const RESULT_BYTES: usize = 64;

impl MapRun {
    fn new(event: &HistoryEvent, arn: &Arc<str>, settings: &MapRunSettings) -> MapRun {
        MapRun {
            arn: Arc::clone(arn),
            started_id: event.id,
            started_at: event.at,
            settings: settings.clone(),
            windows: 0,
            source: Source::At(None),
            unstarted: VecDeque::new(),
            unstarted_bytes: 0,
            read: 0,
            next_child: 0,
            open: BTreeMap::new(),
            open_bytes: 0,
            open_items: 0,
            ended_items: MapRunCounts::default(),
            ended_children: MapRunCounts::default(),
            results: BTreeMap::new(),
            result_bytes: 0,
            overflowed: false,
            stage: Stage::Processing,
            paused: None,
            redrives: 0,
            redriven_at: None,
            unsuccessful: Unsuccessful::default(),
            awaiting: Unsuccessful::default(),
            parked: BTreeMap::new(),
            parked_bytes: 0,
            parked_items: 0,
            lost_items: MapRunCounts::default(),
            lost_children: MapRunCounts::default(),
        }
    }

    /// About its size in memory. Cheap.
    pub(super) fn bytes(&self) -> usize {
        let settings = [&self.settings.reader, &self.settings.writer];
        512 + settings.into_iter().flatten().map(Payload::len).sum::<usize>()
            + self.unstarted_bytes
            + self.open_bytes
            + self.result_bytes
            + self.unstarted.len() * ITEM_BYTES
            + self.parked_bytes
            + (self.open.len() + self.parked.len()) * CHILD_BYTES
            + self.unsuccessful.bytes()
            + self.awaiting.bytes()
            + self.results.len() * RESULT_BYTES
    }

    /// No more items will be read.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.source == Source::Exhausted
    }

    /// All items are processed.
    pub(crate) fn is_done(&self) -> bool {
        self.is_exhausted() && self.unstarted.is_empty() && self.open.is_empty() && self.to_redrive() == 0
    }

    /// How many child executions wait to be redriven.
    pub(crate) fn to_redrive(&self) -> u64 {
        self.parked.len() as u64 + self.awaiting.children()
    }

    /// The numbers of the next ones of these.
    pub(crate) fn next_to_redrive(&self, count: usize) -> Vec<u64> {
        self.parked.keys().copied().chain(self.awaiting.indices()).take(count).collect()
    }

    /// How its items stand, by those that are read.
    pub(crate) fn item_counts(&self) -> MapRunCounts {
        MapRunCounts {
            pending: self.unstarted.len() as u64,
            running: self.open_items,
            pending_redrive: self.parked_items + self.awaiting.items(),
            failures_not_redrivable: self.lost_items.total(),
            ..self.ended_items
        }
    }

    /// How its child executions stand. Those that will be started for the items that are read are pending.
    pub(crate) fn execution_counts(&self) -> MapRunCounts {
        let per_child = self.settings.batch.as_ref().and_then(|b| b.max_items).unwrap_or(1).max(1);
        let pending = (self.unstarted.len() as u64).div_ceil(per_child);
        MapRunCounts {
            pending,
            running: self.open.len() as u64,
            pending_redrive: self.to_redrive(),
            failures_not_redrivable: self.lost_children.total(),
            ..self.ended_children
        }
    }

    /// More items failed than are tolerated. A percentage can be told only when all items are read.
    pub(crate) fn exceeds_tolerance(&self) -> bool {
        let MapRunCounts { failed, timed_out, aborted, .. } = self.ended_items;
        let failed = failed + timed_out + aborted;
        let (count, percentage) =
            (self.settings.tolerated_failure_count, self.settings.tolerated_failure_percentage);
        if count == 0 && percentage == 0.0 {
            return failed > 0;
        }
        let too_many = count > 0 && failed > count;
        let too_much =
            percentage > 0.0 && self.is_exhausted() && failed as f64 * 100.0 > percentage * self.read as f64;
        too_many || too_much
    }

    /// The items of the next child execution after `skipped` items, as their number and size: as many as fit, or one at
    /// least. `None`: there are too few to tell, and more will be read.
    pub(crate) fn next_size(&self, skipped: usize) -> Option<(u32, usize)> {
        let first = self.unstarted.get(skipped)?;
        let Some(batch) = &self.settings.batch else { return Some((1, first.len())) };
        let max_items = batch.max_items.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let around = batch.input.as_ref().map_or(0, |input| input.len() + r#""BatchInput":,"#.len());
        let max_bytes = batch.max_bytes.map_or(limits::PAYLOAD_BYTES_MAX, |max| {
            usize::try_from(max).unwrap_or(usize::MAX).min(limits::PAYLOAD_BYTES_MAX)
        });
        let mut bytes = around + r#"{"Items":[]}"#.len();
        let mut size = 0;
        for item in self.unstarted.range(skipped..).take(max_items.max(1)) {
            let more = item.len() + usize::from(size > 0);
            if size > 0 && bytes + more > max_bytes {
                return Some((size, bytes));
            }
            bytes += more;
            size += 1;
        }
        (size as usize >= max_items || self.is_exhausted()).then_some((size, bytes))
    }

    fn take_items(&mut self, size: u32) -> Result<Payload, String> {
        if size == 0 || self.unstarted.len() < size as usize {
            return Err("it has fewer items than that".to_owned());
        }
        let mut items = Vec::with_capacity(size as usize);
        for item in self.unstarted.drain(..size as usize) {
            self.unstarted_bytes -= item.len();
            items.push(item);
        }
        Ok(match &self.settings.batch {
            None => items.swap_remove(0),
            Some(batch) => batched(batch, &items),
        })
    }

    fn read_items(&mut self, items: &Payload, cursor: Option<&Payload>) -> Result<(), String> {
        let items: Vec<Payload> =
            items.read().map_err(|_| "what was read is no array of items".to_owned())?;
        self.read += items.len() as u64;
        self.unstarted_bytes += items.iter().map(Payload::len).sum::<usize>();
        self.unstarted.extend(items);
        self.source = cursor.map_or(Source::Exhausted, |cursor| Source::At(Some(cursor.clone())));
        Ok(())
    }

    fn end_child(&mut self, index: u64, end: ChildEnd, result: Option<&Payload>) -> Result<(), String> {
        let child = self.open.remove(&index).ok_or("no such child execution runs")?;
        self.open_bytes -= child.bytes();
        self.open_items -= u64::from(child.items);
        count(&mut self.ended_items, end, child.items.into());
        count(&mut self.ended_children, end, 1);
        if end != ChildEnd::Succeeded && !self.remember(index, &child) {
            count(&mut self.lost_items, end, child.items.into());
            count(&mut self.lost_children, end, 1);
        }
        let Some(result) = result.filter(|_| !self.overflowed) else { return Ok(()) };
        self.result_bytes += result.len();
        // One that failed before it was redriven has a result already.
        let before = self.results.insert(index, result.clone());
        self.result_bytes -= before.map_or(0, |before| before.len());
        // The brackets and commas between them count too.
        if self.result_bytes + self.results.len() + 1 > limits::PAYLOAD_BYTES_MAX {
            self.overflowed = true;
            self.results.clear();
            self.result_bytes = 0;
        }
        Ok(())
    }

    /// Keeps a child execution that ended without success for a redrive, if it can be kept.
    fn remember(&mut self, index: u64, child: &OpenChild) -> bool {
        let OpenChild { items, redrives, .. } = *child;
        let places = UNSUCCESSFUL_PLACES.saturating_sub(self.awaiting.places());
        !child.not_redrivable
            && self.unsuccessful.insert(UnsuccessfulChild { index, items, redrives }, places)
    }

    /// Whether a redrive goes on with it when it has failed so, as the service has it: what failed for its data fails
    /// again, and what never began is begun.
    fn outlives(&self, failure: &Failure) -> bool {
        let for_data = [error_names::DATA_LIMIT_EXCEEDED, error_names::RUNTIME];
        self.next_child > 0 && !failure.error.as_deref().is_some_and(|error| for_data.contains(&error))
    }

    /// It goes on: with what ran, what ended without success, and what has not been read or started.
    fn redrive(&mut self, at: Timestamp, times: u32) {
        (self.redrives, self.redriven_at) = (times, Some(at));
        (self.stage, self.paused) = (Stage::Processing, None);
        self.interrupt_reading();
        self.parked.append(&mut self.open);
        self.parked_bytes += std::mem::take(&mut self.open_bytes);
        self.parked_items += std::mem::take(&mut self.open_items);
        self.awaiting.append(std::mem::take(&mut self.unsuccessful));
        self.ended_items = MapRunCounts { succeeded: self.ended_items.succeeded, ..self.lost_items };
        self.ended_children = MapRunCounts { succeeded: self.ended_children.succeeded, ..self.lost_children };
    }

    /// What is being read is of no use any more; it can be read again.
    fn interrupt_reading(&mut self) {
        if let Source::Reading(cursor) = &mut self.source {
            self.source = Source::At(cursor.take());
        }
    }

    fn redrive_child(&mut self) -> Result<(), String> {
        let (index, child) = match self.parked.pop_first() {
            Some((index, child)) => {
                self.parked_bytes -= child.bytes();
                self.parked_items -= u64::from(child.items);
                (index, OpenChild { redrives: child.redrives.saturating_add(1), ..child })
            }
            None => {
                let UnsuccessfulChild { index, items, redrives } =
                    self.awaiting.pop_first().ok_or("no child execution waits to be redriven")?;
                (
                    index,
                    OpenChild {
                        items,
                        input: None,
                        redrives: redrives.saturating_add(1),
                        not_redrivable: false,
                    },
                )
            }
        };
        self.open_bytes += child.bytes();
        self.open_items += u64::from(child.items);
        self.open.insert(index, child);
        Ok(())
    }

    /// What must hold after every decision.
    pub(super) fn check(&self) -> bool {
        let sum = |items: &mut dyn Iterator<Item = &Payload>| items.map(Payload::len).sum::<usize>();
        let children = |children: &BTreeMap<u64, OpenChild>, bytes: usize, items: u64| {
            bytes == children.values().map(OpenChild::bytes).sum::<usize>()
                && items == children.values().map(|child| u64::from(child.items)).sum::<u64>()
        };
        self.unstarted_bytes == sum(&mut self.unstarted.iter())
            && children(&self.open, self.open_bytes, self.open_items)
            && children(&self.parked, self.parked_bytes, self.parked_items)
            && self.unsuccessful.check()
            && self.awaiting.check()
            && self.result_bytes == sum(&mut self.results.values())
            && self.item_counts().total() == self.read
            && self.ended_children.total() + self.open.len() as u64 + self.to_redrive() == self.next_child
            && match &self.stage {
                Stage::Processing => {
                    !self.open.is_empty()
                        || self.paused.is_some()
                        || matches!(self.source, Source::Reading(_))
                }
                Stage::Failing(_) => !self.open.is_empty(),
                Stage::Writing(_) => self.open.is_empty(),
            }
    }
}

fn count(counts: &mut MapRunCounts, end: ChildEnd, number: u64) {
    *match end {
        ChildEnd::Succeeded => &mut counts.succeeded,
        ChildEnd::Failed => &mut counts.failed,
        ChildEnd::TimedOut => &mut counts.timed_out,
        ChildEnd::Aborted => &mut counts.aborted,
    } += number;
}

/// `{"BatchInput": …, "Items": […]}`.
fn batched(batch: &Batching, items: &[Payload]) -> Payload {
    let mut text = String::from("{");
    if let Some(input) = &batch.input {
        text.push_str(r#""BatchInput":"#);
        text.push_str(input.as_str());
        text.push(',');
    }
    text.push_str(r#""Items":["#);
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        text.push_str(item.as_str());
    }
    text.push_str("]}");
    Payload::parse(&text).expect("an object of JSON documents is one")
}

impl Scope {
    pub(super) fn map_run(&self) -> Option<&MapRun> {
        match &self.current {
            Current::In(Step { phase: Phase::MapRun(run), .. }) => Some(run),
            _ => None,
        }
    }

    fn map_run_mut(&mut self) -> Result<&mut MapRun, String> {
        match &mut self.step_mut()?.phase {
            Phase::MapRun(run) => Ok(run),
            _ => Err("no Map Run is open in its scope".to_owned()),
        }
    }

    fn unfinished_map_run(&self) -> Option<&MapRun> {
        self.map_run().or(self.closed_map_run())
    }

    /// The Map Run that a redrive goes on with.
    pub(crate) fn closed_map_run(&self) -> Option<&MapRun> {
        match &self.current {
            Current::In(Step { phase: Phase::ClosedMapRun(run), .. }) => Some(run),
            _ => None,
        }
    }
}

impl Live {
    /// The Map Run that a scope waits for.
    pub(crate) fn map_run(&self, scope: ScopeId) -> Option<&MapRun> {
        self.scope(scope)?.map_run()
    }

    /// The scope that waits for the Map Run that an event began.
    pub(crate) fn scope_of_map_run(&self, started_id: u64) -> Option<ScopeId> {
        self.map_runs.get(&started_id).copied()
    }

    /// The scopes that wait for Map Runs, in the order in which these began.
    pub(crate) fn scopes_of_map_runs(&self) -> Vec<ScopeId> {
        self.map_runs.values().copied().collect()
    }

    /// Map Runs that are open, or were when the execution ended, with their scopes.
    pub(crate) fn unfinished_map_runs(&self) -> Vec<(ScopeId, &MapRun)> {
        self.scopes.iter().filter_map(|(id, scope)| Some((*id, scope.unfinished_map_run()?))).collect()
    }

    fn change_map_run<T>(
        &mut self,
        scope: ScopeId,
        change: impl FnOnce(&mut MapRun) -> Result<T, String>,
    ) -> Result<T, String> {
        self.change(scope, |s| change(s.map_run_mut()?))
    }

    /// A Map Run has ended. Is it kept, a redrive goes on with it, if its execution ends too.
    fn close_map_run(
        &mut self,
        scope: ScopeId,
        chain: u64,
        kept: impl FnOnce(&MapRun) -> bool,
    ) -> Result<(), String> {
        self.change(scope, |s| {
            s.chain = chain;
            let kept = kept(s.map_run_mut()?);
            let phase = &mut s.step_mut()?.phase;
            *phase = match std::mem::replace(phase, Phase::Deciding) {
                Phase::MapRun(run) if kept => Phase::ClosedMapRun(run),
                _ => Phase::Deciding,
            };
            Ok(())
        })
    }

    /// Applies an event of a Map Run.
    pub(super) fn apply_to_map_run(
        &mut self,
        definition: &StateMachine,
        event: &HistoryEvent,
    ) -> Result<(), String> {
        let HistoryEvent { id, scope, ref kind, at, .. } = *event;
        match kind {
            EventKind::MapRunStarted { arn, settings } => self.change(scope, |s| {
                s.chain = id;
                let step = s.step_mut()?;
                // Before Map Runs were redriven, a redrive began another one.
                if !matches!(step.phase, Phase::Deciding | Phase::Retrying(_) | Phase::ClosedMapRun(_)) {
                    return Err("its state waits for something else".to_owned());
                }
                if !super::is_distributed(definition, step.state()) {
                    return Err("its state is no distributed Map state".to_owned());
                }
                step.phase = Phase::MapRun(Box::new(MapRun::new(event, arn, settings)));
                Ok(())
            }),
            EventKind::MapRunRedriven { count, .. } => self.change(scope, |s| {
                s.chain = id;
                let step = s.step_mut()?;
                let Phase::ClosedMapRun(mut run) = std::mem::replace(&mut step.phase, Phase::Deciding) else {
                    return Err("its state has no Map Run that ended without success".to_owned());
                };
                run.redrive(at, *count);
                step.phase = Phase::MapRun(run);
                Ok(())
            }),
            EventKind::MapRunSucceeded => self.close_map_run(scope, id, |_| false),
            EventKind::MapRunFailed(failure) => self.close_map_run(scope, id, |run| run.outlives(failure)),
            EventKind::MapRunAborted => self.close_map_run(scope, id, |_| true),
            EventKind::MapItemsRequested => self.change_map_run(scope, |run| {
                let Source::At(cursor) = &run.source else {
                    return Err("there is nothing to read".to_owned());
                };
                run.source = Source::Reading(cursor.clone());
                run.windows += 1;
                Ok(())
            }),
            EventKind::MapItemsRead { items, cursor } => {
                self.change_map_run(scope, |run| run.read_items(items, cursor.as_ref()))
            }
            EventKind::MapChildrenStarted { sizes } => self.change_map_run(scope, |run| {
                run.paused = None;
                for size in sizes {
                    let input = run.take_items(*size)?;
                    run.open_bytes += input.len();
                    run.open_items += u64::from(*size);
                    let child =
                        OpenChild { items: *size, input: Some(input), redrives: 0, not_redrivable: false };
                    run.open.insert(run.next_child, child);
                    run.next_child += 1;
                }
                Ok(())
            }),
            EventKind::MapChildrenRedriven { count } => self.change_map_run(scope, |run| {
                run.paused = None;
                (0..*count).try_for_each(|_| run.redrive_child())
            }),
            EventKind::MapChildNotRedrivable { index } => self.change_map_run(scope, |run| {
                let child = run.open.get_mut(index).ok_or("no such child execution runs")?;
                child.not_redrivable = true;
                Ok(())
            }),
            EventKind::MapChildEnded { index, end, result } => {
                self.change_map_run(scope, |run| run.end_child(*index, *end, result.as_ref()))
            }
            EventKind::MapRunFailing(failure) => self.change_map_run(scope, |run| {
                run.stage = Stage::Failing(failure.clone());
                run.paused = None;
                run.interrupt_reading();
                Ok(())
            }),
            EventKind::MapResultsRequested => self.change_map_run(scope, |run| {
                let failure = match &run.stage {
                    Stage::Failing(failure) => Some(failure.clone()),
                    Stage::Processing => None,
                    Stage::Writing(_) => return Err("they are being written".to_owned()),
                };
                run.stage = Stage::Writing(failure);
                Ok(())
            }),
            EventKind::MapRunUpdated {
                max_concurrency,
                tolerated_failure_count,
                tolerated_failure_percentage,
            } => self.change_map_run(scope, |run| {
                let settings = &mut run.settings;
                settings.max_concurrency = max_concurrency.unwrap_or(settings.max_concurrency);
                settings.tolerated_failure_count =
                    tolerated_failure_count.unwrap_or(settings.tolerated_failure_count);
                settings.tolerated_failure_percentage =
                    tolerated_failure_percentage.unwrap_or(settings.tolerated_failure_percentage);
                Ok(())
            }),
            EventKind::MapPaused => self.change_map_run(scope, |run| {
                run.paused = Some(at);
                Ok(())
            }),
            _ => Err("it is no event of a Map Run".to_owned()),
        }
    }
}
