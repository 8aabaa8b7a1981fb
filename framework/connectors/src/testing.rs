//! What the tests of connectors use: a small HTTP server in the place of a service.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Bytes, extract::Request, response::Response};
use serde_json::Value;
use stagepost_protocol::{Payload, ServiceCall, TaskToken};

use crate::{
    aws::{Aws, Settings},
    call::Call,
};

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// The server. It ends with the test's runtime.
pub(crate) struct Desk {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Desk {
    /// One that answers all requests alike.
    pub(crate) async fn answering(
        status: u16,
        headers: &'static [(&'static str, &'static str)],
        body: &'static str,
    ) -> Desk {
        Desk::new(move |_| {
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(*name, *value);
            }
            answer.body(axum::body::Body::from(body)).unwrap()
        })
        .await
    }

    pub(crate) async fn new(answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static) -> Desk {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let handler = async move |request: Request| {
            let (head, body) = request.into_parts();
            let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let text = |value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned();
            let one = Seen {
                method: head.method.to_string(),
                uri: head.uri.to_string(),
                headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
                body: String::from_utf8(body.to_vec()).unwrap(),
            };
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(one.clone());
            answer(&one)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Desk { url, seen }
    }

    /// A client whose endpoint for a service it is.
    pub(crate) fn aws(&self, variable: &str) -> Aws {
        let endpoints = [(variable.to_owned(), self.url.clone())].into();
        Aws::new(Settings { endpoints, ..Settings::default() })
    }

    /// The last request.
    pub(crate) fn last(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last().cloned().unwrap()
    }
}

/// Settings with one endpoint for everything.
pub(crate) fn settings(endpoint: &str) -> Settings {
    Settings { endpoint: Some(endpoint.to_owned()), ..Settings::default() }
}

/// A call of `SERVICE:ACTION[.PATTERN]`.
pub(crate) fn call(resource: &str, input: &Value) -> Call {
    let ServiceCall { service, action, pattern, function } = ServiceCall::parse(resource).unwrap();
    Call {
        service,
        action,
        pattern,
        function,
        input: Payload::from_value(input),
        execution: "arn:aws:states:us-east-1:000000000000:execution:m:e".to_owned(),
        state: "S".to_owned(),
        attempt: 1,
        attempt_id: "id-3".to_owned(),
        idempotency_key: "id-2".to_owned(),
        token: TaskToken::from_untrusted("token"),
    }
}
