//! `sqs:sendMessage`: a message to a RabbitMQ queue, by a `QueueUrl` of `amqp:///QUEUE` or the bare name of a queue, or to
//! a queue of SQS or what stands for it, by a `QueueUrl` of `https://` or `http://`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use stagepost::{Broker, Failure};
use stagepost_broker::{Published, QueueSpec};
use stagepost_protocol::{Message, Payload, error_names};

use crate::{
    aws::{self, Answered, Aws, Problem, Service, sdk_metadata},
    call::{Answer, Call, Connector},
    message,
    optimized::as_text,
};

/// The connector.
pub(crate) struct Sqs {
    broker: Arc<dyn Broker>,
    aws: Aws,
}

const SERVICE: Service = Service { variable: "SQS", host: "sqs", signing: "sqs" };
const ANSWERED: Answered = Answered { prefix: "SQS", service: "AmazonSQS", general: "AmazonSQSException" };

impl Sqs {
    pub(crate) fn new(broker: Arc<dyn Broker>, aws: Aws) -> Sqs {
        Sqs { broker, aws }
    }

    /// Sends to a queue of SQS.
    async fn send(&self, call: &Call, url: &str, mut parameters: Value) -> Result<Answer, Failure> {
        if parameters.get("MessageBody").is_none_or(Value::is_null) {
            return Err(missing("MessageBody"));
        }
        as_text(&mut parameters, "MessageBody");
        let region = call.region();
        let request = request(&self.aws, self.aws.region(&region), url, "SendMessage", &parameters);
        let response = self.aws.send(request).await.map_err(|error| ANSWERED.unanswered(&error))?;
        if response.status != 200 {
            let mut problem = Problem::of_json(&response);
            // The code that the query protocol had, before `;`.
            let queried = response.header("x-amzn-query-error").and_then(|text| text.split(';').next());
            let name = problem.name();
            if let Some(code) = queried {
                problem.code = code.to_owned();
            }
            return Err(ANSWERED.optimized_as(&response, &problem, name.as_deref()));
        }
        let answer = serde_json::from_slice(&response.body).unwrap_or_default();
        let Value::Object(mut answer) = answer else {
            return Err(Failure::new(
                "SQS.SdkClientException",
                "the answer to SendMessage is no JSON object",
            ));
        };
        answer.extend(sdk_metadata(&response));
        Ok(Answer::Done(Payload::from_value(&answer.into())))
    }

    /// Publishes a message, and makes its queue where there is none.
    async fn publish(&self, message: Message) -> Published {
        let queue = QueueSpec::ours(&message.queue);
        let publish =
            async |message| self.broker.publish(vec![message]).await.into_iter().next().unwrap_or(Ok(()));
        match publish(message.clone()).await {
            Err(stagepost_broker::Error::Unroutable { .. }) => {
                self.broker.declare(&[queue]).await?;
                publish(message).await
            }
            published => published,
        }
    }
}

#[async_trait]
impl Connector for Sqs {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let parameters = call.input.to_value();
        if let Some(url) = parameters.get("QueueUrl").and_then(Value::as_str)
            && (url.starts_with("https://") || url.starts_with("http://"))
        {
            let url = url.to_owned();
            return self.send(&call, &url, parameters).await;
        }
        let queue = queue(parameters.get("QueueUrl"))?;
        let message = message(queue, &call.attempt_id, &parameters)?;
        let answer = answer(&message);
        match self.publish(message).await {
            Ok(()) => Ok(Answer::Done(answer)),
            Err(error) => Err(Failure::new("SQS.SdkClientException", error)),
        }
    }
}

/// A request about the queue at a URL, which says where the service is, unless the settings do.
pub(crate) fn request(aws: &Aws, region: &str, url: &str, action: &str, parameters: &Value) -> aws::Request {
    let mut request = aws::json(SERVICE, region, "1.0", &format!("AmazonSQS.{action}"), parameters);
    let settings = aws.settings();
    if settings.endpoint.is_none() && !settings.endpoints.contains_key(SERVICE.variable) {
        request.endpoint = reqwest::Url::parse(url).ok().map(|url| url.origin().ascii_serialization());
    }
    request
}

fn missing(parameter: &str) -> Failure {
    Failure::new(
        "SQS.AmazonSQSException",
        format!(
            "The request must contain the parameter {parameter}. (Service: AmazonSQS; Status Code: 400; Error Code: \
             MissingParameter; Request ID: null; Proxy: null)"
        ),
    )
}

fn unsupported(problem: &str) -> Failure {
    Failure::new(error_names::RUNTIME, format!("The sendMessage request cannot be made: {problem}"))
}

fn queue(url: Option<&Value>) -> Result<String, Failure> {
    let url = match url {
        Some(Value::String(url)) if !url.is_empty() => url,
        _ => return Err(missing("QueueUrl")),
    };
    let name = url.strip_prefix("amqp:///").unwrap_or(url);
    if name.is_empty() || name.contains("://") {
        return Err(unsupported(&format!(
            "QueueUrl must be amqp:///QUEUE or the name of a queue of RabbitMQ, or the https:// URL of a queue of SQS, \
             but was '{url}'"
        )));
    }
    Ok(name.to_owned())
}

/// The message that the parameters ask for.
fn message(queue: String, attempt_id: &str, parameters: &Value) -> Result<Message, Failure> {
    let body = message::body(parameters, "MessageBody").ok_or_else(|| missing("MessageBody"))?;
    let properties = message::properties(parameters, attempt_id).map_err(|problem| unsupported(&problem))?;
    Ok(Message { queue, body, properties, persistent: true })
}

/// What SQS answers to a request.
fn answer(message: &Message) -> Payload {
    let digest = message::md5(&message.body);
    Payload::from_value(&json!({ "MD5OfMessageBody": digest, "MessageId": message.properties.message_id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_of(parameters: &Value) -> Result<Message, Failure> {
        message(queue(parameters.get("QueueUrl"))?, "execution-3", parameters)
    }

    #[test]
    fn parameters_become_a_message() {
        for (url, queue) in [("amqp:///orders", "orders"), ("orders", "orders")] {
            let attribute = json!({ "kind": { "DataType": "String", "StringValue": "a" } });
            let parameters =
                json!({ "QueueUrl": url, "MessageBody": { "x": 1 }, "MessageAttributes": attribute });
            let message = message_of(&parameters).unwrap();
            assert_eq!((message.queue.as_str(), &message.body[..]), (queue, &br#"{"x":1}"#[..]));
            assert_eq!(message.properties.headers["kind"].as_text(), Some("a"));
        }
        let message = message_of(&json!({ "QueueUrl": "q", "MessageBody": "hello" })).unwrap();
        let answer = answer(&message).to_value();
        assert_eq!(answer["MD5OfMessageBody"], "5d41402abc4b2a76b9719d911017c592");
        assert_eq!(answer["MessageId"].as_str().map(str::len), Some(36));
    }

    #[tokio::test]
    async fn a_step_is_not_over_before_its_message_is_confirmed() {
        use std::time::Duration;

        use stagepost_broker::{
            ConsumeOptions,
            in_process::{InProcessBroker, Limits},
        };

        use crate::{aws::Settings, testing::call};

        // Full with one message, and nothing is taken while it is: as a broker that does not confirm.
        let broker = InProcessBroker::with_limits(Limits { bytes: 1, wait_max: Duration::from_secs(3600) });
        broker.declare(&[QueueSpec::ours("full")]).await.unwrap();
        let parameters = json!({ "QueueUrl": "full", "MessageBody": "first" });
        let sqs = Sqs::new(broker.clone(), Aws::new(Settings::default()));
        assert!(sqs.call(call("sqs:sendMessage", &parameters)).await.is_ok());
        let mut calling = Box::pin(sqs.call(call("sqs:sendMessage", &parameters)));
        let waits = tokio::time::timeout(Duration::from_millis(50), &mut calling).await;
        assert!(waits.is_err(), "the call has ended, although nobody has the message");
        let mut consumer = broker.consume("full", ConsumeOptions { prefetch: 1 }).await.unwrap();
        let first = consumer.next(1).await.unwrap().remove(0);
        consumer.acker().ack(first.tag).await;
        assert!(matches!(calling.await, Ok(Answer::Done(_))));
    }

    #[tokio::test]
    async fn queues_of_sqs_are_reached_by_their_url() {
        use stagepost::ActivityError;
        use stagepost_broker::in_process::InProcessBroker;

        use crate::{
            aws::Settings,
            testing::{Desk, call},
        };

        let desk = Desk::answering(200, &[], r#"{"MessageId":"m","MD5OfMessageBody":"d"}"#).await;
        let sqs = Sqs::new(InProcessBroker::new(), desk.aws("SQS"));
        let parameters = json!({ "QueueUrl": "https://sqs/1/q", "MessageBody": { "x": 1 } });
        let Ok(Answer::Done(answer)) = sqs.call(call("sqs:sendMessage", &parameters)).await else { panic!() };
        assert_eq!(answer.to_value()["MessageId"], "m");
        assert_eq!(answer.to_value()["SdkHttpMetadata"]["HttpStatusCode"], 200);
        let seen = desk.last();
        assert_eq!(seen.headers["x-amz-target"], "AmazonSQS.SendMessage");
        let sent = json!({ "QueueUrl": "https://sqs/1/q", "MessageBody": r#"{"x":1}"# });
        assert_eq!(serde_json::from_str::<Value>(&seen.body).unwrap(), sent);

        let gone = Desk::answering(
            400,
            &[
                ("x-amzn-query-error", "AWS.SimpleQueueService.NonExistentQueue;Sender"),
                ("x-amzn-requestid", "r"),
            ],
            r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The queue does not exist."}"#,
        )
        .await;
        // Without an endpoint for SQS, the queue's URL says where it is.
        let credentials = gone.aws("SQS").settings().credentials.clone();
        let aws = Aws::new(Settings { credentials, ..Settings::default() });
        let sqs = Sqs::new(InProcessBroker::new(), aws);
        let parameters = json!({ "QueueUrl": format!("{}/1/q", gone.url), "MessageBody": "x" });
        let failure = sqs.call(call("sqs:sendMessage", &parameters)).await.unwrap_err();
        assert_eq!(failure.name(), "SQS.QueueDoesNotExistException");
        assert_eq!(
            failure.cause(),
            "The queue does not exist. (Service: AmazonSQS; Status Code: 400; Error Code: \
             AWS.SimpleQueueService.NonExistentQueue; Request ID: r; Proxy: null)"
        );
    }

    #[test]
    fn what_cannot_be_sent_says_why() {
        use stagepost::ActivityError;
        for (bad, error, told) in [
            (json!({}), "SQS.AmazonSQSException", "QueueUrl"),
            (json!({ "QueueUrl": "q" }), "SQS.AmazonSQSException", "MessageBody"),
            (json!({ "QueueUrl": "", "MessageBody": "x" }), "SQS.AmazonSQSException", "QueueUrl"),
            (
                json!({ "QueueUrl": "q", "MessageBody": "x", "MessageAttributes": 1 }),
                "States.Runtime",
                "an object",
            ),
            (json!({ "QueueUrl": "ftp://h/q", "MessageBody": "x" }), "States.Runtime", "ftp://h/q"),
        ] {
            let failure = message_of(&bad).unwrap_err();
            assert_eq!(failure.name(), error, "{bad}");
            assert!(failure.cause().contains(told), "{failure}");
        }
    }
}
