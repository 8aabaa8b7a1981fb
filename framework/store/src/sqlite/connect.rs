//! From a path to connections.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{errors, migrations};
use crate::{Error, Result};

/// The path of a database that lives as long as its store.
const MEMORY: &str = ":memory:";
/// Statements that a connection keeps prepared.
const CACHED_STATEMENTS: usize = 64;

/// Settings of a [`super::SqliteStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The most reads at once. Default: 4.
    pub read_connections: usize,
    /// How long to wait for another process that has the database open: one that is just ending. Default: 5 s.
    pub busy_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { read_connections: 4, busy_timeout: Duration::from_secs(5) }
    }
}

/// The connections of a store.
pub(super) struct Connections {
    pub(super) writer: Connection,
    /// None when the database is in memory, where the writer reads too.
    pub(super) readers: Vec<Connection>,
    /// Held open: as long as it is, no other process opens the database.
    pub(super) lock: Option<Connection>,
}

/// Locks, opens and migrates the database; makes it, and its directory, where there is none.
pub(super) fn connect(path: &Path, options: &Options) -> Result<Connections> {
    if path.as_os_str() == MEMORY {
        let mut writer = Connection::open_in_memory().map_err(errors::failed("open the database"))?;
        configure(&writer, options)?;
        migrations::migrate(&mut writer)?;
        return Ok(Connections { writer, readers: Vec::new(), lock: None });
    }
    let unusable = |reason: String| Error::Url { url: path.display().to_string(), reason };
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(|e| unusable(e.to_string()))?;
    }
    let lock = lock(path, options)?;
    let mut writer = Connection::open(path).map_err(|e| unusable(e.to_string()))?;
    configure(&writer, options)?;
    migrations::migrate(&mut writer)?;
    let readers = (0..options.read_connections.max(1))
        .map(|_| {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let reader = Connection::open_with_flags(path, flags).map_err(|e| unusable(e.to_string()))?;
            reader.busy_timeout(options.busy_timeout).map_err(errors::failed("open the database"))?;
            reader.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
            Ok(reader)
        })
        .collect::<Result<_>>()?;
    Ok(Connections { writer, readers, lock: Some(lock) })
}

/// Two servers on one database would each hold shards that the other drops. A lock on a file beside it keeps
/// the second one out; it is SQLite's own kind, so it works on every system and ends with the process.
fn lock(path: &Path, options: &Options) -> Result<Connection> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |e: rusqlite::Error| {
        let reason = match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) => "another process has it open".to_owned(),
            _ => e.to_string(),
        };
        Error::Url { url: path.display().to_string(), reason }
    };
    let lock = Connection::open(Path::new(&name)).map_err(failed)?;
    lock.busy_timeout(options.busy_timeout).map_err(failed)?;
    lock.execute_batch("BEGIN EXCLUSIVE").map_err(failed)?;
    Ok(lock)
}

fn configure(connection: &Connection, options: &Options) -> Result<()> {
    let failed = errors::failed("configure the database");
    connection.busy_timeout(options.busy_timeout).map_err(&failed)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // FULL syncs the log at every commit: what was answered survives a power cut. A checkpoint every 16 MiB
    // instead of 4 writes pages that change often less often.
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; \
             PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -32000; PRAGMA temp_store = MEMORY",
        )
        .map_err(&failed)
}
