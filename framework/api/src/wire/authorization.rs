//! The namespace that a request is for, from its `Authorization` header (Signature Version 4).

use axum::http::{HeaderMap, header::AUTHORIZATION};
use stagepost_protocol::Namespace;

/// Region from the credential scope, account from the access key if that is twelve digits; what is missing or
/// odd comes from `default`.
pub(crate) fn namespace(headers: &HeaderMap, default: &Namespace) -> Namespace {
    let mut namespace = default.clone();
    let Some((access_key, region)) =
        headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(credential)
    else {
        return namespace;
    };
    if access_key.len() == 12 && access_key.bytes().all(|b| b.is_ascii_digit()) {
        namespace.account = access_key.to_owned();
    }
    let plausible = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=32).contains(&region.len()) && region.bytes().all(plausible) {
        namespace.region = region.to_owned();
    }
    namespace
}

/// Access key and region of `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …`.
fn credential(header: &str) -> Option<(&str, &str)> {
    let rest = header.strip_prefix("AWS4-")?.split_once("Credential=")?.1;
    let scope = rest.split([',', ' ']).next()?;
    // The four parts of the scope stand last: an access key may hold slashes, the scope may not.
    let mut parts = scope.rsplitn(5, '/');
    let (_terminator, _service, region, _date) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((parts.next()?, region))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_namespace_comes_from_the_credential_scope() {
        let default = Namespace::default();
        for (header, account, region) in [
            (
                "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/states/aws4_request, SignedHeaders=host, Signature=0",
                "000000000000",
                "eu-west-1",
            ),
            (
                "AWS4-HMAC-SHA256 Credential=111122223333/20260101/eu-west-1/states/aws4_request,SignedHeaders=host",
                "111122223333",
                "eu-west-1",
            ),
            (
                "AWS4-HMAC-SHA256 Credential=11112222333/20260101/us-east-2/states/aws4_request",
                "000000000000",
                "us-east-2",
            ),
            (
                "AWS4-HMAC-SHA256 Credential=test/20260101/EU WEST/states/aws4_request",
                "000000000000",
                "us-east-1",
            ),
            ("AWS4-HMAC-SHA256 Credential=test/eu-west-1", "000000000000", "us-east-1"),
            ("Bearer x", "000000000000", "us-east-1"),
            ("", "000000000000", "us-east-1"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
            let expected = Namespace { account: account.into(), region: region.into() };
            assert_eq!(namespace(&headers, &default), expected, "{header}");
        }
        assert_eq!(namespace(&HeaderMap::new(), &default), default);
    }
}
