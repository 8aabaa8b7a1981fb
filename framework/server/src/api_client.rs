//! A client of the Step Functions API: AWS's JSON 1.0 protocol over plain HTTP. The command line and programs that
//! embed an installation use it.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use stagepost_protocol::{ExecutionArn, Namespace, StateMachineArn, Timestamp};
use stagepost_store::ExecutionStatus;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    history::{HistoryEvent, timestamp},
    retry::Waits,
};

/// Where `stagepost dev` listens.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8083";

/// The role of state machines that are deployed without one. Nothing assumes it.
pub const DEFAULT_ROLE: &str = "arn:aws:iam::000000000000:role/stagepost";

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// How long the answer to StartSyncExecution may take: as long as an Express execution, and some.
const EXPRESS_WITHIN: Duration = Duration::from_secs(5 * 60 + 10);
/// Largest answer that is read: a page of a history with large payloads.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The shortest and the longest pause between two looks at a running execution.
const LOOK_MIN: Duration = Duration::from_millis(15);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// How long a server that went away is waited for while an execution is followed.
const FOLLOW_WITHOUT_SERVER: Duration = Duration::from_secs(60);
/// Events to a page while an execution is followed.
const FOLLOW_PAGE: usize = 200;

/// Why a URL cannot be used as an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{endpoint}' cannot be used as an endpoint: {reason}")]
pub struct EndpointError {
    /// What was given.
    pub endpoint: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a call gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The API refuses: asking again does not help.
    #[error("{message} ({code})")]
    Refused {
        /// The error's name in the API, for instance `StateMachineDoesNotExist`.
        code: String,
        /// What the API says.
        message: String,
    },
    /// Nobody answers there.
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The server is in trouble; the same call may work later.
    #[error("the server at {endpoint} is in trouble: {reason}")]
    Trouble {
        /// Where.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// What answers is not this API.
    #[error("what answers at {endpoint} is not the API: {reason}")]
    NotTheApi {
        /// Where.
        endpoint: String,
        /// What came instead.
        reason: String,
    },
}

impl CallError {
    /// Whether the API refused with this error, for instance `ExecutionAlreadyExists`.
    pub fn is(&self, name: &str) -> bool {
        matches!(self, CallError::Refused { code, .. } if code == name)
    }
}

/// An execution, as DescribeExecution shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionDescription {
    /// Which.
    pub arn: ExecutionArn,
    /// How it stands.
    pub status: ExecutionStatus,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
    /// Its input, as JSON text.
    pub input: Option<String>,
    /// Its output, as JSON text, if it succeeded.
    pub output: Option<String>,
    /// Its error, if it did not.
    pub error: Option<String>,
    /// For people.
    pub cause: Option<String>,
}

/// What a deployment did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployed {
    /// There was no state machine of this name.
    Created,
    /// The state machine got another definition or role.
    Updated,
    /// It had this definition already.
    Unchanged,
}

/// A client for one endpoint. Cheap to clone; keeps connections.
#[derive(Clone)]
pub struct ApiClient {
    endpoint: String,
    uri: Uri,
    namespace: Namespace,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl ApiClient {
    /// A client for the API at `endpoint`, `http://HOST:PORT`, in the default namespace.
    pub fn new(endpoint: &str) -> Result<ApiClient, EndpointError> {
        let wrong = |reason: &str| EndpointError { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
        let uri: Uri = endpoint.parse().map_err(|_| wrong("expected http://HOST:PORT"))?;
        match uri.scheme_str() {
            Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => {}
            Some("https") => {
                return Err(wrong(
                    "https:// is not spoken; use http:// to a proxy on this machine that does",
                ));
            }
            _ => return Err(wrong("expected http://HOST:PORT")),
        }
        Ok(ApiClient::with_uri(endpoint.trim_end_matches('/').to_owned(), uri, Namespace::default()))
    }

    pub(crate) fn at(address: SocketAddr, namespace: Namespace) -> ApiClient {
        let endpoint = format!("http://{address}");
        let uri = Uri::try_from(&endpoint).expect("an address and a port make a URL");
        ApiClient::with_uri(endpoint, uri, namespace)
    }

    fn with_uri(endpoint: String, uri: Uri, namespace: Namespace) -> ApiClient {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let http = Client::builder(TokioExecutor::new()).build(connector);
        ApiClient { endpoint, uri, namespace, http }
    }

    /// The same, in another namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Namespace) -> ApiClient {
        self.namespace = namespace;
        self
    }

    /// Where the API is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The ARN of the state machine of this name, or the ARN itself.
    pub fn state_machine_arn(&self, name: &str) -> Result<StateMachineArn, stagepost_protocol::ArnError> {
        if name.starts_with("arn:") {
            return StateMachineArn::parse(name);
        }
        Ok(StateMachineArn { namespace: self.namespace.clone(), name: name.to_owned() })
    }

    /// Creates a state machine, or gives it this definition if there is one of that name.
    pub async fn deploy(&self, name: &str, definition: &str) -> Result<StateMachineArn, CallError> {
        self.deploy_with(name, definition, None, None).await.map(|(arn, _)| arn)
    }

    /// As [`ApiClient::deploy`], with a role and a type (`STANDARD`, the default of a new one, or `EXPRESS`); also tells
    /// what was done.
    pub async fn deploy_with(
        &self,
        name: &str,
        definition: &str,
        role_arn: Option<&str>,
        kind: Option<&str>,
    ) -> Result<(StateMachineArn, Deployed), CallError> {
        let arn = StateMachineArn { namespace: self.namespace.clone(), name: name.to_owned() };
        // Asked first, as creating what is there already says the same as creating it.
        match self.call("DescribeStateMachine", &json!({"stateMachineArn": arn})).await {
            Ok(there) => {
                let same = |member: &str, text| there.get(member).and_then(Value::as_str) == Some(text);
                if kind.is_some_and(|kind| !same("type", kind)) {
                    // A type never changes, and nobody says so better than the API.
                    self.create(name, definition, role_arn, kind).await?;
                }
                if same("definition", definition) && role_arn.is_none_or(|role| same("roleArn", role)) {
                    return Ok((arn, Deployed::Unchanged));
                }
            }
            // A name that cannot be one is refused by CreateStateMachine, in better words.
            Err(error) if error.is("StateMachineDoesNotExist") || error.is("InvalidArn") => {
                match self.create(name, definition, role_arn, kind).await {
                    Ok(arn) => return Ok((arn, Deployed::Created)),
                    // Somebody else was faster.
                    Err(error) if error.is("StateMachineAlreadyExists") => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        let mut request = json!({"stateMachineArn": arn, "definition": definition});
        set(&mut request, "roleArn", role_arn);
        self.call("UpdateStateMachine", &request).await?;
        Ok((arn, Deployed::Updated))
    }

    async fn create(
        &self,
        name: &str,
        definition: &str,
        role_arn: Option<&str>,
        kind: Option<&str>,
    ) -> Result<StateMachineArn, CallError> {
        let role = role_arn.unwrap_or(DEFAULT_ROLE);
        let mut request = json!({"name": name, "definition": definition, "roleArn": role});
        set(&mut request, "type", kind);
        let created = self.call("CreateStateMachine", &request).await?;
        parsed(&self.endpoint, &created, "stateMachineArn", StateMachineArn::parse)
    }

    /// Whether a state machine is of type EXPRESS: [`ApiClient::run_express`] then runs it to its end, and nothing can be
    /// asked of its executions.
    pub async fn is_express(&self, machine: &StateMachineArn) -> Result<bool, CallError> {
        let described = self.call("DescribeStateMachine", &json!({"stateMachineArn": machine})).await?;
        Ok(described["type"] == "EXPRESS")
    }

    /// Runs an Express execution to its end, which is within five minutes; without a name it gets one.
    pub async fn run_express(
        &self,
        machine: &StateMachineArn,
        input: &str,
        name: Option<&str>,
    ) -> Result<ExecutionDescription, CallError> {
        let mut request = json!({"stateMachineArn": machine, "input": input});
        set(&mut request, "name", name);
        let operation = "StartSyncExecution";
        let ended =
            self.call_within(EXPRESS_WITHIN, &format!("AWSStepFunctions.{operation}"), &request).await?;
        description(&ended).ok_or_else(|| self.not_the_api("StartSyncExecution's answer lacks a field"))
    }

    /// Starts an execution; without a name it gets one.
    pub async fn start(
        &self,
        machine: &StateMachineArn,
        input: &str,
        name: Option<&str>,
    ) -> Result<ExecutionArn, CallError> {
        let mut request = json!({"stateMachineArn": machine, "input": input});
        if let Some(name) = name {
            request["name"] = name.into();
        }
        let started = self.call("StartExecution", &request).await?;
        parsed(&self.endpoint, &started, "executionArn", ExecutionArn::parse)
    }

    /// How an execution stands.
    pub async fn describe(&self, execution: &ExecutionArn) -> Result<ExecutionDescription, CallError> {
        let described = self.call("DescribeExecution", &json!({"executionArn": execution})).await?;
        description(&described).ok_or_else(|| self.not_the_api("DescribeExecution's answer lacks a field"))
    }

    /// Stops an execution.
    pub async fn stop(
        &self,
        execution: &ExecutionArn,
        error: Option<&str>,
        cause: Option<&str>,
    ) -> Result<(), CallError> {
        let mut request = json!({"executionArn": execution});
        set(&mut request, "error", error);
        set(&mut request, "cause", cause);
        self.call("StopExecution", &request).await.map(drop)
    }

    /// Redrives an execution that ended without success.
    pub async fn redrive(&self, execution: &ExecutionArn) -> Result<(), CallError> {
        // Repeated with the same token, the request is the same one.
        let request = json!({"executionArn": execution, "clientToken": uuid::Uuid::new_v4().to_string()});
        self.call("RedriveExecution", &request).await.map(drop)
    }

    /// Signals a running execution; the answer is the signal's id. A request with an id may be repeated.
    pub async fn signal(
        &self,
        execution: &ExecutionArn,
        name: &str,
        input: &str,
        id: Option<&str>,
    ) -> Result<String, CallError> {
        let mut request = json!({"executionArn": execution, "signalName": name, "input": input});
        set(&mut request, "signalId", id);
        let answer = self.call_own("SignalExecution", &request).await?;
        let id = answer.get("signalId").and_then(Value::as_str);
        id.map(str::to_owned).ok_or_else(|| self.not_the_api("SignalExecution's answer has no 'signalId'"))
    }

    /// Completes the task of a token.
    pub async fn send_success(&self, token: &str, output: &str) -> Result<(), CallError> {
        self.call("SendTaskSuccess", &json!({"taskToken": token, "output": output})).await.map(drop)
    }

    /// Fails the task of a token.
    pub async fn send_failure(
        &self,
        token: &str,
        error: Option<&str>,
        cause: Option<&str>,
    ) -> Result<(), CallError> {
        let mut request = json!({"taskToken": token});
        set(&mut request, "error", error);
        set(&mut request, "cause", cause);
        self.call("SendTaskFailure", &request).await.map(drop)
    }

    /// All events of an execution, so far.
    pub async fn history(&self, execution: &ExecutionArn) -> Result<Vec<HistoryEvent>, CallError> {
        let request = json!({"executionArn": execution, "maxResults": 1000});
        let events = self.pages("GetExecutionHistory", request, "events", usize::MAX).await?;
        events.iter().map(|event| self.event(event)).collect()
    }

    /// All items of a listing operation, at most `max`; `items` is their member in the answers.
    pub async fn pages(
        &self,
        operation: &str,
        request: Value,
        items: &str,
        max: usize,
    ) -> Result<Vec<Value>, CallError> {
        self.pages_of(&format!("AWSStepFunctions.{operation}"), request, items, max).await
    }

    /// As [`ApiClient::pages`], of an operation that is Stagepost's own.
    pub async fn own_pages(
        &self,
        operation: &str,
        request: Value,
        items: &str,
        max: usize,
    ) -> Result<Vec<Value>, CallError> {
        self.pages_of(&format!("Stagepost.{operation}"), request, items, max).await
    }

    async fn pages_of(
        &self,
        target: &str,
        mut request: Value,
        items: &str,
        max: usize,
    ) -> Result<Vec<Value>, CallError> {
        let mut all = Vec::new();
        loop {
            let mut page = self.call_within(ANSWER_WITHIN, target, &request).await?;
            match page.get_mut(items).map(Value::take) {
                Some(Value::Array(items)) => all.extend(items),
                _ => return Err(self.not_the_api(&format!("{target}'s answer has no '{items}'"))),
            }
            match page.get("nextToken") {
                Some(token) if all.len() < max => request["nextToken"] = token.clone(),
                _ => break,
            }
        }
        all.truncate(max);
        Ok(all)
    }

    /// Waits until an execution has ended.
    pub async fn wait(&self, execution: &ExecutionArn) -> Result<ExecutionDescription, CallError> {
        self.follow(execution, |_| {}).await
    }

    /// Calls `on_events` with the events of an execution as they come, until it has ended. A server that goes away
    /// for up to a minute is waited for.
    pub async fn follow(
        &self,
        execution: &ExecutionArn,
        mut on_events: impl FnMut(&[HistoryEvent]),
    ) -> Result<ExecutionDescription, CallError> {
        let mut seen = 0;
        let mut pause = LOOK_MIN;
        let mut waits = Waits::new();
        let mut answered = Instant::now();
        loop {
            let events = match self.events_after(execution, seen).await {
                Ok(events) => events,
                Err(error @ (CallError::Unreachable { .. } | CallError::Trouble { .. }))
                    if answered.elapsed() < FOLLOW_WITHOUT_SERVER && seen > 0 =>
                {
                    tracing::warn!(%error, "the server does not answer, trying again");
                    sleep(waits.next()).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            answered = Instant::now();
            waits.reset();
            if let Some(last) = events.last() {
                seen = last.id;
                pause = LOOK_MIN;
                on_events(&events);
                if last.is_last() {
                    return self.describe(execution).await;
                }
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LOOK_MAX);
        }
    }

    /// The events after `seen`, in order. Read from the end, so that a long history is not read again and again.
    async fn events_after(
        &self,
        execution: &ExecutionArn,
        seen: u64,
    ) -> Result<Vec<HistoryEvent>, CallError> {
        let mut request = json!({"executionArn": execution, "maxResults": FOLLOW_PAGE, "reverseOrder": true});
        let mut events = Vec::new();
        loop {
            let page = self.call("GetExecutionHistory", &request).await?;
            for event in page["events"].as_array().into_iter().flatten() {
                let event = self.event(event)?;
                if event.id <= seen {
                    events.reverse();
                    return Ok(events);
                }
                events.push(event);
            }
            match page.get("nextToken") {
                Some(token) => request["nextToken"] = token.clone(),
                None => {
                    events.reverse();
                    return Ok(events);
                }
            }
        }
    }

    fn event(&self, event: &Value) -> Result<HistoryEvent, CallError> {
        HistoryEvent::from_json(event).ok_or_else(|| self.not_the_api("an event of a history lacks a field"))
    }

    fn not_the_api(&self, reason: &str) -> CallError {
        CallError::NotTheApi { endpoint: self.endpoint.clone(), reason: reason.to_owned() }
    }

    /// Calls any operation of `AWSStepFunctions` and returns its answer.
    pub async fn call(&self, operation: &str, request: &Value) -> Result<Value, CallError> {
        self.call_within(ANSWER_WITHIN, &format!("AWSStepFunctions.{operation}"), request).await
    }

    /// Calls an operation that is Stagepost's own and returns its answer.
    pub async fn call_own(&self, operation: &str, request: &Value) -> Result<Value, CallError> {
        self.call_within(ANSWER_WITHIN, &format!("Stagepost.{operation}"), request).await
    }

    async fn call_within(&self, limit: Duration, target: &str, request: &Value) -> Result<Value, CallError> {
        let answer = timeout(limit, self.exchange(target, request)).await;
        answer.unwrap_or_else(|_| {
            let reason = format!("{target} was not answered within {} seconds", limit.as_secs());
            Err(CallError::Trouble { endpoint: self.endpoint.clone(), reason })
        })
    }

    async fn exchange(&self, target: &str, request: &Value) -> Result<Value, CallError> {
        let Namespace { account, region } = &self.namespace;
        // Not a signature: it only says which account and region are meant, as the credential scope does.
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={account}/19700101/{region}/states/aws4_request, SignedHeaders=host, Signature=none"
        );
        let unreachable = |error: &dyn std::error::Error| CallError::Unreachable {
            endpoint: self.endpoint.clone(),
            reason: innermost(error),
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.uri)
            .header(CONTENT_TYPE, "application/x-amz-json-1.0")
            .header("x-amz-target", target)
            .header(AUTHORIZATION, authorization)
            .body(Full::new(Bytes::from(request.to_string())))
            .map_err(|error| unreachable(&error))?;
        let response = self.http.request(request).await.map_err(|error| unreachable(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| unreachable(&*error))?.to_bytes();
        let answer = serde_json::from_slice::<Value>(&body);
        if head.status.is_success() {
            return answer.map_err(|_| self.not_the_api(&format!("{target}'s answer is not JSON")));
        }
        let Some((code, message)) = answer.ok().as_ref().and_then(error_body) else {
            return Err(self.not_the_api(&format!("{target} was answered with {}", head.status)));
        };
        let throttled = code.starts_with("Throttling") || head.status.as_u16() == 429;
        if head.status.is_server_error() || throttled {
            let reason = format!("{message} ({code})");
            return Err(CallError::Trouble { endpoint: self.endpoint.clone(), reason });
        }
        Err(CallError::Refused { code, message })
    }
}

/// The code and the message of an error's body. The code may come with its service: `com.amazonaws.states#X`.
fn error_body(body: &Value) -> Option<(String, String)> {
    let code = body.get("__type")?.as_str()?;
    let message =
        body.get("message").or_else(|| body.get("Message")).and_then(Value::as_str).unwrap_or_default();
    Some((code.rsplit('#').next().unwrap_or(code).to_owned(), message.to_owned()))
}

fn set(request: &mut Value, member: &str, text: Option<&str>) {
    if let Some(text) = text {
        request[member] = text.into();
    }
}

fn parsed<T, E: std::fmt::Display>(
    endpoint: &str,
    answer: &Value,
    member: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, CallError> {
    let text = answer.get(member).and_then(Value::as_str).unwrap_or_default();
    parse(text)
        .map_err(|error| CallError::NotTheApi { endpoint: endpoint.to_owned(), reason: error.to_string() })
}

fn description(answer: &Value) -> Option<ExecutionDescription> {
    let text = |member: &str| answer.get(member).and_then(Value::as_str).map(str::to_owned);
    Some(ExecutionDescription {
        arn: ExecutionArn::parse(answer.get("executionArn")?.as_str()?).ok()?,
        status: ExecutionStatus::parse(answer.get("status")?.as_str()?)?,
        started_at: timestamp(answer.get("startDate")?)?,
        stopped_at: answer.get("stopDate").and_then(timestamp),
        input: text("input"),
        output: text("output"),
        error: text("error"),
        cause: text("cause"),
    })
}

/// The last of an error's sources: hyper's own texts say little.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        assert_eq!(ApiClient::new("http://localhost:8083/").unwrap().endpoint(), "http://localhost:8083");
        for (bad, told) in [
            ("localhost:8083", "expected http://HOST:PORT"),
            ("https://api", "https:// is not spoken"),
            ("http://", "expected http://HOST:PORT"),
            ("nonsense", "expected http://HOST:PORT"),
        ] {
            let error = ApiClient::new(bad).err().unwrap().to_string();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn errors_of_the_api_are_read() {
        let body = json!({"__type": "com.amazonaws.states#InvalidName", "message": "Invalid Name: 'a b'"});
        assert_eq!(error_body(&body), Some(("InvalidName".into(), "Invalid Name: 'a b'".into())));
        assert_eq!(error_body(&json!({"error": "x"})), None);
    }
}
