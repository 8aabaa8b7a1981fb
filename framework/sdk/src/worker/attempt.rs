//! Runs one attempt: calls the activity, catches its panic, reports what became of it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use stagepost_broker::DeliveryTag;
use stagepost_protocol::limits::{CAUSE_CHARS_MAX, ERROR_CHARS_MAX};
use stagepost_protocol::{Lease, Payload, ReportOutcome, TaskMessage, error_names};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use super::control::Claiming;
use super::ledger::{Delivered, Ledger};
use super::shared::Shared;
use crate::activity::{Registration, Task, Work};
use crate::calls::{CallTask, Called};
use crate::context::{Attempt, Context, Outgoing, Progress, Sink};
use crate::failure::{Cancelled, Failure};

/// The attempt of a task that was delivered.
pub(super) fn of_task(
    shared: &Shared,
    registration: &Registration,
    task: TaskMessage,
    delivered: DeliveryTag,
    lease: Option<Lease>,
) -> Attempt {
    let millis = |n: i64| Duration::from_millis(u64::try_from(n).unwrap_or(0));
    Attempt {
        activity: registration.name,
        id: task.attempt_id,
        token: task.token,
        number: task.attempt,
        returns: AtomicU32::new(task.returns),
        execution: task.execution,
        state: task.state,
        idempotency_key: task.idempotency_key,
        deadline: task.deadline,
        call: task.call,
        heartbeat_every: task.heartbeat_millis.map(millis).or(registration.options.heartbeat),
        reply_to: task.reply_to,
        lease,
        clock: shared.clock.clone(),
        started_at: shared.clock.now(),
        started: Instant::now(),
        sink: Sink::Worker(shared.reports.clone()),
        cancel: Notify::new(),
        abort: Notify::new(),
        progress: Mutex::new(Progress { delivered: Some(Delivered(delivered)), ..Progress::default() }),
    }
}

/// Begins what the coordinator has granted: it knows whose it is, as if it had been announced.
pub(super) fn begin_granted(
    shared: &Arc<Shared>,
    ledger: &Arc<Ledger>,
    registration: &Arc<Registration>,
    claiming: Claiming,
) {
    let Claiming { task, delivered, lease, asked, slot, .. } = claiming;
    let input = task.input.clone();
    let attempt = of_task(shared, registration, task, delivered, Some(lease));
    {
        let mut progress = attempt.progress();
        (progress.announced, progress.held) = (asked, true);
    }
    begin(shared, ledger, registration, Arc::new(attempt), input, slot);
}

/// Begins an attempt on a task of its own, which holds `slot` until the activity has returned.
pub(super) fn begin(
    shared: &Arc<Shared>,
    ledger: &Arc<Ledger>,
    registration: &Arc<Registration>,
    attempt: Arc<Attempt>,
    input: Payload,
    slot: OwnedSemaphorePermit,
) {
    attempt.progress().running = true;
    ledger.begin(&attempt);
    let (shared, ledger, registration) = (Arc::clone(shared), Arc::clone(ledger), Arc::clone(registration));
    tokio::spawn(async move {
        let ended = tokio::select! {
            biased;
            ended = run(&shared, &registration, &attempt, input) => Some(ended),
            () = attempt.abort.notified() => None,
        };
        attempt.progress().running = false;
        drop(slot);
        match ended {
            Some(outcome) => finish(&shared, &attempt, outcome).await,
            None => aborted(&shared, &ledger, &attempt).await,
        }
    });
}

/// Sends the last report of an attempt, unless it has been sent.
pub(super) async fn finish(shared: &Shared, attempt: &Arc<Attempt>, outcome: ReportOutcome) {
    if attempt.close() {
        shared.send(Outgoing::report(attempt, outcome)).await;
    }
}

async fn run(
    shared: &Shared,
    registration: &Registration,
    attempt: &Arc<Attempt>,
    input: Payload,
) -> ReportOutcome {
    let context = Context::new(Arc::clone(attempt));
    let returned = match &registration.work {
        Work::Activity(run) => {
            let task = Task { context, states: Arc::clone(&shared.states), input };
            catch(|| run(task)).await.map(|returned| returned.map(ReportOutcome::Succeeded))
        }
        Work::Calls(run) => {
            let Some(call) = attempt.call.clone() else {
                let cause = "the task on the connectors' queue does not say what to call";
                return failed(Failure::new(error_names::INVALID_INPUT, cause));
            };
            let task = CallTask { context, call, input, attempt_id: attempt.id.clone() };
            catch(|| run(task)).await.map(|returned| {
                returned.map(|called| match called {
                    Called::Done(output) => ReportOutcome::Succeeded(output),
                    Called::Submitted(output) => ReportOutcome::Submitted(output),
                })
            })
        }
    };
    returned
        .unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            tracing::error!(
                activity = attempt.activity, execution_arn = %attempt.execution, state = %attempt.state,
                attempt = attempt.number, "the activity panicked; its attempt fails, the worker goes on"
            );
            Err(Failure::new(error_names::ACTIVITY_PANICKED, message))
        })
        .unwrap_or_else(failed)
}

/// A failure as it is reported, cut to the API's limits.
pub(super) fn failed(failure: Failure) -> ReportOutcome {
    let (name, cause) = failure.into_parts();
    let error = truncated(name.into_owned(), ERROR_CHARS_MAX);
    ReportOutcome::Failed { error: Some(error), cause: Some(truncated(cause, CAUSE_CHARS_MAX)) }
}

fn truncated(mut text: String, chars_max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
    }
    text
}

/// The function was ended at an await, because it had not stopped when it was asked to.
async fn aborted(shared: &Shared, ledger: &Ledger, attempt: &Arc<Attempt>) {
    let why = attempt.progress().cancelled;
    tracing::warn!(
        activity = attempt.activity, execution_arn = %attempt.execution, state = %attempt.state,
        attempt = attempt.number, "the activity did not stop when it was asked to, and was ended"
    );
    let shut_down = || {
        let cause = format!("the worker '{}' shut down before the attempt had ended", shared.name);
        failed(Failure::new(error_names::HEARTBEAT_TIMEOUT, cause))
    };
    let outcome = match (why, &attempt.lease) {
        // Nothing is kept of its execution: the message still stands for the attempt, and another worker takes it.
        (Some(Cancelled::Shutdown), None) => {
            let delivered = attempt.progress().delivered.take();
            match delivered {
                Some(delivered) if attempt.close() => {
                    ledger.requeue(delivered.0).await;
                    ledger.end(&attempt.id);
                    return;
                }
                _ => shut_down(),
            }
        }
        (Some(Cancelled::Shutdown), Some(lease)) if lease.idempotent => {
            ReportOutcome::Released { holder: lease.holder.clone(), returns: attempt.returns() }
        }
        (Some(Cancelled::Shutdown), Some(_)) => shut_down(),
        (Some(Cancelled::LeaseLost), _) => {
            let cause = format!("the worker '{}' was not heard of for its lease", shared.name);
            failed(Failure::new(error_names::HEARTBEAT_TIMEOUT, cause))
        }
        _ => failed(Failure::new(error_names::TIMEOUT, "the activity did not stop when its time was over")),
    };
    finish(shared, attempt, outcome).await;
}

/// Gives a task to another worker that was delivered and not begun.
pub(super) async fn give_back(
    shared: &Shared,
    ledger: &Ledger,
    registration: &Registration,
    task: TaskMessage,
    delivered: DeliveryTag,
    lease: Lease,
) {
    let outcome = ReportOutcome::Released { holder: lease.holder.clone(), returns: task.returns };
    let attempt = Arc::new(of_task(shared, registration, task, delivered, Some(lease)));
    ledger.begin(&attempt);
    finish(shared, &attempt, outcome).await;
}

/// The future's result, or what it panicked with: while it is made or while it is polled.
async fn catch<T>(
    make: impl FnOnce() -> Pin<Box<dyn Future<Output = T> + Send>>,
) -> Result<T, Box<dyn Any + Send>> {
    // Unwind safety: after a panic the future is dropped and nothing of it is looked at again.
    let mut future = catch_unwind(AssertUnwindSafe(make))?;
    std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(returned)) => Poll::Ready(Ok(returned)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    match text {
        Some(text) => format!("the activity panicked: {text}"),
        None => "the activity panicked".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_causes_are_cut_at_a_character() {
        assert_eq!(truncated("äöü".into(), 2), "äö");
        assert_eq!(truncated("äö".into(), 2), "äö");
    }
}
