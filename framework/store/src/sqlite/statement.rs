//! Single statements, and what their errors say was to be done.

use rusqlite::{Connection, Params, Row};

use super::errors;
use crate::Result;

/// Runs a statement; how many rows it changed.
pub(super) fn change(
    connection: &Connection,
    what: &'static str,
    sql: &str,
    params: impl Params,
) -> Result<usize> {
    connection.prepare_cached(sql).and_then(|mut s| s.execute(params)).map_err(errors::failed(what))
}

/// Reads all rows that a statement finds.
pub(super) fn select<T>(
    connection: &Connection,
    what: &'static str,
    sql: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let failed = errors::failed(what);
    let mut statement = connection.prepare_cached(sql).map_err(&failed)?;
    let mut rows = statement.query(params).map_err(&failed)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        found.push(read(row)?);
    }
    Ok(found)
}
