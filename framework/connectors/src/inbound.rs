//! Messages from queues of SQS, or of what speaks its protocol: a [`Consumer`] like those of the broker, so that whoever
//! takes messages off a queue need not know where it is.
//!
//! Receiving is a long poll; acknowledging deletes; giving back makes visible. What is not deleted within the queue's
//! visibility timeout comes again by itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use stagepost_broker::{Acker, Consumer, Delivery, DeliveryTag};
use stagepost_protocol::{HeaderValue, Properties};
use tokio::{sync::Notify, time::Instant};

use crate::{
    aws::{Aws, Problem},
    sqs,
};

/// Messages that one request receives or deletes at the most: the service's own limit.
const BATCH_MAX: usize = 10;
/// How long the service holds a request while there is nothing: its own limit.
const WAIT_SECONDS: u64 = 20;
/// A request is answered within this time, or the connection counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(WAIT_SECONDS + 10);
/// How long after a failure the next request is made, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// A deletion is tried so often; then the message comes again.
const SETTLE_ATTEMPTS: u32 = 3;
/// Tags of deliveries are never of another generation: a consumer has no channel that could be lost.
const GENERATION: u64 = 0;
/// The header that holds the attributes which the service itself gives a message.
const HEADER_SYSTEM: &str = "sqs";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Unanswered(String),
    #[error("{status} {code}: {message}")]
    Refused { status: u16, code: String, message: String },
    #[error("the answer is not of the protocol of SQS")]
    Protocol,
}

/// A queue and how it is asked.
struct Queue {
    aws: Aws,
    url: String,
    region: String,
}

impl Queue {
    async fn ask(&self, action: &str, mut parameters: Value) -> Result<Value, Failed> {
        parameters["QueueUrl"] = self.url.as_str().into();
        let request = sqs::request(&self.aws, &self.region, &self.url, action, &parameters);
        let response = match tokio::time::timeout(ANSWER_WITHIN, self.aws.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failed::Unanswered(error.to_string())),
            Err(_) => return Err(Failed::Unanswered("it does not answer".to_owned())),
        };
        if response.status != 200 {
            let Problem { code, message } = Problem::of_json(&response);
            return Err(Failed::Refused { status: response.status, code, message });
        }
        if response.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&response.body).map_err(|_| Failed::Protocol)
    }

    async fn receive(&self, max: usize) -> Result<Vec<Received>, Failed> {
        let parameters = json!({
            "MaxNumberOfMessages": max,
            "WaitTimeSeconds": WAIT_SECONDS,
            "AttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        });
        let answer = self.ask("ReceiveMessage", parameters).await?;
        let answer: Option<Messages> = serde_json::from_value(answer).map_err(|_| Failed::Protocol)?;
        Ok(answer.unwrap_or_default().messages)
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Messages {
    messages: Vec<Received>,
}

/// A message as the service gives it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Received {
    message_id: String,
    receipt_handle: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    data_type: String,
    string_value: Option<String>,
    /// In base64.
    binary_value: Option<String>,
}

impl Attribute {
    fn header(&self) -> HeaderValue {
        let text = self.string_value.as_deref().or(self.binary_value.as_deref()).unwrap_or_default();
        if self.data_type.split('.').next() == Some("Number") {
            if let Ok(n) = text.parse() {
                return HeaderValue::Int(n);
            }
            if let Some(f) = text.parse().ok().filter(|f: &f64| f.is_finite()) {
                return HeaderValue::Float(f);
            }
        }
        text.into()
    }
}

impl Received {
    /// The message as one of the broker's, and its receipt.
    fn delivery(self, tag: u64) -> (Delivery, String) {
        let attribute = |name: &str| self.attributes.get(name).and_then(|text| text.parse::<u64>().ok());
        let (sent, received) = (attribute("SentTimestamp"), attribute("ApproximateReceiveCount"));
        let content_type = self.message_attributes.iter().find_map(|(name, attribute)| {
            let is_it = ["content-type", "contenttype"].contains(&name.to_ascii_lowercase().as_str());
            is_it.then(|| attribute.string_value.clone()).flatten()
        });
        let mut headers = BTreeMap::new();
        if !self.attributes.is_empty() {
            headers.insert(HEADER_SYSTEM.to_owned(), HeaderValue::Other(json!(self.attributes).to_string()));
        }
        headers.extend(self.message_attributes.iter().map(|(name, value)| (name.clone(), value.header())));
        let properties = Properties {
            message_id: Some(self.message_id),
            content_type,
            timestamp: sent.map(|millis| millis / 1000),
            headers,
            ..Properties::default()
        };
        let delivery = Delivery {
            tag: DeliveryTag { generation: GENERATION, tag },
            body: self.body.into(),
            properties,
            redelivered: received.is_some_and(|count| count > 1),
            routing_key: None,
        };
        (delivery, self.receipt_handle)
    }
}

/// The region in the host of a queue's URL, `sqs.REGION.amazonaws.com`.
fn region_of(url: &str) -> Option<&str> {
    let host = url.split("://").nth(1)?.split(['/', ':']).next()?;
    host.strip_prefix("sqs.")?.split_once(".amazonaws.com").map(|(region, _)| region)
}

/// A consumer of the queue at a URL, with at most `prefetch` messages unsettled. A service that cannot be reached, or that
/// refuses, is asked again for as long as it takes, and the log says so.
pub fn consume(aws: Aws, url: &str, prefetch: u16) -> Box<dyn Consumer> {
    let region = aws.settings().region.clone();
    let region = region_of(url).map(str::to_owned).or(region).unwrap_or_else(|| "us-east-1".to_owned());
    let queue = Arc::new(Queue { aws, url: url.to_owned(), region });
    let receipts =
        Receipts { queue: Arc::clone(&queue), unsettled: Mutex::default(), settled: Notify::new() };
    Box::new(SqsConsumer {
        queue,
        receipts: Arc::new(receipts),
        prefetch: usize::from(prefetch.max(1)),
        receiving: None,
        last_tag: 0,
        admitted_after: 0,
        pause: RETRY_FIRST,
        resting: None,
        cancelled: false,
    })
}

struct SqsConsumer {
    queue: Arc<Queue>,
    receipts: Arc<Receipts>,
    /// So many may be unsettled of what comes after the tag `admitted_after`.
    prefetch: usize,
    admitted_after: u64,
    /// The request under way: it outlives a call of `next` that is dropped, so that what it brings is not lost for the
    /// length of a visibility timeout.
    receiving: Option<BoxFuture<'static, Result<Vec<Received>, Failed>>>,
    last_tag: u64,
    /// The pause after the next failure.
    pause: Duration,
    /// Nothing is asked before.
    resting: Option<Instant>,
    cancelled: bool,
}

impl SqsConsumer {
    fn take(&mut self, messages: Vec<Received>) -> Vec<Delivery> {
        let mut unsettled = self.receipts.lock();
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            self.last_tag += 1;
            let (delivery, receipt) = message.delivery(self.last_tag);
            unsettled.insert(self.last_tag, receipt);
            deliveries.push(delivery);
        }
        deliveries
    }
}

#[async_trait]
impl Consumer for SqsConsumer {
    async fn next(&mut self, max: usize) -> Option<Vec<Delivery>> {
        loop {
            if self.cancelled {
                return None;
            }
            if let Some(resting) = self.resting {
                tokio::time::sleep_until(resting).await;
                self.resting = None;
            }
            if self.receiving.is_none() {
                let room = self.receipts.room(self.prefetch, self.admitted_after).await;
                let (queue, count) = (Arc::clone(&self.queue), room.min(max).clamp(1, BATCH_MAX));
                self.receiving = Some(Box::pin(async move { queue.receive(count).await }));
            }
            let received = match &mut self.receiving {
                Some(receiving) => receiving.await,
                None => continue,
            };
            self.receiving = None;
            match received {
                Ok(messages) => {
                    self.pause = RETRY_FIRST;
                    if !messages.is_empty() {
                        return Some(self.take(messages));
                    }
                }
                Err(error) => {
                    tracing::warn!(queue = self.queue.url, %error, "a queue cannot be read; trying again");
                    self.resting = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(RETRY_MOST);
                }
            }
        }
    }

    async fn admit(&mut self, further: u16) {
        (self.prefetch, self.admitted_after) = (usize::from(further), self.last_tag);
    }

    async fn cancel(&mut self) {
        self.cancelled = true;
        self.receiving = None;
    }

    fn acker(&self) -> Arc<dyn Acker> {
        Arc::clone(&self.receipts) as Arc<dyn Acker>
    }
}

/// The receipts of what is unsettled, by tag.
struct Receipts {
    queue: Arc<Queue>,
    unsettled: Mutex<BTreeMap<u64, String>>,
    settled: Notify,
}

impl Receipts {
    /// Locked for a look only, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until less than `prefetch` of those after this tag are unsettled, and says how many may come.
    async fn room(&self, prefetch: usize, after: u64) -> usize {
        loop {
            let settled = self.settled.notified();
            let room = prefetch.saturating_sub(self.lock().range(after + 1..).count());
            if room > 0 {
                return room;
            }
            settled.await;
        }
    }

    /// Settles messages by a request with a batch of receipts.
    async fn settle(&self, action: &str, receipts: Vec<String>, more: Value) {
        self.settled.notify_waiters();
        for batch in receipts.chunks(BATCH_MAX) {
            let mut entries: Vec<Value> =
                (0..).zip(batch).map(|(n, receipt)| entry(n, receipt, &more)).collect();
            let mut pause = RETRY_FIRST;
            for attempt in 1..=SETTLE_ATTEMPTS {
                match self.queue.ask(action, json!({ "Entries": entries })).await {
                    Ok(answer) => {
                        let failed = answer["Failed"].as_array().map(Vec::as_slice).unwrap_or_default();
                        // Where the sender is at fault, the receipt has run out: the message has come again already.
                        let again = |entry: &Value| {
                            failed.iter().any(|f| f["Id"] == entry["Id"] && f["SenderFault"] != true)
                        };
                        entries.retain(again);
                    }
                    Err(error) if attempt == SETTLE_ATTEMPTS => {
                        tracing::warn!(queue = self.queue.url, %error, action, "messages could not be settled; they come again");
                    }
                    Err(_) => {}
                }
                if entries.is_empty() || attempt == SETTLE_ATTEMPTS {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

fn entry(n: usize, receipt: &str, more: &Value) -> Value {
    let mut entry = json!({ "Id": n.to_string(), "ReceiptHandle": receipt });
    for (name, value) in more.as_object().into_iter().flatten() {
        entry[name] = value.clone();
    }
    entry
}

#[async_trait]
impl Acker for Receipts {
    async fn ack(&self, tag: DeliveryTag) {
        let receipt = self.lock().remove(&tag.tag);
        self.settle("DeleteMessageBatch", receipt.into_iter().collect(), Value::Null).await;
    }

    async fn ack_up_to(&self, tag: DeliveryTag) {
        let settled = {
            let mut unsettled = self.lock();
            let later = unsettled.split_off(&tag.tag.saturating_add(1));
            std::mem::replace(&mut *unsettled, later)
        };
        self.settle("DeleteMessageBatch", settled.into_values().collect(), Value::Null).await;
    }

    async fn requeue(&self, tag: DeliveryTag) {
        let receipt = self.lock().remove(&tag.tag);
        let visible = json!({ "VisibilityTimeout": 0 });
        self.settle("ChangeMessageVisibilityBatch", receipt.into_iter().collect(), visible).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use axum::{body::Body, response::Response};

    use super::*;
    use crate::testing::{Desk, Seen};

    /// A queue of SQS: messages that wait, those that were received by their receipts, and what fails next.
    #[derive(Default)]
    struct Fake {
        waiting: VecDeque<(String, Value)>,
        received: BTreeMap<String, (String, Value)>,
        receipts: u64,
        failures: VecDeque<(u16, &'static str)>,
    }

    impl Fake {
        fn answer(&mut self, seen: &Seen) -> (u16, Value) {
            let request: Value = serde_json::from_str(&seen.body).unwrap();
            if let Some((status, code)) = self.failures.pop_front() {
                return (status, json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": "no" }));
            }
            let entries = request["Entries"].as_array().cloned().unwrap_or_default();
            let mut done = Vec::new();
            match seen.headers["x-amz-target"].as_str() {
                "AmazonSQS.ReceiveMessage" => {
                    let max = request["MaxNumberOfMessages"].as_u64().unwrap() as usize;
                    let mut messages = Vec::new();
                    for (id, mut message) in self.waiting.drain(..max.min(self.waiting.len())) {
                        self.receipts += 1;
                        let receipt = format!("receipt-{}", self.receipts);
                        message["MessageId"] = id.as_str().into();
                        message["ReceiptHandle"] = receipt.as_str().into();
                        self.received.insert(receipt, (id, message.clone()));
                        messages.push(message);
                    }
                    return (
                        200,
                        if messages.is_empty() { json!({}) } else { json!({ "Messages": messages }) },
                    );
                }
                "AmazonSQS.DeleteMessageBatch" => {
                    for entry in &entries {
                        assert!(self.received.remove(entry["ReceiptHandle"].as_str().unwrap()).is_some());
                        done.push(json!({ "Id": entry["Id"] }));
                    }
                }
                "AmazonSQS.ChangeMessageVisibilityBatch" => {
                    for entry in &entries {
                        assert_eq!(entry["VisibilityTimeout"], 0);
                        let back = self.received.remove(entry["ReceiptHandle"].as_str().unwrap()).unwrap();
                        self.waiting.push_back(back);
                        done.push(json!({ "Id": entry["Id"] }));
                    }
                }
                other => panic!("{other}"),
            }
            (200, json!({ "Successful": done, "Failed": [] }))
        }
    }

    async fn fake(fake: Fake) -> (Desk, Arc<Mutex<Fake>>) {
        let state = Arc::new(Mutex::new(fake));
        let shared = Arc::clone(&state);
        let desk = Desk::new(move |seen| {
            let (status, answer) = shared.lock().unwrap().answer(seen);
            Response::builder().status(status).body(Body::from(answer.to_string())).unwrap()
        })
        .await;
        (desk, state)
    }

    fn waiting(count: usize) -> VecDeque<(String, Value)> {
        (0..count).map(|n| (format!("m-{n}"), json!({ "Body": format!("{{\"n\":{n}}}") }))).collect()
    }

    fn ids(deliveries: &[Delivery]) -> Vec<&str> {
        deliveries.iter().filter_map(|delivery| delivery.properties.message_id.as_deref()).collect()
    }

    #[tokio::test]
    async fn messages_are_received_deleted_and_given_back() {
        let (desk, state) = fake(Fake { waiting: waiting(13), ..Fake::default() }).await;
        let mut consumer = consume(desk.aws("SQS"), "https://sqs.eu-west-1.amazonaws.com/1/q", 12);
        let acker = consumer.acker();
        let first = consumer.next(100).await.unwrap();
        assert_eq!(first.len(), BATCH_MAX);
        let seen = desk.last();
        assert_eq!(seen.headers["x-amz-target"], "AmazonSQS.ReceiveMessage");
        assert!(
            seen.headers["authorization"].contains("/eu-west-1/sqs/"),
            "{:?}",
            seen.headers["authorization"]
        );
        // Ten of twelve are unsettled.
        let second = consumer.next(100).await.unwrap();
        assert_eq!(ids(&second), ["m-10", "m-11"]);
        acker.requeue(first[3].tag).await;
        acker.ack(first[4].tag).await;
        acker.ack_up_to(second[0].tag).await;
        assert_eq!(state.lock().unwrap().received.len(), 1, "the last one is unsettled");
        let third = consumer.next(1).await.unwrap();
        assert_eq!(ids(&third), ["m-12"]);
        assert_eq!(ids(&consumer.next(5).await.unwrap()), ["m-3"]);
        consumer.cancel().await;
        assert!(consumer.next(1).await.is_none());
    }

    #[tokio::test]
    async fn a_full_prefetch_waits_for_settling() {
        let (desk, _) = fake(Fake { waiting: waiting(2), ..Fake::default() }).await;
        let mut consumer = consume(desk.aws("SQS"), "http://h/1/q", 1);
        let acker = consumer.acker();
        let first = consumer.next(10).await.unwrap();
        assert_eq!(ids(&first), ["m-0"]);
        let (second, ()) = tokio::join!(consumer.next(10), acker.ack(first[0].tag));
        assert_eq!(ids(&second.unwrap()), ["m-1"]);
    }

    #[tokio::test]
    async fn refusals_are_waited_out() {
        let failures = [(400, "QueueDoesNotExist"), (503, "ServiceUnavailable")].into();
        let (desk, state) = fake(Fake { waiting: waiting(1), failures, ..Fake::default() }).await;
        let mut consumer = consume(desk.aws("SQS"), "http://h/1/q", 10);
        let came = consumer.next(10).await.unwrap();
        state.lock().unwrap().failures.push_back((500, "InternalError"));
        consumer.acker().ack(came[0].tag).await;
        assert!(state.lock().unwrap().received.is_empty());
    }

    #[test]
    fn a_message_has_its_attributes_as_headers() {
        let received: Received = serde_json::from_value(json!({
            "MessageId": "m",
            "ReceiptHandle": "r",
            "Body": "{}",
            "Attributes": { "SentTimestamp": "1700000000123", "ApproximateReceiveCount": "2", "MessageGroupId": "g" },
            "MessageAttributes": {
                "kind": { "DataType": "String", "StringValue": "a" },
                "n": { "DataType": "Number", "StringValue": "7" },
                "f": { "DataType": "Number.float", "StringValue": "0.5" },
                "odd": { "DataType": "Number", "StringValue": "inf" },
                "bytes": { "DataType": "Binary", "BinaryValue": "AAE=" },
                "Content-Type": { "DataType": "String", "StringValue": "text/plain" },
            },
        }))
        .unwrap();
        let (delivery, receipt) = received.delivery(5);
        assert_eq!((receipt.as_str(), delivery.tag.tag, delivery.redelivered), ("r", 5, true));
        let properties = delivery.properties;
        assert_eq!(properties.message_id.as_deref(), Some("m"));
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.timestamp, Some(1_700_000_000));
        let header = |name: &str| properties.headers[name].clone();
        assert_eq!(header("kind"), "a".into());
        assert_eq!(header("n"), HeaderValue::Int(7));
        assert_eq!(header("f"), HeaderValue::Float(0.5));
        assert_eq!(header("odd"), "inf".into());
        assert_eq!(header("bytes"), "AAE=".into());
        let HeaderValue::Other(system) = header("sqs") else { panic!("{:?}", header("sqs")) };
        assert_eq!(serde_json::from_str::<Value>(&system).unwrap()["MessageGroupId"], "g");
    }

    #[test]
    fn the_region_is_that_of_the_url() {
        assert_eq!(region_of("https://sqs.eu-west-1.amazonaws.com/1/q"), Some("eu-west-1"));
        assert_eq!(region_of("https://sqs.cn-north-1.amazonaws.com.cn/1/q"), Some("cn-north-1"));
        assert_eq!(region_of("http://localhost:9324/000000000000/q"), None);
    }
}
