//! Looks after running attempts from outside: announces those that take long, and ends those whose time is over.
//! One loop for all attempts, so that a short one costs no timer.

use std::sync::Arc;
use std::time::Duration;

use stagepost_protocol::error_names;
use tokio::time::Instant;

use super::attempt;
use super::ledger::Ledger;
use super::shared::{STOP_WITHIN, Shared};
use crate::activity::Registration;
use crate::context::Attempt;
use crate::failure::{Cancelled, Failure};

/// How often it looks: what it does happens up to this much late.
const PERIOD: Duration = Duration::from_millis(100);

/// Watches the attempts of these activities until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, activities: Vec<(Arc<Registration>, Arc<Ledger>)>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.pulse.beat();
        for (registration, ledger) in &activities {
            for attempt in ledger.all() {
                look_at(&shared, registration, &attempt).await;
            }
        }
    }
}

async fn look_at(shared: &Shared, registration: &Registration, attempt: &Arc<Attempt>) {
    let running = attempt.started.elapsed();
    if running >= shared.leases.announce_after() {
        attempt.announce(&shared.reports);
    }
    if shared.leases.is_lost(attempt) {
        attempt.cancel(Cancelled::LeaseLost);
    }
    if attempt.deadline.is_some_and(|deadline| shared.clock.now() > deadline) {
        // The coordinator's own clock times the attempt out; here it is only stopped.
        attempt.cancel(Cancelled::Deadline);
    }
    if let Some(failure) = over_own_limit(registration, attempt, running) {
        attempt.cancel(Cancelled::Deadline);
        attempt::finish(shared, attempt, attempt::failed(failure)).await;
    }
    let (why, asked) = {
        let progress = attempt.progress();
        (progress.cancelled, progress.cancelled_at)
    };
    let stop_within =
        if why == Some(Cancelled::LeaseLost) { shared.leases.stop_within() } else { STOP_WITHIN };
    if asked.is_some_and(|asked| asked.elapsed() >= stop_within) && !registration.options.blocking {
        // A thread cannot be ended: a blocking activity keeps its slot until it returns.
        attempt.abort.notify_one();
    }
}

/// The limits that the activity's attribute sets, beside the definition's.
fn over_own_limit(registration: &Registration, attempt: &Attempt, running: Duration) -> Option<Failure> {
    if let Some(timeout) = registration.options.timeout
        && running >= timeout
    {
        let cause = format!("the activity ran longer than its own timeout of {timeout:?}");
        return Some(Failure::new(error_names::TIMEOUT, cause));
    }
    let heartbeat = registration.options.heartbeat?;
    let last = attempt.progress().heartbeat.unwrap_or(attempt.started);
    if Instant::now().duration_since(last) < heartbeat {
        return None;
    }
    let cause = format!("the activity sent no heartbeat for its own limit of {heartbeat:?}");
    Some(Failure::new(error_names::HEARTBEAT_TIMEOUT, cause))
}
