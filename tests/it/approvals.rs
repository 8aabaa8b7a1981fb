//! People answer, by all ways, also after a crash in between.

use serde_json::{Value, json};
use stagepost_protocol::ExecutionArn;
use stagepost_tests::{Servers, Site};

use crate::{PATIENCE, ended, output, reaches};

/// Where the definition's message goes.
fn mail(site: &Site) -> String {
    format!("mail-{}", site.api.endpoint().rsplit(':').next().unwrap())
}

fn definition(site: &Site) -> String {
    json!({
        "StartAt": "Ask",
        "States": {
            "Ask": {
                "Type": "Task",
                "Resource": "arn:aws:states:::stagepost:requestApproval.waitForTaskToken",
                "Parameters": {
                    "Title.$": "States.Format('Pay for {}?', $.what)", "Details.$": "$", "Approvers": ["ada"],
                    "Notify": { "QueueUrl": mail(site) }
                },
                "TimeoutSeconds": 600,
                "Catch": [{ "ErrorEquals": ["Approval.Rejected"], "Next": "No" }],
                "End": true
            },
            "No": { "Type": "Pass", "End": true }
        }
    })
    .to_string()
}

/// Runs `stagepost approvals` and gives its exit code and what it printed.
async fn approvals(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let ended = site.cli(&[&["approvals"], arguments].concat()).await;
    let text = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    (ended.status.code(), text.into_owned())
}

/// The approval that an execution asks for, found as people find it.
async fn asked_by(site: &Site, execution: &ExecutionArn) -> String {
    let ended = site.cli(&["approvals", "list", "--for", "ada", "--max", "1000", "--json"]).await;
    let listed: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let found = listed.as_array().unwrap().iter().find(|a| a["executionArn"] == execution.to_string());
    found.unwrap_or_else(|| panic!("{execution} asks for nothing: {listed}"))["approvalId"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn history(site: &Site, id: &str) -> Value {
    let approval = site.api.call_own("DescribeApproval", &json!({ "approvalId": id })).await.unwrap();
    approval["history"].clone()
}

/// Starts executions that ask, kills the server while they wait, and starts it again.
async fn asked(site: &Site, whats: &[&str]) -> (stagepost_tests::Process, Vec<(ExecutionArn, String)>) {
    let mut server = site.start().await;
    let machine = site.api.deploy("asks", &definition(site)).await.unwrap();
    let mut executions = Vec::new();
    for what in whats {
        let input = json!({ "what": what }).to_string();
        executions.push(site.api.start(&machine, &input, None).await.unwrap());
    }
    for execution in &executions {
        reaches(&site.api, execution, "TaskSubmitted").await;
    }
    server.kill();
    let server = site.start().await;
    let mut all = Vec::new();
    for execution in executions {
        let id = asked_by(site, &execution).await;
        all.push((execution, id));
    }
    (server, all)
}

/// By the command line, several at a time, and by a link.
async fn people_answer(site: &Site, all: &[(ExecutionArn, String)]) {
    let [(tea, tea_id), (cake, cake_id), (party, party_id), (car, car_id), ..] = all else { panic!() };
    let unknown = "07070707070707070707070707070707-5";
    let answer = ["approve", tea_id, unknown, cake_id, "--by", "ada", "--comment", "fine"];
    let (code, text) = approvals(site, &answer).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains(&format!("{unknown}: Approval Does Not Exist")), "{text}");
    for (execution, id) in [(tea, tea_id), (cake, cake_id)] {
        assert!(text.contains(&format!("{id} is approved")), "{text}");
        let output = output(&ended(&site.api, execution).await);
        assert_eq!((&output["By"], &output["Comment"]), (&json!("ada"), &json!("fine")));
        assert_eq!(history(site, id).await[1]["via"], "cli");
    }
    let (code, text) = approvals(site, &["approve", tea_id, "--by", "bob"]).await;
    assert!(code == Some(3) && text.contains("was approved by ada"), "{code:?} {text}");

    let (_, text) = approvals(site, &["delegate", party_id, "--to", "bob", "--by", "ada"]).await;
    assert!(text.contains("asks bob now"), "{text}");
    let (code, text) = approvals(site, &["reject", party_id, "--by", "bob", "--comment", "no party"]).await;
    assert_eq!(code, Some(0), "{text}");
    let rejected = output(&ended(&site.api, party).await);
    assert!(rejected["Cause"].as_str().unwrap().contains("no party"), "{rejected}");
    let (_, text) = approvals(site, &["show", party_id]).await;
    assert!(
        text.contains("DELEGATED by ada via cli → bob") && text.contains("REJECTED by bob via cli: no party"),
        "{text}"
    );

    let link = site.cli(&["approvals", "link", car_id, "--for", "eve", "--expires", "1h"]).await;
    let link = String::from_utf8(link.stdout).unwrap();
    let path = link.trim().strip_prefix(site.api.endpoint()).unwrap_or_else(|| panic!("{link}"));
    for _ in 0..2 {
        let page = site.get(path).await.unwrap();
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("Pay for car?"), "{page}");
    }
    in_a_browser(link.trim(), "Pay for car?").await;
    assert_eq!(history(site, car_id).await.as_array().unwrap().len(), 1);
    let done = site.post(path, "decision=approve").await.unwrap();
    assert!(done.starts_with("HTTP/1.1 303"), "{done}");
    assert_eq!(output(&ended(&site.api, car).await)["By"], "eve");
    assert!(site.get(path).await.unwrap().contains("was approved by eve"));
    in_a_browser(link.trim(), "was approved by eve").await;
}

/// Looks at a page with Chromium where there is one.
async fn in_a_browser(url: &str, shows: &str) {
    let arguments =
        ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom", url];
    let mut chromium = std::process::Command::new("chromium");
    chromium.args(arguments);
    let shown = tokio::task::spawn_blocking(move || chromium.output()).await.unwrap();
    // Not every machine has it.
    let Ok(shown) = shown else { return };
    let page = String::from_utf8_lossy(&shown.stdout);
    assert!(page.contains(shows), "{page}\n{}", String::from_utf8_lossy(&shown.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_answer_on_the_embedded_default() {
    let site = Site::embedded();
    let (_server, all) = asked(&site, &["tea", "cake", "party", "car"]).await;
    people_answer(&site, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_answer_on_rabbitmq_and_postgresql() {
    let Some(servers) = Servers::shared().await else { return };
    let site = Site::on(&servers);
    let (_server, all) = asked(&site, &["tea", "cake", "party", "car", "plane"]).await;
    people_answer(&site, &all).await;

    // A program that reads the messages answers by one.
    let (plane, id) = &all[4];
    let mut queues = servers.queues().await;
    let told = loop {
        let told = queues.taken(&mail(&site), PATIENCE).await.json();
        if told["approvalId"] == id.as_str() {
            break told;
        }
    };
    let begin = format!("{}/approvals/{id}?may=answer", site.api.endpoint());
    assert!(told["link"].as_str().unwrap().starts_with(&begin), "{told}");
    let answer = json!({ "taskToken": told["taskToken"], "output": { "seats": 2 }, "by": "the chat" });
    queues.publish(&servers.queue("callbacks"), answer.to_string().as_bytes(), Default::default()).await;
    assert_eq!(output(&ended(&site.api, plane).await), json!({ "seats": 2 }));
    let history = history(&site, id).await;
    assert_eq!((&history[1]["by"], &history[1]["via"]), (&json!("the chat"), &json!("message")));
    queues.delete(&mail(&site)).await;
}
