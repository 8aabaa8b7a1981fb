//! The pages behind signed links: `/approvals/ID?…`. A GET shows and never acts, since mail programs and chats fetch what
//! they find; only the form's POST answers. Nothing runs in the browser, and what others wrote is escaped.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, RawQuery, State},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::Response,
    routing::get,
};
use maud::{DOCTYPE, Markup, html};
use serde_json::Value;
use stagepost_protocol::{
    Payload, Timestamp,
    approval::{Answer, Approval, ApprovalId, ApprovalStatus, Link, LinkError, LinkScope, Via},
    limits,
};

use super::{
    Verdict, find,
    form::{self, Typed, typed},
    told,
};
use crate::{
    api::Api,
    states::now,
    wire::{ApiError, Code},
};

const STYLE: &str = include_str!("style.css");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// Nothing but our own style, nothing elsewhere, in nobody's frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

/// The routes.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/approvals/style.css", get(style))
        .route("/approvals/{id}", get(show).post(answer))
        .layer(DefaultBodyLimit::max(limits::REQUEST_BYTES_MAX))
        .with_state(api)
}

async fn style() -> ([(HeaderName, &'static str); 2], &'static str) {
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "max-age=3600")], STYLE)
}

/// What is said instead of an approval.
struct Refused(StatusCode, &'static str, String);

impl From<LinkError> for Refused {
    fn from(error: LinkError) -> Refused {
        match error {
            LinkError::Expired => {
                let hint = "Ask whoever sent it for a new one.";
                Refused(StatusCode::GONE, "This link has expired", hint.to_owned())
            }
            LinkError::Invalid => {
                let hint = "It is not complete, or it was changed. Open it again as you got it.";
                Refused(StatusCode::FORBIDDEN, "This link is not valid", hint.to_owned())
            }
        }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Refused {
        match error.code {
            Code::ApprovalDoesNotExist => {
                let hint = "It is not there any more.";
                Refused(StatusCode::NOT_FOUND, "There is no such approval", hint.to_owned())
            }
            code => Refused(code.status(), "This did not work", error.message),
        }
    }
}

impl Refused {
    fn page(self) -> Response {
        let Refused(status, title, hint) = self;
        page(status, title, &html! { h1 { (title) } p { (hint) } })
    }
}

async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>, RawQuery(query): RawQuery) -> Response {
    let shown = async {
        let now = now();
        let link = link(&api, &id, query.as_deref(), now)?;
        let (_, approval) = find(&api, link.approval).await?;
        Ok(approval_page(StatusCode::OK, &link, &approval, now, &[], None))
    };
    shown.await.unwrap_or_else(Refused::page)
}

async fn answer(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    let answered = async {
        let now = now();
        let link = link(&api, &id, query.as_deref(), now)?;
        if link.scope != LinkScope::Answer {
            let hint = "Whoever sent it did not ask you to answer.".to_owned();
            return Err(Refused(StatusCode::FORBIDDEN, "This link only shows", hint));
        }
        let given: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
        let (_, approval) = find(&api, link.approval).await?;
        if approval.closed.is_some() {
            return Ok(see(query.as_deref()));
        }
        let again = |why: &str| {
            approval_page(StatusCode::UNPROCESSABLE_ENTITY, &link, &approval, now, &given, Some(why))
        };
        let (verdict, by) = match read(&link, &approval, &given) {
            Ok(read) => read,
            Err(why) => return Ok(again(&why)),
        };
        let comment = typed(&given, "comment").map(str::trim).filter(|text| !text.is_empty());
        let answer = Answer { via: Via::Link, by: Some(by), comment: comment.map(str::to_owned) };
        match super::answer(&api, link.approval, verdict, answer, now).await {
            Ok(()) => Ok(see(query.as_deref())),
            // The page says who was faster.
            Err(error) if error.code == Code::ApprovalClosed => Ok(see(query.as_deref())),
            Err(error) if error.code == Code::ValidationException => Ok(again(&error.message)),
            Err(error) => Err(error.into()),
        }
    };
    answered.await.unwrap_or_else(Refused::page)
}

fn link(api: &Api, id: &str, query: Option<&str>, now: Timestamp) -> Result<Link, LinkError> {
    let id: ApprovalId = id.parse().map_err(|_| LinkError::Invalid)?;
    let query = query.unwrap_or("").as_bytes();
    let value = |name: &str| {
        form_urlencoded::parse(query).find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
    };
    api.token_key.link_key().verify(id, value, now)
}

/// What the form says, and who filled it in.
fn read(link: &Link, approval: &Approval, given: &Typed) -> Result<(Verdict, String), String> {
    let verdict = match typed(given, "decision") {
        Some("approve") => {
            let schema = approval.schema()?;
            Verdict::Approve(schema.map(|schema| form::read(&schema, given)).transpose()?)
        }
        Some("reject") => Verdict::Reject,
        _ => return Err("Press one of the two buttons.".to_owned()),
    };
    let by = link.by.as_deref().or(typed(given, "by")).map(str::trim).filter(|by| !by.is_empty());
    let by = by.ok_or("Say who you are: your name is kept with the answer.")?;
    Ok((verdict, by.to_owned()))
}

/// Lets the browser get the page anew, so that reloading it sends nothing again.
fn see(query: Option<&str>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    // A query that was signed has only visible ASCII.
    if let Ok(location) = HeaderValue::from_str(&format!("?{}", query.unwrap_or(""))) {
        response.headers_mut().insert(LOCATION, location);
    }
    guard(&mut response);
    response
}

fn guard(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ROBOTS, HeaderValue::from_static("noindex"));
}

fn page(status: StatusCode, title: &str, content: &Markup) -> Response {
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="stylesheet" href="style.css";
            }
            body { main { (content) } footer { "Stagepost" } }
        }
    };
    let mut response = Response::new(Body::from(text.into_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HTML);
    guard(&mut response);
    response
}

fn approval_page(
    status: StatusCode,
    link: &Link,
    approval: &Approval,
    now: Timestamp,
    given: &Typed,
    problem: Option<&str>,
) -> Response {
    let opened = &approval.opened;
    let content = html! {
        h1 { (opened.title) }
        @if let Some(closed) = &approval.closed {
            p.done.no[closed.status != ApprovalStatus::Approved] role="status" {
                "This " (told(closed)) "."
                @if let Some(comment) = closed.answer.as_ref().and_then(|answer| answer.comment.as_deref()) {
                    br; (comment)
                }
            }
        }
        @if let Some(details) = &opened.details { (details_of(details)) }
        dl.facts {
            dt { "Workflow" } dd { (opened.execution.state_machine) }
            dt { "Execution" } dd { (opened.execution.name) }
            dt { "Step" } dd { (opened.state) }
            dt { "Asked" } dd { (moment(opened.at)) }
            @if let Some(deadline) = opened.deadline { dt { "Answer until" } dd { (moment(deadline)) } }
            @if !approval.approvers().is_empty() { dt { "For" } dd { (approval.approvers().join(", ")) } }
        }
        @if approval.closed.is_none() && link.scope == LinkScope::Answer {
            (form_of(link, approval, given, problem))
        } @else if approval.closed.is_none() {
            p { "This is open. The link only shows it." }
        }
        @if approval.closed.is_none() && opened.deadline.is_some_and(|deadline| deadline <= now) {
            p.problem { "The time for an answer is over." }
        }
    };
    page(status, &opened.title, &content)
}

fn form_of(link: &Link, approval: &Approval, given: &Typed, problem: Option<&str>) -> Markup {
    // A schema was checked when the approval was asked for.
    let schema = approval.schema().ok().flatten();
    html! {
        form method="post" {
            @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
            @if let Some(schema) = &schema { (form::render(schema, given)) }
            label {
                span { "Comment" }
                textarea name="comment" rows="3" { (typed(given, "comment").unwrap_or("")) }
            }
            @match &link.by {
                Some(by) => { p { "You answer as " strong { (by) } "." } },
                None => {
                    label {
                        span { "Your name *" }
                        input type="text" name="by" autocomplete="name" value=(typed(given, "by").unwrap_or(""));
                    }
                },
            }
            div.buttons {
                button.yes type="submit" name="decision" value="approve" { "Approve" }
                button.no type="submit" name="decision" value="reject" { "Reject" }
            }
        }
    }
}

/// A time for people, in UTC.
fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} {} UTC", text.get(..10).unwrap_or(&text), text.get(11..16).unwrap_or(""))
}

/// An object as a table of its members, anything else as JSON.
fn details_of(details: &Payload) -> Markup {
    match details.to_value() {
        Value::Object(members) => html! {
            table {
                @for (name, value) in &members { tr { th scope="row" { (name) } td { (value_of(value)) } } }
            }
        },
        other => value_of(&other),
    }
}

fn value_of(value: &Value) -> Markup {
    match value {
        Value::String(text) => html! { span.text { (text) } },
        Value::Null | Value::Bool(_) | Value::Number(_) => html! { (value.to_string()) },
        Value::Array(_) | Value::Object(_) => html! { pre { (format!("{value:#}")) } },
    }
}
