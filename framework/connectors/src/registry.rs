//! Which connector makes which calls, and the worker that runs them.

use std::{collections::HashMap, fmt, sync::Arc};

use stagepost::{
    Broker, Failure, Worker,
    calls::{CallTask, Called, registration},
};
use stagepost_protocol::{IntegrationPattern, ServiceCall, approval, error_names};

use crate::{
    aws::Aws,
    call::{Answer, Call, Connector},
    http::Http,
    lambda::Lambda,
    optimized::{self, Optimized},
    sdk::{self, Sdk},
    sns::Sns,
    sqs::Sqs,
};

/// Calls that run at a time in one process. They wait for others and cost little else.
const CALLS_AT_A_TIME: u16 = 512;

/// The connectors of a process, by what they are called for.
#[derive(Clone, Default)]
pub struct Registry {
    /// By service and action; the action `*` is every one that has no entry of its own.
    connectors: HashMap<(String, String), Arc<dyn Connector>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.connectors.keys()).finish()
    }
}

impl Registry {
    /// The connectors of this crate. What is sent to RabbitMQ's queues and exchanges goes to
    /// `broker`.
    pub fn standard(broker: Arc<dyn Broker>, aws: &Aws) -> Registry {
        let lambda: Arc<dyn Connector> = Arc::new(Lambda::new(aws.clone()));
        let optimized =
            |which| -> Arc<dyn Connector> { Arc::new(optimized::Service::new(aws.clone(), which)) };
        let mut registry = Registry::default()
            .with("lambda", ServiceCall::FUNCTION, Arc::clone(&lambda))
            .with("lambda", "invoke", lambda)
            .with("sqs", "sendMessage", Arc::new(Sqs::new(Arc::clone(&broker), aws.clone())))
            .with("sns", "publish", Arc::new(Sns::new(broker, optimized(Optimized::Sns))))
            .with("events", "putEvents", optimized(Optimized::Events))
            .with("http", "invoke", Arc::new(Http::new()));
        let dynamodb = optimized(Optimized::DynamoDb);
        for action in ["deleteItem", "getItem", "putItem", "updateItem"] {
            registry = registry.with("dynamodb", action, Arc::clone(&dynamodb));
        }
        let sdk: Arc<dyn Connector> = Arc::new(Sdk::new(aws.clone()));
        for (service, action) in sdk::calls() {
            registry = registry.with(&format!("aws-sdk:{service}"), action, Arc::clone(&sdk));
        }
        registry
    }

    /// Adds a connector for an action of a service, or for all without one of their own (`*`). The last one counts.
    #[must_use]
    pub fn with(mut self, service: &str, action: &str, connector: Arc<dyn Connector>) -> Registry {
        self.connectors.insert((service.to_owned(), action.to_owned()), connector);
        self
    }

    /// The calls that there are connectors for, as `service:action`, in the order of the alphabet.
    pub fn calls(&self) -> Vec<String> {
        let mut calls: Vec<String> =
            self.connectors.keys().map(|(service, action)| format!("{service}:{action}")).collect();
        calls.sort();
        calls
    }

    /// Those of the calls that definitions may make: a function by its ARN is no service integration, and how Map states
    /// read and write is the engine's own affair.
    pub fn integrations(&self) -> Vec<String> {
        let mut calls = self.calls();
        let approval = format!("{}:{}", approval::SERVICE, approval::ACTION);
        calls.retain(|call| {
            *call != "lambda:function" && (*call == approval || !call.starts_with("stagepost:"))
        });
        calls
    }

    /// Whether there is a connector for an action of a service that waits for what the pattern says.
    pub fn has(&self, service: &str, action: &str, pattern: IntegrationPattern) -> bool {
        self.find(service, action).is_some_and(|connector| connector.offers(pattern))
    }

    fn find(&self, service: &str, action: &str) -> Option<&Arc<dyn Connector>> {
        let found = |action: &str| self.connectors.get(&(service.to_owned(), action.to_owned()));
        found(action).or_else(|| found("*"))
    }

    /// Makes a call.
    ///
    /// # Errors
    /// As the connector says, or `States.Runtime` where there is none.
    pub async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let Some(connector) = self.find(&call.service, &call.action) else { return Err(self.unknown(&call)) };
        let pattern = call.pattern;
        if !connector.offers(pattern) {
            let cause = format!(
                "The service integration '{}{}' is not supported by this version of Stagepost: nothing tells it when \
                 the job ends. Call '{}' and wait for the job with states of the definition, or use \
                 '.waitForTaskToken'.",
                call.resource(),
                pattern.suffix(),
                call.resource()
            );
            return Err(Failure::new(error_names::RUNTIME, cause));
        }
        match (connector.call(call).await?, pattern) {
            (Answer::Done(answer), IntegrationPattern::WaitForTaskToken) => Ok(Answer::Submitted(answer)),
            (answer, _) => Ok(answer),
        }
    }

    fn unknown(&self, call: &Call) -> Failure {
        let known = self.integrations();
        let cause = format!(
            "The service integration '{}' is not supported by this version of Stagepost. It supports {}.",
            call.resource(),
            known.join(", ")
        );
        Failure::new(error_names::RUNTIME, cause)
    }
}

/// A worker that takes calls off the installation's queue and makes them, until it is told to stop.
pub fn worker(broker: Arc<dyn Broker>, registry: Registry) -> Worker {
    let registry = Arc::new(registry);
    let run = move |task: CallTask| -> stagepost::calls::CallRun {
        let registry = Arc::clone(&registry);
        Box::pin(async move {
            match registry.call(of_task(task)).await? {
                Answer::Done(output) => Ok(Called::Done(output)),
                Answer::Submitted(output) => Ok(Called::Submitted(output)),
            }
        })
    };
    Worker::with_broker(broker).concurrency(CALLS_AT_A_TIME).register(registration(run))
}

fn of_task(task: CallTask) -> Call {
    let CallTask { context, call: ServiceCall { service, action, pattern, function }, input, attempt_id } =
        task;
    Call {
        service,
        action,
        pattern,
        function,
        input,
        execution: context.execution().to_owned(),
        state: context.state().to_owned(),
        attempt: context.attempt(),
        attempt_id,
        idempotency_key: context.idempotency_key().to_owned(),
        token: stagepost_protocol::TaskToken::from_untrusted(context.task_token()),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde_json::json;
    use stagepost_broker::{ConsumeOptions, QueueSpec, in_process::InProcessBroker};
    use stagepost_protocol::{
        Payload, ReportOutcome, ShardMessage, TaskMessage, TaskToken, topology::Topology,
    };

    use super::*;
    use crate::aws::Settings;

    /// Answers with its input.
    struct Echo;

    #[async_trait]
    impl Connector for Echo {
        async fn call(&self, call: Call) -> Result<Answer, Failure> {
            match call.action.as_str() {
                "fail" => Err(Failure::new("Echo.Failed", call.region())),
                _ => Ok(Answer::Done(call.input)),
            }
        }
    }

    fn task(resource: &str) -> TaskMessage {
        TaskMessage {
            queue: Topology::default().connectors(),
            attempt_id: format!("id {resource}"),
            token: TaskToken::from_untrusted(resource),
            attempt: 1,
            execution: "arn:aws:states:eu-west-1:000000000000:execution:m:e".to_owned(),
            state: "S".to_owned(),
            idempotency_key: "k".to_owned(),
            deadline: None,
            heartbeat_millis: None,
            call: ServiceCall::parse(resource),
            input: Payload::from_value(&json!({ "a": 1 })),
            reply_to: "shard".to_owned(),
            priority: 0,
            fairness_key: String::new(),
            republished: false,
            returns: 0,
            traceparent: None,
        }
    }

    #[tokio::test]
    async fn calls_are_taken_off_the_queue_and_reported() {
        let broker = InProcessBroker::new();
        let registry = Registry::standard(broker.clone(), &Aws::new(Settings::default())).with(
            "echo",
            "*",
            Arc::new(Echo),
        );
        let queues = [QueueSpec::ours(Topology::default().connectors()), QueueSpec::ours("shard")];
        broker.declare(&queues).await.unwrap();
        let mut reports = broker.consume("shard", ConsumeOptions { prefetch: 100 }).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(worker(broker.clone(), registry).run_until(async {
            let _ = stopped.await;
        }));

        let done = |outcome: ReportOutcome| matches!(outcome, ReportOutcome::Succeeded(p) if p.as_str() == r#"{"a":1}"#);
        let submitted =
            |outcome| matches!(outcome, ReportOutcome::Submitted(p) if p.as_str() == r#"{"a":1}"#);
        let failed = |outcome, name: &str, text: &str| match outcome {
            ReportOutcome::Failed { error: Some(error), cause: Some(cause) } => {
                error == name && cause.contains(text)
            }
            _ => false,
        };
        for (resource, expected) in [
            ("echo:say", &done as &dyn Fn(ReportOutcome) -> bool),
            ("echo:say.waitForTaskToken", &submitted),
            ("echo:fail", &|outcome| failed(outcome, "Echo.Failed", "eu-west-1")),
            ("nobody:listens", &|outcome| {
                failed(outcome, "States.Runtime", "'nobody:listens' is not supported")
            }),
            ("echo:say.sync", &|outcome| {
                failed(outcome, "States.Runtime", "'echo:say.sync' is not supported")
            }),
        ] {
            let published = broker.publish(vec![task(resource).encode()]).await;
            assert!(matches!(published[..], [Ok(())]));
            let delivery = reports.next(1).await.unwrap().remove(0);
            reports.acker().ack(delivery.tag).await;
            let message = ShardMessage::decode(&delivery.body, &delivery.properties).unwrap();
            let ShardMessage::Reports(mut found) = message else { panic!("{message:?}") };
            let report = found.remove(0);
            assert_eq!(report.token.as_str(), resource);
            assert!(expected(report.outcome.clone()), "{resource}: {:?}", report.outcome);
        }
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
        assert_eq!(broker.depth(&Topology::default().connectors()).await.unwrap(), Some(0));
    }

    #[tokio::test]
    async fn messages_go_to_rabbitmq_queues_that_are_made_where_they_are_missing() {
        let broker = InProcessBroker::new();
        let registry = Registry::standard(broker.clone(), &Aws::new(Settings::default()));
        let input = json!({ "QueueUrl": "amqp:///orders", "MessageBody": { "x": 1 } });
        let Answer::Submitted(answer) =
            registry.call(crate::testing::call("sqs:sendMessage.waitForTaskToken", &input)).await.unwrap()
        else {
            panic!()
        };
        let mut queue = broker.consume("orders", ConsumeOptions { prefetch: 1 }).await.unwrap();
        let delivery = queue.next(1).await.unwrap().remove(0);
        assert_eq!(&delivery.body[..], br#"{"x":1}"#);
        assert_eq!(answer.to_value()["MessageId"].as_str(), delivery.properties.message_id.as_deref());
    }
}
