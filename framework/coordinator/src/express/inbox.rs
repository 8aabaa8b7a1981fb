//! What is said about attempts of the executions that this process runs.

use std::sync::Weak;

use stagepost_broker::{Consumer, Delivery};
use stagepost_engine::Input;
use stagepost_protocol::{DeadReason, Message, Report, ShardMessage, shard::Reply};

use super::{Asked, Runner, lock};
use crate::{dispatch, metrics::add, pipeline::deliver};

/// At most so many messages are taken at a time.
const TAKEN_MAX: usize = 256;

/// Hands reports to the executions that they are about, as long as the runner lives.
pub(super) async fn run(runner: Weak<Runner>, mut reports: Box<dyn Consumer>) {
    while let Some(deliveries) = reports.next(TAKEN_MAX).await {
        let Some(runner) = runner.upgrade() else { return };
        let (mut replies, mut letters) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            if let Some((reply, (reply_to, correlation_id))) = take(&runner, delivery, &mut letters).await {
                replies.push(reply.encode(&reply_to, &correlation_id));
            }
        }
        if !replies.is_empty() || !letters.is_empty() {
            deliver(&runner.shared, &[], letters, replies).await;
        }
    }
}

/// Gives an answer where the execution itself does not, and what is a dead letter.
async fn take(
    runner: &Runner,
    delivery: Delivery,
    letters: &mut Vec<Message>,
) -> Option<(Reply, (String, String))> {
    let reply = delivery.properties.reply_to.clone().zip(delivery.properties.correlation_id.clone());
    let reports = match ShardMessage::decode(&delivery.body, &delivery.properties) {
        Ok(ShardMessage::Reports(reports)) => reports,
        Ok(ShardMessage::Answers(answers)) => {
            for answer in answers {
                let (report, message) = (answer.report.clone(), answer.message());
                let reason = "its task has ended, or its Express execution has";
                let bury =
                    |message| dispatch::dead_message(&runner.topology, message, DeadReason::Expired, reason);
                // That it was taken says nothing new.
                let _ = hand_over(runner, report, &None, message.map(bury), letters).await;
            }
            return None;
        }
        Ok(_) => {
            let reason =
                "Express executions are neither started, stopped nor signaled by a message to their runner";
            return reply.map(|reply| (Reply::Refused(reason.to_owned()), reply));
        }
        Err(reason) => {
            tracing::warn!(%reason, queue = runner.inbox, "a message is none of ours");
            return None;
        }
    };
    let mut answer = None;
    for report in reports {
        answer = hand_over(runner, report, &reply, None, letters).await;
    }
    answer.zip(reply)
}

async fn hand_over(
    runner: &Runner,
    report: Report,
    reply: &Option<(String, String)>,
    letter: Option<Message>,
    letters: &mut Vec<Message>,
) -> Option<Reply> {
    let Report { token, worker, started_at, outcome, child, .. } = report;
    let Some((id, event_id)) = runner.token_key.verify(token.as_str()) else {
        return Some(Reply::InvalidToken);
    };
    let execution = lock(&runner.running).get(&id).cloned();
    let input = Input::Report { event_id, worker, started_at, outcome, child };
    // The token is ours, so there was such an execution, and it has ended.
    let mut gone = |letter: Option<Message>| {
        add(&runner.shared.metrics.inputs_ignored, 1);
        letters.extend(letter);
        Some(Reply::TaskTimedOut)
    };
    let Some(execution) = execution else { return gone(letter) };
    match execution.send(Asked { input, reply: reply.clone(), letter }).await {
        Ok(()) => None,
        Err(unsent) => gone(unsent.0.letter),
    }
}
