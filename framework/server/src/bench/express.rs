//! Express executions beside standard ones of the same definition, in the same run.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;
use stagepost_coordinator::express;
use stagepost_protocol::Payload;

use super::{
    Load, Measured, Meter,
    scenario::{Rig, STUCK, sequence, task},
    target::Target,
    usage::Processes,
};

/// How executions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// As StartSyncExecution does.
    Synchronous,
    /// As StartExecution of an EXPRESS state machine does.
    Asynchronous,
    /// Of a standard state machine.
    Standard,
}

/// What is measured, in the order of the report.
const VARIANTS: [(&str, How, bool); 6] = [
    ("Express, 3 Pass states", How::Synchronous, false),
    ("Express, 3 Pass states, asynchronous", How::Asynchronous, false),
    ("standard, 3 Pass states", How::Standard, false),
    ("Express, 1 activity", How::Synchronous, true),
    ("Express, 1 activity, asynchronous", How::Asynchronous, true),
    ("standard, 1 activity", How::Standard, true),
];

/// Measures all variants, `rounds` times in turn.
pub(super) async fn run(
    target: &Target,
    processes: &Processes,
    load: Load,
    rounds: usize,
) -> Result<Vec<(&'static str, Measured)>> {
    let mut all: Vec<(&'static str, Measured)> =
        VARIANTS.iter().map(|(name, ..)| (*name, Measured::default())).collect();
    for _ in 0..rounds {
        for ((_, how, activity), (_, measured)) in VARIANTS.into_iter().zip(&mut all) {
            let definition = match activity {
                true => sequence(1, &task()),
                false => sequence(3, &json!({"Type": "Pass"})),
            };
            let kind = if how == How::Standard { "STANDARD" } else { "EXPRESS" };
            let rig = Rig::start(target, &definition, kind, load, true).await?;
            let one = match how {
                How::Synchronous => synchronous(&rig, processes, load).await,
                How::Asynchronous => asynchronous(&rig, processes, load).await,
                How::Standard => rig.complete(processes, load).await,
            };
            rig.stop().await?;
            measured.add(one?);
        }
    }
    Ok(all)
}

async fn synchronous(rig: &Rig, processes: &Processes, load: Load) -> Result<Measured> {
    let input = Payload::from_value(&json!([0]));
    let meter = Meter::begin(processes);
    let run = |i: usize| {
        let input = input.clone();
        async move {
            let began = Instant::now();
            let ended = rig.run_express(input, &format!("run-{i}")).await?;
            Ok(ended.duration_since(began))
        }
    };
    let times = rig.many(load.executions, load.in_flight, run).await?;
    Ok(meter.end(processes, load.executions, times))
}

/// The times are those until a start is accepted.
async fn asynchronous(rig: &Rig, processes: &Processes, load: Load) -> Result<Measured> {
    let input = Payload::from_value(&json!([0]));
    let metrics = rig.coordinator.metrics();
    let due = metrics.express_ended.load(Relaxed) + load.executions as u64;
    let meter = Meter::begin(processes);
    let start = |i: usize| {
        let start = express::start(&rig.machine, &format!("run-{i}"), input.clone());
        async move {
            let began = Instant::now();
            rig.client.start_express(&start).await?;
            Ok(began.elapsed())
        }
    };
    let times = rig.many(load.executions, load.in_flight, start).await?;
    let all_ended = async {
        while metrics.express_ended.load(Relaxed) < due {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(STUCK, all_ended).await.context("Express executions did not end")?;
    Ok(meter.end(processes, load.executions, times))
}
