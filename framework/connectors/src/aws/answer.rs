//! What Step Functions makes of a service's answer: the metadata beside a result, the name and cause of an error.

use serde_json::{Map, Value, json};
use stagepost::Failure;

use super::{Response, SendError};

/// `SdkHttpMetadata` and `SdkResponseMetadata`, as they stand in results.
pub fn sdk_metadata(response: &Response) -> Map<String, Value> {
    let mut all: Map<String, Value> = Map::new();
    let mut first: Map<String, Value> = Map::new();
    for name in response.headers.keys() {
        let values: Vec<&str> =
            response.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        if let Some(value) = values.first() {
            first.insert(shown(name.as_str()), (*value).into());
        }
        all.insert(shown(name.as_str()), values.into());
    }
    let mut metadata = Map::new();
    metadata.insert(
        "SdkHttpMetadata".to_owned(),
        json!({ "AllHttpHeaders": all, "HttpHeaders": first, "HttpStatusCode": response.status }),
    );
    metadata.insert("SdkResponseMetadata".to_owned(), json!({ "RequestId": response.request_id() }));
    metadata
}

/// The name of a header as results show it: HTTP knows no case, but the service shows some of them in one.
fn shown(name: &str) -> String {
    match name {
        "content-length" => "Content-Length",
        "content-type" => "Content-Type",
        "date" => "Date",
        "x-amzn-requestid" => "x-amzn-RequestId",
        "x-amzn-trace-id" => "X-Amzn-Trace-Id",
        "x-amz-executed-version" => "X-Amz-Executed-Version",
        "x-amzn-remapped-content-length" => "x-amzn-Remapped-Content-Length",
        other => other,
    }
    .to_owned()
}

/// How errors of a service are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// What stands before the error's name: `Lambda` in `Lambda.ResourceNotFoundException`.
    pub prefix: &'static str,
    /// The service in the cause: `AWSLambda`.
    pub service: &'static str,
    /// The exception of errors that the service's model does not name: `AWSLambdaException`.
    pub general: &'static str,
}

/// An error of a service, as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problem {
    /// For instance `ResourceNotFoundException`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Errors that any service may answer and that the models of few name (Common Errors of the API references).
const COMMON: &[&str] = &[
    "AccessDeniedException",
    "AccessDenied",
    "ExpiredTokenException",
    "ExpiredToken",
    "IncompleteSignature",
    "InternalFailure",
    "InvalidAction",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "MissingParameter",
    "NotAuthorized",
    "OptInRequired",
    "RequestExpired",
    "SerializationException",
    "ServiceUnavailable",
    "SignatureDoesNotMatch",
    "ThrottlingException",
    "UnknownOperationException",
    "UnrecognizedClientException",
    "ValidationError",
    "ValidationException",
];

impl Problem {
    /// Reads the error of a service that speaks JSON: the code stands in the header or in `__type`.
    pub fn of_json(response: &Response) -> Problem {
        let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let text = |names: &[&str]| names.iter().find_map(|name| body[*name].as_str()).map(str::to_owned);
        let code = response.header("x-amzn-errortype").map(str::to_owned);
        let code = code.or_else(|| text(&["__type", "code", "Code"])).unwrap_or_default();
        // `com.amazonaws.dynamodb.v20120810#ResourceNotFoundException:http://…`
        let code = code.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
        Problem {
            code: code.to_owned(),
            message: text(&["message", "Message", "errorMessage"]).unwrap_or_default(),
        }
    }

    /// Reads the error of a service that speaks XML.
    pub fn of_xml(response: &Response) -> Problem {
        let body = String::from_utf8_lossy(&response.body);
        let Ok(document) = roxmltree::Document::parse(&body) else { return Problem::of_json(response) };
        let text = |name: &str| {
            let node = document.descendants().find(|node| node.tag_name().name() == name);
            node.and_then(|node| node.text()).unwrap_or_default().to_owned()
        };
        Problem { code: text("Code"), message: text("Message") }
    }

    /// Whether it is one that the service's model does not name.
    fn is_general(&self) -> bool {
        self.code.is_empty() || COMMON.contains(&self.code.as_str())
    }

    /// The name of its exception, or nothing where the service's model has none.
    pub fn name(&self) -> Option<String> {
        (!self.is_general()).then(|| self.exception())
    }

    /// The name of the exception: every one ends alike.
    fn exception(&self) -> String {
        // `AWS.SimpleQueueService.NonExistentQueue`: only the last part is a name.
        let name = self.code.rsplit('.').next().unwrap_or_default();
        if name.ends_with("Exception") { name.to_owned() } else { format!("{name}Exception") }
    }
}

impl Answered {
    /// The failure of a call by one of the optimized integrations, in the words of the first version of AWS's SDK for
    /// Java, which they are made with.
    pub fn optimized(self, response: &Response, problem: &Problem) -> Failure {
        self.optimized_as(response, problem, problem.name().as_deref())
    }

    /// As [`Answered::optimized`], where the exception is not named after the code.
    pub fn optimized_as(self, response: &Response, problem: &Problem, name: Option<&str>) -> Failure {
        let Answered { prefix, service, general } = self;
        let name = name.unwrap_or(general);
        let cause = format!(
            "{} (Service: {service}; Status Code: {}; Error Code: {}; Request ID: {}; Proxy: null)",
            problem.message,
            response.status,
            problem.code,
            response.request_id()
        );
        Failure::new(format!("{prefix}.{name}"), cause)
    }

    /// The failure of a call by `aws-sdk`, in the words of the second version of AWS's SDK for Java, which those are made
    /// with. Service and general exception are named after the prefix.
    pub fn sdk(self, response: &Response, problem: &Problem) -> Failure {
        let Answered { prefix, service, general } = self;
        let name = problem.name().unwrap_or_else(|| general.to_owned());
        let message = match problem.message.as_str() {
            "" => String::new(),
            message => format!("{message} "),
        };
        let extended = match response.header("x-amz-id-2") {
            Some(id) => format!(", Extended Request ID: {id}"),
            None => String::new(),
        };
        let cause = format!(
            "{message}(Service: {service}, Status Code: {}, Request ID: {}{extended}) (SDK Attempt Count: 1)",
            response.status,
            response.request_id()
        );
        Failure::new(format!("{prefix}.{name}"), cause)
    }

    /// The failure of a call that had no answer.
    pub fn unanswered(self, error: &SendError) -> Failure {
        Failure::new(format!("{}.SdkClientException", self.prefix), error)
    }
}
