//! `sns:publish`: a message to an exchange of RabbitMQ, by a `TopicArn` of `amqp:///EXCHANGE/ROUTING.KEY`, or to a topic of
//! SNS or what stands for it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use stagepost::{Broker, Failure};
use stagepost_broker::{Error as BrokerError, Published};
use stagepost_protocol::{IntegrationPattern, Payload, Properties, error_names};

use crate::{
    call::{Answer, Call, Connector},
    message,
};

/// What a topic of ours begins with.
const SCHEME: &str = "amqp:///";
/// So many exchanges are remembered as declared.
const KNOWN_MAX: usize = 1_000;

/// The connector: `service` makes the calls for topics that are not ours.
pub(crate) struct Sns {
    broker: Arc<dyn Broker>,
    service: Arc<dyn Connector>,
    /// Exchanges that were there when they were used last.
    known: Mutex<HashSet<String>>,
}

impl Sns {
    pub(crate) fn new(broker: Arc<dyn Broker>, service: Arc<dyn Connector>) -> Sns {
        Sns { broker, service, known: Mutex::default() }
    }

    /// Publishes a message, and makes its exchange where there is none.
    async fn publish(&self, topic: Topic<'_>, body: &Bytes, properties: &Properties) -> Published {
        let Topic { exchange, routing_key } = topic;
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let publish =
            || self.broker.publish_to_exchange(exchange, routing_key, body.clone(), properties.clone());
        if known().contains(exchange) {
            match publish().await {
                Err(BrokerError::Denied { .. }) => drop(known().remove(exchange)),
                published => return published,
            }
        }
        self.broker.declare_exchange(exchange).await?;
        let published = publish().await;
        let mut known = known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(exchange.to_owned());
        published
    }
}

#[async_trait]
impl Connector for Sns {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let parameters = call.input.to_value();
        let named = parameters.get("TopicArn").or_else(|| parameters.get("TargetArn"));
        let Some(name) = named.and_then(Value::as_str).and_then(|arn| arn.strip_prefix(SCHEME)) else {
            return self.service.call(call).await;
        };
        let topic = topic(name)?;
        let body = message::body(&parameters, "Message").ok_or_else(|| {
            let cause = "Invalid parameter: Empty message (Service: AmazonSNS; Status Code: 400; Error Code: \
                         InvalidParameter; Request ID: null; Proxy: null)";
            Failure::new("SNS.InvalidParameterException", cause)
        })?;
        let properties =
            message::properties(&parameters, &call.attempt_id).map_err(|problem| unsupported(&problem))?;
        let answer = Payload::from_value(&json!({ "MessageId": properties.message_id }));
        match self.publish(topic, &body, &properties).await {
            Ok(()) => Ok(Answer::Done(answer)),
            // As with a topic that nobody has subscribed to; but a question that nobody hears has no answer.
            Err(BrokerError::Unbound { .. }) if call.pattern != IntegrationPattern::WaitForTaskToken => {
                Ok(Answer::Done(answer))
            }
            Err(error @ BrokerError::Unbound { .. }) => {
                let cause = format!("{error}, so nobody can answer");
                Err(Failure::new("SNS.NotFoundException", cause))
            }
            Err(error) => Err(Failure::new("SNS.SdkClientException", error)),
        }
    }
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Topic<'a> {
    exchange: &'a str,
    routing_key: &'a str,
}

fn topic(name: &str) -> Result<Topic<'_>, Failure> {
    let (exchange, routing_key) = name.split_once('/').unwrap_or((name, ""));
    if exchange.is_empty() {
        return Err(unsupported(&format!(
            "TopicArn must be amqp:///EXCHANGE/ROUTING.KEY or the ARN of a topic of SNS, but was '{SCHEME}{name}'"
        )));
    }
    Ok(Topic { exchange, routing_key })
}

fn unsupported(problem: &str) -> Failure {
    Failure::new(error_names::RUNTIME, format!("The publish request cannot be made: {problem}"))
}

#[cfg(test)]
mod tests {
    use stagepost::ActivityError;
    use stagepost_broker::{ConsumeOptions, QueueSpec, in_process::InProcessBroker};

    use super::*;
    use crate::testing::call;

    /// Stands for SNS.
    struct Elsewhere;

    #[async_trait]
    impl Connector for Elsewhere {
        async fn call(&self, _: Call) -> Result<Answer, Failure> {
            Err(Failure::new("Elsewhere", "asked"))
        }
    }

    #[tokio::test]
    async fn messages_go_to_the_queues_that_are_bound_to_the_exchange() {
        let broker = InProcessBroker::new();
        let sns = Sns::new(broker.clone(), Arc::new(Elsewhere));
        let parameters = json!({
            "TopicArn": "amqp:///events/orders.new",
            "Message": { "x": 1 },
            "MessageAttributes": { "kind": { "DataType": "String", "StringValue": "a" } },
        });
        // Nobody is there to hear it.
        let asked = sns.call(call("sns:publish.waitForTaskToken", &parameters)).await.unwrap_err();
        assert_eq!(asked.name(), "SNS.NotFoundException");
        assert!(asked.cause().contains("exchange 'events' for routing key 'orders.new'"), "{asked}");
        assert!(matches!(sns.call(call("sns:publish", &parameters)).await, Ok(Answer::Done(_))));

        broker.declare(&[QueueSpec::ours("new-orders")]).await.unwrap();
        broker.bind("new-orders", "events", "orders.*").await.unwrap();
        let Ok(Answer::Done(answer)) = sns.call(call("sns:publish.waitForTaskToken", &parameters)).await
        else {
            panic!()
        };
        let mut queue = broker.consume("new-orders", ConsumeOptions { prefetch: 1 }).await.unwrap();
        let delivery = queue.next(1).await.unwrap().remove(0);
        assert_eq!(&delivery.body[..], br#"{"x":1}"#);
        assert_eq!(delivery.properties.headers["kind"].as_text(), Some("a"));
        let id = delivery.properties.message_id.unwrap();
        assert_eq!(answer.to_value()["MessageId"], id);
        // The same attempt once more: the same message.
        let Ok(Answer::Done(answer)) = sns.call(call("sns:publish", &parameters)).await else { panic!() };
        assert_eq!(answer.to_value()["MessageId"], id);
    }

    #[tokio::test]
    async fn topics_that_are_not_ours_and_what_cannot_be_sent() {
        let sns = Sns::new(InProcessBroker::new(), Arc::new(Elsewhere));
        for (parameters, error, told) in [
            (json!({ "TopicArn": "arn:aws:sns:us-east-1:0:t", "Message": "m" }), "Elsewhere", "asked"),
            (json!({ "PhoneNumber": "1", "Message": "m" }), "Elsewhere", "asked"),
            (json!({ "TopicArn": "amqp:///e/k" }), "SNS.InvalidParameterException", "Empty message"),
            (json!({ "TopicArn": "amqp:////k", "Message": "m" }), "States.Runtime", "amqp:///EXCHANGE"),
            (
                json!({ "TopicArn": "amqp:///e", "Message": "m", "MessageAttributes": 1 }),
                "States.Runtime",
                "must be an object",
            ),
        ] {
            let failure = sns.call(call("sns:publish", &parameters)).await.unwrap_err();
            assert_eq!(failure.name(), error, "{parameters}");
            assert!(failure.cause().contains(told), "{failure}");
        }
        assert_eq!(topic("e/a.b/c").unwrap(), Topic { exchange: "e", routing_key: "a.b/c" });
        assert_eq!(topic("e").unwrap(), Topic { exchange: "e", routing_key: "" });
    }
}
