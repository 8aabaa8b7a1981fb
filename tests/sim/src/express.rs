//! Executions of an EXPRESS state machine, some of which are waited for.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use stagepost_coordinator::express::{Ended, RunError};
use stagepost_engine::End;
use stagepost_protocol::{ExpressStart, Payload, express::Logging};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    clients::{ANSWER_MAX, Api},
    workflow::{self, Simple},
    world::World,
};

/// Executions are started within this time.
const STARTED_WITHIN: Duration = Duration::from_secs(40);
/// Whoever waits for an execution starts another one after so long: when the first one has ended in any case.
const ENDED_MAX: Duration = Duration::from_secs(330);
/// How long it takes until something is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// A state machine, and how many executions of it are waited for and how many are not.
pub(crate) struct Express {
    machine: Simple,
    waited_for: u64,
    others: u64,
}

/// Makes up some, or none.
pub(crate) fn draw(world: &World) -> Option<Arc<Express>> {
    let rng = &world.rng;
    rng.one_in(3).then(|| {
        let machine = workflow::express(rng, "quick".to_owned());
        Arc::new(Express { machine, waited_for: rng.below(6), others: rng.below(6) })
    })
}

impl Express {
    /// Has them all run.
    pub(crate) async fn drive(self: Arc<Express>, world: Arc<World>, api: Api) {
        self.machine.create(&world);
        let mut clients = JoinSet::new();
        for n in 0..self.waited_for {
            clients.spawn(Arc::clone(&self).wait_for(Arc::clone(&world), api.clone(), n));
        }
        for n in 0..self.others {
            clients.spawn(Arc::clone(&self).start(Arc::clone(&world), api.clone(), self.waited_for + n));
        }
        while clients.join_next().await.is_some() {}
    }

    fn request(&self, world: &World, n: u64) -> ExpressStart {
        let machine = workflow::arn(&self.machine.name);
        ExpressStart {
            execution: machine.express(&format!("e{n}"), &format!("{:016x}", world.rng.bits())),
            state_machine: machine,
            definition_id: self.machine.name.clone(),
            role_arn: "r".to_owned(),
            input: Payload::from_value(&input(n)),
            logging: Logging::default(),
        }
    }

    /// StartSyncExecution, until it is answered: with the right end.
    async fn wait_for(self: Arc<Express>, world: Arc<World>, api: Api, n: u64) {
        tokio::time::sleep(world.up_to(STARTED_WITHIN)).await;
        loop {
            if let Some(runner) = api.runner() {
                let start = self.request(&world, n);
                let execution = start.execution.clone();
                world.note("client", format!("runs {execution}"));
                match timeout(ENDED_MAX, runner.run(start)).await {
                    // Attempt after attempt was lost, until its five minutes were over.
                    Ok(Ok(Ended { end: End::TimedOut, .. })) => {}
                    Ok(Ok(Ended { end, .. })) => {
                        let output = match &end {
                            End::Succeeded(output) => Some(output.to_value()),
                            _ => None,
                        };
                        if output != Some(self.machine.output(&input(n))) {
                            world.violate(format!("{execution} has ended with {end:?}"));
                        }
                        return;
                    }
                    Ok(Err(RunError::Store(_))) | Err(_) => {}
                    Ok(Err(error)) => return world.violate(format!("{execution} was not run: {error}")),
                }
            }
            tokio::time::sleep(PAUSE + world.up_to(PAUSE)).await;
        }
    }

    /// StartExecution, until it is answered; each time it is another execution.
    async fn start(self: Arc<Express>, world: Arc<World>, api: Api, n: u64) {
        tokio::time::sleep(world.up_to(STARTED_WITHIN)).await;
        loop {
            if let Some(client) = api.client() {
                let start = self.request(&world, n);
                if let Ok(Ok(())) = timeout(ANSWER_MAX, client.start_express(&start)).await {
                    world.note("client", format!("has started {}", start.execution));
                    return world.attempts.expect(start.execution.to_string());
                }
            }
            tokio::time::sleep(PAUSE + world.up_to(PAUSE)).await;
        }
    }
}

fn input(n: u64) -> Value {
    json!(n)
}

/// Checks that what was started, and not waited for, was run.
pub(crate) fn check(world: &World) -> Result<(), String> {
    // What a broker loses that it had confirmed is run by nobody.
    match world.attempts.not_performed().filter(|_| world.broker_keeps()) {
        Some(execution) => Err(format!("{execution} was accepted, and was not run")),
        None => Ok(()),
    }
}
