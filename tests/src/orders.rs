//! The order example as tests use it: its definition, many orders, and what must become of each.

use std::{path::PathBuf, time::Duration};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use stagepost_server::{ApiClient, CallError, ExecutionDescription, HistoryEvent};

use crate::until;

/// The name that it is deployed under.
pub const MACHINE: &str = "order-fulfilment";

/// The queue on which a person is asked to approve large orders.
pub const APPROVALS: &str = "order-approvals";

/// What its worker does.
pub const ACTIVITIES: [&str; 8] = [
    "check_stock",
    "charge_payment",
    "pick",
    "pack",
    "write_invoice",
    "dispatch",
    "refund_payment",
    "release_stock",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/order_fulfilment")
}

/// Where the definition is.
pub fn definition_file() -> PathBuf {
    folder().join("definition.asl.json")
}

/// The definition.
pub fn definition() -> String {
    std::fs::read_to_string(definition_file()).expect("the example is there")
}

/// One of the example's orders: `small`, `large` or `undeliverable`.
pub fn example(name: &str) -> String {
    let path = folder().join("orders").join(format!("{name}.json"));
    std::fs::read_to_string(path).expect("the example's orders are there")
}

/// What becomes of an order of [`order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is paid at the first attempt, packed and sent.
    Fulfilled,
    /// Its payment fails once.
    FulfilledLater,
    /// Its address is unknown: the payment goes back.
    Refunded,
    /// An article is out of stock.
    Rejected,
}

/// The `n`th order: every fourth takes each of the ways.
pub fn order(n: usize) -> (String, Value, Fate) {
    let id = format!("order-{n}");
    let fate = [Fate::Fulfilled, Fate::FulfilledLater, Fate::Refunded, Fate::Rejected][n % 4];
    let order = json!({
        "order_id": id,
        "customer": "Ada Lovelace",
        "card": if fate == Fate::FulfilledLater { "flaky-4242" } else { "4242" },
        "address": if fate == Fate::Refunded { "unknown" } else { "12 St James's Square, London" },
        "items": [{
            "sku": if fate == Fate::Rejected { "phoenix-feather" } else { "tea" },
            "quantity": 1 + n % 5,
            "price_cents": 790
        }],
    });
    (id, order, fate)
}

/// Starts orders `from..to` by name, some at a time; a server that is away is asked again, as a client would.
pub async fn start(api: &ApiClient, range: std::ops::Range<usize>) {
    let machine = api.state_machine_arn(MACHINE).expect("that is a name");
    let starts = stream::iter(range).map(|n| {
        let machine = &machine;
        async move {
            let (id, order, _) = order(n);
            let order = order.to_string();
            let mut again = false;
            until(&format!("{id} is started"), Duration::from_secs(90), async || {
                match api.start(machine, &order, Some(&id)).await {
                    Ok(_) => Some(()),
                    // An earlier answer was lost, and it has ended since.
                    Err(error) if again && error.is("ExecutionAlreadyExists") => Some(()),
                    Err(CallError::Unreachable { .. } | CallError::Trouble { .. }) => {
                        again = true;
                        None
                    }
                    Err(error) => panic!("{id} is refused: {error}"),
                }
            })
            .await;
        }
    });
    starts.buffer_unordered(16).collect::<()>().await;
}

/// Waits until orders `0..count` have ended, each with its right result, and a history that makes sense.
pub async fn all_end_right(api: &ApiClient, count: usize, limit: Duration) {
    let machine = api.state_machine_arn(MACHINE).expect("that is a name");
    until(&format!("{count} orders have ended"), limit, async || {
        let request = json!({"stateMachineArn": machine, "statusFilter": "RUNNING", "maxResults": 1000});
        let running = api.pages("ListExecutions", request, "executions", 1000).await.ok()?;
        running.is_empty().then_some(())
    })
    .await;
    let checks = stream::iter(0..count).map(|n| {
        let machine = &machine;
        async move {
            let (id, _, fate) = order(n);
            let execution = machine.execution(&id);
            let ended = api.describe(&execution).await.unwrap_or_else(|error| panic!("{id}: {error}"));
            let events = api.history(&execution).await.unwrap_or_else(|error| panic!("{id}: {error}"));
            check(&id, fate, &ended, &events);
        }
    });
    checks.buffer_unordered(16).collect::<()>().await;
}

fn check(id: &str, fate: Fate, ended: &ExecutionDescription, events: &[HistoryEvent]) {
    let told = || format!("{id}: {ended:#?}\n{}", kinds(events).join(" "));
    assert_eq!(ended.status.as_str(), "SUCCEEDED", "{}", told());
    let output: Value =
        serde_json::from_str(ended.output.as_deref().unwrap_or_default()).expect("an output is JSON");
    let expected = match fate {
        Fate::Fulfilled | Fate::FulfilledLater => json!({
            "order_id": id,
            "status": "fulfilled",
            "charge_id": format!("charge-{id}"),
            "invoice": format!("invoice-{id}"),
            "tracking": format!("track-{id}"),
        }),
        Fate::Refunded => json!({
            "order_id": id,
            "status": "refunded",
            "charge_id": format!("charge-{id}"),
            "refund_id": format!("refund-{id}"),
        }),
        Fate::Rejected => json!({"order_id": id, "status": "rejected", "reason": "Warehouse.OutOfStock"}),
    };
    assert_eq!(output, expected, "{}", told());
    check_history(events).unwrap_or_else(|wrong| panic!("{wrong}\n{}", told()));
}

/// The types of events, in order.
pub fn kinds(events: &[HistoryEvent]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

/// What holds for the history of every execution that ended: ids without gaps, times in order, one start, one end,
/// each state left as often as entered, each attempt with at most one result.
///
/// # Errors
/// What does not hold.
pub fn check_history(events: &[HistoryEvent]) -> Result<(), String> {
    let count = |suffix: &str| events.iter().filter(|event| event.kind.ends_with(suffix)).count();
    if let Some((expected, event)) = (1..).zip(events).find(|(expected, event)| event.id != *expected) {
        return Err(format!("event {} stands where {expected} should", event.id));
    }
    if let Some(event) = events.iter().find(|event| event.previous_id >= event.id) {
        return Err(format!("event {} follows from the later {}", event.id, event.previous_id));
    }
    if !events.is_sorted_by_key(|event| event.at) {
        return Err("its times are not in order".into());
    }
    if count("ExecutionStarted") != 1 || events.iter().filter(|event| event.is_last()).count() != 1 {
        return Err("it has not one start and one end".into());
    }
    if !events.last().is_some_and(HistoryEvent::is_last) {
        return Err("it goes on after its end".into());
    }
    let (entered, left) = (count("StateEntered"), count("StateExited") + count("StateAborted"));
    if events.last().is_some_and(|end| end.kind == "ExecutionSucceeded") && entered != left {
        return Err(format!("{entered} states were entered and {left} left"));
    }
    let results = ["ActivitySucceeded", "ActivityFailed", "ActivityTimedOut"];
    let ended = events.iter().filter(|event| results.contains(&event.kind.as_str())).count();
    if ended > count("ActivityScheduled") {
        return Err(format!("{ended} results for {} attempts", count("ActivityScheduled")));
    }
    Ok(())
}
