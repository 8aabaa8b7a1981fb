//! What makes a Map state distributed.

use super::*;
use crate::model::{Number, Percentage, Transformation};

/// A distributed Map state with more fields.
fn distributed(more: &str) -> String {
    state(&format!(
        r#""Type": "Map", "End": true, "ItemProcessor": {{
            "ProcessorConfig": {{"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}},
            "StartAt": "I", "States": {{"I": {{"Type": "Succeed"}}}}}}, {more}"#
    ))
}

/// An inline Map state with more fields.
fn inline(more: &str) -> String {
    distributed(more).replacen(r#""DISTRIBUTED", "ExecutionType": "STANDARD""#, r#""INLINE""#, 1)
}

#[test]
fn a_distributed_map_is_read_with_what_belongs_to_it() {
    let (machine, findings) = parse(&distributed(
        r#""Label": "l", "ToleratedFailurePercentage": 12.5, "MaxConcurrency": 7,
        "ItemReader": {"Resource": "arn:aws:states:::s3:getObject", "Parameters": {"Bucket.$": "$.b", "Key": "k"},
            "ReaderConfig": {"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW", "MaxItemsPath": "$.n"}},
        "ItemBatcher": {"MaxItemsPerBatch": 3, "MaxInputBytesPerBatchPath": "$.bytes", "BatchInput": {"a.$": "$.a"}},
        "ResultWriter": {"Resource": "arn:aws:states:::s3:putObject", "Parameters": {"Bucket": "b"},
            "WriterConfig": {"Transformation": "COMPACT", "OutputType": "JSONL"}}"#,
    ))
    .unwrap();
    assert_eq!(findings, []);
    let (state, map, distributed) = machine.distributed_maps().next().unwrap();
    assert_eq!((&*state.name, &*distributed.label), ("S", "l"));
    assert!(matches!(map.tolerated_failure_percentage, Some(Percentage::Fixed(p)) if p == 12.5));
    let reader = distributed.reader.as_ref().unwrap();
    assert_eq!(reader.resource, "arn:aws:states:::s3:getObject");
    assert_eq!(
        reader.config.as_ref().unwrap().source(),
        &serde_json::json!({ "InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW" })
    );
    assert!(matches!(reader.max_items, Some(Number::Path(_))));
    let batcher = distributed.batcher.as_ref().unwrap();
    assert!(matches!(
        (&batcher.max_items, &batcher.max_bytes),
        (Some(Number::Fixed(3)), Some(Number::Path(_)))
    ));
    let writer = distributed.writer.as_ref().unwrap();
    assert_eq!((writer.transformation, writer.json_lines), (Some(Transformation::Compact), true));
    let child = machine.processor("l").unwrap();
    assert_eq!(&*child.state(child.start_at).name, "I");
    assert!(machine.processor("other").is_none());
}

#[test]
fn a_distributed_map_without_a_label_has_one_of_its_own_that_stays() {
    let label = || {
        parse(&distributed(r#""Comment": """#)).unwrap().0.distributed_maps().next().unwrap().2.label.clone()
    };
    assert_eq!(label(), label());
    assert_eq!(label().len(), 36);
}

#[test]
fn what_makes_a_map_distributed_is_checked() {
    let jsonata = |more: &str| {
        let definition = distributed(more);
        definition.replacen("\"Type\": \"Map\"", "\"Type\": \"Map\", \"QueryLanguage\": \"JSONata\"", 1)
    };
    check(&[
        (
            distributed(r#""ItemReader": {}, "ItemBatcher": {}, "ResultWriter": {}"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/ItemReader: These fields are required: [Resource]",
                "SCHEMA_VALIDATION_FAILED /States/S/ItemBatcher: At least one of these fields is required",
                "SCHEMA_VALIDATION_FAILED /States/S/ResultWriter: At least one of these fields is required",
            ],
        ),
        (
            distributed(r#""ItemReader": {"Resource": "s3"}, "Label": "a/b""#),
            &[
                "INVALID_LABEL_NAME /States/S/Label: ",
                "SCHEMA_VALIDATION_FAILED /States/S/ItemReader/Resource: The resource provided s3 is not recognized",
            ],
        ),
        (
            jsonata(
                r#""ItemReader": {"Resource": "arn:aws:states:::s3:getObject", "Arguments": {"Key": "{% $states.input.k %}"},
                   "ReaderConfig": {"MaxItems": "{% 1 + 1 %}"}},
                   "ItemBatcher": {"MaxItemsPerBatch": "{% $states.input.n %}"}, "Items": {"a": 1}"#,
            ),
            &[],
        ),
        (
            jsonata(r#""ItemBatcher": {"MaxItemsPerBatchPath": "$.n"}"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/ItemBatcher: The QueryLanguage is set to 'JSONata', but field",
            ],
        ),
        (
            inline(r#""ItemReader": {"Resource": "arn:aws:states:::s3:getObject"}"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S: Field 'ItemReader' is only supported by a Map state in DISTRIBUTED",
            ],
        ),
        (
            distributed(r#""ToleratedFailurePercentage": 100.5"#),
            &[
                "SCHEMA_VALIDATION_FAILED /States/S/ToleratedFailurePercentage: Value must be a number from 0 to 100",
            ],
        ),
    ]);
}

#[test]
fn labels_are_unique_and_the_processor_of_a_distributed_map_has_variables_of_its_own() {
    let inner = |label: &str, name: &str| {
        format!(
            r#"{{"Type": "Map", "Label": "{label}", "Next": "E", "ItemProcessor": {{
            "ProcessorConfig": {{"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"}}, "StartAt": "{name}",
            "States": {{"{name}": {{"Type": "Pass", "Assign": {{"v": 1}}, "End": true}}}}}}}}"#
        )
    };
    let machine = |first: &str, second: &str| {
        format!(
            r#"{{"StartAt": "P", "States": {{"P": {{"Type": "Parallel", "Next": "E", "Branches": [
            {{"StartAt": "A", "States": {{"A": {}, "E": {{"Type": "Pass", "Assign": {{"v": 2}}, "End": true}}}}}},
            {{"StartAt": "B", "States": {{"B": {}, "E2": {{"Type": "Succeed"}}}}}}]}}, "E3": {{"Type": "Succeed"}}}}}}"#,
            inner(first, "X"),
            inner(second, "Y").replace("\"E\"", "\"E2\"")
        )
        .replacen("\"Next\": \"E\", \"Branches\"", "\"Next\": \"E3\", \"Branches\"", 1)
    };
    check(&[
        (machine("a", "b"), &[]),
        (
            machine("a", "a"),
            &["INVALID_LABEL_NAME /States/P/Branches/1/States/B/Label: The label 'a' appears"],
        ),
    ]);
}
