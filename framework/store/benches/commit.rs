//! History rows per second by the size of a batch, one commit after the other, as a coordinator writes them:
//! `cargo bench -p stagepost-store`. Includes PostgreSQL when DATABASE_URL is set, in a schema of its own.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use stagepost_protocol::{ExecutionId, Namespace, Payload, StateMachineArn, Timestamp};
use stagepost_store::{Batch, HistoryRow, NewExecution, Store, postgres, sqlite};

/// So many executions run at once.
const EXECUTIONS: usize = 200;
/// So many decisions has each.
const DECISIONS: usize = 10;
const DURATION: Duration = Duration::from_secs(2);
const PAYLOAD_BYTES: usize = 300;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("stagepost-bench-{}", uuid::Uuid::new_v4()));
    let store = sqlite::SqliteStore::open(directory.join("bench.db"), &sqlite::Options::default())?;
    measure("SQLite", store).await?;
    std::fs::remove_dir_all(&directory)?;
    if let Ok(url) = std::env::var("DATABASE_URL") {
        let schema = format!("bench_{}", uuid::Uuid::new_v4().simple());
        let options = postgres::Options { schema: Some(schema.clone()), ..postgres::Options::default() };
        let store = postgres::PostgresStore::connect(&url, options).await?;
        measure("PostgreSQL", store).await?;
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await?;
    }
    Ok(())
}

async fn measure(name: &str, store: Arc<dyn Store>) -> Result<(), Box<dyn std::error::Error>> {
    let (leases, _) = store.lease("bench", Duration::from_secs(600), 16).await?;
    let payload = format!("[\"{}\"]", "0123456789".repeat(PAYLOAD_BYTES / 10));
    let (mut ids, mut next) = (Vec::new(), 0);
    for size in [1, 10, 100, 1000] {
        let (start, mut rows) = (Instant::now(), 0);
        while start.elapsed() < DURATION {
            let mut batch = Batch { leases: leases.clone(), ..Batch::default() };
            for _ in 0..size {
                if next % (EXECUTIONS * DECISIONS) == 0 {
                    let started = (0..EXECUTIONS).map(|n| new_execution(name, next + n));
                    batch.started.extend(started);
                    ids = batch.started.iter().rev().take(EXECUTIONS).map(|e| e.id).collect();
                }
                batch.history.push(row(&ids, next, &payload));
                next += 1;
            }
            store.commit(batch).await?;
            rows += size;
        }
        let per_second = f64::from(rows) / start.elapsed().as_secs_f64();
        writeln!(std::io::stdout(), "{name:<10} batches of {size:>4}: {per_second:>7.0} rows/s")?;
    }
    Ok(())
}

fn new_execution(name: &str, n: usize) -> NewExecution {
    let state_machine = StateMachineArn { namespace: Namespace::default(), name: name.to_owned() };
    let arn = state_machine.execution(&n.to_string());
    NewExecution {
        id: arn.id(),
        arn,
        state_machine,
        definition_id: "d".to_owned(),
        role_arn: "arn:aws:iam::000000000000:role/bench".to_owned(),
        input: Payload::empty_object(),
        started_at: Timestamp::from_millis(n as i64),
        wake_at: Some(Timestamp::from_millis(n as i64)),
        trace_header: None,
        parent: None,
        map_item: None,
    }
}

/// Decisions go round all executions that run.
fn row(ids: &[ExecutionId], n: usize, payload: &str) -> HistoryRow {
    let decision = (n / EXECUTIONS % DECISIONS) as u64 + 1;
    HistoryRow {
        execution: ids[n % EXECUTIONS],
        first_event_id: decision,
        last_event_id: decision,
        sequence: decision,
        epoch: 1,
        payload: payload.to_owned(),
    }
}
