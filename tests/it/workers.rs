//! Workers that misbehave, over AMQP and over HTTP.

use serde_json::{Value, json};
use stagepost_tests::{Process, Servers, Site, binaries::TEST_WORKER, orders};

use crate::{PATIENCE, ended, output, reaches, run};

/// A definition of one task.
fn task(activity: &str, further: &Value) -> Value {
    let mut state = json!({
        "Type": "Task",
        "Resource": format!("arn:aws:states:::activity:{activity}"),
        "TimeoutSeconds": 60,
        "End": true
    });
    for (name, value) in further.as_object().unwrap() {
        state[name] = value.clone();
    }
    json!({"StartAt": "Work", "States": {"Work": state}})
}

fn retry(error: &str) -> Value {
    json!([{"ErrorEquals": [error], "IntervalSeconds": 1, "MaxAttempts": 2}])
}

async fn misbehaves(site: &Site, worker: &mut Process) {
    let api = &site.api;
    // A panic fails the attempt, not the worker.
    let definition = task("panics", &json!({"Retry": retry("Stagepost.ActivityPanicked")}));
    assert_eq!(output(&run(api, "panics", &definition, &json!({})).await), 2);
    let ended = run(api, "panics-for-good", &task("panics", &json!({})), &json!({})).await;
    assert_eq!(
        (ended.status.as_str(), ended.error.as_deref()),
        ("FAILED", Some("Stagepost.ActivityPanicked"))
    );

    // An error is matched by its name.
    let definition = task("fails_first", &json!({"Retry": retry("Test.Flaky")}));
    assert_eq!(output(&run(api, "fails_first", &definition, &json!(2)).await), 3);
    let ended = run(api, "fails-too-often", &definition, &json!(3)).await;
    assert_eq!((ended.error.as_deref(), ended.cause.as_deref()), (Some("Test.Flaky"), Some("attempt 3")));

    // An input that does not fit fails the attempt.
    let ended = run(api, "fails-input", &definition, &json!("three")).await;
    assert_eq!(ended.error.as_deref(), Some("Stagepost.InvalidInput"));
    assert!(worker.is_running());
}

async fn is_late(site: &Site, worker: &mut Process) {
    let api = &site.api;
    // Heartbeats keep an attempt alive beyond the heartbeat's time; silence ends it, and the
    // activity is told at its deadline.
    let beats = json!({"HeartbeatSeconds": 2, "Retry": retry("States.HeartbeatTimeout")});
    let silent =
        json!({"HeartbeatSeconds": 1, "TimeoutSeconds": 5, "Retry": retry("States.HeartbeatTimeout")});
    // A timeout is retried as any other error.
    let times_out =
        json!({"TimeoutSeconds": 1, "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Late"}]});
    let mut times_out = task("sleeps", &times_out);
    times_out["States"]["Late"] = json!({"Type": "Pass", "Result": "late", "End": true});
    let (lived, ended, late) = tokio::join!(
        run_owned(site, "beats", task("beats", &beats), json!(3500)),
        run_owned(site, "silent", task("silent", &silent), json!({})),
        run_owned(site, "late", times_out, json!(3000)),
    );
    assert_eq!(output(&lived), 1);
    assert_eq!(output(&late), "late");
    assert_eq!(output(&ended), 2);
    let events = api.history(&ended.arn).await.unwrap();
    orders::check_history(&events).unwrap();
    assert!(orders::kinds(&events).contains(&"ActivityTimedOut"));
    worker.says("silent was cancelled", PATIENCE).await;
}

async fn run_owned(
    site: &Site,
    name: &str,
    definition: Value,
    input: Value,
) -> stagepost_server::ExecutionDescription {
    run(&site.api, name, &definition, &input).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_and_failures_end_the_attempt_and_not_the_worker_over_amqp() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, mut worker) = (site.start().await, site.worker(TEST_WORKER));
    misbehaves(&site, &mut worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_and_failures_end_the_attempt_and_not_the_worker_over_http() {
    let site = Site::embedded();
    let (_server, mut worker) = (site.start().await, site.worker(TEST_WORKER));
    misbehaves(&site, &mut worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_and_heartbeats_hold_over_amqp() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, mut worker) = (site.start().await, site.worker(TEST_WORKER));
    is_late(&site, &mut worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_and_heartbeats_hold_over_http() {
    let site = Site::embedded();
    let (_server, mut worker) = (site.start().await, site.worker(TEST_WORKER));
    is_late(&site, &mut worker).await;
}

/// An attempt that was cut short by its worker's death, and may run twice, runs again when its worker's lease is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_of_a_killed_worker_runs_again() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let lease = [("STAGEPOST_TEST_LEASE", "1500")];
    let (_server, mut worker) = (site.start().await, site.worker_with(TEST_WORKER, &lease));
    let machine = site.api.deploy("sleeps", &task("sleeps", &json!({})).to_string()).await.unwrap();
    let execution = site.api.start(&machine, "2000", None).await.unwrap();
    reaches(&site.api, &execution, "ActivityStarted").await;
    worker.kill();
    let _worker = site.worker(TEST_WORKER);
    let ended = ended(&site.api, &execution).await;
    assert_eq!(output(&ended), 1);
}

/// StopExecution ends an execution whose activity runs; the activity's result comes too late and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_execution_takes_no_result() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, _worker) = (site.start().await, site.worker(TEST_WORKER));
    let machine = site.api.deploy("sleeps", &task("sleeps", &json!({})).to_string()).await.unwrap();
    let execution = site.api.start(&machine, "4000", None).await.unwrap();
    reaches(&site.api, &execution, "ActivityStarted").await;
    site.api.stop(&execution, Some("Enough"), Some("asked to")).await.unwrap();
    let stopped = site.api.describe(&execution).await.unwrap();
    assert_eq!((stopped.status.as_str(), stopped.error.as_deref()), ("ABORTED", Some("Enough")));
    let before = site.api.history(&execution).await.unwrap();
    // Another task of the same worker that takes as long: when it has ended, so has the first.
    let other = site.api.start(&machine, "4000", None).await.unwrap();
    assert_eq!(output(&ended(&site.api, &other).await), 1);
    assert_eq!(site.api.history(&execution).await.unwrap(), before);
}
