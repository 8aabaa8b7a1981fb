//! The examples in full, as their users run them.

use serde_json::{Value, json};
use stagepost_server::HistoryEvent;
use stagepost_tests::{
    Process, Queues, Servers, Site,
    binaries::{APPROVAL, JOB_POLLER, ORDER_FULFILMENT},
    orders,
};

use crate::{PATIENCE, ended, reaches};

/// The states that were entered, in the order in which a single path has them.
fn entered(events: &[HistoryEvent]) -> Vec<&str> {
    events
        .iter()
        .filter(|event| event.kind.ends_with("StateEntered"))
        .filter_map(|event| event.text("name"))
        .collect()
}

/// Runs `stagepost` and returns the JSON that it prints.
async fn cli(site: &Site, arguments: &[&str]) -> Value {
    let ended = site.cli(arguments).await;
    let (stdout, stderr) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{arguments:?}: {}\n{stdout}\n{stderr}", ended.status);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{stdout}"))
}

async fn deploy(site: &Site) {
    let file = orders::definition_file();
    cli(site, &["deploy", file.to_str().unwrap(), "--name", orders::MACHINE, "--json"]).await;
}

/// Starts an order with `start --wait` where nobody has to answer: exit code 0, and the states pass by.
async fn small_order(site: &Site) {
    let input = orders::example("small");
    let ended = site.cli(&["start", orders::MACHINE, "--input", &input, "--name", "small", "--wait"]).await;
    let shown = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{shown}");
    for state in ["CheckStock", "ChargePayment", "Pick", "WriteInvoice", "Dispatch", "Fulfilled"] {
        assert!(shown.contains(state), "{state} was not shown:\n{shown}");
    }
    assert!(shown.contains("track-web-1001"), "{shown}");
}

async fn undeliverable_order(site: &Site) {
    let machine = site.api.state_machine_arn(orders::MACHINE).unwrap();
    let input = orders::example("undeliverable");
    let execution = site.api.start(&machine, &input, Some("undeliverable")).await.unwrap();
    let ended = ended(&site.api, &execution).await;
    let output: Value = serde_json::from_str(&ended.output.unwrap()).unwrap();
    assert_eq!(output["status"], "refunded");
    assert_eq!(output["refund_id"], "refund-web-1003");
    let events = site.api.history(&execution).await.unwrap();
    orders::check_history(&events).unwrap();
    let path = entered(&events);
    // The saga undoes in the opposite order what was done.
    assert!(path.ends_with(&["Dispatch", "RefundPayment", "RestockAfterRefund", "Refunded"]), "{path:?}");
}

/// Starts the large order and returns the token that the person is given.
async fn large_order(site: &Site, name: &str) -> stagepost_protocol::ExecutionArn {
    let machine = site.api.state_machine_arn(orders::MACHINE).unwrap();
    let mut order: Value = serde_json::from_str(&orders::example("large")).unwrap();
    order["order_id"] = name.into();
    let execution = site.api.start(&machine, &order.to_string(), Some(name)).await.unwrap();
    reaches(&site.api, &execution, "TaskSubmitted").await;
    assert_eq!(site.api.describe(&execution).await.unwrap().status.as_str(), "RUNNING");
    execution
}

/// The token in the question about an order; questions of other runs are skipped.
async fn question(queues: &mut Queues, order_id: &str) -> String {
    loop {
        let question = queues.taken(orders::APPROVALS, PATIENCE).await.json();
        if question["order_id"] == order_id {
            assert_eq!(question["customer"], "Charles Babbage");
            return question["taskToken"].as_str().unwrap().to_owned();
        }
    }
}

async fn large_order_ends(site: &Site, execution: &stagepost_protocol::ExecutionArn, last: &[&str]) {
    let ended = ended(&site.api, execution).await;
    let events = site.api.history(execution).await.unwrap();
    orders::check_history(&events).unwrap();
    assert_eq!(ended.status.as_str(), "SUCCEEDED", "{ended:#?}");
    let path = entered(&events);
    assert!(path.ends_with(last), "{path:?}");
    // The gateway was away at the first attempt.
    let kinds = orders::kinds(&events);
    assert_eq!(kinds.iter().filter(|kind| **kind == "ActivityFailed").count(), 1, "{kinds:?}");
}

fn worker(site: &Site) -> Process {
    site.worker(ORDER_FULFILMENT)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_run_on_rabbitmq_and_postgresql_with_processes_of_their_own() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, _worker) = (site.start().await, worker(&site));
    deploy(&site).await;
    small_order(&site).await;
    undeliverable_order(&site).await;

    let mut queues = servers.queues().await;
    let approved = large_order(&site, &format!("{}-a", servers.prefix)).await;
    let declined = large_order(&site, &format!("{}-d", servers.prefix)).await;
    // One is answered on the command line, the other by a message.
    let token = question(&mut queues, &approved.name).await;
    cli(&site, &["send-success", &token, "--output", r#"{"approved": true}"#, "--json"]).await;
    large_order_ends(&site, &approved, &["AskForApproval", "IsApproved", "Dispatch", "Fulfilled"]).await;
    let token = question(&mut queues, &declined.name).await;
    let answer = json!({"taskToken": token, "output": {"approved": false}}).to_string();
    queues.publish(&servers.queue("callbacks"), answer.as_bytes(), Default::default()).await;
    let undone = ["IsApproved", "RefundPayment", "RestockAfterRefund", "Refunded"];
    large_order_ends(&site, &declined, &undone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_run_on_the_embedded_default_with_a_worker_that_polls() {
    let site = Site::embedded();
    let (_server, _worker) = (site.start().await, worker(&site));
    deploy(&site).await;
    small_order(&site).await;
    undeliverable_order(&site).await;

    let execution = large_order(&site, "large").await;
    // The in-process broker has no door for others: the token stands in the history.
    let events = site.api.history(&execution).await.unwrap();
    let scheduled = events.iter().find(|event| event.kind == "TaskScheduled").unwrap();
    let parameters: Value = serde_json::from_str(scheduled.text("parameters").unwrap()).unwrap();
    let token = parameters["MessageBody"]["taskToken"].as_str().unwrap();
    cli(&site, &["send-success", token, "--output", r#"{"approved": true}"#, "--json"]).await;
    large_order_ends(&site, &execution, &["AskForApproval", "IsApproved", "Dispatch", "Fulfilled"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_example_alone_runs_its_orders_and_exits_0() {
    let site = Site::embedded();
    let mut alone = Process::start("order-fulfilment", site.command(ORDER_FULFILMENT));
    let status = alone.ended(PATIENCE).await;
    let output = alone.output();
    assert!(status.success(), "{status}\n{output}");
    for shown in
        ["CheckStock", "AskForApproval", "RefundPayment", "\"fulfilled\"", "\"refunded\"", "3 orders done"]
    {
        assert!(output.contains(shown), "'{shown}' was not shown:\n{output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_example_alone_waits_for_its_job_and_exits_0() {
    let site = Site::embedded();
    let mut alone = Process::start("job-poller", site.command(JOB_POLLER));
    let status = alone.ended(PATIENCE).await;
    let output = alone.output();
    assert!(status.success() && output.contains("succeeded"), "{status}\n{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_approval_example_alone_decides_its_claims_and_exits_0() {
    let site = Site::embedded();
    let mut alone = Process::start("approval", site.command(APPROVAL));
    let status = alone.ended(PATIENCE).await;
    let output = alone.output();
    assert!(status.success(), "{status}\n{output}");
    for shown in [
        "AskManager",
        "NobodyAnswered",
        r#"{"status":"paid","cents":4200,"by":"lead"}"#,
        r#"{"status":"paid","cents":150000,"by":"manager"}"#,
        r#""rejection":{"By":"lead","Comment":"not on the company"}"#,
        "nobody answered",
        "TIMED_OUT",
        "4 claims done",
    ] {
        assert!(output.contains(shown), "'{shown}' was not shown:\n{output}");
    }
}
