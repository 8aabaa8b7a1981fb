//! What a schedule does at a moment.

use stagepost_protocol::{ExecutionArn, Timestamp};

use crate::{Overlap, Schedule, Times};

/// At most so many executions are started in one step: the next step is due at once.
const STARTS_MAX: usize = 100;
/// At most so many firings are looked at one by one in one step. If more were missed, those that cannot be made up for any
/// more are passed over, uncounted.
const FIRINGS_MAX: usize = 1_000;
/// So long it takes until it is looked again whether the execution before has ended.
const LOOK_MILLIS: i64 = 5_000;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the execution of the firing that was meant for this time.
    Start {
        /// The time.
        scheduled: Timestamp,
    },
    /// Stop an execution, before the next start.
    Stop {
        /// Which.
        execution: ExecutionArn,
    },
}

/// A step of a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    /// What is to be done, in order. Doing it again does nothing more.
    pub actions: Vec<Action>,
    /// The schedule when it is done.
    pub after: Schedule,
}

impl Schedule {
    /// What it does now. `running`: the execution that it started last has not ended (see
    /// [`Schedule::asks_for_running`]).
    pub fn advance(&self, name: &str, times: &Times, now: Timestamp, running: bool) -> Advance {
        let mut step = Step { name, times, now, running, actions: Vec::new(), after: self.clone() };
        step.start_waiting();
        step.fire();
        step.backfill();
        step.after.look_at = step.next_look();
        Advance { actions: step.actions, after: step.after }
    }
}

struct Step<'a> {
    name: &'a str,
    times: &'a Times,
    now: Timestamp,
    running: bool,
    actions: Vec<Action>,
    after: Schedule,
}

impl Step<'_> {
    fn start(&mut self, scheduled: Timestamp) {
        self.actions.push(Action::Start { scheduled });
        self.after.latest = Some(self.after.execution(self.name, scheduled));
        self.running = true;
    }

    fn start_waiting(&mut self) {
        if !self.running
            && let Some(scheduled) = self.after.waiting.take()
        {
            self.start(scheduled);
        }
    }

    /// The next firing, if it is due.
    fn due(&self) -> Option<Timestamp> {
        let next = self.after.next.filter(|_| !self.after.paused)?;
        (self.after.due(self.name, next) <= self.now).then_some(next)
    }

    fn fire(&mut self) {
        let catch_up = i64::from(self.after.settings.catch_up_seconds) * 1_000;
        for _ in 0..FIRINGS_MAX {
            let Some(scheduled) = self.due().filter(|_| self.actions.len() < STARTS_MAX) else { return };
            self.after.next = self.after.settings.next_after(self.times, scheduled);
            let late = self.now.millis_since(self.after.due(self.name, scheduled));
            // One that was about to start did not wait until now.
            if late > catch_up && !self.is_latest(scheduled) {
                self.after.counts.missed += 1;
            } else {
                self.fire_one(scheduled);
            }
        }
        // Whatever is earlier than this cannot be made up for, however far jitter moves it.
        let jitter = i64::from(self.after.settings.jitter_seconds) * 1_000;
        let worth = self.now.plus_millis(-catch_up - jitter - 1);
        if self.after.next.is_some_and(|next| next < worth) {
            self.after.next = self.after.settings.next_after(self.times, worth);
        }
    }

    fn is_latest(&self, scheduled: Timestamp) -> bool {
        self.after.latest.as_ref() == Some(&self.after.execution(self.name, scheduled))
    }

    fn fire_one(&mut self, scheduled: Timestamp) {
        match self.after.settings.overlap {
            Overlap::AllowAll => self.start(scheduled),
            // Somebody who died may have asked for its start, which may be to come: only what has started can be stopped.
            Overlap::CancelOther if self.is_latest(scheduled) => self.start(scheduled),
            // The next one would stop it at once.
            Overlap::CancelOther if self.due().is_some() => self.after.counts.skipped += 1,
            Overlap::CancelOther => {
                if let Some(execution) = self.after.latest.clone().filter(|_| self.running) {
                    self.actions.push(Action::Stop { execution });
                }
                self.start(scheduled);
            }
            // What runs may be this very one, started by somebody who died before he had stored that.
            Overlap::Skip | Overlap::BufferOne if !self.running || self.is_latest(scheduled) => {
                self.start(scheduled);
            }
            Overlap::BufferOne if self.after.waiting.is_none() => self.after.waiting = Some(scheduled),
            Overlap::Skip | Overlap::BufferOne => self.after.counts.skipped += 1,
        }
    }

    /// Makes up for past times: all of them at once where executions may overlap, else one after the other.
    fn backfill(&mut self) {
        let overlaps = self.after.settings.overlap == Overlap::AllowAll;
        while self.actions.len() < STARTS_MAX
            && (overlaps || !self.running)
            && let Some(backfill) = self.after.backfills.front_mut()
        {
            let next = self.after.settings.next_after(self.times, backfill.from.plus_millis(-1));
            match next.filter(|at| *at <= backfill.to) {
                Some(scheduled) => {
                    backfill.from = scheduled.plus_millis(1);
                    self.start(scheduled);
                }
                None => drop(self.after.backfills.pop_front()),
            }
        }
    }

    /// When what waits for an end, or for a place among the starts, is looked at again.
    fn next_look(&self) -> Option<Timestamp> {
        let after = &self.after;
        if after.waiting.is_none() && after.backfills.is_empty() {
            return None;
        }
        let waits = after.settings.overlap != Overlap::AllowAll;
        Some(self.now.plus_millis(if waits { LOOK_MILLIS } else { 0 }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Backfill, BackfillError, Fired, Outcome, settings::tests::settings};

    const NAME: &str = "s";
    const MINUTE: i64 = 60_000;

    fn at(minute: i64) -> Timestamp {
        // A midnight.
        Timestamp::from_millis(1_795_737_600_000 + minute * MINUTE)
    }

    /// A schedule under virtual time: executions run until they are ended.
    struct World {
        schedule: Schedule,
        times: Times,
        running: Vec<(ExecutionArn, i64)>,
        /// The minutes that executions were started for, and those that were stopped, as `-minute`.
        done: Vec<i64>,
    }

    impl World {
        fn new(expression: &str, change: impl FnOnce(&mut crate::Settings)) -> World {
            let mut settings = settings(expression);
            change(&mut settings);
            let schedule = Schedule::new(NAME, settings, at(0)).unwrap();
            let times = schedule.settings.times().unwrap();
            World { schedule, times, running: Vec::new(), done: Vec::new() }
        }

        fn look(&mut self, now: Timestamp) {
            let runs = |arn: &ExecutionArn| self.running.iter().any(|(running, _)| running == arn);
            let running = self.schedule.asks_for_running().is_some_and(runs);
            let Advance { actions, mut after } = self.schedule.advance(NAME, &self.times, now, running);
            for action in actions {
                match action {
                    Action::Start { scheduled } => {
                        let execution = after.execution(NAME, scheduled);
                        let minute = scheduled.millis_since(at(0)) / MINUTE;
                        self.done.push(minute);
                        after.note(Fired {
                            scheduled,
                            at: now,
                            outcome: Outcome::Started(execution.clone()),
                        });
                        // What is started twice is one.
                        if !self.running.iter().any(|(running, _)| *running == execution) {
                            self.running.push((execution, minute));
                        }
                    }
                    Action::Stop { execution } => {
                        let place = self.running.iter().position(|(running, _)| *running == execution);
                        let (_, minute) = self.running.remove(place.unwrap());
                        self.done.push(-minute);
                    }
                }
            }
            self.schedule = after;
        }

        /// Looks whenever it is due, up to a minute.
        fn until(&mut self, minute: i64) -> &mut World {
            for _ in 0..10_000 {
                match self.schedule.due_at(NAME).filter(|due| *due <= at(minute)) {
                    Some(due) => self.look(due),
                    None => return self,
                }
            }
            panic!("it is always due: {:?}", self.schedule);
        }

        fn end_all(&mut self) -> &mut World {
            self.running.clear();
            self
        }

        fn done(&mut self) -> Vec<i64> {
            std::mem::take(&mut self.done)
        }
    }

    fn overlapping(overlap: Overlap) -> World {
        World::new("*/10 * * * *", |settings| settings.overlap = overlap)
    }

    #[test]
    fn each_overlap_policy_does_what_its_name_says() {
        let mut world = overlapping(Overlap::AllowAll);
        assert_eq!(world.until(30).done(), [10, 20, 30]);

        let mut world = overlapping(Overlap::Skip);
        assert_eq!(world.until(30).done(), [10]);
        assert_eq!(world.end_all().until(50).done(), [40]);
        assert_eq!(world.schedule.counts.skipped, 3);

        let mut world = overlapping(Overlap::BufferOne);
        assert_eq!(world.until(40).done(), [10]);
        assert_eq!(world.schedule.waiting, Some(at(20)));
        // It starts within seconds of the end.
        assert_eq!(world.end_all().until(41).done(), [20]);
        assert_eq!((world.schedule.waiting, world.schedule.counts.skipped), (None, 2));
        assert_eq!(world.end_all().until(60).done(), [50]);

        let mut world = overlapping(Overlap::CancelOther);
        assert_eq!(world.until(30).done(), [10, -10, 20, -20, 30]);
        assert_eq!(world.end_all().until(40).done(), [40]);
    }

    #[test]
    fn firings_that_were_missed_are_made_up_for_within_the_window() {
        let down = |overlap, from: i64, to: i64| {
            let mut world = World::new("*/10 * * * *", |settings| settings.overlap = overlap);
            world.until(from).done();
            world.look(at(to));
            (world.done(), world.schedule.counts)
        };
        // An hour is the window.
        let (done, counts) = down(Overlap::AllowAll, 0, 90);
        assert_eq!((done, counts.missed), (vec![30, 40, 50, 60, 70, 80, 90], 2));
        let (done, counts) = down(Overlap::Skip, 0, 90);
        assert_eq!((done, counts.missed, counts.skipped), (vec![30], 2, 6));
        let (done, _) = down(Overlap::BufferOne, 0, 90);
        assert_eq!(done, [30]);
        let (done, counts) = down(Overlap::CancelOther, 0, 90);
        assert_eq!((done, counts.skipped), (vec![90], 6));
        let (done, _) = down(Overlap::CancelOther, 10, 90);
        assert_eq!(done, [-10, 90]);
    }

    #[test]
    fn what_was_about_to_start_when_somebody_died_is_known_to_the_next_one() {
        for (overlap, done, running) in [
            (Overlap::Skip, vec![10, 10], 10),
            (Overlap::BufferOne, vec![10, 10], 10),
            (Overlap::CancelOther, vec![10, 10, -10, 20], 20),
        ] {
            let mut world = overlapping(overlap);
            let before = world.schedule.about_to_start(NAME, at(10)).unwrap();
            world.look(at(10));
            world.schedule = before;
            world.look(at(20));
            assert_eq!(world.done(), done, "{overlap:?}");
            assert!(matches!(world.running[..], [(_, minute)] if minute == running), "{overlap:?}");
        }
        assert_eq!(overlapping(Overlap::AllowAll).schedule.about_to_start(NAME, at(10)), None);
    }

    #[test]
    fn a_long_time_that_was_missed_is_passed_over_at_once() {
        let mut world = World::new("* * * * * *", |settings| settings.catch_up_seconds = 5);
        let year = 365 * 24 * 60;
        world.look(at(year));
        assert_eq!(world.schedule.counts.missed, FIRINGS_MAX as u64);
        assert!(world.schedule.actions_at(at(year)).len() >= 5);
        assert!(world.schedule.next.unwrap() >= at(year).plus_millis(-6_000));
    }

    impl Schedule {
        fn actions_at(&self, now: Timestamp) -> Vec<Action> {
            self.advance(NAME, &self.settings.times().unwrap(), now, false).actions
        }
    }

    #[test]
    fn starts_come_in_steps_of_a_hundred() {
        let mut world = World::new("* * * * *", |settings| settings.catch_up_seconds = 24 * 3_600);
        world.look(at(250));
        assert_eq!(world.done().len(), STARTS_MAX);
        assert!(world.schedule.due_at(NAME).unwrap() <= at(250));
        world.look(at(250));
        world.look(at(250));
        assert_eq!(world.done().len(), 150);
        assert_eq!(world.schedule.due_at(NAME), Some(at(251)));
    }

    #[test]
    fn past_times_are_made_up_for_on_request_one_after_the_other_where_they_must_not_overlap() {
        let backfill = || Backfill { from: at(-30), to: at(-10) };
        let mut world = overlapping(Overlap::AllowAll);
        world.schedule.pause(at(0));
        world.schedule.backfill(backfill(), at(0)).unwrap();
        assert_eq!(world.until(30).done(), [-30, -20, -10]);
        assert_eq!((world.schedule.status(), world.schedule.due_at(NAME)), ("PAUSED", None));

        let mut world = overlapping(Overlap::Skip);
        world.schedule.backfill(backfill(), at(0)).unwrap();
        assert_eq!(world.until(1).done(), [-30]);
        assert_eq!(world.until(2).done(), [0; 0]);
        assert_eq!(world.end_all().until(3).done(), [-20]);
        assert_eq!(world.until(9).end_all().until(10).done()[0], -10);
        assert_eq!(world.end_all().until(20).done(), [20]);
        assert_eq!(world.schedule.backfills.len(), 0);

        let mut schedule = world.schedule;
        let mut refused = |from, to| schedule.backfill(Backfill { from, to }, at(0)).unwrap_err();
        assert!(matches!(refused(at(-1), at(-2)), BackfillError::Order { .. }));
        assert!(matches!(refused(at(-1), at(1)), BackfillError::Future(_)));
    }

    #[test]
    fn a_pause_leaves_out_what_would_have_fired() {
        let mut world = overlapping(Overlap::AllowAll);
        world.until(10);
        world.schedule.pause(at(11));
        assert_eq!(world.schedule.due_at(NAME), None);
        let times = world.times.clone();
        world.schedule.resume(&times, at(35));
        assert_eq!(world.until(50).done(), [10, 40, 50]);
    }

    #[test]
    fn jitter_moves_firings_and_keeps_their_order() {
        let mut world = World::new("* * * * *", |settings| settings.jitter_seconds = 600);
        let due = world.schedule.due_at(NAME).unwrap();
        assert!(due > at(1) && due <= at(11), "{due}");
        let done = world.until(120).done();
        assert!(done.len() >= 109, "{done:?}");
        assert!(done.iter().copied().eq(1..=done.len() as i64), "{done:?}");
    }

    #[test]
    fn a_schedule_ends_with_its_last_firing() {
        let mut world = World::new("*/10 * * * *", |settings| settings.ends_at = Some(at(25)));
        assert_eq!(world.until(100).done(), [10, 20]);
        assert_eq!((world.schedule.status(), world.schedule.due_at(NAME)), ("ENDED", None));
    }

    #[test]
    fn it_is_stored_and_read() {
        let mut world = overlapping(Overlap::BufferOne);
        world.schedule.backfill(Backfill { from: at(-30), to: at(-10) }, at(0)).unwrap();
        world.until(20);
        let text = serde_json::to_string(&world.schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), world.schedule);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Goal: whoever looks when, nothing is started twice, nothing runs beside another where it must not, each firing
        /// within the window comes to something, and the schedule is due again when there is something to do.
        #[test]
        fn every_firing_comes_to_something_and_to_one_thing(
            overlap in 0..4_usize,
            looks in prop::collection::vec((0..40_i64, prop::bool::weighted(0.4), prop::bool::weighted(0.2)), 1..30),
        ) {
            let overlap = Overlap::ALL[overlap];
            let mut world = World::new("*/10 * * * *", |settings| {
                settings.overlap = overlap;
                settings.catch_up_seconds = 366 * 24 * 3_600;
            });
            let mut now = 0;
            for (later, ends, died) in looks {
                now += later;
                if ends {
                    world.end_all();
                }
                let before = world.schedule.clone();
                world.look(at(now));
                if died {
                    // It was done and not stored: whoever does it again starts the same executions.
                    let (done, running) = (world.done.clone(), world.running.clone());
                    world.schedule = before;
                    world.look(at(now));
                    prop_assert!(world.done[done.len()..].iter().all(|minute| done.contains(minute)));
                    (world.done, world.running) = (done, running);
                }
                if overlap != Overlap::AllowAll {
                    prop_assert!(world.running.len() <= 1, "{:?}", world.running);
                }
                prop_assert!(world.schedule.due_at(NAME).unwrap() > at(now));
            }
            let started: Vec<i64> = world.done.iter().copied().filter(|minute| *minute > 0).collect();
            let mut unique = started.clone();
            unique.dedup();
            prop_assert_eq!(&unique, &started);
            let counts = world.schedule.counts;
            let waiting = u64::from(world.schedule.waiting.is_some());
            prop_assert_eq!(started.len() as u64 + counts.skipped + waiting, (now / 10) as u64);
            prop_assert_eq!((counts.started, counts.missed), (started.len() as u64, 0));
        }
    }
}
