//! One Express execution: a task that decides what reaches it, in order, and publishes what follows.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use stagepost_asl::StateMachine;
use stagepost_broker::QueueSpec;
use stagepost_engine::{Applied, Env, Execution, Ignored, Input, Origin, Outcome};
use stagepost_protocol::{ExpressStart, Message, Timestamp, express::Logging, shard::Reply};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{Asked, Ended, Runner, log};
use crate::{dispatch, metrics::add, pipeline::deliver};

/// Inputs that wait for the execution's task; more wait in the broker.
const INPUTS_MAX: usize = 256;
/// So long is waited for the messages of an execution that has ended; its end is told then.
const LAST_MESSAGES: Duration = Duration::from_secs(10);

type Publishing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Messages that are to be published.
#[derive(Default)]
struct Outbox {
    declare: Vec<QueueSpec>,
    messages: Vec<Message>,
    replies: Vec<Message>,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.replies.is_empty()
    }
}

/// Removes the execution from the runner's table, however it ends.
struct Entry {
    runner: Arc<Runner>,
    id: stagepost_protocol::ExecutionId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.runner.strike_off(self.id);
    }
}

pub(super) struct Running {
    entry: Entry,
    execution: Execution,
    logging: Logging,
    /// The registered activities among those that the definition names by a full ARN.
    registered: HashSet<String>,
    inputs: mpsc::Receiver<Asked>,
    outbox: Outbox,
    expires_at: Timestamp,
    peak_bytes: usize,
}

impl Running {
    /// Makes the first decision.
    pub(super) fn start(
        runner: Arc<Runner>,
        start: ExpressStart,
        definition: Arc<StateMachine>,
        registered: HashSet<String>,
    ) -> Running {
        let now = runner.clock.now();
        let origin = Origin {
            arn: start.execution,
            state_machine: start.state_machine,
            role_arn: start.role_arn,
            input: start.input,
            started_at: now,
            parent: None,
        };
        let env = Env {
            now,
            token_key: &runner.token_key,
            random: &|| runner.random.next(),
            activity_exists: &|arn| registered.contains(arn),
        };
        let (execution, applied) = Execution::start(origin, definition, &env);
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        runner.enlist(execution.id(), sender);
        let limit = i64::try_from(runner.duration_max.as_millis()).unwrap_or(i64::MAX);
        let mut running = Running {
            entry: Entry { id: execution.id(), runner },
            execution,
            logging: start.logging,
            registered,
            inputs,
            outbox: Outbox::default(),
            expires_at: now.plus_millis(limit),
            peak_bytes: 0,
        };
        running.apply(applied);
        running
    }

    /// How it ended, if its first decision ended it and left nothing to publish.
    pub(super) fn ended_at_once(&self) -> Option<Ended> {
        if self.outbox.is_empty() { self.ended() } else { None }
    }

    fn ended(&self) -> Option<Ended> {
        let (end, stopped_at) = self.execution.end()?;
        Some(Ended {
            end: end.clone(),
            started_at: self.execution.origin().started_at,
            stopped_at,
            peak_bytes: self.peak_bytes,
        })
    }

    /// Runs it to its end. Goes on deciding while it publishes.
    pub(super) async fn drive(mut self) -> Ended {
        let mut publishing: Option<Publishing> = None;
        let mut asked = Vec::new();
        loop {
            if publishing.is_none() && !self.outbox.is_empty() {
                publishing = Some(self.publish());
            }
            if let Some(ended) = self.ended() {
                let Some(last) = publishing.take() else { return ended };
                if timeout(LAST_MESSAGES, last).await.is_err() {
                    tracing::warn!(execution = %self.execution.id(), "an Express execution ended before all its messages were taken");
                    return ended;
                }
                continue;
            }
            let until = self.until_next_deadline();
            tokio::select! {
                biased;
                () = published(&mut publishing) => publishing = None,
                _ = self.inputs.recv_many(&mut asked, INPUTS_MAX) => {
                    asked.drain(..).for_each(|asked| self.take(asked));
                }
                () = sleep(until) => {
                    // A decision that goes on at once must not keep others from theirs.
                    tokio::task::yield_now().await;
                    let expired = self.entry.runner.clock.now() >= self.expires_at;
                    self.decide(if expired { Input::Expire } else { Input::Wake });
                }
            }
        }
    }

    fn until_next_deadline(&self) -> Duration {
        let next = self.execution.next_deadline().map_or(self.expires_at, |at| at.min(self.expires_at));
        let millis = next.millis_since(self.entry.runner.clock.now());
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    fn take(&mut self, asked: Asked) {
        let reply = match self.decide(asked.input) {
            None | Some(Ignored::AlreadyStarted | Ignored::AlreadySubmitted | Ignored::NothingDue) => {
                Reply::Accepted
            }
            Some(Ignored::AttemptClosed | Ignored::Ended) => Reply::TaskTimedOut,
            Some(Ignored::UnknownAttempt) => Reply::TaskDoesNotExist,
            // Nobody asks for it: an Express execution is neither redriven nor signaled, and its attempts are not leased.
            Some(
                Ignored::NotEnded
                | Ignored::AlreadyRedriven
                | Ignored::RedrivenTooOften
                | Ignored::AlreadyHeld
                | Ignored::HeldElsewhere
                | Ignored::GivenAgain
                | Ignored::AlreadySignaled
                | Ignored::TooManySignals,
            ) => Reply::Accepted,
        };
        if matches!(reply, Reply::TaskTimedOut | Reply::TaskDoesNotExist) {
            self.outbox.messages.extend(asked.letter);
        }
        if let Some((reply_to, correlation_id)) = asked.reply {
            self.outbox.replies.push(reply.encode(&reply_to, &correlation_id));
        }
    }

    /// Decides; `None` when something changed.
    fn decide(&mut self, input: Input) -> Option<Ignored> {
        let (runner, registered) = (&self.entry.runner, &self.registered);
        let env = Env {
            now: runner.clock.now(),
            token_key: &runner.token_key,
            random: &|| runner.random.next(),
            activity_exists: &|arn| registered.contains(arn),
        };
        match self.execution.decide(input, &env) {
            Outcome::Applied(applied) => {
                self.apply(applied);
                None
            }
            Outcome::Ignored(ignored) => {
                add(&runner.shared.metrics.inputs_ignored, 1);
                Some(ignored)
            }
        }
    }

    fn apply(&mut self, applied: Applied) {
        self.peak_bytes = self.peak_bytes.max(self.execution.approximate_bytes());
        let arn = &self.execution.origin().arn;
        log::events(arn, self.logging, &applied.events);
        let runner = &self.entry.runner;
        // It starts no child executions: definitions with distributed Map states are none of type EXPRESS.
        let from = dispatch::Sender { id: self.entry.id, arn, definition_id: "", reply_to: &runner.inbox };
        add(&runner.shared.metrics.tasks_dispatched, applied.commands.len());
        for command in applied.commands {
            let mut message = dispatch::message(&runner.topology, runner.shards, &from, command, false);
            // An attempt is worth nothing once this process is gone.
            message.persistent = false;
            self.outbox.declare.extend(runner.declaration(&message.queue));
            self.outbox.messages.push(message);
        }
    }

    fn publish(&mut self) -> Publishing {
        let (shared, outbox) = (self.entry.runner.shared.clone(), std::mem::take(&mut self.outbox));
        Box::pin(async move { deliver(&shared, &outbox.declare, outbox.messages, outbox.replies).await })
    }
}

/// Waits for the messages that are on their way; for ever, if there are none.
async fn published(publishing: &mut Option<Publishing>) {
    match publishing {
        Some(publishing) => publishing.await,
        None => std::future::pending().await,
    }
}
