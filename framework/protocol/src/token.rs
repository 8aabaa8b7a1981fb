//! Task tokens: each names exactly one attempt, and cannot be guessed or forged.

use std::{borrow::Cow, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{ExecutionId, approval::LinkKey};

/// The execution's id and the event's.
const BODY_BYTES: usize = 24;
const RUNNER_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const TOKEN_BYTES_MAX: usize = BODY_BYTES + RUNNER_BYTES + TAG_BYTES;
/// The length of the shortest token: that of an execution with a history.
const TOKEN_CHARS_MIN: usize = ((BODY_BYTES + TAG_BYTES) * 8).div_ceil(6);
/// What stands for what is not shown.
const MASK: &str = "***";

/// Names a process that runs Express executions, which are in its memory and nowhere else: what is said about their
/// attempts must reach it, and not a shard. Random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunnerId([u8; RUNNER_BYTES]);

impl RunnerId {
    /// From random bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> RunnerId {
        RunnerId(bytes)
    }
}

impl fmt::Display for RunnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The secret of an installation that signs its task tokens. It lives in the store.
#[derive(Clone)]
pub struct TokenKey {
    mac: Arc<Hmac<Sha256>>,
    runner: Option<RunnerId>,
}

impl TokenKey {
    /// From the secret's bytes; 32 random bytes are right.
    pub fn new(secret: &[u8]) -> TokenKey {
        let mac = Hmac::new_from_slice(secret).expect("HMAC takes keys of any length");
        TokenKey { mac: Arc::new(mac), runner: None }
    }

    /// The same key, for tokens that name `runner` besides: those of Express executions.
    #[must_use]
    pub fn of_runner(&self, runner: RunnerId) -> TokenKey {
        TokenKey { mac: Arc::clone(&self.mac), runner: Some(runner) }
    }

    /// The key that signs links to approvals: made of this one, so that neither can be made to sign what the other does.
    pub fn link_key(&self) -> LinkKey {
        let mut mac = (*self.mac).clone();
        mac.update(b"stagepost: links to approvals, version 1");
        LinkKey::new(&mac.finalize().into_bytes())
    }

    /// The token of the attempt that was scheduled by event `event_id` of the execution.
    pub fn sign(&self, execution: ExecutionId, event_id: u64) -> TaskToken {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES_MAX);
        bytes.extend_from_slice(execution.as_bytes());
        bytes.extend_from_slice(&event_id.to_be_bytes());
        bytes.extend(self.runner.iter().flat_map(|runner| runner.0));
        let mut mac = (*self.mac).clone();
        mac.update(&bytes);
        bytes.extend_from_slice(&mac.finalize().into_bytes()[..TAG_BYTES]);
        TaskToken(URL_SAFE_NO_PAD.encode(bytes).into())
    }

    /// The attempt that a token of this installation names, whoever runs it; `None` for anything else.
    pub fn verify(&self, token: &str) -> Option<(ExecutionId, u64)> {
        let claim = Claim::read(token)?;
        let mut mac = (*self.mac).clone();
        mac.update(claim.body());
        mac.verify_truncated_left(&claim.bytes[claim.body().len()..claim.length]).ok()?;
        claim.attempt()
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(secret)")
    }
}

/// What a token says, true or not. Its length tells whether it names a runner.
struct Claim {
    bytes: [u8; TOKEN_BYTES_MAX],
    length: usize,
}

impl Claim {
    fn read(token: &str) -> Option<Claim> {
        let mut bytes = [0; TOKEN_BYTES_MAX];
        let length = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
        let known = [TOKEN_BYTES_MAX - RUNNER_BYTES, TOKEN_BYTES_MAX].contains(&length);
        known.then_some(Claim { bytes, length })
    }

    /// What is signed.
    fn body(&self) -> &[u8] {
        &self.bytes[..self.length - TAG_BYTES]
    }

    fn attempt(&self) -> Option<(ExecutionId, u64)> {
        let event_id = u64::from_be_bytes(self.bytes[16..BODY_BYTES].try_into().ok()?);
        Some((ExecutionId::from_slice(&self.bytes[..16])?, event_id))
    }

    fn runner(&self) -> Option<RunnerId> {
        self.body().get(BODY_BYTES..)?.try_into().ok().map(RunnerId)
    }
}

/// A task token: 54 characters that are safe in URLs, 64 for an Express execution. A secret: whoever holds it can complete the task, so
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
        Claim::read(&self.0)?.attempt().map(|(execution, _)| execution)
    }

    /// The runner that the token claims to belong to, as those of Express executions do: good for routing, proof of
    /// nothing.
    pub fn claimed_runner(&self) -> Option<RunnerId> {
        Claim::read(&self.0)?.runner()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text without what could be a task token: every run of so many letters, digits, `-` and `_` as the shortest token
/// has, or more, is replaced. For showing what others wrote; it hides rather too much than too little.
pub fn masked(text: &str) -> Cow<'_, str> {
    let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // Every part ends with what no token has in it, but for the last one.
    let parts = text.split_inclusive(|c| !of_token(c));
    let mut shown: Option<String> = None;
    let mut start = 0;
    for part in parts {
        let run = part.trim_end_matches(|c| !of_token(c));
        if run.len() >= TOKEN_CHARS_MIN {
            let shown = shown.get_or_insert_with(|| text[..start].to_owned());
            shown.push_str(MASK);
            shown.push_str(&part[run.len()..]);
        } else if let Some(shown) = &mut shown {
            shown.push_str(part);
        }
        start += part.len();
    }
    shown.map_or(Cow::Borrowed(text), Cow::Owned)
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
    fn a_token_of_an_express_execution_names_its_runner_besides() {
        let (key, runner) = (TokenKey::new(&[7; 32]), RunnerId::from_bytes([9; 8]));
        let execution = ExecutionId::from_bytes([3; 16]);
        let token = key.of_runner(runner).sign(execution, 42);
        assert_eq!(token.as_str().len(), 64);
        assert_eq!((token.claimed_runner(), token.claimed_execution()), (Some(runner), Some(execution)));
        assert_eq!(key.verify(token.as_str()), Some((execution, 42)));
        assert_eq!(key.sign(execution, 42).claimed_runner(), None);
        // Neither kind can be made into the other.
        let other = key.of_runner(RunnerId::from_bytes([8; 8])).sign(execution, 42);
        let spliced = format!("{}{}", &other.as_str()[..40], &token.as_str()[40..]);
        assert_eq!(key.verify(&spliced), None);
        assert_eq!(key.verify(&token.as_str()[..54]), None);
    }

    #[test]
    fn what_could_be_a_token_is_masked() {
        let key = TokenKey::new(b"k");
        let token = key.sign(ExecutionId::from_bytes([1; 16]), 5);
        let runner = key.of_runner(RunnerId::from_bytes([1; 8])).sign(ExecutionId::from_bytes([1; 16]), 5);
        for (token, name) in [(token.as_str(), "t"), (runner.as_str(), "r")] {
            for (text, expected) in [
                (token.to_owned(), "***".to_owned()),
                (format!("{{\"{name}\":\"{token}\",\"a\":1}}"), format!("{{\"{name}\":\"***\",\"a\":1}}")),
                (format!("ä {token}ö {token}"), "ä ***ö ***".to_owned()),
                (format!("https://h/answer?token={token}&x=1"), "https://h/answer?token=***&x=1".to_owned()),
                (format!("prefix-{token}"), "***".to_owned()),
            ] {
                assert_eq!(masked(&text), expected);
            }
        }
        let plain =
            "arn:aws:states:us-east-1:000000000000:execution:orders:9d3c8f3e-6b0e-4c8c-9d39-0a4b6f6f7c11 ü";
        assert!(matches!(masked(plain), Cow::Borrowed(text) if text == plain));
        assert_eq!(masked(""), "");
    }

    #[test]
    fn tokens_and_keys_are_not_shown() {
        let key = TokenKey::new(b"k");
        assert_eq!(format!("{key:?}"), "TokenKey(secret)");
        assert_eq!(format!("{:?}", key.sign(ExecutionId::from_bytes([0; 16]), 1)), "TaskToken(secret)");
    }
}
