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
    /// Its name; `NAME/LABEL` for the one that the child executions of a Map Run are executions of.
    pub name: String,
}

impl StateMachineArn {
    /// Reads the ARN of a state machine without version or alias.
    pub fn parse(text: &str) -> Result<Self, ArnError> {
        let named = |name: &str| {
            let (base, label) = name.split_once('/').unwrap_or((name, "-"));
            !base.is_empty() && !label.is_empty() && !label.contains('/') && !name.contains(':')
        };
        match split(text, "stateMachine") {
            Some((namespace, name)) if named(&name) => Ok(Self { namespace, name }),
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
            run: None,
        }
    }

    /// The ARN of one run of this state machine, if it is of type EXPRESS. `run` makes it unique, since the names of
    /// such executions may repeat.
    pub fn express(&self, execution: &str, run: &str) -> ExecutionArn {
        ExecutionArn { run: Some(run.into()), ..self.execution(execution) }
    }
}

impl fmt::Display for StateMachineArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Namespace { account, region } = &self.namespace;
        write!(f, "arn:aws:states:{region}:{account}:stateMachine:{}", self.name)
    }
}
arn_text!(StateMachineArn);

/// `arn:aws:states:REGION:ACCOUNT:execution:STATE_MACHINE:NAME`, or of an Express execution
/// `arn:aws:states:REGION:ACCOUNT:express:STATE_MACHINE:NAME:RUN`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecutionArn {
    /// Where it is filed.
    pub namespace: Namespace,
    /// The name of its state machine.
    pub state_machine: String,
    /// Its own name.
    pub name: String,
    /// Of an Express execution: what tells it from others of its name (a UUID). `None` for a standard one.
    pub run: Option<String>,
}

impl ExecutionArn {
    /// Reads the ARN of a standard or an Express execution.
    pub fn parse(text: &str) -> Result<Self, ArnError> {
        Self::read(text).ok_or_else(|| ArnError {
            text: text.into(),
            expected: "arn:aws:states:REGION:ACCOUNT:execution:STATE_MACHINE:NAME",
        })
    }

    fn read(text: &str) -> Option<Self> {
        let express = split(text, "express");
        let is_express = express.is_some();
        let (namespace, rest) = express.or_else(|| split(text, "execution"))?;
        let (state_machine, rest) = rest.split_once(':')?;
        let (name, run) = match is_express {
            true => rest.split_once(':').map(|(name, run)| (name, Some(run)))?,
            false => (rest, None),
        };
        if state_machine.is_empty()
            || [name, run.unwrap_or("-")].iter().any(|p| p.is_empty() || p.contains(':'))
        {
            return None;
        }
        let (state_machine, name) = (state_machine.into(), name.into());
        Some(Self { namespace, state_machine, name, run: run.map(str::to_owned) })
    }

    /// Whether it is that of an execution of an EXPRESS state machine.
    pub fn is_express(&self) -> bool {
        self.run.is_some()
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
        let kind = if self.is_express() { "express" } else { "execution" };
        write!(f, "arn:aws:states:{region}:{account}:{kind}:{}:{}", self.state_machine, self.name)?;
        self.run.as_ref().map_or(Ok(()), |run| write!(f, ":{run}"))
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
            "arn:aws:states:us-east-1:000000000000:express:orders:1",
            "arn:aws:states:us-east-1:000000000000:express:orders:1:",
            "arn:aws:states:us-east-1:000000000000:express:orders:1:2:3",
        ] {
            assert!(ExecutionArn::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn express_executions_of_one_name_have_arns_and_ids_of_their_own() {
        let machine = StateMachineArn { namespace: Namespace::default(), name: "orders".into() };
        let (a, b) = (machine.express("o-1", "r1"), machine.express("o-1", "r2"));
        assert_eq!(a.to_string(), "arn:aws:states:us-east-1:000000000000:express:orders:o-1:r1");
        assert_eq!(ExecutionArn::parse(&a.to_string()), Ok(a.clone()));
        assert!(a.is_express() && !machine.execution("o-1").is_express());
        assert_eq!(a.state_machine_arn(), machine);
        assert!(a.id() != b.id() && a.id() != machine.execution("o-1").id());
    }

    #[test]
    fn executions_of_one_namespace_share_the_first_bytes_of_their_ids() {
        let machine = StateMachineArn { namespace: Namespace::default(), name: "orders".into() };
        let (a, b) = (machine.execution("a").id(), machine.execution("b").id());
        assert_ne!(a, b);
        assert_eq!(a.as_bytes()[..4], b.as_bytes()[..4]);
    }
}
