//! Puts a coordinator together and takes it down again.

use std::sync::Arc;

use stagepost_broker::{Broker, QueueSpec};
use stagepost_protocol::TokenKey;
use stagepost_store::{Reader, Store};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    callbacks,
    deciding::Deciding,
    lease,
    metrics::Metrics,
    options::Options,
    pipeline::{self, Shared},
    triggers,
};

/// Feeds that wait for the loop; each holds up to a batch.
const FEEDS_MAX: usize = 16;

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
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
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
        let shared = Arc::new(Shared::new(parts, metrics.clone(), options.on_end.clone()));
        let (shutdown, stopped) = watch::channel(false);
        let (feed, fed) = mpsc::channel(FEEDS_MAX);
        // One batch waits while one is committed: a deeper pipeline would only make batches smaller.
        let (decided, to_commit) = mpsc::channel(1);
        let (committed, to_publish) = mpsc::channel(1);
        let deciding = Deciding::new(shared.clone(), options.clone(), token_key.clone());
        let mut tasks = vec![
            tokio::spawn(lease::run(
                shared.clone(),
                options.clone(),
                token_key.clone(),
                feed,
                stopped.clone(),
            )),
            tokio::spawn(deciding.run(fed, decided)),
            tokio::spawn(pipeline::commit(shared.clone(), to_commit, committed)),
            tokio::spawn(pipeline::publish(shared.clone(), to_publish)),
            tokio::spawn(callbacks::run(shared.clone(), options.clone(), token_key, stopped.clone())),
        ];
        for trigger in &options.triggers {
            let run = triggers::run(shared.clone(), options.clone(), trigger.clone(), stopped.clone());
            tasks.push(tokio::spawn(run));
        }
        Ok(Coordinator { metrics, shutdown, tasks })
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Settles what was delivered, gives its shards back, and returns when all is done.
    pub async fn shutdown(mut self) {
        // The tasks may have ended by themselves.
        let _ = self.shutdown.send(true);
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the coordinator failed");
            }
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
