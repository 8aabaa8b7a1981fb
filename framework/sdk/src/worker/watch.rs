//! Looks after running attempts from outside: announces those that take long, and ends those whose time is over.
//! One loop for all attempts, so that a short one costs no timer.

use std::sync::Arc;
use std::time::Duration;

use stagepost_protocol::{ReportOutcome, error_names};
use tokio::time::Instant;

use super::attempt;
use super::ledger::Ledger;
use super::shared::{ANNOUNCE_AFTER, HOLD_AT_MOST, STOP_WITHIN, Shared};
use crate::activity::Registration;
use crate::context::{Attempt, Outgoing};
use crate::failure::{Cancelled, Failure};

/// How often it looks: what it does happens up to this much late.
const PERIOD: Duration = Duration::from_millis(100);

/// Watches the attempts of these activities until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, activities: Vec<(Arc<Registration>, Arc<Ledger>)>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (registration, ledger) in &activities {
            for attempt in ledger.all() {
                look_at(&shared, registration, ledger, &attempt).await;
            }
        }
    }
}

async fn look_at(shared: &Shared, registration: &Registration, ledger: &Ledger, attempt: &Arc<Attempt>) {
    let running = attempt.started.elapsed();
    announce(shared, attempt, running);
    if running >= HOLD_AT_MOST {
        let delivered = {
            let mut progress = attempt.progress();
            if progress.announced && !progress.closed { progress.delivered.take() } else { None }
        };
        if let Some(delivered) = delivered {
            ledger.ack(&[delivered.0]).await;
        }
    }
    if attempt.deadline.is_some_and(|deadline| shared.clock.now() > deadline) {
        // The coordinator's own clock times the attempt out; here it is only stopped.
        attempt.cancel(Cancelled::Deadline);
    }
    if let Some(failure) = over_own_limit(registration, attempt, running) {
        attempt.cancel(Cancelled::Deadline);
        attempt::finish(shared, attempt, attempt::failed(failure)).await;
    }
    let asked = attempt.progress().cancelled_at;
    if asked.is_some_and(|asked| asked.elapsed() >= STOP_WITHIN) && !registration.options.blocking {
        // A thread cannot be ended: a blocking activity keeps its slot until it returns.
        attempt.abort.notify_one();
    }
}

fn announce(shared: &Shared, attempt: &Arc<Attempt>, running: Duration) {
    let mut progress = attempt.progress();
    if running < ANNOUNCE_AFTER || progress.announced || progress.closed {
        return;
    }
    // When too many reports wait, the next look tries again.
    if shared.reports.try_send(Outgoing::report(attempt, ReportOutcome::Started)).is_ok() {
        progress.announced = true;
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
