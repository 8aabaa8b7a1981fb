//! What a worker does with a task that another one may have begun, and how it stands for what it runs itself. Under
//! virtual time: leases pass at once.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::{Coordinator, until};
use stagepost::{Broker, Cancelled, Context, Failure, State, Worker, activities, activity};
use stagepost_broker::in_process::InProcessBroker;
use stagepost_broker::{ConsumeOptions, Consumer, Error, Health, Published, QueueSpec};
use stagepost_protocol::topology::Topology;
use stagepost_protocol::{
    Claim, ControlMessage, DeliveredAs, ExecutionId, Lease, Message, Properties, Report, ReportOutcome,
    RunnerId, TaskMessage, TaskToken, TokenKey, Told, Verdict, error_names,
};
use tokio::sync::{Semaphore, watch};

impl Coordinator {
    /// Tells a worker what to do with an attempt.
    async fn tell(&self, holder: &str, id: &str, claim: Option<&Claim>, verdict: Verdict) {
        let token = TaskToken::from_untrusted(id);
        let (returns, delivered) = (claim.map_or(0, |c| c.returns), claim.map(|c| c.delivered));
        let verdicts = ControlMessage::Verdicts(vec![Told { token, returns, delivered, verdict }]);
        let published = self.broker.publish(vec![verdicts.encode(self.topology.control(holder))]).await;
        published.into_iter().for_each(|published| published.unwrap());
    }

    /// Lets a task come again: somebody took it and went away.
    async fn take_and_go(&self, activity: &str) {
        self.take_one(&self.queue(activity)).await;
    }
}

#[derive(Default)]
struct Seen {
    begun: AtomicUsize,
    cancelled: std::sync::Mutex<Vec<Cancelled>>,
}

impl Seen {
    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

#[activity]
async fn once(seen: State<Seen>) -> Result<usize, Failure> {
    Ok(seen.begun.fetch_add(1, Ordering::SeqCst))
}

#[activity(idempotent)]
async fn twice(seen: State<Seen>) -> Result<usize, Failure> {
    Ok(seen.begun.fetch_add(1, Ordering::SeqCst))
}

/// Runs until it is let go on or cancelled.
#[activity(concurrency = 2)]
async fn long(cx: Context, seen: State<Seen>, open: State<Semaphore>) -> Result<(), Failure> {
    seen.begun.fetch_add(1, Ordering::SeqCst);
    tokio::select! {
        permit = open.acquire() => permit?.forget(),
        why = cx.cancelled() => {
            seen.cancelled.lock().unwrap().push(why);
            return Err(why.into());
        }
    }
    Ok(())
}

/// The lease of the workers.
const LEASE: Duration = Duration::from_secs(30);

fn worker(c: &Coordinator, seen: &Arc<Seen>, open: &Arc<Semaphore>) -> Worker {
    Worker::with_broker(c.broker.clone())
        .shared_state(seen.clone())
        .shared_state(open.clone())
        .register(activities![once, twice, long])
        .lease(LEASE)
}

fn parts() -> (Arc<Seen>, Arc<Semaphore>) {
    (Arc::default(), Arc::new(Semaphore::new(0)))
}

fn claimed(report: &Report) -> &Claim {
    let ReportOutcome::Claimed(claim) = &report.outcome else { panic!("no claim: {report:?}") };
    claim
}

fn held(report: &Report) -> &Lease {
    let ReportOutcome::Held { lease, .. } = &report.outcome else { panic!("not held: {report:?}") };
    lease
}

#[tokio::test(start_paused = true)]
async fn what_another_worker_may_have_begun_is_claimed_and_not_run() {
    // The activity, whether the task was delivered before or published again, and the answer.
    for (activity, redelivered, verdict) in [
        ("once", true, Verdict::Drop),
        ("once", true, Verdict::Run),
        ("once", false, Verdict::Run),
        ("twice", true, Verdict::Run),
        ("twice", false, Verdict::Drop),
    ] {
        let mut c = Coordinator::new().await;
        let (seen, open) = parts();
        c.broker.declare(&[QueueSpec::ours(c.queue(activity))]).await.unwrap();
        c.publish([TaskMessage { republished: !redelivered, returns: 7, ..c.task(activity, "t", &()) }])
            .await;
        if redelivered {
            c.take_and_go(activity).await;
        }
        let running = c.start(worker(&c, &seen, &open), &["once", "twice", "long"]).await;
        let report = c.any_report().await;
        let claim = claimed(&report).clone();
        let lease = claim.lease.clone().unwrap();
        let delivered = if redelivered { DeliveredAs::Redelivered } else { DeliveredAs::Republished };
        assert_eq!((report.token.as_str(), claim.delivered, claim.returns), ("t", delivered, 7));
        assert_eq!((lease.millis, lease.idempotent), (30_000, activity == "twice"));
        // It asks again until it is answered.
        assert_eq!(claimed(&c.any_report().await), &claim);
        assert_eq!(seen.begun(), 0);
        // An answer to another claim of the attempt is none to this one.
        for other in [Verdict::Run, Verdict::Drop] {
            c.tell(&lease.holder, "t", Some(&Claim { returns: 6, ..claim.clone() }), other).await;
            c.tell(
                &lease.holder,
                "t",
                Some(&Claim { delivered: DeliveredAs::First, ..claim.clone() }),
                other,
            )
            .await;
        }
        assert_eq!(claimed(&c.any_report().await), &claim);
        c.tell(&lease.holder, "t", Some(&claim), verdict).await;
        if verdict == Verdict::Run {
            let ended = loop {
                let report = c.any_report().await;
                if report.outcome.is_end() {
                    break report;
                }
            };
            assert!(matches!(ended.outcome, ReportOutcome::Succeeded(_)), "{ended:?}");
        }
        running.stop().await.unwrap();
        assert_eq!(seen.begun(), usize::from(verdict == Verdict::Run));
        assert_eq!(c.broker.depth(&c.queue(activity)).await.unwrap(), Some(0), "it is acknowledged");
    }
}

/// What a worker was delivered before it stood still may be another one's by now.
#[tokio::test(start_paused = true)]
async fn a_worker_that_stood_still_asks_for_what_it_was_delivered() {
    for verdict in [Verdict::Run, Verdict::Drop] {
        let mut c = Coordinator::new().await;
        let (seen, open) = parts();
        let running = c.start(worker(&c, &seen, &open), &["once", "twice", "long"]).await;
        c.schedule("once", "before", &()).await;
        assert!(matches!(c.any_report().await.outcome, ReportOutcome::Succeeded(_)));
        // Nothing runs while the clock is moved by hand.
        c.schedule("once", "t", &()).await;
        tokio::time::advance(LEASE).await;
        let report = c.any_report().await;
        let claim = claimed(&report).clone();
        assert_eq!((report.token.as_str(), claim.delivered), ("t", DeliveredAs::First));
        assert_eq!(seen.begun(), 1);
        let holder = claim.lease.clone().unwrap().holder;
        c.tell(&holder, "t", Some(&claim), verdict).await;
        // Then it trusts what it is delivered again.
        tokio::time::sleep(Duration::from_secs(6)).await;
        c.schedule("once", "after", &()).await;
        while c.any_report().await.token.as_str() != "after" {}
        running.stop().await.unwrap();
        assert_eq!(seen.begun(), if verdict == Verdict::Run { 3 } else { 2 });
        assert_eq!(c.broker.depth(&c.queue("once")).await.unwrap(), Some(0), "it is acknowledged");
    }
}

/// What was not answered when the worker stops goes back, and is claimed by another one.
#[tokio::test(start_paused = true)]
async fn an_unanswered_claim_goes_back() {
    let mut c = Coordinator::new().await;
    let (seen, open) = parts();
    c.broker.declare(&[QueueSpec::ours(c.queue("once"))]).await.unwrap();
    c.schedule("once", "t", &()).await;
    c.take_and_go("once").await;
    let running = c.start(worker(&c, &seen, &open), &["once", "twice", "long"]).await;
    let first = claimed(&c.any_report().await).clone();
    running.stop().await.unwrap();
    assert_eq!(c.broker.depth(&c.queue("once")).await.unwrap(), Some(1));
    let running = c.start(worker(&c, &seen, &open), &["once"]).await;
    let second = loop {
        let claim = claimed(&c.any_report().await).clone();
        if claim != first {
            break claim;
        }
    };
    assert_ne!(first.lease.unwrap().holder, second.lease.unwrap().holder);
    running.stop().await.unwrap();
    assert_eq!(seen.begun(), 0);
}

/// Of an Express execution nobody keeps anything, so nobody could be asked.
#[tokio::test(start_paused = true)]
async fn what_nobody_keeps_is_run_again() {
    let c = Coordinator::new().await;
    let (seen, open) = parts();
    c.broker.declare(&[QueueSpec::ours(c.queue("once"))]).await.unwrap();
    let runner = RunnerId::from_bytes([1; 8]);
    let token = TokenKey::new(b"k").of_runner(runner).sign(ExecutionId::from_bytes([2; 16]), 3);
    let queue = c.topology.runner(runner);
    let mut reports = c.broker.private_queue(&queue).await.unwrap();
    c.publish([TaskMessage { token, reply_to: queue, ..c.task("once", "t", &()) }]).await;
    c.take_and_go("once").await;
    let running = c.start(worker(&c, &seen, &open), &["once"]).await;
    assert_eq!(reports.next(1).await.unwrap().len(), 1);
    assert_eq!(seen.begun(), 1);
    running.stop().await.unwrap();
}

/// Long attempts leave nothing at the broker, and the worker still takes no more than it has slots for.
#[tokio::test(start_paused = true)]
async fn a_long_attempt_is_held_by_a_lease_and_not_by_its_delivery() {
    let mut c = Coordinator::new().await;
    let (seen, open) = parts();
    let running = c.start(worker(&c, &seen, &open), &["once", "twice", "long"]).await;
    c.publish((0..4).map(|n| c.task("long", &n.to_string(), &()))).await;
    let mut holders = Vec::new();
    for _ in 0..2 {
        holders.push(held(&c.any_report().await).holder.clone());
    }
    assert_eq!(holders[0], holders[1]);
    // Some lease later its signs of life have come, a third of a lease apart, and nothing else has changed.
    tokio::time::sleep(2 * LEASE).await;
    assert_eq!((seen.begun(), c.broker.depth(&c.queue("long")).await.unwrap()), (2, Some(2)));
    // One ends: there is room for one more.
    open.add_permits(1);
    assert_eq!(c.ended().await.1, Ok("null".into()));
    until("the next one has begun", || async { seen.begun() == 3 }).await;
    held(&c.any_report().await);
    assert!((6..=9).contains(&c.alive.len()), "{} signs of life", c.alive.len());
    assert!(c.alive.iter().all(|alive| alive.holder == holders[0] && alive.millis == 30_000));
    assert_eq!((seen.begun(), c.broker.depth(&c.queue("long")).await.unwrap()), (3, Some(1)));
    // Short ones are admitted as before, each slot at a time.
    open.add_permits(3);
    for _ in 0..3 {
        assert_eq!(c.ended().await.1, Ok("null".into()));
    }
    c.publish((0..200).map(|n| c.task("long", &format!("again-{n}"), &()))).await;
    open.add_permits(200);
    for _ in 0..200 {
        assert_eq!(c.ended().await.1, Ok("null".into()));
    }
    running.stop().await.unwrap();
    assert_eq!(c.broker.depth(&c.queue("long")).await.unwrap(), Some(0));
}

/// What a worker has announced is acknowledged where it has no room for more; else, as a task that came while the consumer
/// is changed would be flagged, not before 20 minutes are over. What is acknowledged does not come again when it is killed.
#[tokio::test(start_paused = true)]
async fn what_was_announced_is_acknowledged_at_once_where_there_is_no_room() {
    for (attempts, seconds, left) in [(2, 2, 0), (1, 19 * 60, 1), (1, 21 * 60, 0)] {
        let mut c = Coordinator::new().await;
        let (seen, open) = parts();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(worker(&c, &seen, &open).run_until(std::future::pending()));
        let queue = c.queue("long");
        until("the queue is there", || async { c.broker.depth(&queue).await.unwrap().is_some() }).await;
        for n in 0..attempts {
            c.schedule("long", &n.to_string(), &()).await;
            held(&c.any_report().await);
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        tasks.shutdown().await;
        assert_eq!(seen.begun(), attempts);
        until("what was open is back", || async { c.broker.depth(&queue).await.unwrap() == Some(left) })
            .await;
    }
}

/// The coordinator says that nobody wants the result any more.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_has_ended_elsewhere_is_cancelled() {
    let mut c = Coordinator::new().await;
    let (seen, open) = parts();
    let running = c.start(worker(&c, &seen, &open), &["long"]).await;
    c.schedule("long", "t", &()).await;
    let holder = held(&c.any_report().await).holder.clone();
    c.tell(&holder, "t", None, Verdict::Drop).await;
    assert_eq!(c.ended().await.1.unwrap_err().0, error_names::CANCELLED);
    assert_eq!(*seen.cancelled.lock().unwrap(), [Cancelled::Ended]);
    running.stop().await.unwrap();
}

/// A broker that can be cut off: what is published then waits.
struct Cut {
    inner: Arc<InProcessBroker>,
    cut: watch::Sender<bool>,
}

#[async_trait]
impl Broker for Cut {
    async fn declare(&self, queues: &[QueueSpec]) -> Result<(), Error> {
        self.inner.declare(queues).await
    }

    async fn publish(&self, messages: Vec<Message>) -> Vec<Published> {
        let _open = self.cut.subscribe().wait_for(|cut| !*cut).await.map(|open| *open);
        self.inner.publish(messages).await
    }

    async fn consume(&self, queue: &str, options: ConsumeOptions) -> Result<Box<dyn Consumer>, Error> {
        self.inner.consume(queue, options).await
    }

    async fn private_queue(&self, name: &str) -> Result<Box<dyn Consumer>, Error> {
        self.inner.private_queue(name).await
    }

    async fn declare_exchange(&self, exchange: &str) -> Result<(), Error> {
        self.inner.declare_exchange(exchange).await
    }

    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.inner.bind(queue, exchange, routing_key).await
    }

    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.inner.unbind(queue, exchange, routing_key).await
    }

    async fn publish_to_exchange(
        &self,
        exchange: &str,
        routing_key: &str,
        body: Bytes,
        properties: Properties,
    ) -> Result<(), Error> {
        self.inner.publish_to_exchange(exchange, routing_key, body, properties).await
    }

    async fn depth(&self, queue: &str) -> Result<Option<u64>, Error> {
        self.inner.depth(queue).await
    }

    async fn delete(&self, queue: &str) -> Result<(), Error> {
        self.inner.delete(queue).await
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.inner.health()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_not_heard_for_its_lease_stops_what_it_runs() {
    for (announced, away, stops) in [
        (true, Duration::from_secs(15), false),
        (true, LEASE + Duration::from_secs(12), true),
        (false, Duration::from_secs(15), false),
        (false, LEASE + Duration::from_secs(12), true),
    ] {
        let inner = InProcessBroker::new();
        let broker = Arc::new(Cut { inner, cut: watch::Sender::new(false) });
        let mut c = Coordinator::on(broker.clone(), Topology::default()).await;
        let (seen, open) = parts();
        let running = c.start(worker(&c, &seen, &open), &["long"]).await;
        c.schedule("long", "t", &()).await;
        if announced {
            held(&c.any_report().await);
        }
        until("it has begun", || async { seen.begun() == 1 }).await;
        broker.cut.send_replace(true);
        tokio::time::sleep(away).await;
        let cancelled = seen.cancelled.lock().unwrap().clone();
        assert_eq!(
            cancelled,
            if stops { vec![Cancelled::LeaseLost] } else { vec![] },
            "{announced} {away:?}"
        );
        broker.cut.send_replace(false);
        open.add_permits(1);
        assert_eq!(c.ended().await.1.is_ok(), !stops, "what was not cancelled ends as ever");
        running.stop().await.unwrap();
    }
}

/// What may run twice goes on while the broker is away, however long.
#[tokio::test(start_paused = true)]
async fn what_may_run_twice_outlives_its_lease() {
    static ENDED: AtomicBool = AtomicBool::new(false);

    #[activity(idempotent)]
    async fn slow(cx: Context) -> Result<(), Failure> {
        tokio::time::sleep(4 * LEASE).await;
        cx.check_cancelled()?;
        ENDED.store(true, Ordering::SeqCst);
        Ok(())
    }

    let broker = Arc::new(Cut { inner: InProcessBroker::new(), cut: watch::Sender::new(false) });
    let mut c = Coordinator::on(broker.clone(), Topology::default()).await;
    let slow_worker = Worker::with_broker(c.broker.clone()).register(activities![slow]).lease(LEASE);
    let running = c.start(slow_worker, &["slow"]).await;
    c.schedule("slow", "t", &()).await;
    assert!(held(&c.any_report().await).idempotent);
    broker.cut.send_replace(true);
    tokio::time::sleep(5 * LEASE).await;
    assert!(ENDED.load(Ordering::SeqCst));
    broker.cut.send_replace(false);
    assert_eq!(c.ended().await.1, Ok("null".into()));
    running.stop().await.unwrap();
}
