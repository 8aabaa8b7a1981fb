//! One request from its headers to its answer.

use std::{sync::Arc, time::Instant};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::Response,
};
use bytes::Bytes;
use serde_json::{Map, Value};
use stagepost_protocol::limits;

use super::{ApiError, Code, authorization};
use crate::{
    api::Api,
    operations::{Answered, Context},
    own, states,
};

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const JSON_1_0: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");
/// What stands before the operation in the target.
const STEP_FUNCTIONS: &str = "AWSStepFunctions";
const OWN: &str = "Stagepost";

/// An operation of one of the services.
#[derive(Clone, Copy)]
enum Operation {
    States(&'static str),
    Own(&'static str),
}

impl Operation {
    fn of(target: &str) -> Option<Operation> {
        match target.split_once('.')? {
            (STEP_FUNCTIONS, name) => states::operation(name).map(Operation::States),
            (OWN, name) => own::operation(name).map(Operation::Own),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Operation::States(name) | Operation::Own(name) => name,
        }
    }
}

/// Answers `POST /`.
pub(crate) async fn handle(State(api): State<Arc<Api>>, request: Request) -> Response {
    let started = Instant::now();
    let request_id = uuid::Uuid::new_v4().to_string();
    let (parts, body) = request.into_parts();
    let target = parts.headers.get(TARGET).and_then(|v| v.to_str().ok()).unwrap_or("");
    let operation = Operation::of(target);
    let result = match operation {
        Some(operation) => run(&api, operation, &parts.headers, body).await,
        None => Err(unknown(target)),
    };
    let code = result.as_ref().map_or_else(|e| e.code.as_str(), |_| "OK");
    let name = operation.map_or("unknown", Operation::name);
    api.requests.count(name, code, started.elapsed());
    tracing::debug!(operation = name, code, request_id, "request");
    respond(result, &request_id)
}

fn unknown(target: &str) -> ApiError {
    let message = if target.is_empty() {
        format!(
            "The request has no X-Amz-Target header; send for instance {STEP_FUNCTIONS}.ListStateMachines."
        )
    } else {
        let shown: String = target.chars().take(200).collect();
        format!("The operation {shown} is not supported.")
    };
    ApiError::new(Code::UnknownOperationException, message)
}

async fn run(api: &Api, operation: Operation, headers: &HeaderMap, body: Body) -> Result<Answered, ApiError> {
    // What fails here but the size is a client that went away and reads no answer.
    let body = to_bytes(body, limits::REQUEST_BYTES_MAX).await.map_err(|_| {
        let max = limits::REQUEST_BYTES_MAX;
        let message = format!("The request's body has more than {max} bytes.");
        ApiError::new(Code::RequestEntityTooLargeException, message)
    })?;
    let members = members(&body)?;
    let namespace = authorization::namespace(headers, &api.options.namespace);
    let cx = Context { api, namespace, headers };
    match operation {
        Operation::States(name) => states::run(&cx, name, &members).await,
        Operation::Own(name) => own::run(&cx, name, &members).await,
    }
}

fn members(body: &Bytes) -> Result<Map<String, Value>, ApiError> {
    let error = |message: String| ApiError::new(Code::SerializationException, message);
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(error("The request's body is not a JSON object.".into())),
        Err(e) => Err(error(format!("The request's body is not JSON: {e}."))),
    }
}

fn respond(result: Result<Answered, ApiError>, request_id: &str) -> Response {
    let (status, Answered { body, headers: more }, error_type) = match result {
        Ok(answered) => (StatusCode::OK, answered, None),
        Err(error) => (error.code.status(), error.body().into(), Some(error.code.as_str())),
    };
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON_1_0);
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(error_type) = error_type {
        headers.insert(ERROR_TYPE, HeaderValue::from_static(error_type));
    }
    for (name, value) in more {
        // What does not fit into a header is left out: the answer is whole without it.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}
