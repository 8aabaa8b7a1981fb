//! A coordinator for the tests: puts tasks on the queues and reads the reports.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use stagepost::{Broker, Worker, WorkerError};
use stagepost_broker::in_process::InProcessBroker;
use stagepost_broker::{ConsumeOptions, Consumer, Delivery, QueueSpec};
use stagepost_protocol::topology::Topology;
use stagepost_protocol::{
    Alive, Namespace, Payload, Report, ReportOutcome, ShardId, ShardMessage, TaskMessage, TaskToken,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Everything that is waited for comes within this time, on a slow machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Coordinator {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) topology: Topology,
    reports: Box<dyn Consumer>,
    /// Those that came in one message with one that was returned already.
    waiting: std::collections::VecDeque<Report>,
    /// How many messages they came in.
    pub(crate) messages: usize,
    /// What workers said of themselves meanwhile.
    pub(crate) alive: Vec<Alive>,
}

pub(crate) struct RunningWorker {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Coordinator {
    pub(crate) async fn new() -> Coordinator {
        Coordinator::on(InProcessBroker::new(), Topology::default()).await
    }

    pub(crate) async fn on(broker: Arc<dyn Broker>, topology: Topology) -> Coordinator {
        let shard = topology.shard(ShardId(0));
        broker.declare(&[QueueSpec::ours(&shard)]).await.unwrap();
        let reports = broker.consume(&shard, ConsumeOptions { prefetch: 1000 }).await.unwrap();
        Coordinator { broker, topology, reports, waiting: Default::default(), messages: 0, alive: Vec::new() }
    }

    /// Starts a worker and waits until its queues are there.
    pub(crate) async fn start(&self, worker: Worker, activities: &[&str]) -> RunningWorker {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(worker.run_until(async move {
            let _ = stopped.await;
        }));
        for activity in activities {
            let queue = self.queue(activity);
            until("the queue is there", || async { self.broker.depth(&queue).await.unwrap().is_some() })
                .await;
        }
        RunningWorker { stop: Some(stop), task }
    }

    pub(crate) fn queue(&self, activity: &str) -> String {
        self.topology.activity(&Namespace::default(), activity)
    }

    pub(crate) fn task(&self, activity: &str, id: &str, input: &impl Serialize) -> TaskMessage {
        TaskMessage {
            queue: self.queue(activity),
            attempt_id: id.into(),
            token: TaskToken::from_untrusted(id),
            attempt: 1,
            execution: "arn:aws:states:us-east-1:000000000000:execution:m:e".into(),
            state: "S".into(),
            idempotency_key: format!("{id}-step"),
            deadline: None,
            heartbeat_millis: None,
            call: None,
            input: Payload::from_serialize(input).unwrap(),
            reply_to: self.topology.shard(ShardId(0)),
            priority: 0,
            fairness_key: String::new(),
            republished: false,
            returns: 0,
            traceparent: None,
        }
    }

    pub(crate) async fn publish(&self, tasks: impl IntoIterator<Item = TaskMessage>) {
        let messages = tasks.into_iter().map(|task| task.encode()).collect();
        self.broker.publish(messages).await.into_iter().for_each(|published| published.unwrap());
    }

    pub(crate) async fn schedule(&self, activity: &str, id: &str, input: &impl Serialize) {
        self.publish([self.task(activity, id, input)]).await;
    }

    /// The next report of any kind.
    pub(crate) async fn any_report(&mut self) -> Report {
        while self.waiting.is_empty() {
            let batch = tokio::time::timeout(PATIENCE, self.reports.next(100)).await.expect("a report comes");
            for delivery in batch.expect("the queue lives") {
                self.messages += 1;
                let message = ShardMessage::decode(&delivery.body, &delivery.properties).unwrap();
                match message {
                    ShardMessage::Reports(reports) => self.waiting.extend(reports),
                    ShardMessage::Alive(alive) => self.alive.push(alive),
                    other => panic!("no reports: {other:?}"),
                }
                self.reports.acker().ack(delivery.tag).await;
            }
        }
        self.waiting.pop_front().unwrap()
    }

    /// The next end of an attempt: its id, and its output or its error and cause.
    pub(crate) async fn ended(&mut self) -> (String, Result<String, (String, String)>) {
        loop {
            let report = self.any_report().await;
            let id = report.token.as_str().to_owned();
            match report.outcome {
                ReportOutcome::Succeeded(output) => return (id, Ok(output.as_str().to_owned())),
                ReportOutcome::Failed { error, cause }
                | ReportOutcome::TimedOut { error, cause }
                | ReportOutcome::Aborted { error, cause } => {
                    return (id, Err((error.unwrap_or_default(), cause.unwrap_or_default())));
                }
                ReportOutcome::Started
                | ReportOutcome::Held { .. }
                | ReportOutcome::Claimed(_)
                | ReportOutcome::Released { .. }
                | ReportOutcome::Heartbeat
                | ReportOutcome::Submitted(_) => {}
            }
        }
    }

    pub(crate) async fn take_one(&self, queue: &str) -> Delivery {
        let mut consumer = self.broker.consume(queue, ConsumeOptions { prefetch: 1 }).await.unwrap();
        let batch = tokio::time::timeout(PATIENCE, consumer.next(1)).await.expect("a message comes");
        batch.unwrap().remove(0)
    }
}

impl RunningWorker {
    /// Tells it to stop, without waiting.
    pub(crate) fn tell(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    pub(crate) async fn ended(self) -> Result<(), WorkerError> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the worker stops").unwrap()
    }

    pub(crate) async fn stop(mut self) -> Result<(), WorkerError> {
        self.tell();
        self.ended().await
    }
}

/// Waits until a condition holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
