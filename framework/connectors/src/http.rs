//! `http:invoke` (developer guide, "Call HTTPS APIs in Step Functions workflows").

use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};
use stagepost::Failure;
use stagepost_protocol::{Payload, error_names, limits};

use crate::{
    aws,
    call::{Answer, Call, Connector},
};

/// The service ends a request after so long.
const CALL_WITHIN: Duration = Duration::from_secs(60);

/// The connector.
pub(crate) struct Http {
    client: reqwest::Client,
}

impl Http {
    pub(crate) fn new() -> Http {
        Http { client: aws::http_client() }
    }
}

fn refused(problem: &str) -> Failure {
    Failure::new(error_names::RUNTIME, format!("The HTTP request cannot be made: {problem}"))
}

#[async_trait]
impl Connector for Http {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let parameters = call.input.to_value();
        let mut response =
            request(&self.client, &parameters)?.send().await.map_err(|error| socket(&error))?;
        let status = response.status();
        let mut headers = Map::new();
        for name in response.headers().keys() {
            let values = response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
            headers.insert(name.to_string(), values.collect::<Vec<_>>().into());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| socket(&error))? {
            if body.len() + chunk.len() > limits::PAYLOAD_BYTES_MAX {
                let cause = "The state/task 'http' returned a result with a size exceeding the maximum number of bytes \
                             service limit.";
                return Err(Failure::new(error_names::DATA_LIMIT_EXCEEDED, cause));
            }
            body.extend_from_slice(&chunk);
        }
        let text = status.canonical_reason().unwrap_or_default();
        if !status.is_success() {
            return Err(Failure::new(format!("States.Http.StatusCode.{}", status.as_u16()), text));
        }
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()));
        let answer = json!({
            "Headers": headers,
            "ResponseBody": body,
            "StatusCode": status.as_u16(),
            "StatusText": text,
        });
        Ok(Answer::Done(Payload::from_value(&answer)))
    }
}

/// No answer: the service calls that an error of the socket.
fn socket(error: &reqwest::Error) -> Failure {
    Failure::new("States.Http.Socket", aws::unreachable(error))
}

fn request(client: &reqwest::Client, parameters: &Value) -> Result<reqwest::RequestBuilder, Failure> {
    for name in ["Authentication", "InvocationConfig"] {
        if parameters.get(name).is_some_and(|value| !value.is_null()) {
            return Err(refused(&format!(
                "{name} names an EventBridge connection, and this version of Stagepost has none. Leave it out and send \
                 what authenticates the request in Headers, QueryParameters or RequestBody"
            )));
        }
    }
    let text = |name: &str| parameters.get(name).and_then(Value::as_str);
    let endpoint = text("ApiEndpoint").ok_or_else(|| refused("ApiEndpoint is missing"))?;
    let mut url =
        Url::parse(endpoint).map_err(|error| refused(&format!("ApiEndpoint is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("ApiEndpoint must begin with https:// or http://"));
    }
    let method = text("Method").ok_or_else(|| refused("Method is missing"))?;
    let method = match method {
        "GET" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" | "HEAD" => {
            Method::from_bytes(method.as_bytes()).map_err(|error| refused(&error.to_string()))?
        }
        other => return Err(refused(&format!("Method '{other}' is none of HTTP's"))),
    };
    if let Some(Value::Object(query)) = parameters.get("QueryParameters") {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in query {
            for value in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
                pairs.append_pair(name, &plain(value));
            }
        }
    }
    let mut request = client.request(method, url).timeout(CALL_WITHIN);
    let mut content_type = None;
    if let Some(Value::Object(headers)) = parameters.get("Headers") {
        for (name, value) in headers {
            for value in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
                if name.eq_ignore_ascii_case("content-type") {
                    content_type = Some(plain(value));
                }
                request = request.header(name, plain(value));
            }
        }
    }
    let Some(body) = parameters.get("RequestBody").filter(|body| !body.is_null()) else { return Ok(request) };
    if parameters["Transform"]["RequestBodyEncoding"] == "URL_ENCODED" {
        let arrays = parameters["Transform"]["RequestEncodingOptions"]["ArrayFormat"].as_str();
        let arrays = Arrays::read(arrays.unwrap_or("INDICES"))?;
        if content_type.is_none() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        return Ok(request.body(form(body, arrays)));
    }
    if content_type.is_none() {
        request = request.header("content-type", "application/json");
    }
    Ok(request.body(match body {
        Value::String(text) if content_type.is_some() => text.clone(),
        body => body.to_string(),
    }))
}

/// A value as it stands in a URL or a header.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// How the elements of a list are named in a form.
#[derive(Debug, Clone, Copy)]
enum Arrays {
    Indices,
    Repeat,
    Commas,
    Brackets,
    None,
}

impl Arrays {
    fn read(name: &str) -> Result<Arrays, Failure> {
        Ok(match name {
            "INDICES" => Arrays::Indices,
            "REPEAT" => Arrays::Repeat,
            "COMMAS" => Arrays::Commas,
            "BRACKETS" => Arrays::Brackets,
            "NONE" => Arrays::None,
            other => {
                let problem = format!(
                    "ArrayFormat must be INDICES, REPEAT, COMMAS, BRACKETS or NONE but was '{other}'"
                );
                return Err(refused(&problem));
            }
        })
    }
}

fn form(body: &Value, arrays: Arrays) -> String {
    let mut pairs = Vec::new();
    if let Value::Object(fields) = body {
        fields.iter().for_each(|(name, value)| fill(name.clone(), value, arrays, &mut pairs));
    }
    let pair = |(name, value): &(String, String)| {
        format!("{}={}", aws::path_segment(name), aws::path_segment(value))
    };
    pairs.iter().map(pair).collect::<Vec<_>>().join("&")
}

fn fill(name: String, value: &Value, arrays: Arrays, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(part, value)| fill(format!("{name}[{part}]"), value, arrays, pairs));
        }
        Value::Array(elements) => match arrays {
            Arrays::Commas => pairs.push((name, elements.iter().map(plain).collect::<Vec<_>>().join(","))),
            Arrays::None => pairs.push((name, value.to_string())),
            Arrays::Indices | Arrays::Repeat | Arrays::Brackets => {
                for (place, element) in elements.iter().enumerate() {
                    let name = match arrays {
                        Arrays::Indices => format!("{name}[{place}]"),
                        Arrays::Brackets => format!("{name}[]"),
                        _ => name.clone(),
                    };
                    fill(name, element, arrays, pairs);
                }
            }
        },
        Value::Null => pairs.push((name, String::new())),
        other => pairs.push((name, plain(other))),
    }
}

#[cfg(test)]
mod tests {
    use stagepost::ActivityError;

    use super::*;
    use crate::testing::{Desk, call};

    async fn invoke(parameters: &Value) -> Result<Value, Failure> {
        let Answer::Done(answer) = Http::new().call(call("http:invoke", parameters)).await? else { panic!() };
        Ok(answer.to_value())
    }

    #[tokio::test]
    async fn a_request_has_its_query_headers_and_body() {
        let desk = Desk::answering(201, &[("x-a", "1")], r#"{"id":7}"#).await;
        let parameters = json!({
            "ApiEndpoint": format!("{}/orders", desk.url),
            "Method": "POST",
            "QueryParameters": { "q": "a b", "n": [1, 2] },
            "Headers": { "X-Key": "k" },
            "RequestBody": { "a": 1 },
        });
        let answer = invoke(&parameters).await.unwrap();
        assert_eq!((&answer["StatusCode"], &answer["StatusText"]), (&json!(201), &json!("Created")));
        assert_eq!(
            (&answer["ResponseBody"], &answer["Headers"]["x-a"]),
            (&json!({ "id": 7 }), &json!(["1"]))
        );
        let seen = desk.last();
        assert_eq!((seen.method.as_str(), seen.uri.as_str()), ("POST", "/orders?q=a+b&n=1&n=2"));
        assert_eq!((seen.headers["x-key"].as_str(), seen.body.as_str()), ("k", r#"{"a":1}"#));
        assert_eq!(seen.headers["content-type"], "application/json");
    }

    #[tokio::test]
    async fn forms_are_encoded_as_asked() {
        let desk = Desk::answering(200, &[], "plain").await;
        for (format, body) in [
            ("INDICES", "a%5B0%5D=1&a%5B1%5D=2&b%5Bc%5D=x%20y"),
            ("REPEAT", "a=1&a=2&b%5Bc%5D=x%20y"),
            ("COMMAS", "a=1%2C2&b%5Bc%5D=x%20y"),
            ("BRACKETS", "a%5B%5D=1&a%5B%5D=2&b%5Bc%5D=x%20y"),
            ("NONE", "a=%5B1%2C2%5D&b%5Bc%5D=x%20y"),
        ] {
            let parameters = json!({
                "ApiEndpoint": desk.url,
                "Method": "POST",
                "RequestBody": { "a": [1, 2], "b": { "c": "x y" } },
                "Transform": {
                    "RequestBodyEncoding": "URL_ENCODED",
                    "RequestEncodingOptions": { "ArrayFormat": format },
                },
            });
            assert_eq!(invoke(&parameters).await.unwrap()["ResponseBody"], "plain");
            assert_eq!(desk.last().body, body);
            assert_eq!(desk.last().headers["content-type"], "application/x-www-form-urlencoded");
        }
    }

    #[tokio::test]
    async fn failures_are_named_by_their_status() {
        let desk = Desk::answering(404, &[], "{}").await;
        let get = |url: &str| json!({ "ApiEndpoint": url, "Method": "GET" });
        let failure = invoke(&get(&desk.url)).await.unwrap_err();
        assert_eq!((&*failure.name(), failure.cause()), ("States.Http.StatusCode.404", "Not Found"));
        let nobody = invoke(&get("http://127.0.0.1:1")).await.unwrap_err();
        assert_eq!(nobody.name(), "States.Http.Socket");
        for (parameters, told) in [
            (json!({}), "ApiEndpoint is missing"),
            (get("ftp://h"), "http://"),
            (json!({ "ApiEndpoint": "http://h", "Method": "BREW" }), "'BREW'"),
            (
                json!({ "ApiEndpoint": "http://h", "Method": "GET", "Authentication": { "ConnectionArn": "arn" } }),
                "EventBridge connection",
            ),
        ] {
            let failure = invoke(&parameters).await.unwrap_err();
            assert_eq!(failure.name(), "States.Runtime");
            assert!(failure.cause().contains(told), "{failure}");
        }
    }
}
