//! Tasks for people, over a real coordinator: whatever ends one closes its record.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use serde_json::{Value, json};
use stagepost_protocol::approval::{ApprovalId, Link, LinkScope};

use super::{
    ROLE, Server,
    whole::{ended, whole},
};

const RESOURCE: &str = "arn:aws:states:::stagepost:requestApproval.waitForTaskToken";

/// A machine that asks, and tells a rejection from an approval.
fn asks(parameters: &Value, more: &Value) -> String {
    let mut ask = json!({
        "Type": "Task", "Resource": RESOURCE, "Parameters": parameters, "End": true,
        "Catch": [{ "ErrorEquals": ["Approval.Rejected"], "Next": "No" }]
    });
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "StartAt": "Ask", "States": { "Ask": ask, "No": { "Type": "Pass", "End": true } } }).to_string()
}

fn plain() -> Value {
    json!({ "Title": "Pay <b>500</b>?", "Details": { "cents": 50_000 }, "Approvers": ["ada", "leads"] })
}

async fn start(s: &Server, definition: &str) -> Value {
    let name = uuid::Uuid::new_v4().to_string();
    let created = json!({ "name": name, "definition": definition, "roleArn": ROLE });
    let machine = s.ok("CreateStateMachine", created).await["stateMachineArn"].clone();
    s.ok("StartExecution", json!({ "stateMachineArn": machine })).await["executionArn"].clone()
}

/// The ids of the approvals that stand so.
async fn listed(s: &Server, query: Value) -> Vec<String> {
    let (_, ids) = s.pages("Stagepost.ListApprovals", "approvals", "approvalId", query).await;
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Starts an execution and returns it with the approval that it asks for.
async fn asked(s: &Server, definition: &str) -> (Value, String) {
    let before = listed(s, json!({})).await;
    let execution = start(s, definition).await;
    // A start is answered after the commit, and the record is part of it.
    let mut new = listed(s, json!({ "status": "OPEN" })).await;
    new.retain(|id| !before.contains(id));
    assert_eq!(new.len(), 1, "{new:?}");
    (execution, new.remove(0))
}

async fn describe(s: &Server, id: &str) -> Value {
    s.ok("Stagepost.DescribeApproval", json!({ "approvalId": id })).await
}

/// Waits until an approval is closed: what follows from a deadline comes by itself.
async fn closed(s: &Server, id: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let approval = describe(s, id).await;
        if approval["status"] != "OPEN" {
            return approval;
        }
        assert!(Instant::now() < deadline, "{approval}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What happened to an approval, by type.
fn happened(approval: &Value) -> Vec<&str> {
    approval["history"].as_array().unwrap().iter().map(|entry| entry["type"].as_str().unwrap()).collect()
}

fn approve(id: &str, by: &str) -> Value {
    json!({ "approvalId": id, "decision": "APPROVE", "by": by })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_is_listed_described_and_answered_once() {
    let w = whole().await;
    let s = &w.server;
    let (execution, id) = asked(s, &asks(&plain(), &json!({ "TimeoutSeconds": 60 }))).await;
    let approval = describe(s, &id).await;
    assert_eq!((&approval["status"], &approval["title"]), (&json!("OPEN"), &json!("Pay <b>500</b>?")));
    assert_eq!((&approval["executionArn"], &approval["state"]), (&execution, &json!("Ask")));
    assert_eq!(approval["details"], r#"{"cents":50000}"#);
    assert_eq!(approval["approvers"], json!(["ada", "leads"]));
    assert!(
        (approval["deadline"].as_f64().unwrap() - approval["openedAt"].as_f64().unwrap() - 60.0).abs() < 1.0
    );

    let answer = json!({ "approvalId": id, "decision": "APPROVE", "by": "ada", "comment": "fine", "answer": "[1.50]", "via": "cli" });
    s.ok("Stagepost.AnswerApproval", answer).await;
    let ended = ended(s, &execution).await;
    let output: Value = serde_json::from_str(ended["output"].as_str().unwrap()).unwrap();
    assert_eq!((&output["By"], &output["Comment"]), (&json!("ada"), &json!("fine")));
    // Digits stay as they were typed.
    assert!(ended["output"].as_str().unwrap().contains(r#""Answer":[1.50]"#), "{ended}");

    let approval = describe(s, &id).await;
    assert_eq!(happened(&approval), ["OPENED", "APPROVED"]);
    let last = &approval["history"][1];
    assert_eq!((&last["by"], &last["via"], &last["comment"]), (&json!("ada"), &json!("cli"), &json!("fine")));
    let (code, message) = s.call("Stagepost.AnswerApproval", approve(&id, "bob")).await.unwrap_err();
    assert_eq!(code, "ApprovalClosed");
    assert!(message.contains("was approved by ada at 20"), "{message}");
    assert_eq!(describe(s, &id).await, approval);
    assert_eq!(listed(s, json!({ "status": "OPEN" })).await, Vec::<String>::new());
    assert_eq!(listed(s, json!({ "status": "APPROVED", "maxResults": 1 })).await, [id]);
    w.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_fails_the_task_with_who_and_why() {
    let w = whole().await;
    let s = &w.server;
    let (execution, id) = asked(s, &asks(&plain(), &json!({}))).await;
    let reject = json!({ "approvalId": id, "decision": "REJECT", "by": "ada", "comment": "too \"dear\"" });
    s.ok("Stagepost.AnswerApproval", reject).await;
    let ended = ended(s, &execution).await;
    let output: Value = serde_json::from_str(ended["output"].as_str().unwrap()).unwrap();
    assert_eq!(output["Error"], "Approval.Rejected");
    let cause: Value = serde_json::from_str(output["Cause"].as_str().unwrap()).unwrap();
    assert_eq!((&cause["By"], &cause["Comment"]), (&json!("ada"), &json!("too \"dear\"")));
    let approval = describe(s, &id).await;
    assert_eq!(happened(&approval), ["OPENED", "REJECTED"]);
    w.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_must_be_what_was_asked_for() {
    let w = whole().await;
    let s = &w.server;
    let schema =
        json!({ "type": "object", "required": ["cents"], "properties": { "cents": { "type": "integer" } } });
    let (execution, id) =
        asked(s, &asks(&json!({ "Title": "How much?", "Schema": schema }), &json!({}))).await;
    for (answer, told) in [
        (None, "asks for an answer"),
        (Some(json!({ "cents": "5" })), "'/cents' must be of type integer"),
        (Some(json!({})), "'/cents' is missing"),
    ] {
        let mut request = approve(&id, "ada");
        if let Some(answer) = answer {
            request["answer"] = answer.to_string().into();
        }
        let (code, message) = s.call("Stagepost.AnswerApproval", request).await.unwrap_err();
        assert_eq!(code, "ValidationException");
        assert!(message.contains(told), "{message}");
    }
    assert_eq!(describe(s, &id).await["status"], "OPEN");
    let mut good = approve(&id, "ada");
    good["answer"] = r#"{"cents":5}"#.into();
    s.ok("Stagepost.AnswerApproval", good).await;
    assert!(ended(s, &execution).await["output"].as_str().unwrap().contains(r#""Answer":{"cents":5}"#));
    w.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_ends_the_task_closes_the_approval() {
    let w = whole().await;
    let s = &w.server;
    // Nobody answers in time.
    let (_, late) = asked(s, &asks(&plain(), &json!({ "TimeoutSeconds": 1 }))).await;
    // The execution is stopped.
    let (stopped, id) = asked(s, &asks(&plain(), &json!({}))).await;
    s.ok("StopExecution", json!({ "executionArn": stopped })).await;
    assert_eq!(happened(&describe(s, &id).await), ["OPENED", "CANCELLED"]);
    let (code, message) = s.call("Stagepost.AnswerApproval", approve(&id, "ada")).await.unwrap_err();
    assert!(code == "ApprovalClosed" && message.contains("was cancelled at"), "{code} {message}");
    // The execution is redriven: it asks anew.
    s.ok("RedriveExecution", json!({ "executionArn": stopped })).await;
    let again = listed(s, json!({ "status": "OPEN", "approver": "ada" })).await;
    assert_eq!(again.iter().filter(|open| **open != late).count(), 1, "{again:?}");
    assert_ne!(again, [id]);
    // Another branch fails first.
    let branch = |name: &str| {
        let ask =
            json!({ "Type": "Task", "Resource": RESOURCE, "Parameters": { "Title": name }, "End": true });
        json!({ "StartAt": name, "States": { name: ask } })
    };
    let both = json!({ "Type": "Parallel", "End": true, "Branches": [branch("Other"), branch("First")] });
    let definition = json!({ "StartAt": "Both", "States": { "Both": both } });
    let before = listed(s, json!({ "status": "OPEN" })).await;
    let execution = start(s, &definition.to_string()).await;
    let mut both = listed(s, json!({ "status": "OPEN" })).await;
    both.retain(|id| !before.contains(id));
    assert_eq!(both.len(), 2);
    let titles = [describe(s, &both[0]).await["title"].clone(), describe(s, &both[1]).await["title"].clone()];
    let first = usize::from(titles[1] == "First");
    s.ok("Stagepost.AnswerApproval", json!({ "approvalId": both[first], "decision": "REJECT", "by": "ada" }))
        .await;
    assert_eq!(happened(&describe(s, &both[1 - first]).await), ["OPENED", "CANCELLED"]);
    assert_eq!(ended(s, &execution).await["error"], "Approval.Rejected");

    let approval = closed(s, &late).await;
    assert_eq!(happened(&approval), ["OPENED", "TIMED_OUT"]);
    assert!(approval["history"][1].get("by").is_none());
    w.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delegation_changes_who_is_asked_and_is_kept() {
    let w = whole().await;
    let s = &w.server;
    let (_, id) = asked(s, &asks(&plain(), &json!({}))).await;
    let delegate = |to: &[&str]| json!({ "approvalId": id, "to": to, "by": "ada", "comment": "on leave" });
    s.ok("Stagepost.DelegateApproval", delegate(&["bob"])).await;
    let of = |name: &str| listed(s, json!({ "status": "OPEN", "approver": name }));
    assert_eq!((of("ada").await.len(), of("bob").await), (0, vec![id.clone()]));
    assert_eq!(s.code("Stagepost.DelegateApproval", delegate(&[])).await, "ValidationException");
    s.ok("Stagepost.AnswerApproval", approve(&id, "bob")).await;
    let approval = describe(s, &id).await;
    assert_eq!(happened(&approval), ["OPENED", "DELEGATED", "APPROVED"]);
    assert_eq!(
        (&approval["history"][1]["by"], &approval["history"][1]["to"]),
        (&json!("ada"), &json!(["bob"]))
    );
    assert_eq!(s.code("Stagepost.DelegateApproval", delegate(&["eve"])).await, "ApprovalClosed");
    w.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_about_nothing_say_so() {
    let w = whole().await;
    let s = &w.server;
    for id in ["x", "07070707070707070707070707070707-5"] {
        for operation in ["DescribeApproval", "CreateApprovalLink"] {
            let operation = format!("Stagepost.{operation}");
            assert_eq!(s.code(&operation, json!({ "approvalId": id })).await, "ApprovalDoesNotExist");
        }
        assert_eq!(s.code("Stagepost.AnswerApproval", approve(id, "ada")).await, "ApprovalDoesNotExist");
    }
    for (operation, wrong) in [
        ("AnswerApproval", json!({ "approvalId": "x" })),
        ("AnswerApproval", json!({ "approvalId": "x", "decision": "MAYBE" })),
        ("AnswerApproval", json!({ "approvalId": "x", "decision": "REJECT", "answer": "1" })),
        ("ListApprovals", json!({ "status": "DONE" })),
        ("CreateApprovalLink", json!({ "approvalId": "x", "expiresInSeconds": 0 })),
    ] {
        assert_eq!(s.code(&format!("Stagepost.{operation}"), wrong).await, "ValidationException");
    }
    // A task whose parameters cannot be used was never an approval: the connector fails it.
    start(s, &asks(&json!({ "Details": 1 }), &json!({}))).await;
    assert_eq!(listed(s, json!({})).await, Vec::<String>::new());
    w.coordinator.shutdown().await;
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn shows(&self, status: StatusCode, text: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        assert!(self.text.contains(text), "'{text}' is not in {}", self.text);
    }
}

async fn get(s: &Server, path: &str) -> Page {
    let (status, headers, text) = s.send(Request::get(path).body(Body::empty()).unwrap()).await;
    Page { status, headers, text }
}

async fn post(s: &Server, path: &str, form: &str) -> Page {
    let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
    let (status, headers, text) = s.send(request.body(Body::from(form.to_owned())).unwrap()).await;
    Page { status, headers, text }
}

/// The path and query of a new link.
async fn link(s: &Server, id: &str, more: &Value) -> String {
    let mut body = json!({ "approvalId": id });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let request = Request::post("/")
        .header("X-Amz-Target", "Stagepost.CreateApprovalLink")
        .header("Host", "flows.example:8083")
        .body(Body::from(body.to_string()))
        .unwrap();
    let (status, _, text) = s.send(request).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    answer["url"].as_str().unwrap().strip_prefix("http://flows.example:8083").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_shows_and_its_form_answers_once() {
    let w = whole().await;
    let s = &w.server;
    let (execution, id) = asked(s, &asks(&plain(), &json!({ "TimeoutSeconds": 60 }))).await;
    let path = link(s, &id, &json!({ "for": "Ada & co" })).await;
    // Whatever fetches links answers nothing.
    for _ in 0..2 {
        let page = get(s, &path).await;
        page.shows(StatusCode::OK, "Pay &lt;b&gt;500&lt;/b&gt;?");
        page.shows(StatusCode::OK, "Ada &amp; co");
        page.shows(StatusCode::OK, ">Approve</button>");
        assert_eq!(page.headers["cache-control"], "no-store");
        assert_eq!(page.headers["referrer-policy"], "no-referrer");
        assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        assert!(!page.text.contains("<script"), "{}", page.text);
    }
    let head = Request::head(&path).body(Body::empty()).unwrap();
    assert_eq!(s.send(head).await.0, StatusCode::OK);
    assert_eq!(describe(s, &id).await["status"], "OPEN");

    post(s, &path, "comment=hm")
        .await
        .shows(StatusCode::UNPROCESSABLE_ENTITY, "Press one of the two buttons");
    let done = post(s, &path, "decision=approve&comment=go+%3Ci%3E&by=Mallory").await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    let location = done.headers["location"].to_str().unwrap();
    assert_eq!(location, &path[path.find('?').unwrap()..]);
    // The link names who answers; the form cannot.
    let output = ended(s, &execution).await["output"].as_str().unwrap().to_owned();
    assert!(output.starts_with(r#"{"By":"Ada & co","Comment":"go <i>","#), "{output}");
    let page = get(s, &path).await;
    page.shows(StatusCode::OK, "was approved by Ada &amp; co");
    page.shows(StatusCode::OK, "go &lt;i&gt;");
    assert!(!page.text.contains("<button"), "{}", page.text);
    // Used once, it is used up.
    let before = describe(s, &id).await;
    assert_eq!(post(s, &path, "decision=reject").await.status, StatusCode::SEE_OTHER);
    assert_eq!(describe(s, &id).await, before);
    assert_eq!((&before["history"][1]["via"], &before["by"]), (&json!("link"), &json!("Ada & co")));
    w.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_are_forged_expired_or_of_another_scope_answer_nothing() {
    let w = whole().await;
    let s = &w.server;
    let (_, id) = asked(s, &asks(&plain(), &json!({}))).await;
    let (_, other) = asked(s, &asks(&plain(), &json!({}))).await;
    let approve = "decision=approve&by=eve";
    let good = link(s, &id, &json!({})).await;
    let view = link(s, &id, &json!({ "viewOnly": true })).await;
    let page = get(s, &view).await;
    page.shows(StatusCode::OK, "The link only shows it");
    assert!(!page.text.contains("<button"), "{}", page.text);
    post(s, &view, approve).await.shows(StatusCode::FORBIDDEN, "This link only shows");
    let key = s.api.token_key.link_key();
    let approval: ApprovalId = id.parse().unwrap();
    let old = key.url("", &Link { approval, scope: LinkScope::Answer, by: None, expires: 1 });
    for (path, status, text) in [
        (old, StatusCode::GONE, "This link has expired"),
        (view.replace("may=view", "may=answer"), StatusCode::FORBIDDEN, "This link is not valid"),
        (good.replace(&id, &other), StatusCode::FORBIDDEN, "This link is not valid"),
        (good[..good.len() - 1].to_owned(), StatusCode::FORBIDDEN, "This link is not valid"),
        (format!("/approvals/{id}"), StatusCode::FORBIDDEN, "This link is not valid"),
        ("/approvals/x?may=answer".to_owned(), StatusCode::FORBIDDEN, "This link is not valid"),
    ] {
        get(s, &path).await.shows(status, text);
        post(s, &path, approve).await.shows(status, text);
    }
    assert_eq!(describe(s, &id).await["status"], "OPEN");
    // Whoever has a link for nobody says who they are.
    post(s, &good, "decision=reject&by=+").await.shows(StatusCode::UNPROCESSABLE_ENTITY, "Say who you are");
    assert_eq!(post(s, &good, "decision=reject&by=eve").await.status, StatusCode::SEE_OTHER);
    assert_eq!(describe(s, &id).await["by"], "eve");
    // One for an approval that is gone.
    let gone = ApprovalId { event_id: 999, ..approval };
    let gone = key.url("", &Link { approval: gone, scope: LinkScope::Answer, by: None, expires: i64::MAX });
    get(s, &gone).await.shows(StatusCode::NOT_FOUND, "There is no such approval");
    assert!(
        get(s, "/approvals/style.css").await.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/css")
    );
    w.coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_form_asks_for_what_the_schema_says() {
    let w = whole().await;
    let s = &w.server;
    let schema = json!({
        "type": "object", "required": ["cents"], "additionalProperties": false,
        "properties": { "cents": { "type": "integer", "maximum": 500, "title": "Amount in cents" } }
    });
    let (execution, id) =
        asked(s, &asks(&json!({ "Title": "How much?", "Schema": schema }), &json!({}))).await;
    let path = link(s, &id, &json!({ "for": "ada" })).await;
    get(s, &path).await.shows(StatusCode::OK, "Amount in cents *");
    let page = post(s, &path, "decision=approve&answer.cents=900&comment=kept").await;
    page.shows(
        StatusCode::UNPROCESSABLE_ENTITY,
        "&#39;/cents&#39; must be at most 500".replace("&#39;", "'").as_str(),
    );
    page.shows(StatusCode::UNPROCESSABLE_ENTITY, r#"value="900""#);
    page.shows(StatusCode::UNPROCESSABLE_ENTITY, "kept</textarea>");
    post(s, &path, "decision=approve&answer.cents=x")
        .await
        .shows(StatusCode::UNPROCESSABLE_ENTITY, "'x' is not a number");
    assert_eq!(post(s, &path, "decision=approve&answer.cents=400").await.status, StatusCode::SEE_OTHER);
    assert!(ended(s, &execution).await["output"].as_str().unwrap().contains(r#""Answer":{"cents":400}"#));
    w.coordinator.shutdown().await;
}
