//! Chaos on real parts: two coordinators and four workers as processes, a RabbitMQ and a PostgreSQL of their own, a
//! network between each and its servers, and faults of all of them while orders run.
//!
//! ```text
//!  orders ──► coordinator 1, 2 ──┬── network ──► RabbitMQ ◄── network ──┬── worker 1 … 4
//!                                └── network ──► PostgreSQL ◄───────────┴── ledger
//! ```
//!
//! What must hold at the end: whatever was accepted has ended with its right sum, and the ledger, which the activities
//! write past the engine, has each step, and each attempt of an activity that is not idempotent once.

mod faults;
mod ledger;
mod orders;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use stagepost_server::ApiClient;

pub use self::ledger::{Balance, Ledger};
use self::{
    faults::{Cast, Counts, Member},
    orders::Started,
};
use crate::{Process, Proxy, Random, Servers, Site, binaries::CHAOS_WORKER};

/// How long a worker that says nothing is waited for. Short, so that attempts change hands while faults last.
pub const LEASE: Duration = Duration::from_secs(5);

const COORDINATORS: usize = 2;
const WORKERS: usize = 4;
/// Of what is wrong, so much is told.
const TOLD_MAX: usize = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// What is to happen.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Decides which faults come when.
    pub seed: u64,
    /// How long orders are started and faults come.
    pub during: Duration,
    /// An order is started so often.
    pub every: Duration,
    /// Every order has ended so long after the last fault.
    pub end_within: Duration,
}

/// What happened.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    faults: Counts,
    /// The last words of processes that ended by themselves and were started again.
    ended: Vec<String>,
    started: Started,
    /// How long the last order took to end, after the last fault.
    ended_after: Duration,
    /// Orders that have not ended.
    unended: usize,
    /// How often an attempt failed and was tried again, by error.
    retried: BTreeMap<String, u64>,
    balance: Balance,
    /// Attempts that were run twice.
    doubles: Vec<String>,
    wrong: Vec<String>,
    took: Duration,
}

impl Report {
    /// What does not hold; nothing if all is well.
    pub fn faults_found(&self) -> Vec<String> {
        let mut found = self.wrong.clone();
        if self.unended > 0 {
            found.push(format!("{} orders have not ended", self.unended));
        }
        let steps = orders::steps(self.started.accepted);
        if self.balance.steps != steps {
            found.push(format!("the ledger has {} steps of {steps}", self.balance.steps));
        }
        found.extend(self.doubles.iter().map(|double| format!("run twice: {double}")));
        found
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { started, balance, .. } = self;
        writeln!(f, "seed {}, {} s", self.seed, self.took.as_secs())?;
        writeln!(f, "faults injected, all of them survived:")?;
        for (fault, count) in &self.faults {
            writeln!(f, "  {count:5}  {fault}")?;
        }
        writeln!(f, "  {:5}  in all", self.faults.values().sum::<u64>())?;
        writeln!(f, "processes that ended by themselves and were started again: {}", self.ended.len())?;
        for said in self.ended.iter().take(TOLD_MAX) {
            writeln!(f, "         {said}")?;
        }
        writeln!(f, "orders accepted: {}, asked for again: {}", started.accepted, started.asked_again)?;
        writeln!(
            f,
            "orders not ended: {}, the last one {:.1} s after the last fault",
            self.unended,
            self.ended_after.as_secs_f64()
        )?;
        writeln!(f, "attempts tried again:")?;
        for (error, count) in &self.retried {
            writeln!(f, "  {count:5}  {error}")?;
        }
        writeln!(
            f,
            "ledger: {} runs of {} attempts of {} steps; run twice: {}, of the idempotent activity: {}",
            balance.runs, balance.attempts, balance.steps, balance.doubles, balance.repeated
        )?;
        let found = self.faults_found();
        for what in found.iter().take(TOLD_MAX) {
            writeln!(f, "WRONG: {what}")?;
        }
        writeln!(f, "{} things are wrong", found.len())
    }
}

/// Runs it all, on servers of its own.
pub async fn run(servers: &Servers, plan: Plan) -> Report {
    let began = Instant::now();
    let ledger = Ledger::at(&servers.database_url, "the accountant");
    ledger.create().await;
    let (mut cast, sites) = cast(servers).await;
    for (site, member) in sites.iter().zip(&mut cast.coordinators) {
        site.ready(member.process()).await;
    }
    let apis: Arc<[ApiClient]> = sites.iter().map(|site| site.api.clone()).collect();
    orders::deploy(&apis[0]).await;

    let until = tokio::time::Instant::now() + plan.during;
    let mut random = Random::from_seed(plan.seed);
    let (of_nearby, of_far) = (random.another(), random.another());
    let (started, (mut faults, mut ended), far) = tokio::join!(
        orders::start(&apis, plan.every, plan.during),
        faults::nearby(&mut cast, of_nearby, until),
        faults::far(servers, of_far, until),
    );
    for (fault, count) in far {
        *faults.entry(fault).or_default() += count;
    }

    let last_fault = Instant::now();
    let unended = loop {
        ended.extend(cast.supervise());
        match orders::running(&apis[0]).await {
            Some(0) => break 0,
            Some(running) if last_fault.elapsed() > plan.end_within => break running,
            None if last_fault.elapsed() > plan.end_within => break usize::MAX,
            Some(_) | None => tokio::time::sleep(PAUSE).await,
        }
    };
    let ended_after = last_fault.elapsed();
    let (wrong, retried) = orders::check(&apis[0], started.accepted).await;
    let (balance, doubles) = (ledger.balance().await, ledger.doubles().await);
    Report {
        seed: plan.seed,
        faults,
        ended,
        started,
        ended_after,
        unended,
        retried,
        balance,
        doubles,
        wrong,
        took: began.elapsed(),
    }
}

/// Starts everybody.
async fn cast(servers: &Servers) -> (Cast, Vec<Arc<Site>>) {
    let (mut coordinators, mut workers, mut networks, mut sites) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..COORDINATORS {
        let (broker, database) = (Proxy::to(&servers.amqp_url).await, Proxy::to(&servers.database_url).await);
        let urls = (broker.url(&servers.amqp_url), database.url(&servers.database_url));
        let site = Arc::new(Site::at(&urls.0, &urls.1, &servers.prefix));
        sites.push(Arc::clone(&site));
        coordinators.push(Member::new(move || site.launch(&[])));
        networks.extend([broker, database]);
    }
    for n in 1..=WORKERS {
        let broker = Proxy::to(&servers.amqp_url).await;
        let (amqp_url, database_url) = (broker.url(&servers.amqp_url), servers.database_url.clone());
        let site = Arc::clone(&sites[0]);
        workers.push(Member::new(move || {
            let mut command = site.command(CHAOS_WORKER);
            command
                .env("AMQP_URL", &amqp_url)
                .env("LEDGER_URL", &database_url)
                .env("CHAOS_WORKER", format!("worker {n}"));
            Process::start(&format!("worker {n}"), command)
        }));
        networks.push(broker);
    }
    (Cast { coordinators, workers, networks }, sites)
}
