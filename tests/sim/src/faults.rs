//! What fails how often. Each seed leaves some kinds of faults out, so that none hides another.

use std::time::Duration;

use crate::rng::Rng;

/// Rates are per million of what they are rates of.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    /// A process dies at a call of broker or store: before or after it has an effect.
    pub(crate) die_at_call: u64,
    /// A worker dies while an activity runs; of its pauses.
    pub(crate) die_in_activity: u64,
    /// How long a process lives at most before it crashes or is stopped gracefully.
    pub(crate) life: Option<Duration>,
    /// The broker restarts: connections and what is not persistent are gone.
    pub(crate) broker_restarts: Option<Duration>,
    /// The broker loses all that it has, and somebody runs `stagepost recover`.
    pub(crate) broker_losses: Option<Duration>,
    /// A connection is lost; of calls of the broker.
    pub(crate) disconnect: u64,
    /// The broker refuses a message.
    pub(crate) refuse: u64,
    /// The broker refuses to let a queue be consumed.
    pub(crate) deny: u64,
    /// A call of the store fails without an effect.
    pub(crate) store_fails_before: u64,
    /// A call of the store has its effect, and fails.
    pub(crate) store_fails_after: u64,
    /// The store says that a lease is lost which is not, or that one row of several cannot be read.
    pub(crate) store_errs: u64,
    /// A call of the store takes very long.
    pub(crate) store_hangs: u64,
    /// How long a call takes at most.
    pub(crate) latency: Duration,
    /// How far a process's clock is off at most.
    pub(crate) skew: Duration,
}

impl Faults {
    /// Those of an installation in one process, whose broker is in it: it can do nothing but die with it.
    pub(crate) fn embedded(self) -> Faults {
        Faults {
            life: self.life.or(Some(Duration::from_secs(20))),
            broker_restarts: None,
            broker_losses: None,
            disconnect: 0,
            refuse: 0,
            deny: 0,
            ..self
        }
    }

    /// Whether anything can come between a delivery and its acknowledgement.
    pub(crate) fn interrupt(&self) -> bool {
        let lasting = self.life.is_some() || self.broker_restarts.is_some() || self.broker_losses.is_some();
        lasting || self.die_at_call > 0 || self.disconnect > 0
    }

    pub(crate) fn draw(rng: &Rng) -> Faults {
        let rate = |most: u64| match rng.below(3) {
            0 => 0,
            1 => most / 10,
            _ => most,
        };
        let seconds = |rng: &Rng, choices: [u64; 3]| match rng.one_of(&choices) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        };
        Faults {
            die_at_call: rate(3_000),
            die_in_activity: rate(20_000),
            life: seconds(rng, [0, 8, 40]),
            broker_restarts: seconds(rng, [0, 0, 20]),
            broker_losses: seconds(rng, [0, 0, 30]),
            disconnect: rate(10_000),
            refuse: rate(10_000),
            deny: rate(50_000),
            store_fails_before: rate(50_000),
            store_fails_after: rate(50_000),
            store_errs: rate(10_000),
            store_hangs: rate(5_000),
            latency: Duration::from_millis(rng.one_of(&[1, 5, 40])),
            skew: Duration::from_millis(rng.one_of(&[0, 0, 500])),
        }
    }
}
