//! Listings and the registry, which the coordinator hardly needs.

use stagepost_protocol::{ExecutionId, MapRun, Namespace, Timestamp};
use stagepost_store::{
    ActivityRow, DefinitionRow, ExecutionSummary, ExecutionsOf, HistoryRow, ListExecutions, ListRecords,
    Page, Record, StateMachineRow,
};

use super::tables::Tables;

/// The page after `after` of what is listed; `key` names a place in the listing.
fn page<T: Clone>(
    all: impl Iterator<Item = T>,
    limit: usize,
    after: Option<&str>,
    key: impl Fn(&T) -> String,
) -> Page<T> {
    let mut all: Vec<T> = all.collect();
    if let Some(after) = after {
        let begin = all.iter().position(|item| key(item) == after).map_or(all.len(), |i| i + 1);
        all.drain(..begin);
    }
    let more = all.len() > limit;
    all.truncate(limit);
    Page { next: all.last().filter(|_| more).map(key), items: all }
}

pub(super) fn executions(tables: &Tables, query: &ListExecutions) -> Page<ExecutionSummary> {
    let wanted = |summary: &&ExecutionSummary| {
        let of = match &query.of {
            ExecutionsOf::StateMachine(arn) => summary.state_machine == *arn && summary.map_item.is_none(),
            // Nothing in the simulation asks with what a redrive makes of the statuses.
            ExecutionsOf::MapRun(arn) | ExecutionsOf::RedrivenMapRun(arn, _) => {
                summary.map_item.as_ref().is_some_and(|item| item.map_run == *arn)
            }
        };
        let status = query.status.is_none_or(|status| status == summary.status);
        of && status && query.redriven.is_none_or(|redriven| redriven == (summary.redrive_count > 0))
    };
    let mut found: Vec<_> =
        tables.executions.values().map(|row| &row.summary).filter(wanted).cloned().collect();
    found.sort_by_key(|summary| (std::cmp::Reverse(summary.started_at), summary.id));
    page(found.into_iter(), query.limit, query.after.as_deref(), |summary| summary.id.to_string())
}

pub(super) fn map_runs(tables: &Tables, of: ExecutionId, limit: usize, after: Option<&str>) -> Page<MapRun> {
    let mut found: Vec<_> =
        tables.map_runs.values().filter(|run| run.execution.id() == of).cloned().collect();
    found.sort_by_key(|run| std::cmp::Reverse(run.started_at));
    page(found.into_iter(), limit, after, |run| run.arn.to_string())
}

pub(super) fn history(
    tables: &Tables,
    id: ExecutionId,
    from: u64,
    descending: bool,
    limit: usize,
    max_bytes: usize,
) -> Vec<HistoryRow> {
    let Some(row) = tables.executions.get(&id) else { return Vec::new() };
    let wanted =
        |r: &&HistoryRow| if descending { r.first_event_id <= from } else { r.last_event_id >= from };
    let mut rows: Vec<_> = row.history.iter().filter(wanted).cloned().collect();
    if descending {
        rows.reverse();
    }
    let mut bytes = 0;
    let fits = |(i, row): (usize, &HistoryRow)| {
        bytes += row.payload.len();
        i == 0 || (i < limit && bytes <= max_bytes)
    };
    let count = rows.iter().enumerate().map(fits).take_while(|fits| *fits).count();
    rows.truncate(count);
    rows
}

pub(super) fn create_state_machine(
    tables: &mut Tables,
    row: StateMachineRow,
    definition: DefinitionRow,
) -> Option<StateMachineRow> {
    let name = row.arn.to_string();
    if let Some(there) = tables.state_machines.get(&name) {
        return Some(there.clone());
    }
    tables.definitions.insert(definition.id.clone(), definition);
    tables.state_machines.insert(name, row);
    None
}

pub(super) fn update_state_machine(
    tables: &mut Tables,
    row: StateMachineRow,
    definition: Option<DefinitionRow>,
) -> bool {
    let Some(there) = tables.state_machines.get_mut(&row.arn.to_string()) else { return false };
    *there = row;
    tables.definitions.extend(definition.map(|definition| (definition.id.clone(), definition)));
    true
}

pub(super) fn state_machines(
    tables: &Tables,
    namespace: &Namespace,
    limit: usize,
    after: Option<&str>,
) -> Page<StateMachineRow> {
    let found = tables.state_machines.values().filter(|row| row.arn.namespace == *namespace);
    page(found.cloned(), limit, after, |row| row.arn.name.clone())
}

pub(super) fn activities(
    tables: &Tables,
    namespace: &Namespace,
    limit: usize,
    after: Option<&str>,
) -> Page<ActivityRow> {
    let found = tables.activities.values().filter(|row| row.namespace == *namespace);
    page(found.cloned(), limit, after, |row| row.name.clone())
}

pub(super) fn records(tables: &Tables, query: &ListRecords) -> Page<Record> {
    let wanted = |record: &&Record| {
        record.kind == query.kind
            && query.namespace.as_ref().is_none_or(|namespace| *namespace == record.namespace)
            && query.label.as_ref().is_none_or(|label| *label == record.label)
    };
    let mut found: Vec<_> = tables.records.values().filter(wanted).cloned().collect();
    if query.descending {
        found.reverse();
    }
    let key = |r: &Record| format!("{}/{}/{}", r.namespace.account, r.namespace.region, r.key);
    page(found.into_iter(), query.limit, query.after.as_deref(), key)
}

pub(super) fn due_records(tables: &Tables, kind: &str, until: Timestamp, limit: usize) -> Vec<Record> {
    let due = |record: &&Record| record.kind == kind && record.due_at.is_some_and(|at| at <= until);
    let mut found: Vec<_> = tables.records.values().filter(due).cloned().collect();
    found.sort_by_key(|record| record.due_at);
    found.truncate(limit);
    found
}
