//! Settings, definitions, state machines and activities.

use stagepost_protocol::{Namespace, StateMachineArn, Timestamp};
use tokio_postgres::{Row, types::ToSql};

use super::store::PostgresStore;
use crate::{ActivityRow, DefinitionRow, Error, Page, Result, StateMachineRow, paging, stored};

/// How often something that another process creates or deletes at the same moment is asked for again.
const RACES_MAX: usize = 10;

const STATE_MACHINE: &str = "SELECT account, region, name, definition_id, role_arn, kind, status, created_at, \
     updated_at, settings FROM state_machines WHERE account = $1 AND region = $2";
const ACTIVITY: &str = "SELECT account, region, name, created_at, settings FROM activities \
     WHERE account = $1 AND region = $2";

/// See [`crate::Reader::setting`].
pub(super) async fn setting(store: &PostgresStore, name: &str, initial: &str) -> Result<String> {
    // A statement does not see what another process commits while it runs: ask again then.
    const SQL: &str = "WITH new AS (INSERT INTO settings (name, value) SELECT $1, $2 \
         WHERE NOT EXISTS (SELECT FROM settings WHERE name = $1) ON CONFLICT DO NOTHING RETURNING value) \
         SELECT value FROM settings WHERE name = $1 UNION ALL SELECT value FROM new LIMIT 1";
    for _ in 0..RACES_MAX {
        if let Some(row) = store.api_rows("read a setting", SQL, &[&name, &initial]).await?.first() {
            return Ok(row.get(0));
        }
    }
    Err(raced("read a setting"))
}

/// See [`crate::Reader::definition`].
pub(super) async fn definition(store: &PostgresStore, id: &str) -> Result<Option<DefinitionRow>> {
    const SQL: &str = "SELECT id, text FROM definitions WHERE id = $1";
    let rows = store.api_rows("read a definition", SQL, &[&id]).await?;
    Ok(rows.first().map(|row| DefinitionRow { id: row.get(0), text: row.get(1) }))
}

/// See [`crate::Reader::create_state_machine`].
pub(super) async fn create_state_machine(
    store: &PostgresStore,
    row: &StateMachineRow,
    definition: &DefinitionRow,
) -> Result<Option<StateMachineRow>> {
    const WHAT: &str = "create a state machine";
    const SQL: &str = "WITH created AS (INSERT INTO state_machines (account, region, name, definition_id, \
         role_arn, kind, status, created_at, updated_at, settings) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT DO NOTHING RETURNING 1), \
         defined AS (INSERT INTO definitions (id, text) SELECT $11, $12 WHERE EXISTS (SELECT FROM created) \
         ON CONFLICT DO NOTHING) SELECT 1 FROM created";
    for _ in 0..RACES_MAX {
        let role_arn = stored::text(&row.role_arn);
        let (created_at, updated_at) = (row.created_at.as_millis(), row.updated_at.as_millis());
        let settings = row.settings.as_str();
        let params: [&(dyn ToSql + Sync); 12] = [
            &row.arn.namespace.account,
            &row.arn.namespace.region,
            &row.arn.name,
            &row.definition_id,
            &role_arn,
            &row.kind,
            &row.status,
            &created_at,
            &updated_at,
            &settings,
            &definition.id,
            &definition.text,
        ];
        if !store.api_rows(WHAT, SQL, &params).await?.is_empty() {
            return Ok(None);
        }
        if let Some(there) = state_machine(store, &row.arn).await? {
            return Ok(Some(there));
        }
    }
    Err(raced(WHAT))
}

/// See [`crate::Reader::update_state_machine`].
pub(super) async fn update_state_machine(
    store: &PostgresStore,
    row: &StateMachineRow,
    definition: Option<&DefinitionRow>,
) -> Result<bool> {
    const SQL: &str = "WITH updated AS (UPDATE state_machines SET definition_id = $4, role_arn = $5, kind = $6, \
         status = $7, created_at = $8, updated_at = $9, settings = $10 \
         WHERE account = $1 AND region = $2 AND name = $3 RETURNING 1), \
         defined AS (INSERT INTO definitions (id, text) SELECT $11, $12 \
         WHERE $11::text IS NOT NULL AND EXISTS (SELECT FROM updated) ON CONFLICT DO NOTHING) \
         SELECT 1 FROM updated";
    let role_arn = stored::text(&row.role_arn);
    let (created_at, updated_at) = (row.created_at.as_millis(), row.updated_at.as_millis());
    let settings = row.settings.as_str();
    let (id, text) = definition.map(|d| (&d.id, &d.text)).unzip();
    let params: [&(dyn ToSql + Sync); 12] = [
        &row.arn.namespace.account,
        &row.arn.namespace.region,
        &row.arn.name,
        &row.definition_id,
        &role_arn,
        &row.kind,
        &row.status,
        &created_at,
        &updated_at,
        &settings,
        &id,
        &text,
    ];
    Ok(!store.api_rows("update a state machine", SQL, &params).await?.is_empty())
}

/// See [`crate::Reader::state_machine`].
pub(super) async fn state_machine(
    store: &PostgresStore,
    arn: &StateMachineArn,
) -> Result<Option<StateMachineRow>> {
    let Namespace { account, region } = &arn.namespace;
    let sql = format!("{STATE_MACHINE} AND name = $3");
    let rows = store.api_rows("read a state machine", &sql, &[account, region, &arn.name]).await?;
    rows.first().map(state_machine_row).transpose()
}

/// See [`crate::Reader::state_machines`].
pub(super) async fn state_machines(
    store: &PostgresStore,
    namespace: &Namespace,
    limit: usize,
    after: Option<&str>,
) -> Result<Page<StateMachineRow>> {
    let Namespace { account, region } = namespace;
    let sql = format!("{STATE_MACHINE} AND name > $3 ORDER BY name LIMIT $4");
    let (after, probe) = (after.unwrap_or_default(), paging::probe(limit));
    let rows = store.api_rows("list state machines", &sql, &[account, region, &after, &probe]).await?;
    let items = rows.iter().map(state_machine_row).collect::<Result<_>>()?;
    Ok(paging::page(items, limit, |row: &StateMachineRow| row.arn.name.clone()))
}

/// See [`crate::Reader::delete_state_machine`].
pub(super) async fn delete_state_machine(store: &PostgresStore, arn: &StateMachineArn) -> Result<bool> {
    const SQL: &str =
        "DELETE FROM state_machines WHERE account = $1 AND region = $2 AND name = $3 RETURNING 1";
    let Namespace { account, region } = &arn.namespace;
    Ok(!store.api_rows("delete a state machine", SQL, &[account, region, &arn.name]).await?.is_empty())
}

/// See [`crate::Reader::create_activity`].
pub(super) async fn create_activity(store: &PostgresStore, row: &ActivityRow) -> Result<Option<ActivityRow>> {
    const WHAT: &str = "create an activity";
    const SQL: &str = "INSERT INTO activities (account, region, name, created_at, settings) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING 1";
    let Namespace { account, region } = &row.namespace;
    let (created_at, settings) = (row.created_at.as_millis(), row.settings.as_str());
    for _ in 0..RACES_MAX {
        let params: [&(dyn ToSql + Sync); 5] = [account, region, &row.name, &created_at, &settings];
        if !store.api_rows(WHAT, SQL, &params).await?.is_empty() {
            return Ok(None);
        }
        if let Some(there) = activity(store, &row.namespace, &row.name).await? {
            return Ok(Some(there));
        }
    }
    Err(raced(WHAT))
}

/// See [`crate::Reader::activity`].
pub(super) async fn activity(
    store: &PostgresStore,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<ActivityRow>> {
    let Namespace { account, region } = namespace;
    let sql = format!("{ACTIVITY} AND name = $3");
    let rows = store.api_rows("read an activity", &sql, &[account, region, &name]).await?;
    rows.first().map(activity_row).transpose()
}

/// See [`crate::Reader::activities`].
pub(super) async fn activities(
    store: &PostgresStore,
    namespace: &Namespace,
    limit: usize,
    after: Option<&str>,
) -> Result<Page<ActivityRow>> {
    let Namespace { account, region } = namespace;
    let sql = format!("{ACTIVITY} AND name > $3 ORDER BY name LIMIT $4");
    let (after, probe) = (after.unwrap_or_default(), paging::probe(limit));
    let rows = store.api_rows("list activities", &sql, &[account, region, &after, &probe]).await?;
    let items = rows.iter().map(activity_row).collect::<Result<_>>()?;
    Ok(paging::page(items, limit, |row: &ActivityRow| row.name.clone()))
}

/// See [`crate::Reader::update_activity`].
pub(super) async fn update_activity(store: &PostgresStore, row: &ActivityRow) -> Result<bool> {
    const SQL: &str =
        "UPDATE activities SET settings = $4 WHERE account = $1 AND region = $2 AND name = $3 RETURNING 1";
    let Namespace { account, region } = &row.namespace;
    let settings = row.settings.as_str();
    let params: [&(dyn ToSql + Sync); 4] = [account, region, &row.name, &settings];
    Ok(!store.api_rows("update an activity", SQL, &params).await?.is_empty())
}

/// See [`crate::Reader::delete_activity`].
pub(super) async fn delete_activity(
    store: &PostgresStore,
    namespace: &Namespace,
    name: &str,
) -> Result<bool> {
    const SQL: &str = "DELETE FROM activities WHERE account = $1 AND region = $2 AND name = $3 RETURNING 1";
    let Namespace { account, region } = namespace;
    Ok(!store.api_rows("delete an activity", SQL, &[account, region, &name]).await?.is_empty())
}

fn raced(what: &'static str) -> Error {
    Error::Database { what, reason: "others create and delete it all the time".to_owned() }
}

fn state_machine_row(row: &Row) -> Result<StateMachineRow> {
    Ok(StateMachineRow {
        arn: StateMachineArn {
            namespace: Namespace { account: row.get(0), region: row.get(1) },
            name: row.get(2),
        },
        definition_id: row.get(3),
        role_arn: row.get(4),
        kind: row.get(5),
        status: row.get(6),
        created_at: Timestamp::from_millis(row.get(7)),
        updated_at: Timestamp::from_millis(row.get(8)),
        settings: stored::payload(row.get(9))?,
    })
}

fn activity_row(row: &Row) -> Result<ActivityRow> {
    Ok(ActivityRow {
        namespace: Namespace { account: row.get(0), region: row.get(1) },
        name: row.get(2),
        created_at: Timestamp::from_millis(row.get(3)),
        settings: stored::payload(row.get(4))?,
    })
}
