//! The contract on PostgreSQL, each test in a schema of its own, and faults. Needs DATABASE_URL.

use std::{
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio_postgres::{Client, NoTls};

use super::{Options, PostgresStore, commit, load, migrations::MIGRATIONS};
use crate::{
    Batch, Error, Reader, Store,
    contract::{Database, Test, all_shards, load_one, new_execution, suite},
};

/// A schema of one's own; its name is also the name of its connections.
struct Schema {
    url: String,
    name: String,
}

impl Schema {
    fn options(&self) -> Options {
        let (schema, application_name) = (Some(self.name.clone()), self.name.clone());
        Options { schema, application_name, ..Options::default() }
    }

    async fn connect(&self) -> Arc<PostgresStore> {
        PostgresStore::connect(&self.url, self.options()).await.unwrap()
    }

    /// A connection that is not the store's, in the same schema.
    async fn admin(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("SET search_path = {}", self.name)).await.unwrap();
        client
    }
}

#[async_trait]
impl Database for Schema {
    async fn open(&self) -> Arc<dyn Store> {
        self.connect().await
    }
}

/// Runs a test in a schema that is dropped afterwards, whatever became of the test.
async fn with_schema<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Arc<Schema>) -> F) {
    let Ok(url) = std::env::var("DATABASE_URL") else {
        println!("skipped: DATABASE_URL is not set");
        return;
    };
    let schema = Arc::new(Schema { url, name: format!("test_{}", uuid::Uuid::new_v4().simple()) });
    let result = tokio::spawn(test(schema.clone())).await;
    let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", schema.name);
    schema.admin().await.batch_execute(&drop).await.unwrap();
    if let Err(error) = result {
        resume_unwind(error.into_panic());
    }
}

async fn run(test: impl FnOnce(Arc<dyn Database>) -> Test) {
    with_schema(|schema| test(schema)).await;
}

suite!(run);

/// Ends all connections of the store.
async fn terminate(schema: &Schema, admin: &Client) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    admin.execute(sql, &[&schema.name]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_connection_is_killed_is_unavailable_and_the_next_one_works() {
    with_schema(|schema| async move {
        let store = schema.connect().await;
        let leases = all_shards(&*store, "a", 4).await;
        let mut admin = schema.admin().await;
        // Hold the commit up at its lease.
        let blocker = admin.transaction().await.unwrap();
        blocker.execute("SELECT 1 FROM shards FOR UPDATE", &[]).await.unwrap();
        let batch = Batch { leases, started: vec![new_execution("one")], ..Batch::default() };
        let commit = tokio::spawn({
            let (store, batch) = (store.clone(), batch.clone());
            async move { store.commit(batch).await }
        });
        let killer = schema.admin().await;
        let waiting =
            "SELECT 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
        let deadline = Instant::now() + Duration::from_secs(20);
        while killer.query(waiting, &[&schema.name]).await.unwrap().is_empty() {
            assert!(Instant::now() < deadline, "the commit does not wait for the lock");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        terminate(&schema, &killer).await;
        let error = commit.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        blocker.rollback().await.unwrap();

        store.commit(batch.clone()).await.unwrap();
        terminate(&schema, &killer).await;
        // Whether the pool has noticed by now or not: at most a few tries fail, and only in this way.
        let mut tries = 0;
        loop {
            match store.load(&[batch.started[0].id]).await {
                Ok(loaded) => break assert!(loaded[0].is_some()),
                Err(Error::Unavailable(_)) if tries < 10 => tries += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(load_one(&*store, batch.started[0].id).await.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_is_not_taken_while_its_owner_commits() {
    with_schema(|schema| async move {
        let store = schema.connect().await;
        let leases = all_shards(&*store, "a", 2).await;
        let mut admin = schema.admin().await;
        // What a commit does, up to its end.
        let commit = admin.transaction().await.unwrap();
        let (shards, epochs) = (vec![0_i16], vec![leases[0].epoch]);
        commit.execute("SELECT check_leases($1, $2)", &[&shards, &epochs]).await.unwrap();
        // Neither a heartbeat nor another commit waits for it.
        let minute = Duration::from_secs(60);
        assert_eq!(store.lease("a", minute, 2).await.unwrap().0, leases);
        let batch = Batch { leases, started: vec![new_execution("one")], ..Batch::default() };
        store.commit(batch).await.unwrap();
        store.release("a", None).await.unwrap();
        let (taken, _) = store.lease("b", minute, 2).await.unwrap();
        assert_eq!(taken.iter().map(|l| l.shard.0).collect::<Vec<_>>(), [1]);
        commit.commit().await.unwrap();
        assert_eq!(store.lease("b", minute, 2).await.unwrap().0.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_together_migrate_once() {
    with_schema(|schema| async move {
        let connects = [0; 4].map(|_| {
            let schema = schema.clone();
            tokio::spawn(async move { schema.connect().await })
        });
        for connect in connects {
            connect.await.unwrap().ping().await.unwrap();
        }
        let admin = schema.admin().await;
        let versions = admin.query("SELECT version FROM schema_versions", &[]).await.unwrap();
        assert_eq!(versions.len(), MIGRATIONS.len());
        admin.execute("INSERT INTO schema_versions (version) VALUES (99)", &[]).await.unwrap();
        let error = PostgresStore::connect(&schema.url, schema.options()).await.err().unwrap();
        let newest = MIGRATIONS.len() as i64;
        assert!(matches!(error, Error::SchemaTooNew { found: 99, known } if known == newest), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://ada:hunter2@127.0.0.1:{port}/x");
    let error = PostgresStore::connect(&url, Options::default()).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_made_on_empty_tables_look_rows_up() {
    with_schema(|schema| async move {
        let store = schema.connect().await;
        let client = store.engine().await.unwrap();
        for (sql, types, by) in [
            (commit::WAKE, "bytea[], bigint[]", "executions_pkey"),
            (commit::END, "bytea[], text[], bigint[], text[], text[], text[], bigint[]", "executions_pkey"),
            (load::HISTORY, "bytea[]", "history_pkey"),
            (load::DUE, "bigint, int[], int[], bigint", "executions_due"),
            (load::RUNNING, "bytea, int[], int[], bigint", "executions_running"),
        ] {
            let nulls = types.replace(|c| c != ',', "").replace(',', "NULL, ") + "NULL";
            client.batch_execute(&format!("PREPARE planned ({types}) AS {sql}")).await.unwrap();
            let plan = client.query(&format!("EXPLAIN EXECUTE planned ({nulls})"), &[]).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            let scan = plan.iter().position(|l| l.contains(&format!("using {by}"))).expect(by);
            assert!(plan[scan + 1].contains("Index Cond"), "{sql}:\n{}", plan.join("\n"));
            client.batch_execute("DEALLOCATE planned").await.unwrap();
        }
    })
    .await;
}
