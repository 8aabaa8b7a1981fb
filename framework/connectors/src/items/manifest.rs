//! Manifests: files that list the objects of a data set.

use serde::Deserialize;

use super::{
    config::{Csv, Format},
    csv,
    decode::Item,
    error::{ReadError, excerpt},
    source::{Object, Objects},
};

/// Largest inventory manifest, in bytes. It is read whole, once for each window.
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an S3 inventory's `manifest.json` says (Amazon S3 user guide, "Locating your inventory list").
pub(super) struct Inventory {
    /// The files, in its order.
    pub(super) files: Vec<Object>,
    /// Rows with the columns of `fileSchema`.
    pub(super) format: Format,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestFile {
    #[serde(default)]
    destination_bucket: Option<String>,
    file_format: String,
    file_schema: String,
    files: Vec<DataFile>,
}

#[derive(Deserialize)]
struct DataFile {
    key: String,
}

/// Reads an inventory's manifest and says which version of it. With a `version`, an error if it is another one.
pub(super) async fn load(
    objects: &dyn Objects,
    object: &Object,
    version: &str,
) -> Result<(Inventory, String), ReadError> {
    let expected = (!version.is_empty()).then_some(version);
    let chunk = objects.read(object, 0, MANIFEST_BYTES_MAX, expected).await?;
    if expected.is_some_and(|expected| expected != chunk.version) {
        return Err(super::source::changed(object));
    }
    if !chunk.last {
        let error = format!("an inventory's manifest is longer than {MANIFEST_BYTES_MAX} bytes");
        return Err(ReadError::new(error).at(object));
    }
    let inventory = parse(&chunk.bytes, object).map_err(|e| e.at(object))?;
    Ok((inventory, chunk.version))
}

fn parse(bytes: &[u8], object: &Object) -> Result<Inventory, ReadError> {
    let manifest: ManifestFile = serde_json::from_slice(bytes)
        .map_err(|e| ReadError::new(format!("this is not the manifest of an S3 inventory: {e}")))?;
    if manifest.file_format != "CSV" {
        let format = excerpt(&manifest.file_format);
        return Err(ReadError::new(format!("the inventory has the format {format}; only CSV is read")));
    }
    // arn:aws:s3:::BUCKET; in a copy that was moved it may be missing.
    let bucket = match (&manifest.destination_bucket, object) {
        (Some(arn), _) => arn.rsplit(':').next().unwrap_or_default().to_owned(),
        (None, Object::S3 { bucket, .. }) => bucket.clone(),
        (None, _) => return Err(ReadError::new("the inventory's manifest names no destinationBucket")),
    };
    let headers: Vec<String> = manifest.file_schema.split(',').map(|name| name.trim().to_owned()).collect();
    csv::check_headers(&headers)?;
    let files = manifest
        .files
        .into_iter()
        .map(|file| Object::S3 { bucket: bucket.clone(), key: file.key, version_id: None })
        .collect();
    Ok(Inventory { files, format: Format::Csv(Csv { delimiter: b',', headers: Some(headers) }) })
}

/// The URI in a line of an Athena manifest.
pub(super) fn uri(line: &Item) -> String {
    #[derive(Deserialize)]
    struct Line {
        uri: String,
    }
    let line: Line = serde_json::from_str(&line.value).expect("the row has this one header");
    line.uri.trim().to_owned()
}

/// The object of `s3://BUCKET/KEY`.
pub(super) fn s3_object(uri: &str) -> Result<Object, ReadError> {
    uri.strip_prefix("s3://")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
        .map(|(bucket, key)| Object::S3 { bucket: bucket.to_owned(), key: key.to_owned(), version_id: None })
        .ok_or_else(|| {
            ReadError::new(format!("the manifest's line '{}' is no s3://BUCKET/KEY", excerpt(uri)))
        })
}
