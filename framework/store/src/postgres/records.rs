//! Records: documents with compare-and-swap.

use stagepost_protocol::{Namespace, Timestamp};
use tokio_postgres::Row;

use super::store::{Params, PostgresStore};
use crate::{Appended, ListRecords, Page, Record, Result, paging, stored};

const COLUMNS: &str = "kind, account, region, key, label, due_at, version, body";

/// Adds to the lists that bodies of records are: `[a]` and `[b]` make `[a,b]`.
pub(super) const APPEND: &str = "INSERT INTO records (kind, account, region, key, label, due_at, version, body) \
     SELECT kind, account, region, key, label, due_at, 1, body \
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[]) \
     AS new (kind, account, region, key, label, due_at, body) \
     ON CONFLICT (kind, account, region, key) DO UPDATE SET label = excluded.label, due_at = excluded.due_at, \
     version = records.version + 1, body = left(records.body, -1) || ',' || substr(excluded.body, 2)";

/// The parameters of [`APPEND`].
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) kind: Vec<&'a str>,
    pub(super) account: Vec<&'a str>,
    pub(super) region: Vec<&'a str>,
    pub(super) key: Vec<&'a str>,
    pub(super) label: Vec<&'a str>,
    pub(super) due_at: Vec<Option<i64>>,
    pub(super) body: Vec<String>,
}

/// See [`crate::Batch::appended`].
pub(super) fn columns(appended: &[Appended]) -> Columns<'_> {
    let mut c = Columns::default();
    for a in appended {
        c.kind.push(&a.kind);
        c.account.push(&a.namespace.account);
        c.region.push(&a.namespace.region);
        c.key.push(&a.key);
        c.label.push(&a.label);
        c.due_at.push(a.due_at.map(Timestamp::as_millis));
        c.body.push(a.list());
    }
    c
}

/// See [`crate::Records::put_record`].
pub(super) async fn put_record(store: &PostgresStore, record: &Record) -> Result<bool> {
    const WHAT: &str = "store a record";
    const INSERT: &str = "INSERT INTO records (kind, account, region, key, label, due_at, version, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7::bigint + 1, $8) ON CONFLICT DO NOTHING RETURNING version";
    const UPDATE: &str = "UPDATE records SET label = $5, due_at = $6, version = $7::bigint + 1, body = $8 \
         WHERE kind = $1 AND account = $2 AND region = $3 AND key = $4 AND version = $7 RETURNING version";
    let Namespace { account, region } = &record.namespace;
    let (due_at, body) = (record.due_at.map(Timestamp::as_millis), stored::text(record.body.as_str()));
    let params: Params<'_> =
        &[&record.kind, account, region, &record.key, &record.label, &due_at, &record.version, &body];
    let sql = if record.version == 0 { INSERT } else { UPDATE };
    Ok(!store.api_rows(WHAT, sql, params).await?.is_empty())
}

/// See [`crate::Records::record`].
pub(super) async fn record(
    store: &PostgresStore,
    kind: &str,
    namespace: &Namespace,
    key: &str,
) -> Result<Option<Record>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM records WHERE kind = $1 AND account = $2 AND region = $3 AND key = $4"
    );
    let Namespace { account, region } = namespace;
    let rows = store.api_rows("read a record", &sql, &[&kind, account, region, &key]).await?;
    rows.first().map(read).transpose()
}

/// See [`crate::Records::records`].
pub(super) async fn records(store: &PostgresStore, query: &ListRecords) -> Result<Page<Record>> {
    let (order, beyond) = if query.descending { ("DESC", "<") } else { ("ASC", ">") };
    let place = paging::record_place(query.after.as_deref())?;
    let (account, region, key) = place.clone().unwrap_or_default();
    let Namespace { account: in_account, region: in_region } = query.namespace.clone().unwrap_or_default();
    let label = query.label.clone().unwrap_or_default();
    let probe = paging::probe(query.limit);
    // Every parameter stands in every form of the statement, so that there is one list of them.
    let sql = format!(
        "SELECT {COLUMNS} FROM records WHERE kind = $1 AND ({} OR (account, region) = ($2, $3)) \
         AND ({} OR label = $4) AND ({} OR (account, region, key) {beyond} ($5, $6, $7)) \
         ORDER BY account {order}, region {order}, key {order} LIMIT $8",
        query.namespace.is_none(),
        query.label.is_none(),
        place.is_none(),
    );
    let params: Params<'_> = &[&query.kind, &in_account, &in_region, &label, &account, &region, &key, &probe];
    let rows = store.api_rows("list records", &sql, params).await?;
    let items = rows.iter().map(read).collect::<Result<Vec<_>>>()?;
    Ok(paging::page(items, query.limit, paging::record_key))
}

/// See [`crate::Records::count_records`].
pub(super) async fn count_records(store: &PostgresStore, kind: &str) -> Result<u64> {
    const COUNT: &str = "SELECT count(*) FROM records WHERE kind = $1";
    let rows = store.api_rows("count records", COUNT, &[&kind]).await?;
    let count: i64 = rows.first().map_or(0, |row| row.get(0));
    Ok(count.unsigned_abs())
}

/// See [`crate::Records::due_records`].
pub(super) async fn due_records(
    store: &PostgresStore,
    kind: &str,
    until: Timestamp,
    limit: usize,
) -> Result<Vec<Record>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM records WHERE kind = $1 AND due_at <= $2 \
         ORDER BY due_at, account, region, key LIMIT $3"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = store.api_rows("find due records", &sql, &[&kind, &until.as_millis(), &limit]).await?;
    rows.iter().map(read).collect()
}

/// See [`crate::Records::delete_record`].
pub(super) async fn delete_record(
    store: &PostgresStore,
    kind: &str,
    namespace: &Namespace,
    key: &str,
    version: Option<i64>,
) -> Result<bool> {
    const DELETE: &str = "DELETE FROM records WHERE kind = $1 AND account = $2 AND region = $3 AND key = $4 \
         AND version = coalesce($5, version) RETURNING version";
    let Namespace { account, region } = namespace;
    let rows = store.api_rows("delete a record", DELETE, &[&kind, account, region, &key, &version]).await?;
    Ok(!rows.is_empty())
}

fn read(row: &Row) -> Result<Record> {
    Ok(Record {
        kind: row.get(0),
        namespace: Namespace { account: row.get(1), region: row.get(2) },
        key: row.get(3),
        label: row.get(4),
        due_at: row.get::<_, Option<i64>>(5).map(Timestamp::from_millis),
        version: row.get(6),
        body: stored::payload(row.get(7))?,
    })
}
