//! Records: documents with compare-and-swap.

use rusqlite::{CachedStatement, Connection, Row, params};
use stagepost_protocol::{Namespace, Timestamp};

use super::{
    errors,
    statement::{change, select},
    store::SqliteStore,
};
use crate::{Appended, ListRecords, Page, Record, Result, paging, stored};

const COLUMNS: &str = "kind, account, region, key, label, due_at, version, body";

/// Adds to the list that a record's body is: `[a]` and `[b]` make `[a,b]`.
pub(super) const APPEND: &str = "INSERT INTO records (kind, account, region, key, label, due_at, version, body) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7) ON CONFLICT (kind, account, region, key) DO UPDATE SET \
     label = excluded.label, due_at = excluded.due_at, version = version + 1, \
     body = substr(body, 1, length(body) - 1) || ',' || substr(excluded.body, 2)";

/// See [`crate::Batch::appended`].
pub(super) fn append(statement: &mut CachedStatement<'_>, a: &Appended) -> rusqlite::Result<usize> {
    let Namespace { account, region } = &a.namespace;
    let due_at = a.due_at.map(Timestamp::as_millis);
    statement.execute(params![a.kind, account, region, a.key, a.label, due_at, a.list()])
}

/// See [`crate::Records::put_record`].
pub(super) async fn put_record(store: &SqliteStore, record: &Record) -> Result<bool> {
    const INSERT: &str = "INSERT OR IGNORE INTO records (kind, account, region, key, label, due_at, version, body) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7 + 1, ?8)";
    const UPDATE: &str = "UPDATE records SET label = ?5, due_at = ?6, version = ?7 + 1, body = ?8 \
         WHERE kind = ?1 AND account = ?2 AND region = ?3 AND key = ?4 AND version = ?7";
    let record = record.clone();
    let put = move |connection: &Connection| {
        let Namespace { account, region } = &record.namespace;
        let params = params![
            record.kind,
            account,
            region,
            record.key,
            record.label,
            record.due_at.map(Timestamp::as_millis),
            record.version,
            stored::text(record.body.as_str()),
        ];
        change(connection, "store a record", if record.version == 0 { INSERT } else { UPDATE }, params)
    };
    store.write(1, put).await.map(|rows| rows > 0)
}

/// See [`crate::Records::record`].
pub(super) async fn record(
    store: &SqliteStore,
    kind: &str,
    namespace: &Namespace,
    key: &str,
) -> Result<Option<Record>> {
    let (kind, Namespace { account, region }, key) = (kind.to_owned(), namespace.clone(), key.to_owned());
    let find = move |connection: &Connection| {
        let sql = format!(
            "SELECT {COLUMNS} FROM records WHERE kind = ?1 AND account = ?2 AND region = ?3 AND key = ?4"
        );
        Ok(select(connection, "read a record", &sql, params![kind, account, region, key], read)?.pop())
    };
    store.read(1, find).await
}

/// See [`crate::Records::records`].
pub(super) async fn records(store: &SqliteStore, query: &ListRecords) -> Result<Page<Record>> {
    let place = paging::record_place(query.after.as_deref())?;
    let query = query.clone();
    let list = move |connection: &Connection| {
        let (order, beyond) = if query.descending { ("DESC", "<") } else { ("ASC", ">") };
        let (account, region, key) = place.clone().unwrap_or_default();
        let Namespace { account: in_account, region: in_region } =
            query.namespace.clone().unwrap_or_default();
        let label = query.label.clone().unwrap_or_default();
        // Every parameter stands in every form of the statement, so that there is one list of them.
        let sql = format!(
            "SELECT {COLUMNS} FROM records WHERE kind = ?1 AND ({} OR (account, region) = (?2, ?3)) \
             AND ({} OR label = ?4) AND ({} OR (account, region, key) {beyond} (?5, ?6, ?7)) \
             ORDER BY account {order}, region {order}, key {order} LIMIT ?8",
            query.namespace.is_none(),
            query.label.is_none(),
            place.is_none(),
        );
        let probe = paging::probe(query.limit);
        let params = params![query.kind, in_account, in_region, label, account, region, key, probe];
        let items = select(connection, "list records", &sql, params, read)?;
        Ok(paging::page(items, query.limit, paging::record_key))
    };
    store.read(1, list).await
}

/// See [`crate::Records::count_records`].
pub(super) async fn count_records(store: &SqliteStore, kind: &str) -> Result<u64> {
    const COUNT: &str = "SELECT count(*) FROM records WHERE kind = ?1";
    let kind = kind.to_owned();
    let count = move |connection: &Connection| {
        let counted =
            connection.prepare_cached(COUNT).and_then(|mut s| s.query_row([kind], |row| row.get(0)));
        counted.map(i64::unsigned_abs).map_err(errors::failed("count records"))
    };
    store.read(1, count).await
}

/// See [`crate::Records::due_records`].
pub(super) async fn due_records(
    store: &SqliteStore,
    kind: &str,
    until: Timestamp,
    limit: usize,
) -> Result<Vec<Record>> {
    let (kind, limit) = (kind.to_owned(), i64::try_from(limit).unwrap_or(i64::MAX));
    let find = move |connection: &Connection| {
        let sql = format!(
            "SELECT {COLUMNS} FROM records WHERE kind = ?1 AND due_at <= ?2 \
             ORDER BY due_at, account, region, key LIMIT ?3"
        );
        select(connection, "find due records", &sql, params![kind, until.as_millis(), limit], read)
    };
    store.read(1, find).await
}

/// See [`crate::Records::delete_record`].
pub(super) async fn delete_record(
    store: &SqliteStore,
    kind: &str,
    namespace: &Namespace,
    key: &str,
    version: Option<i64>,
) -> Result<bool> {
    const DELETE: &str = "DELETE FROM records WHERE kind = ?1 AND account = ?2 AND region = ?3 AND key = ?4 \
         AND version = coalesce(?5, version)";
    let (kind, Namespace { account, region }, key) = (kind.to_owned(), namespace.clone(), key.to_owned());
    let delete = move |connection: &Connection| {
        change(connection, "delete a record", DELETE, params![kind, account, region, key, version])
    };
    store.write(1, delete).await.map(|rows| rows > 0)
}

fn read(row: &Row<'_>) -> Result<Record> {
    let failed = errors::failed("read a record");
    let text = |n: usize| row.get::<_, String>(n).map_err(&failed);
    Ok(Record {
        kind: text(0)?,
        namespace: Namespace { account: text(1)?, region: text(2)? },
        key: text(3)?,
        label: text(4)?,
        due_at: row.get::<_, Option<i64>>(5).map_err(&failed)?.map(Timestamp::from_millis),
        version: row.get(6).map_err(&failed)?,
        body: stored::payload(&text(7)?)?,
    })
}
