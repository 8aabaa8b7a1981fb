//! Lambda functions: by their own ARN, and by `lambda:invoke` (developer guide, "Invoke an AWS Lambda function with Step
//! Functions"; Lambda API reference, Invoke).

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::Method;
use serde_json::{Map, Value};
use stagepost::Failure;
use stagepost_protocol::Payload;

use crate::{
    aws::{self, Answered, Aws, Problem, Request, Response, Service, sdk_metadata},
    call::{Answer, Call, Connector},
};

const SERVICE: Service = Service { variable: "LAMBDA", host: "lambda", signing: "lambda" };
const ANSWERED: Answered = Answered { prefix: "Lambda", service: "AWSLambda", general: "AWSLambdaException" };

/// The connector.
pub(crate) struct Lambda {
    aws: Aws,
}

impl Lambda {
    pub(crate) fn new(aws: Aws) -> Lambda {
        Lambda { aws }
    }

    async fn invoke(&self, request: Request) -> Result<Response, Failure> {
        let response = self.aws.send(request).await.map_err(|error| ANSWERED.unanswered(&error))?;
        if !(200..300).contains(&response.status) {
            return Err(ANSWERED.optimized(&response, &Problem::of_json(&response)));
        }
        if response.header("x-amz-function-error").is_some() {
            return Err(function_error(&response.body));
        }
        Ok(response)
    }

    fn request(&self, call: &Call, function: &str, qualifier: Option<&str>, body: Bytes) -> Request {
        let region = region_of(function).map_or_else(|| call.region(), str::to_owned);
        let region = if region_of(function).is_some() { &region } else { self.aws.region(&region) };
        let mut request = Request::new(SERVICE, region);
        request.path = format!("/2015-03-31/functions/{}/invocations", aws::path_segment(function));
        request.query = qualifier.map(|q| ("Qualifier".to_owned(), q.to_owned())).into_iter().collect();
        request.body = body;
        request.header("content-type", "application/json")
    }
}

#[async_trait]
impl Connector for Lambda {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        if let Some(function) = &call.function {
            let body = Bytes::copy_from_slice(call.input.as_str().as_bytes());
            let response = self.invoke(self.request(&call, function, None, body)).await?;
            return Ok(Answer::Done(result(&response.body)));
        }
        let parameters = call.input.to_value();
        let text = |name: &str| parameters.get(name).and_then(Value::as_str);
        let Some(function) = text("FunctionName") else {
            let cause = "1 validation error detected: Value null at 'functionName' failed to satisfy constraint: \
                         Member must not be null";
            return Err(Failure::new("Lambda.AWSLambdaException", cause));
        };
        let body = match parameters.get("Payload") {
            // A function is never called with nothing.
            None | Some(Value::Null) => Bytes::from_static(b"{}"),
            // A text that is JSON is the payload itself, any other one a JSON string.
            Some(Value::String(text)) if Payload::parse(text).is_ok() => Bytes::from(text.clone()),
            Some(payload) => Bytes::from(payload.to_string()),
        };
        let mut request = self.request(&call, function, text("Qualifier"), body);
        for (parameter, header) in
            [("InvocationType", "x-amz-invocation-type"), ("LogType", "x-amz-log-type")]
        {
            if let Some(value) = text(parameter) {
                request = request.header(header, value);
            }
        }
        match parameters.get("ClientContext") {
            None | Some(Value::Null) => {}
            // Either as the Lambda API wants it, or as an object, which is encoded here.
            Some(Value::String(encoded)) => request = request.header("x-amz-client-context", encoded),
            Some(context) => {
                request = request.header("x-amz-client-context", STANDARD.encode(context.to_string()));
            }
        }
        let response = self.invoke(request).await?;
        Ok(Answer::Done(Payload::from_value(&answer(&response).into())))
    }
}

/// The actions of `aws-sdk:lambda` that there are.
pub(crate) const ACTIONS: &[&str] = &["getFunction", "getFunctionConfiguration", "invoke", "listFunctions"];

/// `aws-sdk:lambda`: the actions that definitions use most. Its errors are worded by the second version of the SDK.
pub(crate) async fn call(aws: &Aws, call: &Call, parameters: &Value) -> Result<Value, Failure> {
    const SDK: Answered = Answered { prefix: "Lambda", service: "Lambda", general: "LambdaException" };
    let text = |name: &str| parameters.get(name).and_then(Value::as_str);
    let region = call.region();
    let mut request = Request::new(SERVICE, aws.region(&region));
    let function = || aws::path_segment(text("FunctionName").unwrap_or_default());
    match call.action.as_str() {
        "invoke" => {
            request.path = format!("/2015-03-31/functions/{}/invocations", function());
            request.body = match parameters.get("Payload") {
                None | Some(Value::Null) => Bytes::new(),
                Some(Value::String(text)) => Bytes::from(text.clone()),
                Some(payload) => Bytes::from(payload.to_string()),
            };
            for (parameter, header) in
                [("InvocationType", "x-amz-invocation-type"), ("LogType", "x-amz-log-type")]
            {
                if let Some(value) = text(parameter) {
                    request = request.header(header, value);
                }
            }
        }
        "getFunction" => request.path = format!("/2015-03-31/functions/{}", function()),
        "getFunctionConfiguration" => {
            request.path = format!("/2015-03-31/functions/{}/configuration", function());
        }
        // `listFunctions`: `ACTIONS` names no other.
        _ => request.path = "/2015-03-31/functions/".to_owned(),
    }
    if call.action != "invoke" {
        request.method = Method::GET;
    }
    request.query = [("Qualifier", "Qualifier"), ("Marker", "Marker"), ("MaxItems", "MaxItems")]
        .into_iter()
        .filter_map(|(name, parameter)| {
            let value = parameters.get(parameter).filter(|value| !value.is_null())?;
            Some((name.to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        })
        .collect();
    let response = aws.send(request).await.map_err(|error| SDK.unanswered(&error))?;
    if !(200..300).contains(&response.status) {
        return Err(SDK.sdk(&response, &Problem::of_json(&response)));
    }
    if call.action != "invoke" {
        return Ok(serde_json::from_slice(&response.body).unwrap_or_default());
    }
    let mut answer = Map::new();
    for (header, member) in [
        ("x-amz-executed-version", "ExecutedVersion"),
        ("x-amz-function-error", "FunctionError"),
        ("x-amz-log-result", "LogResult"),
    ] {
        if let Some(value) = response.header(header) {
            answer.insert(member.to_owned(), value.into());
        }
    }
    answer.insert("Payload".to_owned(), String::from_utf8_lossy(&response.body).into());
    answer.insert("StatusCode".to_owned(), response.status.into());
    Ok(answer.into())
}

/// The region in the ARN of a function.
fn region_of(function: &str) -> Option<&str> {
    function.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

/// What `lambda:invoke` gives.
fn answer(response: &Response) -> Map<String, Value> {
    let mut answer = Map::new();
    let header = |name: &str| response.header(name).map(Value::from);
    if let Some(version) = header("x-amz-executed-version") {
        answer.insert("ExecutedVersion".to_owned(), version);
    }
    if let Some(log) = header("x-amz-log-result") {
        answer.insert("LogResult".to_owned(), log);
    }
    // An asynchronous invocation has no payload.
    if !response.body.is_empty() {
        answer.insert("Payload".to_owned(), result(&response.body).to_value());
    }
    answer.extend(sdk_metadata(response));
    answer.insert("StatusCode".to_owned(), response.status.into());
    answer
}

/// What a function returned: JSON, or else its text.
fn result(body: &[u8]) -> Payload {
    if body.is_empty() {
        return Payload::from_value(&Value::Null);
    }
    Payload::parse_bytes(body)
        .unwrap_or_else(|_| Payload::from_value(&Value::from(String::from_utf8_lossy(body).into_owned())))
}

/// A function ended with an error: its type is the error's name, all that it said the cause.
fn function_error(body: &[u8]) -> Failure {
    let cause = String::from_utf8_lossy(body).into_owned();
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    match error["errorType"].as_str() {
        Some(name) => Failure::new(name.to_owned(), cause),
        None => Failure::new(
            "Lambda.Unknown",
            format!(
                "The cause could not be determined because Lambda did not return an error type. Returned payload: \
                 {cause}"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stagepost::ActivityError;

    use super::*;
    use crate::testing::{Desk, call};

    const ARN: &str = "arn:aws:lambda:eu-west-1:000000000000:function:f";

    /// A connector for a Lambda that answers so.
    async fn lambda(
        status: u16,
        headers: &'static [(&'static str, &'static str)],
        body: &'static str,
    ) -> (Lambda, Desk) {
        let desk = Desk::answering(status, headers, body).await;
        (Lambda::new(desk.aws("LAMBDA")), desk)
    }

    fn by_arn(input: &Value) -> Call {
        Call { function: Some(ARN.to_owned()), ..call("lambda:function", input) }
    }

    #[tokio::test]
    async fn a_function_gets_its_input_and_gives_its_output() {
        let (lambda, desk) = lambda(200, &[], r#"{"b": 2}"#).await;
        let answer = lambda.call(by_arn(&json!({ "a": 1 }))).await;
        assert_eq!(answer, Ok(Answer::Done(Payload::parse(r#"{"b": 2}"#).unwrap())));
        let seen = desk.last();
        let path =
            "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A000000000000%3Afunction%3Af/invocations";
        assert_eq!(
            (seen.method.as_str(), seen.uri.as_str(), seen.body.as_str()),
            ("POST", path, r#"{"a":1}"#)
        );
        // The region is the function's own.
        assert!(seen.headers["authorization"].contains("/eu-west-1/lambda/aws4_request"), "{seen:?}");
    }

    #[tokio::test]
    async fn invoke_takes_the_parameters_of_the_api() {
        let (lambda, desk) = lambda(
            200,
            &[("x-amz-executed-version", "7"), ("x-amzn-requestid", "r"), ("x-amz-log-result", "bG9n")],
            "\"done\"",
        )
        .await;
        let parameters = json!({
            "FunctionName": "f",
            "Payload": { "a": 1 },
            "Qualifier": "live",
            "InvocationType": "RequestResponse",
            "LogType": "Tail",
            "ClientContext": { "k": "v" },
        });
        let Ok(Answer::Done(answer)) = lambda.call(call("lambda:invoke", &parameters)).await else {
            panic!()
        };
        let answer = answer.to_value();
        assert_eq!(answer["Payload"], "done");
        assert_eq!((&answer["ExecutedVersion"], &answer["StatusCode"]), (&json!("7"), &json!(200)));
        assert_eq!(answer["LogResult"], "bG9n");
        assert_eq!(answer["SdkResponseMetadata"]["RequestId"], "r");
        assert_eq!(answer["SdkHttpMetadata"]["HttpStatusCode"], 200);
        assert_eq!(answer["SdkHttpMetadata"]["HttpHeaders"]["x-amzn-RequestId"], "r");
        assert_eq!(answer["SdkHttpMetadata"]["AllHttpHeaders"]["x-amzn-RequestId"], json!(["r"]));
        let seen = desk.last();
        assert_eq!(seen.uri, "/2015-03-31/functions/f/invocations?Qualifier=live");
        assert_eq!(seen.headers["x-amz-invocation-type"], "RequestResponse");
        assert_eq!(seen.headers["x-amz-log-type"], "Tail");
        assert_eq!(seen.headers["x-amz-client-context"], "eyJrIjoidiJ9");
    }

    #[tokio::test]
    async fn payloads_are_json_whatever_they_are_written_as() {
        let (lambda, desk) = lambda(200, &[], "null").await;
        for (payload, body) in [
            (json!(null), "{}"),
            (json!("text"), "\"text\""),
            (json!("\"quoted\""), "\"quoted\""),
            (json!("{\"a\": 1}"), "{\"a\": 1}"),
            (json!([1, 2]), "[1,2]"),
        ] {
            let parameters = json!({ "FunctionName": "f", "Payload": payload });
            lambda.call(call("lambda:invoke", &parameters)).await.unwrap();
            assert_eq!(desk.last().body, body);
        }
    }

    #[tokio::test]
    async fn failures_are_named_as_the_service_names_them() {
        let raised = r#"{"errorMessage":"no","errorType":"Declined"}"#;
        let timed_out = r#"{"errorMessage":"Task timed out after 3.00 seconds"}"#;
        let error: &[_] = &[("x-amz-function-error", "Unhandled")];
        let missing: &[_] = &[("x-amzn-errortype", "ResourceNotFoundException:x"), ("x-amzn-requestid", "r")];
        let denied: &[_] = &[("x-amzn-errortype", "AccessDeniedException")];
        for (status, headers, body, name, cause) in [
            (200, error, raised, "Declined", raised),
            (
                200,
                error,
                timed_out,
                "Lambda.Unknown",
                "did not return an error type. Returned payload: {\"errorMessage",
            ),
            (
                404,
                missing,
                r#"{"Message":"Function not found: f"}"#,
                "Lambda.ResourceNotFoundException",
                "Function not found: f (Service: AWSLambda; Status Code: 404; Error Code: \
                 ResourceNotFoundException; Request ID: r; Proxy: null)",
            ),
            (
                403,
                denied,
                "{}",
                "Lambda.AWSLambdaException",
                "Status Code: 403; Error Code: AccessDeniedException",
            ),
            (502, &[], "bad gateway", "Lambda.AWSLambdaException", "Status Code: 502"),
        ] {
            let (lambda, _desk) = lambda(status, headers, body).await;
            let failure = lambda.call(by_arn(&json!({}))).await.unwrap_err();
            assert_eq!(failure.name(), name);
            assert!(failure.cause().contains(cause), "{failure}");
        }
        let nobody = Aws::new(crate::testing::settings("http://127.0.0.1:1"));
        let failure = Lambda::new(nobody).call(by_arn(&json!({}))).await.unwrap_err();
        assert_eq!(failure.name(), "Lambda.SdkClientException");
        assert!(failure.cause().starts_with("Unable to execute HTTP request: "), "{failure}");
    }
}
