//! Puts a coordinator together and takes it down again.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use stagepost_broker::{Broker, QueueSpec};
use stagepost_protocol::TokenKey;
use stagepost_store::{Reader, Store};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    callbacks, dead_letters,
    deciding::Deciding,
    express, lease,
    metrics::Metrics,
    options::Options,
    pipeline::{self, Shared},
    schedules, signals, triggers,
};

/// Feeds that wait for the loop; each holds up to a batch.
const FEEDS_MAX: usize = 16;
/// Once the shards are given up, so long is waited for what is still on its way.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// What a coordinator works on.
#[derive(Clone)]
pub struct Parts {
    /// Where executions are kept.
    pub store: Arc<dyn Store>,
    /// Where messages are.
    pub broker: Arc<dyn Broker>,
}

/// The secret that signs this installation's task tokens. It is made at the first start and kept in the store.
pub async fn installation_token_key(reader: &dyn Reader) -> Result<TokenKey, stagepost_store::Error> {
    let fresh = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let secret = reader.setting("task-token-secret", &fresh).await?;
    Ok(TokenKey::new(secret.as_bytes()))
}

/// A running coordinator. Dropping it without [`Coordinator::shutdown`] is as if the process had died: what was
/// not settled comes again.
pub struct Coordinator {
    metrics: Arc<Metrics>,
    runner: Arc<express::Runner>,
    shutdown: CancellationToken,
    failed: watch::Receiver<Option<&'static str>>,
    dropped: Arc<AtomicBool>,
    /// The one that holds the leases first.
    tasks: Vec<JoinHandle<()>>,
}

/// Starts the coordinator's tasks and notices when one ends that should not.
struct Supervisor {
    stopped: CancellationToken,
    failed: watch::Sender<Option<&'static str>>,
    /// The coordinator was dropped: its tasks end each other.
    dropped: Arc<AtomicBool>,
}

impl Supervisor {
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let (stopped, failed, dropped) = (self.stopped.clone(), self.failed.clone(), self.dropped.clone());
        tokio::spawn(async move {
            let panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            if panicked || !(stopped.is_cancelled() || dropped.load(Ordering::Acquire)) {
                tracing::error!(task = name, panicked, "a task of the coordinator has ended unexpectedly");
                failed.send_replace(Some(name));
            }
        })
    }
}

impl Coordinator {
    /// Starts a coordinator. It takes shards as soon as store and broker let it.
    pub async fn start(
        parts: Parts,
        options: Options,
        token_key: TokenKey,
    ) -> Result<Coordinator, stagepost_broker::Error> {
        parts.broker.declare(&[QueueSpec::ours(options.topology.dead_letters())]).await?;
        let metrics = Arc::new(Metrics::default());
        let runner = express::Runner::start(parts.clone(), &options, &token_key, metrics.clone()).await?;
        let shared = Arc::new(Shared::new(parts, metrics.clone(), &options));
        let stopped = CancellationToken::new();
        let (feed, fed) = mpsc::channel(FEEDS_MAX);
        // One batch waits while one is committed: a deeper pipeline would only make batches smaller.
        let (decided, to_commit) = mpsc::channel(1);
        let (committed, to_publish) = mpsc::channel(1);
        let deciding = Deciding::new(shared.clone(), options.clone(), token_key.clone());
        let (failed_sender, failed) = watch::channel(None);
        let dropped = Arc::new(AtomicBool::new(false));
        let supervisor =
            Supervisor { stopped: stopped.clone(), failed: failed_sender, dropped: dropped.clone() };
        let schedules = schedules::run(shared.clone(), options.clone(), token_key.clone(), stopped.clone());
        let leases = lease::run(shared.clone(), options.clone(), token_key.clone(), feed, stopped.clone());
        let mut tasks = vec![
            supervisor.spawn("leases", leases),
            supervisor.spawn("deciding", deciding.run(fed, decided)),
            supervisor.spawn("commit", pipeline::commit(shared.clone(), to_commit, committed)),
            supervisor.spawn("publish", pipeline::publish(shared.clone(), to_publish)),
            supervisor.spawn("schedules", schedules),
            supervisor.spawn("signals", signals::run(shared.clone(), options.clone(), stopped.clone())),
            supervisor
                .spawn("express", express::queue::run(runner.clone(), options.clone(), stopped.clone())),
        ];
        if options.dead_letters_max > 0 {
            let run = dead_letters::run(shared.clone(), options.clone(), stopped.clone());
            tasks.push(supervisor.spawn("dead letters", run));
        }
        for queue in std::iter::once(options.topology.callbacks()).chain(options.callback_queues.clone()) {
            let (shared, options, key) = (shared.clone(), options.clone(), token_key.clone());
            let run = callbacks::run(shared, options, key, queue, stopped.clone());
            tasks.push(supervisor.spawn("callbacks", run));
        }
        let triggers = triggers::run(shared, options, stopped.clone());
        tasks.push(supervisor.spawn("triggers", triggers));
        Ok(Coordinator { metrics, runner, shutdown: stopped, failed, dropped, tasks })
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Runs Express executions in this process.
    pub fn runner(&self) -> Arc<express::Runner> {
        self.runner.clone()
    }

    /// Ends when a part of the coordinator has ended unexpectedly, by a panic for one, with the part's name. What
    /// remains cannot be relied upon: let the process end with an error. Never ends after [`Coordinator::shutdown`].
    pub fn failed(&self) -> impl Future<Output = &'static str> + Send + use<> {
        let mut failed = self.failed.clone();
        async move {
            let name = failed.wait_for(Option::is_some).await.ok().and_then(|name| *name);
            match name {
                Some(name) => name,
                None => std::future::pending().await,
            }
        }
    }

    /// Settles what was delivered, gives its shards back, and returns when all is done. What cannot be settled,
    /// because store or broker is away, is left to the next owner after a lease's time and ten seconds.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        let mut tasks = std::mem::take(&mut self.tasks).into_iter();
        // This one's time is limited by itself; the others end after it.
        if let Some(leases) = tasks.next() {
            join(leases).await;
        }
        let rest: Vec<_> = tasks.collect();
        let abort: Vec<_> = rest.iter().map(JoinHandle::abort_handle).collect();
        let all = futures_util::future::join_all(rest.into_iter().map(join));
        if tokio::time::timeout(SETTLE_MAX, all).await.is_err() {
            tracing::warn!("not all could be settled in time; the rest comes again");
            abort.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

async fn join(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a task of the coordinator failed");
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
