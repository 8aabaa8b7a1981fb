//! What RabbitMQ says about a message that it delivers again. `redelivered` decides whether a worker may run a task at
//! once or must ask first (docs/guarantees.md), so a broker that behaves otherwise must be noticed here.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use stagepost_tests::{Servers, Service};

use crate::PATIENCE;

/// Messages on a queue.
const MESSAGES: u8 = 10;
/// How many of them are delivered before something dies.
const DELIVERED: u8 = 4;
/// RabbitMQ 3.10 may bring a quorum queue that is younger than this back without its process. Nothing tells when the
/// queue is old enough.
const QUEUE_OLD_ENOUGH: Duration = Duration::from_secs(3);

/// `redelivered` and `x-delivery-count` of each message.
type Flags = BTreeMap<u8, (bool, Option<i64>)>;

async fn connect(servers: &Servers) -> Connection {
    Connection::connect(&servers.amqp_url, ConnectionProperties::default()).await.unwrap()
}

/// Declares a queue of this type, as a broker of ours would, and puts messages 0 to 9 on it, all confirmed.
async fn fill(connection: &Connection, queue: &str, kind: &str) {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    if kind == "quorum" {
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(i32::MAX));
    }
    channel.queue_declare(queue.into(), options, arguments).await.unwrap();
    for n in 0..MESSAGES {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let persistent = properties.with_delivery_mode(2);
        let sent = channel.basic_publish("".into(), queue.into(), options, &[n], persistent).await;
        assert!(sent.unwrap().await.unwrap().is_ack());
    }
}

/// Takes so many messages on a channel of their own, acknowledges none, and says how they were flagged. They go back
/// with the channel.
async fn take(connection: &Connection, queue: &str, count: u8) -> (Flags, Channel) {
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(u16::from(count), BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut consumer = consuming.await.unwrap();
    let mut flags = Flags::new();
    while flags.len() < usize::from(count) {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("a message comes");
        let delivery = delivery.unwrap().unwrap();
        let headers = delivery.properties.headers().as_ref();
        let count = headers.and_then(|headers| whole(headers.inner().get("x-delivery-count")?));
        flags.insert(delivery.data[0], (delivery.redelivered, count));
    }
    (flags, channel)
}

fn whole(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::LongLongInt(count) => Some(*count),
        AMQPValue::LongInt(count) => Some(i64::from(*count)),
        AMQPValue::ShortShortUInt(count) => Some(i64::from(*count)),
        _ => None,
    }
}

/// The messages that are flagged as redelivered.
fn redelivered(flags: &Flags) -> Vec<u8> {
    flags.iter().filter(|(_, (redelivered, _))| *redelivered).map(|(n, _)| *n).collect()
}

/// The delivery counts of the messages that had been delivered.
fn counts(flags: &Flags) -> Vec<Option<i64>> {
    flags.iter().filter(|(n, _)| **n < DELIVERED).map(|(_, (_, count))| *count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rabbitmq_flags_as_redelivered() {
    let Some(servers) = Servers::own().await else { return };
    let (delivered, all): (Vec<u8>, Vec<u8>) = ((0..DELIVERED).collect(), (0..MESSAGES).collect());
    let connection = connect(&servers).await;
    for (queue, kind) in [
        ("drop-quorum", "quorum"),
        ("drop-classic", "classic"),
        ("kill-quorum", "quorum"),
        ("kill-classic", "classic"),
    ] {
        fill(&connection, queue, kind).await;
    }

    // A consumer's connection is lost.
    let consumer = connect(&servers).await;
    let mut held = Vec::new();
    for queue in ["drop-quorum", "drop-classic"] {
        let (flags, channel) = take(&consumer, queue, DELIVERED).await;
        assert!(redelivered(&flags).is_empty(), "{queue}: nothing had been delivered before");
        held.push(channel);
    }
    consumer.close(200, "OK".into()).await.unwrap();
    for (queue, count) in [("drop-quorum", Some(1)), ("drop-classic", None)] {
        let (flags, _channel) = take(&connection, queue, MESSAGES).await;
        assert_eq!(
            redelivered(&flags),
            delivered,
            "{queue}: after a consumer's connection was lost exactly what had been delivered to it is flagged; else a \
             task runs twice, or tasks that nobody began wait for a lease"
        );
        assert_eq!(counts(&flags), [count; DELIVERED as usize], "{queue}: quorum queues count deliveries");
    }

    // The broker is killed.
    tokio::time::sleep(QUEUE_OLD_ENOUGH).await;
    let consumer = connect(&servers).await;
    for queue in ["kill-quorum", "kill-classic"] {
        let (flags, channel) = take(&consumer, queue, DELIVERED).await;
        assert!(redelivered(&flags).is_empty(), "{queue}: nothing had been delivered before");
        held.push(channel);
    }
    servers.kill(Service::RabbitMq).await;
    servers.restart(Service::RabbitMq).await;
    let connection = connect(&servers).await;
    let (flags, _channel) = take(&connection, "kill-quorum", MESSAGES).await;
    assert_eq!(
        redelivered(&flags),
        delivered,
        "a quorum queue flags after kill -9 exactly what had been delivered; else a task that a worker had begun runs \
         a second time, or the whole backlog waits for leases"
    );
    assert_eq!(counts(&flags), [Some(1); DELIVERED as usize], "and counts that delivery");
    let (flags, _channel) = take(&connection, "kill-classic", MESSAGES).await;
    assert_eq!(
        redelivered(&flags),
        all,
        "a classic queue flags after kill -9 every message, delivered or not: it cannot tell. Should it flag fewer, look \
         whether one that had been delivered is missing: that task would run a second time"
    );
}
