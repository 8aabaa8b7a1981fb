//! What others do on RabbitMQ: an existing producer, a person who answers, an operator who looks at dead letters.

use std::time::Duration;

use lapin::{
    Acker, BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use crate::until;

/// A message that was taken off a queue.
#[derive(Debug)]
pub struct Letter {
    /// Its body.
    pub body: Vec<u8>,
    /// Its properties.
    pub properties: BasicProperties,
    /// RabbitMQ has delivered it before.
    pub redelivered: bool,
    acker: Acker,
}

impl Letter {
    fn new(delivery: Delivery) -> Letter {
        let Delivery { data, properties, redelivered, acker, .. } = delivery;
        Letter { body: data, properties, redelivered, acker }
    }

    /// Acknowledges it; only for one that was [`borrowed`](Queues::borrowed).
    pub async fn acknowledge(&self) {
        self.acker.ack(BasicAckOptions::default()).await.expect("the channel is open");
    }

    /// A header that is a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongLongInt(number) => Some(*number),
            AMQPValue::LongInt(number) => Some(i64::from(*number)),
            _ => None,
        }
    }

    /// The names of its headers, in their order.
    pub fn header_names(&self) -> Vec<&str> {
        let headers = self.properties.headers().as_ref();
        headers.iter().flat_map(|headers| headers.inner().keys()).map(|name| name.as_str()).collect()
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// Its body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// A connection to RabbitMQ.
#[derive(Debug)]
pub struct Queues {
    channel: Channel,
    connection: Connection,
}

impl Queues {
    /// Connects.
    pub async fn connect(url: &str) -> Queues {
        let connection = Connection::connect(url, ConnectionProperties::default()).await;
        let connection = connection.expect("RabbitMQ can be reached");
        let channel = connection.create_channel().await.expect("a channel opens");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("RabbitMQ confirms");
        Queues { channel, connection }
    }

    /// Declares a durable classic queue, as an existing producer would have.
    pub async fn declare(&self, queue: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.expect("the queue can be declared");
    }

    /// Declares a durable topic exchange and binds a queue to it.
    pub async fn bind(&self, queue: &str, exchange: &str, pattern: &str) {
        self.declare_exchange(exchange, ExchangeKind::Topic).await;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bound =
            self.channel.queue_bind(queue.into(), exchange.into(), pattern.into(), options, none).await;
        bound.expect("the queue can be bound");
    }

    /// Deletes an exchange.
    pub async fn delete_exchange(&self, exchange: &str) {
        let options = ExchangeDeleteOptions::default();
        let deleted = self.channel.exchange_delete(exchange.into(), options).await;
        deleted.expect("the exchange can be deleted");
    }

    /// Publishes to a queue; returns when it is confirmed.
    pub async fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = properties.with_delivery_mode(2);
        let sent = self.channel.basic_publish("".into(), queue.into(), options, body, properties).await;
        let confirmed = sent.expect("the message can be sent").await.expect("the message is confirmed");
        assert!(confirmed.is_ack(), "RabbitMQ took no message for {queue}: {confirmed:?}");
    }

    /// Publishes to an exchange; `false`: no queue took it.
    pub async fn publish_to(&self, exchange: &str, routing_key: &str, body: &[u8], id: &str) -> bool {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id.into());
        let (exchange, key) = (exchange.into(), routing_key.into());
        let sent = self.channel.basic_publish(exchange, key, options, body, properties).await;
        let confirmed = sent.expect("the message can be sent").await.expect("the message is confirmed");
        Confirmation::take_message(confirmed).is_none()
    }

    /// Declares a durable exchange, as an existing producer would have.
    pub async fn declare_exchange(&self, exchange: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declared =
            self.channel.exchange_declare(exchange.into(), kind, options, FieldTable::default()).await;
        declared.expect("the exchange can be declared");
    }

    /// Takes one message, if there is one. No such queue counts as none.
    pub async fn take(&mut self, queue: &str) -> Option<Letter> {
        match self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await {
            Ok(Some(message)) => Some(Letter::new(message.delivery)),
            Ok(None) => None,
            Err(_) => {
                self.channel = self.connection.create_channel().await.expect("a channel opens");
                let confirms = self.channel.confirm_select(ConfirmSelectOptions::default()).await;
                confirms.expect("RabbitMQ confirms");
                None
            }
        }
    }

    /// Waits for a message and takes it.
    pub async fn taken(&mut self, queue: &str, limit: Duration) -> Letter {
        until(&format!("a message on {queue}"), limit, async || self.take(queue).await).await
    }

    /// Waits for a message and keeps it unacknowledged: it comes again when this connection ends.
    pub async fn borrowed(&self, queue: &str, limit: Duration) -> Letter {
        until(&format!("a message on {queue}"), limit, async || {
            let message = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await;
            message.expect("the queue is there").map(|message| Letter::new(message.delivery))
        })
        .await
    }

    /// Ends the connection; what was borrowed goes back.
    pub async fn close(self) {
        self.connection.close(200, "OK".into()).await.expect("the connection closes");
    }

    /// How many messages are ready on a queue.
    pub async fn count(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.expect("the queue is there").message_count()
    }

    /// Empties a queue.
    pub async fn purge(&self, queue: &str) -> u32 {
        let purged = self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await;
        purged.expect("the queue can be purged")
    }

    /// Deletes a queue, whatever is on it and whoever uses it.
    pub async fn delete(&self, queue: &str) {
        let deleted = self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
        deleted.expect("the queue can be deleted");
    }
}
