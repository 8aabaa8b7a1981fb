//! Topic exchanges: which queues a message goes to. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The exchanges and what is bound to them.
#[derive(Debug, Default)]
pub(super) struct Exchanges(BTreeMap<String, BTreeSet<Binding>>);

/// A queue, and which routing keys it wants.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Binding {
    queue: String,
    pattern: String,
}

impl Exchanges {
    pub(super) fn declare(&mut self, exchange: &str) {
        self.0.entry(exchange.to_owned()).or_default();
    }

    /// `false`: there is no such exchange.
    pub(super) fn bind(&mut self, queue: &str, exchange: &str, pattern: &str) -> bool {
        let Some(bindings) = self.0.get_mut(exchange) else { return false };
        bindings.insert(Binding { queue: queue.to_owned(), pattern: pattern.to_owned() });
        true
    }

    pub(super) fn unbind(&mut self, queue: &str, exchange: &str, pattern: &str) {
        if let Some(bindings) = self.0.get_mut(exchange) {
            bindings.retain(|binding| binding.queue != queue || binding.pattern != pattern);
        }
    }

    /// Bindings go with their queue.
    pub(super) fn forget_queue(&mut self, queue: &str) {
        for bindings in self.0.values_mut() {
            bindings.retain(|binding| binding.queue != queue);
        }
    }

    /// The queues that a message with this routing key goes to, each once; `None`: there is no such exchange.
    pub(super) fn route(&self, exchange: &str, routing_key: &str) -> Option<BTreeSet<String>> {
        let wanted = |binding: &&Binding| matches(&binding.pattern, routing_key);
        Some(self.0.get(exchange)?.iter().filter(wanted).map(|binding| binding.queue.clone()).collect())
    }
}

/// Whether a routing key matches a pattern: both are words with dots between them; `*` stands for one word, `#` for any
/// number of them. Its steps are at most the number of words in the one times that in the other.
fn matches(pattern: &str, routing_key: &str) -> bool {
    let pattern = words(pattern);
    // Which numbers of the pattern's first words can stand for the key's words so far.
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    skip_hashes(&pattern, &mut reached);
    for word in words(routing_key) {
        let mut next = vec![false; pattern.len() + 1];
        for (at, expected) in pattern.iter().enumerate().filter(|(at, _)| reached[*at]) {
            match *expected {
                "#" => next[at] = true,
                "*" => next[at + 1] = true,
                literal => next[at + 1] |= literal == word,
            }
        }
        skip_hashes(&pattern, &mut next);
        reached = next;
    }
    reached[pattern.len()]
}

/// An empty text has no words.
fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}

/// `#` may stand for no word at all.
fn skip_hashes(pattern: &[&str], reached: &mut [bool]) {
    for (at, word) in pattern.iter().enumerate() {
        if reached[at] && *word == "#" {
            reached[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_patterns_as_in_rabbitmq() {
        for (pattern, key, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a.b", false),
            ("a.b", "a.b", true),
            ("*", "a", true),
            ("*", "", false),
            ("*", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("*.b", "a.b", true),
            ("#", "", true),
            ("#", "a.b.c", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("a.#", "b", false),
            ("#.c", "a.b.c", true),
            ("#.c", "c", true),
            ("#.c", "c.d", false),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.b.b.c", true),
            ("a.#.c.#.d", "a.c.x.c.d", true),
            ("#.*", "", false),
            ("#.*", "a", true),
            ("*.#.*", "a", false),
            ("*.#.*", "a.b", true),
            ("a*", "ab", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "'{pattern}' and '{key}'");
        }
    }

    #[test]
    fn a_message_goes_once_to_each_queue_that_wants_it() {
        let mut exchanges = Exchanges::default();
        assert!(!exchanges.bind("q", "orders", "#"));
        assert_eq!(exchanges.route("orders", "a"), None);
        exchanges.declare("orders");
        for (queue, pattern) in [("all", "#"), ("all", "a"), ("a", "a.#"), ("b", "b")] {
            assert!(exchanges.bind(queue, "orders", pattern));
        }
        let routed = |exchanges: &Exchanges, key| {
            exchanges.route("orders", key).unwrap().into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(routed(&exchanges, "a"), "a all");
        assert_eq!(routed(&exchanges, "c"), "all");
        exchanges.unbind("all", "orders", "#");
        assert_eq!(routed(&exchanges, "a.x"), "a");
        exchanges.forget_queue("a");
        assert_eq!(routed(&exchanges, "a.x"), "");
    }
}
