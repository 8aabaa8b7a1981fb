//! Publishes again all that is pending, from the store (G6): after the broker lost its messages, and at every
//! start of the embedded default, whose broker keeps nothing.

use std::collections::HashSet;

use stagepost_broker::{Broker, QueueSpec};
use stagepost_engine::Env;
use stagepost_protocol::{ExecutionId, Message, ShardId, TokenKey};
use stagepost_store::Store;

use crate::{
    deciding::replay,
    definitions::{self, Definitions},
    dispatch,
    options::Options,
    pipeline::Backoff,
};

/// What a recovery did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Running executions that were looked at.
    pub executions: usize,
    /// Messages that were published again.
    pub messages: usize,
    /// Executions that could not be replayed; the log names them.
    pub broken: usize,
}

/// Why a recovery stopped. It can be run again: what was published stays so, marked as a repetition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The store.
    #[error(transparent)]
    Store(#[from] stagepost_store::Error),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] stagepost_broker::Error),
}

/// Executions that are replayed at a time.
const PAGE: usize = 200;
/// A message is refused so often before the recovery stops.
const ATTEMPTS_MAX: u32 = 8;

/// Publishes again what is pending in all shards. Repetitions are marked; results that come twice count once.
pub async fn recover(
    store: &dyn Store,
    broker: &dyn Broker,
    options: &Options,
    token_key: &TokenKey,
) -> Result<Recovered, RecoverError> {
    let mut all = Recovered::default();
    for shard in options.shards.all() {
        let one = recover_shard(store, broker, options, token_key, shard, true).await?;
        all.executions += one.executions;
        all.messages += one.messages;
        all.broken += one.broken;
    }
    Ok(all)
}

/// As [`recover`], for one shard. `republished`: what is published may be a repetition, and is marked so.
pub(crate) async fn recover_shard(
    store: &dyn Store,
    broker: &dyn Broker,
    options: &Options,
    token_key: &TokenKey,
    shard: ShardId,
    republished: bool,
) -> Result<Recovered, RecoverError> {
    let slots = options.shards.slots(shard);
    let mut definitions = Definitions::default();
    let mut declared = HashSet::new();
    let mut recovered = Recovered::default();
    let mut after: Option<ExecutionId> = None;
    loop {
        let ids = store.running(std::slice::from_ref(&slots), after, PAGE).await?;
        let Some(last) = ids.last().copied() else { return Ok(recovered) };
        after = Some(last);
        let mut messages = Vec::new();
        for (id, stored) in ids.iter().zip(store.load(&ids).await?) {
            let Some(stored) = stored else { continue };
            recovered.executions += 1;
            let definition_id = stored.summary.definition_id.clone();
            let definition = match definitions.get(store, &definition_id).await {
                Ok(definition) => definition,
                Err(definitions::Error::Store(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(execution = %id, %error, "an execution cannot be recovered");
                    recovered.broken += 1;
                    continue;
                }
            };
            match replay(stored, definition) {
                Ok(replayed) => {
                    let from = dispatch::Sender {
                        id: *id,
                        arn: &replayed.execution.origin().arn,
                        definition_id: &definition_id,
                        reply_to: &options.topology.shard(shard),
                    };
                    messages.extend(pending(options, token_key, &replayed.execution, &from, republished));
                }
                Err(reason) => {
                    tracing::error!(execution = %id, reason, "an execution cannot be recovered");
                    recovered.broken += 1;
                }
            }
        }
        recovered.messages += messages.len();
        publish(broker, messages, &mut declared).await?;
    }
}

fn pending(
    options: &Options,
    token_key: &TokenKey,
    execution: &stagepost_engine::Execution,
    from: &dispatch::Sender<'_>,
    republished: bool,
) -> Vec<Message> {
    let env = Env { now: options.clock.now(), token_key, random: &|| 0, activity_exists: &|_| true };
    let message = |command| dispatch::message(&options.topology, options.shards, from, command, republished);
    execution.pending(&env).into_iter().map(message).collect()
}

/// Publishes until all is confirmed. What is refused is tried again by itself, so that one refusal among very many
/// messages does not repeat them all.
async fn publish(
    broker: &dyn Broker,
    mut messages: Vec<Message>,
    declared: &mut HashSet<String>,
) -> Result<(), stagepost_broker::Error> {
    let new: Vec<QueueSpec> = messages
        .iter()
        .filter(|m| declared.insert(m.queue.clone()))
        .map(|m| QueueSpec::ours(&m.queue))
        .collect();
    broker.declare(&new).await?;
    let mut backoff = Backoff::new();
    for attempt in 1.. {
        let results = broker.publish(messages.clone()).await;
        let mut refused = Vec::new();
        for (message, result) in messages.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(error @ stagepost_broker::Error::Closed) => return Err(error),
                Err(error) if attempt >= ATTEMPTS_MAX => return Err(error),
                Err(_) => refused.push(message),
            }
        }
        if refused.is_empty() {
            break;
        }
        tracing::warn!(count = refused.len(), "messages were refused; trying again");
        messages = refused;
        backoff.wait().await;
    }
    Ok(())
}
