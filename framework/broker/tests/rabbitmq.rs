//! RabbitMQ against the contract, and what only RabbitMQ can meet with: cut connections, queues that vanish,
//! refusals. Needs `AMQP_URL`.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use stagepost_broker::contract::{Fixture, PATIENCE, message, take, texts, within};
use stagepost_broker::rabbitmq::{QueueKind, RabbitMqBroker, RabbitMqOptions};
use stagepost_broker::{Broker, ConsumeOptions, Delivery, Error, Health, QueueSpec};
use stagepost_protocol::message::HEADER_REPUBLISHED;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

fn url() -> Option<String> {
    let url = std::env::var("AMQP_URL").ok();
    if url.is_none() {
        println!("skipped: AMQP_URL is not set");
    }
    url
}

async fn connect_to(url: &str) -> Arc<RabbitMqBroker> {
    within("connect", RabbitMqBroker::connect(url, RabbitMqOptions::default())).await.unwrap()
}

async fn connect() -> Option<Arc<dyn Broker>> {
    Some(connect_to(&url()?).await)
}

stagepost_broker::contract_tests!(connect);

/// Stands between lapin and the broker and cuts connections.
struct Proxy {
    url: String,
    /// Counts the cuts.
    cuts: watch::Sender<usize>,
    /// New connections are dropped at once.
    refuses: Arc<AtomicBool>,
    /// Bytes that went to the broker.
    sent: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(url: &str) -> Proxy {
        let mut uri: AMQPUri = url.parse().unwrap();
        let target = (uri.authority.host.clone(), uri.authority.port);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (uri.authority.host, uri.authority.port) =
            ("127.0.0.1".into(), listener.local_addr().unwrap().port());
        let cuts = watch::Sender::new(0);
        let (refuses, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let proxy = Proxy {
            url: uri.to_string(),
            cuts: cuts.clone(),
            refuses: Arc::clone(&refuses),
            sent: Arc::clone(&sent),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if refuses.load(Ordering::Relaxed) {
                    continue;
                }
                let (target, mut cut) = (target.clone(), cuts.subscribe());
                let sent = Arc::clone(&sent);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let there = async {
                        let mut buffer = [0; 4096];
                        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                            if to_server.write_all(&buffer[..count]).await.is_err() {
                                return;
                            }
                            sent.fetch_add(count, Ordering::Relaxed);
                        }
                    };
                    tokio::select! {
                        () = there => {}
                        _ = copy(&mut from_server, &mut to_client) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Waits until so many more bytes went to the broker.
    async fn wait_for_bytes(&self, count: usize) {
        let goal = self.sent.load(Ordering::Relaxed) + count;
        within("bytes", async {
            while self.sent.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

fn numbers(count: usize) -> BTreeSet<String> {
    (0..count).map(|n| n.to_string()).collect()
}

async fn wait_for_health(broker: &dyn Broker, what: &str, matches: impl FnMut(&Health) -> bool) {
    let mut health = broker.health();
    within(what, health.wait_for(matches)).await.unwrap();
}

/// Cuts the connections in the midst of 2,000 publishes, twice; all are confirmed and there, and what may have come
/// twice says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_survives_a_cut() {
    let Some(url) = url() else { return };
    let proxy = Proxy::start(&url).await;
    let direct = Fixture::new(connect_to(&url).await);
    let through = connect_to(&proxy.url).await;
    let queue = direct.queue("cut").await;
    let messages = (0..2000).map(|n| message(&queue, &n.to_string())).collect();
    let cutting = async {
        for _ in 0..2 {
            proxy.wait_for_bytes(30_000).await;
            proxy.cut();
        }
    };
    let (published, ()) = within("publish", async { tokio::join!(through.publish(messages), cutting) }).await;
    assert_eq!(published.len(), 2000);
    published.into_iter().for_each(|published| published.unwrap());

    let mut consumer = direct.consume(&queue, 1000).await;
    let (mut came, mut unmarked) = (BTreeSet::new(), BTreeSet::new());
    while came.len() < 2000 {
        let deliveries = within("a message", consumer.next(500)).await.unwrap();
        consumer.acker().ack_up_to(deliveries.last().unwrap().tag).await;
        for (text, delivery) in texts(&deliveries).into_iter().zip(&deliveries) {
            if !delivery.properties.headers.contains_key(HEADER_REPUBLISHED) {
                assert!(unmarked.insert(text.clone()), "'{text}' came twice, and neither says so");
            }
            came.insert(text);
        }
    }
    assert_eq!(came, numbers(2000));
    assert!(unmarked.len() < 2000, "what was published again says so");
    through.close().await;
    direct.clean_up().await;
}

/// A quorum queue takes back what it has given to a consumer that is cancelled in this very moment, and flags it as
/// delivered, although nobody has seen it (<https://github.com/rabbitmq/rabbitmq-server/issues/3729>). So whoever minds
/// cancels or changes a consumer that has no room: then nothing is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_back_unseen_from_a_consumer_without_room() {
    let Some(url) = url() else { return };
    let direct = Fixture::new(connect_to(&url).await);
    let queue = direct.queue("cancelled").await;
    let mut came = BTreeSet::new();
    let mut note = |deliveries: &[Delivery]| {
        for (text, delivery) in texts(deliveries).into_iter().zip(deliveries) {
            assert!(!delivery.redelivered, "'{text}' was taken back unseen");
            assert!(came.insert(text.clone()), "'{text}' came twice");
        }
        came.len()
    };
    direct.publish(&queue, numbers(3_000)).await;
    for _ in 0..30 {
        let mut consumer = direct.consume(&queue, 16).await;
        let acker = consumer.acker();
        let mut unsettled = Vec::new();
        // Some are settled, so that others come; then none until there is no room.
        for round in 0..20 {
            let deliveries = within("a message", consumer.next(16)).await.unwrap();
            note(&deliveries);
            unsettled.extend(deliveries.into_iter().map(|delivery| delivery.tag));
            if round < 5 {
                acker.ack(unsettled.remove(0)).await;
            } else if unsettled.len() == 16 {
                break;
            }
        }
        assert_eq!(unsettled.len(), 16);
        within("change", consumer.admit(8)).await;
        while unsettled.len() < 24 {
            let deliveries = within("a message", consumer.next(8)).await.unwrap();
            note(&deliveries);
            unsettled.extend(deliveries.into_iter().map(|delivery| delivery.tag));
        }
        within("cancel", consumer.cancel()).await;
        assert!(within("the end", consumer.next(16)).await.is_none());
        acker.ack_up_to(*unsettled.last().unwrap()).await;
    }
    let mut consumer = direct.consume(&queue, 1000).await;
    loop {
        let deliveries = within("a message", consumer.next(1000)).await.unwrap();
        consumer.acker().ack_up_to(deliveries.last().unwrap().tag).await;
        if note(&deliveries) == 3_000 {
            break;
        }
    }
    direct.clean_up().await;
}

/// Cuts the connection of a consumer, three times; it gets everything, and acknowledges everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consuming_survives_a_cut() {
    let Some(url) = url() else { return };
    let proxy = Proxy::start(&url).await;
    let direct = Fixture::new(connect_to(&url).await);
    let through = connect_to(&proxy.url).await;
    let queue = direct.queue("cut").await;
    direct.publish(&queue, numbers(2000)).await;
    let mut consumer = through.consume(&queue, ConsumeOptions { prefetch: 50 }).await.unwrap();
    let acker = consumer.acker();
    let mut came = BTreeSet::new();
    let mut generations = BTreeSet::new();
    while came.len() < 2000 {
        let deliveries = within("a message", consumer.next(20)).await.unwrap();
        let before = came.len() / 500;
        came.extend(texts(&deliveries));
        if came.len() / 500 > before && came.len() < 2000 {
            // Nothing of this batch is acknowledged in time.
            proxy.cut();
            wait_for_health(&*through, "the cut is noticed", |health| *health != Health::Up).await;
        }
        for delivery in &deliveries {
            generations.insert(delivery.tag.generation);
            acker.ack(delivery.tag).await;
        }
    }
    assert_eq!(came, numbers(2000));
    assert_eq!(generations.len(), 4);
    // What the last cut gave back is still to come.
    let emptying = async {
        while let Some(deliveries) = consumer.next(100).await {
            acker.ack_up_to(deliveries.last().unwrap().tag).await;
        }
    };
    tokio::select! {
        () = emptying => panic!("the consumer goes on"),
        () = direct.wait_for_depth(&queue, 0) => {}
    }
    drop(consumer);
    direct.wait_for_depth(&queue, 0).await;
    through.close().await;
    direct.clean_up().await;
}

/// While the broker cannot be reached, health is down and everything waits; then it goes on. The reply queue
/// keeps its name. Several at a time: what is asked for at the very moment at which its connection is lost is not
/// answered by lapin, one time in ten or so, and the last of them would then wait in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_waits_for_the_broker_to_come_back() {
    let Some(url) = url() else { return };
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(waits_for_the_broker(url.clone()))).collect();
    for client in clients {
        client.await.unwrap();
    }
}

async fn waits_for_the_broker(url: String) {
    let proxy = Proxy::start(&url).await;
    let f = Fixture::new(connect_to(&proxy.url).await);
    let queue = f.queue("away").await;
    let (reply_to, mut replies) = f.broker.reply_queue().await.unwrap();
    proxy.refuses.store(true, Ordering::Relaxed);
    proxy.cut();
    wait_for_health(&*f.broker, "down", |health| matches!(health, Health::Down(_))).await;
    let waits = {
        let (f, queue) = (f.clone(), queue.clone());
        tokio::spawn(async move {
            f.publish(&queue, ["a"]).await;
            let mut consumer = f.consume(&queue, 1).await;
            take(&mut *consumer, 1).await
        })
    };
    let came_back = async {
        proxy.refuses.store(false, Ordering::Relaxed);
        wait_for_health(&*f.broker, "up", |health| *health == Health::Up).await;
    };
    let reply = within("the reply", async {
        let (reply, ()) = tokio::join!(replies.next(1), async {
            came_back.await;
            // Published until the reply queue is there again.
            while f.broker.publish(vec![message(&reply_to, "r")]).await[0].is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        reply.unwrap()
    })
    .await;
    assert_eq!(texts(&reply), ["r"]);
    assert_eq!(texts(&within("the consumer", waits).await.unwrap()), ["a"]);
    f.clean_up().await;
}

/// A quorum queue can be seen before it takes messages: RabbitMQ nacks what comes meanwhile, and it is published again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_somebody_is_just_declaring_takes_messages() {
    let Some(url) = url() else { return };
    let f = Fixture::new(connect_to(&url).await);
    let other = connect_to(&url).await;
    for round in 0..20 {
        let queue = f.name(&round.to_string());
        let publishing = async {
            within("the queue is there", async { while other.depth(&queue).await.unwrap().is_none() {} })
                .await;
            within("publish", other.publish(vec![message(&queue, "a")])).await.remove(0)
        };
        let spec = [QueueSpec::ours(&queue)];
        let (declared, published) = tokio::join!(f.broker.declare(&spec), publishing);
        declared.unwrap();
        published.unwrap();
    }
    other.close().await;
    f.clean_up().await;
}

/// A queue that stays full: the message that it nacks is refused in the end, and others are not held up for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_in_the_end() {
    let Some(url) = url() else { return };
    let f = Fixture::new(connect_to(&url).await);
    let (full, other) = (f.name("full"), f.queue("other").await);
    let connection = lapin::Connection::connect(&url, Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = lapin::types::FieldTable::default();
    arguments.insert("x-max-length".into(), 1.into());
    arguments.insert("x-overflow".into(), lapin::types::AMQPValue::LongString("reject-publish".into()));
    let options = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(full.as_str().into(), options, arguments).await.unwrap();
    let messages = vec![message(&full, "a"), message(&full, "b"), message(&other, "c")];
    let published = within("publish", f.broker.publish(messages)).await;
    assert!(matches!(&published[..], [Ok(()), Err(Error::Refused { .. }), Ok(())]), "{published:?}");
    connection.close(200, "OK".into()).await.unwrap();
    f.clean_up().await;
}

/// Somebody deletes our queue: consumers and publishers declare it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_ours_that_vanishes_is_declared_again() {
    let Some(url) = url() else { return };
    let f = Fixture::new(connect_to(&url).await);
    let vandal = connect_to(&url).await;
    let queue = f.queue("vanishes").await;
    vandal.delete(&queue).await.unwrap();
    f.publish(&queue, ["a"]).await;
    let mut consumer = f.consume(&queue, 10).await;
    let before = take(&mut *consumer, 1).await;
    vandal.delete(&queue).await.unwrap();
    let (again, ()) = tokio::join!(take(&mut *consumer, 1), async {
        f.wait_for_depth(&queue, 0).await;
        f.publish(&queue, ["b"]).await;
    });
    assert_eq!(texts(&again), ["b"]);
    assert!(again[0].tag > before[0].tag);
    vandal.close().await;
    f.clean_up().await;
}

/// What is published to an exchange comes to the queue that is bound to it, also when the queue was deleted by somebody
/// and declared again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bindings_come_back_with_their_queue() {
    let Some(url) = url() else { return };
    let f = Fixture::new(connect_to(&url).await);
    let queue = f.queue("bound").await;
    let exchange = format!("{queue}.exchange");
    f.broker.declare_exchange(&exchange).await.unwrap();
    f.broker.bind(&queue, &exchange, "orders.#").await.unwrap();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    // Whether a queue took it.
    let publish = async |key: &str| {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let name = exchange.as_str().into();
        let sent =
            channel.basic_publish(name, key.into(), options, key.as_bytes(), BasicProperties::default());
        Confirmation::take_message(sent.await.unwrap().await.unwrap()).is_none()
    };
    let mut consumer = f.consume(&queue, 10).await;
    assert!(publish("orders.new").await && !publish("invoices.new").await);
    let came = take(&mut *consumer, 1).await;
    assert_eq!(texts(&came), ["orders.new"]);
    assert_eq!(came[0].routing_key.as_deref(), Some("orders.new"));
    let vandal = connect_to(&url).await;
    vandal.delete(&queue).await.unwrap();
    let (again, ()) = tokio::join!(
        take(&mut *consumer, 1),
        within("the binding", async {
            while !publish("orders.again").await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    );
    assert_eq!(texts(&again), ["orders.again"]);
    f.broker.unbind(&queue, &exchange, "orders.#").await.unwrap();
    assert!(!publish("orders.late").await);
    let long = f.broker.bind(&queue, &exchange, &"x".repeat(256)).await;
    assert!(matches!(long, Err(Error::Denied { .. })), "{long:?}");
    channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    vandal.close().await;
    f.clean_up().await;
}

/// A queue of another type that is there already is used as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_type_is_adopted() {
    let Some(url) = url() else { return };
    let options = RabbitMqOptions { queue_kind: QueueKind::Classic, ..RabbitMqOptions::default() };
    let classic = Fixture::new(RabbitMqBroker::connect(&url, options).await.unwrap());
    let quorum = connect_to(&url).await;
    let queue = classic.queue("classic").await;
    quorum.declare(&[QueueSpec::ours(&queue)]).await.unwrap();
    for published in quorum.publish(vec![message(&queue, "a")]).await {
        published.unwrap();
    }
    let mut consumer = quorum.consume(&queue, ConsumeOptions { prefetch: 1 }).await.unwrap();
    assert_eq!(texts(&take(&mut *consumer, 1).await), ["a"]);
    quorum.close().await;
    classic.clean_up().await;
}

/// A message that the broker closes the channel for is refused; those around it arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_carried_is_refused_alone() {
    let Some(url) = url() else { return };
    let f = Fixture::new(connect_to(&url).await);
    let queue = f.queue("refused").await;
    let mut messages: Vec<_> = ["a", "long", "wide", "b"].map(|text| message(&queue, text)).into();
    messages[1].properties.message_id = Some("x".repeat(300));
    // More than a frame: RabbitMQ closes the connection over it.
    messages[2].properties.headers.insert("wide".into(), "x".repeat(300_000).into());
    let published = within("publish", f.broker.publish(messages)).await;
    assert!(
        matches!(&published[..], [Ok(()), Err(Error::Refused { .. }), Err(Error::Refused { .. }), Ok(())]),
        "{published:?}"
    );
    let mut consumer = f.consume(&queue, 10).await;
    let mut came = BTreeSet::new();
    while came.len() < 2 {
        came.extend(texts(&within("a message", consumer.next(10)).await.unwrap()));
    }
    assert_eq!(came, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    f.clean_up().await;
}

/// What can never work is an error; what may work later is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_tells_refusal_from_absence() {
    let Some(url) = url() else { return };
    let connect = async |url: &str| {
        let connect_timeout = Some(Duration::from_millis(500));
        let options = RabbitMqOptions { connect_timeout, ..RabbitMqOptions::default() };
        within("connect", RabbitMqBroker::connect(url, options)).await.map(|_| ())
    };
    assert!(matches!(connect("http://nowhere").await, Err(Error::Url { .. })));
    let mut uri: AMQPUri = url.parse().unwrap();
    uri.authority.userinfo.password = "wrong".into();
    let refused = connect(&uri.to_string()).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let mut uri: AMQPUri = url.parse().unwrap();
    uri.vhost = "no-such-vhost".into();
    let refused = connect(&uri.to_string()).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let proxy = Proxy::start(&url).await;
    proxy.refuses.store(true, Ordering::Relaxed);
    let absent = connect(&proxy.url).await;
    assert!(matches!(absent, Err(Error::Unreachable { .. })), "{absent:?}");
    let waiting = tokio::spawn({
        let url = proxy.url.clone();
        async move { RabbitMqBroker::connect(&url, RabbitMqOptions::default()).await.map(|_| ()) }
    });
    proxy.refuses.store(false, Ordering::Relaxed);
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
}
