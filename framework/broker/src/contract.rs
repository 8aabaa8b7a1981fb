//! What every [`crate::Broker`] must do, as cases that both implementations run.
//!
//! [`contract_tests!`](crate::contract_tests) turns every case into a test. Queues carry a unique prefix, and are
//! deleted afterwards whether the case held or not.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use stagepost_protocol::{HeaderValue, Message, Properties};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{Broker, ConsumeOptions, Consumer, Delivery, DeliveryTag, Error, Health, QueueSpec};

/// How long a case waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A broker and the queues that a case made.
#[derive(Clone)]
pub struct Fixture {
    /// What is tested.
    pub broker: Arc<dyn Broker>,
    prefix: Arc<str>,
    queues: Arc<Mutex<Vec<String>>>,
}

/// One thing that a broker must do.
pub type Case = fn(Fixture) -> BoxFuture<'static, ()>;

macro_rules! cases {
    ($($name:ident)*) => {
        /// All cases, by name.
        pub const CASES: &[(&str, Case)] = &[$((stringify!($name), |f| $name(f).boxed())),*];

        /// Makes a test of every case. `$connect` is an async function that gives an
        /// `Option<Arc<dyn Broker>>`; `None` skips the tests.
        #[macro_export]
        macro_rules! contract_tests {
            ($connect:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        if let Some(broker) = $connect().await {
                            $crate::contract::run(broker, stringify!($name)).await;
                        }
                    }
                )*
            };
        }
    };
}

cases! {
    messages_come_in_the_order_of_publishing
    no_more_than_the_prefetch_is_unsettled
    a_requeued_delivery_comes_again_flagged
    a_message_may_come_again_as_often_as_it_likes
    a_dropped_consumer_gives_its_deliveries_back
    a_cancelled_consumer_settles_what_it_took
    a_cancelled_consumer_ends_though_there_was_room_for_more
    ack_up_to_settles_all_earlier_deliveries
    a_message_for_an_unknown_queue_is_unroutable
    each_publisher_learns_what_became_of_its_own_messages
    a_foreign_queue_must_exist
    replies_come_on_a_queue_of_ones_own
    depth_counts_what_waits_and_delete_removes_it
    dropping_next_loses_no_delivery
    ten_thousand_messages_are_pipelined
    properties_and_headers_come_as_they_were_sent
    two_consumers_share_a_queue
    a_queue_is_bound_to_an_exchange_that_exists
    messages_to_an_exchange_go_to_the_queues_that_are_bound
    a_consumer_admits_more_or_fewer_deliveries
    a_consumer_that_admits_nothing_is_cancelled_or_closed
    a_closed_broker_says_so
}

/// Runs one case and cleans up after it.
///
/// # Panics
/// When the case does not hold.
pub async fn run(broker: Arc<dyn Broker>, name: &str) {
    let (_, case) = CASES.iter().find(|(n, _)| *n == name).expect("the macro names existing cases");
    let fixture = Fixture::new(broker);
    let outcome = tokio::spawn(case(fixture.clone())).await;
    fixture.clean_up().await;
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Waits with [`PATIENCE`].
///
/// # Panics
/// When it takes longer.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long: {what}"),
    }
}

/// A message whose body is `text`.
pub fn message(queue: &str, text: &str) -> Message {
    Message {
        queue: queue.into(),
        body: Bytes::copy_from_slice(text.as_bytes()),
        properties: Properties::default(),
        persistent: true,
    }
}

/// The bodies as texts.
pub fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| String::from_utf8_lossy(&delivery.body).into_owned()).collect()
}

/// Takes exactly `count` deliveries, however they come.
pub async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let next = within("a delivery", consumer.next(count - taken.len())).await;
        taken.extend(next.expect("the consumer goes on"));
    }
    taken
}

impl Fixture {
    /// A fixture with a prefix of its own.
    pub fn new(broker: Arc<dyn Broker>) -> Fixture {
        let prefix = format!("test.{}", Uuid::new_v4().simple());
        Fixture { broker, prefix: prefix.into(), queues: Arc::default() }
    }

    /// Declares a queue, which is deleted at the end.
    pub async fn queue(&self, name: &str) -> String {
        let name = self.name(name);
        let spec = [QueueSpec::ours(&name)];
        within("declare", self.broker.declare(&spec)).await.expect("a queue is declared");
        name
    }

    /// A unique queue name; a queue of this name is deleted at the end.
    pub fn name(&self, name: &str) -> String {
        let name = format!("{}.{name}", self.prefix);
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        name
    }

    /// Publishes texts and expects all to be confirmed.
    pub async fn publish(&self, queue: &str, texts: impl IntoIterator<Item = impl AsRef<str>>) {
        let messages = texts.into_iter().map(|text| message(queue, text.as_ref())).collect();
        for published in within("publish", self.broker.publish(messages)).await {
            published.expect("the message is confirmed");
        }
    }

    /// Consumes with a prefetch.
    pub async fn consume(&self, queue: &str, prefetch: u16) -> Box<dyn Consumer> {
        let consumer = self.broker.consume(queue, ConsumeOptions { prefetch });
        within("consume", consumer).await.expect("a declared queue can be consumed")
    }

    /// Waits until so many messages wait in the queue.
    pub async fn wait_for_depth(&self, queue: &str, expected: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let depth = within("depth", self.broker.depth(queue)).await.expect("depth is told");
            if depth == Some(expected) {
                return;
            }
            assert!(Instant::now() < deadline, "the depth is {depth:?}, not {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deletes the queues and closes the broker.
    pub async fn clean_up(&self) {
        let queues = std::mem::take(&mut *self.queues.lock().unwrap_or_else(PoisonError::into_inner));
        for queue in queues {
            // A case may have closed the broker already, having deleted its queues.
            let _deleted = tokio::time::timeout(PATIENCE, self.broker.delete(&queue)).await;
        }
        self.broker.close().await;
    }
}

/// Nothing comes for a while. Only for what must never come: it can miss a fault, but not invent one.
async fn expect_nothing(consumer: &mut dyn Consumer) {
    let next = tokio::time::timeout(Duration::from_millis(150), consumer.next(10)).await;
    if let Ok(deliveries) = next {
        panic!("nothing should come, but there is {:?}", deliveries.map(|d| texts(&d)));
    }
}

async fn messages_come_in_the_order_of_publishing(f: Fixture) {
    let queue = f.queue("order").await;
    let sent: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    f.publish(&queue, &sent[..200]).await;
    let mut consumer = f.consume(&queue, 1000).await;
    f.publish(&queue, &sent[200..]).await;
    let came = take(&mut *consumer, 500).await;
    assert_eq!(texts(&came), sent);
    assert!(came.iter().all(|delivery| !delivery.redelivered));
    assert!(came.is_sorted_by_key(|delivery| delivery.tag));
}

async fn no_more_than_the_prefetch_is_unsettled(f: Fixture) {
    let queue = f.queue("prefetch").await;
    f.publish(&queue, ["0", "1", "2", "3", "4"]).await;
    let mut consumer = f.consume(&queue, 2).await;
    let first = take(&mut *consumer, 2).await;
    expect_nothing(&mut *consumer).await;
    consumer.acker().ack(first[1].tag).await;
    assert_eq!(texts(&take(&mut *consumer, 1).await), ["2"]);
    expect_nothing(&mut *consumer).await;
    f.wait_for_depth(&queue, 2).await;
}

async fn a_requeued_delivery_comes_again_flagged(f: Fixture) {
    let queue = f.queue("requeue").await;
    f.publish(&queue, ["a", "b", "c"]).await;
    let mut consumer = f.consume(&queue, 2).await;
    let first = take(&mut *consumer, 2).await;
    consumer.acker().requeue(first[0].tag).await;
    // A quorum queue may hand out what it had ready first.
    let mut flags = BTreeMap::new();
    while flags.len() < 2 {
        let came = take(&mut *consumer, 1).await;
        flags.insert(texts(&came).remove(0), came[0].redelivered);
        consumer.acker().ack(came[0].tag).await;
    }
    assert_eq!(flags, BTreeMap::from([("a".to_owned(), true), ("c".to_owned(), false)]));
}

/// RabbitMQ 4 drops what came again 20 times, unless the queue says otherwise.
async fn a_message_may_come_again_as_often_as_it_likes(f: Fixture) {
    let queue = f.queue("again").await;
    f.publish(&queue, ["a"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    for time in 0..30 {
        let came = take(&mut *consumer, 1).await;
        assert_eq!((texts(&came), came[0].redelivered), (vec!["a".to_owned()], time > 0));
        consumer.acker().requeue(came[0].tag).await;
    }
    // Not by being given back alone, but with its consumer too.
    for _ in 0..30 {
        drop(consumer);
        consumer = f.consume(&queue, 1).await;
        assert_eq!(texts(&take(&mut *consumer, 1).await), ["a"]);
    }
}

async fn a_dropped_consumer_gives_its_deliveries_back(f: Fixture) {
    let queue = f.queue("drop").await;
    f.publish(&queue, ["0", "1", "2", "3", "4"]).await;
    let mut consumer = f.consume(&queue, 3).await;
    let came = take(&mut *consumer, 3).await;
    let acker = consumer.acker();
    acker.ack(came[1].tag).await;
    drop(consumer);
    // What is settled too late changes nothing.
    f.wait_for_depth(&queue, 4).await;
    acker.ack(came[0].tag).await;
    let mut consumer = f.consume(&queue, 10).await;
    let again = take(&mut *consumer, 4).await;
    let flags: BTreeMap<String, bool> = again
        .iter()
        .map(|delivery| (texts(std::slice::from_ref(delivery)).remove(0), delivery.redelivered))
        .collect();
    assert_eq!(flags.keys().collect::<Vec<_>>(), ["0", "2", "3", "4"]);
    // `3` may have been on its way to the first consumer, which had room for it.
    assert!(flags["0"] && flags["2"] && !flags["4"], "{flags:?}");
}

async fn a_cancelled_consumer_ends_though_there_was_room_for_more(f: Fixture) {
    let queue = f.queue("cancel-early").await;
    f.publish(&queue, ["a", "b"]).await;
    let mut consumer = f.consume(&queue, 10).await;
    let mut taken = take(&mut *consumer, 1).await;
    within("cancel", consumer.cancel()).await;
    while let Some(more) = within("the end", consumer.next(10)).await {
        taken.extend(more);
    }
    // In process a message is delivered when it is taken.
    assert!(texts(&taken).starts_with(&["a".to_owned()]) && taken.len() <= 2, "{:?}", texts(&taken));
}

async fn a_cancelled_consumer_settles_what_it_took(f: Fixture) {
    let queue = f.queue("cancel").await;
    f.publish(&queue, ["a", "b"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    let came = take(&mut *consumer, 1).await;
    within("cancel", consumer.cancel()).await;
    consumer.acker().ack(came[0].tag).await;
    assert!(within("the end", consumer.next(1)).await.is_none());
    drop(consumer);
    let mut consumer = f.consume(&queue, 10).await;
    assert_eq!(texts(&take(&mut *consumer, 1).await), ["b"]);
    expect_nothing(&mut *consumer).await;
}

async fn ack_up_to_settles_all_earlier_deliveries(f: Fixture) {
    let queue = f.queue("multiple").await;
    f.publish(&queue, (0..10).map(|n| n.to_string())).await;
    let mut consumer = f.consume(&queue, 8).await;
    let came = take(&mut *consumer, 8).await;
    let acker = consumer.acker();
    acker.ack(came[2].tag).await;
    acker.ack_up_to(came[5].tag).await;
    // Stale tags and tags of other generations mean nothing.
    acker.ack_up_to(DeliveryTag { generation: u64::MAX, tag: came[7].tag.tag }).await;
    acker.ack(DeliveryTag { generation: u64::MAX, tag: came[6].tag.tag }).await;
    acker.requeue(DeliveryTag { generation: u64::MAX, tag: came[6].tag.tag }).await;
    assert_eq!(texts(&take(&mut *consumer, 2).await), ["8", "9"]);
    drop(consumer);
    f.wait_for_depth(&queue, 4).await;
    let mut consumer = f.consume(&queue, 10).await;
    assert_eq!(texts(&take(&mut *consumer, 4).await), ["6", "7", "8", "9"]);
}

async fn a_message_for_an_unknown_queue_is_unroutable(f: Fixture) {
    let (queue, unknown) = (f.queue("known").await, f.name("unknown"));
    let messages = vec![message(&queue, "a"), message(&unknown, "b"), message(&queue, "c")];
    let published = within("publish", f.broker.publish(messages)).await;
    assert!(matches!(&published[..], [Ok(()), Err(Error::Unroutable { .. }), Ok(())]), "{published:?}");
    let consumed = within("consume", f.broker.consume(&unknown, ConsumeOptions { prefetch: 1 })).await;
    assert!(matches!(consumed, Err(Error::Denied { .. })));
    // Neither did harm.
    let mut consumer = f.consume(&queue, 10).await;
    assert_eq!(texts(&take(&mut *consumer, 2).await), ["a", "c"]);
}

async fn each_publisher_learns_what_became_of_its_own_messages(f: Fixture) {
    let (queue, unknown) = (f.queue("known").await, f.name("unknown"));
    // Equal messages, too: which of them came back must not be mixed up between publishers.
    let publishers = (0..40).map(|n| {
        let (f, queue, unknown) = (f.clone(), queue.clone(), unknown.clone());
        tokio::spawn(async move {
            for round in 0..5 {
                let to = |k: usize| if usize::is_multiple_of(n + k + round, 3) { &unknown } else { &queue };
                let messages = (0..10).map(|k| message(to(k), "same")).collect();
                let published = within("publish", f.broker.publish(messages)).await;
                assert_eq!(published.len(), 10);
                for (k, published) in published.iter().enumerate() {
                    match published {
                        Ok(()) => assert_eq!(to(k), &queue),
                        Err(Error::Unroutable { queue }) => assert_eq!((to(k), queue), (&unknown, &unknown)),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.expect("it learns the truth");
    }
}

async fn a_foreign_queue_must_exist(f: Fixture) {
    let name = f.name("foreign");
    let foreign = [QueueSpec::foreign(&name)];
    let declared = within("declare", f.broker.declare(&foreign)).await;
    assert!(matches!(declared, Err(Error::Denied { .. })), "{declared:?}");
    within("declare", f.broker.declare(&[QueueSpec::ours(&name)])).await.expect("it is created");
    within("declare", f.broker.declare(&[QueueSpec::ours(&name)])).await.expect("it may be there already");
    within("declare", f.broker.declare(&foreign)).await.expect("now it is there");
    f.publish(&name, ["a"]).await;
}

async fn replies_come_on_a_queue_of_ones_own(f: Fixture) {
    let (first, mut first_consumer) = within("reply queue", f.broker.reply_queue()).await.expect("made");
    let (second, second_consumer) = within("reply queue", f.broker.reply_queue()).await.expect("made");
    assert_ne!(first, second);
    // Never settled, and yet no prefetch ends it.
    f.publish(&first, (0..3000).map(|n| n.to_string())).await;
    let came = take(&mut *first_consumer, 3000).await;
    assert_eq!(came.last().map(|last| last.body.clone()), Some(Bytes::from_static(b"2999")));
    // It goes with its consumer.
    drop(second_consumer);
    let deadline = Instant::now() + PATIENCE;
    while within("publish", f.broker.publish(vec![message(&second, "late")])).await[0].is_ok() {
        assert!(Instant::now() < deadline, "the reply queue stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn depth_counts_what_waits_and_delete_removes_it(f: Fixture) {
    let queue = f.queue("depth").await;
    f.publish(&queue, ["a", "b"]).await;
    f.wait_for_depth(&queue, 2).await;
    within("delete", f.broker.delete(&queue)).await.expect("it is deleted");
    assert_eq!(within("depth", f.broker.depth(&queue)).await.expect("depth is told"), None);
    within("delete", f.broker.delete(&queue)).await.expect("nothing to delete is fine");
    let published = within("publish", f.broker.publish(vec![message(&queue, "c")])).await;
    assert!(matches!(published[0], Err(Error::Unroutable { .. })), "{published:?}");
    f.queue("depth").await;
    f.publish(&queue, ["d"]).await;
    let mut consumer = f.consume(&queue, 5).await;
    assert_eq!(texts(&take(&mut *consumer, 1).await), ["d"]);
}

async fn dropping_next_loses_no_delivery(f: Fixture) {
    let queue = f.queue("cancel-safety").await;
    let mut consumer = f.consume(&queue, 100).await;
    let mut idle = f.consume(&queue, 100).await;
    let publisher = f.clone();
    let to = queue.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..200 {
            publisher.publish(&to, [n.to_string()]).await;
        }
    });
    let mut came = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while came.len() < 200 {
        assert!(Instant::now() < deadline, "{} of 200 came", came.len());
        for consumer in [&mut consumer, &mut idle] {
            // Polled once, then dropped, mostly before anything came.
            let deliveries = match consumer.next(3).now_or_never() {
                Some(deliveries) => deliveries.expect("the consumer goes on"),
                None => continue,
            };
            for delivery in &deliveries {
                consumer.acker().ack(delivery.tag).await;
            }
            came.extend(texts(&deliveries));
        }
        tokio::task::yield_now().await;
    }
    publishing.await.expect("publishing held");
    came.sort_by_key(|text| text.parse::<u32>().expect("a number"));
    assert_eq!(came, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn ten_thousand_messages_are_pipelined(f: Fixture) {
    let queue = f.queue("many").await;
    let mut consumer = f.consume(&queue, 500).await;
    let publisher = f.clone();
    let to = queue.clone();
    let publishing = tokio::spawn(async move {
        publisher.publish(&to, (0..10_000).map(|n| n.to_string())).await;
    });
    let acker = consumer.acker();
    let mut count = 0;
    while count < 10_000 {
        let deliveries = within("deliveries", consumer.next(100)).await.expect("the consumer goes on");
        for text in texts(&deliveries) {
            assert_eq!(text, count.to_string());
            count += 1;
        }
        acker.ack_up_to(deliveries.last().expect("never empty").tag).await;
    }
    publishing.await.expect("publishing held");
    drop(consumer);
    f.wait_for_depth(&queue, 0).await;
}

async fn properties_and_headers_come_as_they_were_sent(f: Fixture) {
    let queue = f.queue("headers").await;
    let headers = BTreeMap::from([
        ("text".to_owned(), HeaderValue::Text("ünï".into())),
        ("empty".to_owned(), HeaderValue::Text(String::new())),
        ("int".to_owned(), HeaderValue::Int(-(1 << 40))),
        ("bool".to_owned(), HeaderValue::Bool(true)),
        ("float".to_owned(), HeaderValue::Float(0.25)),
        ("other".to_owned(), HeaderValue::Other(r#"{"a":[1,"b",null,false,0.5],"c":{}}"#.into())),
    ]);
    let full = Properties {
        message_id: Some("m-1".into()),
        correlation_id: Some("c-1".into()),
        reply_to: Some("answers".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("gzip".into()),
        kind: Some("start".into()),
        priority: Some(7),
        timestamp: Some(1_700_000_000),
        headers,
    };
    let mut sent = Vec::new();
    for (properties, persistent) in
        [(full.clone(), true), (Properties::default(), true), (full, false), (Properties::default(), false)]
    {
        sent.push(Message { properties, persistent, ..message(&queue, "") });
    }
    for published in within("publish", f.broker.publish(sent.clone())).await {
        published.expect("the message is confirmed");
    }
    let mut consumer = f.consume(&queue, 10).await;
    for (delivery, sent) in take(&mut *consumer, 4).await.into_iter().zip(sent) {
        assert_eq!(delivery.properties, sent.properties);
        assert_eq!(delivery.body, sent.body);
    }
}

async fn two_consumers_share_a_queue(f: Fixture) {
    let queue = f.queue("shared").await;
    let mut one = f.consume(&queue, 10).await;
    let mut other = f.consume(&queue, 10).await;
    f.publish(&queue, (0..30).map(|n| n.to_string())).await;
    let (mut first, second) = tokio::join!(take(&mut *one, 10), take(&mut *other, 10));
    one.acker().ack_up_to(first[9].tag).await;
    first.extend(take(&mut *one, 10).await);
    let mut all = texts(&[first, second].concat());
    all.sort_by_key(|text| text.parse::<u32>().expect("a number"));
    assert_eq!(all, (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn a_queue_is_bound_to_an_exchange_that_exists(f: Fixture) {
    let (queue, unknown) = (f.queue("bound").await, f.name("unbound"));
    let exchange = format!("{queue}.exchange");
    let bind =
        async |queue: &str, exchange: &str| within("bind", f.broker.bind(queue, exchange, "orders.*")).await;
    let denied = bind(&queue, &exchange).await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    for _ in 0..2 {
        within("declare", f.broker.declare_exchange(&exchange)).await.expect("it may be there already");
        bind(&queue, &exchange).await.expect("it may be bound already");
    }
    let denied = bind(&unknown, &exchange).await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    for _ in 0..2 {
        let unbound = within("unbind", f.broker.unbind(&queue, &exchange, "orders.*")).await;
        unbound.expect("nothing to unbind is fine");
    }
    f.publish(&queue, ["direct"]).await;
}

async fn messages_to_an_exchange_go_to_the_queues_that_are_bound(f: Fixture) {
    let (one, all) = (f.queue("one").await, f.queue("all").await);
    let exchange = format!("{one}.exchange");
    let publish = async |exchange: &str, routing_key: &str| {
        let properties = Properties { message_id: Some("m".into()), ..Properties::default() };
        let body = Bytes::from(routing_key.to_owned());
        within("publish", f.broker.publish_to_exchange(exchange, routing_key, body, properties)).await
    };
    let denied = publish(&exchange, "orders.new").await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    within("declare", f.broker.declare_exchange(&exchange)).await.expect("it is declared");
    let unbound = publish(&exchange, "orders.new").await;
    assert!(matches!(unbound, Err(Error::Unbound { .. })), "{unbound:?}");
    f.broker.bind(&one, &exchange, "orders.*").await.expect("it is bound");
    f.broker.bind(&all, &exchange, "#").await.expect("it is bound");
    for routing_key in ["orders.new", "invoices.new", ""] {
        publish(&exchange, routing_key).await.expect("a queue is bound");
    }
    let mut consumer = f.consume(&one, 10).await;
    let came = take(&mut *consumer, 1).await;
    assert_eq!(texts(&came), ["orders.new"]);
    assert_eq!(came[0].properties.message_id.as_deref(), Some("m"));
    let mut consumer = f.consume(&all, 10).await;
    assert_eq!(texts(&take(&mut *consumer, 3).await), ["orders.new", "invoices.new", ""]);
    for (queue, pattern) in [(&one, "orders.*"), (&all, "#")] {
        f.broker.unbind(queue, &exchange, pattern).await.expect("it is unbound");
    }
}

async fn a_consumer_admits_more_or_fewer_deliveries(f: Fixture) {
    let queue = f.queue("admits").await;
    f.publish(&queue, (0..8).map(|n| n.to_string())).await;
    let mut consumer = f.consume(&queue, 2).await;
    let acker = consumer.acker();
    let first = take(&mut *consumer, 2).await;
    within("admit", consumer.admit(0)).await;
    acker.ack(first[0].tag).await;
    expect_nothing(&mut *consumer).await;
    // What was taken before does not count: neither while it is unsettled nor when it is settled.
    within("admit", consumer.admit(1)).await;
    let third = take(&mut *consumer, 1).await;
    assert_eq!(texts(&third), ["2"]);
    acker.ack(first[1].tag).await;
    expect_nothing(&mut *consumer).await;
    acker.ack(third[0].tag).await;
    let fourth = take(&mut *consumer, 1).await;
    within("admit", consumer.admit(3)).await;
    let more = take(&mut *consumer, 3).await;
    assert_eq!(
        (texts(&fourth), texts(&more)),
        (vec!["3".to_owned()], ["4", "5", "6"].map(str::to_owned).into())
    );
    expect_nothing(&mut *consumer).await;
    assert!([&first[..], &third, &fourth, &more].concat().is_sorted_by_key(|delivery| delivery.tag));
    acker.ack_up_to(more[1].tag).await;
    assert_eq!(texts(&take(&mut *consumer, 1).await), ["7"]);
    // What is unsettled comes back, of the present consumer and of those before it.
    drop(consumer);
    f.wait_for_depth(&queue, 2).await;
}

async fn a_consumer_that_admits_nothing_is_cancelled_or_closed(f: Fixture) {
    let queue = f.queue("admits-none").await;
    f.publish(&queue, ["a", "b"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    let came = take(&mut *consumer, 1).await;
    within("admit", consumer.admit(0)).await;
    within("cancel", consumer.cancel()).await;
    consumer.acker().ack(came[0].tag).await;
    assert!(within("the end", consumer.next(1)).await.is_none());
    drop(consumer);
    let mut consumer = f.consume(&queue, 1).await;
    within("admit", consumer.admit(0)).await;
    within("delete", f.broker.delete(&queue)).await.expect("it is deleted");
    within("close", f.broker.close()).await;
    while let Some(deliveries) = within("the end", consumer.next(1)).await {
        assert_eq!(texts(&deliveries), ["b"], "what was on its way may still come");
    }
}

async fn a_closed_broker_says_so(f: Fixture) {
    let queue = f.queue("closed").await;
    let mut consumer = f.consume(&queue, 10).await;
    let health = f.broker.health();
    assert_eq!(*health.borrow(), Health::Up);
    within("delete", f.broker.delete(&queue)).await.expect("it is deleted");
    within("close", f.broker.close()).await;
    within("close", f.broker.close()).await;
    assert!(within("the end", consumer.next(1)).await.is_none());
    let published = within("publish", f.broker.publish(vec![message(&queue, "a")])).await;
    assert!(matches!(published[0], Err(Error::Closed)), "{published:?}");
    assert!(matches!(within("declare", f.broker.declare(&[])).await, Err(Error::Closed)));
    assert!(matches!(within("depth", f.broker.depth(&queue)).await, Err(Error::Closed)));
    assert!(matches!(*health.borrow(), Health::Down(_)));
}
