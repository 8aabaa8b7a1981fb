//! The result writer: what the children of a Map Run gave, in files.
//!
//! Below the prefix that the definition names there is a directory for each Map Run, with files of the executions that
//! succeeded, failed and did not run, and a manifest that lists the files. Children are read a page at a time and
//! files are written a part at a time, so that memory does not depend on how many there are. All names follow from
//! the Map Run: when the same results are written twice, the second time replaces the first.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stagepost_protocol::error_names;

use super::{
    error::excerpt,
    results::{Child, ChildStatus, Transformation, texts},
};

/// Most children that are asked for at once.
pub(super) const PAGE_CHILDREN: usize = 500;
/// About so many bytes of inputs and outputs are asked for at once.
pub(super) const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Length of a part of a file but the last. S3 takes parts of 5 MiB or more, and 10,000 of them.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Largest result file, as on AWS: what does not fit goes into the next one.
const FILE_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// Why results could not be written or collected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct WriteError {
    name: &'static str,
    cause: String,
}

impl WriteError {
    /// `States.ResultWriterFailed` with this cause.
    pub fn new(cause: impl Into<String>) -> WriteError {
        WriteError { name: error_names::RESULT_WRITER_FAILED, cause: cause.into() }
    }

    pub(super) fn unread(reason: &str) -> WriteError {
        WriteError::new(format!("the child executions of the Map Run cannot be read: {reason}"))
    }

    pub(super) fn too_large() -> WriteError {
        let cause = "The results of the Map Run together exceed the maximum number of bytes service limit.";
        WriteError { name: error_names::DATA_LIMIT_EXCEEDED, cause: cause.to_owned() }
    }

    /// The name of the error that the Map state fails with.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The cause.
    pub fn cause(&self) -> &str {
        &self.cause
    }
}

/// The input of the connector `stagepost:writeResults`: a Map state's `ResultWriter` after its expressions were
/// evaluated. Its output is the Map state's result: `MapRunArn` and `ResultWriterDetails`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WriteRequest {
    /// The ARN of the Map Run.
    pub map_run: String,
    /// `ResultWriter.Resource`.
    pub resource: String,
    /// `ResultWriter.Parameters` or `Arguments`.
    #[serde(default)]
    pub parameters: Value,
    /// `ResultWriter.WriterConfig`.
    #[serde(default)]
    pub writer_config: Value,
    /// How often the Map Run was redriven. Results of a redriven run are written beside the earlier ones, into a
    /// directory `Redrive-N`.
    #[serde(default)]
    pub redrive_count: u32,
}

/// Reads the children of a Map Run.
#[async_trait]
pub trait Children: Send + Sync {
    /// Children with their inputs and outputs: at most `limit`, and about `max_bytes` bytes, but at least one if there
    /// is one. The order is the same whenever it is asked. `after` is the cursor of the page before.
    ///
    /// # Errors
    /// Why they could not be read, for people.
    async fn page(
        &self,
        map_run_arn: &str,
        after: Option<&str>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<ChildPage, String>;
}

/// A page of children.
#[derive(Debug, Clone, Default)]
pub struct ChildPage {
    /// The children.
    pub children: Vec<Child>,
    /// Where the next page begins; none: there is none.
    pub next: Option<String>,
}

/// Writes files. What is written under a name replaces what was there, at once and whole.
#[async_trait]
pub trait Files: Send + Sync {
    /// Begins a file.
    async fn create<'a>(&'a self, name: &str) -> Result<Box<dyn Upload + 'a>, WriteError>;
}

/// A file that is being written. It is there when it is finished, and not before.
#[async_trait]
pub trait Upload: Send + Sync {
    /// Appends a part.
    async fn part(&mut self, bytes: Bytes) -> Result<(), WriteError>;

    /// Appends the last part, which makes the file appear.
    async fn finish(self: Box<Self>, bytes: Bytes) -> Result<(), WriteError>;

    /// Gives it up and frees what it took.
    async fn abort(self: Box<Self>);
}

/// Where a request wants its results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Below a prefix of a bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
    /// Below a directory in the directory of local files.
    Directory {
        /// Its path, relative to the directory of local files.
        path: String,
    },
}

impl WriteRequest {
    /// Where the results go.
    pub fn destination(&self) -> Result<Destination, WriteError> {
        let text = |name: &str| match self.parameters.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(WriteError::new(format!("the result writer's {name} must be a string"))),
        };
        let missing = |name: &str| WriteError::new(format!("the result writer needs {name}"));
        match self.resource.splitn(6, ':').nth(5).unwrap_or_default() {
            "s3:putObject" => Ok(Destination::S3 {
                bucket: text("Bucket")?.filter(|name| !name.is_empty()).ok_or_else(|| missing("Bucket"))?,
                prefix: text("Prefix")?.unwrap_or_default(),
            }),
            "file:write" => {
                Ok(Destination::Directory { path: text("Path")?.ok_or_else(|| missing("Path"))? })
            }
            _ => Err(WriteError::new(format!(
                "the resource '{}' is no result writer: s3:putObject and file:write are",
                excerpt(&self.resource)
            ))),
        }
    }
}

/// `WriterConfig`: what stands in the files, and how. Without one, executions are written as they are, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WriterConfig {
    transformation: Transformation,
    lines: bool,
}

impl WriterConfig {
    fn parse(config: &Value) -> Result<WriterConfig, WriteError> {
        let field = |name: &str| config.get(name).filter(|value| !value.is_null());
        let wrong = |name: &str, known: &str| WriteError::new(format!("WriterConfig.{name} must be {known}"));
        let transformation = match field("Transformation").map(Value::as_str) {
            None | Some(Some("NONE")) => Transformation::None,
            Some(Some("COMPACT")) => Transformation::Compact,
            Some(Some("FLATTEN")) => Transformation::Flatten,
            Some(_) => return Err(wrong("Transformation", "NONE, COMPACT or FLATTEN")),
        };
        let lines = match field("OutputType").map(Value::as_str) {
            None | Some(Some("JSON")) => false,
            Some(Some("JSONL")) => true,
            Some(_) => return Err(wrong("OutputType", "JSON or JSONL")),
        };
        Ok(WriterConfig { transformation, lines })
    }
}

/// Writes the results of a Map Run and gives the Map state's result.
pub async fn write_results(
    children: &dyn Children,
    files: &dyn Files,
    request: &WriteRequest,
) -> Result<Value, WriteError> {
    write_split(children, files, request, PART_BYTES, FILE_BYTES_MAX).await
}

/// As [`write_results`], with parts and files of these lengths.
pub(super) async fn write_split(
    children: &dyn Children,
    files: &dyn Files,
    request: &WriteRequest,
    part_bytes: usize,
    file_bytes_max: u64,
) -> Result<Value, WriteError> {
    let destination = request.destination()?;
    let config = WriterConfig::parse(&request.writer_config)?;
    let directory = directory(request, &destination)?;
    let group = |name: &'static str| ResultFiles {
        files,
        directory: &directory,
        name,
        lines: config.lines,
        part_bytes,
        file_bytes_max,
        open: None,
        done: Vec::new(),
    };
    let mut groups = [group("FAILED"), group("PENDING"), group("SUCCEEDED")];
    match write_groups(children, request, config.transformation, &mut groups).await {
        Ok(()) => {}
        Err(error) => {
            for group in &mut groups {
                group.abort().await;
            }
            return Err(error);
        }
    }
    let result_files: Map<String, Value> =
        groups.iter().map(|group| (group.name.to_owned(), Value::from(group.done.clone()))).collect();
    let manifest = format!("{directory}manifest.json");
    let (destination, details) = match destination {
        Destination::S3 { bucket, .. } => {
            (("DestinationBucket", bucket.clone()), json!({ "Bucket": bucket, "Key": &manifest }))
        }
        Destination::Directory { path } => (("DestinationPath", path), json!({ "Path": &manifest })),
    };
    let body =
        json!({ destination.0: destination.1, "MapRunArn": &request.map_run, "ResultFiles": result_files });
    files.create(&manifest).await?.finish(body.to_string().into()).await?;
    Ok(json!({ "MapRunArn": &request.map_run, "ResultWriterDetails": details }))
}

/// `PREFIX/ID/`, or after a redrive `PREFIX/ID/Redrive-N/`; the id is the last part of the Map Run's ARN.
fn directory(request: &WriteRequest, destination: &Destination) -> Result<String, WriteError> {
    let id = request.map_run.rsplit(':').next().filter(|id| !id.is_empty() && !id.contains('/'));
    let id = id.ok_or_else(|| WriteError::new("the result writer needs the ARN of a Map Run"))?;
    let (Destination::S3 { prefix, .. } | Destination::Directory { path: prefix }) = destination;
    let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
    let redrive = match request.redrive_count {
        0 => String::new(),
        count => format!("Redrive-{count}/"),
    };
    Ok(format!("{prefix}{slash}{id}/{redrive}"))
}

async fn write_groups(
    children: &dyn Children,
    request: &WriteRequest,
    transformation: Transformation,
    groups: &mut [ResultFiles<'_>; 3],
) -> Result<(), WriteError> {
    let [failed, pending, succeeded] = groups;
    let mut after = None;
    loop {
        let page = children.page(&request.map_run, after.as_deref(), PAGE_CHILDREN, PAGE_BYTES).await;
        let page = page.map_err(|reason| WriteError::unread(&reason))?;
        for child in &page.children {
            let group = match child.status {
                ChildStatus::Succeeded => &mut *succeeded,
                ChildStatus::Failed | ChildStatus::TimedOut | ChildStatus::Aborted => &mut *failed,
                ChildStatus::Pending => &mut *pending,
            };
            for text in texts(child, transformation)? {
                group.write(&text).await?;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    for group in groups {
        group.close().await?;
    }
    Ok(())
}

/// The files of one status, of which at most one is open.
struct ResultFiles<'a> {
    files: &'a dyn Files,
    directory: &'a str,
    name: &'static str,
    lines: bool,
    part_bytes: usize,
    file_bytes_max: u64,
    open: Option<OpenFile<'a>>,
    /// `Key` and `Size` of the files that are written.
    done: Vec<Value>,
}

struct OpenFile<'a> {
    name: String,
    upload: Box<dyn Upload + 'a>,
    /// What is not uploaded yet.
    part: Vec<u8>,
    /// All that was written, and is in `part`.
    size: u64,
}

impl<'a> ResultFiles<'a> {
    async fn write(&mut self, text: &str) -> Result<(), WriteError> {
        // A bracket or comma before it, a bracket or line break after it.
        let length = text.len() as u64 + 2;
        if self.open.as_ref().is_some_and(|open| open.size + length > self.file_bytes_max) {
            self.close().await?;
        }
        if length > self.file_bytes_max {
            return Err(WriteError::new(format!("a result is longer than {} bytes", self.file_bytes_max)));
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin().await?,
        };
        if !self.lines {
            open.push(if open.size == 0 { b"[" } else { b"," });
        }
        open.push(text.as_bytes());
        if self.lines {
            open.push(b"\n");
        }
        let open = self.open.insert(open);
        if open.part.len() >= self.part_bytes {
            open.upload.part(std::mem::take(&mut open.part).into()).await?;
        }
        Ok(())
    }

    async fn begin(&self) -> Result<OpenFile<'a>, WriteError> {
        let end = if self.lines { "jsonl" } else { "json" };
        let name = format!("{}{}_{}.{end}", self.directory, self.name, self.done.len());
        let upload = self.files.create(&name).await?;
        Ok(OpenFile { name, upload, part: Vec::new(), size: 0 })
    }

    async fn close(&mut self) -> Result<(), WriteError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if !self.lines {
            open.push(b"]");
        }
        open.upload.finish(open.part.into()).await?;
        self.done.push(json!({ "Key": open.name, "Size": open.size }));
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some(open) = self.open.take() {
            open.upload.abort().await;
        }
    }
}

impl OpenFile<'_> {
    fn push(&mut self, bytes: &[u8]) {
        self.part.extend_from_slice(bytes);
        self.size += bytes.len() as u64;
    }
}
