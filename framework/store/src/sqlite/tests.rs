//! The contract on SQLite, on files and in memory, and what is SQLite's alone.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Options, SqliteStore, migrations::MIGRATIONS};
use crate::{
    Error, Store,
    contract::{Database, Test, load_one, new_execution, start, suite},
};

/// A directory that is removed afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        Directory(std::env::temp_dir().join(format!("stagepost-store-{}", uuid::Uuid::new_v4())))
    }

    fn file(&self) -> PathBuf {
        self.0.join("made/data.db")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[async_trait]
impl Database for Directory {
    async fn open(&self) -> Arc<dyn Store> {
        SqliteStore::open(self.file(), &Options::default()).unwrap()
    }
}

async fn run(test: impl FnOnce(Arc<dyn Database>) -> Test) {
    test(Arc::new(Directory::new())).await;
}

suite!(run);

#[tokio::test]
async fn a_database_in_memory_lives_as_long_as_its_store() {
    let store = SqliteStore::open(":memory:", &Options::default()).unwrap();
    let id = start(&*store, vec![new_execution("one")]).await[0];
    assert!(load_one(&*store, id).await.is_some());
    let other = SqliteStore::open(":memory:", &Options::default()).unwrap();
    assert!(load_one(&*other, id).await.is_none());
}

#[tokio::test]
async fn a_database_that_is_open_elsewhere_is_refused() {
    let directory = Directory::new();
    let store = directory.open().await;
    let impatient = Options { busy_timeout: Duration::from_millis(50), ..Options::default() };
    let error = SqliteStore::open(directory.file(), &impatient).err().unwrap().to_string();
    assert!(error.contains("data.db") && error.contains("another process has it open"), "{error}");
    store.ping().await.unwrap();
    drop(store);
    SqliteStore::open(directory.file(), &impatient).unwrap();
}

#[tokio::test]
async fn what_was_committed_survives_the_end_of_the_process_at_any_moment() {
    let (directory, copy) = (Directory::new(), Directory::new());
    let store = directory.open().await;
    let id = start(&*store, vec![new_execution("one")]).await[0];
    // The files as a killed process leaves them: nothing was closed or moved from the log to the database.
    std::fs::create_dir_all(copy.file().parent().unwrap()).unwrap();
    for end in ["", "-wal"] {
        let file = |d: &Directory| d.file().with_extension(format!("db{end}"));
        std::fs::copy(file(&directory), file(&copy)).unwrap();
    }
    assert!(load_one(&*copy.open().await, id).await.is_some());
}

#[tokio::test]
async fn a_newer_schema_and_a_file_that_is_no_database_are_refused() {
    let directory = Directory::new();
    drop(directory.open().await);
    let connection = rusqlite::Connection::open(directory.file()).unwrap();
    connection.execute("INSERT INTO schema_versions (version) VALUES (99)", []).unwrap();
    drop(connection);
    let error = SqliteStore::open(directory.file(), &Options::default()).err().unwrap();
    let newest = MIGRATIONS.len() as i64;
    assert!(matches!(error, Error::SchemaTooNew { found: 99, known } if known == newest), "{error:?}");

    let file = directory.0.join("text.db");
    std::fs::write(&file, "this is not a database, but it is long enough to look like one".repeat(20))
        .unwrap();
    let error = SqliteStore::open(&file, &Options::default()).err().unwrap();
    assert!(matches!(error, Error::Database { .. }), "{error:?}");
    let error = SqliteStore::open(file.join("x"), &Options::default()).err().unwrap();
    assert!(matches!(error, Error::Url { .. }), "{error:?}");
}
