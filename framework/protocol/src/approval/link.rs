//! Signed links to approvals: whoever has one may see or answer that one approval, until it expires. A link holds no task
//! token and is good for nothing else.

use std::{fmt::Write as _, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::ApprovalId;
use crate::Timestamp;

const TAG_BYTES: usize = 16;
/// The characters of a tag.
const TAG_CHARS: usize = 22;

/// What a link is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkScope {
    /// Seeing the approval.
    View,
    /// Seeing the approval and answering it.
    Answer,
}

impl LinkScope {
    /// As links spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            LinkScope::View => "view",
            LinkScope::Answer => "answer",
        }
    }

    fn parse(text: &str) -> Option<LinkScope> {
        [LinkScope::View, LinkScope::Answer].into_iter().find(|scope| scope.as_str() == text)
    }
}

/// A link to an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Which.
    pub approval: ApprovalId,
    /// What it is good for.
    pub scope: LinkScope,
    /// Who it is for: they are who answers by it. `None`: whoever answers says who they are.
    pub by: Option<String>,
    /// When it ends, in seconds since 1970 in UTC.
    pub expires: i64,
}

/// Why a link is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It was changed, cut off, or is of another installation.
    #[error("the link is not valid: it is not complete, or not of this installation")]
    Invalid,
    /// Its time is over.
    #[error("the link has expired")]
    Expired,
}

/// The secret of an installation that signs its links; made of the one that signs its task tokens.
#[derive(Clone)]
pub struct LinkKey(Arc<Hmac<Sha256>>);

impl std::fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkKey(secret)")
    }
}

impl LinkKey {
    /// From the secret's bytes.
    pub fn new(secret: &[u8]) -> LinkKey {
        LinkKey(Arc::new(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")))
    }

    fn mac(&self, link: &Link) -> Hmac<Sha256> {
        // As JSON no part can run into the next one.
        let Link { approval, scope, by, expires } = link;
        let signed = serde_json::json!([approval.to_string(), scope.as_str(), by, expires]).to_string();
        let mut mac = (*self.0).clone();
        mac.update(signed.as_bytes());
        mac
    }

    /// The URL of a link, signed, on the server that `public_url` names.
    pub fn url(&self, public_url: &str, link: &Link) -> String {
        let tag = self.mac(link).finalize().into_bytes();
        let by = link.by.as_ref().map_or_else(String::new, |by| format!("&by={}", encoded(by)));
        format!(
            "{public_url}/approvals/{}?may={}&expires={}{by}&signature={}",
            link.approval,
            link.scope.as_str(),
            link.expires,
            URL_SAFE_NO_PAD.encode(&tag[..TAG_BYTES])
        )
    }

    /// The link to an approval that a query is, by the values of its parameters, if this key signed it and it has not
    /// expired.
    pub fn verify(
        &self,
        approval: ApprovalId,
        query: impl Fn(&str) -> Option<String>,
        now: Timestamp,
    ) -> Result<Link, LinkError> {
        let read = || {
            let scope = LinkScope::parse(&query("may")?)?;
            let expires = query("expires")?.parse().ok()?;
            let link = Link { approval, scope, by: query("by"), expires };
            let signature = query("signature").filter(|text| text.len() == TAG_CHARS)?;
            let tag = URL_SAFE_NO_PAD.decode(signature).ok()?;
            self.mac(&link).verify_truncated_left(&tag).ok()?;
            Some(link)
        };
        let link = read().ok_or(LinkError::Invalid)?;
        if now.as_millis() / 1000 >= link.expires { Err(LinkError::Expired) } else { Ok(link) }
    }
}

/// As a value in a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            // Writing to a string cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExecutionId;

    const NOW: Timestamp = Timestamp::from_millis(1_000_999);

    fn id(event_id: u64) -> ApprovalId {
        ApprovalId { execution: ExecutionId::from_bytes([7; 16]), event_id }
    }

    fn link() -> Link {
        Link { approval: id(5), scope: LinkScope::View, by: Some("Ada L.".into()), expires: 2_000 }
    }

    /// The parameters in the query of a link, by name.
    fn query(key: &LinkKey, link: &Link) -> Vec<(String, String)> {
        let url = key.url("http://h", link);
        let query = url.strip_prefix(&format!("http://h/approvals/{}?", link.approval)).unwrap();
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(name, value)| (name.to_owned(), value.replace("%20", " "))).collect()
    }

    fn verify(
        key: &LinkKey,
        approval: ApprovalId,
        query: &[(String, String)],
        now: Timestamp,
    ) -> Result<Link, LinkError> {
        let find = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        key.verify(approval, find, now)
    }

    #[test]
    fn a_link_is_good_until_it_expires() {
        let key = LinkKey::new(&[1; 32]);
        let query = query(&key, &link());
        assert_eq!(verify(&key, id(5), &query, NOW), Ok(link()));
        assert_eq!(verify(&key, id(5), &query, Timestamp::from_millis(1_999_999)), Ok(link()));
        assert_eq!(verify(&key, id(5), &query, Timestamp::from_millis(2_000_000)), Err(LinkError::Expired));
        assert_eq!(encoded("ä &=/+A-z.9~_"), "%C3%A4%20%26%3D%2F%2BA-z.9~_");
    }

    #[test]
    fn whatever_is_changed_makes_it_invalid() {
        let key = LinkKey::new(&[1; 32]);
        let signed = query(&key, &link());
        assert_eq!(verify(&key, id(6), &signed, NOW), Err(LinkError::Invalid), "another approval");
        let other = LinkKey::new(&[2; 32]);
        assert_eq!(verify(&other, id(5), &signed, NOW), Err(LinkError::Invalid), "another key");
        for (name, value) in [
            ("may", Some("answer")),
            ("may", Some("own")),
            ("by", Some("Mallory")),
            ("by", None),
            ("expires", Some("999999999")),
            ("expires", Some("never")),
            ("signature", Some("")),
            ("signature", Some("AA")),
            ("signature", Some("AAAAAAAAAAAAAAAAAAAAAA")),
            ("signature", None),
        ] {
            let mut forged = signed.clone();
            forged.retain(|(n, _)| n != name);
            forged.extend(value.map(|value| (name.to_owned(), value.to_owned())));
            assert_eq!(verify(&key, id(5), &forged, NOW), Err(LinkError::Invalid), "{name} {value:?}");
        }
        // Nobody becomes somebody.
        let mut named = query(&key, &Link { by: None, ..link() });
        named.push(("by".into(), "null".into()));
        assert_eq!(verify(&key, id(5), &named, NOW), Err(LinkError::Invalid));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", LinkKey::new(b"k")), "LinkKey(secret)");
    }
}
