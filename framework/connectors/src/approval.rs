//! `stagepost:requestApproval`: a task for people. The coordinator keeps the record of it; here its parameters are checked
//! and whoever is to be told is told, by a message to a queue that mail and chat programs read.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;
use stagepost::{Broker, Failure};
use stagepost_protocol::{
    IntegrationPattern, Payload,
    approval::{ApprovalId, ApprovalRequest, Link, LinkKey, LinkScope},
    error_names,
};

use crate::{
    aws::Aws,
    call::{Answer, Call, Connector},
    sqs::Sqs,
};

/// How long links in messages are good, in seconds: 30 days. They end before, with the approval.
const LINK_SECONDS: i64 = 30 * 24 * 60 * 60;

/// The connector.
pub struct RequestApproval {
    queues: Sqs,
    links: LinkKey,
    public_url: Option<String>,
}

/// The message to a queue about an approval.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notice<'a> {
    approval_id: String,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a Payload>,
    approvers: &'a [String],
    execution: &'a str,
    state: &'a str,
    attempt: u32,
    task_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

impl RequestApproval {
    /// Messages go to RabbitMQ queues on `broker`, or to SQS; links in them begin with `public_url` and are signed with
    /// `links`. Without a URL there are none.
    pub fn new(
        broker: Arc<dyn Broker>,
        aws: &Aws,
        links: LinkKey,
        public_url: Option<String>,
    ) -> RequestApproval {
        RequestApproval { queues: Sqs::new(broker, aws.clone()), links, public_url }
    }

    fn link(&self, approval: ApprovalId) -> Option<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let expires = i64::try_from(now).unwrap_or(i64::MAX).saturating_add(LINK_SECONDS);
        let link = Link { approval, scope: LinkScope::Answer, by: None, expires };
        Some(self.links.url(self.public_url.as_deref()?, &link))
    }
}

fn unusable(problem: impl std::fmt::Display) -> Failure {
    Failure::new(error_names::RUNTIME, format!("The requestApproval request cannot be made: {problem}"))
}

#[async_trait]
impl Connector for RequestApproval {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let request = ApprovalRequest::read(&call.input).map_err(unusable)?;
        let approval: ApprovalId = call.attempt_id.parse().map_err(unusable)?;
        if let Some(notify) = &request.notify {
            let notice = Notice {
                approval_id: approval.to_string(),
                title: &request.title,
                details: request.details.as_ref(),
                schema: request.schema.as_ref(),
                approvers: &request.approvers,
                execution: &call.execution,
                state: &call.state,
                attempt: call.attempt,
                task_token: call.token.as_str(),
                link: self.link(approval),
            };
            let body = serde_json::to_string(&notice).map_err(unusable)?;
            let message = json!({ "QueueUrl": notify.queue_url, "MessageBody": body });
            self.queues.call(Call { input: Payload::from_value(&message), ..call }).await?;
        }
        Ok(Answer::Done(Payload::from_value(&json!({ "ApprovalId": approval.to_string() }))))
    }

    fn offers(&self, pattern: IntegrationPattern) -> bool {
        pattern == IntegrationPattern::WaitForTaskToken
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use stagepost::ActivityError;
    use stagepost_broker::{ConsumeOptions, in_process::InProcessBroker};

    use super::*;
    use crate::{aws::Settings, testing};

    const ID: &str = "07070707070707070707070707070707-5";

    fn call(parameters: &Value) -> Call {
        let id = ID.to_owned();
        Call { attempt_id: id, ..testing::call("stagepost:requestApproval.waitForTaskToken", parameters) }
    }

    fn connector(broker: &Arc<InProcessBroker>, public_url: Option<&str>) -> RequestApproval {
        let aws = Aws::new(Settings::default());
        RequestApproval::new(broker.clone(), &aws, LinkKey::new(&[1; 32]), public_url.map(str::to_owned))
    }

    #[tokio::test]
    async fn whoever_is_to_be_told_gets_a_message_with_a_link() {
        let broker = InProcessBroker::new();
        let parameters = json!({
            "Title": "Pay?", "Details": { "cents": 100 }, "Approvers": ["ada"], "Notify": { "QueueUrl": "amqp:///mail" }
        });
        for (public_url, linked) in [(Some("https://flows.example"), true), (None, false)] {
            let answer = connector(&broker, public_url).call(call(&parameters)).await.unwrap();
            assert_eq!(answer, Answer::Done(Payload::from_value(&json!({ "ApprovalId": ID }))));
            let mut mail = broker.consume("mail", ConsumeOptions { prefetch: 1 }).await.unwrap();
            let delivery = mail.next(1).await.unwrap().remove(0);
            mail.acker().ack(delivery.tag).await;
            mail.cancel().await;
            let told: Value = serde_json::from_slice(&delivery.body).unwrap();
            assert_eq!(told["details"]["cents"], 100);
            assert_eq!((&told["title"], &told["approvers"]), (&json!("Pay?"), &json!(["ada"])));
            assert_eq!(told["taskToken"].as_str(), Some(call(&parameters).token.as_str()));
            let begin = format!("https://flows.example/approvals/{}?may=answer&expires=", ID);
            let link = told["link"].as_str();
            assert_eq!(link.is_some_and(|link| link.starts_with(&begin)), linked, "{link:?}");
        }
    }

    #[tokio::test]
    async fn parameters_that_cannot_be_used_fail_the_task() {
        let broker = InProcessBroker::new();
        for (parameters, error, told) in [
            (json!({ "Details": 1 }), "States.Runtime", "missing field `Title`"),
            (json!({ "Title": "t", "Schema": { "pattern": "x" } }), "States.Runtime", "'pattern' at ''"),
            (json!({ "Title": "t", "Notify": { "QueueUrl": "" } }), "SQS.AmazonSQSException", "QueueUrl"),
        ] {
            let failure = connector(&broker, None).call(call(&parameters)).await.unwrap_err();
            assert_eq!(failure.name(), error, "{parameters}");
            assert!(failure.cause().contains(told), "{failure}");
        }
        let connector = connector(&broker, None);
        assert!(connector.offers(IntegrationPattern::WaitForTaskToken));
        assert!(!connector.offers(IntegrationPattern::RequestResponse));
    }
}
