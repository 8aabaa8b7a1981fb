//! Objects of an S3-compatible store, by its REST API (Amazon S3 API reference: GetObject, ListObjectsV2, PutObject,
//! CreateMultipartUpload and what belongs to it).
//!
//! Buckets are addressed in the path (`https://HOST/BUCKET/KEY`), which AWS and everything that stands for it accept.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use serde_json::{Map, Number, Value};
use stagepost_protocol::Timestamp;

use super::{
    error::{ReadError, excerpt},
    source::{Chunk, Listed, Listing},
    writer::{Files, Upload, WriteError},
};
use crate::aws::{Aws, Request, Response, SendError, Service, path_of};

const SERVICE: Service = Service { variable: "S3", host: "s3", signing: "s3" };
/// Keys that the service gives at once.
const KEYS_MAX: usize = 1_000;
/// How long to wait before a call is repeated that found no answer or a service out of order.
const REPEAT_AFTER: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1_600)];

/// The store as one region sees it.
#[derive(Debug, Clone)]
pub(super) struct S3 {
    aws: Aws,
    region: String,
}

/// Why a call did not succeed.
#[derive(Debug)]
struct Problem {
    status: u16,
    /// For people, in the words of AWS's SDK.
    cause: String,
}

impl S3 {
    pub(super) fn new(aws: &Aws, region: &str) -> S3 {
        S3 { aws: aws.clone(), region: aws.region(region).to_owned() }
    }

    fn request(&self, method: Method, bucket: &str, key: &str) -> Result<Request, Problem> {
        // A URL has no way to name them: its path would be made shorter.
        let steps = key.split('/').any(|segment| segment == "." || segment == "..");
        if steps || bucket.contains('/') || matches!(bucket, "" | "." | "..") {
            let name = excerpt(&format!("s3://{bucket}/{key}"));
            return Err(Problem { status: 0, cause: format!("The object '{name}' cannot be addressed") });
        }
        let mut request = Request::new(SERVICE, &self.region);
        request.method = method;
        request.path =
            path_of(&if key.is_empty() { format!("/{bucket}") } else { format!("/{bucket}/{key}") });
        Ok(request)
    }

    /// Sends a request until there is an answer that a repetition would not change.
    async fn send(&self, request: Request) -> Result<Response, Problem> {
        let mut waits = REPEAT_AFTER.iter();
        loop {
            let outcome = self.aws.send(request.clone()).await;
            let again = match &outcome {
                Ok(response) => response.status >= 500 || response.status == 429,
                Err(error) => matches!(error, SendError::Unreachable(_)),
            };
            match (again, waits.next()) {
                (true, Some(wait)) => tokio::time::sleep(*wait).await,
                _ => return answer(outcome),
            }
        }
    }

    /// At most `length` bytes from `offset` on.
    pub(super) async fn read(
        &self,
        (bucket, key, version_id): (&str, &str, Option<&str>),
        offset: u64,
        length: usize,
        version: Option<&str>,
    ) -> Result<Chunk, ReadError> {
        let mut request = self.request(Method::GET, bucket, key).map_err(|problem| problem.read())?;
        request.answer_bytes_max = length;
        let end = offset.saturating_add(length as u64).saturating_sub(1);
        request = request.header("range", format!("bytes={offset}-{end}"));
        if let Some(version) = version {
            request = request.header("if-match", version);
        }
        request.query.extend(version_id.map(|id| ("versionId".to_owned(), id.to_owned())));
        match self.send(request).await {
            Ok(response) => {
                let total = response.header("content-range").and_then(|range| range.rsplit('/').next());
                let total: Option<u64> = total.and_then(|total| total.parse().ok());
                let version = response.header("etag").unwrap_or_default().to_owned();
                // A store that knows no ranges gives the whole object, which then has to fit.
                let skip =
                    if response.status == 206 { 0 } else { usize::try_from(offset).unwrap_or(usize::MAX) };
                let bytes = response.body.slice(skip.min(response.body.len())..);
                let last = total.is_none_or(|total| offset + bytes.len() as u64 >= total);
                Ok(Chunk { bytes, version, last })
            }
            // Behind the end, which is where an empty object begins.
            Err(problem) if problem.status == 416 => {
                Ok(Chunk { bytes: Bytes::new(), version: version.unwrap_or_default().to_owned(), last: true })
            }
            Err(problem) if problem.status == 412 => {
                Err(ReadError::new(format!("s3://{bucket}/{key}: it was changed while the Map Run read it")))
            }
            Err(problem) => Err(problem.read()),
        }
    }

    /// At most `limit` objects.
    pub(super) async fn list(&self, listing: &Listing, limit: usize) -> Result<Vec<Listed>, ReadError> {
        let mut listed: Vec<Listed> = Vec::new();
        let mut after = listing.start_after.clone();
        while listed.len() < limit {
            let wanted = (limit - listed.len()).min(KEYS_MAX);
            let mut request = self.request(Method::GET, &listing.bucket, "").map_err(|p| p.read())?;
            request.query = vec![
                ("list-type".to_owned(), "2".to_owned()),
                ("max-keys".to_owned(), wanted.to_string()),
                ("prefix".to_owned(), listing.prefix.clone()),
            ];
            request.query.extend(after.take().map(|key| ("start-after".to_owned(), key)));
            let response = self.send(request).await.map_err(|problem| problem.read())?;
            let (page, truncated) = list_page(&response.body)?;
            let Some(last) = page.last().filter(|_| truncated) else {
                listed.extend(page);
                break;
            };
            after = Some(last.key.clone());
            listed.extend(page);
        }
        listed.truncate(limit);
        Ok(listed)
    }
}

/// The entries of a page, and whether there are more.
fn list_page(body: &[u8]) -> Result<(Vec<Listed>, bool), ReadError> {
    let wrong = |what: &str| ReadError::new(format!("the store's list of objects cannot be read: {what}"));
    let text = std::str::from_utf8(body).map_err(|_| wrong("it is not UTF-8"))?;
    let document = roxmltree::Document::parse(text).map_err(|e| wrong(&e.to_string()))?;
    let root = document.root_element();
    let truncated = child_text(root, "IsTruncated") == Some("true");
    let entries = root.children().filter(|node| node.tag_name().name() == "Contents");
    let listed = entries.map(|entry| listed(entry).ok_or_else(|| wrong("an entry has no Key")));
    Ok((listed.collect::<Result<_, _>>()?, truncated))
}

/// An entry as an item: its fields have the names and types that Map states see.
fn listed(entry: roxmltree::Node<'_, '_>) -> Option<Listed> {
    let key = child_text(entry, "Key")?.to_owned();
    let size: u64 = child_text(entry, "Size").and_then(|size| size.parse().ok()).unwrap_or_default();
    let mut item = Map::new();
    if let Some(etag) = child_text(entry, "ETag") {
        item.insert("Etag".to_owned(), etag.into());
    }
    item.insert("Key".to_owned(), key.clone().into());
    if let Some(modified) = child_text(entry, "LastModified").and_then(Timestamp::parse_rfc3339) {
        item.insert("LastModified".to_owned(), seconds(modified));
    }
    item.insert("Size".to_owned(), size.into());
    if let Some(class) = child_text(entry, "StorageClass") {
        item.insert("StorageClass".to_owned(), class.into());
    }
    Some(Listed { key, size, item: Value::Object(item) })
}

/// Seconds since the epoch, whole ones as an integer.
fn seconds(time: Timestamp) -> Value {
    let millis = time.as_millis();
    if millis % 1_000 == 0 {
        (millis / 1_000).into()
    } else {
        Number::from_f64(time.as_seconds_f64()).map_or(Value::Null, Value::Number)
    }
}

fn child_text<'a>(node: roxmltree::Node<'a, '_>, name: &str) -> Option<&'a str> {
    let child = node.children().find(|child| child.tag_name().name() == name)?;
    Some(child.text().unwrap_or_default())
}

fn answer(outcome: Result<Response, SendError>) -> Result<Response, Problem> {
    let response = outcome.map_err(|error| Problem { status: 0, cause: error.to_string() })?;
    if (200..300).contains(&response.status) {
        return Ok(response);
    }
    let text = String::from_utf8_lossy(&response.body);
    let document = roxmltree::Document::parse(&text).ok();
    let field = |name: &str| {
        document.as_ref().and_then(|document| child_text(document.root_element(), name)).map(str::to_owned)
    };
    let cause = format!(
        "{} (Service: Amazon S3; Status Code: {}; Error Code: {}; Request ID: {}; Proxy: null)",
        field("Message").unwrap_or_else(|| "The store refused".to_owned()),
        response.status,
        field("Code").unwrap_or_else(|| format!("{}", response.status)),
        response.request_id(),
    );
    Err(Problem { status: response.status, cause })
}

impl Problem {
    fn read(self) -> ReadError {
        ReadError::new(self.cause)
    }

    fn write(self) -> WriteError {
        WriteError::new(self.cause)
    }
}

/// A bucket that files are written into.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) s3: S3,
    pub(super) name: String,
}

#[async_trait]
impl Files for Bucket {
    async fn create<'a>(&'a self, name: &str) -> Result<Box<dyn Upload + 'a>, WriteError> {
        Ok(Box::new(BucketUpload { bucket: self, key: name.to_owned(), upload_id: None, etags: Vec::new() }))
    }
}

/// An object that is being written: in one piece, or where there is a part before the last, in parts.
struct BucketUpload<'a> {
    bucket: &'a Bucket,
    key: String,
    upload_id: Option<String>,
    etags: Vec<String>,
}

impl BucketUpload<'_> {
    async fn send(
        &self,
        method: Method,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response, WriteError> {
        let Bucket { s3, name } = self.bucket;
        let mut request = s3.request(method, name, &self.key).map_err(Problem::write)?;
        request.query = query.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        request.body = body;
        s3.send(request).await.map_err(Problem::write)
    }

    async fn upload_id(&mut self) -> Result<String, WriteError> {
        if let Some(id) = &self.upload_id {
            return Ok(id.clone());
        }
        let response = self.send(Method::POST, &[("uploads", "")], Bytes::new()).await?;
        let text = String::from_utf8_lossy(&response.body);
        let document = roxmltree::Document::parse(&text).ok();
        let id = document.and_then(|document| {
            child_text(document.root_element(), "UploadId").filter(|id| !id.is_empty()).map(str::to_owned)
        });
        let id = id.ok_or_else(|| WriteError::new("the store gave no UploadId for a multipart upload"))?;
        self.upload_id = Some(id.clone());
        Ok(id)
    }
}

#[async_trait]
impl Upload for BucketUpload<'_> {
    async fn part(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        let id = self.upload_id().await?;
        let number = (self.etags.len() + 1).to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", id.as_str())];
        let response = self.send(Method::PUT, &query, bytes).await?;
        self.etags.push(response.header("etag").unwrap_or_default().to_owned());
        Ok(())
    }

    async fn finish(mut self: Box<Self>, bytes: Bytes) -> Result<(), WriteError> {
        if self.upload_id.is_none() {
            return self.send(Method::PUT, &[], bytes).await.map(|_| ());
        }
        let finished = async {
            if !bytes.is_empty() {
                self.part(bytes).await?;
            }
            let id = self.upload_id().await?;
            let parts: String = self
                .etags
                .iter()
                .enumerate()
                .map(|(index, etag)| {
                    let etag = etag.replace('&', "&amp;").replace('<', "&lt;");
                    format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", index + 1)
                })
                .collect();
            let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
            let response = self.send(Method::POST, &[("uploadId", &id)], body.into()).await?;
            // This call may fail after it has answered 200.
            if response.body.windows(7).any(|window| window == b"<Error>") {
                return Err(WriteError::new("the store could not put the parts of a file together"));
            }
            Ok(())
        }
        .await;
        if finished.is_err() {
            self.abort().await;
        }
        finished
    }

    async fn abort(self: Box<Self>) {
        let Some(id) = &self.upload_id else { return };
        if let Err(error) = self.send(Method::DELETE, &[("uploadId", id)], Bytes::new()).await {
            tracing::warn!(key = self.key, %error, "an unfinished multipart upload stays in the bucket");
        }
    }
}
