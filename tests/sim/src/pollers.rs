//! Workers that poll the API for tasks and tell it what becomes of them, as those of the SDK do over HTTP.

use std::{sync::Arc, time::Duration};

use stagepost::{ActivityError, Failure};
use stagepost_coordinator::Poller;
use stagepost_protocol::{Namespace, Payload, ReportOutcome, TaskMessage};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    activities::{Attempt, Work, perform},
    clients::{self, ANSWER_MAX, Api},
    process::Process,
};

/// How long a poll waits for a task.
const HELD: Duration = Duration::from_secs(5);
/// How long a worker that is not heard of keeps its tasks.
const LEASE: Duration = Duration::from_secs(30);
/// How long it waits for what is under way when it is to stop.
const GRACE: Duration = Duration::from_secs(2);
/// How long it pauses after a poll that gave nothing, at most.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Polls for the tasks of each activity, and works on them, so many at a time, until it is to stop.
pub(crate) async fn run(process: &Arc<Process>, api: &Api, concurrency: u16, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    // They end with this set, whatever they do then.
    let mut polling = JoinSet::new();
    for activity in ["step", "sure"] {
        for _ in 0..concurrency {
            polling.spawn(poll_on(Arc::clone(process), api.clone(), activity, stopped.clone()));
        }
    }
    stop.await;
    stopping.send_replace(true);
    let rest = async { while polling.join_next().await.is_some() {} };
    if timeout(GRACE, rest).await.is_err() {
        process.world.note(&process.name, "leaves what it has begun");
    }
}

async fn poll_on(process: Arc<Process>, api: Api, activity: &'static str, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        match poll(&process, &api, activity).await {
            Some(task) => work(&process, &api, activity, &task).await,
            None => tokio::time::sleep(process.world.up_to(PAUSE_MAX)).await,
        }
    }
}

/// GetActivityTask. Its answer may be lost.
async fn poll(process: &Process, api: &Api, activity: &str) -> Option<TaskMessage> {
    let world = &process.world;
    process.call(format!("polls for {activity}")).await;
    let client = api.client()?;
    let poller = Poller {
        worker: Some(process.name.clone()),
        lease_millis: u64::try_from(LEASE.as_millis()).ok(),
        idempotent: activity == "sure",
    };
    let namespace = Namespace::default();
    let polled = client.poll_activity(&namespace, activity, poller, HELD);
    let task = timeout(HELD + ANSWER_MAX, polled).await.ok()?.ok()??;
    process.answered().await;
    if world.happens(world.faults.disconnect) {
        world.note(&process.name, "does not hear of its task");
        return None;
    }
    Some(task)
}

/// Works on a task and reports its result, unless nobody wants it any more.
async fn work(process: &Arc<Process>, api: &Api, activity: &str, task: &TaskMessage) {
    let world = &process.world;
    let attempt = Attempt {
        token: task.token.as_str(),
        state: &task.state,
        execution: &task.execution,
        number: task.attempt,
    };
    if activity == "step" {
        attempt.begin_once(process);
    }
    let work: Work = match task.input.read() {
        Ok(work) => work,
        Err(error) => return world.violate(format!("{activity} is told what it cannot read: {error}")),
    };
    let beats = match task.heartbeat_millis {
        None => Some(LEASE / 3),
        Some(millis) => work.beats.then(|| Duration::from_millis(u64::try_from(millis).unwrap_or(0)) / 3),
    };
    let result = tokio::select! {
        biased;
        result = perform(&attempt, process, work, || Ok(())) => result,
        () = keep(process, api, task, beats) => {
            return world.note(&process.name, format!("stops its work on {} of {}", task.state, task.execution));
        }
    };
    let outcome = match result {
        Ok(output) => ReportOutcome::Succeeded(Payload::from_value(&output)),
        Err(failure) => ReportOutcome::Failed {
            error: Some(Failure::name(&failure).into_owned()),
            cause: Some(failure.cause().to_owned()),
        },
    };
    process.call(format!("reports on {} of {}", task.state, task.execution)).await;
    clients::report(world, api, &task.token, outcome).await;
}

/// Sends heartbeats, this often, until the task is closed or nobody has heard of its worker for a lease.
async fn keep(process: &Process, api: &Api, task: &TaskMessage, every: Option<Duration>) {
    let Some(every) = every else { return std::future::pending().await };
    let mut heard = Instant::now();
    loop {
        tokio::time::sleep(every).await;
        process.call(format!("sends a heartbeat of {} of {}", task.state, task.execution)).await;
        let sent = Instant::now();
        let beat = clients::report(&process.world, api, &task.token, ReportOutcome::Heartbeat);
        match timeout((heard + LEASE).saturating_duration_since(sent), beat).await {
            Ok(true) => heard = sent,
            Ok(false) | Err(_) => return,
        }
    }
}
