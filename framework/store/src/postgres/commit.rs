//! The hot path: one transaction for a batch.

use std::{borrow::Cow, pin::Pin};

use deadpool_postgres::Object;
use futures_util::future::join_all;
use stagepost_protocol::{Parent, Slot};

use super::{
    errors, map_runs, records,
    store::{Params, PostgresStore},
};
use crate::{
    Batch, EndedExecution, HistoryRow, Lease, NewExecution, RedrivenExecution, Result, Snapshot, stored,
};

const WHAT: &str = "commit a batch";

const CHECK: &str = "SELECT check_leases($1, $2)";
const START: &str = "INSERT INTO executions (id, slot, account, region, state_machine, arn_state_machine, name, \
     definition_id, role_arn, status, started_at, wake_at, input, trace_header, parent, \
     map_run, item_count) SELECT id, slot, account, region, state_machine, arn_state_machine, name, definition_id, role_arn, \
     'RUNNING', started_at, wake_at, input, trace_header, parent, map_run, item_count \
     FROM unnest($1::bytea[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
     $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[], \
     $15::text[], $16::bigint[]) \
     AS new (id, slot, account, region, state_machine, arn_state_machine, name, definition_id, role_arn, \
     started_at, wake_at, input, trace_header, parent, map_run, item_count)";
const HISTORY: &str = "INSERT INTO history (execution_id, sequence, first_event_id, last_event_id, epoch, payload) \
     SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[])";
// The condition is not in WHERE, where it would invite the planner to go through all that runs.
pub(super) const WAKE: &str = "UPDATE executions e \
     SET wake_at = CASE WHEN e.stopped_at IS NULL THEN new.wake_at END \
     FROM unnest($1::bytea[], $2::bigint[]) AS new (id, wake_at) WHERE e.id = new.id";
pub(super) const END: &str = "UPDATE executions e SET status = new.status, stopped_at = new.stopped_at, output = new.output, \
     error = new.error, cause = new.cause, wake_at = new.wake_at \
     FROM unnest($1::bytea[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[]) \
     AS new (id, status, stopped_at, output, error, cause, wake_at) WHERE e.id = new.id";
const REDRIVE: &str = "UPDATE executions e SET status = 'RUNNING', stopped_at = NULL, output = NULL, error = NULL, \
     cause = NULL, redriven_at = new.redriven_at, redrive_count = new.redrive_count, wake_at = new.wake_at \
     FROM unnest($1::bytea[], $2::bigint[], $3::integer[], $4::bigint[]) \
     AS new (id, redriven_at, redrive_count, wake_at) WHERE e.id = new.id";
const SNAPSHOT: &str = "INSERT INTO snapshots (execution_id, sequence, payload) \
     SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::text[]) \
     ON CONFLICT (execution_id) DO UPDATE SET sequence = excluded.sequence, payload = excluded.payload";

/// A statement on its way: how many rows it changed, or why it failed.
type Sent<'a> = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a>>;

/// The statements of one transaction, sent one after the other without waiting for answers.
struct Pipeline<'a> {
    client: &'a Object,
    sent: Vec<Sent<'a>>,
}

impl<'a> Pipeline<'a> {
    fn control(&mut self, sql: &'static str) {
        let client = self.client;
        self.sent.push(Box::pin(async move { client.batch_execute(sql).await.map(|()| 0) }));
    }

    async fn add(&mut self, sql: &'static str, params: Params<'a>) -> Result<()> {
        let client = self.client;
        // From the connection's cache, but for the first time.
        let statement = client.prepare_cached(sql).await.map_err(errors::failed(WHAT))?;
        self.sent.push(Box::pin(async move { client.execute(&statement, params).await }));
        Ok(())
    }
}

/// See [`crate::Store::commit`].
pub(super) async fn commit(store: &PostgresStore, batch: &Batch) -> Result<()> {
    if batch.is_empty() && batch.leases.is_empty() {
        return Ok(());
    }
    let leases = lease_columns(&batch.leases);
    let started = start_columns(&batch.started);
    let history = history_columns(&batch.history);
    let wakes: (Vec<&[u8]>, Vec<Option<i64>>) =
        batch.wakes.iter().map(|(id, at)| (&id.as_bytes()[..], at.map(|t| t.as_millis()))).unzip();
    let redriven = redrive_columns(&batch.redriven);
    let ended = end_columns(&batch.ended);
    let snapshots = snapshot_columns(&batch.snapshots);
    let map_runs = map_runs::columns(&batch.map_runs);
    let appended = records::columns(&batch.appended);

    let start_params: Params<'_> = &[
        &started.id,
        &started.slot,
        &started.account,
        &started.region,
        &started.state_machine,
        &started.arn_state_machine,
        &started.name,
        &started.definition_id,
        &started.role_arn,
        &started.started_at,
        &started.wake_at,
        &started.input,
        &started.trace_header,
        &started.parent,
        &started.map_run,
        &started.item_count,
    ];
    let history_params: Params<'_> =
        &[&history.id, &history.sequence, &history.first, &history.last, &history.epoch, &history.payload];
    let end_params: Params<'_> = &[
        &ended.id,
        &ended.status,
        &ended.stopped_at,
        &ended.output,
        &ended.error,
        &ended.cause,
        &ended.wake_at,
    ];
    let map_run_params: Params<'_> = &[
        &map_runs.account,
        &map_runs.region,
        &map_runs.name,
        &map_runs.execution_id,
        &map_runs.started_at,
        &map_runs.record,
    ];
    let append_params: Params<'_> = &[
        &appended.kind,
        &appended.account,
        &appended.region,
        &appended.key,
        &appended.label,
        &appended.due_at,
        &appended.body,
    ];
    let redrive_params: Params<'_> =
        &[&redriven.id, &redriven.redriven_at, &redriven.redrive_count, &redriven.wake_at];
    // Starts come before what changes them, wake-ups and redrives before ends, which drop them.
    let statements: [(bool, &'static str, Params<'_>); 9] = [
        (batch.leases.is_empty(), CHECK, &[&leases.0, &leases.1]),
        (batch.started.is_empty(), START, start_params),
        (batch.history.is_empty(), HISTORY, history_params),
        (batch.wakes.is_empty(), WAKE, &[&wakes.0, &wakes.1]),
        (batch.redriven.is_empty(), REDRIVE, redrive_params),
        (batch.ended.is_empty(), END, end_params),
        (batch.snapshots.is_empty(), SNAPSHOT, &[&snapshots.0, &snapshots.1, &snapshots.2]),
        (batch.map_runs.is_empty(), map_runs::UPSERT, map_run_params),
        (batch.appended.is_empty(), records::APPEND, append_params),
    ];

    let client = store.engine().await?;
    let mut pipeline = Pipeline { client: &client, sent: Vec::with_capacity(statements.len() + 2) };
    pipeline.control("BEGIN");
    for (empty, sql, params) in statements {
        if !empty {
            pipeline.add(sql, params).await?;
        }
    }
    pipeline.control("COMMIT");
    store.count(pipeline.sent.len());
    // Each future sends when it is first polled, and that is in order. Once this has been polled everything is
    // sent, so dropping it does not leave half a transaction behind. When a statement fails, those after it
    // fail too and COMMIT rolls back: the first error is the reason.
    for result in join_all(pipeline.sent).await {
        result.map_err(errors::failed(WHAT))?;
    }
    Ok(())
}

fn lease_columns(leases: &[Lease]) -> (Vec<i16>, Vec<i64>) {
    leases.iter().map(|l| (l.shard.0 as i16, l.epoch)).unzip()
}

#[derive(Default)]
struct StartColumns<'a> {
    id: Vec<&'a [u8]>,
    slot: Vec<i16>,
    account: Vec<&'a str>,
    region: Vec<&'a str>,
    state_machine: Vec<&'a str>,
    arn_state_machine: Vec<&'a str>,
    name: Vec<&'a str>,
    definition_id: Vec<&'a str>,
    role_arn: Vec<Cow<'a, str>>,
    started_at: Vec<i64>,
    wake_at: Vec<Option<i64>>,
    input: Vec<&'a str>,
    trace_header: Vec<Option<Cow<'a, str>>>,
    parent: Vec<Option<String>>,
    map_run: Vec<Option<&'a str>>,
    item_count: Vec<Option<i64>>,
}

fn start_columns(started: &[NewExecution]) -> StartColumns<'_> {
    let mut c = StartColumns::default();
    for e in started {
        c.id.push(e.id.as_bytes());
        c.slot.push(Slot::of(e.id).0 as i16);
        c.account.push(&e.arn.namespace.account);
        c.region.push(&e.arn.namespace.region);
        c.state_machine.push(&e.state_machine.name);
        c.arn_state_machine.push(&e.arn.state_machine);
        c.name.push(&e.arn.name);
        c.definition_id.push(&e.definition_id);
        c.role_arn.push(stored::text(&e.role_arn));
        c.started_at.push(e.started_at.as_millis());
        c.wake_at.push(e.wake_at.map(|t| t.as_millis()));
        c.input.push(e.input.as_str());
        c.trace_header.push(e.trace_header.as_deref().map(stored::text));
        c.parent.push(e.parent.as_ref().map(Parent::to_text));
        c.map_run.push(e.map_item.as_ref().map(|m| m.map_run.name.as_str()));
        c.item_count.push(e.map_item.as_ref().map(|m| m.items.into()));
    }
    c
}

#[derive(Default)]
struct HistoryColumns<'a> {
    id: Vec<&'a [u8]>,
    sequence: Vec<i64>,
    first: Vec<i64>,
    last: Vec<i64>,
    epoch: Vec<i64>,
    payload: Vec<&'a str>,
}

fn history_columns(rows: &[HistoryRow]) -> HistoryColumns<'_> {
    let mut c = HistoryColumns::default();
    for row in rows {
        c.id.push(row.execution.as_bytes());
        c.sequence.push(row.sequence as i64);
        c.first.push(row.first_event_id as i64);
        c.last.push(row.last_event_id as i64);
        c.epoch.push(row.epoch);
        c.payload.push(&row.payload);
    }
    c
}

#[derive(Default)]
struct EndColumns<'a> {
    id: Vec<&'a [u8]>,
    status: Vec<&'static str>,
    stopped_at: Vec<i64>,
    output: Vec<Option<&'a str>>,
    error: Vec<Option<Cow<'a, str>>>,
    cause: Vec<Option<Cow<'a, str>>>,
    wake_at: Vec<Option<i64>>,
}

fn end_columns(ended: &[EndedExecution]) -> EndColumns<'_> {
    let mut c = EndColumns::default();
    for e in ended {
        c.id.push(e.execution.as_bytes());
        c.status.push(e.status.as_str());
        c.stopped_at.push(e.stopped_at.as_millis());
        c.output.push(e.output.as_ref().map(|p| p.as_str()));
        c.error.push(e.error.as_deref().map(stored::text));
        c.cause.push(e.cause.as_deref().map(stored::text));
        c.wake_at.push(e.wake_at.map(|t| t.as_millis()));
    }
    c
}

#[derive(Default)]
struct RedriveColumns<'a> {
    id: Vec<&'a [u8]>,
    redriven_at: Vec<i64>,
    redrive_count: Vec<i32>,
    wake_at: Vec<Option<i64>>,
}

fn redrive_columns(redriven: &[RedrivenExecution]) -> RedriveColumns<'_> {
    let mut c = RedriveColumns::default();
    for e in redriven {
        c.id.push(e.execution.as_bytes());
        c.redriven_at.push(e.redriven_at.as_millis());
        c.redrive_count.push(i32::try_from(e.redrive_count).unwrap_or(i32::MAX));
        c.wake_at.push(e.wake_at.map(|t| t.as_millis()));
    }
    c
}

fn snapshot_columns(snapshots: &[Snapshot]) -> (Vec<&[u8]>, Vec<i64>, Vec<&str>) {
    let (mut ids, mut sequences, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
    for s in snapshots {
        ids.push(&s.execution.as_bytes()[..]);
        sequences.push(s.sequence as i64);
        payloads.push(s.payload.as_str());
    }
    (ids, sequences, payloads)
}
