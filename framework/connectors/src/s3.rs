//! `aws-sdk:s3`: the actions on buckets and objects that definitions use most (S3 API reference).

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Map, Value, json};
use stagepost::Failure;

use crate::{
    aws::{self, Answered, Aws, Problem, Request, Response, Service},
    call::Call,
};

const SERVICE: Service = Service { variable: "S3", host: "s3", signing: "s3" };
const ANSWERED: Answered = Answered { prefix: "S3", service: "S3", general: "S3Exception" };

/// The actions that there are.
pub(crate) const ACTIONS: &[&str] = &[
    "copyObject",
    "createBucket",
    "deleteObject",
    "getObject",
    "headObject",
    "listBuckets",
    "listObjectsV2",
    "putObject",
];

/// Parameters that are headers of the request.
const HEADERS: &[(&str, &str)] = &[
    ("CacheControl", "cache-control"),
    ("ContentDisposition", "content-disposition"),
    ("ContentEncoding", "content-encoding"),
    ("ContentLanguage", "content-language"),
    ("ContentType", "content-type"),
    ("CopySource", "x-amz-copy-source"),
    ("IfMatch", "if-match"),
    ("IfNoneMatch", "if-none-match"),
    ("MetadataDirective", "x-amz-metadata-directive"),
    ("Range", "range"),
    ("ServerSideEncryption", "x-amz-server-side-encryption"),
    ("StorageClass", "x-amz-storage-class"),
    ("Tagging", "x-amz-tagging"),
];

/// Headers of the answer that are members of the result.
const MEMBERS: &[(&str, &str)] = &[
    ("accept-ranges", "AcceptRanges"),
    ("cache-control", "CacheControl"),
    ("x-amz-checksum-crc32", "ChecksumCRC32"),
    ("x-amz-checksum-type", "ChecksumType"),
    ("content-disposition", "ContentDisposition"),
    ("content-encoding", "ContentEncoding"),
    ("content-language", "ContentLanguage"),
    ("content-range", "ContentRange"),
    ("content-type", "ContentType"),
    ("etag", "ETag"),
    ("location", "Location"),
    ("x-amz-server-side-encryption", "ServerSideEncryption"),
    ("x-amz-storage-class", "StorageClass"),
    ("x-amz-version-id", "VersionId"),
];

/// Makes a call.
pub(crate) async fn call(aws: &Aws, call: &Call, parameters: &Value) -> Result<Value, Failure> {
    let action = call.action.as_str();
    let region = call.region();
    let request = request(action, aws.region(&region), parameters)?;
    let response = aws.send(request).await.map_err(|error| ANSWERED.unanswered(&error))?;
    if !(200..300).contains(&response.status) {
        return Err(ANSWERED.sdk(&response, &problem(&response)));
    }
    Ok(answer(action, &response))
}

/// An answer to HEAD has no body that says what is wrong.
fn problem(response: &Response) -> Problem {
    match (response.status, response.body.is_empty()) {
        (404, true) => Problem { code: "NoSuchKeyException".to_owned(), message: String::new() },
        _ => Problem::of_xml(response),
    }
}

fn request(action: &str, region: &str, parameters: &Value) -> Result<Request, Failure> {
    let text = |name: &str| parameters.get(name).and_then(Value::as_str);
    let required = |name: &str| {
        text(name)
            .ok_or_else(|| Failure::new("S3.S3Exception", format!("The parameter {name} must not be null")))
    };
    let mut request = Request::new(SERVICE, region);
    request.method = match action {
        "putObject" | "createBucket" | "copyObject" => Method::PUT,
        "deleteObject" => Method::DELETE,
        "headObject" => Method::HEAD,
        _ => Method::GET,
    };
    request.path = match action {
        "listBuckets" => "/".to_owned(),
        "createBucket" | "listObjectsV2" => format!("/{}", aws::path_segment(required("Bucket")?)),
        _ => format!("/{}/{}", aws::path_segment(required("Bucket")?), aws::path_of(required("Key")?)),
    };
    let mut query = |name: &str, parameter: &str| {
        let value = match parameters.get(parameter) {
            None | Some(Value::Null) => return,
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        request.query.push((name.to_owned(), value));
    };
    query("versionId", "VersionId");
    if action == "listObjectsV2" {
        for (name, parameter) in [
            ("prefix", "Prefix"),
            ("delimiter", "Delimiter"),
            ("max-keys", "MaxKeys"),
            ("continuation-token", "ContinuationToken"),
            ("start-after", "StartAfter"),
        ] {
            query(name, parameter);
        }
        request.query.push(("list-type".to_owned(), "2".to_owned()));
    }
    for (parameter, header) in HEADERS {
        if let Some(value) = text(parameter) {
            request = request.header(header, value);
        }
    }
    if let Some(Value::Object(metadata)) = parameters.get("Metadata") {
        for (name, value) in metadata {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            request = request.header(&format!("x-amz-meta-{}", name.to_ascii_lowercase()), value);
        }
    }
    request.body = match (action, parameters.get("Body")) {
        ("putObject", Some(Value::String(text))) => Bytes::from(text.clone()),
        ("putObject", Some(body)) if !body.is_null() => Bytes::from(body.to_string()),
        ("createBucket", _) if region != "us-east-1" => {
            let configuration = "CreateBucketConfiguration";
            Bytes::from(format!(
                "<{configuration} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{region}\
                 </LocationConstraint></{configuration}>"
            ))
        }
        _ => Bytes::new(),
    };
    Ok(request)
}

fn answer(action: &str, response: &Response) -> Value {
    if matches!(action, "listBuckets" | "listObjectsV2" | "copyObject") {
        return listed(action, response);
    }
    let mut answer = Map::new();
    for (header, member) in MEMBERS {
        // An upload's answer has a type and a length of its own empty body.
        let of_object = matches!(action, "getObject" | "headObject");
        if let Some(value) = response.header(header).filter(|_| of_object || *member != "ContentType") {
            answer.insert((*member).to_owned(), value.into());
        }
    }
    if matches!(action, "getObject" | "headObject") {
        let length = response.header("content-length").and_then(|n| n.parse::<u64>().ok());
        answer.insert("ContentLength".to_owned(), length.unwrap_or(response.body.len() as u64).into());
        if let Some(modified) = response.header("last-modified").and_then(modified) {
            answer.insert("LastModified".to_owned(), modified.into());
        }
        let metadata: Map<String, Value> = response
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let name = name.as_str().strip_prefix("x-amz-meta-")?;
                Some((name.to_owned(), value.to_str().ok()?.into()))
            })
            .collect();
        answer.insert("Metadata".to_owned(), metadata.into());
    }
    if action == "getObject" {
        answer.insert("Body".to_owned(), String::from_utf8_lossy(&response.body).into());
    }
    answer.into()
}

/// A date of HTTP as results show it.
fn modified(date: &str) -> Option<String> {
    let time = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(time.timestamp().to_string())
}

/// An answer in XML, its lists and numbers as such.
fn listed(action: &str, response: &Response) -> Value {
    let body = String::from_utf8_lossy(&response.body);
    let Ok(document) = roxmltree::Document::parse(&body) else { return Map::new().into() };
    let Value::Object(mut answer) = aws::xml_value(document.root_element()) else { return Map::new().into() };
    match action {
        "listBuckets" => {
            let buckets = answer.get_mut("Buckets").and_then(Value::as_object_mut);
            let buckets = buckets.and_then(|buckets| buckets.remove("Bucket"));
            answer.insert("Buckets".to_owned(), list(buckets));
        }
        "copyObject" => return json!({ "CopyObjectResult": answer }),
        _ => {
            for name in ["Contents", "CommonPrefixes"] {
                if let Some(found) = answer.remove(name) {
                    answer.insert(name.to_owned(), list(Some(found)));
                }
            }
            typed(&mut answer);
            for entry in answer.get_mut("Contents").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Value::Object(entry) = entry {
                    typed(entry);
                }
            }
        }
    }
    answer.into()
}

/// What repeats in XML is a list, also where there is one of it or none.
fn list(found: Option<Value>) -> Value {
    match found {
        None => json!([]),
        Some(list @ Value::Array(_)) => list,
        Some(one) => json!([one]),
    }
}

fn typed(members: &mut Map<String, Value>) {
    for (name, value) in members {
        let read = match name.as_str() {
            "IsTruncated" => value.as_str().and_then(|text| text.parse::<bool>().ok()).map(Value::from),
            "KeyCount" | "MaxKeys" | "Size" => {
                value.as_str().and_then(|text| text.parse::<u64>().ok()).map(Value::from)
            }
            _ => None,
        };
        if let Some(read) = read {
            *value = read;
        }
    }
}

#[cfg(test)]
mod tests {
    use stagepost::ActivityError;

    use super::*;
    use crate::testing::{self, Desk};

    async fn ask(desk: &Desk, action: &str, parameters: &Value) -> Result<Value, Failure> {
        let asked = testing::call(&format!("aws-sdk:s3:{action}"), parameters);
        call(&desk.aws("S3"), &asked, parameters).await
    }

    #[tokio::test]
    async fn objects_are_put_and_got() {
        let headers: &[_] = &[
            ("etag", "\"e\""),
            ("content-type", "text/plain"),
            ("last-modified", "Sun, 22 Nov 2026 10:00:00 GMT"),
            ("x-amz-meta-a", "b"),
        ];
        let desk = Desk::answering(200, headers, "text data").await;
        let parameters =
            json!({ "Bucket": "b", "Key": "a dir/k+1", "Body": { "x": 1 }, "Metadata": { "A": "b" } });
        assert_eq!(ask(&desk, "putObject", &parameters).await, Ok(json!({ "ETag": "\"e\"" })));
        let seen = desk.last();
        assert_eq!((seen.method.as_str(), seen.uri.as_str()), ("PUT", "/b/a%20dir/k%2B1"));
        assert_eq!((seen.body.as_str(), seen.headers["x-amz-meta-a"].as_str()), (r#"{"x":1}"#, "b"));

        let got = ask(&desk, "getObject", &json!({ "Bucket": "b", "Key": "k", "Range": "bytes=0-3" })).await;
        let expected = json!({
            "ContentType": "text/plain",
            "ETag": "\"e\"",
            "ContentLength": 9,
            "LastModified": "2026-11-22T10:00:00Z",
            "Metadata": { "a": "b" },
            "Body": "text data",
        });
        assert_eq!(got, Ok(expected));
        assert_eq!(desk.last().headers["range"], "bytes=0-3");
    }

    #[tokio::test]
    async fn lists_are_lists_and_numbers_numbers() {
        let body = "<ListBucketResult><Name>b</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents>\
                    <Key>k</Key><Size>9</Size></Contents></ListBucketResult>";
        let desk = Desk::answering(200, &[], body).await;
        let listed =
            ask(&desk, "listObjectsV2", &json!({ "Bucket": "b", "Prefix": "p", "MaxKeys": 5 })).await;
        let expected = json!({
            "Name": "b",
            "KeyCount": 1,
            "IsTruncated": false,
            "Contents": [{ "Key": "k", "Size": 9 }],
        });
        assert_eq!(listed, Ok(expected));
        assert_eq!(desk.last().uri, "/b?list-type=2&max-keys=5&prefix=p");
        let desk =
            Desk::answering(200, &[], "<R><Buckets><Bucket><Name>a</Name></Bucket></Buckets></R>").await;
        assert_eq!(ask(&desk, "listBuckets", &json!({})).await, Ok(json!({ "Buckets": [{ "Name": "a" }] })));
    }

    #[tokio::test]
    async fn errors_are_named_in_the_words_of_the_sdk() {
        let body =
            "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>";
        let desk = Desk::answering(404, &[("x-amz-request-id", "r"), ("x-amz-id-2", "i")], body).await;
        let failure = ask(&desk, "getObject", &json!({ "Bucket": "b", "Key": "k" })).await.unwrap_err();
        assert_eq!(failure.name(), "S3.NoSuchBucketException");
        assert_eq!(
            failure.cause(),
            "The specified bucket does not exist (Service: S3, Status Code: 404, Request ID: r, Extended Request ID: i) \
             (SDK Attempt Count: 1)"
        );
        let missing = ask(&desk, "getObject", &json!({ "Bucket": "b" })).await.unwrap_err();
        assert!(missing.cause().contains("Key must not be null"), "{missing}");
    }
}
