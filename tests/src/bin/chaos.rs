//! Runs chaos on real parts for as long as one likes and prints what happened; exit code 1 if something does not hold.
//!
//! `cargo run -p stagepost-tests --bin chaos -- --minutes 10 --seed 7`

use std::{process::ExitCode, time::Duration};

use stagepost_tests::{
    Random, Servers,
    chaos::{self, Plan},
};

const USAGE: &str = "usage: chaos [--minutes N] [--seed N]";

/// What was asked for: minutes and seed.
fn asked() -> Option<(u64, Option<u64>)> {
    let (mut minutes, mut seed) = (10, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--minutes" => minutes = value,
            "--seed" => seed = Some(value),
            _ => return None,
        }
    }
    Some((minutes, seed))
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what it is for")]
async fn main() -> ExitCode {
    let Some((minutes, seed)) = asked() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let servers = Servers::start().await;
    let plan = Plan {
        seed: seed.unwrap_or_else(|| Random::quiet().number(0..u64::from(u32::MAX))),
        during: Duration::from_secs(60 * minutes),
        every: Duration::from_millis(125),
        end_within: Duration::from_secs(180),
    };
    println!("seed {}", plan.seed);
    let report = chaos::run(&servers, plan).await;
    println!("{report}");
    if report.faults_found().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
