//! Submits a job, waits, asks for its status, and loops until it is complete.
//!
//! Alone, this program is a whole installation on the embedded default. With AMQP_URL set it is a worker there; with
//! STAGEPOST_URL, a worker that polls that address (`http://127.0.0.1:8083` for `stagepost dev`).

use std::{
    collections::HashMap,
    io::Write as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use stagepost::{ActivityError, Context, State, Worker, activities, activity};
use stagepost_server::{Installation, Steps, Style};
use tokio::sync::oneshot;

/// The system that runs the jobs. It can be asked, and nothing else.
#[derive(Debug, Default)]
struct JobSystem {
    /// How many times each job still answers that it is running.
    jobs: Mutex<HashMap<String, u32>>,
}

#[derive(Debug, Deserialize)]
struct Submit {
    program: String,
    /// How long the pretended job takes, in questions.
    rounds: u32,
}

#[derive(Debug, Deserialize, Serialize)]
struct Job {
    job_id: String,
}

#[derive(Debug, Serialize)]
struct Status {
    job_id: String,
    state: &'static str,
}

#[derive(Debug, thiserror::Error, ActivityError)]
enum JobError {
    #[error("there is no job '{0}'")]
    #[activity_error("Jobs.Unknown")]
    Unknown(String),
}

/// Submits a job. The idempotency key names it, so a second attempt does not submit it twice.
#[activity(idempotent)]
async fn submit_job(cx: Context, system: State<JobSystem>, input: Submit) -> Result<Job, JobError> {
    let job_id = format!("{}-{}", input.program, cx.idempotency_key());
    let mut jobs = system.jobs.lock().unwrap_or_else(PoisonError::into_inner);
    jobs.entry(job_id.clone()).or_insert(input.rounds);
    Ok(Job { job_id })
}

/// Asks for a job's status.
#[activity(idempotent)]
async fn get_job_status(system: State<JobSystem>, job: Job) -> Result<Status, JobError> {
    let mut jobs = system.jobs.lock().unwrap_or_else(PoisonError::into_inner);
    let left = jobs.get_mut(&job.job_id).ok_or_else(|| JobError::Unknown(job.job_id.clone()))?;
    let state = if *left == 0 { "succeeded" } else { "running" };
    *left = left.saturating_sub(1);
    Ok(Status { job_id: job.job_id, state })
}

fn with_activities(worker: Worker) -> Worker {
    worker.state(JobSystem::default()).register(activities![submit_job, get_job_status])
}

#[tokio::main]
async fn main() -> Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match std::env::var("AMQP_URL").or_else(|_| std::env::var("STAGEPOST_URL")) {
        Ok(url) => Ok(with_activities(Worker::connect(url)).run().await?),
        Err(_) => run_embedded().await,
    }
}

async fn run_embedded() -> Result<()> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| {
        std::fs::read_to_string(home.join(name)).with_context(|| format!("{name} cannot be read"))
    };
    let mut installation = Installation::open_embedded(None).await?;
    let api = installation.api_client().await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = with_activities(Worker::with_broker(installation.broker()));
    let worker = tokio::spawn(worker.run_until(async {
        // Either way the work is over.
        let _ = stopped.await;
    }));

    let machine = api.deploy("job-poller", &read("definition.asl.json")?).await?;
    let execution = api.start(&machine, &read("jobs/render.json")?, None).await?;
    let mut out = std::io::stdout();
    let mut steps = Steps::new(Style::of(&out));
    let ended = api
        .follow(&execution, |events| {
            // A closed terminal ends the show, not the job.
            let _ = write!(out, "{}", steps.show(events));
            let _ = out.flush();
        })
        .await?;
    writeln!(out, "{} {}", ended.status.as_str(), ended.output.or(ended.cause).unwrap_or_default())?;

    // The worker may have ended by itself, which the next line tells.
    let _ = stop.send(());
    worker.await??;
    installation.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_is_submitted_twice_is_one_job() {
        let system = State::new(JobSystem::default());
        let cx = || Context::for_test().idempotency_key("k").build();
        let submit = || Submit { program: "render".into(), rounds: 1 };
        let first = submit_job(cx(), system.clone(), submit()).await.unwrap();
        let second = submit_job(cx(), system.clone(), submit()).await.unwrap();
        assert_eq!(first.job_id, second.job_id);
        let state = async |job_id: &str| {
            get_job_status(system.clone(), Job { job_id: job_id.into() }).await.unwrap().state
        };
        assert_eq!((state(&first.job_id).await, state(&first.job_id).await), ("running", "succeeded"));
        assert!(get_job_status(system.clone(), Job { job_id: "x".into() }).await.is_err());
    }
}
