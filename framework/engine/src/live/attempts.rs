//! Open attempts, and how they are found.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use stagepost_protocol::{Payload, Timestamp};

use super::Lease;
use crate::history::{HistoryEvent, ScopeId};

/// An open attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// The event that scheduled it.
    pub(crate) scheduled_id: u64,
    /// The input of the activity or the parameters of the service.
    pub(crate) input: Payload,
    pub(crate) started: bool,
    /// The service has accepted the request; what is awaited now comes from somebody else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) submitted: bool,
    pub(crate) timeout_at: Option<Timestamp>,
    pub(crate) heartbeat_millis: Option<i64>,
    /// When the next heartbeat is missed; `None` as long as none is awaited.
    pub(crate) heartbeat_due: Option<Timestamp>,
    /// It ends with the next signal of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<Arc<str>>,
    /// Somebody who keeps no lease has begun it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) taken: bool,
    /// What stands for it, where that is a lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<Box<Lease>>,
    /// How often it was given back. Whoever speaks of a time before that speaks of what is over.
    #[serde(default)]
    pub(crate) returns: u32,
}

impl Attempt {
    /// The attempt that an event scheduled.
    pub(super) fn scheduled(
        event: &HistoryEvent,
        input: &Payload,
        timeout_seconds: Option<u64>,
        heartbeat_seconds: Option<u64>,
    ) -> Attempt {
        Attempt {
            scheduled_id: event.id,
            input: input.clone(),
            started: false,
            submitted: false,
            timeout_at: timeout_seconds.map(|s| event.at.plus_seconds_f64(s as f64)),
            heartbeat_millis: heartbeat_seconds
                .map(|s| i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1000)),
            heartbeat_due: None,
            signal: None,
            taken: false,
            lease: None,
            returns: 0,
        }
    }

    /// It was heard of: the next heartbeat is awaited from here.
    pub(super) fn alive(&mut self, at: Timestamp) {
        self.heartbeat_due = self.heartbeat_millis.map(|millis| at.plus_millis(millis));
    }
}

/// The scopes of open attempts. Found from the scopes, and kept beside them so that it is found fast.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Attempts {
    /// By the event that scheduled the attempt.
    by_event: HashMap<u64, ScopeId>,
    /// Those that wait for a signal: its name, the event that scheduled the attempt, the scope.
    waiting: BTreeSet<(Arc<str>, u64, ScopeId)>,
    /// Those that a worker has by a lease.
    held: BTreeSet<(Arc<str>, u64)>,
    /// Those of which it is not known who has them, by when that is over.
    doubted: BTreeSet<(Timestamp, u64)>,
}

impl Attempts {
    pub(super) fn insert(&mut self, attempt: &Attempt, scope: ScopeId) {
        self.by_event.insert(attempt.scheduled_id, scope);
        if let Some(name) = &attempt.signal {
            self.waiting.insert((Arc::clone(name), attempt.scheduled_id, scope));
        }
        let Some(lease) = &attempt.lease else { return };
        match &lease.holder {
            Some(holder) => drop(self.held.insert((Arc::clone(holder), attempt.scheduled_id))),
            None => drop(self.doubted.insert((lease.until(), attempt.scheduled_id))),
        }
    }

    pub(super) fn remove(&mut self, attempt: &Attempt, scope: ScopeId) {
        self.by_event.remove(&attempt.scheduled_id);
        if let Some(name) = &attempt.signal {
            self.waiting.remove(&(Arc::clone(name), attempt.scheduled_id, scope));
        }
        let Some(lease) = &attempt.lease else { return };
        match &lease.holder {
            Some(holder) => drop(self.held.remove(&(Arc::clone(holder), attempt.scheduled_id))),
            None => drop(self.doubted.remove(&(lease.until(), attempt.scheduled_id))),
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Attempts::default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_event.is_empty()
    }

    pub(super) fn scope(&self, event_id: u64) -> Option<ScopeId> {
        self.by_event.get(&event_id).copied()
    }

    /// With the events that scheduled them, in that order.
    pub(crate) fn in_order(&self) -> Vec<(u64, ScopeId)> {
        let mut open: Vec<_> = self.by_event.iter().map(|(event, scope)| (*event, *scope)).collect();
        open.sort_unstable();
        open
    }

    /// The scope that has waited longest for a signal of this name.
    pub(super) fn first_waiting(&self, name: &str) -> Option<ScopeId> {
        let first = self.waiting.range((Arc::from(name), 0, 0)..).next();
        first.filter(|(waiting, ..)| &**waiting == name).map(|(.., scope)| *scope)
    }

    /// The names of the signals that are waited for.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().map(|(name, ..)| &**name)
    }

    /// Those that a worker has.
    pub(crate) fn of(&self, holder: &Arc<str>) -> impl Iterator<Item = u64> {
        let first = (Arc::clone(holder), 0);
        self.held.range(first..).take_while(move |(other, _)| other == holder).map(|(_, event)| *event)
    }

    /// One of each worker that has some, then those in doubt, the earliest first.
    pub(crate) fn leased(&self) -> impl Iterator<Item = u64> {
        let mut next = self.held.first();
        let of_each = std::iter::from_fn(move || {
            let (holder, event) = next?;
            next = self.held.range((Arc::clone(holder), u64::MAX)..).next();
            Some(*event)
        });
        of_each.chain(self.doubted.iter().map(|(_, event)| *event))
    }
}
