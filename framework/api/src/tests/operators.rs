//! Health, metrics, and shutting down.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::json;
use stagepost_broker::Health;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::Server;

async fn get(s: &Server, path: &str) -> (StatusCode, String) {
    let (status, _, text) = s.send(Request::get(path).body(Body::empty()).unwrap()).await;
    (status, text)
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let s = Server::new();
    assert_eq!(get(&s, "/healthz").await, (StatusCode::OK, "ok\n".into()));
    assert_eq!(get(&s, "/readyz").await, (StatusCode::OK, "store: ok\nbroker: ok\n".into()));
    s.memory.tables().down = true;
    s.broker.send_replace(Health::Down("connection refused".into()));
    let (status, text) = get(&s, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        text,
        "store: the database cannot be reached: connection refused\nbroker: the broker is not connected: connection refused\n"
    );
    assert_eq!(get(&s, "/healthz").await.0, StatusCode::OK);
    assert_eq!(get(&s, "/elsewhere").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(&s, "/").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn metrics_count_requests_and_hold_those_of_others() {
    let s = Server::new();
    s.ok("ListActivities", json!({})).await;
    s.code("ListActivities", json!({ "nextToken": "x" })).await;
    s.code("Surprise", json!({})).await;
    let (status, text) = get(&s, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "stagepost_api_requests_total{operation=\"ListActivities\",code=\"OK\"} 1",
        "stagepost_api_requests_total{operation=\"ListActivities\",code=\"InvalidToken\"} 1",
        "stagepost_api_requests_total{operation=\"unknown\",code=\"UnknownOperationException\"} 1",
        "stagepost_broker_up 1",
        "other_total 7",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

/// Serves on a real socket; a poll that waits is answered, empty, when the server shuts down.
#[tokio::test]
async fn a_shutdown_answers_waiting_polls() {
    let mut s = Server::new();
    let options = crate::Options { activity_poll: Duration::from_secs(60), ..crate::Options::default() };
    let api = crate::Api::over(
        s.memory.clone(),
        s.memory.clone(),
        s.api.token_key.clone(),
        s.broker.subscribe(),
        options,
    );
    s.api = std::sync::Arc::new(api);
    s.router = crate::router(s.api.clone());
    let arn = s.activity("a").await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(crate::serve(listener, s.router.clone(), async {
        let _ = stopped.await;
    }));
    let mut socket = TcpStream::connect(address).await.unwrap();
    let body = json!({ "activityArn": arn }).to_string();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Amz-Target: AWSStepFunctions.GetActivityTask\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // The poll must have begun before the shutdown: the server holds a receiver while it waits.
    let deadline = Instant::now() + Duration::from_secs(10);
    while s.api.polls_waiting() == 0 {
        assert!(Instant::now() < deadline, "the poll did not begin");
        tokio::task::yield_now().await;
    }
    s.api.close();
    stop.send(()).unwrap();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("{\"taskToken\":null}"), "{answer}");
    server.await.unwrap().unwrap();
}
