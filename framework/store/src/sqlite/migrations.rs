//! Numbered changes of the schema, applied when the database is opened.

use rusqlite::Connection;

use super::errors;
use crate::{Error, Result};

/// In order; the number of a migration is its place, from 1. What has been released never changes.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_parents_and_redrives.sql"),
    include_str!("migrations/0003_map_runs.sql"),
    include_str!("migrations/0004_records.sql"),
];

/// Brings the schema up to date. The caller holds the lock of the database.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let failed = errors::failed("migrate the schema");
    let table = "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, \
                 applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)";
    connection.execute_batch(table).map_err(&failed)?;
    let found = "SELECT coalesce(max(version), 0) FROM schema_versions";
    let found: i64 = connection.query_row(found, [], |row| row.get(0)).map_err(&failed)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(Error::SchemaTooNew { found, known });
    }
    for (version, sql) in (1..).zip(MIGRATIONS).skip(found as usize) {
        let transaction = connection.transaction().map_err(&failed)?;
        transaction.execute_batch(sql).map_err(&failed)?;
        let note = "INSERT INTO schema_versions (version) VALUES (?1)";
        transaction.execute(note, [version]).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        tracing::info!(version, "the database schema was brought to a new version");
    }
    Ok(())
}
