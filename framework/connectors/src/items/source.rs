//! Where data sets are: the seam between what is read and how it is fetched.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::ReadError;

/// One object that holds items, or a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// An object of an S3-compatible store.
    #[serde(rename = "s3")]
    S3 {
        /// Its bucket.
        #[serde(rename = "b")]
        bucket: String,
        /// Its key.
        #[serde(rename = "k")]
        key: String,
        /// Its version, where the definition names one.
        #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
        version_id: Option<String>,
    },
    /// A file below the directory that the operator has allowed.
    #[serde(rename = "file")]
    File {
        /// Its path, relative to that directory.
        path: String,
    },
    /// What an HTTP server answers to GET.
    #[serde(rename = "http")]
    Http {
        /// Its address.
        url: String,
    },
}

impl Object {
    /// What names it without the query of a URL, which may hold a secret.
    fn name(&self) -> &str {
        match self {
            Object::S3 { key, .. } => key,
            Object::File { path } => path,
            Object::Http { url } => url.split(['?', '#']).next().unwrap_or_default(),
        }
    }

    /// Whether its name says that it is compressed with gzip.
    pub(super) fn is_gzip(&self) -> bool {
        let name = self.name();
        [".gz", ".gzip"].iter().any(|end| name.len() >= end.len() && name.ends_with(end))
    }
}

/// As `$states.context.Map.Item.Source` names it: `s3://BUCKET/KEY`, `file:PATH`, or the URL without its query.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::S3 { bucket, key, .. } => write!(f, "s3://{bucket}/{key}"),
            Object::File { path } => write!(f, "file:{path}"),
            Object::Http { .. } => f.write_str(self.name()),
        }
    }
}

/// Some bytes of an object.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The bytes from the offset that was asked for; fewer than asked for only at the object's end.
    pub bytes: Bytes,
    /// Names the object's content: it is another one when the content is. Empty where the source has none.
    pub version: String,
    /// No bytes follow these.
    pub last: bool,
}

/// Part of a bucket's list of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin so.
    pub prefix: String,
    /// Only keys after this one.
    pub start_after: Option<String>,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// The fields of the item that stands for it, a JSON object (`Etag`, `Key`, `LastModified`, `Size`,
    /// `StorageClass`).
    pub item: serde_json::Value,
}

/// Fetches objects. What it is asked for twice it gives twice.
#[async_trait]
pub trait Objects: Send + Sync {
    /// At most `length` bytes of `object` from `offset` on; none at or after its end. With a `version`, an error if
    /// the object is not that one any more.
    async fn read(
        &self,
        object: &Object,
        offset: u64,
        length: usize,
        version: Option<&str>,
    ) -> Result<Chunk, ReadError>;

    /// At most `limit` objects of a bucket, by key; fewer only at the end of the list.
    async fn list(&self, listing: &Listing, limit: usize) -> Result<Vec<Listed>, ReadError>;
}

/// The error for an object whose content is not the one that the Map Run began to read.
pub(super) fn changed(object: &Object) -> ReadError {
    ReadError::new("it was changed while the Map Run read it").at(object)
}
