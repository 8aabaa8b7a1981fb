//! AWS Signature Version 4 (IAM User Guide, "Create a signed AWS API request").

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::Credentials;

/// What a signature covers.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// As it is sent.
    pub(super) path: String,
    /// [`canonical_query`].
    pub(super) query: String,
    pub(super) host: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: &'a [u8],
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

impl Signed<'_> {
    /// The headers to send, with the signature among them.
    pub(super) fn sign(self, credentials: &Credentials, now: jiff::Timestamp) -> Vec<(String, String)> {
        let now = now.to_zoned(jiff::tz::TimeZone::UTC);
        let (time, date) = (now.strftime("%Y%m%dT%H%M%SZ").to_string(), now.strftime("%Y%m%d").to_string());
        let mut sent = self.headers;
        sent.push(("x-amz-date".to_owned(), time.clone()));
        let body_hash = hex(&Sha256::digest(self.body));
        if self.service == "s3" {
            sent.push(("x-amz-content-sha256".to_owned(), body_hash.clone()));
        }
        if let Some(token) = &credentials.session_token {
            sent.push(("x-amz-security-token".to_owned(), token.clone()));
        }
        let mut signed: Vec<(&str, String)> = sent
            .iter()
            .map(|(name, value)| (name.as_str(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect();
        signed.push(("host", self.host.clone()));
        signed.sort();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        // Every service but S3 wants the path of the URL encoded once more.
        let path = if self.service == "s3" { self.path } else { encode(&self.path, true) };
        let canonical = format!("{}\n{path}\n{}\n{lines}\n{names}\n{body_hash}", self.method, self.query);
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
        let mut key = format!("AWS4{}", credentials.secret).into_bytes();
        for part in [date.as_str(), self.region, self.service, "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            credentials.key_id
        );
        sent.push(("authorization".to_owned(), authorization));
        sent
    }
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The query as it is sent and signed: encoded and sorted.
pub(super) fn canonical_query(query: &[(String, String)]) -> String {
    let mut pairs: Vec<_> =
        query.iter().map(|(name, value)| (encode(name, false), encode(value, false))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Percent-encodes everything but unreserved characters (RFC 3986), and `/` where it separates.
pub(super) fn encode(text: &str, keep_slash: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (keep_slash && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of AWS's published test suite (aws-sig-v4-test-suite) and of the examples of the S3 API reference.
    fn example(secret: &str, key_id: &str) -> Credentials {
        Credentials { key_id: key_id.into(), secret: secret.into(), session_token: None }
    }

    fn signature(sent: &[(String, String)]) -> &str {
        let (_, authorization) = sent.iter().find(|(name, _)| name == "authorization").unwrap();
        authorization.rsplit('=').next().unwrap()
    }

    #[test]
    fn signatures_are_those_of_awss_test_suite() {
        let credentials = example("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "AKIDEXAMPLE");
        let now: jiff::Timestamp = "2015-08-30T12:36:00Z".parse().unwrap();
        let get = |query: &[(&str, &str)], headers: &[(&str, &str)]| {
            let owned = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
            };
            Signed {
                method: "GET",
                path: "/".into(),
                query: canonical_query(&owned(query)),
                host: "example.amazonaws.com".into(),
                headers: owned(headers),
                body: b"",
                region: "us-east-1",
                service: "service",
            }
        };
        for (signed, expected) in [
            // get-vanilla
            (get(&[], &[]), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            // get-vanilla-query-order-key-case
            (
                get(&[("Param2", "value2"), ("Param1", "value1")], &[]),
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            // get-header-value-trim
            (
                get(&[], &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")]),
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
            // post-vanilla
            (
                Signed { method: "POST", ..get(&[], &[]) },
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
        ] {
            assert_eq!(signature(&signed.sign(&credentials, now)), expected);
        }
    }

    #[test]
    fn s3_signs_the_hash_of_the_body_and_the_path_as_it_is() {
        // "GET Bucket (List Objects)" and "PUT Object" of the S3 API reference, "Signature Calculations".
        let credentials = example("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "AKIAIOSFODNN7EXAMPLE");
        let now: jiff::Timestamp = "2013-05-24T00:00:00Z".parse().unwrap();
        let request = |method, path: &str, query: &[(String, String)], headers, body| Signed {
            method,
            path: path.into(),
            query: canonical_query(query),
            host: "examplebucket.s3.amazonaws.com".into(),
            headers,
            body,
            region: "us-east-1",
            service: "s3",
        };
        let query = [("prefix".to_owned(), "J".to_owned()), ("max-keys".to_owned(), "2".to_owned())];
        let list = request("GET", "/", &query, vec![], b"");
        assert_eq!(
            signature(&list.sign(&credentials, now)),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
        let headers = vec![
            ("date".to_owned(), "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
            ("x-amz-storage-class".to_owned(), "REDUCED_REDUNDANCY".to_owned()),
        ];
        let put = request("PUT", &encode("/test$file.text", true), &[], headers, b"Welcome to Amazon S3.");
        assert_eq!(
            signature(&put.sign(&credentials, now)),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
    }
}
