//! A schedule that fires every few seconds until its end, whoever of the coordinators lives then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use stagepost_protocol::{Namespace, Payload, Timestamp};
use stagepost_schedule::{Counts, Overlap, RECORD_KIND, Schedule, Settings};
use stagepost_store::Record;

use crate::{
    check,
    store::tables::Tables,
    workflow::{self, Simple},
    world::World,
};

/// What a schedule is called.
const NAME: &str = "report";
/// A firing that was missed is made up for: longer than a simulation takes, or hardly ever.
const CATCH_UP_SECONDS: [u32; 3] = [3_600, 3_600, 8];

/// A schedule, and when it must fire.
pub(crate) struct Scheduled {
    machine: Simple,
    settings: Settings,
    times: Vec<Timestamp>,
    /// It is created so long after the beginning, before it fires for the first time.
    created_after: Duration,
}

/// Makes up a schedule, or none.
pub(crate) fn draw(world: &World) -> Option<Arc<Scheduled>> {
    let rng = &world.rng;
    if !rng.one_in(4) {
        return None;
    }
    let machine = workflow::simple(rng, "reports".to_owned());
    let seconds = 1 + rng.below(6);
    // Counted from the full minute at which simulations begin, as a pattern counts; a rate counts from its start.
    let first = seconds * (2 + rng.below(6));
    let firings = 1 + rng.below(12);
    let after = |seconds: u64| world.now().plus_millis(i64::try_from(seconds * 1_000).unwrap_or(i64::MAX));
    let settings = Settings {
        expression: match rng.one_in(2) {
            true => format!("rate({seconds} {})", if seconds == 1 { "second" } else { "seconds" }),
            false => format!("*/{seconds} * * * * *"),
        },
        time_zone: "UTC".to_owned(),
        state_machine: workflow::arn(&machine.name),
        input: Payload::from_value(&json!("<aws.scheduler.scheduled-time>")),
        overlap: match rng.one_in(2) {
            true => Overlap::AllowAll,
            false => rng.one_of(&Overlap::ALL),
        },
        jitter_seconds: rng.one_of(&[0, 0, 3]),
        catch_up_seconds: rng.one_of(&CATCH_UP_SECONDS),
        starts_at: Some(after(first)),
        ends_at: Some(after(first + seconds * firings - 1)),
    };
    let times = (0..firings).map(|n| after(first + seconds * n)).collect();
    let created_after = world.up_to(Duration::from_secs(first - 1));
    Some(Arc::new(Scheduled { machine, settings, times, created_after }))
}

impl Scheduled {
    /// Creates it, as the API does.
    pub(crate) async fn create(self: Arc<Scheduled>, world: Arc<World>) {
        self.machine.create(&world);
        tokio::time::sleep(self.created_after).await;
        let schedule = match Schedule::new(NAME, self.settings.clone(), world.now()) {
            Ok(schedule) => schedule,
            Err(error) => return world.violate(format!("a schedule is not accepted: {error}")),
        };
        let record = Record {
            kind: RECORD_KIND.to_owned(),
            namespace: Namespace::default(),
            key: NAME.to_owned(),
            label: schedule.status().to_owned(),
            due_at: schedule.due_at(NAME),
            version: 0,
            body: Payload::from_serialize(&schedule)
                .expect("a schedule has no maps and so always serialises"),
        };
        if !world.tables().put_record(record) {
            world.violate("there is a schedule already");
        }
        world.note("operator", format!("creates a schedule: {}", self.settings.expression));
    }

    /// Checks that each firing has started one execution, unless it was missed for too long, or another one ran that it
    /// must not run beside.
    pub(crate) fn check(&self, world: &World, tables: &Tables) -> Result<(), String> {
        let place = (RECORD_KIND.to_owned(), Namespace::default(), NAME.to_owned());
        let record = tables.records.get(&place).ok_or("the schedule is gone")?;
        let schedule: Schedule = record.body.read().map_err(|error| format!("the schedule: {error}"))?;
        if schedule.status() != "ENDED" {
            return Err(format!("the schedule is {}: {schedule:?}", schedule.status()));
        }
        let of_it =
            tables.executions.values().filter(|row| row.summary.state_machine == self.settings.state_machine);
        let mut started: BTreeMap<&str, _> =
            of_it.map(|row| (row.summary.arn.name.as_str(), &row.summary)).collect();
        let (mut found, firings) = (Vec::new(), self.times.len() as u64);
        for time in &self.times {
            let text = time.to_string();
            let second = text.split('.').next().unwrap_or_default().trim_end_matches('Z');
            let name = format!("{NAME}-{}Z", second.replace(['-', ':'], ""));
            let Some(summary) = started.remove(name.as_str()) else { continue };
            let input = json!(format!("{second}Z"));
            if summary.input.to_value() != input {
                return Err(format!(
                    "{} was started with {} and not with {input}",
                    summary.arn,
                    summary.input.as_str()
                ));
            }
            let cancels = self.settings.overlap == Overlap::CancelOther;
            if !cancels || summary.error.as_deref() != Some("Stagepost.ScheduleOverlap") {
                check::succeeded(summary, &self.machine.output(&input))?;
            }
            found.push(summary);
        }
        if let Some((name, _)) = started.pop_first() {
            return Err(format!("the schedule has started {name} at no time of its own"));
        }
        let Counts { started, skipped, missed, failed } = schedule.counts;
        let (makes_up, overlaps) = (
            self.settings.catch_up_seconds == CATCH_UP_SECONDS[0],
            self.settings.overlap == Overlap::AllowAll,
        );
        // One that was started before its coordinator died may count as missed when the next one comes to it.
        let right = started + skipped + missed == firings
            && started <= found.len() as u64
            && failed == 0
            && (skipped == 0 || !overlaps)
            && (missed == 0 || !makes_up);
        if !right {
            let (found, counts) = (found.len(), schedule.counts);
            return Err(format!("of {firings} firings {found} have started executions, and are {counts:?}"));
        }
        // By clocks that differ nobody can tell.
        if !overlaps && world.faults.skew.is_zero() {
            found.sort_by_key(|summary| summary.started_at);
            let beside =
                found.windows(2).find(|two| two[0].stopped_at.is_none_or(|at| at > two[1].started_at));
            if let Some([one, other]) = beside {
                return Err(format!("{} and {} ran at the same time", one.arn, other.arn));
            }
        }
        Ok(())
    }
}

/// Says whether a schedule has something to do yet.
pub(crate) fn unfinished(tables: &Tables) -> Option<String> {
    let due = tables.records.values().find(|record| record.kind == RECORD_KIND && record.due_at.is_some());
    due.map(|record| format!("the schedule {} is due at {:?}", record.key, record.due_at))
}
