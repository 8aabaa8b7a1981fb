//! Data sets that an HTTP server gives.
//!
//! Ranges are asked for (RFC 9110, section 14). A server that knows none gives the whole each time, of which only the
//! range is kept: that costs time for each window, but no memory.

use std::time::Duration;

use bytes::BytesMut;
use reqwest::{
    Client, Response, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED, RANGE},
};

use super::{error::ReadError, source::Chunk};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a server may say nothing.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// Redirections that are followed.
const REDIRECTS_MAX: usize = 5;

/// A client for data sets.
pub(super) fn client() -> Client {
    crate::aws::install_tls();
    Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(SILENT_MAX)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
        .user_agent(concat!("stagepost/", env!("CARGO_PKG_VERSION")))
        .build()
        .expect("these options need nothing that could fail but TLS, whose provider is installed")
}

/// At most `length` bytes of what `url` names, from `offset` on.
pub(super) async fn read(client: &Client, url: &str, offset: u64, length: usize) -> Result<Chunk, ReadError> {
    let url = reqwest::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or_else(|| ReadError::new("Url must be an http:// or https:// URL"))?;
    let end = offset.saturating_add(length as u64).saturating_sub(1);
    let request =
        client.get(url).header(RANGE, format!("bytes={offset}-{end}")).header(ACCEPT_ENCODING, "identity");
    let response = request.send().await.map_err(|e| unreachable(&e))?;
    let version = [ETAG, LAST_MODIFIED].iter().find_map(|name| header(&response, name)).unwrap_or_default();
    let (skip, total) = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = header(&response, &CONTENT_RANGE).unwrap_or_default();
            if !range.starts_with(&format!("bytes {offset}-")) {
                return Err(ReadError::new("the server answered with another range than the one asked for"));
            }
            (0, range.rsplit('/').next().and_then(|total| total.parse::<u64>().ok()))
        }
        StatusCode::OK => (offset, None),
        // Behind the end, which is where an empty answer begins.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            return Ok(Chunk { bytes: bytes::Bytes::new(), version, last: true });
        }
        status => return Err(ReadError::new(format!("the server answered with the status {status}"))),
    };
    check_type(&response)?;
    let (bytes, ended) = body(response, skip, length).await?;
    let last = match total {
        Some(total) => offset + bytes.len() as u64 >= total,
        None => ended,
    };
    Ok(Chunk { bytes: bytes.freeze(), version, last })
}

/// The bytes after `skip`, at most `length`, and whether none follow.
async fn body(mut response: Response, mut skip: u64, length: usize) -> Result<(BytesMut, bool), ReadError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| unreachable(&e))? {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
        skip -= skipped as u64;
        let rest = &chunk[skipped..];
        let room = length - bytes.len();
        bytes.extend_from_slice(&rest[..rest.len().min(room)]);
        if rest.len() > room {
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}

/// A page for people in the place of data is an error page, or the page to sign in.
fn check_type(response: &Response) -> Result<(), ReadError> {
    let content_type = header(response, &CONTENT_TYPE).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let not_data = essence == "text/html"
        || ["image/", "audio/", "video/", "multipart/", "font/"].iter().any(|kind| essence.starts_with(kind));
    if not_data {
        let essence = super::error::excerpt(&essence);
        return Err(ReadError::new(format!("the server answered with {essence}, which is no data set")));
    }
    Ok(())
}

fn header(response: &Response, name: &HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Without the URL, whose query may hold a secret.
fn unreachable(error: &reqwest::Error) -> ReadError {
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    let mut reason =
        if error.is_timeout() { "it timed out".to_owned() } else { "the request failed".to_owned() };
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    ReadError::new(format!("the server cannot be reached: {reason}"))
}
