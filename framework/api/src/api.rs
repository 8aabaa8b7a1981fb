//! What all requests share.

use std::{sync::Arc, time::Duration};

use stagepost_broker::Health;
use stagepost_coordinator::{client::Client, express::Runner};
use stagepost_protocol::{Namespace, TokenKey, topology::Topology};
use stagepost_store::Reader;
use tokio::sync::watch;

use crate::{
    commands::{Commands, Coordinators},
    metrics::{RequestMetrics, Source},
};

/// Settings of the API.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace of requests that name none. Default: account `000000000000` in `us-east-1`.
    pub namespace: Namespace,
    /// How long GetActivityTask waits for a task. Default: 60 seconds, as the service does; clients close their
    /// connection some seconds later.
    pub activity_poll: Duration,
    /// The names of the installation's queues.
    pub topology: Topology,
    /// Where people reach this server, without a slash at its end: links to approvals begin with it. Default: as the
    /// request for the link did.
    pub public_url: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            namespace: Namespace::default(),
            activity_poll: Duration::from_secs(60),
            topology: Topology::default(),
            public_url: None,
        }
    }
}

/// The state of the HTTP API; give it to [`crate::router`].
pub struct Api {
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) commands: Arc<dyn Commands>,
    /// Signs the task tokens of approvals and the links to them.
    pub(crate) token_key: TokenKey,
    pub(crate) broker: watch::Receiver<Health>,
    pub(crate) options: Options,
    pub(crate) requests: RequestMetrics,
    pub(crate) sources: Vec<Source>,
    closing: watch::Sender<bool>,
}

impl Api {
    /// An API over a store, a client of the coordinators, and what runs Express executions in this process. `broker` is
    /// [`stagepost_broker::Broker::health`].
    pub fn new(
        reader: Arc<dyn Reader>,
        client: Arc<Client>,
        runner: Arc<Runner>,
        broker: watch::Receiver<Health>,
        options: Options,
    ) -> Api {
        let token_key = client.token_key().clone();
        Api::over(reader, Arc::new(Coordinators { client, runner }), token_key, broker, options)
    }

    pub(crate) fn over(
        reader: Arc<dyn Reader>,
        commands: Arc<dyn Commands>,
        token_key: TokenKey,
        broker: watch::Receiver<Health>,
        options: Options,
    ) -> Api {
        let (requests, sources, closing) = (RequestMetrics::default(), Vec::new(), watch::Sender::new(false));
        Api { reader, commands, token_key, broker, options, requests, sources, closing }
    }

    /// Adds a source to `/metrics`: it appends families in the Prometheus text format.
    #[must_use]
    pub fn with_metrics(mut self, source: impl Fn(&mut String) + Send + Sync + 'static) -> Api {
        self.sources.push(Box::new(source));
        self
    }

    /// Ends waiting polls with an empty answer, so that a server that shuts down need not wait for them. Polls
    /// that come later are answered at once.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// How many polls wait now.
    pub(crate) fn polls_waiting(&self) -> usize {
        self.closing.receiver_count()
    }

    /// Returns when [`Api::close`] has been called.
    pub(crate) async fn closed(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }
}
