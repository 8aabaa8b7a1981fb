//! The AWS JSON 1.0 protocol: one address, `POST /`, the operation in `X-Amz-Target`, JSON in and out.
//!
//! Knows nothing of what the operations mean; [`crate::states`] does. Signatures are not verified: the
//! `Authorization` header only says which namespace a request is for.

pub(crate) mod authorization;
pub(crate) mod error;
pub(crate) mod json;
pub(crate) mod members;
pub(crate) mod page;
pub(crate) mod request;

pub(crate) use error::{ApiError, Code};
pub(crate) use members::{Members, Text};
