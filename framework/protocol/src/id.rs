//! Names and ids: namespaces, ARNs and the ids of executions.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

/// What everything is filed under: the account and the region that ARNs carry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Namespace {
    /// Twelve digits.
    pub account: String,
    /// For instance `us-east-1`.
    pub region: String,
}

impl Default for Namespace {
    /// Account `000000000000` in `us-east-1`.
    fn default() -> Namespace {
        Namespace { account: "000000000000".into(), region: "us-east-1".into() }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.region)
    }
}

/// Why a text is not an ARN of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an ARN of the form {expected}")]
pub struct ArnError {
    /// The text.
    pub text: String,
    /// The form that was expected.
    pub expected: &'static str,
}

macro_rules! arn_text {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = ArnError;
            fn from_str(text: &str) -> Result<Self, ArnError> {
                $name::parse(text)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                $name::parse(&text).map_err(D::Error::custom)
            }
        }
    };
}

fn split(text: &str, kind: &str) -> Option<(Namespace, String)> {
    let rest = text.strip_prefix("arn:aws:states:")?;
    let mut parts = rest.splitn(4, ':');
    let (region, account, found, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if found != kind || name.is_empty() || region.is_empty() || account.is_empty() {
        return None;
    }
    Some((Namespace { account: account.into(), region: region.into() }, name.into()))
}

/// `arn:aws:states:REGION:ACCOUNT:stateMachine:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StateMachineArn {
    /// Where it is filed.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
}

impl StateMachineArn {
    /// Reads the ARN of a state machine without version, alias or label.
    pub fn parse(text: &str) -> Result<Self, ArnError> {
        match split(text, "stateMachine") {
            Some((namespace, name)) if !name.contains([':', '/']) => Ok(Self { namespace, name }),
            _ => Err(ArnError {
                text: text.into(),
                expected: "arn:aws:states:REGION:ACCOUNT:stateMachine:NAME",
            }),
        }
    }

    /// The ARN of the execution `execution` of this state machine.
    pub fn execution(&self, execution: &str) -> ExecutionArn {
        ExecutionArn {
            namespace: self.namespace.clone(),
            state_machine: self.name.clone(),
            name: execution.into(),
        }
    }
}

impl fmt::Display for StateMachineArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Namespace { account, region } = &self.namespace;
        write!(f, "arn:aws:states:{region}:{account}:stateMachine:{}", self.name)
    }
}
arn_text!(StateMachineArn);

/// `arn:aws:states:REGION:ACCOUNT:execution:STATE_MACHINE:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecutionArn {
    /// Where it is filed.
    pub namespace: Namespace,
    /// The name of its state machine.
    pub state_machine: String,
    /// Its own name.
    pub name: String,
}

impl ExecutionArn {
    /// Reads the ARN of a standard execution.
    pub fn parse(text: &str) -> Result<Self, ArnError> {
        let error = || ArnError {
            text: text.into(),
            expected: "arn:aws:states:REGION:ACCOUNT:execution:STATE_MACHINE:NAME",
        };
        let (namespace, rest) = split(text, "execution").ok_or_else(error)?;
        let (state_machine, name) = rest.split_once(':').ok_or_else(error)?;
        if state_machine.is_empty() || name.is_empty() || name.contains(':') {
            return Err(error());
        }
        Ok(Self { namespace, state_machine: state_machine.into(), name: name.into() })
    }

    /// The id that the store and the shards know the execution by; a function of the ARN alone.
    pub fn id(&self) -> ExecutionId {
        let namespace = Sha256::digest(self.namespace.to_string());
        let arn = Sha256::digest(self.to_string());
        let mut id = [0; 16];
        id[..4].copy_from_slice(&namespace[..4]);
        id[4..].copy_from_slice(&arn[..12]);
        ExecutionId(id)
    }

    /// The ARN of its state machine.
    pub fn state_machine_arn(&self) -> StateMachineArn {
        StateMachineArn { namespace: self.namespace.clone(), name: self.state_machine.clone() }
    }
}

impl fmt::Display for ExecutionArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Namespace { account, region } = &self.namespace;
        write!(f, "arn:aws:states:{region}:{account}:execution:{}:{}", self.state_machine, self.name)
    }
}
arn_text!(ExecutionArn);

/// `arn:aws:states:REGION:ACCOUNT:activity:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ActivityArn {
    /// Where it is filed.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
}

impl ActivityArn {
    /// Reads the ARN of an activity.
    pub fn parse(text: &str) -> Result<Self, ArnError> {
        match split(text, "activity") {
            Some((namespace, name)) if !name.contains(':') => Ok(Self { namespace, name }),
            _ => Err(ArnError { text: text.into(), expected: "arn:aws:states:REGION:ACCOUNT:activity:NAME" }),
        }
    }
}

impl fmt::Display for ActivityArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Namespace { account, region } = &self.namespace;
        write!(f, "arn:aws:states:{region}:{account}:activity:{}", self.name)
    }
}
arn_text!(ActivityArn);

/// `arn:aws:states:REGION:ACCOUNT:mapRun:STATE_MACHINE/LABEL:ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MapRunArn {
    /// Where it is filed.
    pub namespace: Namespace,
    /// `STATE_MACHINE/LABEL:ID`.
    pub name: String,
}

impl MapRunArn {
    /// Reads the ARN of a Map Run.
    pub fn parse(text: &str) -> Result<Self, ArnError> {
        match split(text, "mapRun") {
            Some((namespace, name)) => Ok(Self { namespace, name }),
            None => Err(ArnError {
                text: text.into(),
                expected: "arn:aws:states:REGION:ACCOUNT:mapRun:STATE_MACHINE/LABEL:ID",
            }),
        }
    }
}

impl fmt::Display for MapRunArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Namespace { account, region } = &self.namespace;
        write!(f, "arn:aws:states:{region}:{account}:mapRun:{}", self.name)
    }
}
arn_text!(MapRunArn);

/// The id of an execution, made from its ARN: four bytes of its namespace, then twelve of the whole, so that
/// the namespace is the first part of every key and whoever knows the ARN knows the id, the slot and the shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionId([u8; 16]);

impl ExecutionId {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> ExecutionId {
        ExecutionId(bytes)
    }

    /// From a slice of sixteen bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<ExecutionId> {
        bytes.try_into().ok().map(ExecutionId)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ExecutionId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ExecutionId, &'static str> {
        const EXPECTED: &str = "an execution id is 32 hexadecimal digits";
        let mut id = [0; 16];
        if text.len() != 32 || !text.is_ascii() {
            return Err(EXPECTED);
        }
        for (i, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| EXPECTED)?;
        }
        Ok(ExecutionId(id))
    }
}

impl Serialize for ExecutionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ExecutionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ExecutionId, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_are_read_and_written() {
        let text = "arn:aws:states:us-east-1:000000000000:execution:orders:o-1";
        let arn: ExecutionArn = text.parse().unwrap();
        assert_eq!((arn.state_machine.as_str(), arn.name.as_str()), ("orders", "o-1"));
        assert_eq!(arn.to_string(), text);
        assert_eq!(arn.state_machine_arn().execution("o-1"), arn);
        assert_eq!(arn.id(), text.parse::<ExecutionArn>().unwrap().id());
        assert_eq!(arn.id().to_string().parse::<ExecutionId>().unwrap(), arn.id());
        for bad in [
            "",
            "arn:aws:states:us-east-1:000000000000:execution:orders",
            "arn:aws:states::000000000000:execution:orders:1",
            "arn:aws:states:us-east-1:000000000000:stateMachine:orders",
        ] {
            assert!(ExecutionArn::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn executions_of_one_namespace_share_the_first_bytes_of_their_ids() {
        let machine = StateMachineArn { namespace: Namespace::default(), name: "orders".into() };
        let (a, b) = (machine.execution("a").id(), machine.execution("b").id());
        assert_ne!(a, b);
        assert_eq!(a.as_bytes()[..4], b.as_bytes()[..4]);
    }
}
