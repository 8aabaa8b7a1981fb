//! Works for a server that is polled over its HTTP API: GetActivityTask for tasks, SendTaskSuccess, SendTaskFailure
//! and SendTaskHeartbeat for what became of them.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stagepost_protocol::message::{
    HEADER_ATTEMPT, HEADER_DEADLINE, HEADER_EXECUTION, HEADER_HEARTBEAT, HEADER_IDEMPOTENCY_KEY, HEADER_STATE,
};
use stagepost_protocol::{Lease, Payload, ReportOutcome, TaskToken, Timestamp, error_names, http};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt;
use super::builder::Worker;
use super::client::{CallError, Client, POLL_HELD, Polled};
use super::error::WorkerError;
use super::ledger::Ledger;
use super::run::{Activities, all_ends, drain, first_end};
use super::shared::{REPORTS_WAITING_MAX, Shared};
use super::watch as watching;
use crate::activity::Registration;
use crate::context::{Attempt, Outgoing, Progress, Sink};
use crate::failure::{Cancelled, Failure};

/// How many long polls one activity has open at a time: two, so that a task can be fetched while another arrives.
const POLLS: usize = 2;
/// How many reports are on their way at a time.
const CALLS_MAX: usize = 64;
/// The pause before the first repetition of a call to a server that is in trouble; it doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// An answer without a task that came sooner was no long poll: pause, so as not to flood the server.
const LONG_POLL_MIN: Duration = Duration::from_millis(500);
/// When the worker stops, the polls under way are waited for so long: the server answers them within [`POLL_HELD`],
/// and handing out a task takes it a moment more.
const LAST_POLLS_WITHIN: Duration = POLL_HELD.saturating_add(Duration::from_secs(3));
/// When the worker stops, reports that the server does not take are given up after so long.
const LAST_REPORTS_WITHIN: Duration = Duration::from_secs(10);

/// Polls a server until `shutdown` completes; `hurry` cuts the grace short.
///
/// A stop waits for the polls under way: a poll that is cut off just when the server hands out a task loses that task
/// until its attempt times out, for the server cannot tell whether its answer arrived. Tasks that come with the last
/// polls are worked on like any others, within the same grace period. What remains are polls that are cut off all
/// the same: by a crash, by `hurry`, after a grace period shorter than a poll, or when a server that does not know our
/// header (`stagepost-wait`) holds a poll longer.
pub(super) async fn run(
    mut worker: Worker,
    client: Client,
    shutdown: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let mut shutdown = pin!(shutdown);
    let (reports, outgoing) = mpsc::channel(REPORTS_WAITING_MAX);
    let shared = Shared::new(&mut worker, reports);
    let activities: Activities = worker
        .registrations
        .iter()
        .map(|registration| (Arc::new(registration.clone()), Arc::new(Ledger::new(None))))
        .collect();
    let stop = CancellationToken::new();
    let mut pollers = JoinSet::new();
    for (registration, ledger) in &activities {
        let slots = worker.slots(registration);
        let free = Arc::new(Semaphore::new(usize::from(slots)));
        for _ in 0..POLLS.min(usize::from(slots)) {
            let poller = Poller {
                shared: Arc::clone(&shared),
                client: client.clone(),
                registration: Arc::clone(registration),
                ledger: Arc::clone(ledger),
                free: Arc::clone(&free),
            };
            pollers.spawn(poller.run(stop.clone()));
        }
    }
    let ledgers = activities.iter().map(|(r, ledger)| (r.name, Arc::clone(ledger))).collect();
    let keep = tokio::spawn(keep(Arc::clone(&shared), client.clone(), activities.clone()));
    let reporter = tokio::spawn(report(client, ledgers, outgoing));
    let watch = tokio::spawn(watching::run(Arc::clone(&shared), activities.clone()));
    tracing::info!(worker = %worker.name, activities = activities.len(), "the worker polls");

    let ended = tokio::select! {
        () = &mut shutdown => Ok(()),
        ended = first_end(&mut pollers) => ended.map(drop),
    };
    stop.cancel();
    let asked = Instant::now();
    let mut hurry = pin!(hurry);
    let (ended, hurried) = {
        let mut last_polls = pin!(all_ends(&mut pollers));
        tokio::select! {
            (_, all_ended) = &mut last_polls => (ended.and(all_ended), false),
            () = tokio::time::sleep(LAST_POLLS_WITHIN.min(worker.shutdown_grace)) => (ended, false),
            () = &mut hurry => (ended, true),
        }
    };
    pollers.shutdown().await;
    // Both waits are one grace period.
    let grace = worker.shutdown_grace.saturating_sub(asked.elapsed());
    if hurried {
        drain(&activities, grace, std::future::ready(())).await;
    } else {
        drain(&activities, grace, hurry).await;
    }
    watch.abort();
    keep.abort();
    shared.send(Outgoing::Stop).await;
    let reported = reporter.await.map_err(|error| WorkerError::Internal(error.to_string()));
    tracing::info!(worker = %worker.name, "the worker has stopped");
    ended.and(reported)
}

/// One long poll after the other, for one activity.
struct Poller {
    shared: Arc<Shared>,
    client: Client,
    registration: Arc<Registration>,
    ledger: Arc<Ledger>,
    free: Arc<Semaphore>,
}

impl Poller {
    /// Polls until `stopped`; a poll that is under way then is the last one.
    async fn run(self, stopped: CancellationToken) -> Result<(), WorkerError> {
        let mut arn = tokio::select! {
            arn = self.create() => arn?,
            () = stopped.cancelled() => return Ok(()),
        };
        let mut pause = PAUSE_MIN;
        loop {
            let slot = tokio::select! {
                biased;
                () = stopped.cancelled() => return Ok(()),
                slot = Arc::clone(&self.free).acquire_owned() => slot,
            };
            // Closed only together with the worker, and this task holds a handle.
            let Ok(slot) = slot else { return Ok(()) };
            let asked = Instant::now();
            let (millis, idempotent) = (self.shared.leases.millis(), self.registration.options.idempotent);
            match self.client.poll(&arn, &self.shared.name, millis, idempotent).await {
                Ok(Some(polled)) => {
                    pause = PAUSE_MIN;
                    match Payload::parse(&polled.input) {
                        Ok(_) if self.shared.pulse.stood_still() && !self.is_open(&polled).await => {
                            tracing::info!(
                                activity = self.registration.name,
                                "a task was not begun: it came while the worker stood still"
                            );
                        }
                        Ok(input) => {
                            let attempt = Arc::new(self.attempt(&polled));
                            attempt::begin(
                                &self.shared,
                                &self.ledger,
                                &self.registration,
                                attempt,
                                input,
                                slot,
                            );
                        }
                        Err(error) => self.refuse(&polled, &error).await,
                    }
                }
                Ok(None) if asked.elapsed() < LONG_POLL_MIN => {
                    sleep_or_told(LONG_POLL_MIN, &stopped).await;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        activity = self.registration.name,
                        ?pause,
                        "polling failed, it goes on: {error}"
                    );
                    sleep_or_told(pause, &stopped).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                    if error.is(&["ActivityDoesNotExist"]) {
                        arn = tokio::select! {
                            arn = self.create() => arn?,
                            () = stopped.cancelled() => return Ok(()),
                        };
                    }
                }
            }
        }
    }

    /// Registers the activity with the server, which may be there already.
    async fn create(&self) -> Result<String, WorkerError> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.client.create_activity(self.registration.queue()).await {
                Ok(arn) => return Ok(arn),
                Err(error @ CallError::Refused { .. }) => {
                    return Err(WorkerError::Api { operation: "CreateActivity", error: error.to_string() });
                }
                Err(error) => {
                    tracing::warn!(
                        activity = self.registration.name,
                        ?pause,
                        "the server is waited for: {error}"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
            }
        }
    }

    fn attempt(&self, polled: &Polled) -> Attempt {
        let text =
            |name: &str| polled.headers.get(name).and_then(|value| value.to_str().ok()).map(http::decode);
        let number = |name: &str| text(name).and_then(|text| text.parse::<i64>().ok());
        let millis = |n: i64| Duration::from_millis(u64::try_from(n).unwrap_or(0));
        Attempt {
            activity: self.registration.name,
            id: polled.token.clone(),
            token: TaskToken::from_untrusted(&polled.token),
            number: number(HEADER_ATTEMPT).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            // Nothing of a polled task is given back.
            returns: AtomicU32::new(0),
            execution: text(HEADER_EXECUTION).unwrap_or_default(),
            state: text(HEADER_STATE).unwrap_or_default(),
            // Without the header the attempt's own name must do: it differs between the attempts of a step.
            idempotency_key: text(HEADER_IDEMPOTENCY_KEY).unwrap_or_else(|| polled.token.clone()),
            deadline: number(HEADER_DEADLINE).map(Timestamp::from_millis),
            call: None,
            heartbeat_every: number(HEADER_HEARTBEAT).map(millis).or(self.registration.options.heartbeat),
            // What its signs of life are filed under.
            reply_to: polled.token.clone(),
            lease: self.lease(polled),
            clock: self.shared.clock.clone(),
            started_at: self.shared.clock.now(),
            started: Instant::now(),
            sink: Sink::Worker(self.shared.reports.clone()),
            cancel: Notify::new(),
            abort: Notify::new(),
            // The server has announced it.
            progress: Mutex::new(Progress {
                announced: Some(Instant::now()),
                held: true,
                ..Progress::default()
            }),
        }
    }

    /// What stands for a task: a lease, if the server knows of such, and where the definition does not ask for
    /// heartbeats.
    fn lease(&self, polled: &Polled) -> Option<Lease> {
        let has = |name: &str| polled.headers.contains_key(name);
        let leased = has(HEADER_ATTEMPT) && !has(HEADER_HEARTBEAT);
        leased.then(|| self.shared.leases.own(self.registration.options.idempotent))
    }

    /// Whether a task still waits for this worker. Where the server does not say, it does not: its lease will be over.
    async fn is_open(&self, polled: &Polled) -> bool {
        self.client.heartbeat(&polled.token).await.is_ok()
    }

    /// Fails a task whose input is not JSON.
    async fn refuse(&self, polled: &Polled, error: &serde_json::Error) {
        let attempt = Arc::new(self.attempt(polled));
        self.ledger.begin(&attempt);
        let cause = format!("the input of the task is not JSON: {error}");
        let failure = Failure::new(error_names::INVALID_INPUT, cause);
        attempt::finish(&self.shared, &attempt, attempt::failed(failure)).await;
    }
}

async fn sleep_or_told(pause: Duration, stopped: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stopped.cancelled() => {}
    }
}

/// Sends heartbeats of all attempts that are held by a lease, a few per lease, until it is dropped.
async fn keep(shared: Arc<Shared>, client: Client, activities: Activities) {
    loop {
        let begun = Instant::now();
        let attempts = activities.iter().flat_map(|(_, ledger)| ledger.all());
        let held = attempts.filter(|attempt| attempt.lease.is_some() && !attempt.progress().closed);
        let held: Vec<_> = held.collect();
        shared.leases.forget_others(held.iter().map(|attempt| attempt.reply_to.as_str()));
        let mut calls = JoinSet::new();
        for attempt in held {
            while calls.len() >= CALLS_MAX {
                calls.join_next().await;
            }
            let (shared, client) = (Arc::clone(&shared), client.clone());
            calls.spawn(async move {
                let sent = Instant::now();
                match client.heartbeat(attempt.token.as_str()).await {
                    Ok(()) => shared.leases.note_heard(&attempt.reply_to, sent),
                    Err(error) if error.is(&["TaskTimedOut", "TaskDoesNotExist"]) => {
                        attempt.cancel(Cancelled::Ended);
                    }
                    Err(error) => {
                        tracing::warn!(
                            activity = attempt.activity,
                            "the worker could not say that it is there: {error}"
                        );
                    }
                }
            });
        }
        while calls.join_next().await.is_some() {}
        tokio::time::sleep_until(begun + shared.leases.part()).await;
    }
}

/// Sends reports, many at a time, until it is told to stop.
async fn report(
    client: Client,
    ledgers: HashMap<&'static str, Arc<Ledger>>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let mut calls = JoinSet::new();
    while let Some(Outgoing::Report { attempt, outcome }) = outgoing.recv().await {
        while calls.len() >= CALLS_MAX {
            calls.join_next().await;
        }
        while calls.try_join_next().is_some() {}
        let (client, ledger) = (client.clone(), ledgers.get(attempt.activity).cloned());
        calls.spawn(async move {
            let last = deliver(&client, &attempt, &outcome).await;
            if let (true, Some(ledger)) = (last, ledger) {
                ledger.end(&attempt.id);
            }
        });
    }
    let all = async { while calls.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_REPORTS_WITHIN, all).await.is_err() {
        tracing::warn!("reports are given up: the server did not take them; their attempts will time out");
    }
}

/// Sends one report, as often as it takes; whether it was the attempt's last one.
async fn deliver(client: &Client, attempt: &Attempt, outcome: &ReportOutcome) -> bool {
    let token = attempt.token.as_str();
    let mut pause = PAUSE_MIN;
    loop {
        let (last, sent) = match outcome {
            // Who polls a task has started it; and calls are not polled.
            ReportOutcome::Started
            | ReportOutcome::Held { .. }
            | ReportOutcome::Claimed(_)
            | ReportOutcome::Submitted(_) => return false,
            // The API has no operation for it.
            ReportOutcome::Released { .. } => {
                let cause = "the worker shut down before the attempt had ended";
                (true, client.failed(token, Some(error_names::HEARTBEAT_TIMEOUT), Some(cause)).await)
            }
            ReportOutcome::Heartbeat => (false, client.heartbeat(token).await),
            ReportOutcome::Succeeded(output) => (true, client.succeeded(token, output.as_str()).await),
            ReportOutcome::Failed { error, cause }
            | ReportOutcome::TimedOut { error, cause }
            | ReportOutcome::Aborted { error, cause } => {
                (true, client.failed(token, error.as_deref(), cause.as_deref()).await)
            }
        };
        match sent {
            Ok(()) => return last,
            // Sent before the result, it came after it.
            Err(CallError::Refused { .. }) if !last && attempt.progress().closed => return false,
            Err(error @ CallError::Refused { .. }) => {
                if error.is(&["TaskTimedOut", "TaskDoesNotExist"]) {
                    attempt.cancel(Cancelled::Ended);
                }
                tracing::warn!(
                    activity = attempt.activity, execution_arn = %attempt.execution, state = %attempt.state,
                    "the server refused a report: {error}"
                );
                return last;
            }
            // A heartbeat is worth nothing later: the next one takes its place.
            Err(error) if !last => {
                tracing::warn!(activity = attempt.activity, "a heartbeat could not be sent: {error}");
                return false;
            }
            Err(error) => {
                tracing::warn!(activity = attempt.activity, ?pause, "a report is sent again: {error}");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
        }
    }
}
