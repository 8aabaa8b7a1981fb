//! What goes wrong, when and for how long: all from the seed.

use std::{collections::BTreeMap, time::Duration};

use crate::{Process, Proxy, Random, Servers, Service, Weather};

/// How long a process or a network may be away at a time: from below a lease to above it, so that shards and attempts
/// change hands now and then.
const AWAY_MILLIS: std::ops::Range<u64> = 200..9_000;
/// How long a server is away.
const SERVER_AWAY_MILLIS: std::ops::Range<u64> = 200..5_000;
/// Each chunk is so late on a slow network.
const LATE: Duration = Duration::from_millis(40);

/// How often each kind of fault was injected, and got over.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// A process that is killed and started again.
pub(super) struct Member {
    process: Process,
    start: Box<dyn Fn() -> Process + Send>,
}

impl Member {
    pub(super) fn new(start: impl Fn() -> Process + Send + 'static) -> Member {
        Member { process: start(), start: Box::new(start) }
    }

    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn kill(&mut self) {
        self.process.kill();
        self.process = (self.start)();
    }

    async fn hang(&self, millis: u64) {
        self.process.signal("STOP");
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.process.signal("CONT");
    }

    /// Starts it again if it has ended by itself, as whatever supervises services would; says what it wrote last.
    pub(super) fn supervise(&mut self) -> Option<String> {
        if self.process.is_running() {
            return None;
        }
        let said = self.process.output();
        self.process = (self.start)();
        Some(said.lines().last().unwrap_or_default().to_owned())
    }
}

/// Who takes part.
pub(super) struct Cast {
    pub(super) coordinators: Vec<Member>,
    pub(super) workers: Vec<Member>,
    /// The networks between each of them and RabbitMQ, and between each coordinator and PostgreSQL.
    pub(super) networks: Vec<Proxy>,
}

impl Cast {
    /// Starts what has ended by itself; gives its last words.
    pub(super) fn supervise(&mut self) -> Vec<String> {
        self.coordinators.iter_mut().chain(&mut self.workers).filter_map(Member::supervise).collect()
    }
}

/// Cards that are dealt until none is left, then shuffled anew: every fault comes, in any order.
struct Deck<T> {
    all: Vec<T>,
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    fn new(all: &[T]) -> Deck<T> {
        Deck { all: all.to_vec(), left: Vec::new() }
    }

    fn deal(&mut self, random: &mut Random) -> T {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
        }
        let at = pick(random, self.left.len());
        self.left.swap_remove(at)
    }
}

fn pick(random: &mut Random, of: usize) -> usize {
    let of = u64::try_from(of).expect("a few");
    usize::try_from(random.number(0..of)).expect("a few")
}

#[derive(Debug, Clone, Copy)]
enum Nearby {
    KillCoordinator,
    HangCoordinator,
    KillWorker,
    HangWorker,
    CutNetwork,
    StallNetwork,
    HalfOpenNetwork,
    SlowNetwork,
    AwayNetwork,
}

const NEARBY: [Nearby; 10] = [
    Nearby::KillCoordinator,
    Nearby::HangCoordinator,
    // Twice: there are twice as many.
    Nearby::KillWorker,
    Nearby::KillWorker,
    Nearby::HangWorker,
    Nearby::CutNetwork,
    Nearby::StallNetwork,
    Nearby::HalfOpenNetwork,
    Nearby::SlowNetwork,
    Nearby::AwayNetwork,
];

/// Faults of processes and networks, one at a time, until it is dropped or the time is over.
pub(super) async fn nearby(
    cast: &mut Cast,
    mut random: Random,
    until: tokio::time::Instant,
) -> (Counts, Vec<String>) {
    let (mut counts, mut ended) = (Counts::new(), Vec::new());
    let mut deck = Deck::new(&NEARBY);
    loop {
        random.moment(100, 1_500).await;
        if tokio::time::Instant::now() >= until {
            return (counts, ended);
        }
        let fault = deck.deal(&mut random);
        let (coordinator, worker) =
            (pick(&mut random, cast.coordinators.len()), pick(&mut random, cast.workers.len()));
        let (network, millis) = (pick(&mut random, cast.networks.len()), random.number(AWAY_MILLIS));
        let network = &cast.networks[network];
        let name = match fault {
            Nearby::KillCoordinator => {
                cast.coordinators[coordinator].kill();
                "kill -9 of a coordinator"
            }
            Nearby::HangCoordinator => {
                cast.coordinators[coordinator].hang(millis).await;
                "a coordinator hangs (SIGSTOP)"
            }
            Nearby::KillWorker => {
                cast.workers[worker].kill();
                "kill -9 of a worker"
            }
            Nearby::HangWorker => {
                cast.workers[worker].hang(millis).await;
                "a worker hangs (SIGSTOP)"
            }
            Nearby::CutNetwork => {
                network.cut();
                "a connection is cut"
            }
            Nearby::StallNetwork => {
                weather(network, Weather::Stalled, millis).await;
                "a connection stalls"
            }
            Nearby::HalfOpenNetwork => {
                weather(network, Weather::Mute, millis).await;
                "a connection is half open"
            }
            Nearby::SlowNetwork => {
                weather(network, Weather::Slow(LATE), millis).await;
                "a connection is slow"
            }
            Nearby::AwayNetwork => {
                network.set(Weather::Away);
                network.cut();
                weather(network, Weather::Away, millis).await;
                "a server cannot be reached"
            }
        };
        *counts.entry(name).or_default() += 1;
        ended.extend(cast.supervise());
    }
}

async fn weather(network: &Proxy, weather: Weather, millis: u64) {
    network.set(weather);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    network.set(Weather::Fair);
}

#[derive(Debug, Clone, Copy)]
enum Far {
    KillRabbitMq,
    HangRabbitMq,
    RestartRabbitMq,
    DiskFull,
    KillPostgres,
    HangPostgres,
    RestartPostgres,
}

const FAR: [Far; 7] = [
    Far::KillRabbitMq,
    Far::HangRabbitMq,
    Far::RestartRabbitMq,
    Far::DiskFull,
    Far::KillPostgres,
    Far::HangPostgres,
    Far::RestartPostgres,
];

/// Faults of the two servers, one at a time and with longer pauses, until the time is over.
pub(super) async fn far(servers: &Servers, mut random: Random, until: tokio::time::Instant) -> Counts {
    let mut counts = Counts::new();
    let mut deck = Deck::new(&FAR);
    loop {
        random.moment(1_500, 6_000).await;
        if tokio::time::Instant::now() >= until {
            return counts;
        }
        let away = Duration::from_millis(random.number(SERVER_AWAY_MILLIS));
        let name = match deck.deal(&mut random) {
            Far::KillRabbitMq => {
                servers.kill(Service::RabbitMq).await;
                tokio::time::sleep(away).await;
                servers.restart(Service::RabbitMq).await;
                "kill -9 of RabbitMQ"
            }
            Far::HangRabbitMq => {
                servers.pause(Service::RabbitMq).await;
                tokio::time::sleep(away).await;
                servers.resume(Service::RabbitMq).await;
                "RabbitMQ hangs (SIGSTOP)"
            }
            Far::RestartRabbitMq => {
                servers.restart(Service::RabbitMq).await;
                "RabbitMQ is restarted"
            }
            Far::DiskFull => {
                servers.fill_disk().await;
                tokio::time::sleep(away).await;
                servers.free_disk().await;
                "RabbitMQ's disk is full"
            }
            Far::KillPostgres => {
                servers.kill(Service::Postgres).await;
                tokio::time::sleep(away).await;
                servers.restart(Service::Postgres).await;
                "kill -9 of PostgreSQL"
            }
            Far::HangPostgres => {
                servers.pause(Service::Postgres).await;
                tokio::time::sleep(away).await;
                servers.resume(Service::Postgres).await;
                "PostgreSQL hangs (SIGSTOP)"
            }
            Far::RestartPostgres => {
                servers.restart(Service::Postgres).await;
                "PostgreSQL is restarted"
            }
        };
        *counts.entry(name).or_default() += 1;
    }
}
