//! Those who start, stop and redrive executions and answer questions. They ask until they are answered, whatever
//! process of the API answers.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stagepost_coordinator::{Client, ClientError, express::Runner};
use stagepost_protocol::{
    ExecutionArn, Message, Payload, Properties, Report, ReportOutcome, Signal, TaskToken,
    shard::{Redrive, Reply, Start, Stop},
    topology::Topology,
};
use stagepost_store::ExecutionStatus;

use crate::{
    activities::Asked,
    workflow::{self, Machine, Plan},
    world::World,
};

/// A request is repeated after so long.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(6);
/// How often somebody looks whether something is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// The API's process that is there now, if one is.
#[derive(Clone, Default)]
pub(crate) struct Api(Arc<Mutex<Option<Seat>>>);

/// What a process of the API has.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) client: Arc<Client>,
    pub(crate) runner: Arc<Runner>,
}

impl Api {
    pub(crate) fn seat(&self, seat: Option<Seat>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seat;
    }

    fn seated(&self) -> Option<Seat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn client(&self) -> Option<Arc<Client>> {
        Some(self.seated()?.client)
    }

    pub(crate) fn runner(&self) -> Option<Arc<Runner>> {
        Some(self.seated()?.runner)
    }
}

/// Repeats a request until it is answered.
pub(crate) async fn ask<F: Future<Output = Result<Reply, ClientError>> + Send>(
    world: &World,
    api: &Api,
    request: impl Fn(Arc<Client>) -> F + Send,
) -> Reply {
    loop {
        if let Some(client) = api.client()
            && let Ok(Ok(reply)) = tokio::time::timeout(ANSWER_MAX, request(client)).await
        {
            return reply;
        }
        tokio::time::sleep(LOOK_EVERY + world.up_to(LOOK_EVERY)).await;
    }
}

/// Starts an execution, and does with it what its plan says. Returns once it is accepted, and the rest is done.
pub(crate) async fn drive(world: Arc<World>, api: Api, machine: Arc<Machine>) {
    let execution = workflow::arn(&machine.name).execution("e");
    tokio::time::sleep(world.up_to(Duration::from_secs(5))).await;
    start(&world, &api, &machine, &execution).await;
    world.note("client", format!("has started {execution}"));
    for (n, (name, input)) in machine.signals.iter().enumerate() {
        let id = format!("signal-{n}");
        let signal = Signal {
            execution: execution.clone(),
            name: name.clone(),
            id,
            input: Payload::from_value(input),
        };
        tokio::spawn(send(Arc::clone(&world), api.clone(), signal.clone()));
        if world.rng.one_in(4) {
            tokio::spawn(send(Arc::clone(&world), api.clone(), signal));
        }
    }
    match machine.plan {
        Plan::Run | Plan::Child => {}
        Plan::Stop => {
            tokio::time::sleep(world.up_to(Duration::from_secs(12))).await;
            stop(&world, &api, &execution).await;
        }
        Plan::Redrive => {
            until_ended(&world, &execution).await;
            world.attempts.redrive(&execution.to_string());
            redrive(&world, &api, &execution).await;
        }
    }
}

async fn start(world: &World, api: &Api, machine: &Machine, execution: &ExecutionArn) {
    let start = Start {
        execution: execution.clone(),
        state_machine: workflow::arn(&machine.name),
        definition_id: machine.name.clone(),
        role_arn: "r".to_owned(),
        input: Payload::from_value(&machine.input),
        trace_header: None,
        fresh: false,
        parent: None,
        map_item: None,
    };
    let reply = ask(world, api, |client| {
        let start = start.clone();
        async move { client.start(start).await }
    })
    .await;
    match reply {
        Reply::Started { .. } | Reply::AlreadyExists => {}
        other => world.violate(format!("the start of {execution} is answered with {other:?}")),
    }
}

async fn stop(world: &World, api: &Api, execution: &ExecutionArn) {
    let stop = Stop {
        execution: execution.clone(),
        error: Some("Enough".to_owned()),
        cause: None,
        parent: None,
        redrives: None,
    };
    let reply = ask(world, api, |client| {
        let stop = stop.clone();
        async move { client.stop(stop).await }
    })
    .await;
    match reply {
        Reply::Stopped { .. } => {}
        other => world.violate(format!("the stop of {execution} is answered with {other:?}")),
    }
}

/// Sends a signal, by a request or a message.
async fn send(world: Arc<World>, api: Api, signal: Signal) {
    tokio::time::sleep(world.up_to(Duration::from_secs(8))).await;
    // A broker that keeps nothing would lose it.
    if world.broker_keeps() && world.rng.one_in(3) {
        let body = serde_json::json!({
            "executionArn": signal.execution.to_string(), "signalName": signal.name,
            "input": signal.input.to_value(), "signalId": signal.id,
        });
        return post(&world, Topology::default().signals(), body.to_string(), Properties::default()).await;
    }
    let reply = ask(&world, &api, |client| {
        let signal = signal.clone();
        async move { client.signal(signal).await }
    })
    .await;
    match reply {
        Reply::Accepted | Reply::Ended => {}
        other => world.violate(format!("a signal is answered with {other:?}")),
    }
}

async fn until_ended(world: &World, execution: &ExecutionArn) {
    let running = || {
        let tables = world.tables();
        tables
            .executions
            .get(&execution.id())
            .is_none_or(|row| row.summary.status == ExecutionStatus::Running)
    };
    while running() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn redrive(world: &World, api: &Api, execution: &ExecutionArn) {
    let redrive = Redrive { execution: execution.clone(), client_token: "once".to_owned() };
    let reply = ask(world, api, |client| {
        let redrive = redrive.clone();
        async move { client.redrive(redrive).await }
    })
    .await;
    match reply {
        Reply::Redriven { .. } => {}
        other => world.violate(format!("the redrive of {execution} is answered with {other:?}")),
    }
}

/// Answers questions, some twice and some with a message.
pub(crate) async fn answer_all(world: Arc<World>, api: Api) {
    loop {
        while let Some(asked) = world.attempts.next_question() {
            tokio::spawn(answer(Arc::clone(&world), api.clone(), asked.clone()));
            if world.rng.one_in(4) {
                tokio::spawn(answer(Arc::clone(&world), api.clone(), asked));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn answer(world: Arc<World>, api: Api, asked: Asked) {
    tokio::time::sleep(world.up_to(Duration::from_secs(3))).await;
    if world.rng.one_in(3) {
        let body = match &asked.answer {
            Ok(value) => serde_json::json!({ "taskToken": asked.token, "output": value }),
            Err(error) => serde_json::json!({ "taskToken": asked.token, "error": error }),
        };
        return post(&world, Topology::default().callbacks(), body.to_string(), Properties::default()).await;
    }
    let outcome = match &asked.answer {
        Ok(value) => ReportOutcome::Succeeded(Payload::from_value(value)),
        Err(error) => ReportOutcome::Failed { error: Some((*error).to_owned()), cause: None },
    };
    report(&world, &api, &TaskToken::from_untrusted(&asked.token), outcome).await;
}

/// Reports what became of a task, as SendTaskSuccess, SendTaskFailure and SendTaskHeartbeat do. Whether it was open.
pub(crate) async fn report(world: &World, api: &Api, token: &TaskToken, outcome: ReportOutcome) -> bool {
    let report =
        Report { token: token.clone(), worker: None, started_at: None, outcome, child: None, answer: None };
    let reply = ask(world, api, |client| {
        let report = report.clone();
        async move { client.report(report).await }
    })
    .await;
    match reply {
        Reply::Accepted => true,
        Reply::TaskTimedOut => false,
        other => {
            world.violate(format!("a report on a task is answered with {other:?}"));
            false
        }
    }
}

/// Puts a message on a queue, as a program does that knows nothing but RabbitMQ.
pub(crate) async fn post(world: &World, queue: String, body: String, properties: Properties) {
    let message = Message { queue: queue.clone(), body: body.into(), properties, persistent: true };
    // The queue may not be there yet.
    while !world.broker().publish(&queue, std::slice::from_ref(&message)).iter().all(Result::is_ok) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    world.note("somebody", format!("puts a message on {queue}"));
}
