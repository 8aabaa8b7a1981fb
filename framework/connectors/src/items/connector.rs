//! The connectors `stagepost:readItems`, `stagepost:writeResults` and `stagepost:collectResults`, which Map Runs call.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use serde_json::value::RawValue;
use stagepost::Failure;
use stagepost_protocol::{Payload, error_names};

use super::{
    collect::{CollectRequest, collect_results},
    error::ReadError,
    http,
    local::LocalFiles,
    s3::{Bucket, S3},
    source::{Chunk, Listed, Listing, Object, Objects},
    window::{ReadRequest, Window, read_window},
    writer::{Children, Destination, WriteError, WriteRequest, write_results},
};
use crate::{
    aws::Aws,
    call::{Answer, Call, Connector},
};

/// What definitions may read and write: S3, HTTP servers, and files where the operator allows it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DataSets {
    aws: Aws,
    http: reqwest::Client,
    files: Option<Arc<LocalFiles>>,
}

impl DataSets {
    /// With the directory below which files may be read and written; without one, no file is.
    pub fn new(aws: &Aws, files: Option<PathBuf>) -> DataSets {
        let files = files.map(|root| Arc::new(LocalFiles::new(root)));
        DataSets { aws: aws.clone(), http: http::client(), files }
    }

    /// As an execution of this region sees them.
    pub(super) fn regional(&self, region: &str) -> Regional<'_> {
        Regional { sets: self, s3: S3::new(&self.aws, region) }
    }

    fn local(&self) -> Result<&LocalFiles, &'static str> {
        self.files.as_deref().ok_or(
            "local files are not allowed here: start the connectors with --files DIRECTORY (STAGEPOST_FILES)",
        )
    }
}

/// Data sets as an execution of one region sees them.
pub(super) struct Regional<'a> {
    sets: &'a DataSets,
    pub(super) s3: S3,
}

#[async_trait]
impl Objects for Regional<'_> {
    async fn read(
        &self,
        object: &Object,
        offset: u64,
        length: usize,
        version: Option<&str>,
    ) -> Result<Chunk, ReadError> {
        match object {
            Object::S3 { bucket, key, version_id } => {
                self.s3.read((bucket, key, version_id.as_deref()), offset, length, version).await
            }
            Object::File { path } => {
                self.sets.local().map_err(ReadError::new)?.read(path, offset, length).await
            }
            Object::Http { url } => http::read(&self.sets.http, url, offset, length).await,
        }
    }

    async fn list(&self, listing: &Listing, limit: usize) -> Result<Vec<Listed>, ReadError> {
        self.s3.list(listing, limit).await
    }
}

/// `stagepost:readItems`: a [`ReadRequest`] in, a [`Window`] out.
#[derive(Debug)]
pub struct ReadItems {
    sets: DataSets,
}

impl ReadItems {
    /// Of these data sets.
    pub fn new(sets: DataSets) -> ReadItems {
        ReadItems { sets }
    }
}

#[async_trait]
impl Connector for ReadItems {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let request: ReadRequest = input(&call)?;
        let window = read_window(&self.sets.regional(&call.region()), &request).await;
        let window = window.map_err(|error| Failure::new(ReadError::NAME, error.cause()))?;
        let Window { items, cursor, first_index, keys, sources } = window;
        let raw = |item: String| RawValue::from_string(item).expect("decoders give JSON");
        let items = items.into_iter().map(raw).collect();
        done(&Window::<Box<RawValue>> { items, cursor, first_index, keys, sources })
    }
}

/// `stagepost:writeResults`: a [`WriteRequest`] in, the Map state's result out.
pub struct WriteResults {
    sets: DataSets,
    children: Arc<dyn Children>,
}

impl WriteResults {
    /// Of the children that `children` reads.
    pub fn new(sets: DataSets, children: Arc<dyn Children>) -> WriteResults {
        WriteResults { sets, children }
    }

    async fn write(&self, region: &str, request: &WriteRequest) -> Result<serde_json::Value, WriteError> {
        match request.destination()? {
            Destination::S3 { bucket, .. } => {
                let bucket = Bucket { s3: self.sets.regional(region).s3, name: bucket };
                write_results(&*self.children, &bucket, request).await
            }
            Destination::Directory { .. } => {
                let files = self.sets.local().map_err(WriteError::new)?;
                write_results(&*self.children, files, request).await
            }
        }
    }
}

#[async_trait]
impl Connector for WriteResults {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let request: WriteRequest = input(&call)?;
        let result = self.write(&call.region(), &request).await;
        done(&result.map_err(|error| Failure::new(error.name(), error.cause()))?)
    }
}

/// `stagepost:collectResults`: a [`CollectRequest`] in, the Map state's result out.
pub struct CollectResults {
    children: Arc<dyn Children>,
}

impl CollectResults {
    /// Of the children that `children` reads.
    pub fn new(children: Arc<dyn Children>) -> CollectResults {
        CollectResults { children }
    }
}

#[async_trait]
impl Connector for CollectResults {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let request: CollectRequest = input(&call)?;
        let results = collect_results(&*self.children, &request.map_run).await;
        results.map(Answer::Done).map_err(|error| Failure::new(error.name(), error.cause()))
    }
}

/// The coordinator wrote it, so what it cannot be is no fault of a definition.
fn input<T: serde::de::DeserializeOwned>(call: &Call) -> Result<T, Failure> {
    call.input.read().map_err(|error| {
        Failure::new(
            error_names::RUNTIME,
            format!("The input of {} cannot be read: {error}", call.resource()),
        )
    })
}

fn done(output: &impl serde::Serialize) -> Result<Answer, Failure> {
    let output =
        Payload::from_serialize(output).map_err(|error| Failure::new(error_names::RUNTIME, error))?;
    Ok(Answer::Done(output))
}
