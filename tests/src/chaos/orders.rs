//! The orders: a workflow with a retry, two branches and a wait, started at a steady pace, and what must become of
//! each.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use stagepost_server::{ApiClient, CallError, HistoryEvent};
use tokio::task::JoinSet;

use crate::orders::{check_history, kinds};

const MACHINE: &str = "chaos-order";
/// So many starts may be under way.
const STARTING_MAX: usize = 64;
/// A server that is hung is asked no longer than this.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// Steps of an order that are activities.
const STEPS: i64 = 5;

/// Whatever ended an attempt that is not the order's own fault: it is tried again, for as long as faults may last.
fn step(activity: &str, result: &str, next: Option<&str>) -> Value {
    let mut state = json!({
        "Type": "Task",
        "Resource": format!("arn:aws:states:::activity:{activity}"),
        "ResultPath": format!("$.{result}"),
        "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 50, "BackoffRate": 1}],
    });
    match next {
        Some(next) => state["Next"] = next.into(),
        None => state["End"] = true.into(),
    }
    state
}

/// The definition.
pub(super) fn definition() -> Value {
    json!({
        "StartAt": "Reserve",
        "States": {
            "Reserve": step("reserve", "reserved", Some("Charge")),
            "Charge": step("charge", "charged", Some("Prepare")),
            "Prepare": {
                "Type": "Parallel",
                "Branches": [
                    {"StartAt": "Pack", "States": {"Pack": step("pack", "worth", None)}},
                    {"StartAt": "Invoice", "States": {"Invoice": step("invoice", "worth", None)}},
                ],
                "ResultPath": "$.prepared",
                "Next": "Collect",
            },
            "Collect": {"Type": "Wait", "Seconds": 1, "Next": "Ship"},
            "Ship": step("ship", "shipped", None),
        },
    })
}

fn input(n: u64) -> Value {
    // Every tenth is packed for longer than it takes to be announced as started.
    json!({"n": n, "fails": n % 3 / 2, "pack_millis": if n.is_multiple_of(10) { 2500 } else { 30 }})
}

/// Starts that were asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Started {
    pub(super) accepted: u64,
    /// How often a start had to be asked for again.
    pub(super) asked_again: u64,
}

/// Deploys the definition.
pub(super) async fn deploy(api: &ApiClient) {
    api.deploy(MACHINE, &definition().to_string()).await.expect("the definition is good");
}

/// Starts orders at a steady pace for some time, at whichever server answers; each is asked for until it is accepted.
pub(super) async fn start(apis: &Arc<[ApiClient]>, every: Duration, during: Duration) -> Started {
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (began, mut starting, mut started) = (Instant::now(), JoinSet::new(), Started::default());
    let mut count = |again: Result<u64, _>| {
        started.accepted += 1;
        started.asked_again += again.expect("a start does not panic");
    };
    let mut n = 0;
    while began.elapsed() < during {
        pace.tick().await;
        if starting.len() >= STARTING_MAX
            && let Some(again) = starting.join_next().await
        {
            count(again);
        }
        starting.spawn(start_one(Arc::clone(apis), n));
        n += 1;
    }
    while let Some(again) = starting.join_next().await {
        count(again);
    }
    started
}

/// Gives how often it had to be asked for again.
async fn start_one(apis: Arc<[ApiClient]>, n: u64) -> u64 {
    let (name, input) = (format!("order-{n}"), input(n).to_string());
    let machine = apis[0].state_machine_arn(MACHINE).expect("that is a name");
    let mut again = 0;
    loop {
        let turn = usize::try_from(n + again).expect("small") % apis.len();
        let starting = apis[turn].start(&machine, &input, Some(&name));
        match tokio::time::timeout(ANSWER_MAX, starting).await {
            Ok(Ok(_)) => return again,
            // An earlier answer was lost, and it has ended since.
            Ok(Err(CallError::Refused { code, .. })) if again > 0 && code == "ExecutionAlreadyExists" => {
                return again;
            }
            Ok(Err(CallError::Refused { code, message })) => panic!("{name} is refused: {code}: {message}"),
            Ok(Err(_)) | Err(_) => {}
        }
        again += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// How many have not ended; `None` if nobody tells.
pub(super) async fn running(api: &ApiClient) -> Option<usize> {
    let machine = api.state_machine_arn(MACHINE).expect("that is a name");
    let request = json!({"stateMachineArn": machine, "statusFilter": "RUNNING", "maxResults": 1000});
    let listing = api.pages("ListExecutions", request, "executions", 100_000);
    Some(tokio::time::timeout(ANSWER_MAX, listing).await.ok()?.ok()?.len())
}

/// What is wrong with orders `0..count`, and how often attempts had to be tried again, by error.
pub(super) async fn check(api: &ApiClient, count: u64) -> (Vec<String>, BTreeMap<String, u64>) {
    let checks = stream::iter(0..count).map(|n| check_one(api, n)).buffer_unordered(16);
    let (mut wrong, mut retried) = (Vec::new(), BTreeMap::new());
    let mut checks = std::pin::pin!(checks);
    while let Some(checked) = checks.next().await {
        match checked {
            Ok(errors) => errors.into_iter().for_each(|error| *retried.entry(error).or_default() += 1),
            Err(what) => wrong.push(what),
        }
    }
    (wrong, retried)
}

/// The errors of its failed attempts, or what is wrong with it.
async fn check_one(api: &ApiClient, n: u64) -> Result<Vec<String>, String> {
    let id = format!("order-{n}");
    let execution = api.state_machine_arn(MACHINE).expect("that is a name").execution(&id);
    let ended = api.describe(&execution).await.map_err(|error| format!("{id} is lost: {error}"))?;
    let events = api.history(&execution).await.map_err(|error| format!("{id} has no history: {error}"))?;
    let told = |what: String| format!("{id} {what}: {}", kinds(&events).join(" "));
    if ended.status.as_str() != "SUCCEEDED" {
        return Err(told(format!("is {}", ended.status.as_str())));
    }
    check_history(&events).map_err(told)?;
    let output: Value = serde_json::from_str(ended.output.as_deref().unwrap_or_default())
        .map_err(|error| told(format!("has no output ({error})")))?;
    let worths = [
        &output["reserved"],
        &output["charged"],
        &output["prepared"][0]["worth"],
        &output["prepared"][1]["worth"],
        &output["shipped"],
    ];
    let sum: u64 = worths.iter().filter_map(|worth| worth["cents"].as_u64()).sum();
    if sum != 18 * n {
        return Err(told(format!("is worth {sum}, not {}", 18 * n)));
    }
    let failed =
        events.iter().filter(|event| matches!(event.kind.as_str(), "ActivityFailed" | "ActivityTimedOut"));
    let error = |event: &HistoryEvent| event.details.get("error").and_then(Value::as_str).map(str::to_owned);
    Ok(failed.map(|event| error(event).unwrap_or_else(|| "an error without a name".into())).collect())
}

/// How many steps so many orders have.
pub(super) fn steps(orders: u64) -> i64 {
    i64::try_from(orders).expect("orders are few") * STEPS
}
