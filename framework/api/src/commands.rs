//! What changes executions, as the operations see it: requests to coordinators. A seam, so that operations can
//! be tested without a coordinator.

use std::time::Duration;

use async_trait::async_trait;
use stagepost_coordinator::client::{Client, ClientError};
use stagepost_protocol::{
    Namespace, Report, TaskMessage,
    shard::{Reply, Start, Stop},
};

/// Requests that are answered after the commit; see [`Client`], whose methods these are.
#[async_trait]
pub(crate) trait Commands: Send + Sync + 'static {
    async fn start(&self, start: Start) -> Result<Reply, ClientError>;
    async fn stop(&self, stop: Stop) -> Result<Reply, ClientError>;
    async fn report(&self, report: Report) -> Result<Reply, ClientError>;

    /// Dropping the future before it returned gives a delivered task back to its queue.
    async fn poll_activity(
        &self,
        namespace: &Namespace,
        activity: &str,
        worker: Option<&str>,
        wait: Duration,
    ) -> Result<Option<TaskMessage>, ClientError>;
}

#[async_trait]
impl Commands for Client {
    async fn start(&self, start: Start) -> Result<Reply, ClientError> {
        Client::start(self, start).await
    }

    async fn stop(&self, stop: Stop) -> Result<Reply, ClientError> {
        Client::stop(self, stop).await
    }

    async fn report(&self, report: Report) -> Result<Reply, ClientError> {
        Client::report(self, report).await
    }

    async fn poll_activity(
        &self,
        namespace: &Namespace,
        activity: &str,
        worker: Option<&str>,
        wait: Duration,
    ) -> Result<Option<TaskMessage>, ClientError> {
        Client::poll_activity(self, namespace, activity, worker, wait).await
    }
}
