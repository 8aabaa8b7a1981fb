//! A redrive: an execution that ended without success goes on where it stopped (Step Functions developer guide,
//! "Restarting state machine executions with redrive").

use stagepost_asl::StateMachine;

use super::{Current, Live, Phase, Redriven, Step};
use crate::{
    execution::End,
    history::{EventKind, HistoryEvent},
};

impl Step {
    /// The state failed. What it ran is kept: a Catch or a Retry ends it, a redrive goes on with it.
    pub(super) fn close(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Deciding) {
            Phase::Children(children) => Phase::Closed(children),
            Phase::ClosedMapRun(run) => Phase::ClosedMapRun(run),
            _ => Phase::Deciding,
        };
    }

    /// The state is tried anew, with all its retries; or its branches or iterations go on.
    fn reopen(&mut self) {
        self.used.clear();
        self.phase = match std::mem::replace(&mut self.phase, Phase::Deciding) {
            Phase::Children(mut children) | Phase::Closed(mut children) => {
                children.open.append(&mut children.closed);
                children.paused = None;
                Phase::Children(children)
            }
            Phase::MapRun(run) | Phase::ClosedMapRun(run) => Phase::ClosedMapRun(run),
            Phase::Deciding | Phase::Waiting(_) | Phase::Retrying(_) | Phase::Attempting(_) => {
                Phase::Deciding
            }
        };
    }
}

impl Live {
    /// Opens what the end of the execution closed. The decision says how each scope goes on.
    pub(super) fn redrive(&mut self, definition: &StateMachine, event: &HistoryEvent) -> Result<(), String> {
        let EventKind::ExecutionRedriven { count, client_token } = &event.kind else {
            return Err("it is no redrive".to_owned());
        };
        match &self.end {
            Some((End::Failed { .. } | End::TimedOut | End::Aborted { .. }, _)) => {}
            Some((End::Succeeded(_), _)) | None => return Err("there is nothing to redrive".to_owned()),
        }
        self.end = None;
        self.redriven = Some(Redriven { count: *count, at: event.at, client_token: client_token.clone() });
        self.timeout_at = definition.timeout_seconds.map(|s| event.at.plus_seconds_f64(s as f64));
        for scope in self.scopes.values_mut() {
            scope.chain = event.id;
            if let Current::In(step) = &mut scope.current {
                step.reopen();
            }
        }
        self.index_all();
        Ok(())
    }
}
