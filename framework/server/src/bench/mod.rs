//! `stagepost bench`: measures an installation's broker and database under Stagepost, and under next to nothing
//! (the floor), in the same run.
//!
//! It brings a coordinator and a worker of its own, queues of a prefix of its own and a schema (or a file) of its
//! own, all of which it removes: what the installation holds is not touched.

mod express;
mod floor;
mod scenario;
mod target;
mod usage;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use target::Target;
use usage::Processes;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Executions of `--steps` activities one after the other, `--in-flight` at a time.
    Sequence,
    /// Executions of one activity, one execution at a time: how long one takes.
    Latency,
    /// Executions of one Map state over `--items` items, each an activity.
    Map,
    /// `--executions` that wait for a token: how fast they are accepted, and what they cost while they wait.
    Waiting,
    /// `--executions` whose timers are due at once: how late they are.
    Timers,
    /// `--executions` of three Pass states, and of one activity: as Express executions, synchronous and asynchronous, and
    /// as standard ones.
    Express,
}

/// Options of `stagepost bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[arg(value_enum)]
    pub scenario: Scenario,
    /// How many executions. Default: 2000 for sequence and express, 200 for latency, 1 for map, 10000 for waiting and timers.
    #[arg(long)]
    pub executions: Option<usize>,
    /// Activities of an execution (sequence).
    #[arg(long, default_value_t = 10)]
    pub steps: usize,
    /// Items of a Map (map).
    #[arg(long, default_value_t = 1000)]
    pub items: usize,
    /// Executions that run at a time.
    #[arg(long, default_value_t = 200)]
    pub in_flight: usize,
    /// Shards, and so shard queues.
    #[arg(long, default_value_t = 4)]
    pub shards: u16,
    /// Measure the floor too: bare messages and bare appends, alternating with Stagepost.
    #[arg(long)]
    pub floor: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// RabbitMQ; without it and the database, the embedded default is measured.
    #[arg(long, env = "AMQP_URL")]
    pub amqp_url: Option<String>,
    /// PostgreSQL.
    #[arg(long, env = "DATABASE_URL")]
    pub database_url: Option<String>,
}

/// How much work a run does.
#[derive(Debug, Clone, Copy, Serialize)]
struct Load {
    executions: usize,
    steps: usize,
    items: usize,
    in_flight: usize,
    shards: u16,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    /// Activities (or starts, for waiting; timers; or executions, for express) per second.
    steps_per_s: f64,
    /// The time of one step (sequence), one execution (latency, map), one start (waiting), or how late a timer was.
    p50_ms: f64,
    p99_ms: f64,
    /// CPU time of all processes per step: this one, and broker and database where they are on this machine.
    cpu_us_per_step: f64,
    /// The most memory of this process: coordinator, worker and load generator together.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mb: Option<f64>,
    /// Statements to the database while nothing happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_queries_per_s: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    scenario: Scenario,
    target: &'static str,
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<Figures>,
    /// What was measured beside each other; the first is `figures` too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compared: Vec<Compared>,
    settings: Settings,
}

#[derive(Debug, Serialize)]
struct Compared {
    name: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Serialize)]
struct Settings {
    #[serde(flatten)]
    load: Load,
    rounds: usize,
    /// Whether the CPU time of broker and database is in `cpu_us_per_step`.
    servers_counted: bool,
}

/// The raw material of [`Figures`].
#[derive(Debug, Default)]
struct Measured {
    steps: usize,
    elapsed: Duration,
    cpu_seconds: f64,
    times: Vec<Duration>,
    peak_mb: Option<f64>,
    idle_queries_per_s: Option<f64>,
}

impl Measured {
    fn add(&mut self, other: Measured) {
        self.steps += other.steps;
        self.elapsed += other.elapsed;
        self.cpu_seconds += other.cpu_seconds;
        self.times.extend(other.times);
        self.peak_mb = larger(self.peak_mb, other.peak_mb);
        self.idle_queries_per_s = larger(self.idle_queries_per_s, other.idle_queries_per_s);
    }

    fn figures(mut self) -> Figures {
        self.times.sort_unstable();
        let at = |q: f64| {
            let index = (self.times.len() as f64 * q) as usize;
            self.times
                .get(index.min(self.times.len().saturating_sub(1)))
                .map_or(0.0, |t| t.as_secs_f64() * 1e3)
        };
        let steps = self.steps.max(1) as f64;
        Figures {
            steps_per_s: round(steps / self.elapsed.as_secs_f64().max(1e-9), 1),
            p50_ms: round(at(0.5), 3),
            p99_ms: round(at(0.99), 3),
            cpu_us_per_step: round(self.cpu_seconds * 1e6 / steps, 1),
            peak_mb: self.peak_mb.map(|mb| round(mb, 1)),
            idle_queries_per_s: self.idle_queries_per_s.map(|q| round(q, 2)),
        }
    }
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

/// Measures around a piece of work: its wall time and its CPU time.
struct Meter {
    began: Instant,
    cpu_began: f64,
}

impl Meter {
    fn begin(processes: &Processes) -> Meter {
        usage::reset_peak();
        Meter { cpu_began: processes.cpu_seconds(), began: Instant::now() }
    }

    fn end(self, processes: &Processes, steps: usize, times: Vec<Duration>) -> Measured {
        Measured {
            steps,
            elapsed: self.began.elapsed(),
            cpu_seconds: processes.cpu_seconds() - self.cpu_began,
            times,
            peak_mb: usage::peak_mib(),
            idle_queries_per_s: None,
        }
    }
}

/// Runs `stagepost bench` and prints its report to stdout.
pub async fn run(args: BenchArgs) -> Result<()> {
    let report = measure(&args).await?;
    let text = if args.json { serde_json::to_string_pretty(&report)? } else { readable(&report) };
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

async fn measure(args: &BenchArgs) -> Result<Report> {
    let (executions, most) = match args.scenario {
        Scenario::Sequence | Scenario::Express => (args.executions.unwrap_or(2000), args.in_flight),
        Scenario::Latency => (args.executions.unwrap_or(200), 1),
        Scenario::Map => (args.executions.unwrap_or(1), 1),
        Scenario::Waiting | Scenario::Timers => (args.executions.unwrap_or(10_000), args.in_flight),
    };
    if args.floor && args.scenario == Scenario::Express {
        bail!("--floor says nothing about express: it is measured beside standard executions");
    }
    if executions == 0 || args.steps == 0 || args.items == 0 || most == 0 {
        bail!("--executions, --steps, --items and --in-flight must be at least 1");
    }
    // Alternating only means something where there is something to alternate with, and enough of it.
    let compares = args.floor || args.scenario == Scenario::Express;
    let alternates =
        compares && executions >= 30 && !matches!(args.scenario, Scenario::Waiting | Scenario::Timers);
    let rounds = if alternates { 3 } else { 1 };
    let load = Load {
        executions: executions.div_ceil(rounds),
        steps: if args.scenario == Scenario::Sequence { args.steps } else { 1 },
        items: if args.scenario == Scenario::Map { args.items } else { 1 },
        in_flight: most,
        shards: args.shards,
    };
    let target = Target::new(args.amqp_url.clone(), args.database_url.clone())?;
    let processes = target.processes();
    let settings =
        Settings { load: Load { executions, ..load }, rounds, servers_counted: processes.servers_counted };
    if args.scenario == Scenario::Express {
        let measured = express::run(&target, &processes, load, rounds).await?;
        let mut compared = measured.into_iter().map(|(name, m)| Compared { name, figures: m.figures() });
        let first = compared.next().context("there are variants")?;
        let figures = first.figures.clone();
        return Ok(Report {
            scenario: args.scenario,
            target: target.name(),
            figures,
            floor: None,
            compared: std::iter::once(first).chain(compared).collect(),
            settings,
        });
    }
    let mut ours = Measured::default();
    let mut floor = Measured::default();
    for _ in 0..rounds {
        ours.add(scenario::run(&target, &processes, args.scenario, load).await?);
        if args.floor {
            let mut measured = floor::run(&target, &processes, floor_load(args.scenario, load)).await?;
            if args.scenario == Scenario::Map {
                // A Map is compared as a whole, so all of its steps are one time.
                measured.times = vec![measured.elapsed];
            }
            floor.add(measured);
        }
    }
    Ok(Report {
        scenario: args.scenario,
        target: target.name(),
        figures: ours.figures(),
        floor: args.floor.then(|| floor.figures()),
        compared: Vec::new(),
        settings,
    })
}

/// The same number of steps for the floor, as many at a time.
fn floor_load(scenario: Scenario, load: Load) -> Load {
    match scenario {
        Scenario::Map => {
            Load { executions: load.executions * load.items, in_flight: load.items.min(1000), ..load }
        }
        _ => load,
    }
}

fn readable(report: &Report) -> String {
    let load = &report.settings.load;
    let width = report.compared.iter().map(|compared| compared.name.len()).max().unwrap_or(10);
    let mut lines = vec![
        format!(
            "{:?} on {}: {} executions, {} steps, {} items, {} at a time",
            report.scenario, report.target, load.executions, load.steps, load.items, load.in_flight
        ),
        format!(
            "{:<width$} {:>12} {:>10} {:>10} {:>14} {:>9}",
            "",
            if report.compared.is_empty() { "steps/s" } else { "executions/s" },
            "p50 ms",
            "p99 ms",
            "CPU us/step",
            "peak MB"
        ),
    ];
    let mut row = |name: &str, f: &Figures| {
        let peak = f.peak_mb.map_or("-".into(), |mb| format!("{mb:.1}"));
        lines.push(format!(
            "{name:<width$} {:>12.1} {:>10.3} {:>10.3} {:>14.1} {peak:>9}",
            f.steps_per_s, f.p50_ms, f.p99_ms, f.cpu_us_per_step
        ));
    };
    if report.compared.is_empty() {
        row("stagepost", &report.figures);
    }
    report.compared.iter().for_each(|compared| row(compared.name, &compared.figures));
    if let Some(floor) = &report.floor {
        row("floor", floor);
        let f = &report.figures;
        lines.push(format!(
            "ratio: {:.2} of the floor's steps/s, {:.2} times its p50, {:.2} times its CPU",
            f.steps_per_s / floor.steps_per_s,
            f.p50_ms / floor.p50_ms,
            f.cpu_us_per_step / floor.cpu_us_per_step
        ));
    }
    if let Some(idle) = report.figures.idle_queries_per_s {
        lines.push(format!("while all of them wait: {idle} statements per second to the database"));
    }
    if !report.settings.servers_counted {
        lines.push(
            "CPU is this process's only: broker and database are not on this machine, or cannot be seen"
                .into(),
        );
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_taken_from_sorted_times() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let measured = Measured {
            steps: 100,
            elapsed: Duration::from_secs(2),
            cpu_seconds: 0.5,
            times,
            ..Measured::default()
        };
        let figures = measured.figures();
        assert_eq!((figures.steps_per_s, figures.p50_ms, figures.p99_ms), (50.0, 51.0, 100.0));
        assert_eq!(figures.cpu_us_per_step, 5000.0);
        assert_eq!(Measured::default().figures().p50_ms, 0.0);
    }
}
