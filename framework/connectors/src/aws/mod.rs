//! A client for services that speak AWS's protocols: AWS itself, or what stands for it at an endpoint that is set.

mod answer;
mod protocol;
mod settings;
mod sign;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Method, header::HeaderMap};

pub use answer::{Answered, Problem, sdk_metadata};
pub use protocol::{form, json, xml_value};
pub use settings::{Credentials, Settings};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The longest a call may take: a Lambda function may run for 15 minutes.
const CALL_WITHIN: Duration = Duration::from_secs(16 * 60);
/// The largest answer that is read, unless a call says otherwise.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A service, by the names that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// As in `AWS_ENDPOINT_URL_NAME`, for instance `SECRETS_MANAGER`.
    pub variable: &'static str,
    /// The host's first part, for instance `secretsmanager`.
    pub host: &'static str,
    /// As signatures name it.
    pub signing: &'static str,
}

/// One request to a service.
#[derive(Debug, Clone)]
pub struct Request {
    /// To which service.
    pub service: Service,
    /// In which region.
    pub region: String,
    /// An endpoint that takes the place of the service's.
    pub endpoint: Option<String>,
    /// The method.
    pub method: Method,
    /// The path, its segments encoded, with the leading `/`.
    pub path: String,
    /// The query, not encoded.
    pub query: Vec<(String, String)>,
    /// Further headers, by their names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// The largest answer that is read, in bytes.
    pub answer_bytes_max: usize,
}

impl Request {
    /// A `POST` to `/` with an empty body.
    pub fn new(service: Service, region: &str) -> Request {
        Request {
            service,
            region: region.to_owned(),
            endpoint: None,
            method: Method::POST,
            path: "/".to_owned(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Request {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What a service answered, whatever the status.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The id that the service gave the request; empty where it said none.
    pub fn request_id(&self) -> &str {
        let names = ["x-amzn-requestid", "x-amz-request-id", "x-amzn-request-id"];
        names.iter().find_map(|name| self.header(name)).unwrap_or_default()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There are no credentials, and the service is AWS's own.
    #[error(
        "Unable to load credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the connectors run, or an \
         endpoint with AWS_ENDPOINT_URL"
    )]
    NoCredentials,
    /// The endpoint is no URL.
    #[error("The endpoint '{0}' cannot be used: it is no http:// or https:// URL")]
    Endpoint(String),
    /// The service could not be reached, or broke off.
    #[error("Unable to execute HTTP request: {0}")]
    Unreachable(String),
    /// The answer has more bytes than are read.
    #[error("The answer has more than {0} bytes")]
    TooLarge(usize),
}

/// The client: cheap to clone, keeps connections.
#[derive(Debug, Clone)]
pub struct Aws {
    settings: Arc<Settings>,
    http: reqwest::Client,
}

impl Aws {
    /// A client with these settings.
    pub fn new(settings: Settings) -> Aws {
        Aws { settings: Arc::new(settings), http: http_client() }
    }

    /// A client as the environment says ([`Settings::from_env`]).
    pub fn from_env() -> Aws {
        Aws::new(Settings::from_env())
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The region to call: the one that the environment names, or else that of the execution.
    pub fn region<'a>(&'a self, execution_region: &'a str) -> &'a str {
        self.settings.region.as_deref().unwrap_or(execution_region)
    }

    /// Signs a request, sends it and reads the answer, whatever its status.
    ///
    /// # Errors
    /// Where there is no answer at all.
    pub async fn send(&self, request: Request) -> Result<Response, SendError> {
        let (endpoint, is_default) = match &request.endpoint {
            Some(endpoint) => (endpoint.clone(), false),
            None => self.settings.endpoint(request.service, &request.region),
        };
        let mut url = reqwest::Url::parse(&endpoint).map_err(|_| SendError::Endpoint(endpoint.clone()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(SendError::Endpoint(endpoint));
        }
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{}", request.path));
        let query = sign::canonical_query(&request.query);
        url.set_query(Some(query.as_str()).filter(|query| !query.is_empty()));
        let signed = sign::Signed {
            method: request.method.as_str(),
            // As it is sent: the signature covers the path and the query that the service sees.
            path: url.path().to_owned(),
            query,
            host: host(&url),
            headers: request.headers,
            body: &request.body,
            region: &request.region,
            service: request.service.signing,
        };
        let headers = match self.settings.credentials_for(is_default) {
            Some(credentials) => signed.sign(&credentials, jiff::Timestamp::now()),
            None => return Err(SendError::NoCredentials),
        };
        let mut builder = self.http.request(request.method, url);
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        let mut response = builder.body(request.body).send().await.map_err(|error| unreachable(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
            if body.len() + chunk.len() > request.answer_bytes_max {
                return Err(SendError::TooLarge(request.answer_bytes_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status, headers, body: body.freeze() })
    }
}

/// Makes TLS work for the clients of this crate. A provider that was installed before serves as well.
pub(crate) fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

pub(crate) fn http_client() -> reqwest::Client {
    install_tls();
    reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .timeout(CALL_WITHIN)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("stagepost/", env!("CARGO_PKG_VERSION")))
        .build()
        .expect("these options need nothing that could fail but TLS, whose provider is installed")
}

/// The `Host` header of a URL.
fn host(url: &reqwest::Url) -> String {
    let name = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

/// The error's texts with those of its sources, without the URL, which may hold data.
pub(crate) fn unreachable(error: &reqwest::Error) -> SendError {
    let mut texts = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        texts.push(error.to_string());
        source = error.source();
    }
    if texts.is_empty() {
        texts.push(if error.is_timeout() { "timed out" } else { "the request failed" }.to_owned());
    }
    SendError::Unreachable(texts.join(": "))
}

/// Percent-encodes a segment of a path.
pub fn path_segment(text: &str) -> String {
    sign::encode(text, false)
}

/// Percent-encodes a path: everything but `/`.
pub fn path_of(text: &str) -> String {
    sign::encode(text, true)
}
