//! A schedule as it is kept: its settings, and how far it has come.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use stagepost_protocol::{ExecutionArn, Timestamp};

use crate::{
    settings::{Overlap, Settings, SettingsError, execution_name},
    times::Times,
};

/// So many of the newest firings are kept for people to look at.
const RECENT_MAX: usize = 10;
/// So many backfills may wait.
pub(crate) const BACKFILLS_MAX: usize = 10;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// What it is told to do.
    pub settings: Settings,
    /// When it was created.
    pub created_at: Timestamp,
    /// When somebody changed it last.
    pub updated_at: Timestamp,
    /// It fires nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The time of the next firing, without jitter.
    pub next: Option<Timestamp>,
    /// A firing that waits for the end of the execution before ([`Overlap::BufferOne`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Timestamp>,
    /// Times that are still to be made up for, oldest request first.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub backfills: VecDeque<Backfill>,
    /// When what waits and what is to be made up for is looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) look_at: Option<Timestamp>,
    /// The execution that was started last, or is about to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<ExecutionArn>,
    /// What has become of its firings.
    #[serde(default)]
    pub counts: Counts,
    /// The newest firings, newest last.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub recent: VecDeque<Fired>,
}

/// Times from which and up to which firings are to be made up for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// The first time that is not made up for yet may be this one.
    pub from: Timestamp,
    /// The last time may be this one.
    pub to: Timestamp,
}

/// How many firings came to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// An execution was started.
    pub started: u64,
    /// They were left out since another execution ran.
    pub skipped: u64,
    /// They could not happen in time, and their catch-up window was over.
    pub missed: u64,
    /// The execution could not be started.
    pub failed: u64,
}

/// A firing that started an execution, or should have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fired {
    /// The time that it was meant for.
    pub scheduled: Timestamp,
    /// When it happened.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a firing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// This execution was started.
    Started(ExecutionArn),
    /// None could be started; the text says why.
    Failed(String),
}

/// Why times cannot be made up for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackfillError {
    /// The last time is before the first.
    #[error("the backfill ends at {to}, before it begins at {from}")]
    Order {
        /// The first.
        from: Timestamp,
        /// The last.
        to: Timestamp,
    },
    /// They are not over yet.
    #[error("the backfill ends at {0}, which is to come: what is to come fires by itself")]
    Future(Timestamp),
    /// Too many wait already.
    #[error("{BACKFILLS_MAX} backfills wait already: let them come to their ends")]
    TooMany,
}

impl Schedule {
    /// A new schedule.
    ///
    /// # Errors
    /// What is wrong with its settings.
    pub fn new(name: &str, settings: Settings, now: Timestamp) -> Result<Schedule, SettingsError> {
        let times = settings.check(name, now)?;
        let next = settings.next_after(&times, now);
        Ok(Schedule {
            settings,
            created_at: now,
            updated_at: now,
            paused: false,
            next,
            waiting: None,
            backfills: VecDeque::new(),
            look_at: None,
            latest: None,
            counts: Counts::default(),
            recent: VecDeque::new(),
        })
    }

    /// Gives it other settings. What it has done is kept; what it was about to do is planned anew.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn update(&mut self, name: &str, settings: Settings, now: Timestamp) -> Result<(), SettingsError> {
        let times = settings.check(name, now)?;
        self.next = settings.next_after(&times, now);
        self.settings = settings;
        self.waiting = None;
        self.updated_at = now;
        Ok(())
    }

    /// Stops it from firing.
    pub fn pause(&mut self, now: Timestamp) {
        (self.paused, self.waiting, self.updated_at) = (true, None, now);
    }

    /// Lets it fire again, from now on: what would have fired meanwhile is not made up for.
    pub fn resume(&mut self, times: &Times, now: Timestamp) {
        (self.paused, self.updated_at) = (false, now);
        self.next = self.settings.next_after(times, now);
    }

    /// Lets it make up for past times.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn backfill(&mut self, backfill: Backfill, now: Timestamp) -> Result<(), BackfillError> {
        let Backfill { from, to } = backfill;
        if to < from {
            return Err(BackfillError::Order { from, to });
        }
        if to > now {
            return Err(BackfillError::Future(to));
        }
        if self.backfills.len() >= BACKFILLS_MAX {
            return Err(BackfillError::TooMany);
        }
        self.backfills.push_back(backfill);
        (self.look_at, self.updated_at) = (Some(now), now);
        Ok(())
    }

    /// When somebody must look at it; `None`: never, unless it is changed.
    pub fn due_at(&self, name: &str) -> Option<Timestamp> {
        let next = self.next.filter(|_| !self.paused).map(|next| self.due(name, next));
        next.into_iter().chain(self.look_at).min()
    }

    /// When a firing happens: its time, moved by jitter.
    pub(crate) fn due(&self, name: &str, scheduled: Timestamp) -> Timestamp {
        scheduled.plus_millis(self.settings.jitter_millis(name, scheduled))
    }

    /// The execution that a firing starts: the same one, however often it is tried.
    pub fn execution(&self, name: &str, scheduled: Timestamp) -> ExecutionArn {
        self.settings.state_machine.execution(&execution_name(name, scheduled))
    }

    /// As it is stored before the execution of a firing is started where another one must not run beside it: whoever
    /// takes over then looks whether that one runs. `None`: nobody need know.
    pub fn about_to_start(&self, name: &str, scheduled: Timestamp) -> Option<Schedule> {
        let latest = Some(self.execution(name, scheduled));
        (self.settings.overlap != Overlap::AllowAll).then(|| Schedule { latest, ..self.clone() })
    }

    /// Whether [`Schedule::advance`] must know if the execution before still runs.
    pub fn asks_for_running(&self) -> Option<&ExecutionArn> {
        self.latest.as_ref().filter(|_| self.settings.overlap != Overlap::AllowAll)
    }

    /// Notes what came of a firing.
    pub fn note(&mut self, fired: Fired) {
        match &fired.outcome {
            Outcome::Started(_) => self.counts.started += 1,
            Outcome::Failed(_) => self.counts.failed += 1,
        }
        self.recent.push_back(fired);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    /// `ACTIVE`, `PAUSED`, or `ENDED` where nothing will fire any more.
    pub fn status(&self) -> &'static str {
        match (self.paused, self.next, self.look_at) {
            (true, ..) => "PAUSED",
            (false, None, None) => "ENDED",
            (false, ..) => "ACTIVE",
        }
    }
}
