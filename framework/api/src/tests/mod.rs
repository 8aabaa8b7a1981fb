//! Every operation through the router as raw JSON, without an SDK: what is sent, what is answered.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use stagepost_broker::Health;
use stagepost_protocol::TokenKey;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::{Api, Options, router};
use memory::Memory;

mod approvals;
mod dead_letters;
mod errors;
mod express;
mod memory;
mod operations;
mod operators;
mod schedules;
mod signals;
mod test_state;
mod triggers;
mod whole;

const PASS: &str = r#"{"StartAt":"P","States":{"P":{"Type":"Pass","End":true}}}"#;
const FAIL: &str = r#"{"StartAt":"F","States":{"F":{"Type":"Fail","Error":"E"}}}"#;
const ROLE: &str = "arn:aws:iam::000000000000:role/r";
const BASE: &str = "arn:aws:states:us-east-1:000000000000";

struct Server {
    memory: Arc<Memory>,
    api: Arc<Api>,
    router: Router,
    broker: watch::Sender<Health>,
}

impl Server {
    fn new() -> Server {
        let memory = Arc::new(Memory::default());
        let (broker, health) = watch::channel(Health::Up);
        let options = Options { activity_poll: Duration::from_millis(50), ..Options::default() };
        let api = Api::over(memory.clone(), memory.clone(), TokenKey::new(&[7; 32]), health, options)
            .with_metrics(|out| out.push_str("other_total 7\n"));
        let api = Arc::new(api);
        Server { memory, router: router(api.clone()), api, broker }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, String) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Calls an operation and gives its answer: the body, or the code and the message of an error.
    async fn call(&self, operation: &str, body: Value) -> Result<Value, (String, String)> {
        self.call_as(operation, body, "test", "us-east-1").await
    }

    async fn call_as(
        &self,
        operation: &str,
        body: Value,
        access_key: &str,
        region: &str,
    ) -> Result<Value, (String, String)> {
        // What is named with its service is not of this one.
        let service = if operation.contains('.') { "" } else { "AWSStepFunctions." };
        self.call_target(&format!("{service}{operation}"), body, access_key, region).await
    }

    /// Calls an operation of our own.
    async fn call_own(&self, operation: &str, body: Value) -> Result<Value, (String, String)> {
        self.call_target(&format!("Stagepost.{operation}"), body, "test", "us-east-1").await
    }

    async fn call_target(
        &self,
        target: &str,
        body: Value,
        access_key: &str,
        region: &str,
    ) -> Result<Value, (String, String)> {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/20260101/{region}/states/aws4_request, SignedHeaders=host, Signature=0"
        );
        let request = Request::post("/")
            .header("X-Amz-Target", target)
            .header("Content-Type", "application/x-amz-json-1.0")
            .header("Authorization", authorization)
            .body(Body::from(body.to_string()))
            .unwrap();
        let (status, headers, text) = self.send(request).await;
        assert_eq!(headers["content-type"], "application/x-amz-json-1.0");
        assert_eq!(headers["x-amzn-requestid"].len(), 36);
        let answer: Value = serde_json::from_str(&text).unwrap();
        if status == StatusCode::OK {
            assert!(!headers.contains_key("x-amzn-errortype"));
            return Ok(answer);
        }
        // botocore reads the code after the last '#' and the text of 'message'.
        let kind = answer["__type"].as_str().unwrap();
        let code = kind.rsplit_once('#').unwrap().1.to_owned();
        assert_eq!(headers["x-amzn-errortype"], code.as_str());
        assert!(status.is_client_error() || status.is_server_error());
        Err((code, answer["message"].as_str().unwrap().to_owned()))
    }

    async fn ok(&self, operation: &str, body: Value) -> Value {
        self.call(operation, body.clone()).await.unwrap_or_else(|e| panic!("{operation} {body}: {e:?}"))
    }

    async fn code(&self, operation: &str, body: Value) -> String {
        match self.call(operation, body.clone()).await {
            Err((code, _)) => code,
            Ok(answer) => panic!("{operation} {body} succeeded with {answer}"),
        }
    }

    async fn machine(&self, name: &str) -> String {
        let body = json!({ "name": name, "definition": PASS, "roleArn": ROLE });
        self.ok("CreateStateMachine", body).await["stateMachineArn"].as_str().unwrap().to_owned()
    }

    async fn activity(&self, name: &str) -> String {
        self.ok("CreateActivity", json!({ "name": name })).await["activityArn"].as_str().unwrap().to_owned()
    }

    /// All pages of a listing: the sizes and the values of `key`.
    async fn pages(&self, operation: &str, list: &str, key: &str, query: Value) -> (Vec<usize>, Vec<Value>) {
        let (mut sizes, mut values, mut query) = (Vec::new(), Vec::new(), query);
        loop {
            let page = self.ok(operation, query.clone()).await;
            let items = page[list].as_array().unwrap();
            sizes.push(items.len());
            values.extend(items.iter().map(|i| i[key].clone()));
            match page.get("nextToken") {
                Some(token) => query["nextToken"] = token.clone(),
                None => return (sizes, values),
            }
        }
    }
}
