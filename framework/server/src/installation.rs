//! An installation, or one process of it: opened from [`Settings`], taken down in order.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use stagepost_broker::{Broker, in_process::InProcessBroker, rabbitmq::RabbitMqBroker};
use stagepost_connectors::{
    Registry, RequestApproval,
    aws::Aws,
    inbound,
    items::{CollectResults, DataSets, ReadItems, WriteResults},
};
use stagepost_coordinator::{
    Client, Coordinator, Metrics, Options, Parts, Recovered, express::Runner, installation_token_key,
    triggers,
};
use stagepost_protocol::{TokenKey, approval};
use stagepost_store::{Reader, Store, postgres::PostgresStore, sqlite::SqliteStore};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    api_client::ApiClient,
    children::StoredChildren,
    nested::StartExecution,
    retry::Waits,
    settings::{Backend, Settings},
};

/// The owner of all shards of an embedded installation. Always the same, so that a new process takes them over from
/// a killed one at once: the lock on the database keeps a second process out.
const EMBEDDED_OWNER: &str = "embedded";
/// The database's file in the data directory.
const DATABASE_FILE: &str = "stagepost.db";

/// How long calls of services may take to end when the process stops; their tasks are then delivered again.
const CALLS_GRACE: Duration = Duration::from_secs(10);

/// Why an installation cannot be opened or served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The database.
    #[error(transparent)]
    Store(#[from] stagepost_store::Error),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] stagepost_broker::Error),
    /// A trigger of the configuration.
    #[error(transparent)]
    Trigger(#[from] triggers::ConfigureError),
    /// A recovery stopped.
    #[error("the recovery stopped: {0}")]
    Recover(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running process of an installation. Dropping it without [`Installation::shutdown`] is as if the process had
/// died: nothing is lost, but what was under way is done again.
pub struct Installation {
    settings: Settings,
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    token_key: TokenKey,
    client: Arc<Client>,
    coordinator: Option<Coordinator>,
    connectors: Option<Connectors>,
    api: Arc<stagepost_api::Api>,
    serving: Vec<Serving>,
}

/// The worker that calls services.
struct Connectors {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    failed: watch::Receiver<bool>,
}

impl Connectors {
    fn start(
        settings: &Settings,
        aws: &Aws,
        broker: &Arc<dyn Broker>,
        reader: Arc<dyn Reader>,
        api: &Arc<stagepost_api::Api>,
        token_key: &TokenKey,
    ) -> Connectors {
        let sets = DataSets::new(aws, settings.files.clone());
        let children = Arc::new(StoredChildren::new(reader));
        let public_url = settings.public_url.clone();
        let approvals = RequestApproval::new(Arc::clone(broker), aws, token_key.link_key(), public_url);
        let registry = Registry::standard(Arc::clone(broker), aws)
            .with("stagepost", "readItems", Arc::new(ReadItems::new(sets.clone())))
            .with("stagepost", "writeResults", Arc::new(WriteResults::new(sets, Arc::clone(&children) as _)))
            .with("stagepost", "collectResults", Arc::new(CollectResults::new(children)))
            .with(approval::SERVICE, approval::ACTION, Arc::new(approvals))
            .with("states", "startExecution", Arc::new(StartExecution::new(Arc::clone(api))));
        let worker = stagepost_connectors::worker(Arc::clone(broker), registry)
            .queue_prefix(settings.coordinator.topology.prefix())
            .shutdown_grace(CALLS_GRACE);
        let (stop, stopped) = oneshot::channel();
        let (ended, failed) = watch::channel(false);
        let task = tokio::spawn(async move {
            let shutdown = async {
                // A dropped sender is a dropped installation.
                let _ = stopped.await;
            };
            if let Err(error) = worker.run_until(shutdown).await {
                tracing::error!(%error, "the connectors have failed");
                ended.send_replace(true);
            }
        });
        Connectors { stop, task, failed }
    }

    /// Ends when they have failed.
    fn failed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut failed = self.failed.clone();
        async move {
            // A sender that is gone without a word has ended in order.
            if failed.wait_for(|failed| *failed).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes no more calls and lets running ones end, within the grace period.
    async fn shutdown(self) {
        // They may have ended by themselves.
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task of the connectors failed");
        }
    }
}

struct Serving {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Installation {
    /// The embedded default: everything in this process. With a directory, what is there goes on; without one, the
    /// data lives in memory.
    pub async fn open_embedded(data: Option<PathBuf>) -> Result<Installation, OpenError> {
        Installation::open(Settings::embedded(data)).await
    }

    /// Opens the store and the broker that the settings name, and starts the coordinator if that is a role. Servers
    /// that cannot be reached are waited for, and the log tells so; dropping the future gives up.
    ///
    /// # Errors
    /// URLs that cannot be used, refused credentials, a data directory that cannot be written or that another
    /// process uses.
    pub async fn open(mut settings: Settings) -> Result<Installation, OpenError> {
        if matches!(settings.backend, Backend::Embedded { .. }) {
            settings.coordinator.owner = EMBEDDED_OWNER.to_owned();
            settings.coordinator.recover_shards = true;
        }
        let store = open_store(&settings).await?;
        let broker = open_broker(&settings).await?;
        let aws = Aws::new(settings.aws.clone());
        settings.coordinator.remote_queues = {
            let aws = aws.clone();
            Some(Arc::new(move |url, prefetch| Ok(inbound::consume(aws.clone(), url, prefetch))))
        };
        if settings.roles.coordinator {
            configure_triggers(&settings, store.as_ref()).await?;
        }
        let token_key = token_key(store.as_ref()).await?;
        let Options { topology, shards, .. } = settings.coordinator.clone();
        let client = Client::connect(broker.clone(), topology, shards, token_key.clone()).await?;
        let parts = Parts { store: store.clone(), broker: broker.clone() };
        let (coordinator, runner) = if settings.roles.coordinator {
            let coordinator =
                Coordinator::start(parts, settings.coordinator.clone(), token_key.clone()).await?;
            let runner = coordinator.runner();
            (Some(coordinator), runner)
        } else {
            (None, Runner::start(parts, &settings.coordinator, &token_key, Arc::default()).await?)
        };
        let options = stagepost_api::Options {
            namespace: settings.namespace.clone(),
            topology: settings.coordinator.topology.clone(),
            public_url: settings.public_url.clone(),
            ..stagepost_api::Options::default()
        };
        // The trait object's upcast: the API and the connectors only read.
        let reader: Arc<dyn Reader> = store.clone();
        let metrics = runner.metrics();
        let api = stagepost_api::Api::new(reader.clone(), client.clone(), runner, broker.health(), options)
            .with_metrics(move |out| metrics.render(out));
        let api = Arc::new(api);
        let connectors = settings
            .roles
            .connectors
            .then(|| Connectors::start(&settings, &aws, &broker, reader, &api, &token_key));
        let serving = Vec::new();
        Ok(Installation { settings, store, broker, token_key, client, coordinator, connectors, api, serving })
    }

    /// What it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where executions are kept.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Where messages are: workers in this process run on it.
    pub fn broker(&self) -> Arc<dyn Broker> {
        self.broker.clone()
    }

    /// The secret that signs its task tokens.
    pub fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    /// Asks shards without HTTP.
    pub fn client(&self) -> Arc<Client> {
        self.client.clone()
    }

    /// What its coordinator counts, if it has that role.
    pub fn metrics(&self) -> Option<Arc<Metrics>> {
        self.coordinator.as_ref().map(Coordinator::metrics)
    }

    /// Ends when a part of this installation's coordinator or its connectors have failed, with the part's name: let the
    /// process end with an error, so that what supervises it starts a whole one. Never ends while all is well.
    pub fn failed(&self) -> impl Future<Output = &'static str> + Send + use<> {
        let coordinator = self.coordinator.as_ref().map(Coordinator::failed);
        let connectors = self.connectors.as_ref().map(Connectors::failed);
        async move {
            let coordinator = async {
                match coordinator {
                    Some(failed) => failed.await,
                    None => std::future::pending().await,
                }
            };
            let connectors = async {
                match connectors {
                    Some(failed) => failed.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                part = coordinator => part,
                () = connectors => "connectors",
            }
        }
    }

    /// Serves HTTP at an address until [`Installation::shutdown`]: the API, if that is a role, and `/healthz`,
    /// `/readyz` and `/metrics`. Port 0 takes a free one; the address that is listened on is returned.
    pub async fn serve(&mut self, address: SocketAddr) -> Result<SocketAddr, OpenError> {
        let listen = |source| OpenError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let router = if self.settings.roles.api {
            stagepost_api::router(self.api.clone())
        } else {
            stagepost_api::health_router(self.api.clone())
        };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // A dropped sender is a dropped installation.
            let _ = stopped.await;
        };
        let task = tokio::spawn(stagepost_api::serve(listener, router, shutdown));
        self.serving.push(Serving { address, stop, task });
        Ok(address)
    }

    /// A client of its API, which is served on a free port of the loopback interface if it is not served yet.
    pub async fn api_client(&mut self) -> Result<ApiClient, OpenError> {
        let address = match self.serving.first() {
            Some(serving) => serving.address,
            None => self.serve((Ipv4Addr::LOCALHOST, 0).into()).await?,
        };
        // What listens on all interfaces is reached on the loopback one.
        let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
        Ok(ApiClient::at(SocketAddr::new(ip, address.port()), self.settings.namespace.clone()))
    }

    /// Takes no more requests, lets running ones end, settles what was delivered, gives its shards back, lets go of
    /// the broker, and returns when all is done.
    pub async fn shutdown(self) {
        self.api.close();
        for Serving { stop, task, address } in self.serving {
            // Serving may have ended by itself.
            let _ = stop.send(());
            match task.await {
                Ok(Ok(())) => tracing::debug!(%address, "serving has ended"),
                Ok(Err(error)) => tracing::warn!(%address, %error, "serving has failed"),
                Err(error) => tracing::error!(%address, %error, "the task that serves failed"),
            }
        }
        if let Some(connectors) = self.connectors {
            connectors.shutdown().await;
        }
        if let Some(coordinator) = self.coordinator {
            coordinator.shutdown().await;
        }
        self.broker.close().await;
    }
}

/// Publishes again all that is pending in an installation, from its store: after the broker lost its messages.
/// Repetitions do no harm. Servers that cannot be reached are waited for.
pub async fn recover(settings: &Settings) -> Result<Recovered, OpenError> {
    let store = open_store(settings).await?;
    let broker = open_broker(settings).await?;
    let token_key = token_key(store.as_ref()).await?;
    let recovered =
        stagepost_coordinator::recover(store.as_ref(), broker.as_ref(), &settings.coordinator, &token_key)
            .await;
    broker.close().await;
    recovered.map_err(|error| OpenError::Recover(error.to_string()))
}

/// Opens the store that the settings name; a server that cannot be reached is waited for.
async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, OpenError> {
    match &settings.backend {
        Backend::Embedded { data } => {
            let path =
                data.as_deref().map_or_else(|| Path::new(":memory:").to_owned(), |d| d.join(DATABASE_FILE));
            let open = move || SqliteStore::open(path, &stagepost_store::sqlite::Options::default());
            let opened = tokio::task::spawn_blocking(open).await;
            let opened = opened.unwrap_or_else(|e| Err(stagepost_store::Error::Unavailable(e.to_string())));
            Ok(opened?)
        }
        Backend::Servers { database_url, .. } => {
            let connect = || PostgresStore::connect(database_url, settings.postgres.clone());
            let store = patiently(connect).await?;
            Ok(store)
        }
    }
}

/// Opens the broker that the settings name; a server that cannot be reached is waited for.
async fn open_broker(settings: &Settings) -> Result<Arc<dyn Broker>, OpenError> {
    match &settings.backend {
        Backend::Embedded { .. } => Ok(InProcessBroker::new()),
        Backend::Servers { amqp_url, .. } => {
            let broker = RabbitMqBroker::connect(amqp_url, settings.rabbitmq.clone()).await?;
            Ok(broker)
        }
    }
}

/// Makes sure of the triggers of the configuration; a store that cannot be reached is waited for.
async fn configure_triggers(settings: &Settings, store: &dyn Store) -> Result<(), OpenError> {
    let Options { topology, clock, .. } = &settings.coordinator;
    for trigger in &settings.triggers {
        let mut waits = Waits::new();
        loop {
            let configured =
                triggers::configure(store, &settings.namespace, trigger, topology, clock.now()).await;
            match configured {
                Ok(()) => break,
                Err(triggers::ConfigureError::Store(stagepost_store::Error::Unavailable(reason))) => {
                    tracing::warn!(error = %reason, "the database cannot be reached, trying again");
                    tokio::time::sleep(waits.next()).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

async fn token_key(store: &dyn Store) -> Result<TokenKey, OpenError> {
    Ok(patiently(|| installation_token_key(store)).await?)
}

/// Asks the store until it can be reached.
async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, stagepost_store::Error>
where
    F: Future<Output = Result<T, stagepost_store::Error>>,
{
    let mut waits = Waits::new();
    loop {
        match ask().await {
            Err(stagepost_store::Error::Unavailable(reason)) => {
                tracing::warn!(error = %reason, "the database cannot be reached, trying again");
                tokio::time::sleep(waits.next()).await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests;
