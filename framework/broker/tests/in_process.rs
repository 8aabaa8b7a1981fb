//! The in-process broker against the contract, and its limit.

use std::sync::Arc;
use std::time::Duration;

use stagepost_broker::contract::{Fixture, message, take, texts, within};
use stagepost_broker::in_process::{InProcessBroker, Limits};
use stagepost_broker::{Broker, Health};
use stagepost_protocol::Properties;

async fn connect() -> Option<Arc<dyn Broker>> {
    Some(InProcessBroker::new())
}

stagepost_broker::contract_tests!(connect);

/// Over its limit the broker is slow and says so, but takes everything; settled messages make room.
#[tokio::test]
async fn a_full_broker_slows_down_and_recovers() {
    let limits = Limits { bytes: 1000, wait_max: Duration::from_millis(50) };
    let f = Fixture::new(InProcessBroker::with_limits(limits));
    let queue = f.queue("full").await;
    let health = f.broker.health();
    f.publish(&queue, [&"x".repeat(2000)]).await;
    assert!(matches!(*health.borrow(), Health::Blocked(_)));
    let begin = std::time::Instant::now();
    f.publish(&queue, ["y"]).await;
    assert!(begin.elapsed() >= limits.wait_max, "it waits for room first");

    let waits = f.broker.publish(vec![message(&queue, "z")]);
    let mut consumer = f.consume(&queue, 10).await;
    let (came, waited) = tokio::join!(take(&mut *consumer, 2), waits);
    waited[0].as_ref().expect("it was taken after the wait");
    consumer.acker().ack_up_to(came[1].tag).await;
    assert_eq!(*health.borrow(), Health::Up);
    assert_eq!(within("the last", take(&mut *consumer, 1)).await.len(), 1);
}

/// Unlike a quorum queue this one keeps the order: what comes back goes to its old place.
#[tokio::test]
async fn what_comes_back_keeps_its_place() {
    let f = Fixture::new(InProcessBroker::new());
    let queue = f.queue("place").await;
    f.publish(&queue, ["0", "1", "2", "3", "4"]).await;
    let mut consumer = f.consume(&queue, 4).await;
    let came = take(&mut *consumer, 4).await;
    consumer.acker().requeue(came[2].tag).await;
    consumer.acker().requeue(came[0].tag).await;
    assert_eq!(texts(&take(&mut *consumer, 1).await), ["0"]);
    drop(consumer);
    let mut consumer = f.consume(&queue, 10).await;
    assert_eq!(texts(&take(&mut *consumer, 5).await), ["0", "1", "2", "3", "4"]);
}

/// Who consumes learns which routing key a message was published with.
#[tokio::test]
async fn what_comes_by_an_exchange_has_its_routing_key() {
    let f = Fixture::new(InProcessBroker::new());
    let queue = f.queue("bound").await;
    f.broker.declare_exchange("events").await.expect("it is declared");
    f.broker.bind(&queue, "events", "orders.#").await.expect("it is bound");
    let published =
        f.broker.publish_to_exchange("events", "orders.new", "a".into(), Properties::default()).await;
    published.expect("a queue is bound");
    f.publish(&queue, ["b"]).await;
    let mut consumer = f.consume(&queue, 10).await;
    let keys: Vec<_> =
        take(&mut *consumer, 2).await.into_iter().map(|delivery| delivery.routing_key).collect();
    assert_eq!(keys, [Some("orders.new".to_owned()), None]);
}
