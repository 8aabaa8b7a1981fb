//! The signals that an execution has received and no state has taken, in the order in which they came.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};
use stagepost_protocol::{Payload, limits};

use super::Live;
use crate::history::{EventKind, HistoryEvent, ScopeId};

/// About what a signal takes in memory besides its input.
const SIGNAL_BYTES: usize = 128;

/// What is kept of signals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Signals {
    kept: VecDeque<Kept>,
    /// What the inputs of `kept` weigh.
    kept_bytes: usize,
    /// The ids of the newest signals, taken or not, so that a repetition is known.
    seen: VecDeque<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    name: Arc<str>,
    input: Payload,
}

impl Signals {
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.seen.is_empty()
    }

    /// About their size in memory. Cheap.
    pub(super) fn bytes(&self) -> usize {
        self.kept_bytes + SIGNAL_BYTES * (self.kept.len() + self.seen.len())
    }

    /// Whether a signal of this id has come before, as far as that is remembered.
    pub(crate) fn has_seen(&self, id: &str) -> bool {
        self.seen.iter().any(|seen| &**seen == id)
    }

    /// Whether one more can be kept.
    pub(crate) fn has_room_for(&self, input: &Payload) -> bool {
        self.kept.len() < limits::SIGNALS_KEPT_MAX
            && self.kept_bytes + input.len() <= limits::SIGNALS_KEPT_BYTES_MAX
    }

    /// What the oldest signal of this name brought.
    pub(crate) fn first(&self, name: &str) -> Option<&Payload> {
        self.kept.iter().find(|kept| &*kept.name == name).map(|kept| &kept.input)
    }

    fn receive(&mut self, id: &Arc<str>, name: &Arc<str>, input: &Payload) {
        self.seen.push_back(Arc::clone(id));
        if self.seen.len() > limits::SIGNAL_IDS_MAX {
            self.seen.pop_front();
        }
        self.kept_bytes += input.len();
        self.kept.push_back(Kept { name: Arc::clone(name), input: input.clone() });
    }

    fn take(&mut self, name: &str) -> Result<(), String> {
        let place = self.kept.iter().position(|kept| &*kept.name == name);
        let taken = place.and_then(|place| self.kept.remove(place));
        let taken = taken.ok_or("no such signal is kept")?;
        self.kept_bytes -= taken.input.len();
        Ok(())
    }

    pub(super) fn check(&self) -> bool {
        self.kept_bytes == self.kept.iter().map(|kept| kept.input.len()).sum::<usize>()
            && self.seen.len() <= limits::SIGNAL_IDS_MAX
    }
}

impl Live {
    /// The scope that gets the next signal of this name.
    pub(crate) fn waiting_for_signal(&self, name: &str) -> Option<ScopeId> {
        self.attempts.first_waiting(name)
    }

    /// Whether a signal is kept that somebody waits for.
    pub(super) fn keeps_awaited_signal(&self) -> bool {
        self.attempts.awaited().any(|name| self.signals.first(name).is_some())
    }

    pub(super) fn apply_signal(&mut self, event: &HistoryEvent) -> Result<(), String> {
        match &event.kind {
            EventKind::SignalReceived { id, name, input } => {
                if self.last_event_id == 0 {
                    return Err("the execution has not started".to_owned());
                }
                self.signals.receive(id, name, input);
                Ok(())
            }
            EventKind::SignalAwaited { name } => self.change(event.scope, |s| {
                s.attempt_mut()?.signal = Some(Arc::clone(name));
                Ok(())
            }),
            EventKind::SignalTaken => {
                let attempt = self.scope(event.scope).and_then(|scope| scope.attempt());
                let name = attempt.and_then(|attempt| attempt.signal.clone());
                self.signals.take(&name.ok_or("no signal is awaited in its scope")?)
            }
            _ => Err("it is no event of a signal".to_owned()),
        }
    }
}
