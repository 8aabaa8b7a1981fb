//! How everybody but the coordinator asks a shard for something: a request over the shard's queue, answered
//! after the commit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use stagepost_broker::{Broker, Consumer, Delivery, QueueSpec};
use stagepost_protocol::{
    ExecutionArn, ExecutionId, ExpressStart, Message, Namespace, Payload, Report, ReportOutcome, ServiceCall,
    ShardMessage, Shards, Signal, TaskMessage, Timestamp, TokenKey,
    shard::{Redrive, Reply, Start, Stop, UpdateMapRun},
    topology::Topology,
};
use tokio::{sync::oneshot, task::AbortHandle, time::timeout};

mod poll;

pub use poll::Poller;

/// How long a request waits for its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No coordinator answered in time. Whether the request took effect is not known; repeating it is safe.
    #[error("no coordinator answered within {} seconds: is one running, and are its broker and database up?", .0.as_secs())]
    Timeout(Duration),
    /// The broker refused.
    #[error(transparent)]
    Broker(#[from] stagepost_broker::Error),
}

/// Who waits for what: requests by their correlation id, calls of services by their task token.
#[derive(Default)]
struct Waiting {
    replies: HashMap<String, oneshot::Sender<Reply>>,
    outcomes: HashMap<String, oneshot::Sender<ReportOutcome>>,
}

type Pending = Arc<Mutex<Waiting>>;

/// A call of a service for no execution that anybody keeps: one attempt, whose outcome goes to who asked.
#[derive(Debug, Clone)]
pub struct OneCall {
    /// What the service is told of its caller. Never used before: it makes the task token.
    pub execution: ExecutionArn,
    /// The state's name.
    pub state: String,
    /// What is called.
    pub target: ServiceCall,
    /// The parameters.
    pub input: Payload,
    /// When nobody waits for its outcome any more.
    pub deadline: Timestamp,
}

/// Sends requests to shards and waits for their replies. Cheap to share.
pub struct Client {
    broker: Arc<dyn Broker>,
    topology: Topology,
    shards: Shards,
    token_key: TokenKey,
    reply_to: String,
    pending: Pending,
    next_id: AtomicU64,
    receiver: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl Client {
    /// A client with a reply queue of its own.
    pub async fn connect(
        broker: Arc<dyn Broker>,
        topology: Topology,
        shards: Shards,
        token_key: TokenKey,
    ) -> Result<Arc<Client>, stagepost_broker::Error> {
        // A request may come before the first coordinator; it waits in the queue.
        let names = shards.all().map(|shard| topology.shard(shard)).chain([topology.express()]);
        let queues: Vec<QueueSpec> = names.map(QueueSpec::ours).collect();
        broker.declare(&queues).await?;
        let (reply_to, replies) = broker.reply_queue().await?;
        let pending = Pending::default();
        let receiver = tokio::spawn(receive(replies, pending.clone())).abort_handle();
        let next_id = AtomicU64::new(1);
        Ok(Arc::new(Client { broker, topology, shards, token_key, reply_to, pending, next_id, receiver }))
    }

    /// The secret that signs the installation's task tokens.
    pub fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    /// Sends a request to the shard of `execution` and waits for its reply, which comes after the commit.
    pub async fn request(&self, execution: ExecutionId, message: ShardMessage) -> Result<Reply, ClientError> {
        self.request_at(self.topology.shard(self.shards.of(execution)), message).await
    }

    async fn request_at(&self, queue: String, message: ShardMessage) -> Result<Reply, ClientError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, reply) = oneshot::channel();
        lock(&self.pending).replies.insert(id.clone(), sender);
        // Whatever ends this call, a caller that went away included, its entry must go.
        let _forget = Forget { pending: &self.pending, id: &id };
        let message = message.encode(queue, Some((self.reply_to.clone(), id.clone())));
        let exchange = async {
            for published in self.broker.publish(vec![message]).await {
                published?;
            }
            // The sender lives in the map until `_forget`, so the only error is the receiver's end.
            reply.await.map_err(|_| ClientError::Broker(stagepost_broker::Error::Closed))
        };
        match timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Timeout(REQUEST_TIMEOUT)),
        }
    }

    /// Starts an execution.
    pub async fn start(&self, start: Start) -> Result<Reply, ClientError> {
        self.request(start.execution.id(), ShardMessage::Start(Box::new(start))).await
    }

    /// Stops an execution.
    pub async fn stop(&self, stop: Stop) -> Result<Reply, ClientError> {
        self.request(stop.execution.id(), ShardMessage::Stop(stop)).await
    }

    /// Starts an Express execution, asynchronously: when this returns, the broker has it, and some process will run
    /// it, again if that one dies meanwhile.
    pub async fn start_express(&self, start: &ExpressStart) -> Result<(), ClientError> {
        self.publish(start.encode(self.topology.express())).await
    }

    /// Publishes a message to a queue that is there. When this returns, the broker has it.
    pub async fn publish(&self, message: Message) -> Result<(), ClientError> {
        let published = timeout(REQUEST_TIMEOUT, self.broker.publish(vec![message])).await;
        let published = published.map_err(|_| ClientError::Timeout(REQUEST_TIMEOUT))?;
        published.into_iter().try_for_each(|result| Ok(result?))
    }

    /// Redrives an execution.
    pub async fn redrive(&self, redrive: Redrive) -> Result<Reply, ClientError> {
        self.request(redrive.execution.id(), ShardMessage::Redrive(redrive)).await
    }

    /// Signals a running execution.
    pub async fn signal(&self, signal: Signal) -> Result<Reply, ClientError> {
        self.request(signal.execution.id(), ShardMessage::Signal(signal)).await
    }

    /// Has a service called once, by whoever has the role of a connector, and waits up to `wait` for what becomes of it;
    /// `None` when that is not known by then.
    pub async fn call(&self, call: OneCall, wait: Duration) -> Result<Option<ReportOutcome>, ClientError> {
        let queue = self.topology.connectors();
        self.broker.declare(&[QueueSpec::ours(&queue)]).await?;
        let id = call.execution.id();
        let token = self.token_key.sign(id, 1);
        let (sender, outcome) = oneshot::channel();
        lock(&self.pending).outcomes.insert(token.as_str().to_owned(), sender);
        let _forget = Forget { pending: &self.pending, id: token.as_str() };
        let task = TaskMessage {
            queue,
            attempt_id: format!("{id}-1"),
            idempotency_key: format!("{id}-1"),
            token: token.clone(),
            attempt: 1,
            execution: call.execution.to_string(),
            state: call.state,
            deadline: Some(call.deadline),
            heartbeat_millis: None,
            call: Some(call.target),
            input: call.input,
            reply_to: self.reply_to.clone(),
            priority: 0,
            fairness_key: String::new(),
            republished: false,
            returns: 0,
            traceparent: None,
        };
        let exchange = async {
            for published in self.broker.publish(vec![task.encode()]).await {
                published?;
            }
            outcome.await.map_err(|_| ClientError::Broker(stagepost_broker::Error::Closed))
        };
        timeout(wait, exchange).await.ok().transpose()
    }

    /// Changes how a Map Run runs.
    pub async fn update_map_run(&self, update: UpdateMapRun) -> Result<Reply, ClientError> {
        self.request(update.execution.id(), ShardMessage::UpdateMapRun(update)).await
    }

    /// Reports what became of an attempt. A token of another installation is answered without asking anyone.
    pub async fn report(&self, report: Report) -> Result<Reply, ClientError> {
        let Some((execution, _)) = self.token_key.verify(report.token.as_str()) else {
            return Ok(Reply::InvalidToken);
        };
        let runner = report.token.claimed_runner();
        let message = ShardMessage::Reports(vec![report]);
        let Some(runner) = runner else { return self.request(execution, message).await };
        match self.request_at(self.topology.runner(runner), message).await {
            // The process that ran the Express execution is gone, and the execution with it.
            Err(ClientError::Broker(stagepost_broker::Error::Unroutable { .. })) => Ok(Reply::TaskTimedOut),
            answer => answer,
        }
    }

    /// Waits up to `wait` for a task of an activity, and announces it as started by `poller` before returning it:
    /// from then on nothing is held at the broker. Dropping the future earlier gives the task to somebody else.
    pub async fn poll_activity(
        self: &Arc<Client>,
        namespace: &Namespace,
        activity: &str,
        poller: Poller,
        wait: Duration,
    ) -> Result<Option<TaskMessage>, ClientError> {
        poll::run(self, self.topology.activity(namespace, activity), poller, wait).await
    }
}

struct Forget<'a> {
    pending: &'a Pending,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut pending = lock(self.pending);
        pending.replies.remove(self.id);
        pending.outcomes.remove(self.id);
    }
}

/// A panic elsewhere cannot leave the map half changed, so a poisoned lock is as good as any.
fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, Waiting> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive(mut replies: Box<dyn Consumer>, pending: Pending) {
    while let Some(deliveries) = replies.next(256).await {
        for delivery in deliveries {
            let Some(id) = &delivery.properties.correlation_id else {
                reported(&delivery, &pending);
                continue;
            };
            let Some(sender) = lock(&pending).replies.remove(id) else { continue };
            match serde_json::from_slice(&delivery.body) {
                // The asker may have gone away.
                Ok(reply) => drop(sender.send(reply)),
                Err(error) => {
                    tracing::warn!(%error, "a reply could not be read; are all processes of one version?")
                }
            }
        }
    }
}

/// What a connector says of calls.
fn reported(delivery: &Delivery, pending: &Pending) {
    let Ok(ShardMessage::Reports(reports)) = ShardMessage::decode(&delivery.body, &delivery.properties)
    else {
        tracing::warn!("a message to a client is neither a reply nor a report");
        return;
    };
    for Report { token, outcome, .. } in reports {
        if !outcome.is_end() && !matches!(outcome, ReportOutcome::Submitted(_)) {
            continue;
        }
        let sender = lock(pending).outcomes.remove(token.as_str());
        // The asker may have gone away.
        drop(sender.map(|sender| sender.send(outcome)));
    }
}

#[cfg(test)]
mod tests {
    use stagepost_broker::{ConsumeOptions, in_process::InProcessBroker};
    use stagepost_protocol::{IntegrationPattern, StateMachineArn};

    use super::*;

    fn call(name: &str) -> OneCall {
        let machine = StateMachineArn { namespace: Namespace::default(), name: "m".to_owned() };
        let target = ServiceCall {
            service: "lambda".to_owned(),
            action: "invoke".to_owned(),
            pattern: IntegrationPattern::RequestResponse,
            function: None,
        };
        let input = Payload::parse("{\"a\":1}").unwrap();
        OneCall {
            execution: machine.execution(name),
            state: "S".to_owned(),
            target,
            input,
            deadline: Timestamp::from_millis(7),
        }
    }

    #[tokio::test]
    async fn the_outcome_of_a_call_goes_to_who_asked() {
        let broker: Arc<dyn Broker> = InProcessBroker::new();
        let (topology, key) = (Topology::default(), TokenKey::new(&[1; 32]));
        let shards = Shards::new(1).unwrap();
        let client = Client::connect(broker.clone(), topology.clone(), shards, key).await.unwrap();
        let queue = topology.connectors();
        broker.declare(&[QueueSpec::ours(&queue)]).await.unwrap();
        let mut connector = broker.consume(&queue, ConsumeOptions { prefetch: 2 }).await.unwrap();
        let answering = tokio::spawn(async move {
            // Both are asked before either is answered, and the later one is answered first.
            let mut tasks = Vec::new();
            while tasks.len() < 2 {
                for delivery in connector.next(2).await.unwrap() {
                    tasks.push(TaskMessage::decode(&queue, &delivery.body, &delivery.properties).unwrap());
                }
            }
            for task in tasks.iter().rev() {
                assert_eq!((task.input.as_str(), task.attempt, task.state.as_str()), ("{\"a\":1}", 1, "S"));
                assert_eq!(task.call.as_ref().unwrap().resource(), "lambda:invoke");
                let output = Payload::from_value(&task.execution.as_str().into());
                let report = |outcome| Report {
                    token: task.token.clone(),
                    worker: None,
                    started_at: None,
                    outcome,
                    child: None,
                    answer: None,
                };
                let reports = vec![report(ReportOutcome::Started), report(ReportOutcome::Succeeded(output))];
                let message = ShardMessage::Reports(reports).encode(task.reply_to.clone(), None);
                broker.publish(vec![message]).await.into_iter().for_each(|published| published.unwrap());
            }
        });
        let wait = Duration::from_secs(30);
        let (one, two) = tokio::join!(client.call(call("one"), wait), client.call(call("two"), wait));
        for (outcome, name) in [(one, "one"), (two, "two")] {
            let Some(ReportOutcome::Succeeded(output)) = outcome.unwrap() else { panic!("{name}") };
            assert!(output.as_str().ends_with(&format!(":{name}\"")), "{name}");
        }
        answering.await.unwrap();
        // Nobody answers, and nothing is left of the question.
        assert_eq!(client.call(call("three"), Duration::from_millis(1)).await.unwrap(), None);
        assert!(lock(&client.pending).outcomes.is_empty());
    }
}
