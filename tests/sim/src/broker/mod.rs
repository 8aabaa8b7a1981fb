//! A broker with RabbitMQ's manners: it pushes deliveries to consumers up to their prefetch, flags what comes again,
//! loses what is transient when it restarts and what is not confirmed with its connection.
//!
//! * [`server`] is the broker itself; it knows no time but the one that it is told.
//! * [`SimBroker`] is what one process has of it; faults and delays happen here.
//!
//! A lost connection is waited out here, as the `Broker` trait wants it: publications are repeated, consumers rebuilt.

mod consumer;
pub(crate) mod server;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use stagepost_broker::{Broker, ConsumeOptions, Consumer, Error, Health, Published, QueueSpec};
use stagepost_protocol::{Message, Properties};
use tokio::sync::watch;

use crate::{process::Process, world::digest};
use consumer::{SimConsumer, Source};

/// One process's connection.
pub(crate) struct SimBroker {
    process: Arc<Process>,
    health: watch::Sender<Health>,
}

impl SimBroker {
    pub(crate) fn new(process: &Arc<Process>) -> Arc<SimBroker> {
        Arc::new(SimBroker { process: Arc::clone(process), health: watch::Sender::new(Health::Up) })
    }

    /// Publishes messages of one queue, in order, until the broker has said what became of each.
    async fn publish_to(&self, queue: &str, messages: &[Message]) -> Vec<Published> {
        let process = &self.process;
        let world = &process.world;
        let mut messages = messages.to_vec();
        loop {
            let bodies: Vec<String> =
                messages.iter().map(|m| format!("{:08x}", digest(&m.body) >> 32)).collect();
            process.call(format!("publishes to {queue}: {}", bodies.join(" "))).await;
            connected(process).await;
            if world.happens(world.faults.disconnect) {
                // Some of them have arrived; none is confirmed.
                let arrived = world.rng.index(messages.len() + 1);
                let mut server = world.broker();
                drop(server.publish(queue, &messages[..arrived]));
                server.disconnect(process.connection, world);
                messages.iter_mut().for_each(Message::mark_republished);
                continue;
            }
            let refused: Vec<bool> = messages.iter().map(|_| world.happens(world.faults.refuse)).collect();
            let taken: Vec<Message> = messages
                .iter()
                .zip(&refused)
                .filter(|(_, refused)| !**refused)
                .map(|(m, _)| m.clone())
                .collect();
            let mut results = world.broker().publish(queue, &taken).into_iter();
            let result = |refused: bool| match refused {
                true => Err(Error::Refused { queue: queue.to_owned(), reason: "chance".to_owned() }),
                false => results.next().expect("one result to a message"),
            };
            return refused.into_iter().map(result).collect();
        }
    }
}

/// Waits until a process's connection works.
async fn connected(process: &Process) {
    loop {
        process.live().await;
        let until = process.world.broker().down_until(process.connection);
        match until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => return,
        }
    }
}

#[async_trait]
impl Broker for SimBroker {
    async fn declare(&self, queues: &[QueueSpec]) -> Result<(), Error> {
        let names: Vec<&str> = queues.iter().map(|q| q.name.as_str()).collect();
        self.process.call(format!("declares {}", names.join(" "))).await;
        connected(&self.process).await;
        self.process.world.broker().declare(queues)?;
        self.process.answered().await;
        Ok(())
    }

    async fn declare_exchange(&self, exchange: &str) -> Result<(), Error> {
        self.process.call(format!("declares the exchange {exchange}")).await;
        connected(&self.process).await;
        self.process.world.broker().declare_exchange(exchange);
        Ok(())
    }

    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.process.call(format!("binds {queue} to {exchange}")).await;
        connected(&self.process).await;
        self.process.world.broker().bind(queue, exchange, routing_key)
    }

    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.process.call(format!("unbinds {queue} from {exchange}")).await;
        connected(&self.process).await;
        self.process.world.broker().unbind(queue, exchange, routing_key);
        Ok(())
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<Published> {
        let mut queues: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, message) in messages.iter().enumerate() {
            queues.entry(message.queue.clone()).or_default().push(i);
        }
        // Order holds within a queue only.
        let mut queues: Vec<_> = queues.into_iter().collect();
        self.process.world.rng.shuffle(&mut queues);
        let mut all: Vec<Option<Published>> = messages.iter().map(|_| None).collect();
        for (queue, places) in queues {
            let part: Vec<Message> = places.iter().map(|i| messages[*i].clone()).collect();
            for (place, result) in places.into_iter().zip(self.publish_to(&queue, &part).await) {
                all[place] = Some(result);
            }
        }
        self.process.answered().await;
        all.into_iter().map(|result| result.expect("each message belongs to a queue")).collect()
    }

    async fn publish_to_exchange(
        &self,
        exchange: &str,
        routing_key: &str,
        body: Bytes,
        properties: Properties,
    ) -> Published {
        self.process.call(format!("publishes to the exchange {exchange}")).await;
        connected(&self.process).await;
        let bound = self.process.world.broker().bound(exchange, routing_key)?;
        for queue in &bound {
            let message = Message {
                queue: queue.clone(),
                body: body.clone(),
                properties: properties.clone(),
                persistent: true,
            };
            self.publish_to(queue, &[message]).await.into_iter().collect::<Result<Vec<()>, Error>>()?;
        }
        match bound.is_empty() {
            true => Err(Error::Unbound { exchange: exchange.into(), routing_key: routing_key.into() }),
            false => Ok(()),
        }
    }

    async fn consume(&self, queue: &str, options: ConsumeOptions) -> Result<Box<dyn Consumer>, Error> {
        let process = &self.process;
        process.call(format!("consumes {queue}")).await;
        connected(process).await;
        let denied =
            |reason: &str| Error::Denied { what: format!("consume {queue}"), reason: reason.to_owned() };
        if process.world.happens(process.world.faults.deny) {
            return Err(denied("chance"));
        }
        if process.world.broker().depth(queue).is_none() {
            return Err(denied("there is no such queue"));
        }
        let source = Source { queue: queue.to_owned(), prefetch: Some(usize::from(options.prefetch.max(1))) };
        Ok(Box::new(SimConsumer::start(Arc::clone(process), source)))
    }

    async fn private_queue(&self, name: &str) -> Result<Box<dyn Consumer>, Error> {
        self.process.call(format!("makes {name}")).await;
        connected(&self.process).await;
        let source = Source { queue: name.to_owned(), prefetch: None };
        Ok(Box::new(SimConsumer::start(Arc::clone(&self.process), source)))
    }

    async fn reply_queue(&self) -> Result<(String, Box<dyn Consumer>), Error> {
        let name = format!("stagepost.reply.{:016x}", self.process.world.rng.bits());
        let consumer = self.private_queue(&name).await?;
        Ok((name, consumer))
    }

    async fn depth(&self, queue: &str) -> Result<Option<u64>, Error> {
        self.process.call(format!("measures {queue}")).await;
        connected(&self.process).await;
        Ok(self.process.world.broker().depth(queue))
    }

    async fn delete(&self, queue: &str) -> Result<(), Error> {
        self.process.call(format!("deletes {queue}")).await;
        connected(&self.process).await;
        self.process.world.broker().delete(queue);
        Ok(())
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    async fn close(&self) {
        self.process.world.broker().hang_up(self.process.connection);
    }
}
