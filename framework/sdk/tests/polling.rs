//! A worker that polls an API, seen from the server's side: a server of the tests that hands out what they put in.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use stagepost::{Cancelled, Context, Failure, Worker, WorkerError, activities, activity};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the worker asked for, as `(operation, request)`.
type Calls = mpsc::Receiver<(String, Value)>;

/// What the server answers to reports; empty: all is well.
type Refusals = Arc<Mutex<Vec<(&'static str, u16, &'static str)>>>;

struct Server {
    url: String,
    tasks: mpsc::Sender<(Value, Vec<(&'static str, String)>)>,
    calls: Calls,
    refusals: Refusals,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tasks, waiting) = mpsc::channel::<(Value, Vec<(&'static str, String)>)>(100);
        let (called, calls) = mpsc::channel(10_000);
        let refusals = Refusals::default();
        let (waiting, answers) = (Arc::new(tokio::sync::Mutex::new(waiting)), refusals.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (waiting, called, answers) = (waiting.clone(), called.clone(), answers.clone());
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (waiting, called, answers) = (waiting.clone(), called.clone(), answers.clone());
                    async move {
                        let target = request.headers()["x-amz-target"].to_str().unwrap().to_owned();
                        assert_eq!(request.headers()["content-type"], "application/x-amz-json-1.0");
                        let operation = target.strip_prefix("AWSStepFunctions.").unwrap().to_owned();
                        if operation == "GetActivityTask" {
                            assert_eq!(request.headers()["stagepost-wait"], "5000");
                            assert_eq!(request.headers()["stagepost-lease"], "30000");
                            assert_eq!(request.headers()["stagepost-idempotent"], "false");
                        }
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let body: Value = serde_json::from_slice(&body).unwrap();
                        let refusal = {
                            let mut answers = answers.lock().unwrap();
                            let i = answers.iter().position(|(refused, ..)| *refused == operation);
                            i.map(|i| answers.remove(i))
                        };
                        let mut answer = Response::builder();
                        let text = if let Some((_, status, name)) = refusal {
                            answer = answer.status(status);
                            json!({"__type": format!("com.amazonaws.states#{name}"), "message": "no"})
                        } else if operation == "CreateActivity" {
                            json!({"activityArn": format!("arn:{}", body["name"].as_str().unwrap()), "creationDate": 1.5})
                        } else if operation == "GetActivityTask" {
                            called.send(("a poll begins".to_owned(), Value::Null)).await.unwrap();
                            // A short long poll.
                            let next = async { waiting.lock().await.recv().await };
                            match tokio::time::timeout(Duration::from_millis(600), next).await {
                                Ok(Some((task, headers))) => {
                                    for (name, value) in headers {
                                        answer = answer.header(name, value);
                                    }
                                    task
                                }
                                _ => json!({"taskToken": null, "input": null}),
                            }
                        } else {
                            json!({})
                        };
                        called.send((operation, body)).await.unwrap();
                        Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(text.to_string()))).unwrap())
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Server { url, tasks, calls, refusals }
    }

    async fn task(&self, token: &str, input: &str) {
        self.tasks.send((json!({"taskToken": token, "input": input}), vec![])).await.unwrap();
    }

    fn refuse(&self, operation: &'static str, status: u16, name: &'static str) {
        self.refusals.lock().unwrap().push((operation, status, name));
    }

    /// The next call of an operation; others are passed over.
    async fn call(&mut self, operation: &str) -> Value {
        let found = async {
            loop {
                let (called, request) = self.calls.recv().await.unwrap();
                if called == operation {
                    return request;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{operation} is called"))
    }
}

struct RunningWorker {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), WorkerError>>,
}

fn start(worker: Worker) -> RunningWorker {
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(worker.run_until(async move {
        let _ = stopped.await;
    }));
    RunningWorker { stop, task }
}

impl RunningWorker {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the worker stops").unwrap().unwrap();
    }
}

#[activity]
async fn double(cx: Context, input: u64) -> Result<(u64, u32, String), Failure> {
    if input == 0 {
        return Err(Failure::new("Zero", "nothing to double"));
    }
    Ok((2 * input, cx.attempt(), cx.idempotency_key().to_owned()))
}

#[activity]
async fn beats(cx: Context) -> Result<(), Failure> {
    cx.heartbeat("alive");
    Err(cx.cancelled().await.into())
}

#[tokio::test]
async fn polled_tasks_are_run_and_answered() {
    let mut server = Server::start().await;
    let worker = start(Worker::connect(&server.url).name("w1").register(activities![double]));
    assert_eq!(server.call("CreateActivity").await, json!({"name": "double"}));

    let headers =
        vec![("stagepost-attempt", "2".to_owned()), ("stagepost-idempotency-key", "step-9".to_owned())];
    server.tasks.send((json!({"taskToken": "a", "input": "21"}), headers)).await.unwrap();
    let polled = server.call("GetActivityTask").await;
    assert_eq!(polled, json!({"activityArn": "arn:double", "workerName": "w1"}));
    let done = server.call("SendTaskSuccess").await;
    assert_eq!(done, json!({"taskToken": "a", "output": "[42,2,\"step-9\"]"}));

    server.task("b", "0").await;
    let failed = server.call("SendTaskFailure").await;
    assert_eq!(failed, json!({"taskToken": "b", "error": "Zero", "cause": "nothing to double"}));
    server.task("c", "{").await;
    assert_eq!(server.call("SendTaskFailure").await["error"], "Stagepost.InvalidInput");
    worker.stop().await;
}

#[activity]
async fn tells(cx: Context) -> Result<(u32, String, String, String, bool), Failure> {
    let words = |text: &str| text.to_owned();
    let limited = cx.deadline().is_some();
    Ok((cx.attempt(), words(cx.execution()), words(cx.state()), words(cx.idempotency_key()), limited))
}

#[tokio::test]
async fn the_headers_of_the_answer_fill_the_context() {
    let mut server = Server::start().await;
    let worker = start(Worker::connect(&server.url).register(activities![tells]));
    let headers = [
        ("stagepost-attempt", "3"),
        ("stagepost-execution", "arn:aws:states:us-east-1:000000000000:execution:m:%C3%A9"),
        ("stagepost-state", "Charge%20the%20card%0A100%25"),
        ("stagepost-idempotency-key", "e/7"),
        ("stagepost-deadline", "99999999999999"),
    ];
    let headers = headers.map(|(name, value)| (name, value.to_owned())).to_vec();
    server.tasks.send((json!({"taskToken": "a", "input": "{}"}), headers)).await.unwrap();
    let told: Value =
        serde_json::from_str(server.call("SendTaskSuccess").await["output"].as_str().unwrap()).unwrap();
    let execution = "arn:aws:states:us-east-1:000000000000:execution:m:é";
    assert_eq!(told, json!([3, execution, "Charge the card\n100%", "e/7", true]));

    // A server that says nothing of it.
    server.task("b", "{}").await;
    let told = server.call("SendTaskSuccess").await;
    assert_eq!(told["output"], r#"[1,"","","b",false]"#);
    worker.stop().await;
}

struct Till {
    total: AtomicU64,
}

#[activity]
impl Till {
    #[activity]
    async fn put(&self, amount: u64) -> Result<u64, Failure> {
        Ok(self.total.fetch_add(amount, Ordering::Relaxed) + amount)
    }
}

#[tokio::test]
async fn the_methods_of_one_value_share_it() {
    let mut server = Server::start().await;
    let till = Arc::new(Till { total: AtomicU64::new(1) });
    let worker = start(Worker::connect(&server.url).register(Arc::clone(&till)));
    assert_eq!(server.call("CreateActivity").await, json!({"name": "put"}));
    for (token, output) in [("a", "3"), ("b", "5")] {
        server.task(token, "2").await;
        let done = server.call("SendTaskSuccess").await;
        assert_eq!(done, json!({"taskToken": token, "output": output}));
    }
    worker.stop().await;
    assert_eq!(till.total.load(Ordering::Relaxed), 5);
}

/// A task that the server hands out after the worker was told to stop is done, not lost.
#[tokio::test]
async fn a_stop_waits_for_the_polls_under_way() {
    let mut server = Server::start().await;
    let worker = start(Worker::connect(&server.url).concurrency(1).register(activities![double]));
    server.task("a", "1").await;
    server.call("SendTaskSuccess").await;
    // The one slot is free again, so the worker polls, for 600 ms.
    server.call("a poll begins").await;
    worker.stop.send(()).unwrap();
    server.task("b", "2").await;
    let stopped = tokio::time::timeout(PATIENCE, worker.task).await.expect("the worker stops");
    stopped.unwrap().unwrap();
    assert_eq!(server.call("SendTaskSuccess").await["taskToken"], "b");
}

/// Whoever is in a hurry waits for no poll.
#[tokio::test]
async fn without_grace_polls_are_cut_off() {
    let mut server = Server::start().await;
    let worker =
        start(Worker::connect(&server.url).shutdown_grace(Duration::ZERO).register(activities![double]));
    server.call("CreateActivity").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again() {
    let mut server = Server::start().await;
    for operation in ["CreateActivity", "GetActivityTask", "SendTaskSuccess", "SendTaskSuccess"] {
        server.refuse(operation, 503, "ServiceUnavailable");
    }
    server.task("a", "1").await;
    let worker = start(Worker::connect(&server.url).register(activities![double]));
    for _ in 0..3 {
        assert_eq!(server.call("SendTaskSuccess").await["taskToken"], "a");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_heartbeat_for_an_ended_attempt_cancels_the_activity() {
    let mut server = Server::start().await;
    server.refuse("SendTaskHeartbeat", 400, "TaskTimedOut");
    server.task("a", "{}").await;
    let worker = start(Worker::connect(&server.url).register(activities![beats]));
    assert_eq!(server.call("SendTaskHeartbeat").await, json!({"taskToken": "a"}));
    assert_eq!(server.call("SendTaskFailure").await["cause"], Cancelled::Ended.to_string());
    worker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_used_is_said_at_once() {
    for (url, wanted) in [
        ("https://u:secret@example.com", "http://"),
        ("localhost:8083", "amqp://"),
        ("http://", "URL"),
        ("redis://h", "amqp://"),
    ] {
        let error = Worker::connect(url).register(activities![double]).run().await.unwrap_err().to_string();
        assert!(error.contains(wanted) && !error.contains("secret"), "{error}");
    }
    let server = Server::start().await;
    server.refuse("CreateActivity", 400, "AccessDeniedException");
    let error =
        Worker::connect(&server.url).register(activities![double]).run().await.unwrap_err().to_string();
    assert!(error.contains("CreateActivity") && error.contains("AccessDeniedException"), "{error}");
}
