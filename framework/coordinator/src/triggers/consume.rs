//! One trigger at work: takes messages off its queue, starts executions, acknowledges.

use std::{sync::Arc, time::Duration};

use stagepost_broker::{Consumer, Delivery, Error as BrokerError, QueueSpec};
use stagepost_protocol::{ExpressStart, Message, ShardMessage, limits, shard::Start};
use stagepost_store::StateMachineRow;
use tokio_util::sync::CancellationToken;

use super::{
    body::{self, Unusable},
    mapping::{Mapped, Mapping, execution_name},
    metrics::Counters,
    model::{Source, StoredTrigger},
};
use crate::{
    callbacks::publish,
    dispatch, express,
    options::Options,
    pipeline::{Backoff, Shared, await_store},
    sources,
};

/// How often a state machine that is missing is looked for.
const MISSING_LOOK: Duration = Duration::from_secs(2);

/// A trigger and what it works with.
pub(super) struct Trigger {
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) stored: StoredTrigger,
    pub(super) mapping: Option<Mapping>,
    /// Its queue: a name or a URL.
    pub(super) queue: String,
    pub(super) counters: Arc<Counters>,
}

/// Why messages are no longer taken.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Stopped,
    /// There is no state machine to start.
    NoStateMachine,
    /// The consumer has ended: its queue is gone for good, or the broker was closed.
    Consumer,
}

impl Trigger {
    /// Makes the queue and its binding, and starts executions until `stop` is cancelled; with `paused` messages wait in the queue.
    pub(super) async fn run(self, paused: bool, stop: CancellationToken) {
        let prepared = tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = self.prepare() => true,
        };
        if !prepared || paused {
            return stop.cancelled().await;
        }
        let mut backoff = Backoff::new();
        while self.take(&stop).await != Ended::Stopped {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = backoff.wait() => {}
            }
        }
    }

    /// Declares the queue, and binds it where it is of the trigger's own, however long that takes.
    async fn prepare(&self) {
        let mut backoff = Backoff::new();
        while let Err(error) = self.try_prepare().await {
            tracing::error!(%error, trigger = self.stored.trigger.name, "a trigger's queue cannot be used; trying again");
            backoff.wait().await;
        }
    }

    async fn try_prepare(&self) -> Result<(), BrokerError> {
        let broker = &self.shared.broker;
        match &self.stored.trigger.source {
            Source::Queue(queue) => broker.declare(&[QueueSpec::ours(queue)]).await,
            Source::Exchange { exchange, routing_key } => {
                broker.declare(&[QueueSpec::ours(&self.queue)]).await?;
                broker.declare_exchange(exchange).await?;
                broker.bind(&self.queue, exchange, routing_key).await
            }
            Source::Url(_) => Ok(()),
        }
    }

    /// Takes messages for as long as there is a state machine for them.
    async fn take(&self, stop: &CancellationToken) -> Ended {
        // Nothing is taken that could start nothing: it would have to be given back, and brokers count that.
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ended::Stopped,
            () = self.await_state_machine() => {}
        }
        let prefetch = self.stored.trigger.prefetch;
        let mut consumer = match sources::consume(&self.shared, &self.queue, prefetch, stop).await {
            Some(consumer) => consumer,
            None => return Ended::Stopped,
        };
        self.counters.set_consuming(true);
        let ended = self.start_all(&mut *consumer, stop).await;
        self.counters.set_consuming(false);
        // What is not settled goes back to the queue with the consumer.
        consumer.cancel().await;
        ended
    }

    async fn start_all(&self, consumer: &mut dyn Consumer, stop: &CancellationToken) -> Ended {
        let acker = consumer.acker();
        loop {
            let deliveries = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                deliveries = consumer.next(usize::from(self.stored.trigger.prefetch)) => deliveries,
            };
            let Some(deliveries) = deliveries else { return Ended::Consumer };
            let Some(machine) = self.state_machine().await else {
                for delivery in &deliveries {
                    acker.requeue(delivery.tag).await;
                }
                return Ended::NoStateMachine;
            };
            let mut messages = Vec::with_capacity(deliveries.len());
            let mut dead = Vec::new();
            for delivery in &deliveries {
                messages.push(match self.start(&machine, delivery) {
                    Ok(start) => start.encode(&self.options),
                    Err(unusable) => {
                        dead.push(unusable.kind());
                        self.bury(delivery, &unusable)
                    }
                });
                // A mapping may take its time, and others want theirs.
                tokio::task::yield_now().await;
            }
            publish(&self.shared, messages).await;
            if let Some(last) = deliveries.last() {
                acker.ack_up_to(last.tag).await;
            }
            self.counters.add(deliveries.len() - dead.len(), &dead);
        }
    }

    fn bury(&self, delivery: &Delivery, unusable: &Unusable) -> Message {
        let (trigger, kind) = (&self.stored.trigger.name, unusable.kind());
        // The reason may quote what a mapping made of the message, so it stays with the message.
        tracing::warn!(
            trigger,
            reason = kind.as_str(),
            "a message started nothing; it is among the dead letters"
        );
        dispatch::dead_letter(&self.options.topology, &self.queue, delivery, kind, &unusable.to_string())
    }

    /// Waits until there is a state machine to start.
    async fn await_state_machine(&self) {
        let mut told = false;
        while self.state_machine().await.is_none() {
            if !told {
                let (trigger, state_machine) =
                    (&self.stored.trigger.name, &self.stored.trigger.state_machine_arn);
                tracing::warn!(trigger, %state_machine, "there is no such state machine; messages wait until there is");
                told = true;
            }
            tokio::time::sleep(MISSING_LOOK).await;
        }
    }

    async fn state_machine(&self) -> Option<StateMachineRow> {
        let mut backoff = Backoff::new();
        loop {
            match self.shared.store.state_machine(&self.stored.trigger.state_machine_arn).await {
                Ok(row) => return row.filter(|row| row.status == "ACTIVE"),
                Err(error) => {
                    tracing::warn!(%error, "a state machine could not be looked up; trying again");
                    backoff.wait().await;
                    await_store(&self.shared).await;
                }
            }
        }
    }

    /// The start that a message asks for, or why it asks for none.
    fn start(&self, machine: &StateMachineRow, delivery: &Delivery) -> Result<Started, Unusable> {
        let body = body::read(self.stored.trigger.body, &delivery.body, &delivery.properties)?;
        let Mapped { input, name } = match &self.mapping {
            Some(mapping) => {
                let random = || self.options.random.next();
                mapping.apply(&body, delivery, self.options.clock.now(), &random)?
            }
            None => Mapped { input: body, name: delivery.properties.message_id.clone() },
        };
        if input.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(Unusable::InputTooLarge(input.len()));
        }
        // A message without an id cannot be recognised when it comes again, so it gets a new name.
        let fresh = name.is_none();
        let new = || self.options.random.uuid(self.options.clock.now()).to_string();
        let name = name.map_or_else(new, |name| execution_name(&name));
        if machine.is_express() {
            return Ok(Started::Express(Box::new(express::start(machine, &name, input))));
        }
        Ok(Started::Standard(Box::new(Start {
            execution: machine.arn.execution(&name),
            state_machine: machine.arn.clone(),
            definition_id: machine.definition_id.clone(),
            role_arn: machine.role_arn.clone(),
            input,
            trace_header: None,
            fresh,
            parent: None,
            map_item: None,
        })))
    }
}

/// What a message starts.
#[derive(Debug)]
enum Started {
    Standard(Box<Start>),
    Express(Box<ExpressStart>),
}

impl Started {
    fn encode(self, options: &Options) -> Message {
        match self {
            Started::Standard(start) => {
                let queue = options.topology.shard(options.shards.of(start.execution.id()));
                ShardMessage::Start(start).encode(queue, None)
            }
            Started::Express(start) => start.encode(options.topology.express()),
        }
    }
}
