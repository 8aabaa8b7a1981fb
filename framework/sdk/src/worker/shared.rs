//! What all parts of a running worker share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::context::{Clock, Outgoing};
use crate::state::States;

/// Reports that may wait for the reporter; more than that and activities wait to report.
pub(super) const REPORTS_WAITING_MAX: usize = 4_096;
/// An attempt that has not ended after so long is announced as started.
pub(super) const ANNOUNCE_AFTER: Duration = Duration::from_secs(1);
/// A delivery whose attempt is still running after so long is acknowledged all the same: RabbitMQ closes channels on
/// deliveries that stay unacknowledged for 30 minutes (`consumer_timeout`). Until then it stays with the attempt,
/// for two reasons: a worker that dies gives its attempt back at once, and the broker, which counts unacknowledged
/// deliveries, sends no task that would have to wait for a free slot here.
pub(super) const HOLD_AT_MOST: Duration = Duration::from_secs(10 * 60);
/// How long an activity has to stop once it was asked to, before it is ended.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What all parts of a running worker share.
pub(super) struct Shared {
    /// The worker's name.
    pub(super) name: String,
    pub(super) clock: Clock,
    pub(super) states: Arc<States>,
    pub(super) reports: mpsc::Sender<Outgoing>,
}

impl Shared {
    /// Hands something to the reporter; waits while too much is waiting there.
    pub(super) async fn send(&self, outgoing: Outgoing) {
        // It ends only after all attempts: nobody is left to be told.
        if self.reports.send(outgoing).await.is_err() {
            tracing::debug!("a report came after the reporter had ended");
        }
    }
}
