//! What is said about attempts of the executions that this process runs.

use std::sync::Weak;

use stagepost_broker::{Consumer, Delivery};
use stagepost_engine::Input;
use stagepost_protocol::{Report, ShardMessage, shard::Reply};

use super::{Asked, Runner, lock};
use crate::metrics::add;

/// At most so many messages are taken at a time.
const TAKEN_MAX: usize = 256;

/// Hands reports to the executions that they are about, as long as the runner lives.
pub(super) async fn run(runner: Weak<Runner>, mut reports: Box<dyn Consumer>) {
    while let Some(deliveries) = reports.next(TAKEN_MAX).await {
        let Some(runner) = runner.upgrade() else { return };
        let mut replies = Vec::new();
        for delivery in deliveries {
            if let Some((reply, (reply_to, correlation_id))) = take(&runner, delivery).await {
                replies.push(reply.encode(&reply_to, &correlation_id));
            }
        }
        if !replies.is_empty() {
            // Who asked may be gone, and asks again if not.
            drop(runner.shared.broker.publish(replies).await);
        }
    }
}

/// Gives an answer where the execution itself does not.
async fn take(runner: &Runner, delivery: Delivery) -> Option<(Reply, (String, String))> {
    let reply = delivery.properties.reply_to.clone().zip(delivery.properties.correlation_id.clone());
    let reports = match ShardMessage::decode(&delivery.body, &delivery.properties) {
        Ok(ShardMessage::Reports(reports)) => reports,
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
        answer = hand_over(runner, report, &reply).await;
    }
    answer.zip(reply)
}

async fn hand_over(runner: &Runner, report: Report, reply: &Option<(String, String)>) -> Option<Reply> {
    let Report { token, worker, started_at, outcome, child } = report;
    let Some((id, event_id)) = runner.token_key.verify(token.as_str()) else {
        return Some(Reply::InvalidToken);
    };
    let execution = lock(&runner.running).get(&id).cloned();
    let input = Input::Report { event_id, worker, started_at, outcome, child };
    // The token is ours, so there was such an execution, and it has ended.
    let gone = || {
        add(&runner.shared.metrics.inputs_ignored, 1);
        Some(Reply::TaskTimedOut)
    };
    let Some(execution) = execution else { return gone() };
    match execution.send(Asked { input, reply: reply.clone() }).await {
        Ok(()) => None,
        Err(_) => gone(),
    }
}
