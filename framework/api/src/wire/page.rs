//! Page tokens: opaque to clients, bound to the listing that they came from.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::{ApiError, Code};

/// How many entries a page has when the client does not say, or says 0.
const PAGE_DEFAULT: usize = 100;
/// The most entries that a page may have.
pub(crate) const PAGE_MAX: i64 = 1000;

/// The size of a page from `maxResults`, which was checked to be 0 to [`PAGE_MAX`].
pub(crate) fn size(max_results: Option<i64>) -> usize {
    match max_results {
        None | Some(..=0) => PAGE_DEFAULT,
        Some(n) => usize::try_from(n.min(PAGE_MAX)).unwrap_or(PAGE_DEFAULT),
    }
}

/// The token of the page of `listing` (its operation and whatever selects its entries) that begins after `after`.
pub(crate) fn token(listing: &str, after: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!([listing, after]).to_string())
}

/// A page of `listing` as it is answered: its entries as `member`, and the token of the next page, if there is one.
pub(crate) fn answer(member: &str, entries: Vec<Value>, listing: &str, next: Option<&str>) -> Value {
    let mut answer = Map::from_iter([(member.to_owned(), Value::Array(entries))]);
    answer.extend(next.map(|next| ("nextToken".to_owned(), token(listing, next).into())));
    answer.into()
}

/// Where the page of a token begins. Refuses what is no token of this listing.
pub(crate) fn after(listing: &str, token: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(token) = token else { return Ok(None) };
    let parts: Option<(String, String)> =
        URL_SAFE_NO_PAD.decode(token).ok().and_then(|b| serde_json::from_slice(&b).ok());
    match parts {
        Some((found, after)) if found == listing && !after.contains('\0') => Ok(Some(after)),
        _ => Err(invalid()),
    }
}

/// The error for a token that is none.
pub(crate) fn invalid() -> ApiError {
    ApiError::about(Code::InvalidToken, "Invalid token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_listing_only() {
        let token = token("ListActivities a/b", "x");
        assert_eq!(after("ListActivities a/b", Some(&token)).unwrap().as_deref(), Some("x"));
        assert_eq!(after("ListActivities a/b", None).unwrap(), None);
        for (listing, token) in [("ListActivities a/c", token.as_str()), ("x", "bogus"), ("x", "ü")] {
            assert_eq!(after(listing, Some(token)).unwrap_err().code, Code::InvalidToken);
        }
        assert_eq!((size(None), size(Some(0)), size(Some(7)), size(Some(1000))), (100, 100, 7, 1000));
    }
}
