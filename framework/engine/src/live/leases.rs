//! Who has an attempt, and how events change that.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stagepost_protocol::{Timestamp, claim::certainly_over_after};

use super::{Attempt, Attempts, Live};
use crate::history::{EventKind, HistoryEvent};

/// A worker has an attempt as long as it is heard of; or it is not known who has it, if anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) holder: Option<Arc<str>>,
    /// The name that histories show.
    pub(crate) worker: Option<Arc<str>>,
    /// When this was noted.
    pub(crate) since: Timestamp,
    /// How long the holder may be silent.
    pub(crate) millis: u64,
    /// When the lease is over another worker gets the attempt. If not, it ends.
    pub(crate) again: bool,
}

impl Lease {
    /// When it is over if the holder is not heard of.
    pub(super) fn until(&self) -> Timestamp {
        self.since.plus_millis(certainly_over_after(self.millis))
    }
}

impl Attempt {
    /// The worker that has it by a lease.
    pub(crate) fn holder(&self) -> Option<&Arc<str>> {
        self.lease.as_ref()?.holder.as_ref()
    }

    /// Somebody has it, or may have it, so nobody else is given it.
    pub(crate) fn is_held(&self) -> bool {
        self.taken || self.lease.is_some()
    }

    /// Somebody has begun it, by this event.
    pub(super) fn start(&mut self, event: &HistoryEvent) {
        self.started = true;
        // A call is said to have started when it is scheduled, by nobody yet.
        if matches!(event.kind, EventKind::ActivityStarted { .. }) {
            self.lease.take_if(|lease| lease.holder.is_none());
            self.taken = self.lease.is_none();
        }
        // The service counts heartbeats from here, not from the scheduling.
        self.alive(event.at);
    }

    /// Its request was accepted: the worker has done its part.
    pub(super) fn submit(&mut self) {
        self.submitted = true;
        self.lease = None;
    }
}

impl Live {
    /// The open attempts.
    pub(crate) fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// An open attempt.
    pub(crate) fn attempt(&self, event_id: u64) -> Option<&Attempt> {
        self.scope(self.attempts.scope(event_id)?)?.attempt()
    }

    pub(super) fn apply_lease(&mut self, event: &HistoryEvent) -> Result<(), String> {
        let (lease, returns) = match &event.kind {
            EventKind::AttemptLeased { holder, worker, millis, again } => {
                let (holder, worker) = (holder.clone(), worker.clone());
                let lease = Lease { holder, worker, since: event.at, millis: *millis, again: *again };
                (Some(Box::new(lease)), 0)
            }
            EventKind::AttemptReleased { .. } => (None, 1),
            _ => return Err("it is no event of a lease".to_owned()),
        };
        self.change(event.scope, |s| {
            let attempt = s.attempt_mut()?;
            attempt.taken = false;
            attempt.lease = lease;
            attempt.returns += returns;
            Ok(())
        })
    }
}
