//! Schedules: each firing starts one execution, also when coordinators die.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use stagepost_protocol::Timestamp;
use stagepost_tests::{Random, Servers, Site, until};

use crate::PATIENCE;

const PASS: &str = r#"{"StartAt": "Done", "States": {"Done": {"Type": "Pass", "End": true}}}"#;

async fn show(site: &Site, name: &str) -> Option<Value> {
    site.api.call_own("DescribeSchedule", &json!({"name": name})).await.ok()
}

/// The executions of a state machine by name, with their inputs.
async fn executions(site: &Site, machine: &str) -> BTreeMap<String, Value> {
    let arn = site.api.state_machine_arn(machine).unwrap();
    let request = json!({"stateMachineArn": arn});
    let listed = site.api.pages("ListExecutions", request, "executions", 1000).await.unwrap();
    let mut found = BTreeMap::new();
    for execution in listed {
        let name = execution["name"].as_str().unwrap().to_owned();
        let described = site.api.describe(&arn.execution(&name)).await.unwrap();
        let input = serde_json::from_str(described.input.as_deref().unwrap()).unwrap();
        assert_eq!(found.insert(name.clone(), input), None, "{name} is there twice");
    }
    found
}

/// A schedule that fires every second goes on through the deaths of the coordinator: every second from the first to the
/// last has its execution, which knows its time.
async fn every_second_has_its_execution(site: &Site) {
    let mut server = site.start().await;
    site.api.deploy("tick", PASS).await.unwrap();
    let input = r#"{"at": "<aws.scheduler.scheduled-time>"}"#;
    let create =
        ["schedule", "create", "seconds", "rate(1 second)", "--state-machine", "tick", "--input", input];
    let created = site.cli(&create).await;
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let mut random = Random::seeded();
    for _ in 0..3 {
        random.moment(500, 2_500).await;
        server.kill();
        random.moment(0, 1_000).await;
        server = site.start().await;
    }
    let after = until("it fires again", PATIENCE, async || {
        let started = show(site, "seconds").await?["counts"]["started"].as_u64()?;
        (started >= 8).then_some(started)
    })
    .await;
    let paused = site.cli(&["schedule", "pause", "seconds"]).await;
    assert!(paused.status.success(), "{}", String::from_utf8_lossy(&paused.stderr));
    let shown = show(site, "seconds").await.unwrap();
    let executions = executions(site, "tick").await;
    // One that was starting when it was paused may not be counted.
    let started = shown["counts"]["started"].as_u64().unwrap();
    assert!(started >= after && executions.len() as u64 >= started, "{} of {started}", executions.len());
    assert_eq!((&shown["status"], &shown["counts"]["missed"]), (&json!("PAUSED"), &json!(0)));
    let mut times = Vec::new();
    for (name, input) in &executions {
        let at = input["at"].as_str().unwrap();
        assert_eq!(*name, format!("seconds-{}", at.replace(['-', ':'], "")));
        times.push(Timestamp::parse_rfc3339(at).unwrap());
    }
    for pair in times.windows(2) {
        assert_eq!(pair[1].millis_since(pair[0]), 1_000, "a second is missing after {}", pair[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_goes_on_through_crashes_of_the_embedded_default() {
    every_second_has_its_execution(&Site::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_goes_on_through_crashes_of_its_coordinator_on_servers() {
    let Some(servers) = Servers::shared().await else { return };
    every_second_has_its_execution(&Site::on(&servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_times_are_made_up_for_and_the_command_line_shows_them() {
    let site = Site::embedded();
    let _server = site.start().await;
    site.api.deploy("report", PASS).await.unwrap();
    let run = async |arguments: &[&str]| {
        let output = site.cli(&[&["schedule"][..], arguments].concat()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let create =
        ["create", "daily", "0 9 * * *", "--state-machine", "report", "--time-zone", "Europe/Berlin"];
    run(&create).await;
    assert!(run(&["list"]).await.contains("daily  ACTIVE  0 9 * * *   Europe/Berlin"));
    let next = run(&["next", "daily", "--after", "2026-03-28T00:00:00Z", "--max", "2"]).await;
    assert_eq!(next, "2026-03-28T08:00:00.000Z\n2026-03-29T07:00:00.000Z\n");
    run(&["backfill", "daily", "--from", "2026-03-28T00:00:00Z", "--to", "2026-03-30T00:00:00Z"]).await;
    until("both are started", PATIENCE, async || {
        let shown = show(&site, "daily").await?;
        let done = shown["counts"]["started"] == 2 && shown["backfills"] == json!([]);
        done.then_some(())
    })
    .await;
    let names: Vec<String> = executions(&site, "report").await.into_keys().collect();
    assert_eq!(names, ["daily-20260328T080000Z", "daily-20260329T070000Z"]);
    assert!(run(&["show", "daily"]).await.contains("2 started, 0 skipped, 0 missed, 0 failed"));
    run(&["delete", "daily"]).await;
    let gone = site.cli(&["schedule", "show", "daily"]).await;
    assert_eq!(gone.status.code(), Some(3));
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap())
}

async fn create_all(site: &Site, name: &str, range: Range<usize>, at: Timestamp) {
    let machine = site.api.state_machine_arn("report").unwrap().to_string();
    // Without the fraction and the zone.
    let expression = format!("at({})", &at.to_string()[.."2026-12-24T18:00:00".len()]);
    let creating = stream::iter(range).map(|n| {
        let create = json!({
            "name": format!("{name}-{n}"),
            "scheduleExpression": expression,
            "stateMachineArn": machine,
        });
        async move { site.api.call_own("CreateSchedule", &create).await.unwrap() }
    });
    creating.buffer_unordered(32).for_each(async |_| ()).await;
}

/// Very many schedules that are due in the same second: how long their executions take, and what memory.
#[expect(clippy::print_stdout, reason = "this is what it is for")]
async fn measure_many_at_once(site: &Site) {
    const TRIED: usize = 500;
    let count: usize =
        std::env::var("STAGEPOST_TEST_SCHEDULES").map_or(60_000, |count| count.parse().unwrap());
    let server = site.start().await;
    site.api.deploy("report", PASS).await.unwrap();
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        status.lines().find(|line| line.starts_with("VmHWM:")).unwrap()[6..].trim().to_owned()
    };
    // How long it takes to create them, so that none is due before.
    let began = Instant::now();
    create_all(site, "tried", 0..TRIED, now().plus_millis(86_400_000)).await;
    let lead = began.elapsed().mul_f64(2.0 * count as f64 / TRIED as f64) + Duration::from_secs(15);
    let due = now().plus_millis(i64::try_from(lead.as_millis()).unwrap());
    // Whole seconds, as a schedule has them.
    let due = due.plus_millis(1_000 - due.as_millis() % 1_000);
    let began = Instant::now();
    create_all(site, "many", 0..count, due).await;
    println!("{count} schedules created in {:?}; peak {}", began.elapsed(), peak());
    assert!(now() < due, "they are due before all are created");
    let ended = async || {
        let ended = site.metric("stagepost_coordinator_executions_ended").await?;
        (ended >= count as f64).then(|| now().millis_since(due))
    };
    let millis = until("all executions have ended", lead + PATIENCE * 20, ended).await;
    println!("{count} executions ended {millis} ms after they were due; peak {}", peak());
    let firings = site.metric("stagepost_coordinator_schedule_firings").await;
    assert_eq!(firings, Some(count as f64), "each fires once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints measurements"]
async fn measure_many_at_once_on_servers() {
    let Some(servers) = Servers::shared().await else { return };
    measure_many_at_once(&Site::on(&servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints measurements"]
async fn measure_many_at_once_on_the_embedded_default() {
    measure_many_at_once(&Site::embedded()).await;
}
