//! What an activity knows of its attempt: [`Context`], the activity's side; [`Attempt`], what it shares with the
//! worker.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use stagepost_protocol::{Lease, ReportOutcome, ServiceCall, TaskToken, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::failure::Cancelled;
use crate::testing::ContextBuilder;
use crate::worker::Delivered;

/// A heartbeat is sent at most so often where nothing says how often they must come.
const HEARTBEAT_PAUSE_DEFAULT: Duration = Duration::from_secs(1);

/// The attempt that an activity is working on: an extractor, cheap to clone, for use from any task or thread.
///
/// ```
/// use stagepost::{Context, Failure, activity};
///
/// #[activity(heartbeat = "10s", idempotent)]
/// async fn import_rows(cx: Context, rows: Vec<String>) -> Result<usize, Failure> {
///     for (done, row) in rows.iter().enumerate() {
///         cx.check_cancelled()?;
///         store(cx.idempotency_key(), row).await?;
///         cx.heartbeat(&done);
///     }
///     Ok(rows.len())
/// }
/// # async fn store(key: &str, row: &str) -> Result<(), std::io::Error> { Ok(()) }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// // In a test:
/// let cx = Context::for_test().attempt(2).build();
/// assert_eq!(import_rows(cx, vec!["a".into(), "b".into()]).await.unwrap(), 2);
/// # }
/// ```
#[derive(Clone)]
pub struct Context {
    attempt: Arc<Attempt>,
}

impl Context {
    pub(crate) fn new(attempt: Arc<Attempt>) -> Context {
        Context { attempt }
    }

    /// Builds a context for the test of an activity.
    pub fn for_test() -> ContextBuilder {
        ContextBuilder::default()
    }

    /// The number of this attempt, from 1. Always 1 where the server does not tell (AWS's own API).
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// When the attempt times out; `None`: never, or not known.
    pub fn deadline(&self) -> Option<SystemTime> {
        let millis = self.attempt.deadline?.as_millis();
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }

    /// The time that is left until the deadline: zero when it has passed, `None` when there is none.
    pub fn remaining(&self) -> Option<Duration> {
        let deadline = self.deadline()?;
        Some(deadline.duration_since(self.attempt.clock.time()).unwrap_or_default())
    }

    /// A text that names this step (one visit of one state of one execution), the same for all its attempts and for
    /// no other step: give it to services that take an idempotency key, so that a second attempt does nothing twice.
    pub fn idempotency_key(&self) -> &str {
        &self.attempt.idempotency_key
    }

    /// The ARN of the execution; empty where the server does not tell.
    pub fn execution(&self) -> &str {
        &self.attempt.execution
    }

    /// The name of the state; empty where the server does not tell.
    pub fn state(&self) -> &str {
        &self.attempt.state
    }

    /// The name of the activity.
    pub fn activity(&self) -> &str {
        self.attempt.activity
    }

    /// The attempt's task token, to hand to somebody who is to answer in the activity's stead. A secret: whoever
    /// holds it can complete the task.
    pub fn task_token(&self) -> &str {
        self.attempt.token.as_str()
    }

    /// Says that the attempt is still being worked on. Never fails and never waits; call it as often as is
    /// convenient: the first is sent at once, then at most three per heartbeat interval. (A heartbeat that finds the
    /// worker's queue of reports full is dropped; the next one takes its place.)
    ///
    /// The details are for tests, which can look at them ([`ContextBuilder::build_with_probe`]); Step Functions keeps
    /// of a heartbeat only its time.
    pub fn heartbeat<T: Serialize + ?Sized>(&self, details: &T) {
        match &self.attempt.sink {
            Sink::Worker(reports) => {
                if self.attempt.take_heartbeat() {
                    // A coordinator that hears of it must learn what stands for it.
                    if self.attempt.lease.is_some() {
                        self.attempt.announce(reports);
                    }
                    let outgoing = Outgoing::report(&self.attempt, ReportOutcome::Heartbeat);
                    if reports.try_send(outgoing).is_err() {
                        tracing::debug!(activity = %self.attempt.activity, "a heartbeat was dropped: too many reports wait");
                    }
                }
            }
            Sink::Test(seen) => {
                let details = serde_json::to_value(details).unwrap_or_default();
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(details);
            }
        }
    }

    /// Completes when the activity is to stop; its result is of no use any more, or soon will not be. What does not
    /// stop is ended by the worker some seconds later.
    ///
    /// ```
    /// # use stagepost::{Context, Cancelled};
    /// # async fn work() {}
    /// # async fn example(cx: Context) -> Result<(), Cancelled> {
    /// tokio::select! {
    ///     () = work() => Ok(()),
    ///     why = cx.cancelled() => Err(why),
    /// }
    /// # }
    /// ```
    pub async fn cancelled(&self) -> Cancelled {
        self.attempt.cancelled().await
    }

    /// Whether the activity is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.check_cancelled().is_err()
    }

    /// Fails when the activity is to stop: for `cx.check_cancelled()?` between two pieces of work.
    ///
    /// # Errors
    /// Says why it is to stop. A [`Failure`](crate::Failure) takes it with `?`.
    pub fn check_cancelled(&self) -> Result<(), Cancelled> {
        match self.attempt.progress().cancelled {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("activity", &self.attempt.activity)
            .field("attempt", &self.attempt.number)
            .field("execution", &self.attempt.execution)
            .field("state", &self.attempt.state)
            .finish_non_exhaustive()
    }
}

/// Where an attempt's heartbeats go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// To the worker's reporter.
    Worker(mpsc::Sender<Outgoing>),
    /// To the test.
    Test(Mutex<Vec<serde_json::Value>>),
}

/// Something for the reporter.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A report on an attempt.
    Report {
        /// On which one.
        attempt: Arc<Attempt>,
        /// What became of it.
        outcome: ReportOutcome,
    },
    /// There will be no more; those before are still sent.
    Stop,
}

impl Outgoing {
    pub(crate) fn report(attempt: &Arc<Attempt>, outcome: ReportOutcome) -> Outgoing {
        Outgoing::Report { attempt: Arc::clone(attempt), outcome }
    }
}

/// One attempt, shared by the activity's context, the worker's watch and the reporter.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) activity: &'static str,
    /// Names the attempt.
    pub(crate) id: String,
    pub(crate) token: TaskToken,
    pub(crate) number: u32,
    /// How often it had been given back when it last came here.
    pub(crate) returns: AtomicU32,
    pub(crate) execution: String,
    pub(crate) state: String,
    pub(crate) idempotency_key: String,
    pub(crate) deadline: Option<Timestamp>,
    /// What it calls, where it is a call of a service.
    pub(crate) call: Option<ServiceCall>,
    /// How often heartbeats must come, by the definition or by the activity's options.
    pub(crate) heartbeat_every: Option<Duration>,
    /// Where its reports go: a shard queue; empty for a worker that polls.
    pub(crate) reply_to: String,
    pub(crate) clock: Clock,
    /// What stands for it once it is announced; `None` where only its delivery does, or the definition's limits.
    pub(crate) lease: Option<Lease>,
    pub(crate) started_at: Timestamp,
    pub(crate) started: Instant,
    pub(crate) sink: Sink,
    /// Wakes who waits for the cancellation.
    pub(crate) cancel: Notify,
    /// Ends the function at its next await, whether it wants to or not.
    pub(crate) abort: Notify,
    pub(crate) progress: Mutex<Progress>,
}

/// What changes while an attempt is worked on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Why the activity is to stop, and since when.
    pub(crate) cancelled: Option<Cancelled>,
    pub(crate) cancelled_at: Option<Instant>,
    /// Its last report is on its way: there will be no other.
    pub(crate) closed: bool,
    /// When it was announced as started, and whether that has arrived.
    pub(crate) announced: Option<Instant>,
    pub(crate) held: bool,
    /// It takes a slot.
    pub(crate) running: bool,
    /// When the activity last gave a sign, and when one was last sent.
    pub(crate) heartbeat: Option<Instant>,
    pub(crate) heartbeat_sent: Option<Instant>,
    /// The delivery to settle, while it is unsettled.
    pub(crate) delivered: Option<Delivered>,
}

impl Attempt {
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        // Nothing panics while it holds this lock; should it, the values are still whole.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn returns(&self) -> u32 {
        self.returns.load(Ordering::Relaxed)
    }

    /// It has come again.
    pub(crate) fn came_again(&self, returns: u32) {
        self.returns.fetch_max(returns, Ordering::Relaxed);
    }

    /// Asks the activity to stop. The first reason stays.
    pub(crate) fn cancel(&self, why: Cancelled) {
        let mut progress = self.progress();
        if progress.cancelled.is_none() {
            progress.cancelled = Some(why);
            progress.cancelled_at = Some(Instant::now());
            drop(progress);
            self.cancel.notify_waiters();
        }
    }

    /// Announces it as started, unless it was, or too many reports wait: then the next call does.
    pub(crate) fn announce(self: &Arc<Attempt>, reports: &mpsc::Sender<Outgoing>) {
        let mut progress = self.progress();
        if progress.announced.is_some() || progress.closed {
            return;
        }
        let outcome = match self.lease.clone() {
            Some(lease) => ReportOutcome::Held { lease, returns: self.returns() },
            None => ReportOutcome::Started,
        };
        if reports.try_send(Outgoing::report(self, outcome)).is_ok() {
            progress.announced = Some(Instant::now());
        }
    }

    async fn cancelled(&self) -> Cancelled {
        loop {
            // Registered before the check: a cancellation in between is not missed.
            let mut notified = std::pin::pin!(self.cancel.notified());
            notified.as_mut().enable();
            if let Some(why) = self.progress().cancelled {
                return why;
            }
            notified.await;
        }
    }

    /// Whether the caller is the one to send the attempt's last report.
    pub(crate) fn close(&self) -> bool {
        !std::mem::replace(&mut self.progress().closed, true)
    }

    /// Notes a sign of life; whether it is to be sent.
    fn take_heartbeat(&self) -> bool {
        let now = Instant::now();
        let pause = self.heartbeat_every.map_or(HEARTBEAT_PAUSE_DEFAULT, |every| every / 3);
        let mut progress = self.progress();
        progress.heartbeat = Some(now);
        let due = progress.heartbeat_sent.is_none_or(|sent| now.duration_since(sent) >= pause);
        if due && !progress.closed {
            progress.heartbeat_sent = Some(now);
            return true;
        }
        false
    }
}

/// Where a worker's time comes from.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    pub(crate) fn new(time: impl Fn() -> SystemTime + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(time))
    }

    pub(crate) fn time(&self) -> SystemTime {
        (self.0)()
    }

    /// The time as histories have it.
    pub(crate) fn now(&self) -> Timestamp {
        let since = self.time().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Default for Clock {
    /// The system's.
    fn default() -> Clock {
        Clock::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
