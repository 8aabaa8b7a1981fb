//! Schedules: does what those that are due do, and stores how far they have come.
//!
//! ```text
//! due records ─► advance (pure) ─► start or stop, answered after the commit ─► the record moves on, if it is unchanged
//! ```
//!
//! Only the owner of the first shard looks, so an installation asks once in five seconds. Two may look for a while when
//! that shard changes hands, and whoever dies before a record has moved on leaves its firings to the next one. Neither
//! starts anything twice: the execution of a firing has one name.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use stagepost_protocol::{ExecutionArn, Payload, StateMachineArn, Timestamp, TokenKey, shard};
use stagepost_schedule::{Action, Advance, Fired, Outcome, RECORD_KIND, Schedule, Times};
use stagepost_store::{ExecutionStatus, Record, StateMachineRow};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, ClientError},
    express,
    metrics::add,
    options::Options,
    pipeline::{Shared, await_store},
};

/// So many schedules are read and advanced at a time; each may hold an input of its full size.
const BATCH_MAX: usize = 200;
/// How far ahead it is asked what falls due: a schedule that somebody else has just made is seen within this time.
const LOOK_AHEAD_MILLIS: i64 = 5_000;
/// How long after a failure the next attempt begins.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What an execution that another one must not run beside ends with.
const OVERLAP_ERROR: &str = "Stagepost.ScheduleOverlap";

/// Why a schedule could not do what is due. It is tried again.
#[derive(Debug, thiserror::Error)]
enum Delayed {
    #[error(transparent)]
    Store(#[from] stagepost_store::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Broker(#[from] stagepost_broker::Error),
}

/// A schedule that is due.
struct Due {
    record: Record,
    schedule: Schedule,
    times: Times,
}

struct Schedules {
    shared: Arc<Shared>,
    options: Options,
    token_key: TokenKey,
    /// Made when something is due for the first time.
    client: OnceCell<Arc<Client>>,
}

/// Looks after schedules while the first shard is ours, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    options: Options,
    token_key: TokenKey,
    shutdown: CancellationToken,
) {
    let mut leads = shared.leads.subscribe();
    let schedules = Schedules { shared, options, token_key, client: OnceCell::new() };
    loop {
        let leading = *leads.borrow_and_update();
        let look = async {
            match leading {
                true => tokio::time::sleep(schedules.look().await).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = leads.changed() => if changed.is_err() { return },
            () = look => {}
        }
    }
}

impl Schedules {
    async fn client(&self) -> Result<&Client, Delayed> {
        let connect = || {
            let (topology, shards) = (self.options.topology.clone(), self.options.shards);
            Client::connect(self.shared.broker.clone(), topology, shards, self.token_key.clone())
        };
        Ok(self.client.get_or_try_init(connect).await?)
    }

    /// Does what is due. Gives how long nothing else is.
    async fn look(&self) -> Duration {
        match self.advance_due().await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "schedules could not be looked up; trying again");
                if matches!(error, Delayed::Store(_)) {
                    await_store(&self.shared).await;
                }
                RETRY_AFTER
            }
        }
    }

    async fn advance_due(&self) -> Result<Duration, Delayed> {
        let store = &self.shared.store;
        let now = self.options.clock.now();
        let first = store.due_records(RECORD_KIND, now.plus_millis(LOOK_AHEAD_MILLIS), 1).await?;
        let due_at = first.first().and_then(|record| record.due_at);
        let wait = due_at.map_or(LOOK_AHEAD_MILLIS, |at| at.millis_since(now));
        if let Ok(wait @ 1..) = u64::try_from(wait) {
            return Ok(Duration::from_millis(wait));
        }
        let records = store.due_records(RECORD_KIND, now, BATCH_MAX).await?;
        let mut due = Vec::with_capacity(records.len());
        for record in records {
            match read(&record) {
                Ok((schedule, times)) => due.push(Due { record, schedule, times }),
                Err(error) => self.set_aside(record, &error).await?,
            }
        }
        let machines = self.machines(&due).await?;
        let advancing = due.into_iter().map(|due| self.advance_one(due, &machines, now));
        let delayed = join_all(advancing).await.into_iter().find_map(Result::err);
        match delayed {
            None => Ok(Duration::ZERO),
            Some(error) => {
                tracing::warn!(%error, "a schedule could not do what is due; trying again");
                Ok(RETRY_AFTER)
            }
        }
    }

    /// Nobody can tell when it fires, so it must not be looked at again and again.
    async fn set_aside(&self, record: Record, error: &str) -> Result<(), Delayed> {
        tracing::error!(schedule = record.key, error, "a schedule cannot be read and fires no more");
        let aside = Record { due_at: None, ..record };
        self.shared.store.put_record(&aside).await?;
        Ok(())
    }

    /// The state machines of these schedules, each looked up once.
    async fn machines(
        &self,
        due: &[Due],
    ) -> Result<HashMap<StateMachineArn, Option<StateMachineRow>>, Delayed> {
        let mut machines = HashMap::new();
        for Due { schedule, .. } in due {
            if let Entry::Vacant(place) = machines.entry(schedule.settings.state_machine.clone()) {
                let found = self.shared.store.state_machine(place.key()).await?;
                place.insert(found.filter(|row| row.status == "ACTIVE"));
            }
        }
        Ok(machines)
    }

    async fn advance_one(
        &self,
        due: Due,
        machines: &HashMap<StateMachineArn, Option<StateMachineRow>>,
        now: Timestamp,
    ) -> Result<(), Delayed> {
        let Due { mut record, schedule, times } = due;
        let name = record.key.clone();
        let name = name.as_str();
        let running = match schedule.asks_for_running() {
            None => false,
            Some(execution) => self.is_running(execution).await?,
        };
        let Advance { actions, mut after } = schedule.advance(name, &times, now, running);
        let machine = machines.get(&schedule.settings.state_machine).and_then(Option::as_ref);
        for action in actions {
            match action {
                Action::Stop { execution } => self.stop(name, execution).await?,
                Action::Start { scheduled } => {
                    if let Some(before) = schedule.about_to_start(name, scheduled) {
                        let body = payload(&before);
                        if !self.shared.store.put_record(&Record { body, ..record.clone() }).await? {
                            // Somebody has changed it, or does the same: it is due again as it is now.
                            return Ok(());
                        }
                        record.version += 1;
                    }
                    let outcome = self.start(&schedule, name, scheduled, machine).await?;
                    if let Outcome::Failed(reason) = &outcome {
                        tracing::warn!(schedule = name, %scheduled, reason, "a schedule started nothing");
                    }
                    after.note(Fired { scheduled, at: self.options.clock.now(), outcome });
                }
            }
        }
        let (label, due_at, body) = (after.status().to_owned(), after.due_at(name), payload(&after));
        let moved = Record { label, due_at, body, ..record };
        // If somebody has changed it meanwhile, it is due again as it is now.
        self.shared.store.put_record(&moved).await?;
        Ok(())
    }

    async fn is_running(&self, execution: &ExecutionArn) -> Result<bool, Delayed> {
        let summary = self.shared.store.execution(execution.id()).await?;
        Ok(summary.is_some_and(|summary| summary.status == ExecutionStatus::Running))
    }

    async fn stop(&self, name: &str, execution: ExecutionArn) -> Result<(), Delayed> {
        let cause = format!("The next firing of the schedule '{name}' stopped it.");
        let (error, cause) = (Some(OVERLAP_ERROR.to_owned()), Some(cause));
        // It may have ended by itself.
        self.client()
            .await?
            .stop(shard::Stop { execution, error, cause, parent: None, redrives: None })
            .await?;
        Ok(())
    }

    /// Starts the execution of a firing. Started before, by whoever died then, it is the same one.
    async fn start(
        &self,
        schedule: &Schedule,
        name: &str,
        scheduled: Timestamp,
        machine: Option<&StateMachineRow>,
    ) -> Result<Outcome, Delayed> {
        let settings = &schedule.settings;
        let Some(machine) = machine else {
            return Ok(Outcome::Failed(format!("there is no state machine {}", settings.state_machine)));
        };
        let execution = schedule.execution(name, scheduled);
        let input = settings.input_of(name, scheduled);
        add(&self.shared.metrics.schedule_firings, 1);
        if machine.is_express() {
            let start = express::start(machine, &execution.name, input);
            self.client().await?.start_express(&start).await?;
            return Ok(Outcome::Started(start.execution));
        }
        let start = shard::Start {
            execution: execution.clone(),
            state_machine: machine.arn.clone(),
            definition_id: machine.definition_id.clone(),
            role_arn: machine.role_arn.clone(),
            input,
            trace_header: None,
            fresh: false,
            parent: None,
            map_item: None,
        };
        Ok(match self.client().await?.start(start).await? {
            shard::Reply::Started { .. } | shard::Reply::AlreadyExists => Outcome::Started(execution),
            shard::Reply::Refused(reason) => Outcome::Failed(reason),
            other => Outcome::Failed(format!("the start was answered with {other:?}")),
        })
    }
}

fn payload(schedule: &Schedule) -> Payload {
    Payload::from_serialize(schedule).expect("a schedule has no maps and so always serialises")
}

fn read(record: &Record) -> Result<(Schedule, Times), String> {
    let schedule: Schedule = record.body.read().map_err(|error| error.to_string())?;
    let times = schedule.settings.times().map_err(|error| error.to_string())?;
    Ok((schedule, times))
}

#[cfg(test)]
mod tests;
