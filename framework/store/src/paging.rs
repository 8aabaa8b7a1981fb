//! Where a page of a listing ends and the next one begins.

use stagepost_protocol::{ExecutionId, MapRun, Timestamp};

use crate::{Error, ExecutionSummary, Page, Record, Result};

/// Rows that a page holds at most, whatever was asked for.
const PAGE_ROWS_MAX: usize = 1000;

/// How many rows to ask for: one more than the page holds tells whether there is another page.
pub(crate) fn probe(limit: usize) -> i64 {
    limit.clamp(1, PAGE_ROWS_MAX) as i64 + 1
}

/// The page of the rows that were found with [`probe`]; `key` is where the next one begins.
pub(crate) fn page<T>(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Page<T> {
    let limit = limit.clamp(1, PAGE_ROWS_MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    Page { next: items.last().filter(|_| more).map(key), items }
}

/// The place of an execution in the listing.
pub(crate) fn execution_key(execution: &ExecutionSummary) -> String {
    format!("{}.{}", execution.started_at.as_millis(), execution.id)
}

/// The place of a Map Run in the listing.
pub(crate) fn map_run_key(map_run: &MapRun) -> String {
    format!("{}.{}", map_run.started_at.as_millis(), map_run.arn.name)
}

/// The place that a key of a Map Run names; without a key, before the newest one.
pub(crate) fn map_run_place(key: Option<&str>) -> Result<(Timestamp, String)> {
    let Some(key) = key else { return Ok((Timestamp::from_millis(i64::MAX), String::new())) };
    let place = key
        .split_once('.')
        .and_then(|(millis, name)| Some((Timestamp::from_millis(millis.parse().ok()?), name.to_owned())));
    place.ok_or_else(|| Error::Database {
        what: "list Map Runs",
        reason: "the page's key was not made by this store".to_owned(),
    })
}

/// The place that a key names; without a key, before the newest execution.
pub(crate) fn execution_place(key: Option<&str>) -> Result<(Timestamp, Vec<u8>)> {
    let Some(key) = key else { return Ok((Timestamp::from_millis(i64::MAX), Vec::new())) };
    let place = key.split_once('.').and_then(|(millis, id)| {
        let id: ExecutionId = id.parse().ok()?;
        Some((Timestamp::from_millis(millis.parse().ok()?), id.as_bytes().to_vec()))
    });
    place.ok_or_else(|| Error::Database {
        what: "list executions",
        reason: "the page's key was not made by this store".to_owned(),
    })
}

/// The place of a record in the listing.
pub(crate) fn record_key(record: &Record) -> String {
    format!("{}/{}/{}", record.namespace.account, record.namespace.region, record.key)
}

/// The account, region and key that a place names; none at the beginning.
pub(crate) fn record_place(key: Option<&str>) -> Result<Option<(String, String, String)>> {
    let Some(place) = key else { return Ok(None) };
    let mut parts = place.splitn(3, '/').map(str::to_owned);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(account), Some(region), Some(key)) => Ok(Some((account, region, key))),
        _ => Err(Error::Database {
            what: "list records",
            reason: "the page's key was not made by this store".to_owned(),
        }),
    }
}
