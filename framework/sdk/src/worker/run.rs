//! Starts the parts of a worker, waits until it is told to stop, and stops them in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use stagepost_broker::{Broker, ConsumeOptions, QueueSpec};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::builder::{Connection, Worker};
use super::connect;
use super::control::Control;
use super::error::WorkerError;
use super::lease;
use super::ledger::Ledger;
use super::queue::Queue;
use super::reporter::Reporter;
use super::shared::{REPORTS_WAITING_MAX, STOP_WITHIN, Shared};
use super::watch as watching;
use crate::activity::Registration;
use crate::context::Outgoing;
use crate::failure::Cancelled;

/// So long a worker that is no longer wanted goes on to start, so that it can stop in order.
const STARTS_WITHIN: Duration = Duration::from_secs(2);

/// Runs until a signal comes; a second one cuts the grace short.
pub(super) async fn with_signals(worker: Worker) -> Result<(), WorkerError> {
    let mut signals = Signals::install().map_err(WorkerError::Signals)?;
    let (first, first_came) = tokio::sync::oneshot::channel();
    let (second, second_came) = tokio::sync::oneshot::channel();
    let listening = tokio::spawn(async move {
        signals.next().await;
        tracing::info!("the worker stops; running activities may end, a second signal stops them");
        // The receivers are gone only when the worker has ended.
        let _ = first.send(());
        signals.next().await;
        let _ = second.send(());
    });
    let wait = |came: tokio::sync::oneshot::Receiver<()>| async move {
        if came.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let ended = until(worker, wait(first_came), wait(second_came)).await;
    listening.abort();
    ended
}

/// SIGINT and SIGTERM, or what stands for them.
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn install() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn install() -> std::io::Result<Signals> {
        Ok(Signals {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs until `shutdown` completes; `hurry` cuts the grace short.
pub(super) async fn until(
    worker: Worker,
    shutdown: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    worker.check()?;
    match &worker.connection {
        Connection::Broker(broker) => {
            let broker = Arc::clone(broker);
            on_broker(worker, broker, shutdown, hurry).await
        }
        Connection::Url(url) => {
            let url = url.clone();
            connect::run(worker, &url, shutdown, hurry).await
        }
    }
}

/// One activity of the worker and its attempts.
pub(super) type Activities = Vec<(Arc<Registration>, Arc<Ledger>)>;

/// Works on the queues of a broker.
pub(super) async fn on_broker(
    mut worker: Worker,
    broker: Arc<dyn Broker>,
    shutdown: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let (reports, outgoing) = mpsc::channel(REPORTS_WAITING_MAX);
    let shared = Shared::new(&mut worker, reports);
    let started = async {
        let dead_letters = worker.topology.dead_letters();
        let mut queues = vec![QueueSpec::ours(&dead_letters)];
        let names = worker.registrations.iter().map(|r| r.queue_name(&worker.topology, &worker.namespace));
        queues.extend(names.map(QueueSpec::ours));
        broker.declare(&queues).await?;
        let answers = broker.private_queue(&shared.leases.control_queue()).await?;
        let mut started = Vec::new();
        for (registration, queue) in worker.registrations.iter().zip(&queues[1..]) {
            let slots = worker.slots(registration);
            let consumer = broker.consume(&queue.name, ConsumeOptions { prefetch: slots }).await?;
            let ledger = Arc::new(Ledger::new(Some(consumer.acker())));
            let queue = Queue {
                shared: Arc::clone(&shared),
                broker: Arc::clone(&broker),
                registration: Arc::new(registration.clone()),
                ledger,
                name: queue.name.clone(),
                dead_letters: dead_letters.clone(),
                slots,
            };
            started.push((queue, consumer));
        }
        Ok::<_, WorkerError>((started, answers))
    };
    // A broker that cannot be reached is waited for, but not longer than the worker is wanted.
    let (begun, wanted) = {
        let mut started = std::pin::pin!(started);
        tokio::select! {
            biased;
            begun = &mut started => (Ok(begun), true),
            // What has come already to a consumer that is dropped would be taken for begun.
            () = &mut shutdown => (tokio::time::timeout(STARTS_WITHIN, started).await, false),
        }
    };
    let Ok(begun) = begun else { return Ok(()) };
    let (started, answers) = begun?;

    let activities: Activities = started
        .iter()
        .map(|(queue, _)| (Arc::clone(&queue.registration), Arc::clone(&queue.ledger)))
        .collect();
    let ledgers: HashMap<_, _> = activities.iter().map(|(r, ledger)| (r.name, Arc::clone(ledger))).collect();
    let control =
        Control { shared: Arc::clone(&shared), broker: Arc::clone(&broker), activities: activities.clone() };
    let control = tokio::spawn(control.run(answers));
    let keep = tokio::spawn(lease::keep(Arc::clone(&shared), Arc::clone(&broker), activities.clone()));
    let reporter = Reporter { broker, worker: worker.name.clone(), ledgers };
    let reporter = tokio::spawn(reporter.run(outgoing));
    let watch = tokio::spawn(watching::run(Arc::clone(&shared), activities.clone()));
    let stop = CancellationToken::new();
    let mut queues = JoinSet::new();
    for (queue, consumer) in started {
        let stopped = stop.clone();
        queues.spawn(async move { queue.run(consumer, stopped).await.map_err(WorkerError::from) });
    }
    tracing::info!(worker = %worker.name, activities = activities.len(), "the worker runs");

    let ended = tokio::select! {
        biased;
        () = &mut shutdown, if wanted => Ok(()),
        ended = first_end(&mut queues), if wanted => ended.map(drop),
        else => Ok(()),
    };
    stop.cancel();
    // A consumer that is dropped gives back what is unsettled: they live until everything is reported.
    let (consumers, all_ended) = all_ends(&mut queues).await;
    let ended = ended.and(all_ended);
    drain(&activities, worker.shutdown_grace, hurry).await;
    watch.abort();
    shared.send(Outgoing::Stop).await;
    let reported = reporter.await.map_err(|error| WorkerError::Internal(error.to_string()));
    control.abort();
    keep.abort();
    drop(consumers);
    tracing::info!(worker = %worker.name, "the worker has stopped");
    ended.and(reported)
}

/// Waits until a part ends, which none does by itself but by an error.
pub(super) async fn first_end<T: 'static>(
    parts: &mut JoinSet<Result<T, WorkerError>>,
) -> Result<Option<T>, WorkerError> {
    match parts.join_next().await {
        Some(Ok(ended)) => ended.map(Some),
        Some(Err(error)) => Err(WorkerError::Internal(error.to_string())),
        None => Ok(None),
    }
}

/// Waits until all have ended, and returns what they leave; the first error counts.
pub(super) async fn all_ends<T: 'static>(
    parts: &mut JoinSet<Result<T, WorkerError>>,
) -> (Vec<T>, Result<(), WorkerError>) {
    let (mut left, mut ended) = (Vec::new(), Ok(()));
    while !parts.is_empty() {
        match first_end(parts).await {
            Ok(one) => left.extend(one),
            Err(error) => ended = ended.and(Err(error)),
        }
    }
    (left, ended)
}

/// Lets the running attempts end: by themselves within the grace period, then because they are asked to, then because
/// they are ended. A blocking one that does neither is left behind.
pub(super) async fn drain(activities: &Activities, grace: Duration, hurry: impl Future<Output = ()>) {
    let all_ended = || async {
        for (_, ledger) in activities {
            ledger.empty().await;
        }
    };
    tokio::select! {
        biased;
        () = all_ended() => return,
        () = tokio::time::sleep(grace) => {}
        () = hurry => {}
    }
    for attempt in activities.iter().flat_map(|(_, ledger)| ledger.all()) {
        attempt.cancel(Cancelled::Shutdown);
    }
    // The watch ends those that do not stop in time; one more such period is for their reports.
    if tokio::time::timeout(2 * STOP_WITHIN, all_ended()).await.is_err() {
        let left: usize = activities.iter().map(|(_, ledger)| ledger.all().len()).sum();
        tracing::warn!(attempts = left, "attempts are left behind; their tasks will be delivered again");
    }
}
