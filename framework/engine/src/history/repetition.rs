//! Whether an answer repeats the one that ended its attempt.

use stagepost_protocol::ReportOutcome;

use super::{EventKind, Failure, HistoryEvent, ScopeId};

/// Looks through a history for how one attempt ended.
#[derive(Debug)]
pub struct Repetition<'a> {
    attempt: u64,
    outcome: &'a ReportOutcome,
    /// Where the attempt is, once its event was seen.
    scope: Option<ScopeId>,
}

impl<'a> Repetition<'a> {
    /// For an answer to the attempt that event `attempt` scheduled.
    pub fn new(attempt: u64, outcome: &'a ReportOutcome) -> Repetition<'a> {
        Repetition { attempt, outcome, scope: None }
    }

    /// Looks at the next event, in their order. Once the attempt's end is seen: whether it ended with this very outcome.
    pub fn look(&mut self, event: &HistoryEvent) -> Option<bool> {
        let scheduled = matches!(
            event.kind,
            EventKind::ActivityScheduled { .. }
                | EventKind::LambdaFunctionScheduled { .. }
                | EventKind::TaskScheduled { .. }
        );
        if scheduled && event.id == self.attempt {
            self.scope = Some(event.scope);
        }
        if self.scope != Some(event.scope) {
            return None;
        }
        match &event.kind {
            EventKind::ActivitySucceeded { output }
            | EventKind::LambdaFunctionSucceeded { output }
            | EventKind::TaskSucceeded { output, .. } => {
                Some(matches!(self.outcome, ReportOutcome::Succeeded(other) if other == output))
            }
            EventKind::ActivityFailed(failure)
            | EventKind::LambdaFunctionFailed(failure)
            | EventKind::TaskFailed { failure, .. } => Some(match self.outcome {
                ReportOutcome::Failed { error, cause } => {
                    Failure::bounded(error.clone(), cause.clone()) == *failure
                }
                _ => false,
            }),
            EventKind::ActivityTimedOut(_)
            | EventKind::LambdaFunctionTimedOut(_)
            | EventKind::TaskTimedOut { .. }
            | EventKind::StateAborted { .. } => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stagepost_protocol::{Payload, Timestamp};

    use super::*;

    fn event(id: u64, scope: ScopeId, kind: EventKind) -> HistoryEvent {
        HistoryEvent { id, previous_id: 0, at: Timestamp::from_millis(0), scope, kind }
    }

    fn scheduled() -> EventKind {
        let input = Payload::empty_object();
        let resource = Arc::from("a");
        EventKind::ActivityScheduled { resource, input, timeout_seconds: None, heartbeat_seconds: None }
    }

    #[test]
    fn an_answer_is_a_repetition_where_the_attempt_ended_just_so() {
        let payload = |text: &str| Payload::parse(text).unwrap();
        let failure = |error: &str, cause: Option<&str>| Failure {
            error: Some(error.to_owned()),
            cause: cause.map(str::to_owned),
        };
        let long = "x".repeat(40_000);
        // Another branch's attempt is between, and an earlier one of the same scope before.
        let events = |end: EventKind| {
            [
                event(3, 1, scheduled()),
                event(4, 1, EventKind::ActivityFailed(failure("E", None))),
                event(5, 1, scheduled()),
                event(6, 2, scheduled()),
                event(7, 2, EventKind::ActivitySucceeded { output: payload("0") }),
                event(8, 1, end),
                event(9, 1, EventKind::ActivitySucceeded { output: payload("9") }),
            ]
        };
        let succeeded = |text: &str| ReportOutcome::Succeeded(payload(text));
        let failed = |error: &str, cause: Option<&str>| ReportOutcome::Failed {
            error: Some(error.to_owned()),
            cause: cause.map(str::to_owned),
        };
        let output = |text: &str| EventKind::ActivitySucceeded { output: payload(text) };
        for (end, outcome, expected) in [
            (output("1"), succeeded("1"), true),
            (output("1"), succeeded("2"), false),
            (output("1"), failed("E", None), false),
            (EventKind::ActivityFailed(failure("E", Some("c"))), failed("E", Some("c")), true),
            (EventKind::ActivityFailed(failure("E", Some("c"))), failed("E", None), false),
            (EventKind::ActivityFailed(failure("E", Some("c"))), succeeded("1"), false),
            (
                EventKind::ActivityFailed(Failure::bounded(Some("E".into()), Some(long.clone()))),
                failed("E", Some(&long)),
                true,
            ),
            (
                EventKind::ActivityTimedOut(failure("States.Timeout", None)),
                failed("States.Timeout", None),
                false,
            ),
        ] {
            let mut repetition = Repetition::new(5, &outcome);
            let found = events(end.clone()).iter().find_map(|event| repetition.look(event));
            assert_eq!(found, Some(expected), "{end:?} {outcome:?}");
        }
        let outcome = succeeded("1");
        let mut unknown = Repetition::new(77, &outcome);
        assert_eq!(events(output("1")).iter().find_map(|event| unknown.look(event)), None);
    }
}
