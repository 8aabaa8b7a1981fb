//! Numbered changes of the schema, applied when a process starts.

use tokio_postgres::{Client, Config, NoTls};

use super::errors;
use crate::{Error, Result};

/// In order; the number of a migration is its place, from 1. What has been released never changes.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_parents_and_redrives.sql"),
    include_str!("migrations/0003_map_runs.sql"),
    include_str!("migrations/0004_records.sql"),
];

const WHAT: &str = "migrate the schema";

/// Brings the schema up to date. Processes that do so at once wait for each other.
pub(super) async fn migrate(config: &Config, shown: &str, schema: Option<&str>) -> Result<()> {
    let (client, connection) = config.connect(NoTls).await.map_err(|e| match errors::misconfigured(&e) {
        Some(reason) => Error::Url { url: shown.to_owned(), reason },
        None => errors::connecting(&e),
    })?;
    let connection = tokio::spawn(connection);
    let migrated = apply(&client, schema).await;
    // The lock goes with the connection.
    drop(client);
    if let Ok(Err(error)) = connection.await {
        tracing::debug!(%error, "the connection for migrations ended");
    }
    migrated
}

async fn apply(client: &Client, schema: Option<&str>) -> Result<()> {
    let failed = errors::failed(WHAT);
    let lock = format!("stagepost.migrations.{}", schema.unwrap_or_default());
    client.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", &[&lock]).await.map_err(&failed)?;
    // Asked first, as a user who may not create them may still use them.
    if let Some(schema) = schema {
        let there = client.query_one("SELECT to_regnamespace($1) IS NOT NULL", &[&schema]).await;
        if !there.map_err(&failed)?.get::<_, bool>(0) {
            client.batch_execute(&format!("CREATE SCHEMA \"{schema}\"")).await.map_err(&failed)?;
        }
    }
    let there = client.query_one("SELECT to_regclass('schema_versions') IS NOT NULL", &[]).await;
    if !there.map_err(&failed)?.get::<_, bool>(0) {
        let table = "CREATE TABLE schema_versions (version bigint PRIMARY KEY, \
                     applied_at timestamptz NOT NULL DEFAULT clock_timestamp())";
        client.batch_execute(table).await.map_err(&failed)?;
    }
    let found = client.query_one("SELECT coalesce(max(version), 0) FROM schema_versions", &[]).await;
    let found: i64 = found.map_err(&failed)?.get(0);
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(Error::SchemaTooNew { found, known });
    }
    for (version, sql) in (1..).zip(MIGRATIONS).skip(found as usize) {
        let sql = format!("BEGIN; {sql}; INSERT INTO schema_versions (version) VALUES ({version}); COMMIT");
        client.batch_execute(&sql).await.map_err(&failed)?;
        tracing::info!(version, "the database schema was brought to a new version");
    }
    Ok(())
}
