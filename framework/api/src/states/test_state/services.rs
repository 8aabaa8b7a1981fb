//! The answers of the services that state machines call most, as far as their API references fix them. Sets of values
//! that grow from year to year (runtimes, algorithms) are texts here: a mock is not refused for being newer than this
//! table. Names are spelled as Step Functions spells them: the first letter is a capital.

use stagepost_protocol::IntegrationPattern;

use super::schema::{
    Field, Shape,
    Shape::{Anything, Boolean, List, Map, Number, OneOf, Structure, Text},
    field, required,
};

/// A text of any length.
const TEXT: Shape = Text(0, usize::MAX);
/// A time, which Step Functions gives as a text.
const TIME: Shape = TEXT;
/// Any number.
const NUMBER: Shape = Number(f64::MIN, f64::MAX);
/// A count or size.
const COUNT: Shape = Number(0.0, f64::MAX);
const ARN: Shape = Text(1, 2048);

/// The shape of what an action answers to its caller; `None` where it is not known here.
pub(super) fn result(service: &str, action: &str, pattern: IntegrationPattern) -> Option<&'static Shape> {
    let sdk = service.strip_prefix("aws-sdk:");
    // A job is polled: its mock is the answer to the poll (developer guide, "Testing Activity, .sync, …").
    let action = match (sdk.unwrap_or(service), action, pattern) {
        (_, action, IntegrationPattern::RequestResponse) => action,
        ("states" | "sfn", "startExecution", IntegrationPattern::Sync | IntegrationPattern::Sync2) => {
            "describeExecution"
        }
        // The others' jobs are not known here, and the answer to a task token is anybody's.
        _ => return None,
    };
    let service = match sdk.unwrap_or(service) {
        "states" => "sfn",
        other => other,
    };
    let found = ACTIONS.iter().find(|(s, actions, _)| *s == service && actions.contains(&action));
    found.map(|(_, _, shape)| shape)
}

/// Service, actions and the answer that they have in common.
const ACTIONS: &[(&str, &[&str], Shape)] = &[
    (
        "lambda",
        &["invoke"],
        Structure(&[
            field("StatusCode", NUMBER),
            field("FunctionError", TEXT),
            field("LogResult", TEXT),
            // JSON in the optimized integration.
            field("Payload", Anything),
            field("ExecutedVersion", Text(1, 1024)),
        ]),
    ),
    (
        "lambda",
        &["getFunction"],
        Structure(&[
            field("Configuration", Structure(FUNCTION)),
            field(
                "Code",
                Structure(&[
                    field("RepositoryType", TEXT),
                    field("Location", TEXT),
                    field("ImageUri", TEXT),
                    field("ResolvedImageUri", TEXT),
                ]),
            ),
            field("Tags", Map(&TEXT)),
            field("Concurrency", Structure(&[field("ReservedConcurrentExecutions", COUNT)])),
        ]),
    ),
    ("lambda", &["getFunctionConfiguration", "createFunction", "updateFunctionCode"], Structure(FUNCTION)),
    (
        "sfn",
        &["startExecution"],
        Structure(&[required("ExecutionArn", Text(1, 256)), required("StartDate", TIME)]),
    ),
    (
        "sfn",
        &["describeExecution"],
        Structure(&[
            required("ExecutionArn", Text(1, 256)),
            required("StateMachineArn", Text(1, 256)),
            required("StartDate", TIME),
            required(
                "Status",
                OneOf(&["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "PENDING_REDRIVE"]),
            ),
            field("Name", Text(1, 80)),
            field("StopDate", TIME),
            // Texts, or JSON with `.sync:2`.
            field("Input", Anything),
            field("Output", Anything),
            field("Error", Text(0, 256)),
            field("Cause", Text(0, 32768)),
            field("RedriveCount", COUNT),
        ]),
    ),
    (
        "sfn",
        &["startSyncExecution"],
        Structure(&[
            required("ExecutionArn", Text(1, 256)),
            required("StartDate", TIME),
            required("StopDate", TIME),
            required("Status", OneOf(&["SUCCEEDED", "FAILED", "TIMED_OUT"])),
            field("StateMachineArn", Text(1, 256)),
            field("Name", Text(1, 80)),
            field("Input", Anything),
            field("Output", Anything),
            field("Error", Text(0, 256)),
            field("Cause", Text(0, 32768)),
        ]),
    ),
    (
        "dynamodb",
        &["getItem"],
        Structure(&[field("Item", Map(&ATTRIBUTE)), field("ConsumedCapacity", CAPACITY)]),
    ),
    (
        "dynamodb",
        &["putItem", "updateItem", "deleteItem"],
        Structure(&[
            field("Attributes", Map(&ATTRIBUTE)),
            field("ConsumedCapacity", CAPACITY),
            field(
                "ItemCollectionMetrics",
                Structure(&[
                    field("ItemCollectionKey", Map(&ATTRIBUTE)),
                    field("SizeEstimateRangeGB", List(&NUMBER)),
                ]),
            ),
        ]),
    ),
    (
        "dynamodb",
        &["query", "scan"],
        Structure(&[
            field("Items", List(&Map(&ATTRIBUTE))),
            field("Count", NUMBER),
            field("ScannedCount", NUMBER),
            field("LastEvaluatedKey", Map(&ATTRIBUTE)),
            field("ConsumedCapacity", CAPACITY),
        ]),
    ),
    (
        "sqs",
        &["sendMessage"],
        Structure(&[
            field("MD5OfMessageBody", TEXT),
            field("MD5OfMessageAttributes", TEXT),
            field("MD5OfMessageSystemAttributes", TEXT),
            field("MessageId", TEXT),
            field("SequenceNumber", TEXT),
        ]),
    ),
    ("sns", &["publish"], Structure(&[field("MessageId", TEXT), field("SequenceNumber", TEXT)])),
    ("events", &["putEvents"], Structure(PUT_EVENTS)),
    ("eventbridge", &["putEvents"], Structure(PUT_EVENTS)),
    ("s3", &["getObject", "headObject"], Structure(OBJECT)),
    (
        "s3",
        &["putObject"],
        Structure(&[
            field("Expiration", TEXT),
            field("ETag", TEXT),
            field("ServerSideEncryption", TEXT),
            field("VersionId", TEXT),
            field("SSEKMSKeyId", TEXT),
            field("BucketKeyEnabled", Boolean),
            field("Size", NUMBER),
        ]),
    ),
    (
        "s3",
        &["listObjectsV2"],
        Structure(&[
            field("IsTruncated", Boolean),
            field(
                "Contents",
                List(&Structure(&[
                    field("Key", Text(1, usize::MAX)),
                    field("LastModified", TIME),
                    field("ETag", TEXT),
                    field("Size", NUMBER),
                    field("StorageClass", STORAGE_CLASS),
                ])),
            ),
            field("Name", TEXT),
            field("Prefix", TEXT),
            field("Delimiter", TEXT),
            field("MaxKeys", NUMBER),
            field("CommonPrefixes", List(&Structure(&[field("Prefix", TEXT)]))),
            field("KeyCount", NUMBER),
            field("ContinuationToken", TEXT),
            field("NextContinuationToken", TEXT),
            field("StartAfter", TEXT),
        ]),
    ),
    (
        "kms",
        &["encrypt"],
        Structure(&[
            field("CiphertextBlob", Text(1, 8192)),
            field("KeyId", Text(1, 2048)),
            field("EncryptionAlgorithm", TEXT),
        ]),
    ),
    (
        "kms",
        &["decrypt"],
        Structure(&[
            field("KeyId", Text(1, 2048)),
            field("Plaintext", Text(1, 5464)),
            field("EncryptionAlgorithm", TEXT),
        ]),
    ),
    (
        "kms",
        &["generateDataKey"],
        Structure(&[
            field("CiphertextBlob", Text(1, 8192)),
            field("Plaintext", Text(1, 5464)),
            field("KeyId", Text(1, 2048)),
        ]),
    ),
    (
        "secretsmanager",
        &["getSecretValue"],
        Structure(&[
            field("ARN", Text(20, 2048)),
            field("Name", Text(1, 256)),
            field("VersionId", Text(32, 64)),
            field("SecretBinary", TEXT),
            field("SecretString", TEXT),
            field("VersionStages", List(&Text(1, 256))),
            field("CreatedDate", TIME),
        ]),
    ),
    (
        "ssm",
        &["getParameter"],
        Structure(&[field(
            "Parameter",
            Structure(&[
                field("Name", Text(1, 2048)),
                field("Type", OneOf(&["String", "StringList", "SecureString"])),
                field("Value", TEXT),
                field("Version", NUMBER),
                field("LastModifiedDate", TIME),
                field("ARN", TEXT),
                field("DataType", Text(0, 128)),
            ]),
        )]),
    ),
    (
        "batch",
        &["submitJob"],
        Structure(&[required("JobName", TEXT), required("JobId", TEXT), field("JobArn", TEXT)]),
    ),
    (
        "ecs",
        &["runTask"],
        Structure(&[
            field(
                "Tasks",
                List(&Structure(&[
                    field("TaskArn", ARN),
                    field("ClusterArn", ARN),
                    field("TaskDefinitionArn", ARN),
                    field("LastStatus", TEXT),
                    field("DesiredStatus", TEXT),
                    field("Containers", List(&Structure(&[field("Name", TEXT), field("ExitCode", NUMBER)]))),
                ])),
            ),
            field(
                "Failures",
                List(&Structure(&[field("Arn", TEXT), field("Reason", TEXT), field("Detail", TEXT)])),
            ),
        ]),
    ),
    ("glue", &["startJobRun"], Structure(&[field("JobRunId", Text(1, 255))])),
    ("athena", &["startQueryExecution"], Structure(&[field("QueryExecutionId", Text(1, 128))])),
];

/// Lambda, FunctionConfiguration.
const FUNCTION: &[Field] = &[
    field("FunctionName", Text(1, 170)),
    field("FunctionArn", TEXT),
    field("Runtime", TEXT),
    field("Role", TEXT),
    field("Handler", Text(0, 128)),
    field("CodeSize", NUMBER),
    field("Description", Text(0, 256)),
    field("Timeout", Number(1.0, f64::MAX)),
    field("MemorySize", Number(128.0, 10240.0)),
    field("LastModified", TEXT),
    field("CodeSha256", TEXT),
    field("Version", Text(1, 1024)),
    field("Environment", Structure(&[field("Variables", Map(&TEXT))])),
    field("RevisionId", TEXT),
    field("State", TEXT),
    field("StateReason", TEXT),
    field("PackageType", OneOf(&["Zip", "Image"])),
    field("Architectures", List(&OneOf(&["x86_64", "arm64"]))),
    field("EphemeralStorage", Structure(&[required("Size", Number(512.0, 10240.0))])),
];

/// DynamoDB, AttributeValue. What is nested in it is not looked at: a constant cannot hold itself.
const ATTRIBUTE: Shape = Structure(&[
    field("S", TEXT),
    field("N", TEXT),
    field("B", TEXT),
    field("SS", List(&TEXT)),
    field("NS", List(&TEXT)),
    field("BS", List(&TEXT)),
    field("M", Map(&Structure(&[]))),
    field("L", List(&Structure(&[]))),
    field("NULL", Boolean),
    field("BOOL", Boolean),
]);

/// DynamoDB, Capacity.
const UNITS: &[Field] = &[
    field("ReadCapacityUnits", NUMBER),
    field("WriteCapacityUnits", NUMBER),
    field("CapacityUnits", NUMBER),
];

/// DynamoDB, ConsumedCapacity.
const CAPACITY: Shape = Structure(&[
    field("TableName", Text(1, 1024)),
    field("CapacityUnits", NUMBER),
    field("ReadCapacityUnits", NUMBER),
    field("WriteCapacityUnits", NUMBER),
    field("Table", Structure(UNITS)),
    field("LocalSecondaryIndexes", Map(&Structure(UNITS))),
    field("GlobalSecondaryIndexes", Map(&Structure(UNITS))),
]);

/// EventBridge, PutEvents.
const PUT_EVENTS: &[Field] = &[
    field("FailedEntryCount", NUMBER),
    field(
        "Entries",
        List(&Structure(&[field("EventId", TEXT), field("ErrorCode", TEXT), field("ErrorMessage", TEXT)])),
    ),
];

/// S3, StorageClass.
const STORAGE_CLASS: Shape = OneOf(&[
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "GLACIER_IR",
    "SNOW",
    "EXPRESS_ONEZONE",
    "FSX_OPENZFS",
    "FSX_ONTAP",
]);

/// S3, GetObject and HeadObject.
const OBJECT: &[Field] = &[
    // JSON where it can be read as that.
    field("Body", Anything),
    field("DeleteMarker", Boolean),
    field("AcceptRanges", TEXT),
    field("Expiration", TEXT),
    field("LastModified", TIME),
    field("ContentLength", NUMBER),
    field("ETag", TEXT),
    field("MissingMeta", NUMBER),
    field("VersionId", TEXT),
    field("CacheControl", TEXT),
    field("ContentDisposition", TEXT),
    field("ContentEncoding", TEXT),
    field("ContentLanguage", TEXT),
    field("ContentRange", TEXT),
    field("ContentType", TEXT),
    field("Expires", TIME),
    field("ServerSideEncryption", TEXT),
    field("Metadata", Map(&TEXT)),
    field("SSEKMSKeyId", TEXT),
    field("BucketKeyEnabled", Boolean),
    field("StorageClass", STORAGE_CLASS),
    field("PartsCount", NUMBER),
    field("TagCount", NUMBER),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_by_service_and_action() {
        use IntegrationPattern::{RequestResponse, Sync, Sync2, WaitForTaskToken};
        for (service, action, pattern, first) in [
            ("lambda", "invoke", RequestResponse, Some("StatusCode")),
            ("aws-sdk:lambda", "invoke", RequestResponse, Some("StatusCode")),
            ("lambda", "invoke", WaitForTaskToken, None),
            ("states", "startExecution", RequestResponse, Some("ExecutionArn")),
            ("states", "startExecution", Sync, Some("ExecutionArn")),
            ("states", "startExecution", Sync2, Some("ExecutionArn")),
            ("aws-sdk:sfn", "describeExecution", RequestResponse, Some("ExecutionArn")),
            ("aws-sdk:dynamodb", "scan", RequestResponse, Some("Items")),
            ("glue", "startJobRun", Sync, None),
            ("http", "invoke", RequestResponse, None),
            ("apigateway", "invoke", RequestResponse, None),
            ("aws-sdk:s3", "restoreObject", RequestResponse, None),
        ] {
            let found = result(service, action, pattern).map(|shape| match shape {
                Structure(fields) => fields[0].name,
                other => panic!("{other:?}"),
            });
            assert_eq!(found, first, "{service}:{action}");
        }
    }

    #[test]
    fn no_action_stands_twice() {
        let mut seen = std::collections::HashSet::new();
        for (service, actions, _) in ACTIONS {
            for action in *actions {
                assert!(seen.insert((service, action)), "{service}:{action}");
            }
        }
    }
}
