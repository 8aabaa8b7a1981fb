//! What is asked of a Map Run while it runs.

use stagepost_engine::{Ignored, Input};
use stagepost_protocol::shard::{Reply, UpdateMapRun};

use super::round::Round;

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
                    | Ignored::UnknownAttempt => Reply::NotFound,
                }
            }
        }
    }
}
