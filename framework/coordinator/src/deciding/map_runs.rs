//! What is asked of a Map Run while it runs, and what it asks of its child executions when it is redriven.

use stagepost_engine::{Ignored, Input};
use stagepost_protocol::{
    ExecutionId, MapChild, Parent, ParentKind, Report, ReportOutcome, error_names,
    shard::{RedriveChild, Reply, UpdateMapRun},
};

use super::{
    family::Child,
    round::{Round, ended},
};

impl Round<'_> {
    /// UpdateMapRun.
    pub(super) fn update_map_run(&mut self, update: UpdateMapRun, redelivered: bool) -> Reply {
        let id = update.execution.id();
        if let Some(reason) = self.known.broken.get(&id) {
            return Reply::Refused(reason.clone());
        }
        if !self.deciding.cache.contains(id) {
            return Reply::NotFound;
        }
        let input = Input::UpdateMapRun {
            arn: update.map_run,
            max_concurrency: update.max_concurrency,
            tolerated_failure_count: update.tolerated_failure_count,
            tolerated_failure_percentage: update.tolerated_failure_percentage,
        };
        match self.decide(id, input) {
            None => Reply::Accepted,
            Some(ignored) => {
                if redelivered {
                    self.republish(id);
                }
                match ignored {
                    Ignored::AlreadyStarted
                    | Ignored::AlreadySubmitted
                    | Ignored::AlreadyRedriven
                    | Ignored::AlreadySignaled
                    | Ignored::NothingDue => Reply::Accepted,
                    Ignored::Ended
                    | Ignored::NotEnded
                    | Ignored::RedrivenTooOften
                    | Ignored::TooManySignals
                    | Ignored::AttemptClosed
                    | Ignored::AlreadyHeld
                    | Ignored::HeldElsewhere
                    | Ignored::GivenAgain
                    | Ignored::UnknownAttempt => Reply::NotFound,
                }
            }
        }
    }

    /// A Map Run has its child execution go on. Whatever it finds, the Map Run learns how the child ends.
    pub(super) fn redrive_child(&mut self, redrive: RedriveChild, redelivered: bool) {
        let RedriveChild { execution, parent, redrives } = redrive;
        let id = execution.id();
        if let Some(reason) = self.known.broken.get(&id).cloned() {
            return self.lost_child(&parent, redrives, &reason);
        }
        let Some(entry) = self.deciding.cache.get(id) else {
            return self.lost_child(&parent, redrives, "it is not in the store any more");
        };
        if entry.execution.origin().parent.as_ref() != Some(&parent) {
            return self.lost_child(&parent, redrives, "another execution has its name");
        }
        let done = entry.execution.redrives().0 >= redrives;
        let runs = entry.execution.end().is_none();
        if done && runs {
            if redelivered {
                self.republish(id);
            }
            return;
        }
        if done {
            return self.tell_end(id, false);
        }
        if runs {
            // It was to be stopped when the Map Run ended; that message comes later and is out of date then, or never.
            self.decide(id, Input::Stop { error: None, cause: None });
        } else if self.known.ended.get(&id).is_some_and(|summary| summary.not_redrivable(self.now).is_some())
        {
            return self.tell_end(id, true);
        }
        let redrive = Input::Redrive { client_token: None, count: Some(redrives) };
        if self.decide_redrive(id, redrive).is_some() {
            self.tell_end(id, true);
        }
    }

    /// Tells the parent how a child has ended that does not go on.
    pub(super) fn tell_end(&mut self, id: ExecutionId, not_redrivable: bool) {
        self.refused.push(id);
        let Some(entry) = self.deciding.cache.get(id) else { return };
        let Some((end, at)) = entry.execution.end() else { return };
        let end = ended(id, end, at);
        let child = Child::of(entry.execution.origin(), &end, entry.execution.redrives().0);
        if let Some(mut report) = child.and_then(|child| child.report()) {
            report.child = report.child.map(|child| MapChild { not_redrivable, ..child });
            self.tell_parent(report);
        }
    }

    /// Tells the Map Run of a child that cannot go on since it is not what it should be.
    fn lost_child(&mut self, parent: &Parent, redrives: u32, why: &str) {
        let ParentKind::MapItem { index } = parent.kind else { return };
        let outcome = ReportOutcome::Failed {
            error: Some(error_names::RUNTIME.to_owned()),
            cause: Some(format!("The child execution cannot be redriven: {why}.")),
        };
        let child = Some(MapChild { index, redrives, not_redrivable: true });
        let token = parent.token.clone();
        self.tell_parent(Report { token, worker: None, started_at: None, outcome, child, answer: None });
    }
}
