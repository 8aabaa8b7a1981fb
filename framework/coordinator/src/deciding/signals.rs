//! Signals to running executions.

use stagepost_engine::{Ignored, Input};
use stagepost_protocol::{Signal, limits, shard::Reply};

use super::round::Round;

/// Why a signal that nobody awaits an answer to is a dead letter, if it is one.
pub(super) fn refusal(answer: &Reply) -> Option<String> {
    match answer {
        Reply::NotFound => Some("there is no such execution".to_owned()),
        Reply::Ended => Some("the execution has ended".to_owned()),
        Reply::TooManySignals => Some(format!(
            "the execution keeps {} signals or {} bytes of them already, and no state takes one of this name",
            limits::SIGNALS_KEPT_MAX,
            limits::SIGNALS_KEPT_BYTES_MAX
        )),
        Reply::Refused(reason) => Some(reason.clone()),
        _ => None,
    }
}

impl Round<'_> {
    /// SignalExecution.
    pub(super) fn signal(&mut self, signal: &Signal, redelivered: bool) -> Reply {
        let id = signal.execution.id();
        if let Some(reason) = self.known.broken.get(&id) {
            return Reply::Refused(reason.clone());
        }
        if self.known.ended.contains_key(&id) {
            if redelivered {
                self.republish_end(id);
            }
            return Reply::Ended;
        }
        if !self.deciding.cache.contains(id) {
            return Reply::NotFound;
        }
        let Signal { name, id: signal_id, input, .. } = signal.clone();
        let Some(ignored) = self.decide(id, Input::Signal { id: signal_id, name, input }) else {
            return Reply::Accepted;
        };
        if redelivered {
            self.republish(id);
        }
        match ignored {
            Ignored::Ended => Reply::Ended,
            Ignored::TooManySignals => Reply::TooManySignals,
            // It was taken before; the others are nothing that a signal leads to.
            Ignored::AlreadySignaled
            | Ignored::AlreadyStarted
            | Ignored::AlreadySubmitted
            | Ignored::AlreadyRedriven
            | Ignored::AlreadyHeld
            | Ignored::GivenAgain
            | Ignored::HeldElsewhere
            | Ignored::NothingDue
            | Ignored::NotEnded
            | Ignored::RedrivenTooOften
            | Ignored::AttemptClosed
            | Ignored::UnknownAttempt => Reply::Accepted,
        }
    }
}
