//! What a coordinator counts, for `/metrics`.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use stagepost_protocol::DeadReason;

use crate::triggers::metrics::TriggerMetrics;

macro_rules! metrics {
    ($($(#[doc = $help:literal])* $kind:ident $name:ident,)*) => {
        /// Counters and gauges of one coordinator. Counters only grow.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $help])* pub $name: AtomicU64,)*
            /// Dead letters that were kept, by reason.
            pub dead_letters: ByReason,
            /// What each trigger counts.
            pub triggers: TriggerMetrics,
            /// The store cannot be reached.
            pub store_down: AtomicBool,
        }

        impl Metrics {
            /// Writes them in the Prometheus text format.
            pub fn render(&self, out: &mut String) {
                $(
                    let name = concat!("stagepost_coordinator_", stringify!($name));
                    let help = concat!($($help),*);
                    let kind = stringify!($kind);
                    let value = self.$name.load(Relaxed);
                    // Writing to a String cannot fail.
                    let _ = write!(out, "# HELP {name}{help}\n# TYPE {name} {kind}\n{name} {value}\n");
                )*
                self.dead_letters.render(out);
                self.triggers.render(out);
                let down = u8::from(self.store_down.load(Relaxed));
                let name = "stagepost_coordinator_store_down";
                let _ = write!(out, "# HELP {name} 1 while the store cannot be reached.\n# TYPE {name} gauge\n{name} {down}\n");
            }
        }
    };
}

metrics! {
    /// Executions started.
    counter executions_started,
    /// Executions ended, however.
    counter executions_ended,
    /// Decisions that changed an execution.
    counter decisions,
    /// Inputs that changed nothing: late or repeated results, early wake-ups.
    counter inputs_ignored,
    /// Events written.
    counter events,
    /// Batches committed.
    counter batches,
    /// Batches given up because the store refused them or could not be reached.
    counter batches_failed,
    /// Attempts given to workers.
    counter tasks_dispatched,
    /// Attempts given to workers once more after a crash.
    counter tasks_republished,
    /// Claims of attempts that were granted.
    counter claims_granted,
    /// Claims of attempts that had ended, were another worker's, or may be.
    counter claims_dropped,
    /// Leases that ran out: their attempts ended, or were given to other workers.
    counter leases_lost,
    /// Executions whose history passed the number of events that is warned about.
    counter histories_long,
    /// Executions replayed from the store.
    counter replays,
    /// Express executions started by this process.
    counter express_started,
    /// Express executions that ended in this process, however.
    counter express_ended,
    /// Synchronous Express executions refused because too many ran.
    counter express_throttled,
    /// Express executions that this process runs.
    gauge express_running,
    /// Dead letters that are kept in the store, as counted last.
    gauge dead_letters_kept,
    /// 1 while no dead letter is kept because there are too many: they wait in their queue.
    gauge dead_letters_full,
    /// Executions that schedules started or tried to start.
    counter schedule_firings,
    /// Shards owned.
    gauge shards_owned,
    /// Executions in the cache.
    gauge executions_cached,
    /// Bytes of the cache, about.
    gauge cache_bytes,
}

/// A counter for each reason that a message is a dead letter for.
#[derive(Debug, Default)]
pub struct ByReason([AtomicU64; DeadReason::ALL.len()]);

impl ByReason {
    /// The counter of a reason.
    pub fn of(&self, reason: DeadReason) -> &AtomicU64 {
        &self.0[reason as usize]
    }

    fn render(&self, out: &mut String) {
        let name = "stagepost_coordinator_dead_letters";
        let help = "Messages that could not be used and are kept, by reason.";
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} counter\n");
        for reason in DeadReason::ALL {
            let (label, value) = (reason.as_str(), self.of(*reason).load(Relaxed));
            let _ = writeln!(out, "{name}{{reason=\"{label}\"}} {value}");
        }
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_in_the_text_format() {
        let metrics = Metrics::default();
        add(&metrics.decisions, 3);
        let mut out = String::new();
        metrics.render(&mut out);
        assert!(
            out.contains(
                "# TYPE stagepost_coordinator_decisions counter\nstagepost_coordinator_decisions 3\n"
            ),
            "{out}"
        );
        add(metrics.dead_letters.of(DeadReason::Other), 2);
        metrics.render(&mut out);
        assert!(out.contains("\nstagepost_coordinator_dead_letters{reason=\"other\"} 2\n"), "{out}");
        assert!(out.contains("# HELP stagepost_coordinator_shards_owned Shards owned.\n"), "{out}");
    }
}
