//! What changes executions, as the operations see it: requests to coordinators. A seam, so that operations can
//! be tested without a coordinator.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stagepost_coordinator::{
    client::{Client, ClientError, OneCall, Poller},
    express::{Ended, RunError, Runner},
};
use stagepost_protocol::{
    ExpressStart, Message, Namespace, Report, ReportOutcome, Signal, TaskMessage,
    shard::{Redrive, Reply, Start, Stop, UpdateMapRun},
};

/// Requests that are answered after the commit, and Express executions; see [`Client`] and [`Runner`], whose methods
/// these are.
#[async_trait]
pub(crate) trait Commands: Send + Sync + 'static {
    async fn start(&self, start: Start) -> Result<Reply, ClientError>;
    async fn stop(&self, stop: Stop) -> Result<Reply, ClientError>;
    async fn redrive(&self, redrive: Redrive) -> Result<Reply, ClientError>;
    async fn update_map_run(&self, update: UpdateMapRun) -> Result<Reply, ClientError>;
    async fn signal(&self, signal: Signal) -> Result<Reply, ClientError>;
    async fn report(&self, report: Report) -> Result<Reply, ClientError>;
    async fn start_express(&self, start: ExpressStart) -> Result<(), ClientError>;
    async fn run_express(&self, start: ExpressStart) -> Result<Ended, RunError>;
    /// `None` when nothing was heard of it in time.
    async fn call(&self, call: OneCall, wait: Duration) -> Result<Option<ReportOutcome>, ClientError>;

    /// Publishes a message to a queue that is there; see [`Client::publish`].
    async fn publish(&self, message: Message) -> Result<(), ClientError>;

    /// Dropping the future before it returned gives a delivered task to somebody else.
    async fn poll_activity(
        &self,
        namespace: &Namespace,
        activity: &str,
        poller: Poller,
        wait: Duration,
    ) -> Result<Option<TaskMessage>, ClientError>;
}

/// The coordinators of the installation, and the runner of this process.
pub(crate) struct Coordinators {
    pub(crate) client: Arc<Client>,
    pub(crate) runner: Arc<Runner>,
}

#[async_trait]
impl Commands for Coordinators {
    async fn start(&self, start: Start) -> Result<Reply, ClientError> {
        self.client.start(start).await
    }

    async fn stop(&self, stop: Stop) -> Result<Reply, ClientError> {
        self.client.stop(stop).await
    }

    async fn redrive(&self, redrive: Redrive) -> Result<Reply, ClientError> {
        self.client.redrive(redrive).await
    }

    async fn update_map_run(&self, update: UpdateMapRun) -> Result<Reply, ClientError> {
        self.client.update_map_run(update).await
    }

    async fn signal(&self, signal: Signal) -> Result<Reply, ClientError> {
        self.client.signal(signal).await
    }

    async fn report(&self, report: Report) -> Result<Reply, ClientError> {
        self.client.report(report).await
    }

    async fn start_express(&self, start: ExpressStart) -> Result<(), ClientError> {
        self.client.start_express(&start).await
    }

    async fn run_express(&self, start: ExpressStart) -> Result<Ended, RunError> {
        self.runner.run(start).await
    }

    async fn call(&self, call: OneCall, wait: Duration) -> Result<Option<ReportOutcome>, ClientError> {
        self.client.call(call, wait).await
    }

    async fn publish(&self, message: Message) -> Result<(), ClientError> {
        self.client.publish(message).await
    }

    async fn poll_activity(
        &self,
        namespace: &Namespace,
        activity: &str,
        poller: Poller,
        wait: Duration,
    ) -> Result<Option<TaskMessage>, ClientError> {
        self.client.poll_activity(namespace, activity, poller, wait).await
    }
}
