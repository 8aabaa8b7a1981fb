//! The optimized integrations of DynamoDB, SNS and EventBridge (developer guide, "Integrating optimized services").

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use stagepost::Failure;
use stagepost_protocol::{ExecutionArn, Payload};

use crate::{
    aws::{self, Answered, Aws, Problem, Request, Response, sdk_metadata},
    call::{Answer, Call, Connector},
    sdk::capital,
};

const DYNAMODB: aws::Service = aws::Service { variable: "DYNAMODB", host: "dynamodb", signing: "dynamodb" };
const SNS: aws::Service = aws::Service { variable: "SNS", host: "sns", signing: "sns" };
const EVENTS: aws::Service = aws::Service { variable: "EVENTBRIDGE", host: "events", signing: "events" };

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Optimized {
    DynamoDb,
    Sns,
    Events,
}

impl Optimized {
    fn answered(self) -> Answered {
        match self {
            Optimized::DynamoDb => Answered {
                prefix: "DynamoDB",
                service: "AmazonDynamoDBv2",
                general: "AmazonDynamoDBException",
            },
            Optimized::Sns => Answered { prefix: "SNS", service: "AmazonSNS", general: "AmazonSNSException" },
            Optimized::Events => Answered {
                prefix: "EventBridge",
                service: "AmazonEventBridge",
                general: "AmazonEventBridgeException",
            },
        }
    }
}

/// The connector of one of them.
pub(crate) struct Service {
    aws: Aws,
    which: Optimized,
}

impl Service {
    pub(crate) fn new(aws: Aws, which: Optimized) -> Service {
        Service { aws, which }
    }

    fn request(&self, call: &Call, parameters: &mut Value) -> Request {
        let region = call.region();
        let region = self.aws.region(&region);
        match self.which {
            Optimized::DynamoDb => {
                let operation = capital(&call.action);
                aws::json(DYNAMODB, region, "1.0", &format!("DynamoDB_20120810.{operation}"), parameters)
            }
            Optimized::Sns => {
                as_text(parameters, "Message");
                aws::form(SNS, region, "2010-03-31", "Publish", parameters)
            }
            Optimized::Events => {
                let execution = ExecutionArn::parse(&call.execution).ok();
                for entry in parameters["Entries"].as_array_mut().into_iter().flatten() {
                    as_text(entry, "Detail");
                    name_origin(entry, execution.as_ref());
                }
                aws::json(EVENTS, region, "1.1", "AWSEvents.PutEvents", parameters)
            }
        }
    }

    fn answer(&self, response: &Response) -> Map<String, Value> {
        match self.which {
            Optimized::DynamoDb | Optimized::Events => {
                let answer = serde_json::from_slice(&response.body).unwrap_or_default();
                if let Value::Object(answer) = answer { answer } else { Map::new() }
            }
            Optimized::Sns => {
                let body = String::from_utf8_lossy(&response.body);
                let Ok(document) = roxmltree::Document::parse(&body) else { return Map::new() };
                let result = document.descendants().find(|node| node.tag_name().name() == "PublishResult");
                match result.map(aws::xml_value) {
                    Some(Value::Object(answer)) => answer,
                    _ => Map::new(),
                }
            }
        }
    }
}

#[async_trait]
impl Connector for Service {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let answered = self.which.answered();
        let mut parameters = call.input.to_value();
        let request = self.request(&call, &mut parameters);
        let response = self.aws.send(request).await.map_err(|error| answered.unanswered(&error))?;
        if response.status != 200 {
            let problem = match self.which {
                Optimized::Sns => Problem::of_xml(&response),
                Optimized::DynamoDb | Optimized::Events => Problem::of_json(&response),
            };
            return Err(answered.optimized(&response, &problem));
        }
        let mut answer = self.answer(&response);
        if answer.get("FailedEntryCount").and_then(Value::as_u64).is_some_and(|count| count > 0) {
            return Err(Failure::new("EventBridge.FailedEntry", Value::from(answer)));
        }
        answer.extend(sdk_metadata(&response));
        Ok(Answer::Done(Payload::from_value(&answer.into())))
    }
}

/// A member that is a text to the service: anything else is written as JSON.
pub(crate) fn as_text(parameters: &mut Value, member: &str) {
    if let Some(value) = parameters.get_mut(member)
        && !value.is_string()
        && !value.is_null()
    {
        *value = value.to_string().into();
    }
}

/// The integration adds execution and state machine to an event's resources.
fn name_origin(entry: &mut Value, execution: Option<&ExecutionArn>) {
    let (Some(execution), Value::Object(entry)) = (execution, entry) else { return };
    let resources = entry.entry("Resources").or_insert_with(|| json!([]));
    if let Some(resources) = resources.as_array_mut() {
        resources.push(execution.to_string().into());
        resources.push(execution.state_machine_arn().to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use stagepost::ActivityError;

    use super::*;
    use crate::testing::{Desk, call};

    #[tokio::test]
    async fn items_are_put_and_the_answer_has_metadata() {
        let desk =
            Desk::answering(200, &[("x-amzn-requestid", "r")], r#"{"Attributes":{"a":{"S":"b"}}}"#).await;
        let connector = Service::new(desk.aws("DYNAMODB"), Optimized::DynamoDb);
        let parameters = json!({ "TableName": "t", "Item": { "id": { "S": "1" } } });
        let Ok(Answer::Done(answer)) = connector.call(call("dynamodb:putItem", &parameters)).await else {
            panic!()
        };
        let answer = answer.to_value();
        assert_eq!(answer["Attributes"], json!({ "a": { "S": "b" } }));
        assert_eq!(answer["SdkResponseMetadata"]["RequestId"], "r");
        let seen = desk.last();
        assert_eq!(seen.headers["x-amz-target"], "DynamoDB_20120810.PutItem");
        assert_eq!(seen.headers["content-type"], "application/x-amz-json-1.0");
        assert_eq!(serde_json::from_str::<Value>(&seen.body).unwrap(), parameters);
    }

    #[tokio::test]
    async fn messages_that_are_no_text_are_published_as_json() {
        let body = "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>m\
                    </MessageId></PublishResult></PublishResponse>";
        let desk = Desk::answering(200, &[], body).await;
        let connector = Service::new(desk.aws("SNS"), Optimized::Sns);
        let parameters = json!({ "TopicArn": "arn", "Message": { "a": 1 } });
        let Ok(Answer::Done(answer)) = connector.call(call("sns:publish", &parameters)).await else {
            panic!()
        };
        assert_eq!(answer.to_value()["MessageId"], "m");
        assert_eq!(
            desk.last().body,
            "Action=Publish&Message=%7B%22a%22%3A1%7D&TopicArn=arn&Version=2010-03-31"
        );
    }

    #[tokio::test]
    async fn events_name_where_they_come_from() {
        let desk = Desk::answering(200, &[], r#"{"FailedEntryCount":0,"Entries":[{"EventId":"e"}]}"#).await;
        let connector = Service::new(desk.aws("EVENTBRIDGE"), Optimized::Events);
        let parameters = json!({ "Entries": [{ "Detail": { "a": 1 }, "DetailType": "t", "Source": "s" }] });
        connector.call(call("events:putEvents", &parameters)).await.unwrap();
        let sent: Value = serde_json::from_str(&desk.last().body).unwrap();
        assert_eq!(sent["Entries"][0]["Detail"], r#"{"a":1}"#);
        let origin =
            ["execution:m:e", "stateMachine:m"].map(|n| format!("arn:aws:states:us-east-1:000000000000:{n}"));
        assert_eq!(sent["Entries"][0]["Resources"], json!(origin));

        let desk = Desk::answering(200, &[], r#"{"FailedEntryCount":1,"Entries":[{"ErrorCode":"E"}]}"#).await;
        let connector = Service::new(desk.aws("EVENTBRIDGE"), Optimized::Events);
        let failure = connector.call(call("events:putEvents", &parameters)).await.unwrap_err();
        assert_eq!(failure.name(), "EventBridge.FailedEntry");
        assert!(failure.cause().contains("\"ErrorCode\":\"E\""), "{failure}");
    }

    #[tokio::test]
    async fn errors_are_named_as_the_service_names_them() {
        const XML: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>NotFound</Code><Message>Topic does not exist\
                           </Message></Error></ErrorResponse>";
        for (which, resource, body, name, cause) in [
            (
                Optimized::Sns,
                "sns:publish",
                XML,
                "SNS.NotFoundException",
                "Topic does not exist (Service: AmazonSNS; Status Code: 400; Error Code: NotFound; Request ID: r; \
                 Proxy: null)",
            ),
            (
                Optimized::DynamoDb,
                "dynamodb:getItem",
                r#"{"__type":"com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException","message":"no"}"#,
                "DynamoDB.ConditionalCheckFailedException",
                "no (Service: AmazonDynamoDBv2; Status Code: 400; Error Code: ConditionalCheckFailedException; \
                 Request ID: r; Proxy: null)",
            ),
            (
                Optimized::DynamoDb,
                "dynamodb:getItem",
                r#"{"__type":"com.amazon.coral.validate#ValidationException","message":"no"}"#,
                "DynamoDB.AmazonDynamoDBException",
                "no (Service: AmazonDynamoDBv2; Status Code: 400; Error Code: ValidationException; Request ID: r; \
                 Proxy: null)",
            ),
        ] {
            let desk = Desk::answering(400, &[("x-amzn-requestid", "r")], body).await;
            let aws = Aws::new(crate::testing::settings(&desk.url));
            let failure = Service::new(aws, which).call(call(resource, &json!({}))).await.unwrap_err();
            assert_eq!((&*failure.name(), failure.cause()), (name, cause));
        }
    }
}
