//! Settings, definitions, state machines and activities.

use rusqlite::{Connection, OptionalExtension, Row, params};
use stagepost_protocol::{Namespace, StateMachineArn, Timestamp};

use super::{
    errors,
    statement::{change, select},
    store::SqliteStore,
};
use crate::{ActivityRow, DefinitionRow, Page, Result, StateMachineRow, paging, stored};

const STATE_MACHINE: &str = "SELECT account, region, name, definition_id, role_arn, kind, status, created_at, \
     updated_at, settings FROM state_machines WHERE account = ?1 AND region = ?2";
const ACTIVITY: &str = "SELECT account, region, name, created_at, settings FROM activities \
     WHERE account = ?1 AND region = ?2";
const DEFINE: &str = "INSERT OR IGNORE INTO definitions (id, text) VALUES (?1, ?2)";

/// See [`crate::Reader::setting`].
pub(super) async fn setting(store: &SqliteStore, name: &str, initial: &str) -> Result<String> {
    const WHAT: &str = "read a setting";
    const INSERT: &str = "INSERT OR IGNORE INTO settings (name, value) VALUES (?1, ?2)";
    const SELECT: &str = "SELECT value FROM settings WHERE name = ?1";
    let (name, initial) = (name.to_owned(), initial.to_owned());
    let read = move |c: &Connection| {
        change(c, WHAT, INSERT, params![name, initial])?;
        c.query_row(SELECT, [name], |row| row.get(0)).map_err(errors::failed(WHAT))
    };
    store.write(2, read).await
}

/// See [`crate::Reader::definition`].
pub(super) async fn definition(store: &SqliteStore, id: &str) -> Result<Option<DefinitionRow>> {
    const SQL: &str = "SELECT id, text FROM definitions WHERE id = ?1";
    let id = id.to_owned();
    let read = move |c: &Connection| {
        let row = |row: &Row<'_>| Ok(DefinitionRow { id: row.get(0)?, text: row.get(1)? });
        c.prepare_cached(SQL)
            .and_then(|mut s| s.query_row([id], row).optional())
            .map_err(errors::failed("read a definition"))
    };
    store.read(1, read).await
}

/// See [`crate::Reader::create_state_machine`].
pub(super) async fn create_state_machine(
    store: &SqliteStore,
    row: &StateMachineRow,
    definition: &DefinitionRow,
) -> Result<Option<StateMachineRow>> {
    const WHAT: &str = "create a state machine";
    const SQL: &str = "INSERT OR IGNORE INTO state_machines (account, region, name, definition_id, role_arn, \
         kind, status, created_at, updated_at, settings) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let (row, definition) = (row.clone(), definition.clone());
    let create = move |c: &Connection| {
        if change_state_machine(c, WHAT, SQL, &row)? == 0 {
            return find_state_machine(c, &row.arn);
        }
        change(c, WHAT, DEFINE, params![definition.id, definition.text])?;
        Ok(None)
    };
    store.write(2, create).await
}

/// See [`crate::Reader::update_state_machine`].
pub(super) async fn update_state_machine(
    store: &SqliteStore,
    row: &StateMachineRow,
    definition: Option<&DefinitionRow>,
) -> Result<bool> {
    const WHAT: &str = "update a state machine";
    const SQL: &str = "UPDATE state_machines SET definition_id = ?4, role_arn = ?5, kind = ?6, status = ?7, \
         created_at = ?8, updated_at = ?9, settings = ?10 WHERE account = ?1 AND region = ?2 AND name = ?3";
    let (row, definition) = (row.clone(), definition.cloned());
    let update = move |c: &Connection| {
        let found = change_state_machine(c, WHAT, SQL, &row)? > 0;
        if let Some(definition) = definition.filter(|_| found) {
            change(c, WHAT, DEFINE, params![definition.id, definition.text])?;
        }
        Ok(found)
    };
    store.write(2, update).await
}

/// See [`crate::Reader::state_machine`].
pub(super) async fn state_machine(
    store: &SqliteStore,
    arn: &StateMachineArn,
) -> Result<Option<StateMachineRow>> {
    let arn = arn.clone();
    store.read(1, move |c| find_state_machine(c, &arn)).await
}

fn find_state_machine(connection: &Connection, arn: &StateMachineArn) -> Result<Option<StateMachineRow>> {
    let Namespace { account, region } = &arn.namespace;
    let sql = format!("{STATE_MACHINE} AND name = ?3");
    let params = params![account, region, arn.name];
    Ok(select(connection, "read a state machine", &sql, params, state_machine_row)?.pop())
}

/// See [`crate::Reader::state_machines`].
pub(super) async fn state_machines(
    store: &SqliteStore,
    namespace: &Namespace,
    limit: usize,
    after: Option<&str>,
) -> Result<Page<StateMachineRow>> {
    let Namespace { account, region } = namespace.clone();
    let after = after.unwrap_or_default().to_owned();
    let list = move |c: &Connection| {
        let sql = format!("{STATE_MACHINE} AND name > ?3 ORDER BY name LIMIT ?4");
        let params = params![account, region, after, paging::probe(limit)];
        let items = select(c, "list state machines", &sql, params, state_machine_row)?;
        Ok(paging::page(items, limit, |row| row.arn.name.clone()))
    };
    store.read(1, list).await
}

/// See [`crate::Reader::delete_state_machine`].
pub(super) async fn delete_state_machine(store: &SqliteStore, arn: &StateMachineArn) -> Result<bool> {
    const SQL: &str = "DELETE FROM state_machines WHERE account = ?1 AND region = ?2 AND name = ?3";
    let StateMachineArn { namespace: Namespace { account, region }, name } = arn.clone();
    let delete =
        move |c: &Connection| change(c, "delete a state machine", SQL, params![account, region, name]);
    store.write(1, delete).await.map(|rows| rows > 0)
}

/// See [`crate::Reader::create_activity`].
pub(super) async fn create_activity(store: &SqliteStore, row: &ActivityRow) -> Result<Option<ActivityRow>> {
    const SQL: &str = "INSERT OR IGNORE INTO activities (account, region, name, created_at, settings) \
         VALUES (?1, ?2, ?3, ?4, ?5)";
    let row = row.clone();
    let create = move |c: &Connection| {
        let Namespace { account, region } = &row.namespace;
        let params = params![account, region, row.name, row.created_at.as_millis(), row.settings.as_str()];
        if change(c, "create an activity", SQL, params)? == 0 {
            return find_activity(c, &row.namespace, &row.name);
        }
        Ok(None)
    };
    store.write(1, create).await
}

/// See [`crate::Reader::activity`].
pub(super) async fn activity(
    store: &SqliteStore,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<ActivityRow>> {
    let (namespace, name) = (namespace.clone(), name.to_owned());
    store.read(1, move |c| find_activity(c, &namespace, &name)).await
}

fn find_activity(connection: &Connection, namespace: &Namespace, name: &str) -> Result<Option<ActivityRow>> {
    let Namespace { account, region } = namespace;
    let sql = format!("{ACTIVITY} AND name = ?3");
    let params = params![account, region, name];
    Ok(select(connection, "read an activity", &sql, params, activity_row)?.pop())
}

/// See [`crate::Reader::activities`].
pub(super) async fn activities(
    store: &SqliteStore,
    namespace: &Namespace,
    limit: usize,
    after: Option<&str>,
) -> Result<Page<ActivityRow>> {
    let Namespace { account, region } = namespace.clone();
    let after = after.unwrap_or_default().to_owned();
    let list = move |c: &Connection| {
        let sql = format!("{ACTIVITY} AND name > ?3 ORDER BY name LIMIT ?4");
        let params = params![account, region, after, paging::probe(limit)];
        let items = select(c, "list activities", &sql, params, activity_row)?;
        Ok(paging::page(items, limit, |row| row.name.clone()))
    };
    store.read(1, list).await
}

/// See [`crate::Reader::update_activity`].
pub(super) async fn update_activity(store: &SqliteStore, row: &ActivityRow) -> Result<bool> {
    const SQL: &str = "UPDATE activities SET settings = ?4 WHERE account = ?1 AND region = ?2 AND name = ?3";
    let row = row.clone();
    let update = move |c: &Connection| {
        let Namespace { account, region } = &row.namespace;
        change(c, "update an activity", SQL, params![account, region, row.name, row.settings.as_str()])
    };
    store.write(1, update).await.map(|rows| rows > 0)
}

/// See [`crate::Reader::delete_activity`].
pub(super) async fn delete_activity(store: &SqliteStore, namespace: &Namespace, name: &str) -> Result<bool> {
    const SQL: &str = "DELETE FROM activities WHERE account = ?1 AND region = ?2 AND name = ?3";
    let (Namespace { account, region }, name) = (namespace.clone(), name.to_owned());
    let delete = move |c: &Connection| change(c, "delete an activity", SQL, params![account, region, name]);
    store.write(1, delete).await.map(|rows| rows > 0)
}

fn change_state_machine(
    connection: &Connection,
    what: &'static str,
    sql: &str,
    row: &StateMachineRow,
) -> Result<usize> {
    let StateMachineArn { namespace: Namespace { account, region }, name } = &row.arn;
    let params = params![
        account,
        region,
        name,
        row.definition_id,
        stored::text(&row.role_arn),
        row.kind,
        row.status,
        row.created_at.as_millis(),
        row.updated_at.as_millis(),
        row.settings.as_str(),
    ];
    change(connection, what, sql, params)
}

fn state_machine_row(row: &Row<'_>) -> Result<StateMachineRow> {
    let failed = errors::failed("read a state machine");
    let text = |n: usize| row.get::<_, String>(n).map_err(&failed);
    let time = |n: usize| row.get(n).map(Timestamp::from_millis).map_err(&failed);
    Ok(StateMachineRow {
        arn: StateMachineArn { namespace: Namespace { account: text(0)?, region: text(1)? }, name: text(2)? },
        definition_id: text(3)?,
        role_arn: text(4)?,
        kind: text(5)?,
        status: text(6)?,
        created_at: time(7)?,
        updated_at: time(8)?,
        settings: stored::payload(&text(9)?)?,
    })
}

fn activity_row(row: &Row<'_>) -> Result<ActivityRow> {
    let failed = errors::failed("read an activity");
    let text = |n: usize| row.get::<_, String>(n).map_err(&failed);
    Ok(ActivityRow {
        namespace: Namespace { account: text(0)?, region: text(1)? },
        name: text(2)?,
        created_at: row.get(3).map(Timestamp::from_millis).map_err(&failed)?,
        settings: stored::payload(&text(4)?)?,
    })
}
