//! Every form that is right, without a warning. A test of its own and not one of trybuild's: a program that passes
//! there makes it compile all dependencies once more, where programs that fail need them checked only.
#![deny(warnings)]
#![expect(missing_docs, reason = "what stands here shows forms and means nothing")]
#![expect(clippy::needless_pass_by_value, reason = "an activity owns its input")]

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stagepost::{ActivityError, Cancelled, Context, Failure, State, activities, activity};

#[derive(Deserialize)]
pub struct Order {
    pub items: Vec<String>,
}

#[derive(Serialize)]
pub struct Receipt<T> {
    pub id: T,
}

pub trait Gateway: Send + Sync {
    fn charge(&self, items: usize) -> u64;
}

/// All extractors, in another order, with patterns and attributes.
#[activity(
    name = "charge-card",
    queue = "payments",
    timeout = "30s",
    heartbeat = "500ms",
    concurrency = 4,
    idempotent
)]
#[must_use = "an attribute that stays"]
pub async fn charge_card(
    State(gateway): State<dyn Gateway>,
    cx: stagepost::Context,
    Order { items }: Order,
) -> Result<Receipt<u64>, ChargeError> {
    cx.heartbeat(&items.len());
    cx.check_cancelled()?;
    Ok(Receipt { id: gateway.charge(items.len()) })
}

#[derive(Debug, thiserror::Error, ActivityError)]
#[activity_error("Payments")]
pub enum ChargeError {
    #[error("declined")]
    #[activity_error("Payments.Declined")]
    Declined,
    #[error(transparent)]
    #[activity_error(transparent)]
    Cancelled(#[from] Cancelled),
    #[error("{0}: {1}")]
    Other(u8, String),
}

#[derive(Debug, thiserror::Error, ActivityError)]
#[error("gone: {0:?}")]
pub struct Gone<T: std::fmt::Debug>(pub T);

#[activity]
async fn r#match(mut words: Vec<String>) -> Result<Option<String>, Gone<u8>> {
    Ok(words.pop())
}

#[activity(blocking)]
fn hash(input: String) -> Result<usize, Failure> {
    Ok(input.len())
}

#[activity]
async fn nothing() -> Result<(), Failure> {
    tokio::task::yield_now().await;
    Ok(())
}

#[activity]
async fn never_fails(cx: Context) -> Result<u32, std::convert::Infallible> {
    Ok(cx.attempt())
}

type Answer = Result<(), Failure>;

#[activity]
async fn aliased() -> Answer {
    "1".parse::<u8>()?;
    Err(std::io::Error::other("any error"))?
}

mod inner {
    use super::*;

    #[activity]
    pub(crate) async fn nested(input: serde_json::Value) -> Result<serde_json::Value, Failure> {
        Ok(input)
    }
}

#[cfg(any())]
#[activity]
async fn configured_away(input: Unknown) -> Result<(), Failure> {}

#[activity]
#[cfg(any())]
async fn configured_away_too(input: Unknown) -> Result<(), Failure> {}

pub struct Payments<T> {
    gateway: T,
}

/// Methods beside what is no activity, in all their forms.
#[activity]
impl<T> Payments<T>
where
    T: Gateway + 'static,
{
    const LIMIT: usize = 9;

    pub fn new(gateway: T) -> Payments<T> {
        Payments { gateway }
    }

    #[activity(name = "charge-method", queue = "methods", idempotent)]
    #[must_use = "an attribute that stays"]
    pub async fn charge(
        &self,
        cx: Context,
        _: State<String>,
        Order { items }: Order,
    ) -> Result<Receipt<u64>, ChargeError> {
        cx.check_cancelled()?;
        Ok(Receipt { id: self.gateway.charge(items.len().min(Self::LIMIT)) })
    }

    #[stagepost::activity(blocking)]
    fn hash_method(&self, input: String) -> Result<u64, Failure> {
        Ok(self.gateway.charge(input.len()))
    }

    #[activity]
    async fn shared(self: Arc<Self>) -> Answer {
        Ok(())
    }

    #[activity]
    async fn without_self(input: u8) -> Result<u8, Failure> {
        Ok(input)
    }

    #[cfg(any())]
    #[activity]
    async fn configured_away(&self, input: Unknown) -> Result<(), Failure> {}
}

struct Free;

impl Gateway for Free {
    fn charge(&self, items: usize) -> u64 {
        items as u64
    }
}

#[test]
fn methods_are_registered_by_value_and_by_arc() {
    let payments = Arc::new(Payments::new(Free));
    let all = stagepost::Register::into_registrations(Arc::clone(&payments));
    let names: Vec<&str> = all.iter().map(|registration| registration.name()).collect();
    assert_eq!(names, ["charge-method", "hash_method", "shared", "without_self"]);
    assert_eq!(all[0].options().queue, Some("methods"));
    assert!(all[0].options().idempotent && all[1].options().blocking);
    assert_eq!(payments.hash_method("abc".into()).ok(), Some(3));
    let _ = stagepost::Worker::connect("http://localhost").register(Payments::new(Free)).register(all);
}

#[test]
fn all_forms_are_registered() {
    use inner::nested;

    #[activity]
    async fn local() -> Result<(), Failure> {
        Ok(())
    }

    let all =
        activities![charge_card, r#match, hash, nothing, never_fails, aliased, inner::nested, nested, local,];
    let names: Vec<&str> = all.iter().map(|registration| registration.name()).collect();
    assert_eq!(names[..3], ["charge-card", "match", "hash"]);
    assert_eq!(all[0].options().queue, Some("payments"));
    assert!(all[0].options().idempotent && all[2].options().blocking);
    assert_eq!(ChargeError::Other(1, String::new()).name(), "Payments");
    assert_eq!(Gone(1).name(), "Gone");
    assert_eq!(hash("abc".into()).ok(), Some(3));
}
