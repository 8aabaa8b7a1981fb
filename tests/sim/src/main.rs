//! Plays seeds: `cargo run -p stagepost-sim -- --seed 7`, or `--seeds 0..1000`. A seed that fails is printed with what
//! was wrong and the end of its trace; the exit code is 1 then. `RUST_LOG` shows what the processes log.

use std::{
    io::{self, Write},
    ops::Range,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;

/// So many seeds that fail are shown.
const FAILURES_MAX: usize = 5;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(about = "Simulates Stagepost under faults, from seeds.")]
struct Args {
    /// One seed, whose trace is printed whether it fails or not.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A to B - 1.
    #[arg(long, value_name = "A..B", value_parser = range, default_value = "0..1000")]
    seeds: Range<u64>,
    /// Plays each seed twice, and fails where the second time differs from the first.
    #[arg(long)]
    twice: bool,
    /// How many of the last lines of a trace are printed.
    #[arg(long, value_name = "LINES", default_value_t = 60)]
    tail: usize,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.ok_or_else(|| "a range of seeds is written A..B, for instance 0..1000".to_owned())
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::OFF.into());
    tracing_subscriber::fmt().with_env_filter(filter.from_env_lossy()).with_writer(io::stderr).init();
    let mut out = io::stdout();
    let seeds = args.seed.map_or(args.seeds, |seed| seed..seed + 1);
    let (began, mut told) = (Instant::now(), Instant::now());
    let (mut played, mut failed) = (0_u64, 0);
    for seed in seeds.clone() {
        let mut outcome = stagepost_sim::run(seed, args.tail);
        if args.twice && outcome != stagepost_sim::run(seed, args.tail) {
            outcome.violation = Some("it does something else the second time".to_owned());
        }
        played += 1;
        if outcome.violation.is_some() || args.seed.is_some() {
            for line in &outcome.told.tail {
                writeln!(out, "{line}")?;
            }
        }
        if let Some(violation) = outcome.violation {
            failed += 1;
            writeln!(out, "seed {seed} fails: {violation}")?;
            writeln!(out, "hint: cargo run -p stagepost-sim -- --seed {seed} --tail 100000")?;
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            writeln!(out, "{}", progress(played, failed, seed, began))?;
        }
        if failed >= FAILURES_MAX {
            break;
        }
    }
    writeln!(out, "{}", progress(played, failed, seeds.end.saturating_sub(1), began))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn progress(played: u64, failed: usize, seed: u64, began: Instant) -> String {
    let rate = played as f64 / began.elapsed().as_secs_f64().max(0.001);
    format!("{played} seeds played up to {seed}, {failed} failed, {rate:.1} a second")
}
