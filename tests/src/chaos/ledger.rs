//! What activities did to the world, one row for each run: the witness that the engine knows nothing of.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls, types::ToSql};
use uuid::Uuid;

/// A database that does not answer for so long is asked anew.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS chaos_ledger (
    run uuid PRIMARY KEY, number bigint NOT NULL, state text NOT NULL, attempt text NOT NULL,
    worker text NOT NULL, at timestamptz NOT NULL DEFAULT now())";

/// A connection to the ledger that comes back.
#[derive(Debug)]
pub struct Ledger {
    url: String,
    worker: String,
    client: Mutex<Option<Arc<Client>>>,
}

/// What the ledger says at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// Runs of activities.
    pub runs: i64,
    /// Attempts that were run at least once.
    pub attempts: i64,
    /// Different steps of different orders.
    pub steps: i64,
    /// Attempts that were run more than once, though their activity is not idempotent.
    pub doubles: i64,
    /// The same of the idempotent one, which is allowed to.
    pub repeated: i64,
}

impl Ledger {
    /// The ledger in this database; rows carry the worker's name.
    pub fn at(url: &str, worker: &str) -> Ledger {
        Ledger { url: url.to_owned(), worker: worker.to_owned(), client: Mutex::new(None) }
    }

    /// Makes the table.
    pub async fn create(&self) {
        self.asked(TABLE, &[]).await;
    }

    /// Notes that a run has begun. Returns when the row is safe, however long the database is away: a run is noted
    /// once, even if the database's answer was lost.
    pub async fn begun(&self, number: u64, state: &str, attempt: &str) {
        let number = i64::try_from(number).expect("orders are few");
        let row = "INSERT INTO chaos_ledger (run, number, state, attempt, worker)
            SELECT $1::text::uuid, $2, $3, $4, $5 ON CONFLICT (run) DO NOTHING";
        let run = Uuid::new_v4().to_string();
        self.asked(row, &[&run, &number, &state, &attempt, &self.worker]).await;
    }

    /// Adds up.
    pub async fn balance(&self) -> Balance {
        let sums = "WITH tried AS (SELECT state, attempt, count(*) AS runs FROM chaos_ledger GROUP BY state, attempt)
            SELECT (SELECT count(*) FROM chaos_ledger), (SELECT count(*) FROM tried),
                (SELECT count(*) FROM (SELECT DISTINCT number, state FROM chaos_ledger) AS steps),
                (SELECT count(*) FROM tried WHERE runs > 1 AND state <> 'Invoice'),
                (SELECT count(*) FROM tried WHERE runs > 1 AND state = 'Invoice')";
        let rows = self.asked(sums, &[]).await;
        let [row] = &rows[..] else { panic!("sums are one row") };
        Balance {
            runs: row.get(0),
            attempts: row.get(1),
            steps: row.get(2),
            doubles: row.get(3),
            repeated: row.get(4),
        }
    }

    /// Attempts of activities that are not idempotent and were run more than once: state, order, workers and times.
    pub async fn doubles(&self) -> Vec<String> {
        let told = "SELECT state || ' of order ' || min(number)
                || ': ' || string_agg(worker || ' at ' || to_char(at, 'HH24:MI:SS.MS'), ', ' ORDER BY at)
            FROM chaos_ledger WHERE state <> 'Invoice' GROUP BY state, attempt HAVING count(*) > 1 ORDER BY min(at)";
        self.asked(told, &[]).await.iter().map(|row| row.get(0)).collect()
    }

    async fn asked(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Vec<tokio_postgres::Row> {
        loop {
            if let Some(client) = self.client().await
                && let Ok(Ok(rows)) = tokio::time::timeout(ANSWER_MAX, client.query(sql, values)).await
            {
                return rows;
            }
            *self.client.lock().await = None;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn client(&self) -> Option<Arc<Client>> {
        let mut slot = self.client.lock().await;
        if slot.is_none() {
            let connecting =
                tokio::time::timeout(ANSWER_MAX, tokio_postgres::connect(&self.url, NoTls)).await;
            let (client, connection) = connecting.ok()?.ok()?;
            tokio::spawn(async move {
                // Whoever asks notices that it has ended.
                let _ = connection.await;
            });
            *slot = Some(Arc::new(client));
        }
        slot.clone()
    }
}
