//! History rows per second by the size of a batch, one commit after the other, as a coordinator writes them:
//! `cargo bench -p stagepost-store`. Includes PostgreSQL when DATABASE_URL is set, in a schema of its own.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use stagepost_protocol::{ExecutionId, ShardId};
use stagepost_store::{Batch, HistoryRow, Store, postgres, sqlite};

const EXECUTIONS: u64 = 200;
const SECONDS: Duration = Duration::from_secs(2);
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
    assert_eq!(leases.first().map(|l| l.shard), Some(ShardId(0)));
    let payload = format!("[\"{}\"]", "0123456789".repeat(PAYLOAD_BYTES / 10));
    let mut next = 0;
    for size in [1, 10, 100, 1000] {
        let (start, mut rows) = (Instant::now(), 0);
        while start.elapsed() < SECONDS {
            let history = (0..size).map(|_| {
                next += 1;
                row(next, &payload)
            });
            let batch = Batch { leases: leases.clone(), history: history.collect(), ..Batch::default() };
            store.commit(batch).await?;
            rows += size;
        }
        let per_second = f64::from(rows) / start.elapsed().as_secs_f64();
        writeln!(std::io::stdout(), "{name:<10} batches of {size:>4}: {per_second:>7.0} rows/s")?;
    }
    Ok(())
}

/// Decisions go round all executions, whose ids are spread as hashes are.
fn row(n: u64, payload: &str) -> HistoryRow {
    let (execution, generation) = (n % EXECUTIONS, n / EXECUTIONS / 10);
    let mut id = [0; 16];
    let seed = (execution + generation * EXECUTIONS).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    id[4..12].copy_from_slice(&seed.to_be_bytes());
    HistoryRow {
        execution: ExecutionId::from_bytes(id),
        first_event_id: n / EXECUTIONS + 1,
        last_event_id: n / EXECUTIONS + 1,
        sequence: n / EXECUTIONS + 1,
        epoch: 1,
        payload: payload.to_owned(),
    }
}
