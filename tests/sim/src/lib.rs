//! Deterministic simulation: real coordinators and real workers, in one thread and under virtual time, on a broker and
//! a store that fail by chance; processes that die at any call and are started anew; clients that start, stop and
//! redrive random workflows. All chance comes from one seed, so a seed that fails does so again, in the same way.
//!
//! ```text
//!      clients, pollers ──► api ─┐                   ┌─ worker   ◄── activities whose results are known
//!            producers ──┐       ▼                   ▼
//!   faults ──►           └► SimBroker ──► broker::server (queues, connections)
//!     ▲                       ▲
//!   seed      coordinator ────┴────► SimStore ──► store::tables (checked at every commit)
//! ```
//!
//! * [`run`] plays a seed and says what became of it; the binary does so for many.
//! * `world` is what all share, `process` what can die, `processes` what runs, `scenario` how a seed is played, `check`
//!   what must be true when all is over, `trace` what happened.
//! * `workflow` is what is run, with Map Runs whose items fail in `workflow::map_runs`; `clients` start it and answer what
//!   waits for a token.
//! * Some seeds have more: `triggers` on queues and exchanges of producers, a schedule (`schedules`), `express` executions,
//!   and workers that poll the API (`pollers`).
//!
//! What must hold:
//!
//! * Every accepted start ends, with an outcome that its definition allows. An attempt ends once, and is begun once where
//!   its activity is not idempotent and the broker keeps what it confirmed. What is stored replays, row by row and as a
//!   whole, to what was in the coordinators' memory.
//! * A Map Run has counted what its child executions came to.
//! * A message of a trigger has started one execution, however often it came, or is a dead letter where it can start none
//!   (where the broker keeps what it confirmed). Nothing else is a dead letter.
//! * A firing of a schedule has started one execution, or none where its overlap policy says so, and what its record counts
//!   is right. Executions that must not overlap do not.
//! * An Express execution that is waited for ends right; one that is not was run at least once (where the broker keeps
//!   what it confirmed).
//! * Nothing is pending, on a queue or due for ever.

mod activities;
mod broker;
mod check;
mod clients;
mod express;
mod faults;
mod pollers;
mod process;
mod processes;
mod rng;
mod scenario;
mod schedules;
mod store;
mod trace;
mod triggers;
mod workflow;
mod world;

use std::{cell::RefCell, panic, sync::Once};

pub use trace::Told;

/// What became of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was wrong, if something was.
    pub violation: Option<String>,
    /// What happened.
    pub told: Told,
}

thread_local! {
    /// The first panic of the seed that this thread plays.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Lets panics of all threads be remembered, once. What catches them later need not tell.
fn remember_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|panic| *panic = panic.take().or_else(|| Some(info.to_string())));
            before(info);
        }));
    });
}

/// Plays a seed, and keeps so many of the last lines of its trace.
///
/// # Panics
/// When no runtime can be made.
pub fn run(seed: u64, tail_max: usize) -> Outcome {
    remember_panics();
    PANIC.take();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing of the system");
    let world = runtime.block_on(async {
        let world = world::World::new(seed, tail_max);
        scenario::play(&world).await;
        world
    });
    drop(runtime);
    let panicked = PANIC.take().map(|panic| format!("a panic: {panic}"));
    Outcome { violation: panicked.or(world.violation()), told: world.told() }
}
