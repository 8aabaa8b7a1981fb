//! A client of the Step Functions API, as much of it as a worker needs: AWS's JSON 1.0 protocol over plain HTTP.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{HeaderMap, Method, Request, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use stagepost_protocol::Namespace;
use stagepost_protocol::limits::REQUEST_BYTES_MAX;
use stagepost_protocol::message::{HEADER_IDEMPOTENT, HEADER_LEASE, HEADER_WAIT};

/// How long an answer may take. A long poll has [`POLL_WITHIN`].
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// GetActivityTask answers after 60 seconds at the latest, from a server that does not know our header.
const POLL_WITHIN: Duration = Duration::from_secs(75);
/// How long the server is asked to hold a poll. The service's own 60 seconds would be more than a worker that stops
/// can wait; shorter ones would cost the server more, and a stop is seldom in a greater hurry.
pub(super) const POLL_HELD: Duration = Duration::from_secs(5);

/// Why a call gave nothing.
#[derive(Debug)]
pub(super) enum CallError {
    /// The server answered that it will not do it; asking again does not help.
    Refused {
        /// The error's name in the API, for instance `TaskTimedOut`.
        name: String,
        message: String,
    },
    /// The server could not be reached, or is in trouble: ask again later.
    Unavailable(String),
}

impl CallError {
    pub(super) fn is(&self, names: &[&str]) -> bool {
        matches!(self, CallError::Refused { name, .. } if names.contains(&name.as_str()))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Refused { name, message } => write!(f, "{name}: {message}"),
            CallError::Unavailable(reason) => f.write_str(reason),
        }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(rename = "__type", default)]
    name: String,
    #[serde(alias = "Message", default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreatedActivity {
    activity_arn: String,
}

/// The members of GetActivityTask's answer; both are absent when no task came.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolledTask {
    task_token: Option<String>,
    input: Option<String>,
}

/// A task that was polled.
pub(super) struct Polled {
    pub(super) token: String,
    pub(super) input: String,
    /// Stagepost's servers tell more of a task in the headers of the answer, under the names that task messages use;
    /// other servers have none of them.
    pub(super) headers: HeaderMap,
}

/// A client for one server; cheap to clone, keeps connections.
#[derive(Clone)]
pub(super) struct Client {
    uri: Uri,
    authorization: String,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client for the server at `url`; says what is wrong with the URL.
    pub(super) fn new(url: &str, namespace: &Namespace) -> Result<Client, String> {
        let uri: Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err("it names no host".into());
        }
        // Not a signature: it only says which account and region are meant, as the credential scope does.
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/19700101/{}/states/aws4_request, SignedHeaders=host, Signature=none",
            namespace.account, namespace.region
        );
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Client { uri, authorization, http })
    }

    /// CreateActivity, which gives the same ARN for a name that exists.
    pub(super) async fn create_activity(&self, name: &str) -> Result<String, CallError> {
        let (_, body) =
            self.call("CreateActivity", &serde_json::json!({"name": name}), ANSWER_WITHIN).await?;
        Ok(read::<CreatedActivity>(&body)?.activity_arn)
    }

    /// GetActivityTask: waits for a task, [`POLL_HELD`] or what the server thinks right. Dropping the future may lose
    /// a task that the server is just handing out.
    ///
    /// `lease_millis`: heartbeats of the task are sent so often, unless the definition asks for its own.
    pub(super) async fn poll(
        &self,
        activity_arn: &str,
        worker: &str,
        lease_millis: u64,
        idempotent: bool,
    ) -> Result<Option<Polled>, CallError> {
        let request = serde_json::json!({"activityArn": activity_arn, "workerName": worker});
        let headers = [
            (HEADER_WAIT, POLL_HELD.as_millis().to_string()),
            (HEADER_LEASE, lease_millis.to_string()),
            (HEADER_IDEMPOTENT, idempotent.to_string()),
        ];
        let (headers, body) = self.call_with("GetActivityTask", &request, &headers, POLL_WITHIN).await?;
        let task: PolledTask = read(&body)?;
        let token = task.task_token.filter(|token| !token.is_empty());
        Ok(token.map(|token| Polled { token, input: task.input.unwrap_or_else(|| "{}".into()), headers }))
    }

    /// SendTaskSuccess.
    pub(super) async fn succeeded(&self, token: &str, output: &str) -> Result<(), CallError> {
        let request = serde_json::json!({"taskToken": token, "output": output});
        self.call("SendTaskSuccess", &request, ANSWER_WITHIN).await.map(drop)
    }

    /// SendTaskFailure.
    pub(super) async fn failed(
        &self,
        token: &str,
        error: Option<&str>,
        cause: Option<&str>,
    ) -> Result<(), CallError> {
        let request = serde_json::json!({"taskToken": token, "error": error, "cause": cause});
        self.call("SendTaskFailure", &request, ANSWER_WITHIN).await.map(drop)
    }

    /// SendTaskHeartbeat.
    pub(super) async fn heartbeat(&self, token: &str) -> Result<(), CallError> {
        self.call("SendTaskHeartbeat", &serde_json::json!({"taskToken": token}), ANSWER_WITHIN)
            .await
            .map(drop)
    }

    async fn call(
        &self,
        operation: &'static str,
        request: &impl Serialize,
        within: Duration,
    ) -> Result<(HeaderMap, Bytes), CallError> {
        self.call_with(operation, request, &[], within).await
    }

    async fn call_with(
        &self,
        operation: &'static str,
        request: &impl Serialize,
        headers: &[(&str, String)],
        within: Duration,
    ) -> Result<(HeaderMap, Bytes), CallError> {
        match tokio::time::timeout(within, self.exchange(operation, request, headers)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Unavailable(format!("no answer to {operation} within {within:?}"))),
        }
    }

    async fn exchange(
        &self,
        operation: &'static str,
        request: &impl Serialize,
        headers: &[(&str, String)],
    ) -> Result<(HeaderMap, Bytes), CallError> {
        let unavailable = |error: &dyn std::error::Error| CallError::Unavailable(with_sources(error));
        let body = serde_json::to_vec(request).map_err(|error| unavailable(&error))?;
        let builder =
            headers.iter().fold(Request::builder(), |builder, (name, value)| builder.header(*name, value));
        let request = builder
            .method(Method::POST)
            .uri(&self.uri)
            .header(CONTENT_TYPE, "application/x-amz-json-1.0")
            .header("x-amz-target", format!("AWSStepFunctions.{operation}"))
            .header(AUTHORIZATION, &self.authorization)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unavailable(&error))?;
        let response = self.http.request(request).await.map_err(|error| unavailable(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await;
        let body = body.map_err(|error| unavailable(&*error))?.to_bytes();
        if head.status.is_success() {
            return Ok((head.headers, body));
        }
        let error = serde_json::from_slice::<ErrorBody>(&body).ok();
        let (name, message) = error.map_or_else(Default::default, |error| (error.name, error.message));
        // The name may come with its namespace: com.amazonaws.states#TaskTimedOut.
        let name = name.rsplit('#').next().unwrap_or_default().to_owned();
        let throttled = name.starts_with("Throttling") || head.status.as_u16() == 429;
        if head.status.is_client_error() && !throttled && !name.is_empty() {
            return Err(CallError::Refused { name, message });
        }
        Err(CallError::Unavailable(format!(
            "{operation} was answered with {}: {name} {message}",
            head.status
        )))
    }
}

fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body)
        .map_err(|error| CallError::Unavailable(format!("the server's answer cannot be read: {error}")))
}

/// hyper's errors say little without their sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
