//! Every form that is right.
#![deny(warnings)]

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
#[must_use]
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

#[activity(blocking,)]
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

fn main() {
    use inner::nested;

    #[activity]
    async fn local() -> Result<(), Failure> {
        Ok(())
    }

    let all = activities![
        charge_card,
        r#match,
        hash,
        nothing,
        never_fails,
        aliased,
        inner::nested,
        nested,
        local,
    ];
    let names: Vec<&str> = all.iter().map(|registration| registration.name()).collect();
    assert_eq!(names[..3], ["charge-card", "match", "hash"]);
    assert_eq!(all[0].options().queue, Some("payments"));
    assert!(all[0].options().idempotent && all[2].options().blocking);
    assert_eq!(ChargeError::Other(1, String::new()).name(), "Payments");
    assert_eq!(Gone(1).name(), "Gone");
    assert_eq!(hash("abc".into()).ok(), Some(3));
}
