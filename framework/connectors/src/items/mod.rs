//! Data sets of distributed Map states: where their items come from and where their results go.
//!
//! The Map Run asks for items in windows ([`read_window`]): each request names how many it wants and where it stopped, and
//! each answer says where the next one goes on, so that a data set of any size is read in constant memory, by
//! whichever process takes the request. What the bytes mean is decided by pure decoders ([`decode_all`]).

mod collect;
mod config;
mod connector;
mod csv;
mod decode;
mod error;
mod gzip;
mod http;
mod json;
mod lines;
mod local;
mod manifest;
mod results;
mod s3;
mod source;
#[cfg(test)]
mod tests;
mod window;
mod writer;

pub use collect::{CollectRequest, collect_results};
pub use config::{Csv, Format, Manifest, ReaderConfig};
pub use connector::{CollectResults, DataSets, ReadItems, WriteResults};
pub use decode::{Item, decode_all};
pub use error::ReadError;
pub use local::LocalFiles;
pub use results::{Child, ChildStatus, Transformation};
pub use source::{Chunk, Listed, Listing, Object, Objects};
pub use window::{ReadRequest, SourceRun, Window, read_window};
pub use writer::{ChildPage, Children, Destination, Files, Upload, WriteError, WriteRequest, write_results};

/// Longest item before its blanks are dropped, in bytes, as on AWS. It is read in memory.
pub const ITEM_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The items that `ItemsPointer` names begin within this many bytes of their document, as on AWS.
pub const POINTER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest row of CSV headers, in bytes, as on AWS.
pub const CSV_HEADER_BYTES_MAX: usize = 10 * 1024;
/// Most items of a Map Run, as on AWS: what a data set holds beyond them is not read.
pub const ITEMS_MAX: u64 = 100_000_000;
