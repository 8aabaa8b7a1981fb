//! Answers that came too late: token messages whose attempt had ended. One that repeats the answer which ended it, because
//! a message was delivered twice or somebody asked twice, is no news; any other one goes to the dead letters.

use stagepost_engine::history::{self, Repetition};
use stagepost_protocol::{ExecutionId, Message, ReportOutcome};

use crate::pipeline::{Backoff, Shared, await_store};

/// Rows of a history, and bytes, that are looked at together.
const ROWS: usize = 64;
const BYTES: usize = 1024 * 1024;
/// So many times as many are looked at for the end of an attempt, at the most.
const LOOKS_MAX: usize = 64;

/// An answer that came too late.
pub(crate) struct Late {
    pub(crate) execution: ExecutionId,
    /// The event that scheduled the attempt.
    pub(crate) attempt: u64,
    pub(crate) outcome: ReportOutcome,
    /// What it is among the dead letters.
    pub(crate) letter: Message,
}

impl Late {
    /// Whether the attempt ended with this very answer. All that is known about it is committed. A history that cannot be
    /// read, or is very long, leaves that open: `false`.
    pub(crate) async fn is_repetition(&self, shared: &Shared) -> bool {
        let mut repetition = Repetition::new(self.attempt, &self.outcome);
        let mut from = self.attempt;
        let mut backoff = Backoff::new();
        let mut looks = 0;
        while looks < LOOKS_MAX {
            let rows = match shared.store.history(self.execution, from, false, ROWS, BYTES).await {
                Ok(rows) => rows,
                Err(error @ stagepost_store::Error::Unavailable(_)) => {
                    tracing::warn!(%error, "a history could not be read; trying again");
                    backoff.wait().await;
                    await_store(shared).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, execution = %self.execution, "a history could not be read");
                    return false;
                }
            };
            let Some(last) = rows.last().map(|row| row.last_event_id) else { return false };
            for row in &rows {
                let Ok(events) = history::decode(&row.payload) else { return false };
                if let Some(same) = events.iter().find_map(|event| repetition.look(event)) {
                    return same;
                }
            }
            from = last + 1;
            looks += 1;
        }
        false
    }
}
