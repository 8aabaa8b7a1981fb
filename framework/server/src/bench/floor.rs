//! The floor: what the broker and the database take by themselves. For each step two persistent, confirmed messages
//! (publish → consume → ack) and one row in a batched append, without any logic: lapin and tokio-postgres bare, or
//! two channels and bare SQLite. A chain's next step begins when the row of the one before is committed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::sync::mpsc;

use super::{Load, Measured, Meter, target::Target, usage::Processes};

/// A row of the history of a small step.
const ROW: &str =
    r#"[{"t":5,"o":{"order":"o-1","total":42}},{"t":6},{"t":2,"n":"Step"},{"t":3,"r":"no_op"}]"#;
const BODY: &[u8] = br#"{"order":"o-1","total":42}"#;
/// Rows of one append.
const APPEND_MAX: usize = 1024;

/// Step `step` of chain `chain` has its row.
type Step = (u32, u32);

/// Runs the floor once.
pub(super) async fn run(target: &Target, processes: &Processes, load: Load) -> Result<Measured> {
    match target {
        Target::Servers { amqp_url, database_url } => servers(amqp_url, database_url, processes, load).await,
        Target::Embedded => embedded(processes, load).await,
    }
}

/// Keeps the chains going and notes how long their steps took.
struct Chains {
    steps: u32,
    next_chain: u32,
    chains: u32,
    running: usize,
    began: Vec<Option<Instant>>,
    times: Vec<Duration>,
}

impl Chains {
    fn new(load: Load) -> Result<Chains> {
        let chains = u32::try_from(load.executions)?;
        let began = vec![None; load.executions];
        let times = Vec::with_capacity(load.executions);
        Ok(Chains { steps: u32::try_from(load.steps)?, next_chain: 0, chains, running: 0, began, times })
    }

    fn begin(&mut self) -> Option<Step> {
        if self.next_chain == self.chains {
            return None;
        }
        let chain = self.next_chain;
        self.next_chain += 1;
        self.running += 1;
        self.began[chain as usize] = Some(Instant::now());
        Some((chain, 0))
    }

    /// What follows a step: the next of its chain, or the first of a new chain.
    fn follow(&mut self, (chain, step): Step) -> Option<Step> {
        if step + 1 < self.steps {
            return Some((chain, step + 1));
        }
        self.running -= 1;
        if let Some(began) = self.began.get(chain as usize).copied().flatten() {
            self.times.push(began.elapsed() / self.steps);
        }
        self.begin()
    }
}

async fn drain<T>(receiver: &mut mpsc::Receiver<T>, max: usize) -> Vec<T> {
    let mut taken = Vec::new();
    receiver.recv_many(&mut taken, max).await;
    taken
}

async fn embedded(processes: &Processes, load: Load) -> Result<Measured> {
    let directory = std::env::temp_dir().join(format!("stagepost-floor-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&directory)?;
    let connection = rusqlite::Connection::open(directory.join("floor.db"))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE history (execution_id BLOB, sequence INTEGER, payload TEXT, PRIMARY KEY (execution_id, sequence)) WITHOUT ROWID;",
    )?;
    let room = load.in_flight.max(1);
    let (tasks, mut to_do) = mpsc::channel::<(Step, Vec<u8>)>(room);
    let (results, mut done) = mpsc::channel::<(Step, Vec<u8>)>(room);
    let (appends, to_append) = std::sync::mpsc::sync_channel::<Vec<Step>>(4);
    let (appended, mut committed) = mpsc::channel::<Vec<Step>>(4);
    let writer = std::thread::spawn(move || write_sqlite(&connection, &to_append, &appended));
    let worker = tokio::spawn(async move {
        while let Some(task) = to_do.recv().await {
            if results.send(task).await.is_err() {
                return;
            }
        }
    });
    let appender = tokio::spawn(async move {
        loop {
            let batch = drain(&mut done, APPEND_MAX).await;
            if batch.is_empty() || appends.send(batch.into_iter().map(|(step, _)| step).collect()).is_err() {
                return;
            }
        }
    });
    let mut chains = Chains::new(load)?;
    let meter = Meter::begin(processes);
    while chains.running < load.in_flight {
        let Some(step) = chains.begin() else { break };
        tasks.send((step, BODY.to_vec())).await?;
    }
    while chains.running > 0 {
        let batch = committed.recv().await.context("the floor's database failed")?;
        for step in batch {
            if let Some(next) = chains.follow(step) {
                tasks.send((next, BODY.to_vec())).await?;
            }
        }
    }
    let measured = meter.end(processes, load.executions * load.steps, std::mem::take(&mut chains.times));
    drop(tasks);
    worker.await?;
    appender.await?;
    match writer.join() {
        Ok(result) => result?,
        Err(_) => bail!("the floor's database thread failed"),
    }
    std::fs::remove_dir_all(directory)?;
    Ok(measured)
}

fn write_sqlite(
    connection: &rusqlite::Connection,
    to_append: &std::sync::mpsc::Receiver<Vec<Step>>,
    appended: &mpsc::Sender<Vec<Step>>,
) -> Result<()> {
    while let Ok(batch) = to_append.recv() {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        {
            let mut insert = connection.prepare_cached("INSERT INTO history VALUES (?, ?, ?)")?;
            for (chain, step) in &batch {
                insert.execute((id(*chain).as_slice(), step, ROW))?;
            }
        }
        connection.execute_batch("COMMIT")?;
        if appended.blocking_send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

fn id(chain: u32) -> [u8; 16] {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&chain.wrapping_mul(2_654_435_761).to_be_bytes());
    id[12..].copy_from_slice(&chain.to_be_bytes());
    id
}

async fn servers(amqp_url: &str, database_url: &str, processes: &Processes, load: Load) -> Result<Measured> {
    let name = format!("stagepost_floor_{}", uuid::Uuid::new_v4().simple());
    let (database, connection) = tokio_postgres::connect(database_url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    database
        .batch_execute(&format!(
            "CREATE TABLE {name} (execution_id bytea, sequence bigint, payload text, PRIMARY KEY (execution_id, sequence))"
        ))
        .await?;
    let coordinator = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let worker = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let queues = [format!("{name}.tasks"), format!("{name}.results")];
    let setup = coordinator.create_channel().await?;
    for queue in &queues {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        setup.queue_declare(queue.as_str().into(), options, arguments).await?;
    }
    let echo = tokio::spawn(echo(worker, queues.clone()));
    let measured = chains(&coordinator, &database, &name, &queues, processes, load).await;
    echo.abort();
    for queue in &queues {
        setup.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    }
    database.batch_execute(&format!("DROP TABLE {name}")).await?;
    drop(database);
    connection.await??;
    coordinator.close(0, "".into()).await?;
    measured
}

fn persistent(step: Step) -> BasicProperties {
    let id = format!("{}-{}", step.0, step.1);
    BasicProperties::default().with_delivery_mode(2).with_message_id(id.into())
}

fn step_of(properties: &BasicProperties) -> Option<Step> {
    let id = properties.message_id().as_ref()?.as_str();
    let (chain, step) = id.split_once('-')?;
    Some((chain.parse().ok()?, step.parse().ok()?))
}

async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Result<lapin::Consumer> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let consumer = channel
        .basic_consume(queue.into(), "floor".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    Ok(consumer)
}

/// Waits for confirmations, and acknowledges what each stands for.
async fn confirm_then_ack<F>(
    mut confirming: mpsc::Receiver<(F, Option<lapin::message::Delivery>)>,
) -> lapin::Result<()>
where
    F: Future<Output = lapin::Result<lapin::Confirmation>>,
{
    while let Some((confirm, delivery)) = confirming.recv().await {
        confirm.await?;
        if let Some(delivery) = delivery {
            delivery.acker.ack(BasicAckOptions::default()).await?;
        }
    }
    Ok(())
}

/// The worker: each task's answer is published and confirmed, then the task is acknowledged.
async fn echo(connection: Connection, queues: [String; 2]) -> Result<()> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut tasks = consume(&channel, &queues[0], 512).await?;
    let (to_ack, confirming) = mpsc::channel(1024);
    let acks = tokio::spawn(confirm_then_ack(confirming));
    while let Some(delivery) = tasks.next().await {
        let delivery = delivery?;
        let properties = delivery.properties.clone();
        let options = BasicPublishOptions::default();
        let queue = queues[1].as_str();
        let confirm =
            channel.basic_publish("".into(), queue.into(), options, &delivery.data, properties).await?;
        if to_ack.send((confirm, Some(delivery))).await.is_err() {
            break;
        }
    }
    drop(to_ack);
    acks.await??;
    Ok(())
}

/// The coordinator: answers are appended in batches, then acknowledged, and the next tasks are published.
async fn chains(
    connection: &Connection,
    database: &tokio_postgres::Client,
    table: &str,
    queues: &[String; 2],
    processes: &Processes,
    load: Load,
) -> Result<Measured> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut results = consume(&channel, &queues[1], 2048).await?;
    let insert = database
        .prepare(&format!("INSERT INTO {table} SELECT * FROM UNNEST($1::bytea[], $2::bigint[], $3::text[])"))
        .await?;
    let (arrived, mut to_append) = mpsc::channel(4096);
    let receiver = tokio::spawn(async move {
        while let Some(Ok(delivery)) = results.next().await {
            if arrived.send(delivery).await.is_err() {
                return;
            }
        }
    });
    let (confirms, confirming) = mpsc::channel(4096);
    let confirmed = tokio::spawn(confirm_then_ack(confirming));
    let publish = async |step: Step| -> Result<()> {
        let (queue, options) = (queues[0].as_str(), BasicPublishOptions::default());
        let confirm = channel.basic_publish("".into(), queue.into(), options, BODY, persistent(step)).await?;
        confirms.send((confirm, None)).await?;
        Ok(())
    };
    let mut chains = Chains::new(load)?;
    let meter = Meter::begin(processes);
    while chains.running < load.in_flight {
        let Some(step) = chains.begin() else { break };
        publish(step).await?;
    }
    while chains.running > 0 {
        let batch: Vec<lapin::message::Delivery> = drain(&mut to_append, APPEND_MAX).await;
        let Some(last) = batch.last().map(|d| d.acker.clone()) else { bail!("the floor's broker failed") };
        let steps: Vec<Step> = batch.iter().filter_map(|d| step_of(&d.properties)).collect();
        let ids: Vec<Vec<u8>> = steps.iter().map(|(chain, _)| id(*chain).to_vec()).collect();
        let numbers: Vec<i64> = steps.iter().map(|(_, step)| i64::from(*step)).collect();
        let rows = vec![ROW; steps.len()];
        database.execute(&insert, &[&ids, &numbers, &rows]).await?;
        for step in steps {
            if let Some(next) = chains.follow(step) {
                publish(next).await?;
            }
        }
        last.ack(BasicAckOptions { multiple: true }).await?;
    }
    let measured = meter.end(processes, load.executions * load.steps, std::mem::take(&mut chains.times));
    receiver.abort();
    drop(confirms);
    confirmed.await??;
    Ok(measured)
}
