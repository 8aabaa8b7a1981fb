//! A worker for the chaos programme: what its activities do to the world stands in a ledger.
//!
//! On `AMQP_URL`, which may fail; the ledger is in `LEDGER_URL`, past all faults but the database's own.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stagepost::{Context, Failure, State, Worker, WorkerError, activities, activity};
use stagepost_tests::chaos::{LEASE, Ledger};

/// What an execution is about.
#[derive(Debug, Deserialize)]
struct Order {
    n: u64,
    /// How often its payment fails.
    fails: u32,
    /// How long it is packed.
    pack_millis: u64,
}

/// What a step is worth: the sum at the end tells whether each was counted once.
#[derive(Debug, Serialize)]
struct Worth {
    cents: u64,
}

async fn work(cx: &Context, ledger: &Ledger, order: &Order, cents: u64, millis: u64) -> Worth {
    ledger.begun(order.n, cx.state(), cx.task_token()).await;
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Worth { cents: order.n * cents }
}

#[activity]
async fn reserve(cx: Context, ledger: State<Ledger>, order: Order) -> Result<Worth, Failure> {
    Ok(work(&cx, &ledger, &order, 1, order.n % 20).await)
}

#[activity]
async fn charge(cx: Context, ledger: State<Ledger>, order: Order) -> Result<Worth, Failure> {
    let worth = work(&cx, &ledger, &order, 2, 5).await;
    if cx.attempt() <= order.fails {
        return Err(Failure::new("Payment.Flaky", format!("attempt {}", cx.attempt())));
    }
    Ok(worth)
}

#[activity]
async fn pack(cx: Context, ledger: State<Ledger>, order: Order) -> Result<Worth, Failure> {
    Ok(work(&cx, &ledger, &order, 3, order.pack_millis).await)
}

#[activity(idempotent)]
async fn invoice(cx: Context, ledger: State<Ledger>, order: Order) -> Result<Worth, Failure> {
    Ok(work(&cx, &ledger, &order, 5, 10).await)
}

#[activity]
async fn ship(cx: Context, ledger: State<Ledger>, order: Order) -> Result<Worth, Failure> {
    Ok(work(&cx, &ledger, &order, 7, 0).await)
}

#[tokio::main]
async fn main() -> Result<(), WorkerError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let ledger = Ledger::at(&variable("LEDGER_URL"), &variable("CHAOS_WORKER"));
    let worker = Worker::connect(variable("AMQP_URL")).lease(LEASE).state(ledger);
    worker.register(activities![reserve, charge, pack, invoice, ship]).run().await
}
