//! One assignment per attempt: whatever dies, an attempt of an activity that must not run twice runs once. Each run
//! leaves a line in a file, which is what is looked at in the end.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use stagepost_protocol::ExecutionArn;
use stagepost_tests::{Random, Servers, Service, Site, binaries::TEST_WORKER, orders, until};

use crate::{PATIENCE, ended, output, reaches};

/// Short: what waits for a lease ends soon.
const SHORT: [(&str, &str); 1] = [("STAGEPOST_TEST_LEASE", "1500")];
/// Longer than any test: what must not wait for a lease would not end.
const LONG: [(&str, &str); 1] = [("STAGEPOST_TEST_LEASE", "600000")];

/// The file in which runs leave their lines; removed with it.
struct Trace(PathBuf);

impl Trace {
    fn new() -> Trace {
        Trace(std::env::temp_dir().join(format!("stagepost-trace-{}", uuid::Uuid::new_v4())))
    }

    fn input(&self, millis: u64) -> String {
        json!({"file": self.0, "millis": millis}).to_string()
    }

    /// The first attempt does not end before its worker does.
    fn input_until_killed(&self) -> String {
        json!({"file": self.0, "millis": 600_000, "again_millis": 0}).to_string()
    }

    /// How often each attempt of each step has run.
    fn runs(&self) -> BTreeMap<(String, u32), usize> {
        let mut runs = BTreeMap::new();
        for line in std::fs::read_to_string(&self.0).unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let (step, attempt) = (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap());
            *runs.entry((step, attempt)).or_default() += 1;
        }
        runs
    }

    /// How often attempts 1, 2, … of the only step have run.
    fn attempts(&self) -> Vec<(u32, usize)> {
        self.runs().into_iter().map(|((_, attempt), times)| (attempt, times)).collect()
    }

    async fn reaches(&self, runs: usize) {
        let what = format!("{runs} runs have begun");
        until(&what, PATIENCE, async || (self.runs().len() >= runs).then_some(())).await;
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It lies in a temporary directory.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One task that is tried again when its worker was lost, and for no other reason.
fn definition(activity: &str) -> Value {
    json!({"StartAt": "Write", "States": {"Write": {
        "Type": "Task",
        "Resource": format!("arn:aws:states:::activity:{activity}"),
        "Retry": [{"ErrorEquals": ["States.HeartbeatTimeout"], "IntervalSeconds": 1, "MaxAttempts": 3}],
        "End": true
    }}})
}

async fn begin(site: &Site, activity: &str, input: &str) -> ExecutionArn {
    let machine = site.api.deploy(activity, &definition(activity).to_string()).await.unwrap();
    site.api.start(&machine, input, None).await.unwrap()
}

/// The errors with which attempts ended because their worker was lost.
async fn losses(site: &Site, execution: &ExecutionArn) -> Vec<String> {
    let events = site.api.history(execution).await.unwrap();
    orders::check_history(&events).unwrap();
    let lost = events.iter().filter(|event| event.kind == "ActivityTimedOut");
    lost.map(|event| event.details["error"].as_str().unwrap_or_default().to_owned()).collect()
}

/// kill -9 of a worker, before or after it has announced the attempt: that ends, and the next one runs elsewhere.
async fn a_killed_worker_runs_nothing_twice(announced: bool) {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, mut worker) = (site.start().await, site.worker_with(TEST_WORKER, &SHORT));
    let trace = Trace::new();
    let execution = begin(&site, "writes", &trace.input_until_killed()).await;
    if announced {
        reaches(&site.api, &execution, "ActivityStarted").await;
    } else {
        trace.reaches(1).await;
    }
    worker.kill();
    let _other = site.worker_with(TEST_WORKER, &SHORT);
    assert_eq!(output(&ended(&site.api, &execution).await), 2);
    assert_eq!(trace.attempts(), [(1, 1), (2, 1)]);
    assert_eq!(losses(&site, &execution).await, ["States.HeartbeatTimeout"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_at_once_leaves_nothing_that_runs_twice() {
    a_killed_worker_runs_nothing_twice(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_later_leaves_nothing_that_runs_twice() {
    a_killed_worker_runs_nothing_twice(true).await;
}

/// A worker that stood still does not know how long ago it was delivered what it finds: it asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stood_still_asks_before_it_begins() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, mut worker) = (site.start().await, site.worker_with(TEST_WORKER, &SHORT));
    let trace = Trace::new();
    let first = begin(&site, "writes", &trace.input(10)).await;
    assert_eq!(output(&ended(&site.api, &first).await), 1);
    worker.signal("STOP");
    let second = site.api.start(&first.state_machine_arn(), &trace.input(10), None).await.unwrap();
    reaches(&site.api, &second, "ActivityScheduled").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    worker.signal("CONT");
    assert_eq!(output(&ended(&site.api, &second).await), 1);
    worker.says("a task that was asked for is this worker's", PATIENCE).await;
    assert!(trace.runs().into_iter().all(|((_, attempt), times)| (attempt, times) == (1, 1)));
}

/// What may run twice is given to another worker at once, as the same attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_run_twice_waits_for_no_lease() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, mut worker) = (site.start().await, site.worker_with(TEST_WORKER, &LONG));
    let trace = Trace::new();
    // It must be killed before it ends, and before it announces the attempt, which it does after a second.
    let execution = begin(&site, "writes_twice", &trace.input(950)).await;
    trace.reaches(1).await;
    worker.kill();
    let _other = site.worker_with(TEST_WORKER, &LONG);
    assert_eq!(output(&ended(&site.api, &execution).await), 1);
    assert_eq!(trace.attempts(), [(1, 2)]);
    assert_eq!(losses(&site, &execution).await, [""; 0]);
    assert_eq!(site.metric("stagepost_coordinator_claims_granted").await, Some(1.0));
}

/// Starts many executions, lets things die meanwhile, and waits for all ends.
async fn many_run_once(site: &Site, activity: &str, count: usize, faults: impl Future<Output = ()>) {
    let trace = Trace::new();
    let machine = site.api.deploy(activity, &definition(activity).to_string()).await.unwrap();
    let starting = async {
        for n in 0..count {
            let (input, name) = (trace.input(100), format!("e{n}"));
            until("it is started", PATIENCE, async || {
                site.api.start(&machine, &input, Some(&name)).await.ok().map(drop)
            })
            .await;
        }
    };
    tokio::join!(starting, faults);
    for n in 0..count {
        let execution = machine.execution(&format!("e{n}"));
        let end = until("it has ended", PATIENCE, async || {
            site.api.describe(&execution).await.ok().filter(|now| now.status.as_str() != "RUNNING")
        })
        .await;
        assert_eq!(end.status.as_str(), "SUCCEEDED", "{end:?}");
    }
    let runs = trace.runs();
    let twice: Vec<_> = runs.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(runs.len() >= count);
}

/// A coordinator that takes over publishes again what is pending, and no attempt runs twice for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_coordinator_left_runs_once() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (mut server, _worker) = (site.start().await, site.worker_with(TEST_WORKER, &SHORT));
    let faults = async {
        let mut random = Random::seeded();
        for _ in 0..3 {
            random.moment(300, 1500).await;
            server.kill();
            server = site.start().await;
        }
    };
    many_run_once(&site, "writes", 150, faults).await;
}

/// Workers that come and go gracefully: nothing runs twice, and no attempt is spent, though no lease runs out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_gives_back_what_was_not_begun() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, mut worker) = (site.start().await, site.worker_with(TEST_WORKER, &LONG));
    let _other = site.worker_with(TEST_WORKER, &LONG);
    let trace = Trace::new();
    let machine = site.api.deploy("writes", &definition("writes").to_string()).await.unwrap();
    let count = 300;
    let starting = async {
        for n in 0..count {
            site.api.start(&machine, &trace.input(50), Some(&format!("e{n}"))).await.unwrap();
        }
    };
    let restarting = async {
        let mut random = Random::seeded();
        for _ in 0..3 {
            random.moment(100, 600).await;
            worker.terminated(PATIENCE).await;
            worker = site.worker_with(TEST_WORKER, &LONG);
        }
    };
    tokio::join!(starting, restarting);
    for n in 0..count {
        assert_eq!(output(&ended(&site.api, &machine.execution(&format!("e{n}"))).await), 1);
    }
    assert!(trace.runs().into_iter().all(|((_, attempt), times)| (attempt, times) == (1, 1)));
}

/// The broker dies and comes back while an activity runs: it goes on, and its result counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_rabbitmq_ends_nothing_that_runs() {
    let Some(servers) = Servers::own().await else { return };
    let site = Site::on(&servers);
    let lease = [("STAGEPOST_TEST_LEASE", "30000")];
    let (_server, mut worker) = (site.start().await, site.worker_with(TEST_WORKER, &lease));
    let trace = Trace::new();
    let execution = begin(&site, "writes", &trace.input(12_000)).await;
    reaches(&site.api, &execution, "ActivityStarted").await;
    // Longer than a second before the quorum queues are cut off: younger ones may not come back on RabbitMQ 3.10.
    tokio::time::sleep(Duration::from_secs(2)).await;
    servers.kill(Service::RabbitMq).await;
    // One more that has just begun would be delivered again; here nothing is.
    servers.restart(Service::RabbitMq).await;
    assert_eq!(output(&ended(&site.api, &execution).await), 1);
    assert_eq!(trace.attempts(), [(1, 1)]);
    assert!(worker.is_running());
}

/// Over HTTP too: a worker that polls and dies loses its attempts when its lease is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_that_polls_is_missed() {
    let site = Site::embedded();
    let (mut server, mut worker) = (site.start().await, site.worker_with(TEST_WORKER, &SHORT));
    let trace = Trace::new();
    let execution = begin(&site, "writes", &trace.input_until_killed()).await;
    trace.reaches(1).await;
    // The server comes and goes meanwhile, and knows of the attempt from its history.
    server.kill();
    let _server = site.start().await;
    worker.kill();
    let _other = site.worker_with(TEST_WORKER, &SHORT);
    assert_eq!(output(&ended(&site.api, &execution).await), 2);
    assert_eq!(trace.attempts(), [(1, 1), (2, 1)]);
}
