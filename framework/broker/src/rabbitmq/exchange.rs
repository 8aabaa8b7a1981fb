//! Publishes through exchanges, on a channel of its own: RabbitMQ closes the channel over an exchange that does not exist,
//! and whoever names one must not hold up what is published to queues.

use bytes::Bytes;
use lapin::Confirmation;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use stagepost_protocol::{Message, Properties};
use tokio::sync::Mutex;

use super::Inner;
use super::message::{short, to_amqp};
use super::publish::{LaneChannel, NACKS_MAX, is_refusal, open};
use super::reconnect::Backoff;
use crate::{Error, Published};

/// The channel. One message at a time: lapin hands a returned one to whichever confirmation comes next.
#[derive(Default)]
pub(super) struct Exchanges(Mutex<Option<LaneChannel>>);

impl Exchanges {
    /// See [`crate::Broker::publish_to_exchange`].
    pub(super) async fn publish(
        &self,
        inner: &Inner,
        exchange: &str,
        routing_key: &str,
        body: Bytes,
        properties: Properties,
    ) -> Published {
        let denied =
            |reason: String| Error::Denied { what: format!("publish to exchange '{exchange}'"), reason };
        let mut message = Message { queue: routing_key.to_owned(), body, properties, persistent: true };
        let name = short("the exchange's name", exchange).map_err(denied)?;
        let key = short("the routing key", routing_key).map_err(denied)?;
        let mut slot = self.0.lock().await;
        let (mut backoff, mut nacks) = (Backoff::new(), 0);
        loop {
            let lane = match open(inner, slot.take()).await {
                Ok(lane) => lane,
                Err(Error::Closed) => return Err(Error::Closed),
                Err(_) => {
                    backoff.wait().await;
                    continue;
                }
            };
            let properties = to_amqp(&message).map_err(denied)?;
            let sending = send(&lane, name.clone(), key.clone(), &message.body, properties);
            match inner.publishing.while_up(lane.session.number, sending).await {
                Some(Ok(confirmation)) => {
                    let nacked = confirmation.is_nack();
                    let returned = confirmation.take_message().is_some();
                    *slot = Some(lane);
                    if returned {
                        return Err(Error::Unbound {
                            exchange: exchange.into(),
                            routing_key: routing_key.into(),
                        });
                    }
                    if !nacked {
                        return Ok(());
                    }
                    if nacks >= NACKS_MAX {
                        return Err(denied("a queue that is bound to it takes no more messages".into()));
                    }
                    nacks += 1;
                }
                Some(Err(error)) if is_refusal(&error) => return Err(denied(error.to_string())),
                lost => {
                    tracing::debug!(exchange, known = lost.is_some(), "publishing again");
                    message.mark_republished();
                }
            }
            backoff.wait().await;
        }
    }
}

async fn send(
    lane: &LaneChannel,
    exchange: ShortString,
    routing_key: ShortString,
    body: &[u8],
    properties: lapin::BasicProperties,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    lane.channel.basic_publish(exchange, routing_key, options, body, properties).await?.await
}
