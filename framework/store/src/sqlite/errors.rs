//! What SQLite's errors mean to a caller. Its messages quote names of the schema, never values.

use rusqlite::ErrorCode;

use crate::Error;

/// Turns the error of a statement that was to do `what`.
pub(super) fn failed(what: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| {
        let reason = match &error {
            rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
            other => other.to_string(),
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => {
                Error::Conflict(format!("a row of it is already there ({reason})"))
            }
            // All that an operator or time can put right: a full disk, a lock, a lost mount.
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen,
            ) => Error::Unavailable(reason),
            _ => Error::Database { what, reason },
        }
    }
}
