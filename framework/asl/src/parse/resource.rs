//! The `Resource` of a Task state.

use stagepost_protocol::{IntegrationPattern, approval};

use crate::model::Resource;

/// Reads an ARN. `Err` holds what to do about it.
pub(super) fn parse(arn: &str) -> Result<Resource, String> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [scheme, partition, service, region, account, rest] = parts[..] else {
        return Err("an ARN has six parts: arn:aws:SERVICE:REGION:ACCOUNT:RESOURCE".to_owned());
    };
    if scheme != "arn" || !(partition == "aws" || partition.starts_with("aws-")) {
        return Err("an ARN begins with 'arn:aws:'".to_owned());
    }
    // The service looks at these only in ARNs of its own.
    let numbered = account.bytes().all(|b| b.is_ascii_digit()) || service == "lambda";
    if !numbered || region.is_empty() != account.is_empty() {
        return Err("name both a region and an account of digits, or neither".to_owned());
    }
    match service {
        "lambda" => match rest.strip_prefix("function:") {
            Some(name) if !name.is_empty() => Ok(Resource::Lambda { arn: arn.to_owned() }),
            _ => Err("a function's ARN is arn:aws:lambda:REGION:ACCOUNT:function:NAME".to_owned()),
        },
        "states" => match rest.strip_prefix("activity:") {
            Some(name) => activity(arn, name, !region.is_empty()),
            None => integration(arn, rest),
        },
        _ => {
            Err("a task calls an activity (arn:aws:states:::activity:NAME), a Lambda function or a service \
                  integration (arn:aws:states:::SERVICE:ACTION)"
                .to_owned())
        }
    }
}

fn activity(arn: &str, name: &str, registered: bool) -> Result<Resource, String> {
    let valid = |c: char| !c.is_control() && !c.is_whitespace() && !"<>{}[]?*\"#%\\^|~`$&,;:/".contains(c);
    if name.is_empty() || name.chars().count() > stagepost_protocol::limits::NAME_CHARS_MAX {
        return Err("an activity's name has 1 to 80 characters".to_owned());
    }
    if !name.chars().all(valid) {
        return Err(
            "an activity's name holds no spaces, brackets, wildcards or special characters".to_owned()
        );
    }
    Ok(Resource::Activity { arn: arn.to_owned(), name: name.to_owned(), registered })
}

fn integration(arn: &str, rest: &str) -> Result<Resource, String> {
    let (call, pattern) = IntegrationPattern::split(rest);
    let form =
        "an integration is arn:aws:states:::SERVICE:ACTION, then maybe .sync, .sync:2 or .waitForTaskToken";
    let Some((service, action)) = call.rsplit_once(':') else {
        return Err(form.to_owned());
    };
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let plain = service.strip_prefix("aws-sdk:").unwrap_or(service);
    if !word(plain) || !word(action) {
        return Err(form.to_owned());
    }
    let known = OPTIMIZED.iter().find(|(name, _)| *name == service);
    if let Some((_, actions)) = known
        && !actions.contains(&action)
    {
        if service == approval::SERVICE {
            return Err(format!("'{service}' offers {}", actions.join(", ")));
        }
        let sdk = format!("arn:aws:states:::aws-sdk:{service}:{action}");
        return Err(format!("'{service}' offers {}; anything else is called as {sdk}", actions.join(", ")));
    }
    let resource = Resource::Service {
        arn: arn.to_owned(),
        service: service.to_owned(),
        action: action.to_owned(),
        pattern,
    };
    if resource.asks_for_approval() && pattern != IntegrationPattern::WaitForTaskToken {
        return Err(format!("a task for people waits for them: arn:aws:states:::{call}.waitForTaskToken"));
    }
    if resource.waits_for_signal() && pattern != IntegrationPattern::RequestResponse {
        return Err(format!("a task waits for a signal by itself: leave '{}' out", pattern.suffix()));
    }
    Ok(resource)
}

/// Whether a service integration is one that the service itself offers.
pub(super) fn is_known_service(service: &str) -> bool {
    service.starts_with("aws-sdk:")
        || OTHER_SERVICES.contains(&service)
        || OPTIMIZED.iter().any(|(s, _)| *s == service)
}

/// Services whose list of actions is short and settled (developer guide, "Integrating optimized services").
const OPTIMIZED: &[(&str, &[&str])] = &[
    ("apigateway", &["invoke"]),
    ("athena", &["startQueryExecution", "stopQueryExecution", "getQueryExecution", "getQueryResults"]),
    ("batch", &["submitJob"]),
    ("dynamodb", &["getItem", "putItem", "updateItem", "deleteItem"]),
    ("ecs", &["runTask"]),
    ("events", &["putEvents"]),
    ("glue", &["startJobRun"]),
    ("databrew", &["startJobRun"]),
    ("http", &["invoke"]),
    ("lambda", &["invoke"]),
    ("mediaconvert", &["createJob"]),
    ("sns", &["publish"]),
    ("sqs", &["sendMessage"]),
    // Our own.
    (approval::SERVICE, &[approval::ACTION, "waitForSignal"]),
    ("states", &["startExecution"]),
];

/// Services with longer lists, which grow.
const OTHER_SERVICES: &[&str] =
    &["bedrock", "codebuild", "eks", "elasticmapreduce", "emr-containers", "emr-serverless", "sagemaker"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_are_told_apart() {
        use IntegrationPattern::{RequestResponse, Sync, Sync2, WaitForTaskToken};
        let service = |rest: &str, service: &str, action: &str, pattern| {
            let arn = format!("arn:aws:states:{rest}");
            let expected = Resource::Service {
                arn: arn.clone(),
                service: service.to_owned(),
                action: action.to_owned(),
                pattern,
            };
            assert_eq!(parse(&arn), Ok(expected));
        };
        service("::lambda:invoke", "lambda", "invoke", RequestResponse);
        service("::sqs:sendMessage.waitForTaskToken", "sqs", "sendMessage", WaitForTaskToken);
        service(
            "::stagepost:requestApproval.waitForTaskToken",
            "stagepost",
            "requestApproval",
            WaitForTaskToken,
        );
        service("::states:startExecution.sync", "states", "startExecution", Sync);
        service("::states:startExecution.sync:2", "states", "startExecution", Sync2);
        service("::stagepost:waitForSignal", "stagepost", "waitForSignal", RequestResponse);
        service("::aws-sdk:s3:getObject", "aws-sdk:s3", "getObject", RequestResponse);
        service("::aws-sdk:sfn:x.waitForTaskToken", "aws-sdk:sfn", "x", WaitForTaskToken);
        service("eu-west-1:123456789012:aws-sdk:s3:getObject", "aws-sdk:s3", "getObject", RequestResponse);

        for (arn, registered) in [
            ("arn:aws:states:us-east-1:123456789012:activity:charge_card", true),
            ("arn:aws:states:::activity:charge_card", false),
        ] {
            let name = "charge_card".to_owned();
            assert_eq!(parse(arn), Ok(Resource::Activity { arn: arn.to_owned(), name, registered }));
        }
        for arn in [
            "arn:aws:lambda:us-east-1:123456789012:function:f",
            "arn:aws:lambda:::function:f",
            "arn:aws:lambda:your-region:your-account-id:function:f",
            "arn:aws-cn:lambda:cn-north-1:123456789012:function:f:$LATEST",
        ] {
            assert_eq!(parse(arn), Ok(Resource::Lambda { arn: arn.to_owned() }));
        }
    }

    #[test]
    fn what_is_no_resource_is_refused() {
        for arn in [
            "",
            "lambda",
            "arn:aws:states:::",
            "arn:aws:states:::activity:",
            "arn:aws:states:::activity:a b",
            "arn:aws:states:us-east-1::activity:a",
            "arn:aws:states:us-east-1:me:activity:a",
            "arn:aws:lambda:us-east-1:123456789012:layer:f",
            "arn:aws:lambda:::function:",
            "arn:aws:s3:::bucket",
            "arn:aws:states:::dynamodb:query",
            "arn:aws:states:::stagepost:waitForSignal.waitForTaskToken",
            "arn:aws:states:::stagepost:requestApproval",
            "arn:aws:states:::stagepost:requestApproval.sync",
            "arn:aws:states:::stagepost:readItems",
            "arn:aws:states:::sqs",
            "arn:aws:states:::sqs:",
            "arn:aws:states:::aws-sdk:getObject:.sync",
            "urn:aws:states:::sqs:sendMessage",
        ] {
            assert!(parse(arn).is_err(), "{arn}");
        }
    }
}
