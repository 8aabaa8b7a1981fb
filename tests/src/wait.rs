//! Waiting for conditions.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(25);

/// Asks until there is an answer, and returns it.
///
/// # Panics
/// When there is none within `limit`; the message says what was waited for.
pub async fn until<T>(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = check().await {
            return answer;
        }
        assert!(began.elapsed() < limit, "not within {} s: {what}", limit.as_secs());
        tokio::time::sleep(PAUSE).await;
    }
}

/// Random moments for faults. A failing test prints its seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From `STAGEPOST_TEST_SEED`, else from the clock; the seed is printed.
    #[expect(clippy::print_stdout, reason = "a failing test shows it")]
    pub fn seeded() -> Random {
        let given = std::env::var("STAGEPOST_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        println!("STAGEPOST_TEST_SEED={seed}");
        Random(seed)
    }

    /// For what no failure depends on, or whose seed is told otherwise.
    pub fn quiet() -> Random {
        Random(uuid::Uuid::new_v4().as_u64_pair().0)
    }

    /// From this seed.
    pub fn from_seed(seed: u64) -> Random {
        Random(seed)
    }

    /// Another sequence, decided by this one.
    #[must_use]
    pub fn another(&mut self) -> Random {
        Random(self.number(0..u64::MAX))
    }

    /// A number from `range` (splitmix64).
    pub fn number(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (z ^ (z >> 31)) % (range.end - range.start)
    }

    /// Lets between `from` and `to` milliseconds pass: the fault comes at a moment that nothing announces.
    pub async fn moment(&mut self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(self.number(from..to))).await;
    }
}
