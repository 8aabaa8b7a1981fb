//! One seed, from its first start to its last check.

use std::{sync::Arc, time::Duration};

use stagepost_broker::QueueSpec;
use stagepost_coordinator::Options;
use stagepost_protocol::{Namespace, Payload, topology::Topology};
use stagepost_store::{ActivityRow, DefinitionRow};
use tokio::task::JoinSet;

use crate::{
    check,
    clients::{self, Api},
    express::{self, Express},
    processes::{self, Role},
    schedules::{self, Scheduled},
    triggers::{self, Producer},
    workflow::{self, Machine, Plan},
    world::World,
};

/// When nothing fails any more, all must be over after so long.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// When the broker had lost everything, all is published again twice, with so much time in between.
const RECOVERED_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How often it is looked whether all is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is run.
pub(crate) struct Script {
    pub(crate) machines: Vec<Arc<Machine>>,
    pub(crate) producers: Vec<Arc<Producer>>,
    pub(crate) schedule: Option<Arc<Scheduled>>,
    pub(crate) express: Option<Arc<Express>>,
}

impl Script {
    fn draw(world: &World) -> Script {
        let count = 2 + world.rng.below(6);
        let machines = workflow::machines(&world.rng, count).into_iter().map(Arc::new).collect();
        Script {
            machines,
            producers: triggers::draw(world),
            schedule: schedules::draw(world),
            express: express::draw(world),
        }
    }
}

/// Runs a seed, until all is over or something is wrong.
pub(crate) async fn play(world: &Arc<World>) {
    let script = Script::draw(world);
    world.note("world", format!("{:?}", world.faults));
    register(world, &script.machines);
    tokio::select! {
        biased;
        () = world.violated() => {}
        () = Box::pin(all(world, &script)) => {}
    }
}

async fn all(world: &Arc<World>, script: &Script) {
    // Tasks end with this set, in whatever state they are.
    let mut running = JoinSet::new();
    let options = processes::options(world);
    let api = populate(world, &options, &mut running);
    let mut drivers = JoinSet::new();
    for machine in script.machines.iter().filter(|machine| machine.plan != Plan::Child) {
        drivers.spawn(clients::drive(Arc::clone(world), api.clone(), Arc::clone(machine)));
    }
    for producer in &script.producers {
        drivers.spawn(Arc::clone(producer).operate(Arc::clone(world)));
        drivers.spawn(Arc::clone(producer).produce(Arc::clone(world)));
    }
    if let Some(schedule) = &script.schedule {
        drivers.spawn(Arc::clone(schedule).create(Arc::clone(world)));
    }
    if let Some(express) = &script.express {
        drivers.spawn(Arc::clone(express).drive(Arc::clone(world), api.clone()));
    }
    running.spawn(clients::answer_all(Arc::clone(world), api));
    running.spawn(restarts(Arc::clone(world)));
    drivers.spawn(losses(Arc::clone(world), options));
    tokio::time::sleep(Duration::from_secs(5) + world.up_to(Duration::from_secs(60))).await;
    world.calm_down();
    let over = async {
        while drivers.join_next().await.is_some() {}
        while check::unfinished(world).is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(PATIENCE, over).await.is_err() {
        let what = check::unfinished(world).unwrap_or_else(|| "a request is not answered".to_owned());
        return world.violate(format!("after {PATIENCE:?} without faults: {what}"));
    }
    if let Err(wrong) = check::results(world, script) {
        world.violate(wrong);
    }
}

/// Puts state machines and activities into the store.
fn register(world: &World, machines: &[Arc<Machine>]) {
    let mut tables = world.tables();
    for machine in machines {
        let row = DefinitionRow { id: machine.name.clone(), text: machine.definition.to_string() };
        tables.definitions.insert(row.id.clone(), row);
        if let Err(wrong) = tables.compiled(&machine.name) {
            drop(tables);
            return world.violate(format!("a definition is not accepted: {wrong}"));
        }
    }
    for name in ["step", "sure"] {
        let (namespace, settings) = (Namespace::default(), Payload::empty_object());
        let row = ActivityRow {
            namespace: namespace.clone(),
            name: name.to_owned(),
            created_at: world.now(),
            settings,
        };
        tables.activities.insert((namespace, name.to_owned()), row);
    }
}

/// Starts all processes.
fn populate(world: &Arc<World>, options: &Options, running: &mut JoinSet<()>) -> Api {
    let shards = options.shards;
    world.tables().spread = Some(shards);
    let nobody = QueueSpec::ours(Topology::default().activity(&Namespace::default(), "nobody"));
    world.broker().declare(&[nobody]).expect("a queue of our own can be declared");
    let api = Api::default();
    let concurrency = || world.rng.one_of(&[1, 3, 64]);
    let pollers = if world.rng.one_in(3) { 1 + world.rng.below(2) } else { 0 };
    let mut roles = Vec::new();
    if world.embedded {
        roles.push(Role::Embedded(Box::new(options.clone()), concurrency(), api.clone()));
    } else {
        roles.extend([Role::Api(Box::new(options.clone()), api.clone()), Role::Connector(shards)]);
        roles.extend((0..1 + world.rng.below(3)).map(|_| Role::Coordinator(Box::new(options.clone()))));
        // Those that poll may be alone.
        let workers = if pollers > 0 { world.rng.below(3) } else { 1 + world.rng.below(3) };
        roles.extend((0..workers).map(|_| Role::Worker(concurrency())));
    }
    roles.extend((0..pollers).map(|_| Role::Poller(world.rng.one_of(&[1, 4]), api.clone())));
    for (number, role) in roles.into_iter().enumerate() {
        running.spawn(processes::keep(Arc::clone(world), role, number));
    }
    api
}

/// Restarts the broker from time to time.
async fn restarts(world: Arc<World>) {
    let Some(most) = world.faults.broker_restarts else { return };
    loop {
        tokio::time::sleep(world.up_to(most)).await;
        if world.is_calm() {
            return;
        }
        world.broker().restart(&world);
    }
}

/// Lets the broker lose everything from time to time, and an operator mend it: twice, as the documentation says. Ends when
/// faults do.
async fn losses(world: Arc<World>, options: Options) {
    let Some(most) = world.faults.broker_losses else { return };
    loop {
        tokio::time::sleep(world.up_to(most)).await;
        if world.is_calm() {
            return;
        }
        world.broker().lose_all(&world);
        tokio::time::sleep(world.up_to(Duration::from_secs(8))).await;
        processes::recover(&world, &options).await;
        tokio::time::sleep(RECOVERED_AGAIN_AFTER).await;
        processes::recover(&world, &options).await;
    }
}
