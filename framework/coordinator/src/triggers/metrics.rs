//! What triggers count, for `/metrics`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use stagepost_protocol::{DeadReason, Namespace};

use crate::metrics::{ByReason, add};

/// The counters of one trigger in this process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    started: AtomicU64,
    dead: ByReason,
    consuming: AtomicBool,
}

impl Counters {
    /// Counts a batch: so many starts are confirmed, and these messages became dead letters.
    pub(super) fn add(&self, started: usize, dead: &[DeadReason]) {
        add(&self.started, started);
        dead.iter().for_each(|reason| add(self.dead.of(*reason), 1));
    }

    pub(super) fn set_consuming(&self, consuming: bool) {
        self.consuming.store(consuming, Relaxed);
    }
}

/// The counters of all triggers that this process knows.
#[derive(Debug, Default)]
pub struct TriggerMetrics(Mutex<BTreeMap<String, Arc<Counters>>>);

impl TriggerMetrics {
    /// The counters of a trigger.
    pub(crate) fn of(&self, namespace: &Namespace, name: &str) -> Arc<Counters> {
        self.lock().entry(label(namespace, name)).or_default().clone()
    }

    /// Forgets a trigger that there is no longer.
    pub(crate) fn forget(&self, namespace: &Namespace, name: &str) {
        self.lock().remove(&label(namespace, name));
    }

    /// Counters are good whatever panicked.
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Counters>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn render(&self, out: &mut String) {
        let triggers = self.lock();
        let mut family = |name: &str, kind: &str, help: &str, samples: &dyn Fn(&str, &Counters) -> String| {
            // Writing to a String cannot fail.
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            // Names of triggers need no escaping.
            triggers.iter().for_each(|(trigger, counters)| out.push_str(&samples(trigger, counters)));
        };
        family(
            "stagepost_trigger_started",
            "counter",
            "Messages that started an execution, or had started it before.",
            &|trigger, counters| {
                let value = counters.started.load(Relaxed);
                format!("stagepost_trigger_started{{trigger=\"{trigger}\"}} {value}\n")
            },
        );
        family(
            "stagepost_trigger_dead_letters",
            "counter",
            "Messages that started nothing, by reason.",
            &|trigger, counters| {
                let counts =
                    DeadReason::ALL.iter().map(|reason| (reason, counters.dead.of(*reason).load(Relaxed)));
                let sample = |(reason, value): (&DeadReason, u64)| {
                    let reason = reason.as_str();
                    format!(
                        "stagepost_trigger_dead_letters{{trigger=\"{trigger}\",reason=\"{reason}\"}} {value}\n"
                    )
                };
                // Most reasons are none that a trigger has.
                counts.filter(|(_, value)| *value > 0).map(sample).collect()
            },
        );
        family(
            "stagepost_trigger_consuming",
            "gauge",
            "1 while this process takes messages for the trigger.",
            &|trigger, counters| {
                let value = u8::from(counters.consuming.load(Relaxed));
                format!("stagepost_trigger_consuming{{trigger=\"{trigger}\"}} {value}\n")
            },
        );
    }
}

fn label(namespace: &Namespace, name: &str) -> String {
    if *namespace == Namespace::default() {
        name.to_owned()
    } else {
        format!("{}.{}.{name}", namespace.account, namespace.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trigger_has_its_counters() {
        let metrics = TriggerMetrics::default();
        let home = Namespace::default();
        metrics.of(&home, "web").add(3, &[DeadReason::NotJson, DeadReason::NotJson]);
        metrics.of(&home, "web").set_consuming(true);
        let away = Namespace { account: "111111111111".into(), region: "eu-west-1".into() };
        metrics.of(&away, "web").add(1, &[]);
        let mut out = String::new();
        metrics.render(&mut out);
        for line in [
            "stagepost_trigger_started{trigger=\"web\"} 3",
            "stagepost_trigger_started{trigger=\"111111111111.eu-west-1.web\"} 1",
            "stagepost_trigger_dead_letters{trigger=\"web\",reason=\"not-json\"} 2",
            "stagepost_trigger_consuming{trigger=\"web\"} 1",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}\n{out}");
        }
        metrics.forget(&home, "web");
        let mut out = String::new();
        metrics.render(&mut out);
        assert!(!out.contains("\"web\""), "{out}");
    }
}
