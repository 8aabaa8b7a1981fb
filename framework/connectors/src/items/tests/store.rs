//! The S3 client and the HTTP source against a server in this process that does what S3 does.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use serde_json::{Value, json};

use super::super::{
    Listing, Object, Objects, ReadRequest, connector::DataSets, read_window, s3::Bucket, writer::Files as _,
};
use crate::aws::{Aws, Settings};

/// What the server keeps.
#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Vec<u8>>,
    uploads: HashMap<String, BTreeMap<u32, Vec<u8>>>,
    /// Answers to give before any other.
    refusals: Vec<u16>,
    requests: Vec<String>,
    ignores_ranges: bool,
    content_type: Option<&'static str>,
}

/// A store at `url`; it ends with the test's runtime.
struct Store {
    url: String,
    kept: Arc<Mutex<Kept>>,
}

impl Store {
    async fn start() -> Store {
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let state = Arc::clone(&kept);
        let handler = async move |request: Request| {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
            let path = percent_decode(head.uri.path());
            let query: HashMap<String, String> = head
                .uri
                .query()
                .unwrap_or_default()
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (percent_decode(name), percent_decode(value)))
                .collect();
            let mut kept = state.lock().unwrap();
            kept.requests.push(format!("{} {}", head.method, head.uri));
            kept.answer(&head.method, path.trim_start_matches('/'), &query, &head.headers, &body)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Store { url, kept }
    }

    fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.kept.lock().unwrap().objects.insert(key.to_owned(), bytes.into());
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.kept.lock().unwrap().objects.get(key).cloned()
    }

    fn sets(&self) -> DataSets {
        let endpoints = [("S3".to_owned(), self.url.clone())].into();
        DataSets::new(&Aws::new(Settings { endpoints, ..Settings::default() }), None)
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{:x}-{}\"", bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>(), bytes.len())
}

fn respond(status: u16, headers: &[(&str, String)], body: impl Into<Vec<u8>>) -> Response {
    let mut response = Response::builder().status(status).header("x-amz-request-id", "R1");
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Body::from(body.into())).unwrap()
}

fn error(status: u16, code: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>About {code} &amp; more.</Message></Error>"
    );
    respond(status, &[], body)
}

impl Kept {
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        query: &HashMap<String, String>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Response {
        if !self.refusals.is_empty() {
            return error(self.refusals.remove(0), "SlowDown");
        }
        if query.contains_key("list-type") {
            return self.list(path, query);
        }
        let upload = query.get("uploadId").cloned();
        match (method.as_str(), upload) {
            ("GET", _) => self.object(path, headers),
            ("PUT", None) => {
                self.objects.insert(path.to_owned(), body.to_vec());
                respond(200, &[("etag", etag(body))], "")
            }
            ("POST", None) => {
                let id = format!("upload-{}", self.uploads.len());
                self.uploads.insert(id.clone(), BTreeMap::new());
                let body = format!(
                    "<InitiateMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                     <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                respond(200, &[], body)
            }
            ("PUT", Some(id)) => {
                let number = query["partNumber"].parse().unwrap();
                self.uploads.get_mut(&id).unwrap().insert(number, body.to_vec());
                respond(200, &[("etag", etag(body))], "")
            }
            ("POST", Some(id)) => {
                let parts = self.uploads.remove(&id).unwrap();
                let text = std::str::from_utf8(body).unwrap();
                for (number, part) in &parts {
                    assert!(text.contains(&format!("<PartNumber>{number}</PartNumber><ETag>{}", etag(part))));
                }
                self.objects.insert(path.to_owned(), parts.into_values().flatten().collect());
                respond(200, &[], "<CompleteMultipartUploadResult/>")
            }
            ("DELETE", Some(id)) => {
                self.uploads.remove(&id);
                respond(204, &[], "")
            }
            _ => error(405, "MethodNotAllowed"),
        }
    }

    fn object(&self, path: &str, headers: &HeaderMap) -> Response {
        let Some(bytes) = self.objects.get(path) else { return error(404, "NoSuchKey") };
        let mut sent = vec![("etag", etag(bytes))];
        if headers.get("if-match").is_some_and(|wanted| wanted.to_str().unwrap() != etag(bytes)) {
            return error(StatusCode::PRECONDITION_FAILED.as_u16(), "PreconditionFailed");
        }
        sent.extend(self.content_type.map(|content_type| ("content-type", content_type.to_owned())));
        if self.ignores_ranges {
            return respond(200, &sent, bytes.clone());
        }
        let range = headers["range"].to_str().unwrap();
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
        if from >= bytes.len() {
            return error(416, "InvalidRange");
        }
        let to = to.min(bytes.len() - 1);
        sent.push(("content-range", format!("bytes {from}-{to}/{}", bytes.len())));
        respond(206, &sent, &bytes[from..=to])
    }

    /// At most three keys to a page, whatever was asked for.
    fn list(&self, bucket: &str, query: &HashMap<String, String>) -> Response {
        let begin = format!("{bucket}/");
        let after = query.get("start-after").cloned().unwrap_or_default();
        let keys: Vec<(&str, &Vec<u8>)> = self
            .objects
            .iter()
            .filter_map(|(key, bytes)| Some((key.strip_prefix(&begin)?, bytes)))
            .filter(|(key, _)| key.starts_with(&query["prefix"]) && **key > *after)
            .collect();
        let most = query["max-keys"].parse::<usize>().unwrap().min(3);
        let mut body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>{}</IsTruncated>",
            keys.len() > most
        );
        for (key, bytes) in keys.iter().take(most) {
            let key = key.replace('&', "&amp;");
            write!(
                body,
                "<Contents><Key>{key}</Key><LastModified>2026-11-22T20:00:01.000Z</LastModified>\
                 <ETag>&quot;{}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                bytes.len(),
                bytes.len()
            )
            .unwrap();
        }
        respond(200, &[("content-type", "application/xml".to_owned())], body + "</ListBucketResult>")
    }
}

fn request(resource: &str, config: Value, parameters: Value) -> ReadRequest {
    ReadRequest {
        resource: format!("arn:aws:states:::{resource}"),
        reader_config: config,
        parameters,
        cursor: None,
        limit: 1_000,
        max_bytes: 1 << 20,
    }
}

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{n}\n")).collect()
}

#[tokio::test]
async fn objects_are_read_by_ranges() {
    let store = Store::start().await;
    store.put("b/in/a b+é.jsonl", lines(200_000));
    let sets = store.sets();
    let regional = sets.regional("us-east-1");
    let json_lines = json!({"InputType": "JSONL"});
    let mut wanted = request("s3:getObject", json_lines, json!({"Bucket": "b", "Key": "in/a b+é.jsonl"}));
    wanted.limit = 30_000;
    let mut count = 0;
    loop {
        let window = read_window(&regional, &wanted).await.unwrap();
        assert_eq!((window.first_index, &window.items[0]), (count, &count.to_string()));
        count += window.items.len() as u64;
        match window.cursor {
            Some(cursor) => wanted.cursor = Some(cursor),
            None => break,
        }
    }
    assert_eq!(count, 200_000);
}

#[tokio::test]
async fn a_changed_object_is_noticed_by_its_etag() {
    let store = Store::start().await;
    store.put("b/k", lines(100));
    let sets = store.sets();
    let regional = sets.regional("us-east-1");
    let mut wanted =
        request("s3:getObject", json!({"InputType": "JSONL"}), json!({"Bucket": "b", "Key": "k"}));
    wanted.limit = 10;
    wanted.cursor = read_window(&regional, &wanted).await.unwrap().cursor;
    store.put("b/k", lines(101));
    let error = read_window(&regional, &wanted).await.unwrap_err();
    assert_eq!(error.cause(), "s3://b/k: it was changed while the Map Run read it");
}

#[tokio::test]
async fn an_empty_object_and_one_that_is_not_there() {
    let store = Store::start().await;
    store.put("b/empty", "");
    let sets = store.sets();
    let regional = sets.regional("us-east-1");
    let wanted = |key: &str| {
        request("s3:getObject", json!({"InputType": "JSONL"}), json!({"Bucket": "b", "Key": key}))
    };
    let window = read_window(&regional, &wanted("empty")).await.unwrap();
    assert_eq!((window.items.len(), window.cursor), (0, None));
    let error = read_window(&regional, &wanted("none")).await.unwrap_err();
    assert_eq!(
        error.cause(),
        "About NoSuchKey & more. (Service: Amazon S3; Status Code: 404; Error Code: NoSuchKey; Request ID: R1; \
         Proxy: null)"
    );
    // A URL cannot name these: another object would be read.
    for key in ["../b/empty", "a/./b"] {
        assert!(
            read_window(&regional, &wanted(key)).await.unwrap_err().cause().contains("cannot be addressed")
        );
    }
}

#[tokio::test]
async fn lists_are_read_over_their_pages() {
    let store = Store::start().await;
    for n in 0..10 {
        store.put(&format!("b/in/{n} & é"), "x".repeat(n));
    }
    store.put("b/other", "x");
    let sets = store.sets();
    let regional = sets.regional("us-east-1");
    let wanted = request("s3:listObjectsV2", Value::Null, json!({"Bucket": "b", "Prefix": "in/"}));
    let window = read_window(&regional, &wanted).await.unwrap();
    assert_eq!((window.items.len(), window.cursor), (10, None));
    let item: Value = serde_json::from_str(&window.items[4]).unwrap();
    assert_eq!(
        item,
        json!({"Etag": "\"4\"", "Key": "in/4 & é", "LastModified": 1_795_377_601, "Size": 4, "StorageClass": "STANDARD"})
    );
    let listing = Listing { bucket: "b".to_owned(), prefix: "in/".to_owned(), start_after: None };
    assert_eq!(regional.list(&listing, 4).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_store_out_of_order_is_asked_again() {
    let store = Store::start().await;
    store.put("b/k", "1\n");
    let sets = store.sets();
    let regional = sets.regional("us-east-1");
    let wanted = request("s3:getObject", json!({"InputType": "JSONL"}), json!({"Bucket": "b", "Key": "k"}));
    store.kept.lock().unwrap().refusals = vec![503, 500];
    assert_eq!(read_window(&regional, &wanted).await.unwrap().items, ["1"]);
    store.kept.lock().unwrap().refusals = vec![403];
    assert!(read_window(&regional, &wanted).await.unwrap_err().cause().contains("Status Code: 403"));
}

#[tokio::test]
async fn files_are_written_whole_or_in_parts() {
    let store = Store::start().await;
    let sets = store.sets();
    let bucket = Bucket { s3: sets.regional("us-east-1").s3, name: "b".to_owned() };
    bucket.create("out/one").await.unwrap().finish("whole".into()).await.unwrap();
    assert_eq!(store.get("b/out/one").unwrap(), b"whole");
    let mut upload = bucket.create("out/many").await.unwrap();
    upload.part("first,".into()).await.unwrap();
    upload.part("second,".into()).await.unwrap();
    assert_eq!(store.get("b/out/many"), None);
    upload.finish("last".into()).await.unwrap();
    assert_eq!(store.get("b/out/many").unwrap(), b"first,second,last");
    let mut upload = bucket.create("out/none").await.unwrap();
    upload.part("first".into()).await.unwrap();
    upload.abort().await;
    assert_eq!(store.get("b/out/none"), None);
    assert!(store.kept.lock().unwrap().uploads.is_empty());
}

#[tokio::test]
async fn a_url_is_read_with_and_without_ranges() {
    let store = Store::start().await;
    store.put("data/set.jsonl", lines(100_000));
    let sets = store.sets();
    let regional = sets.regional("us-east-1");
    let url = format!("{}/data/set.jsonl?token=secret", store.url);
    for ignores_ranges in [false, true] {
        store.kept.lock().unwrap().ignores_ranges = ignores_ranges;
        let mut wanted = request("http:get", json!({"InputType": "JSONL"}), json!({ "Url": url }));
        wanted.limit = 40_000;
        let mut items = Vec::new();
        loop {
            let window = read_window(&regional, &wanted).await.unwrap();
            items.extend(window.items);
            match window.cursor {
                Some(cursor) => wanted.cursor = Some(cursor),
                None => break,
            }
        }
        assert_eq!(items.join("\n") + "\n", lines(100_000));
    }
    let object = Object::Http { url };
    let chunk = regional.read(&object, 3, 4, None).await.unwrap();
    assert_eq!((&chunk.bytes[..], chunk.last), (&b"\n2\n3"[..], false));
}

#[tokio::test]
async fn what_a_server_should_not_answer_is_an_error() {
    let store = Store::start().await;
    store.put("data", "<html>Please sign in</html>");
    let sets = store.sets();
    let regional = sets.regional("us-east-1");
    let read = async |url: String| {
        let wanted = request("http:get", json!({"InputType": "JSONL"}), json!({ "Url": url }));
        read_window(&regional, &wanted).await.unwrap_err().cause().to_owned()
    };
    assert!(read(format!("{}/none?token=secret", store.url)).await.contains("404"));
    store.kept.lock().unwrap().content_type = Some("text/html; charset=utf-8");
    assert_eq!(
        read(format!("{}/data", store.url)).await,
        "the server answered with text/html, which is no data set"
    );
    for url in ["file:///etc/passwd", "ftp://h/x", "nonsense"] {
        assert!(read(url.to_owned()).await.contains("http"), "{url}");
    }
    // Nobody listens there, and the error does not repeat the query.
    let cause = read("http://127.0.0.1:9/x?token=secret".to_owned()).await;
    assert!(cause.contains("cannot be reached") && !cause.contains("secret"), "{cause}");
}

#[tokio::test]
async fn files_are_not_read_unless_they_are_allowed() {
    let store = Store::start().await;
    let wanted = request("file:read", json!({"InputType": "JSONL"}), json!({"Path": "Cargo.toml"}));
    let error = read_window(&store.sets().regional("us-east-1"), &wanted).await.unwrap_err();
    assert!(error.cause().contains("STAGEPOST_FILES"), "{error}");
}

/// With a real store, for instance `moto_server`: `AWS_ENDPOINT_URL_S3=http://127.0.0.1:PORT cargo test -p
/// stagepost-connectors a_real_store -- --ignored`.
#[tokio::test]
#[ignore = "needs a store at AWS_ENDPOINT_URL_S3"]
async fn a_real_store_reads_what_was_written() {
    let sets = DataSets::new(&Aws::from_env(), None);
    let regional = sets.regional("us-east-1");
    let name = format!("stagepost-{}", std::process::id());
    let bucket = Bucket { s3: regional.s3.clone(), name: name.clone() };
    bucket.create("").await.unwrap().finish("".into()).await.unwrap();
    let text = lines(1_000_000);
    let (first, second) = text.as_bytes().split_at(6 << 20);
    let mut upload = bucket.create("in/a b+é&c.jsonl").await.unwrap();
    upload.part(first.to_vec().into()).await.unwrap();
    upload.finish(second.to_vec().into()).await.unwrap();
    bucket.create("in/empty").await.unwrap().finish("".into()).await.unwrap();
    let list = request("s3:listObjectsV2", Value::Null, json!({"Bucket": name, "Prefix": "in/"}));
    let listed = read_window(&regional, &list).await.unwrap().items;
    let listed: Vec<Value> = listed.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
    assert_eq!(listed[0]["Key"], "in/a b+é&c.jsonl");
    assert_eq!(listed[0]["Size"], text.len());
    assert!(listed[0]["LastModified"].as_f64().unwrap() > 1e9 && listed[0]["Etag"].is_string(), "{listed:?}");
    let mut wanted = request(
        "s3:getObject",
        json!({"InputType": "JSONL"}),
        json!({"Bucket": name, "Key": listed[0]["Key"]}),
    );
    wanted.limit = 100_000;
    let mut count = 0;
    loop {
        let window = read_window(&regional, &wanted).await.unwrap();
        assert_eq!((window.first_index, &window.items[0]), (count, &count.to_string()));
        count += window.items.len() as u64;
        match window.cursor {
            Some(cursor) => wanted.cursor = Some(cursor),
            None => break,
        }
    }
    assert_eq!(count, 1_000_000);
    wanted.cursor = None;
    wanted.parameters["Key"] = "in/empty".into();
    assert_eq!(read_window(&regional, &wanted).await.unwrap().items.len(), 0);
}
