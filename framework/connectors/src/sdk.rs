//! `aws-sdk:SERVICE:ACTION` (developer guide, "Learning to use AWS service SDK integrations"): actions of services, with
//! the parameters and answers of their APIs, their members written in Pascal case.

use async_trait::async_trait;
use serde_json::{Map, Value};
use stagepost::Failure;
use stagepost_protocol::{Payload, Timestamp, error_names};

use crate::{
    aws::{self, Answered, Aws, Problem, Response},
    call::{Answer, Call, Connector},
    lambda, optimized, s3,
};

/// How a service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// JSON: its version, what stands before the operation, whether members begin with a small letter.
    Json { version: &'static str, target: &'static str, small: bool },
    /// Forms and XML: the version of the API.
    Query { version: &'static str },
}

/// A service by the names that it has.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// In resources: `aws-sdk:NAME`.
    name: &'static str,
    /// In errors.
    answered: Answered,
    service: aws::Service,
    protocol: Protocol,
}

const fn service(variable: &'static str, host: &'static str, signing: &'static str) -> aws::Service {
    aws::Service { variable, host, signing }
}

const fn named(prefix: &'static str, general: &'static str) -> Answered {
    Answered { prefix, service: prefix, general }
}

const fn json(version: &'static str, target: &'static str) -> Protocol {
    Protocol::Json { version, target, small: false }
}

const fn small(version: &'static str, target: &'static str) -> Protocol {
    Protocol::Json { version, target, small: true }
}

macro_rules! services {
    ($($name:literal: $prefix:literal, $variable:literal, $host:literal, $signing:literal, $protocol:expr;)*) => {
        &[$(Entry {
            name: $name,
            answered: named($prefix, concat!($prefix, "Exception")),
            service: service($variable, $host, $signing),
            protocol: $protocol,
        }),*]
    };
}

/// The services that speak JSON or forms. Those of REST have modules of their own.
const SERVICES: &[Entry] = services! {
    "athena": "Athena", "ATHENA", "athena", "athena", json("1.1", "AmazonAthena");
    "cloudwatchlogs": "CloudWatchLogs", "CLOUDWATCH_LOGS", "logs", "logs", small("1.1", "Logs_20140328");
    "codebuild": "CodeBuild", "CODEBUILD", "codebuild", "codebuild", small("1.1", "CodeBuild_20161006");
    "cognitoidentityprovider": "CognitoIdentityProvider", "COGNITO_IDENTITY_PROVIDER", "cognito-idp", "cognito-idp",
        json("1.1", "AWSCognitoIdentityProviderService");
    "comprehend": "Comprehend", "COMPREHEND", "comprehend", "comprehend", json("1.1", "Comprehend_20171127");
    "dynamodb": "DynamoDb", "DYNAMODB", "dynamodb", "dynamodb", json("1.0", "DynamoDB_20120810");
    "ecr": "Ecr", "ECR", "api.ecr", "ecr", small("1.1", "AmazonEC2ContainerRegistry_V20150921");
    "ecs": "Ecs", "ECS", "ecs", "ecs", small("1.1", "AmazonEC2ContainerServiceV20141113");
    "eventbridge": "EventBridge", "EVENTBRIDGE", "events", "events", json("1.1", "AWSEvents");
    "firehose": "Firehose", "FIREHOSE", "firehose", "firehose", json("1.1", "Firehose_20150804");
    "glue": "Glue", "GLUE", "glue", "glue", json("1.1", "AWSGlue");
    "kinesis": "Kinesis", "KINESIS", "kinesis", "kinesis", json("1.1", "Kinesis_20131202");
    "kms": "Kms", "KMS", "kms", "kms", json("1.1", "TrentService");
    "rekognition": "Rekognition", "REKOGNITION", "rekognition", "rekognition", json("1.1", "RekognitionService");
    "secretsmanager": "SecretsManager", "SECRETS_MANAGER", "secretsmanager", "secretsmanager",
        json("1.1", "secretsmanager");
    "sfn": "Sfn", "SFN", "states", "states", small("1.0", "AWSStepFunctions");
    "sns": "Sns", "SNS", "sns", "sns", Protocol::Query { version: "2010-03-31" };
    "sqs": "Sqs", "SQS", "sqs", "sqs", json("1.0", "AmazonSQS");
    "ssm": "Ssm", "SSM", "ssm", "ssm", json("1.1", "AmazonSSM");
    "sts": "Sts", "STS", "sts", "sts", Protocol::Query { version: "2011-06-15" };
    "textract": "Textract", "TEXTRACT", "textract", "textract", json("1.1", "Textract");
    "transcribe": "Transcribe", "TRANSCRIBE", "transcribe", "transcribe", json("1.1", "Transcribe");
    "translate": "Translate", "TRANSLATE", "translate", "translate", json("1.1", "AWSShineFrontendService_20170701");
};

/// Members that are texts to their service: anything else is written as JSON.
const TEXTS: &[(&str, &[&str])] = &[
    ("eventbridge", &["Detail"]),
    ("secretsmanager", &["SecretString"]),
    ("sfn", &["Definition", "Input", "Output"]),
    ("sns", &["Message"]),
    ("sqs", &["MessageBody"]),
    ("ssm", &["Value"]),
];

/// The connector.
pub(crate) struct Sdk {
    aws: Aws,
}

impl Sdk {
    pub(crate) fn new(aws: Aws) -> Sdk {
        Sdk { aws }
    }

    async fn send(&self, entry: &Entry, call: &Call, parameters: Value) -> Result<Value, Failure> {
        let Entry { name, answered, service, protocol } = *entry;
        let region = call.region();
        let region = self.aws.region(&region);
        let operation = capital(&call.action);
        let mut parameters = parameters;
        texts(name, &mut parameters);
        let request = match protocol {
            Protocol::Json { version, target, small } => {
                let parameters = if small { renamed(parameters, &small_letter) } else { parameters };
                aws::json(service, region, version, &format!("{target}.{operation}"), &parameters)
            }
            Protocol::Query { version } => aws::form(service, region, version, &operation, &parameters),
        };
        let response = self.aws.send(request).await.map_err(|error| answered.unanswered(&error))?;
        if response.status != 200 {
            let problem = match protocol {
                Protocol::Json { .. } => Problem::of_json(&response),
                Protocol::Query { .. } => Problem::of_xml(&response),
            };
            return Err(answered.sdk(&response, &problem));
        }
        Ok(match protocol {
            Protocol::Json { small, .. } => {
                let answer = serde_json::from_slice(&response.body).unwrap_or_else(|_| Map::new().into());
                let answer = if small { renamed(answer, &capital) } else { answer };
                // Its times are numbers of milliseconds, and numbers they stay.
                if name == "cloudwatchlogs" { answer } else { dated(answer) }
            }
            Protocol::Query { .. } => result(&response, &operation),
        })
    }
}

#[async_trait]
impl Connector for Sdk {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let name = call.service.strip_prefix("aws-sdk:").unwrap_or(&call.service);
        let parameters = call.input.to_value();
        let answer = match name {
            "s3" => s3::call(&self.aws, &call, &parameters).await?,
            "lambda" => lambda::call(&self.aws, &call, &parameters).await?,
            _ => match SERVICES.iter().find(|entry| entry.name == name) {
                Some(entry) => self.send(entry, &call, parameters).await?,
                None => {
                    let cause = format!(
                        "The service 'aws-sdk:{name}' is not supported by this version of Stagepost."
                    );
                    return Err(Failure::new(error_names::RUNTIME, cause));
                }
            },
        };
        Ok(Answer::Done(Payload::from_value(&answer)))
    }
}

/// The services and actions that there are; `*` is every action.
pub(crate) fn calls() -> impl Iterator<Item = (&'static str, &'static str)> {
    let services = SERVICES.iter().map(|entry| (entry.name, "*"));
    let lambda = lambda::ACTIONS.iter().map(|action| ("lambda", *action));
    let s3 = s3::ACTIONS.iter().map(|action| ("s3", *action));
    services.chain(lambda).chain(s3)
}

/// The result in the answer to a query.
fn result(response: &Response, operation: &str) -> Value {
    let body = String::from_utf8_lossy(&response.body);
    let Ok(document) = roxmltree::Document::parse(&body) else { return Map::new().into() };
    let name = format!("{operation}Result");
    let result = document.descendants().find(|node| node.tag_name().name() == name);
    match result.map(aws::xml_value) {
        Some(Value::Object(answer)) => answer.into(),
        _ => Map::new().into(),
    }
}

/// With a capital first letter.
pub(crate) fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

/// With a small first letter.
fn small_letter(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + letters.as_str())
}

/// With other names of members, at all depths.
fn renamed(value: Value, rename: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (rename(&name), renamed(value, rename))).collect()
        }
        Value::Array(elements) => elements.into_iter().map(|value| renamed(value, rename)).collect(),
        other => other,
    }
}

/// Times are numbers of seconds on the wire and RFC 3339 in a state's result. A member that is a time is named so.
fn dated(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let is_time = ["Date", "Time", "Timestamp", "At"].iter().any(|suffix| name.ends_with(suffix));
                let value = match value.as_f64() {
                    Some(seconds) if is_time => {
                        Timestamp::from_millis(0).plus_seconds_f64(seconds).to_string().into()
                    }
                    _ => dated(value),
                };
                (name, value)
            })
            .collect(),
        Value::Array(elements) => elements.into_iter().map(dated).collect(),
        other => other,
    }
}

fn texts(service: &str, parameters: &mut Value) {
    let members = TEXTS.iter().find(|(name, _)| *name == service).map_or(&[][..], |(_, members)| members);
    for member in members {
        optimized::as_text(parameters, member);
        for entry in parameters.get_mut("Entries").and_then(Value::as_array_mut).into_iter().flatten() {
            optimized::as_text(entry, member);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stagepost::ActivityError;

    use super::*;
    use crate::testing::{Desk, call};

    #[tokio::test]
    async fn actions_are_called_by_their_services_names() {
        let desk = Desk::answering(200, &[], r#"{"startDate":1700000000.5,"executionArn":"arn"}"#).await;
        for (resource, parameters, target, body, answer) in [
            (
                "aws-sdk:sfn:startExecution",
                json!({ "StateMachineArn": "m", "Input": { "a": 1 } }),
                "AWSStepFunctions.StartExecution",
                json!({ "stateMachineArn": "m", "input": r#"{"a":1}"# }),
                json!({ "StartDate": "2023-11-14T22:13:20.500Z", "ExecutionArn": "arn" }),
            ),
            (
                "aws-sdk:dynamodb:query",
                json!({ "TableName": "t" }),
                "DynamoDB_20120810.Query",
                json!({ "TableName": "t" }),
                json!({ "startDate": "2023-11-14T22:13:20.500Z", "executionArn": "arn" }),
            ),
            (
                "aws-sdk:eventbridge:putEvents",
                json!({ "Entries": [{ "Detail": { "a": 1 } }] }),
                "AWSEvents.PutEvents",
                json!({ "Entries": [{ "Detail": r#"{"a":1}"# }] }),
                json!({ "startDate": "2023-11-14T22:13:20.500Z", "executionArn": "arn" }),
            ),
        ] {
            let sdk = Sdk::new(Aws::new(crate::testing::settings(&desk.url)));
            let answered = sdk.call(call(resource, &parameters)).await;
            assert_eq!(answered, Ok(Answer::Done(Payload::from_value(&answer))), "{resource}");
            let seen = desk.last();
            assert_eq!(seen.headers["x-amz-target"], target);
            assert_eq!(serde_json::from_str::<Value>(&seen.body).unwrap(), body);
        }
    }

    #[tokio::test]
    async fn forms_are_answered_in_xml() {
        let body = "<CreateTopicResponse><CreateTopicResult><TopicArn>arn</TopicArn></CreateTopicResult>\
                    <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></CreateTopicResponse>";
        let desk = Desk::answering(200, &[], body).await;
        let sdk = Sdk::new(desk.aws("SNS"));
        let answer = sdk.call(call("aws-sdk:sns:createTopic", &json!({ "Name": "t" }))).await;
        assert_eq!(answer, Ok(Answer::Done(Payload::from_value(&json!({ "TopicArn": "arn" })))));
        assert_eq!(desk.last().body, "Action=CreateTopic&Name=t&Version=2010-03-31");
    }

    #[tokio::test]
    async fn errors_are_named_in_the_words_of_the_sdk() {
        for (resource, body, name, cause) in [
            (
                "aws-sdk:dynamodb:putItem",
                r#"{"__type":"x#ResourceNotFoundException","message":"Requested resource not found"}"#,
                "DynamoDb.ResourceNotFoundException",
                "Requested resource not found (Service: DynamoDb, Status Code: 400, Request ID: r) (SDK Attempt Count: 1)",
            ),
            (
                "aws-sdk:secretsmanager:createSecret",
                r#"{"__type":"ValidationException","Message":"Invalid name."}"#,
                "SecretsManager.SecretsManagerException",
                "Invalid name. (Service: SecretsManager, Status Code: 400, Request ID: r) (SDK Attempt Count: 1)",
            ),
            (
                "aws-sdk:sfn:sendTaskSuccess",
                r#"{"__type":"InvalidToken","message":"Invalid Token: 'Invalid token'"}"#,
                "Sfn.InvalidTokenException",
                "Invalid Token: 'Invalid token' (Service: Sfn, Status Code: 400, Request ID: r) (SDK Attempt Count: 1)",
            ),
        ] {
            let desk = Desk::answering(400, &[("x-amzn-requestid", "r")], body).await;
            let sdk = Sdk::new(Aws::new(crate::testing::settings(&desk.url)));
            let failure = sdk.call(call(resource, &json!({}))).await.unwrap_err();
            assert_eq!((&*failure.name(), failure.cause()), (name, cause));
        }
        let sdk = Sdk::new(Aws::new(crate::testing::settings("http://127.0.0.1:1")));
        let unreachable = sdk.call(call("aws-sdk:kms:encrypt", &json!({}))).await.unwrap_err();
        assert_eq!(unreachable.name(), "Kms.SdkClientException");
    }
}
