//! The processes of an installation: each runs, dies or is stopped, and is started anew.

use std::{sync::Arc, time::Duration};

use stagepost::{Worker, activities, calls};
use stagepost_coordinator::{Client, Clock, Coordinator, Options, Parts, Random, express::Runner};
use stagepost_protocol::{Shards, topology::Topology};

use crate::{
    activities::{Services, Site, once, sure},
    broker::SimBroker,
    clients::{Api, Seat},
    pollers,
    process::Process,
    store::SimStore,
    world::World,
};

/// How long it takes until a process that is gone is started anew, at most.
const ANEW_MAX: Duration = Duration::from_secs(6);

/// What a process is.
#[derive(Clone)]
pub(crate) enum Role {
    Coordinator(Box<Options>),
    /// Runs activities, so many of each at a time.
    Worker(u16),
    /// Calls services.
    Connector(Shards),
    /// Runs activities that it polls the API for, so many of each at a time.
    Poller(u16, Api),
    /// Asks coordinators for others, and runs Express executions that are waited for.
    Api(Box<Options>, Api),
    /// All of them but those that poll, in one process.
    Embedded(Box<Options>, u16, Api),
}

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Role::Coordinator(_) => "coordinator",
            Role::Worker(_) => "worker",
            Role::Connector(_) => "connector",
            Role::Poller(..) => "poller",
            Role::Api(..) => "api",
            Role::Embedded(..) => "embedded",
        }
    }
}

/// Settings that differ from seed to seed.
pub(crate) fn options(world: &Arc<World>) -> Options {
    let rng = &world.rng;
    let random = Arc::clone(world);
    Options {
        // What the owner and the clock are is for each process to say.
        shards: Shards::new(u16::try_from(1 + rng.below(4)).expect("it is at most 4")).expect("it is not 0"),
        batch_max: rng.one_of(&[1, 4, 64]),
        prefetch: rng.one_of(&[1, 8, 500]),
        cache_bytes_max: rng.one_of(&[1, 10_000, 1 << 20]),
        wake_horizon: Duration::from_secs(rng.one_of(&[3, 10, 60])),
        snapshot_events: rng.one_of(&[1, 20, 1_000]),
        start_guard: Duration::from_millis(rng.one_of(&[200, 5_000])),
        recover_shards: world.embedded,
        random: Random::new(move || random.rng.bits()),
        ..Options::default()
    }
}

/// Keeps a process of this role running.
pub(crate) async fn keep(world: Arc<World>, role: Role, number: usize) {
    for incarnation in 1.. {
        let process = world.process(format!("{}-{number}.{incarnation}", role.name()));
        world.note(&process.name, "starts");
        if matches!(role, Role::Embedded(..)) {
            world.broker().lose_all(&world);
        }
        tokio::select! {
            biased;
            () = process.death() => {}
            () = Box::pin(run(&process, &role)) => {}
        }
        process.kill();
        tokio::time::sleep(world.up_to(ANEW_MAX)).await;
    }
}

/// Runs until it ends by itself, or is to be stopped.
async fn run(process: &Arc<Process>, role: &Role) {
    match role {
        Role::Coordinator(options) => coordinator(process, options).await,
        Role::Worker(concurrency) => worker(process, *concurrency).await,
        Role::Connector(shards) => connector(process, *shards).await,
        Role::Poller(concurrency, seat) => pollers::run(process, seat, *concurrency, life(process)).await,
        Role::Api(options, seat) => api(process, options, seat).await,
        Role::Embedded(options, concurrency, seat) => {
            // Whichever is the first to stop: the process ends with it.
            tokio::select! {
                biased;
                () = Box::pin(coordinator(process, options)) => {}
                () = Box::pin(worker(process, *concurrency)) => {}
                () = Box::pin(connector(process, options.shards)) => {}
                () = Box::pin(api(process, options, seat)) => {}
            }
        }
    }
}

/// Waits until the process is to be stopped, or dies of old age.
async fn life(process: &Process) {
    let world = &process.world;
    let Some(most) = world.faults.life else { return std::future::pending().await };
    tokio::time::sleep(world.up_to(most)).await;
    if world.is_calm() {
        return std::future::pending().await;
    }
    if world.rng.one_in(2) {
        process.kill();
    }
    process.live().await;
    world.note(&process.name, "is to stop");
}

/// The settings of this process.
fn own(process: &Arc<Process>, options: &Options) -> Options {
    let clock = Arc::clone(process);
    Options { owner: process.name.clone(), clock: Clock::new(move || clock.now()), ..options.clone() }
}

async fn coordinator(process: &Arc<Process>, options: &Options) {
    let parts = Parts { store: SimStore::new(process), broker: SimBroker::new(process) };
    let options = own(process, options);
    let started = Coordinator::start(parts, options, process.world.token_key.clone()).await;
    let Ok(coordinator) = started else { return process.world.note(&process.name, "could not start") };
    tokio::select! {
        biased;
        part = coordinator.failed() => process.world.violate(format!("{}: {part} has ended", process.name)),
        () = life(process) => coordinator.shutdown().await,
    }
}

async fn worker(process: &Arc<Process>, concurrency: u16) {
    let clock = Arc::clone(process);
    let worker = Worker::with_broker(SimBroker::new(process))
        .name(&process.name)
        .holder(format!("{}.activities", process.name))
        .clock(move || clock.system_time())
        .concurrency(concurrency)
        .shutdown_grace(Duration::from_secs(2))
        .state(Site { process: Arc::clone(process) })
        .register(activities![once, sure]);
    ended(process, worker.run_until(life(process)).await);
}

async fn connector(process: &Arc<Process>, shards: Shards) {
    let clock = Arc::clone(process);
    let broker = SimBroker::new(process);
    let services = Arc::new(Services::new(process, &broker, shards));
    let worker = Worker::with_broker(broker)
        .name(&process.name)
        .holder(format!("{}.calls", process.name))
        .clock(move || clock.system_time())
        .shutdown_grace(Duration::from_secs(2))
        .register(calls::registration(move |task| Box::pin(Arc::clone(&services).call(task))));
    ended(process, worker.run_until(life(process)).await);
}

fn ended(process: &Process, result: Result<(), stagepost::WorkerError>) {
    if let Err(error) = result {
        process.world.note(&process.name, format!("ends: {error}"));
    }
}

async fn api(process: &Arc<Process>, options: &Options, seat: &Api) {
    let key = &process.world.token_key;
    let (store, broker) = (SimStore::new(process), SimBroker::new(process));
    let client = Client::connect(broker.clone(), Topology::default(), options.shards, key.clone()).await;
    let parts = Parts { store, broker };
    let runner = Runner::start(parts, &own(process, options), key, Arc::default()).await;
    let (Ok(client), Ok(runner)) = (client, runner) else { return };
    seat.seat(Some(Seat { client, runner }));
    life(process).await;
    seat.seat(None);
}

/// `stagepost recover`, until it has gone through.
pub(crate) async fn recover(world: &Arc<World>, options: &Options) {
    for run in 1.. {
        let process = world.process(format!("operator.{run}"));
        let (store, broker) = (SimStore::new(&process), SimBroker::new(&process));
        let (options, key) = (own(&process, options), &world.token_key);
        let recovered = tokio::select! {
            biased;
            () = process.death() => continue,
            recovered = stagepost_coordinator::recover(&*store, &*broker, &options, key) => recovered,
        };
        match recovered {
            Ok(recovered) => return world.note(&process.name, format!("{recovered:?}")),
            Err(error) => world.note(&process.name, format!("could not recover: {error}")),
        }
        process.kill();
    }
}
