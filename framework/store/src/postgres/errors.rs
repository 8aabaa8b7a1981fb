//! What PostgreSQL's errors mean to a caller. Of what the server says only the message is passed on: its
//! detail may quote values.

use std::error::Error as _;

use deadpool_postgres::{PoolError, TimeoutType};
use stagepost_protocol::ShardId;
use tokio_postgres::error::{DbError, SqlState};

use crate::Error;

/// Raised by the function `check_leases`; its detail is the number of the shard.
const LEASE_LOST: &str = "SP001";

/// Turns the error of a statement that was to do `what`.
pub(super) fn failed(what: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
    move |error| match error.as_db_error() {
        Some(db) => refused(what, db),
        // Only what the server said is an answer; anything else means that the connection is of no use.
        None if error.is_closed() || is_io(&error) => Error::Unavailable(text(&error)),
        None => Error::Database { what, reason: text(&error) },
    }
}

/// Turns the error of taking a connection from a pool.
pub(super) fn pool(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => connecting(&error),
        PoolError::Timeout(TimeoutType::Wait) => {
            Error::Unavailable("all connections of the pool are busy".to_owned())
        }
        other => Error::Unavailable(other.to_string()),
    }
}

/// Turns the error of opening a connection.
pub(super) fn connecting(error: &tokio_postgres::Error) -> Error {
    Error::Unavailable(match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => text(error),
    })
}

/// Why no amount of waiting makes this connection possible, if so.
pub(super) fn misconfigured(error: &tokio_postgres::Error) -> Option<String> {
    let db = error.as_db_error()?;
    let code = db.code();
    let wrong = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    wrong.contains(code).then(|| db.message().to_owned())
}

fn refused(what: &'static str, db: &DbError) -> Error {
    let code = db.code().code();
    if code == LEASE_LOST {
        let shard = db.detail().and_then(|d| d.parse().ok()).unwrap_or_default();
        return Error::LeaseLost(ShardId(shard));
    }
    if *db.code() == SqlState::UNIQUE_VIOLATION {
        let table = db.table().unwrap_or("the table");
        return Error::Conflict(format!("a row of it is already in {table}"));
    }
    // Classes of Appendix A of PostgreSQL's manual: 08 connection, 40 rolled back by a rival (deadlock,
    // serialisation), 53 resources (disk full, connections), 57 an operator stepped in, 58 the system; and
    // 25006, a server that is read-only since a failover.
    let passing = ["08", "40", "53", "57", "58"];
    let message = db.message().to_owned();
    if passing.contains(&&code[..2]) || code == "25006" || code == "55P03" {
        Error::Unavailable(message)
    } else {
        Error::Database { what, reason: message }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|s| s.is::<std::io::Error>())
}

fn text(error: &tokio_postgres::Error) -> String {
    match error.source() {
        Some(source) if !error.to_string().contains(&source.to_string()) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}
