//! A worker whose activities misbehave when asked to: the other side of the tests of faults.
//!
//! On `AMQP_URL` and `STAGEPOST_QUEUE_PREFIX`, or on the API at `STAGEPOST_URL`, which it polls. `STAGEPOST_TEST_LEASE`
//! sets its lease, in milliseconds.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use stagepost::{Context, Failure, State, Worker, WorkerError, activities, activity};

/// What this process has done.
#[derive(Debug, Default)]
struct Seen {
    attempts: AtomicU64,
}

/// Answers with its input, the attempt and the count of attempts in this process.
#[activity(idempotent)]
async fn echo(cx: Context, seen: State<Seen>, input: Value) -> Result<Value, Failure> {
    let seen = seen.attempts.fetch_add(1, Ordering::Relaxed) + 1;
    Ok(json!({"input": input, "attempt": cx.attempt(), "seen": seen}))
}

/// Panics at its first attempt.
#[activity]
async fn panics(cx: Context) -> Result<u32, Failure> {
    assert!(cx.attempt() > 1, "asked to");
    Ok(cx.attempt())
}

/// Fails so many times with `Test.Flaky`.
#[activity]
async fn fails_first(cx: Context, times: u32) -> Result<u32, Failure> {
    if cx.attempt() <= times {
        return Err(Failure::new("Test.Flaky", format!("attempt {}", cx.attempt())));
    }
    Ok(cx.attempt())
}

/// Takes so many milliseconds.
#[activity(idempotent)]
async fn sleeps(cx: Context, millis: u64) -> Result<u32, Failure> {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Ok(cx.attempt())
}

/// Takes so many milliseconds and says all the time that it is alive.
#[activity]
async fn beats(cx: Context, millis: u64) -> Result<u32, Failure> {
    for _ in 0..millis / 50 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cx.heartbeat(&());
    }
    Ok(cx.attempt())
}

/// Says nothing at its first attempt until it is cancelled, and then why.
#[activity(idempotent)]
async fn silent(cx: Context) -> Result<u32, Failure> {
    if cx.attempt() == 1 {
        let why = cx.cancelled().await;
        tracing::info!(?why, "silent was cancelled");
        return Err(why.into());
    }
    Ok(cx.attempt())
}

/// What `writes` and `writes_twice` do: a line into a file, and then nothing for a while.
#[derive(Debug, Deserialize)]
struct Writing {
    file: PathBuf,
    millis: u64,
    /// How long attempts after the first take, if not as long.
    again_millis: Option<u64>,
}

impl Writing {
    /// One line for each run: the step, the attempt, the process.
    async fn run(self, cx: &Context) -> Result<u32, Failure> {
        let line = format!("{} {} {}\n", cx.idempotency_key(), cx.attempt(), std::process::id());
        OpenOptions::new().create(true).append(true).open(&self.file)?.write_all(line.as_bytes())?;
        let again = self.again_millis.filter(|_| cx.attempt() > 1);
        tokio::time::sleep(Duration::from_millis(again.unwrap_or(self.millis))).await;
        Ok(cx.attempt())
    }
}

/// Leaves a trace of each run.
#[activity]
async fn writes(cx: Context, writing: Writing) -> Result<u32, Failure> {
    writing.run(&cx).await
}

/// As `writes`, and may run twice.
#[activity(idempotent)]
async fn writes_twice(cx: Context, writing: Writing) -> Result<u32, Failure> {
    writing.run(&cx).await
}

#[tokio::main]
async fn main() -> Result<(), WorkerError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let url = std::env::var("AMQP_URL").or_else(|_| std::env::var("STAGEPOST_URL")).unwrap_or_default();
    let mut worker = Worker::connect(url).state(Seen::default()).shutdown_grace(Duration::from_secs(10));
    if let Ok(prefix) = std::env::var("STAGEPOST_QUEUE_PREFIX") {
        worker = worker.queue_prefix(prefix);
    }
    if let Some(millis) = std::env::var("STAGEPOST_TEST_LEASE").ok().and_then(|millis| millis.parse().ok()) {
        worker = worker.lease(Duration::from_millis(millis));
    }
    let activities = activities![echo, panics, fails_first, sleeps, beats, silent, writes, writes_twice];
    worker.register(activities).run().await
}
