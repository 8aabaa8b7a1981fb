//! The pure part of schedules: when one fires, what it starts then, and what it does about executions that overlap and
//! times that were missed. No clock, no IO: the time comes in with the question.
//!
//! ```text
//! expression + zone ─► Times ── next_after ──┐
//!                                            ▼
//! Schedule (a record in the store) ──► advance(now, running) ──► Actions, and the Schedule after them
//! ```
//!
//! The API keeps schedules, the coordinator carries the actions out and then stores the schedule that comes after them.
//! The execution of a firing is named after the schedule and the time that it was meant for, so whoever carries an action
//! out again starts nothing twice.

mod advance;
mod cron;
mod settings;
mod state;
mod times;

pub use advance::{Action, Advance};
pub use cron::CronError;
pub use settings::{Overlap, Settings, SettingsError};
pub use state::{Backfill, BackfillError, Counts, Fired, Outcome, Schedule};
pub use times::{Times, TimesError};

/// The kind of the records that schedules are kept as.
pub const RECORD_KIND: &str = "schedule";
