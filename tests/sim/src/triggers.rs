//! Producers that know nothing of Stagepost, and triggers that start an execution for each of their messages: good ones,
//! some of which come twice, and some that nothing can be started with.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use stagepost_coordinator::triggers::{Source, Status, StoredTrigger, Trigger};
use stagepost_protocol::{DeadLetter, DeadReason, Namespace, Properties, topology::Topology};
use tokio::time::Instant;

use crate::{
    check, clients,
    rng::Rng,
    store::tables::Tables,
    workflow::{self, Simple},
    world::World,
};

/// Messages come within this time.
const MESSAGES_WITHIN: Duration = Duration::from_secs(40);
/// How long it takes until somebody does the next thing with a trigger, at most.
const OPERATOR_AFTER: Duration = Duration::from_secs(10);
/// How often a producer looks whether its queue is there.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A producer, and the trigger on its messages.
pub(crate) struct Producer {
    trigger: StoredTrigger,
    machine: Simple,
    messages: Vec<Posted>,
}

/// A message. No other one of its producer has the same body.
struct Posted {
    id: Option<String>,
    body: String,
    copies: usize,
    fate: Fate,
}

/// What must become of a message.
enum Fate {
    /// It starts an execution with this input, and of this name, or of any.
    Starts { input: Value, name: Option<String> },
    /// It is a dead letter.
    Dies(DeadReason),
}

/// Makes up producers, or none.
pub(crate) fn draw(world: &World) -> Vec<Arc<Producer>> {
    // What a broker loses that it had confirmed starts nothing.
    if !world.broker_keeps() || !world.rng.one_in(2) {
        return Vec::new();
    }
    (0..1 + world.rng.below(2)).map(|n| Arc::new(Producer::draw(world, n))).collect()
}

impl Producer {
    fn draw(world: &World, n: u64) -> Producer {
        let rng = &world.rng;
        let machine = workflow::simple(rng, format!("orders{n}"));
        let mut trigger = Trigger::on_queue(&format!("web-orders-{n}"), workflow::arn(&machine.name));
        trigger.prefetch = prefetch(rng);
        if rng.one_in(4) {
            trigger.source =
                Source::Exchange { exchange: "shop".to_owned(), routing_key: format!("order.{n}") };
        }
        let mapping = rng.one_of(&[
            None,
            Some(r#"{"input": body.n}"#),
            Some(r#"{"input": body.n, "name": "order-" & body.n}"#),
        ]);
        trigger.mapping = mapping.map(str::to_owned);
        let messages = (0..1 + rng.below(30)).map(|n| message(rng, &trigger, n)).collect();
        let trigger = StoredTrigger::new(Namespace::default(), trigger, world.now());
        Producer { trigger, machine, messages }
    }

    /// The queue that the trigger takes its messages from.
    pub(crate) fn queue(&self) -> String {
        self.trigger.queue(&Topology::default())
    }

    /// Puts the messages on their queue, one after the other.
    pub(crate) async fn produce(self: Arc<Producer>, world: Arc<World>) {
        let began = Instant::now();
        let copies = self.messages.iter().flat_map(|message| (0..message.copies).map(move |_| message));
        let mut posts: Vec<_> = copies.map(|message| (world.up_to(MESSAGES_WITHIN), message)).collect();
        posts.sort_by_key(|(at, _)| *at);
        for (at, message) in posts {
            tokio::time::sleep_until(began + at).await;
            let queue = self.destination(&world).await;
            let properties = Properties { message_id: message.id.clone(), ..Properties::default() };
            clients::post(&world, queue, message.body.clone(), properties).await;
        }
    }

    /// Where the producer's messages go to, as soon as that is known.
    async fn destination(&self, world: &World) -> String {
        let Source::Exchange { exchange, routing_key } = &self.trigger.trigger.source else {
            return self.queue();
        };
        loop {
            let bound = world.broker().bound(exchange, routing_key).unwrap_or_default();
            match bound.into_iter().next() {
                Some(queue) => return queue,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Creates the trigger and its state machine, and changes and pauses it some times.
    pub(crate) async fn operate(self: Arc<Producer>, world: Arc<World>) {
        let mut stored = self.trigger.clone();
        let late = world.rng.one_in(3);
        if !late {
            self.machine.create(&world);
        }
        tokio::time::sleep(world.up_to(OPERATOR_AFTER)).await;
        put(&world, &mut stored);
        if late {
            tokio::time::sleep(world.up_to(OPERATOR_AFTER)).await;
            self.machine.create(&world);
        }
        for _ in 0..world.rng.below(3) {
            tokio::time::sleep(world.up_to(OPERATOR_AFTER)).await;
            stored.set_status(Status::Paused, None, world.now());
            put(&world, &mut stored);
            tokio::time::sleep(world.up_to(OPERATOR_AFTER)).await;
            stored.trigger.prefetch = prefetch(&world.rng);
            stored.set_status(Status::Active, None, world.now());
            put(&world, &mut stored);
        }
    }

    /// Checks that each message came to what it must: a good one has started one execution, however often it came; a bad
    /// one is a dead letter.
    pub(crate) fn check(&self, world: &World, tables: &Tables, letters: &[DeadLetter]) -> Result<(), String> {
        let (queue, machine) = (self.queue(), workflow::arn(&self.machine.name));
        let mut started: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in tables.executions.values().filter(|row| row.summary.state_machine == machine) {
            check::succeeded(&row.summary, &self.machine.output(&row.summary.input.to_value()))?;
            started
                .entry(row.summary.input.as_str().to_owned())
                .or_default()
                .push(row.summary.arn.name.clone());
        }
        let mut dead: BTreeMap<&[u8], Vec<DeadReason>> = BTreeMap::new();
        for letter in letters.iter().filter(|letter| letter.source.as_ref() == Some(&queue)) {
            dead.entry(&letter.body).or_default().push(letter.kind);
        }
        // Whoever is interrupted before a message is acknowledged leaves it to the next one.
        let once = !world.faults.interrupt();
        for message in &self.messages {
            let (right, came_to) = match &message.fate {
                Fate::Starts { input, name } => {
                    let names = started.remove(&input.to_string()).unwrap_or_default();
                    let right = match name {
                        Some(name) => names == [name.clone()],
                        None => names.len() == 1 || (!names.is_empty() && !once),
                    };
                    (right, format!("executions named {names:?}"))
                }
                Fate::Dies(reason) => {
                    let reasons = dead.remove(message.body.as_bytes()).unwrap_or_default();
                    let right = reasons.iter().all(|is| is == reason)
                        && (reasons.len() == 1 || (!reasons.is_empty() && !once));
                    (right, format!("dead letters {reasons:?}"))
                }
            };
            if !right {
                let Posted { id, body, copies, .. } = message;
                return Err(format!(
                    "{copies} copies of the message {id:?} {body} on {queue} came to {came_to}"
                ));
            }
        }
        match (started.pop_first(), dead.pop_first()) {
            (None, None) => Ok(()),
            (started, dead) => Err(format!("from no message of {queue} came {started:?} {dead:?}")),
        }
    }
}

fn prefetch(rng: &Rng) -> u16 {
    rng.one_of(&[1, 3, 64])
}

fn message(rng: &Rng, trigger: &Trigger, n: u64) -> Posted {
    let mapping = trigger.mapping.as_deref();
    if rng.one_in(6) {
        let (body, reason) = match mapping {
            Some(_) if rng.one_in(2) => (json!({ "poison": n }).to_string(), DeadReason::Mapping),
            _ => (format!("poison {n}"), DeadReason::NotJson),
        };
        return Posted { id: None, body, copies: 1, fate: Fate::Dies(reason) };
    }
    let id = (!rng.one_in(4)).then(|| format!("message-{n}"));
    let body = if mapping.is_some() { json!({ "n": n }) } else { json!(n) };
    let named = mapping.is_some_and(|mapping| mapping.contains("name"));
    let name = if named { Some(format!("order-{n}")) } else { id.clone() };
    let copies = if name.is_some() { 1 + rng.index(2) } else { 1 };
    Posted { id, body: body.to_string(), copies, fate: Fate::Starts { input: json!(n), name } }
}

/// Stores a trigger as nobody but us has changed it since.
fn put(world: &World, stored: &mut StoredTrigger) {
    let fits = world.tables().put_record(stored.to_record());
    if !fits {
        return world.violate(format!("the trigger {} was changed by somebody else", stored.trigger.name));
    }
    stored.version += 1;
    world.note("operator", format!("makes the trigger {} {}", stored.trigger.name, stored.status.as_str()));
}
