//! Messages per second through publish, next and ack, and the round trip of a single message.
//!
//! `cargo bench -p stagepost-broker`; RabbitMQ takes part if `AMQP_URL` is set.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use stagepost_broker::Broker;
use stagepost_broker::contract::{Fixture, message};
use stagepost_broker::in_process::InProcessBroker;
use stagepost_broker::rabbitmq::{QueueKind, RabbitMqBroker, RabbitMqOptions};
use stagepost_protocol::{HeaderValue, Message};

/// Messages in one `publish`.
const BATCH: usize = 100;
/// Tasks that publish, one batch after the other.
const PUBLISHERS: usize = 2;

/// A message like a task message: 200 bytes and six headers.
fn task(queue: &str) -> Message {
    let mut task = message(queue, &"x".repeat(200));
    task.properties.message_id = Some("0190a3f2-7a77-7d1e-9d35-1f0d7c4f9e10".into());
    task.properties.reply_to = Some("stagepost.shard.00".into());
    task.properties.content_type = Some("application/json".into());
    for name in ["stagepost-task-token", "stagepost-execution", "stagepost-state"] {
        let value = HeaderValue::Text("arn:aws:states:us-east-1:000000000000:execution:a:b".into());
        task.properties.headers.insert(name.into(), value);
    }
    for name in ["stagepost-attempt", "stagepost-deadline", "stagepost-heartbeat"] {
        task.properties.headers.insert(name.into(), HeaderValue::Int(1_700_000_000_000));
    }
    task
}

/// The processor time of this process so far, all threads, in microseconds. Linux only; elsewhere nothing.
fn cpu_micros() -> f64 {
    // Fields 14 and 15, counted after the name, which may have spaces; 100 ticks are a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

async fn throughput(f: &Fixture, queue: &str, total: usize) -> f64 {
    let mut consumer = f.consume(queue, 1000).await;
    let acker = consumer.acker();
    let begin = Instant::now();
    let publishing = (0..PUBLISHERS).map(|_| {
        let (broker, queue) = (Arc::clone(&f.broker), queue.to_owned());
        tokio::spawn(async move {
            let template = task(&queue);
            for _ in 0..total / BATCH / PUBLISHERS {
                for published in broker.publish(vec![template.clone(); BATCH]).await {
                    published.expect("confirmed");
                }
            }
        })
    });
    let publishing: Vec<_> = publishing.collect();
    let mut count = 0;
    while count < total {
        let deliveries = consumer.next(BATCH).await.expect("the consumer goes on");
        count += deliveries.len();
        acker.ack_up_to(deliveries.last().expect("never empty").tag).await;
    }
    for publisher in publishing {
        publisher.await.expect("publishing went well");
    }
    total as f64 / begin.elapsed().as_secs_f64()
}

async fn round_trips(f: &Fixture, queue: &str, count: usize) -> Vec<Duration> {
    let mut consumer = f.consume(queue, 10).await;
    let acker = consumer.acker();
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        let messages = vec![task(queue)];
        let (published, deliveries) = tokio::join!(f.broker.publish(messages), consumer.next(1));
        published.into_iter().for_each(|published| published.expect("confirmed"));
        acker.ack(deliveries.expect("the consumer goes on")[0].tag).await;
        times.push(begin.elapsed());
    }
    times.sort();
    times
}

async fn measure(name: &str, broker: Arc<dyn Broker>, total: usize, trips: usize) {
    let f = Fixture::new(broker);
    let queue = f.queue("bench").await;
    throughput(&f, &queue, total / 10).await;
    let mut rates = Vec::new();
    let before = cpu_micros();
    for _ in 0..3 {
        rates.push(throughput(&f, &queue, total).await);
    }
    let cpu = (cpu_micros() - before) / (3 * total) as f64;
    rates.sort_by(f64::total_cmp);
    let times = round_trips(&f, &queue, trips).await;
    f.clean_up().await;
    println!(
        "{name}: {:.0} messages/s in batches of {BATCH}, {cpu:.1} us of CPU per message here, round trip p50 {:?}, p99 {:?}",
        rates[1],
        times[trips / 2],
        times[trips * 99 / 100]
    );
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    measure("in_process", InProcessBroker::new(), 1_000_000, 10_000).await;
    let Ok(url) = std::env::var("AMQP_URL") else {
        println!("rabbitmq: skipped, AMQP_URL is not set");
        return;
    };
    for queue_kind in [QueueKind::Quorum, QueueKind::Classic] {
        let options = RabbitMqOptions { queue_kind, ..RabbitMqOptions::default() };
        let broker = RabbitMqBroker::connect(&url, options).await.expect("the broker is there");
        measure(&format!("rabbitmq {queue_kind:?}"), broker, 50_000, 300).await;
    }
}
