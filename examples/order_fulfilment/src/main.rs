//! From the web order over the warehouse to the delivery.
//!
//! Alone, this program is a whole installation on the embedded default: it deploys `definition.asl.json`, sends the
//! orders of `orders/` (or the files that are named as arguments), shows their steps as they pass, and plays the person
//! who approves large orders. With AMQP_URL and DATABASE_URL set it is a worker on them; with STAGEPOST_URL, a worker
//! that polls that address (`http://127.0.0.1:8083` for `stagepost dev`).

mod activities;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use stagepost::{Worker, activities as activity_list};
use stagepost_broker::{Broker, ConsumeOptions, QueueSpec};
use stagepost_protocol::{Message, Properties};
use stagepost_server::{ApiClient, Installation, Steps, Style};
use tokio::sync::oneshot;

use activities::*;

const NAME: &str = "order-fulfilment";
const APPROVALS: &str = "order-approvals";
const CALLBACKS: &str = "stagepost.callbacks";

/// Registers what the shop does.
fn with_activities(worker: Worker) -> Worker {
    worker.state(Warehouse::default()).register(activity_list![
        check_stock,
        release_stock,
        charge_payment,
        refund_payment,
        pick,
        pack,
        write_invoice,
        dispatch
    ])
}

#[tokio::main]
async fn main() -> Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let amqp_url = std::env::var("AMQP_URL").ok().filter(|_| std::env::var_os("DATABASE_URL").is_some());
    match amqp_url.or_else(|| std::env::var("STAGEPOST_URL").ok()) {
        Some(url) => {
            // As `stagepost serve` reads it.
            let prefix = std::env::var("STAGEPOST_QUEUE_PREFIX").unwrap_or_else(|_| "stagepost".into());
            Ok(with_activities(Worker::connect(url)).queue_prefix(prefix).run().await?)
        }
        None => run_embedded().await,
    }
}

/// Runs the orders on an installation of this process's own.
async fn run_embedded() -> Result<()> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut orders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if orders.is_empty() {
        orders =
            ["small.json", "large.json", "undeliverable.json"].map(|o| home.join("orders").join(o)).into();
    }
    let mut installation = Installation::open_embedded(None).await?;
    let api = installation.api_client().await?;
    let broker = installation.broker();
    let (stop_worker, stopped) = oneshot::channel::<()>();
    let worker = with_activities(Worker::with_broker(broker.clone()));
    let worker = tokio::spawn(worker.run_until(async {
        // Either way the work is over.
        let _ = stopped.await;
    }));
    let person = tokio::spawn(approve_all(broker));

    let definition = read(&home.join("definition.asl.json"))?;
    api.deploy(NAME, &definition).await?;
    let mut out = std::io::stdout();
    for order in &orders {
        run_order(&api, order, &mut out).await?;
    }

    person.abort();
    // It only fails when the worker has ended by itself, which the next line tells.
    let _ = stop_worker.send(());
    worker.await??;
    installation.shutdown().await;
    writeln!(out, "\n{} orders done.", orders.len())?;
    Ok(())
}

async fn run_order(api: &ApiClient, file: &Path, out: &mut std::io::Stdout) -> Result<()> {
    let order = read(file)?;
    let style = Style::of(out);
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("order");
    writeln!(out, "\n{} {}", style.bold("Order"), file.file_name().unwrap_or_default().display())?;
    let machine = api.state_machine_arn(NAME)?;
    let execution = api.start(&machine, &order, Some(name)).await?;
    let mut steps = Steps::new(style);
    let ended = api
        .follow(&execution, |events| {
            // A closed terminal ends the show, not the orders.
            let _ = write!(out, "{}", steps.show(events));
            let _ = out.flush();
        })
        .await?;
    let status = ended.status.as_str();
    ensure!(status == "SUCCEEDED", "the order in {} ended as {status}", file.display());
    writeln!(out, "{} {}", style.bold("Result"), ended.output.unwrap_or_default())?;
    Ok(())
}

/// The person who answers approvals: reads the question, answers with a token message. A program in any language can
/// do the same, and so can `stagepost send-success`.
async fn approve_all(broker: Arc<dyn Broker>) -> Result<()> {
    broker.declare(&[QueueSpec::ours(APPROVALS), QueueSpec::ours(CALLBACKS)]).await?;
    let mut questions = broker.consume(APPROVALS, ConsumeOptions { prefetch: 8 }).await?;
    let acker = questions.acker();
    while let Some(deliveries) = questions.next(8).await {
        for question in deliveries {
            let asked: serde_json::Value = serde_json::from_slice(&question.body)?;
            let answer = serde_json::json!({
                "taskToken": asked["taskToken"],
                "output": { "approved": true, "by": "the example's own clerk" },
            });
            let message = Message {
                queue: CALLBACKS.into(),
                body: serde_json::to_vec(&answer)?.into(),
                properties: Properties::default(),
                persistent: true,
            };
            for published in broker.publish(vec![message]).await {
                published?;
            }
            acker.ack(question.tag).await;
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}
