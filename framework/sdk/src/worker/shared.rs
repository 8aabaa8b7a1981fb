//! What all parts of a running worker share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::builder::Worker;
use super::lease::Leases;
use super::pulse::Pulse;
use crate::context::{Clock, Outgoing};
use crate::state::States;

/// Reports that may wait for the reporter; more than that and activities wait to report.
pub(super) const REPORTS_WAITING_MAX: usize = 4_096;
/// How long an activity has to stop once it was asked to, before it is ended.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What all parts of a running worker share.
pub(super) struct Shared {
    /// The worker's name.
    pub(super) name: String,
    pub(super) clock: Clock,
    pub(super) states: Arc<States>,
    pub(super) reports: mpsc::Sender<Outgoing>,
    pub(super) leases: Leases,
    pub(super) pulse: Pulse,
    /// There is a new claim.
    pub(super) claimed: Notify,
}

impl Shared {
    pub(super) fn new(worker: &mut Worker, reports: mpsc::Sender<Outgoing>) -> Arc<Shared> {
        let leases = Leases::new(worker.holder.clone(), worker.lease, worker.topology.clone());
        Arc::new(Shared {
            name: worker.name.clone(),
            clock: worker.clock.clone(),
            states: Arc::new(std::mem::take(&mut worker.states)),
            reports,
            pulse: Pulse::new(leases.part()),
            leases,
            claimed: Notify::new(),
        })
    }

    /// Hands something to the reporter; waits while too much is waiting there.
    pub(super) async fn send(&self, outgoing: Outgoing) {
        // It ends only after all attempts: nobody is left to be told.
        if self.reports.send(outgoing).await.is_err() {
            tracing::debug!("a report came after the reporter had ended");
        }
    }
}
