//! A process's consumer, which is rebuilt when its connection comes back.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use stagepost_broker::{Acker, Consumer, Delivery, DeliveryTag};
use tokio::sync::Notify;

use super::{connected, server::Found};
use crate::{process::Process, world::digest};

/// What is consumed, and how.
pub(super) struct Source {
    pub(super) queue: String,
    /// `None`: a private queue, whose deliveries need no settling.
    pub(super) prefetch: Option<usize>,
}

/// What the consumer is to the broker now.
#[derive(Clone, Copy)]
struct Link {
    generation: u64,
    id: u64,
}

pub(super) struct SimConsumer {
    process: Arc<Process>,
    source: Source,
    wake: Arc<Notify>,
    acker: Arc<SimAcker>,
    cancelled: bool,
}

impl SimConsumer {
    pub(super) fn start(process: Arc<Process>, source: Source) -> SimConsumer {
        let wake = Arc::new(Notify::new());
        let id = register(&process, &source, &wake);
        let link = Mutex::new(Link { generation: 1, id });
        let acker = SimAcker { process: Arc::clone(&process), queue: source.queue.clone(), link };
        SimConsumer { process, source, wake, acker: Arc::new(acker), cancelled: false }
    }

    /// How many deliveries a cancellation overtakes. An in-process broker does not know that.
    fn overtaken(&self) -> usize {
        let world = &self.process.world;
        let overtakes = !world.embedded && self.source.prefetch.is_some() && world.happens(500_000);
        if overtakes { usize::try_from(world.rng.below(3)).unwrap_or(0) } else { 0 }
    }

    /// Consumes anew, once the connection is back.
    async fn rebuild(&self) {
        connected(&self.process).await;
        let id = register(&self.process, &self.source, &self.wake);
        let generation = self.acker.link().generation + 1;
        *self.acker.link.lock().unwrap_or_else(PoisonError::into_inner) = Link { generation, id };
        self.process.world.note(&self.process.name, format!("consumes {} again", self.source.queue));
    }
}

fn register(process: &Process, source: &Source, wake: &Arc<Notify>) -> u64 {
    let mut server = process.world.broker();
    server.consume(&source.queue, process.connection, source.prefetch, Arc::clone(wake))
}

#[async_trait]
impl Consumer for SimConsumer {
    async fn next(&mut self, max: usize) -> Option<Vec<Delivery>> {
        let world = Arc::clone(&self.process.world);
        loop {
            self.process.live().await;
            if world.happens(world.faults.disconnect) {
                world.broker().disconnect(self.process.connection, &world);
            }
            let link = self.acker.link();
            let found = world.broker().take(&self.source.queue, link.id, max);
            match found {
                Found::Deliveries(mut deliveries) => {
                    for delivery in &mut deliveries {
                        delivery.tag.generation = link.generation;
                        let again = if delivery.redelivered { " again" } else { "" };
                        let body = digest(&delivery.body) >> 32;
                        world.note(
                            &self.process.name,
                            format!("takes {}{again}: {body:08x}", self.source.queue),
                        );
                    }
                    return Some(deliveries);
                }
                Found::Nothing(None) if self.cancelled => return None,
                Found::Gone if self.cancelled => return None,
                Found::Gone => self.rebuild().await,
                Found::Nothing(Some(at)) => tokio::time::sleep_until(at).await,
                Found::Nothing(None) => self.wake.notified().await,
            }
        }
    }

    async fn admit(&mut self, further: u16) {
        self.process.live().await;
        let Some(prefetch) = &mut self.source.prefetch else { return };
        *prefetch = usize::from(further);
        let (id, overtaken) = (self.acker.link().id, self.overtaken());
        self.process.world.broker().admit(&self.source.queue, id, usize::from(further), overtaken);
    }

    async fn cancel(&mut self) {
        self.process.live().await;
        self.cancelled = true;
        let (id, overtaken) = (self.acker.link().id, self.overtaken());
        self.process.world.broker().cancel(&self.source.queue, id, overtaken);
    }

    fn acker(&self) -> Arc<dyn Acker> {
        Arc::clone(&self.acker) as Arc<dyn Acker>
    }
}

impl Drop for SimConsumer {
    fn drop(&mut self) {
        // What a process held when it died was given back then.
        self.process.world.broker().remove_consumer(&self.source.queue, self.acker.link().id);
    }
}

/// Settles what a consumer has; tags of an earlier connection mean nothing.
struct SimAcker {
    process: Arc<Process>,
    queue: String,
    link: Mutex<Link>,
}

impl SimAcker {
    fn link(&self) -> Link {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer that a tag is of, unless the connection is lost before the broker hears of it.
    async fn settles(&self, what: &str, tag: DeliveryTag) -> Option<u64> {
        let world = &self.process.world;
        self.process.survive(world.faults.die_at_call).await;
        let link = self.link();
        if link.generation != tag.generation {
            return None;
        }
        world.note(&self.process.name, format!("{what} {} {}", self.queue, tag.tag));
        if world.happens(world.faults.disconnect) {
            world.broker().disconnect(self.process.connection, world);
            return None;
        }
        Some(link.id)
    }
}

#[async_trait]
impl Acker for SimAcker {
    async fn ack(&self, tag: DeliveryTag) {
        if let Some(id) = self.settles("acks", tag).await {
            self.process.world.broker().settle(&self.queue, id, |other| other == tag.tag);
        }
    }

    async fn ack_up_to(&self, tag: DeliveryTag) {
        if let Some(id) = self.settles("acks up to", tag).await {
            self.process.world.broker().settle(&self.queue, id, |other| other <= tag.tag);
        }
    }

    async fn requeue(&self, tag: DeliveryTag) {
        if let Some(id) = self.settles("gives back", tag).await {
            self.process.world.broker().requeue(&self.queue, id, tag.tag);
        }
    }
}
