//! Coordinators on a store and a broker that fail by a seed, that crash and take over from each other: whatever
//! happens, every accepted start ends once, with the right output. `STAGEPOST_SEEDS=FROM..TO` runs other seeds.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod chaos;
mod letters;
mod rig;

use std::time::Duration;

use rig::Rig;

async fn pause(rig: &Rig, millis: u64) {
    tokio::time::sleep(Duration::from_millis(rig.dice.below(millis))).await;
}

/// One coordinator or two, which crash and come back while executions start and run.
async fn crashes_and_takeovers(seed: u64) {
    let mut rig = Rig::new(seed).await;
    let mut coordinators = vec![rig.coordinator().await];
    if rig.dice.below(2) == 0 {
        coordinators.push(rig.coordinator().await);
    }
    rig.start(15).await;
    for _ in 0..rig.dice.below(3) {
        pause(&rig, 200).await;
        let gone = coordinators.swap_remove(rig.dice.below(coordinators.len() as u64) as usize);
        match rig.dice.below(3) {
            // A crash, and a successor that comes when the lease has run out, or before.
            0 | 1 => drop(gone),
            _ => gone.shutdown().await,
        }
        pause(&rig, 200).await;
        coordinators.push(rig.coordinator().await);
    }
    rig.start(5).await;
    rig.stop_those_to_stop().await;
    rig.signal_those_to_signal().await;
    rig.redrive_those_to_redrive().await;
    if rig.dice.below(2) == 0 {
        rig.dice.stop_faults();
    }
    rig.all_end().await;
    rig.dice.stop_faults();
    rig.nothing_is_left().await;
    for coordinator in coordinators {
        coordinator.shutdown().await;
    }
}

/// The embedded default: process and broker are gone at once, and the next start recovers from the store.
async fn the_broker_is_lost_too(seed: u64) {
    let mut rig = Rig::new(seed).await;
    let first = rig.coordinator().await;
    rig.start(15).await;
    pause(&rig, 300).await;
    drop(first);
    rig.replace_broker().await;
    let second = rig.coordinator().await;
    rig.start(5).await;
    rig.stop_those_to_stop().await;
    rig.signal_those_to_signal().await;
    rig.redrive_those_to_redrive().await;
    rig.all_end().await;
    rig.dice.stop_faults();
    rig.nothing_is_left().await;
    second.shutdown().await;
}

fn seeds(few: u64) -> std::ops::Range<u64> {
    let from_to = std::env::var("STAGEPOST_SEEDS").ok();
    let parsed = from_to.as_deref().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    parsed.unwrap_or(0..few)
}

/// Runs a scenario for many seeds, some at a time, and names the seeds that failed.
fn for_each_seed<F: Future<Output = ()> + Send + 'static>(few: u64, scenario: fn(u64) -> F) {
    // With RUST_LOG set it can be seen what a seed does. The second test finds it set up already.
    let off = tracing_subscriber::filter::LevelFilter::OFF.into();
    let filter = tracing_subscriber::EnvFilter::builder().with_default_directive(off).from_env_lossy();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let failed: Vec<u64> = runtime.block_on(async {
        use futures_util::StreamExt;
        let run = |seed| async move { (seed, tokio::spawn(scenario(seed)).await.is_err()) };
        let results = futures_util::stream::iter(seeds(few)).map(run).buffer_unordered(8);
        results.filter_map(|(seed, failed)| async move { failed.then_some(seed) }).collect().await
    });
    assert!(failed.is_empty(), "failed with the seeds {failed:?}");
}

#[test]
fn every_start_ends_right_through_faults_crashes_and_takeovers() {
    for_each_seed(16, crashes_and_takeovers);
}

#[test]
fn every_message_that_cannot_be_used_is_kept_through_faults_and_crashes() {
    for_each_seed(8, letters::all_are_kept);
}

#[test]
fn every_start_ends_right_when_the_broker_is_lost_with_the_process() {
    for_each_seed(8, the_broker_is_lost_too);
}
