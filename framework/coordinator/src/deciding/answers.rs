//! Token messages: what they report, and what becomes of those that cannot be used any more.

use stagepost_protocol::{DeadReason, ShardId, ShardMessage, TokenAnswer, shard::Reply};

use super::round::Round;
use crate::{dispatch, late::Late};

impl Round<'_> {
    pub(super) fn answer(&mut self, shard: ShardId, answer: TokenAnswer, redelivered: bool) {
        let Some((id, event_id)) = self.deciding.token_key.verify(answer.report.token.as_str()) else {
            let reason = "its task token is not of this installation";
            return self.bury(answer, DeadReason::InvalidToken, reason);
        };
        let home = self.deciding.options.shards.of(id);
        if home != shard {
            return self.send_on(home, &ShardMessage::Answers(vec![answer]), None);
        }
        match self.report_here(shard, id, event_id, answer.report.clone(), redelivered) {
            Reply::TaskTimedOut => {
                let outcome = answer.report.outcome.clone();
                let Some(message) = answer.message() else { return };
                let reason =
                    "its task has ended otherwise: by another answer, by its timeout, or with its execution";
                let topology = &self.deciding.options.topology;
                let letter = dispatch::dead_message(topology, message, DeadReason::Expired, reason);
                self.decided.late.push(Late { execution: id, attempt: event_id, outcome, letter });
            }
            Reply::TaskDoesNotExist => {
                let reason = "there is no such task: its execution is gone, or never came to it";
                self.bury(answer, DeadReason::UnknownTask, reason);
            }
            // It was taken, or is among the dead letters already.
            _ => {}
        }
    }

    /// A heartbeat leaves nothing behind.
    fn bury(&mut self, answer: TokenAnswer, kind: DeadReason, reason: &str) {
        let Some(message) = answer.message() else { return };
        tracing::warn!(
            reason,
            queue = message.queue,
            "a message could not be used; it is among the dead letters"
        );
        let topology = &self.deciding.options.topology;
        self.decided.messages.push(dispatch::dead_message(topology, message, kind, reason));
    }
}
