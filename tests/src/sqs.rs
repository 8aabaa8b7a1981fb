//! What stands for SQS: one queue over HTTP, with the operations that receive, delete and give back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, http::HeaderMap, routing::post};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

/// A queue that is empty holds a request for so long.
const WAIT_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    sent: u64,
    receipts: u64,
    waiting: VecDeque<Value>,
    received: BTreeMap<String, Value>,
    deleted: usize,
    /// Deletions that are answered as done but forgotten, so that the messages come again.
    lost_deletions: usize,
}

/// A queue. It ends with its value.
#[derive(Debug)]
pub struct Sqs {
    /// Its URL.
    pub url: String,
    state: Arc<(Mutex<State>, Notify)>,
    serving: JoinHandle<()>,
}

impl Drop for Sqs {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Sqs {
    /// Serves a queue on a free port.
    pub async fn start() -> Sqs {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let state: Arc<(Mutex<State>, Notify)> = Arc::default();
        let served = Arc::clone(&state);
        let handler = async move |headers: HeaderMap, body: String| {
            let action = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
            let action = action.and_then(|target| target.strip_prefix("AmazonSQS.")).unwrap_or_default();
            let request = serde_json::from_str(&body).unwrap_or_default();
            answer(&served, action, &request).await.to_string()
        };
        let router = Router::new().fallback(post(handler));
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves until it is aborted");
        });
        Sqs { url: format!("http://{address}/000000000000/queue"), state, serving }
    }

    /// Puts a message on the queue; its id is `m-1`, `m-2`, ….
    pub fn send(&self, body: &str, attributes: &Value) {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.sent += 1;
        let id = format!("m-{}", state.sent);
        let message = json!({ "MessageId": id, "Body": body, "MessageAttributes": attributes });
        state.waiting.push_back(message);
        drop(state);
        self.state.1.notify_waiters();
    }

    /// Lets so many deletions be forgotten: their messages are there again.
    pub fn forget_deletions(&self, count: usize) {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).lost_deletions = count;
    }

    /// How many messages were deleted for good.
    pub fn deleted(&self) -> usize {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).deleted
    }
}

async fn answer(shared: &(Mutex<State>, Notify), action: &str, request: &Value) -> Value {
    let (state, sent) = shared;
    if action == "ReceiveMessage" {
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        loop {
            let more = sent.notified();
            let messages = receive(&mut state.lock().unwrap_or_else(PoisonError::into_inner), request);
            if !messages.is_empty() {
                return json!({ "Messages": messages });
            }
            if tokio::time::timeout_at(deadline, more).await.is_err() {
                return json!({});
            }
        }
    }
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut done = Vec::new();
    for entry in request["Entries"].as_array().into_iter().flatten() {
        let Some(message) = entry["ReceiptHandle"].as_str().and_then(|r| state.received.remove(r)) else {
            continue;
        };
        if action == "ChangeMessageVisibilityBatch" {
            state.waiting.push_back(message);
        } else if state.lost_deletions > 0 {
            state.lost_deletions -= 1;
            state.waiting.push_back(message);
        } else {
            state.deleted += 1;
        }
        done.push(json!({ "Id": entry["Id"] }));
    }
    drop(state);
    sent.notify_waiters();
    json!({ "Successful": done, "Failed": [] })
}

fn receive(state: &mut State, request: &Value) -> Vec<Value> {
    let max = request["MaxNumberOfMessages"].as_u64().and_then(|max| usize::try_from(max).ok()).unwrap_or(1);
    let count = max.min(state.waiting.len());
    let mut messages: Vec<Value> = state.waiting.drain(..count).collect();
    for message in &mut messages {
        state.receipts += 1;
        let receipt = format!("receipt-{}", state.receipts);
        message["ReceiptHandle"] = receipt.as_str().into();
        state.received.insert(receipt, message.clone());
    }
    messages
}
