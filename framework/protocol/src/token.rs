//! Task tokens: each names exactly one attempt, and cannot be guessed or forged.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ExecutionId;

const BODY_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// The secret of an installation that signs its task tokens. It lives in the store.
#[derive(Clone)]
pub struct TokenKey(Arc<Hmac<Sha256>>);

impl TokenKey {
    /// From the secret's bytes; 32 random bytes are right.
    pub fn new(secret: &[u8]) -> TokenKey {
        TokenKey(Arc::new(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")))
    }

    /// The token of the attempt that was scheduled by event `event_id` of the execution.
    pub fn sign(&self, execution: ExecutionId, event_id: u64) -> TaskToken {
        let mut bytes = [0; BODY_BYTES + TAG_BYTES];
        bytes[..16].copy_from_slice(execution.as_bytes());
        bytes[16..BODY_BYTES].copy_from_slice(&event_id.to_be_bytes());
        let mut mac = (*self.0).clone();
        mac.update(&bytes[..BODY_BYTES]);
        bytes[BODY_BYTES..].copy_from_slice(&mac.finalize().into_bytes()[..TAG_BYTES]);
        TaskToken(URL_SAFE_NO_PAD.encode(bytes).into())
    }

    /// The attempt that a token of this installation names; `None` for anything else.
    pub fn verify(&self, token: &str) -> Option<(ExecutionId, u64)> {
        let bytes = decode(token)?;
        let mut mac = (*self.0).clone();
        mac.update(&bytes[..BODY_BYTES]);
        mac.verify_truncated_left(&bytes[BODY_BYTES..]).ok()?;
        parts(&bytes)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(secret)")
    }
}

fn decode(token: &str) -> Option<[u8; BODY_BYTES + TAG_BYTES]> {
    let mut bytes = [0; BODY_BYTES + TAG_BYTES];
    let length = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
    (length == bytes.len()).then_some(bytes)
}

fn parts(bytes: &[u8]) -> Option<(ExecutionId, u64)> {
    let event_id = u64::from_be_bytes(bytes[16..BODY_BYTES].try_into().ok()?);
    Some((ExecutionId::from_slice(&bytes[..16])?, event_id))
}

/// A task token: 54 characters that are safe in URLs. A secret: whoever holds it can complete the task, so
/// `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskToken(Arc<str>);

impl TaskToken {
    /// Takes a text that claims to be a token, without any check.
    pub fn from_untrusted(text: &str) -> TaskToken {
        TaskToken(text.into())
    }

    /// The execution that the token claims to belong to: good for routing, proof of nothing.
    pub fn claimed_execution(&self) -> Option<ExecutionId> {
        parts(&decode(&self.0)?).map(|(execution, _)| execution)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TaskToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskToken(secret)")
    }
}

impl serde::Serialize for TaskToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for TaskToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<TaskToken, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Ok(TaskToken::from_untrusted(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_one_attempt_and_forgeries_are_refused() {
        let key = TokenKey::new(&[7; 32]);
        let execution = ExecutionId::from_bytes([3; 16]);
        let token = key.sign(execution, 42);
        assert_eq!(token.as_str().len(), 54);
        assert_eq!(key.verify(token.as_str()), Some((execution, 42)));
        assert_eq!(token.claimed_execution(), Some(execution));
        assert_ne!(key.sign(execution, 43), token);
        assert_eq!(TokenKey::new(&[8; 32]).verify(token.as_str()), None);
        for i in 0..token.as_str().len() {
            let mut forged = token.as_str().to_owned().into_bytes();
            forged[i] = if forged[i] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.verify(std::str::from_utf8(&forged).unwrap()), None, "byte {i}");
        }
        for bad in ["", "x", "not a token at all, but long enough to be one, really.."] {
            assert_eq!(key.verify(bad), None);
        }
    }

    #[test]
    fn tokens_and_keys_are_not_shown() {
        let key = TokenKey::new(b"k");
        assert_eq!(format!("{key:?}"), "TokenKey(secret)");
        assert_eq!(format!("{:?}", key.sign(ExecutionId::from_bytes([0; 16]), 1)), "TaskToken(secret)");
    }
}
