//! Map states, inline and distributed.

use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    errors,
    finding::{Severity, codes},
    graph::Origin,
    machine::Parser,
    node::{COUNT_MAX, Findings, Node},
    states::{COMMON, FLOW, PATHS, RESULT, WORK, parameters, transition},
};
use crate::{
    model::{
        Distributed, ErrorHandling, ExecutionType, ItemBatcher, ItemReader, MapState, Number, Percentage,
        ResultWriter, StateIndex, Transformation,
    },
    template::Template,
};

/// The largest `MaxItems` (Step Functions Developer Guide, ItemReader, "MaxItems").
const ITEMS_MAX: u64 = 100_000_000;
/// The longest label, in characters (Step Functions Developer Guide, Distributed Map, "Label").
const LABEL_CHARS_MAX: usize = 40;

pub(super) fn read(parser: &mut Parser, origin: &mut Origin<'_, '_>, node: &Node<'_>) -> Option<MapState> {
    const OWN: &[&str] = &[
        "ItemProcessor",
        "Iterator",
        "ItemsPath",
        "Items",
        "ItemSelector",
        "MaxConcurrency",
        "MaxConcurrencyPath",
        "ToleratedFailureCount",
        "ToleratedFailureCountPath",
        "ToleratedFailurePercentage",
        "ToleratedFailurePercentagePath",
        "ItemReader",
        "ItemBatcher",
        "ResultWriter",
        "Label",
    ];
    let found = &mut parser.findings;
    found.only(node, &[COMMON, PATHS, FLOW, RESULT, WORK, OWN]);
    found.exactly_one(node, &["ItemProcessor", "Iterator"]);
    found.at_most_one(node, &["ItemSelector", "Parameters"]);
    let items_path = found.path(node, "ItemsPath");
    let items = items(found, node);
    let item_selector = found.template(node, "ItemSelector").or_else(|| found.template(node, "Parameters"));
    let max_concurrency = found.number(node, "MaxConcurrency", 0..=COUNT_MAX);
    let tolerated_failure_count = found.number(node, "ToleratedFailureCount", 0..=COUNT_MAX);
    let tolerated_failure_percentage = percentage(found, node);
    let result_selector = found.template(node, "ResultSelector");
    let result_path = found.result_path(node);
    let errors: ErrorHandling = errors::read(found, origin, node);
    let transition = transition(found, origin, node);
    let distributed = distributed(parser, node);
    let start_at = item_processor(parser, node);
    Some(MapState {
        start_at: start_at?,
        items_path,
        items,
        item_selector,
        max_concurrency,
        tolerated_failure_count,
        tolerated_failure_percentage,
        distributed: match distributed {
            Mode::Inline => None,
            Mode::Distributed(distributed) => Some(distributed?),
        },
        result_selector,
        result_path,
        errors,
        transition: transition?,
    })
}

/// How the iterations run.
enum Mode {
    Inline,
    /// `None`: what makes it distributed could not be read.
    Distributed(Option<Box<Distributed>>),
}

/// `Items`: an array, in distributed mode maybe an object, or an expression that gives one.
fn items(found: &mut Findings, node: &Node<'_>) -> Option<Template> {
    match node.get("Items")? {
        Value::Array(_) if found.is_jsonata() => found.jsonata(node, "Items", "Items"),
        Value::Object(_) if found.is_jsonata() && is_distributed(node) => {
            found.jsonata(node, "Items", "Items")
        }
        _ if found.is_jsonata() => found.query(node, "Items", "Items"),
        // Said already.
        _ => None,
    }
}

fn is_distributed(node: &Node<'_>) -> bool {
    let config = node.get(processor_field(node)).and_then(|processor| processor.get("ProcessorConfig"));
    config.and_then(|config| config.get("Mode")).and_then(Value::as_str) == Some("DISTRIBUTED")
}

/// `ItemProcessor` or `Iterator`.
fn processor_field(node: &Node<'_>) -> &'static str {
    if node.has("ItemProcessor") { "ItemProcessor" } else { "Iterator" }
}

fn item_processor(parser: &mut Parser, node: &Node<'_>) -> Option<StateIndex> {
    let processor = parser.findings.object_field(node, processor_field(node))?;
    parser.findings.only(&processor, &[&["StartAt", "States", "Comment", "ProcessorConfig"]]);
    parser.findings.comment(&processor);
    parser.scope(&processor)
}

/// `ProcessorConfig`, and the fields that only a distributed Map state has.
fn distributed(parser: &mut Parser, node: &Node<'_>) -> Mode {
    const ONLY_DISTRIBUTED: [&str; 4] = ["ItemReader", "ItemBatcher", "ResultWriter", "Label"];
    let found = &mut parser.findings;
    let processor = node.get(processor_field(node)).and_then(Value::as_object);
    let pointer = node.at(processor_field(node));
    let processor = processor.map(|fields| Node { fields, pointer });
    let config = processor.and_then(|processor| found.object_field(&processor, "ProcessorConfig"));
    let mut mode = None;
    let mut execution_type = None;
    if let Some(config) = &config {
        found.only(config, &[&["Mode", "ExecutionType"]]);
        execution_type = found.one_of(config, "ExecutionType", &["STANDARD", "EXPRESS"]);
        mode = found.one_of(config, "Mode", &["INLINE", "DISTRIBUTED"]);
    }
    let label = label(parser, node);
    if mode != Some("DISTRIBUTED") {
        for field in ONLY_DISTRIBUTED.into_iter().filter(|field| node.has(field) && *field != "Label") {
            let message = format!("Field '{field}' is only supported by a Map state in DISTRIBUTED mode");
            parser.findings.schema(node.pointer.as_str(), message).help =
                Some("set Mode to DISTRIBUTED in the ProcessorConfig of its ItemProcessor".to_owned());
        }
        return Mode::Inline;
    }
    let found = &mut parser.findings;
    if let Some(config) = &config {
        found.required(config, &["ExecutionType"]);
    }
    let optional = |field: &str, read: bool| read || !node.has(field);
    let reader = item_reader(found, node);
    let batcher = item_batcher(found, node);
    let writer = result_writer(found, node);
    let complete = optional("ItemReader", reader.is_some())
        && optional("ItemBatcher", batcher.is_some())
        && optional("ResultWriter", writer.is_some());
    let label = label.filter(|_| complete);
    Mode::Distributed(label.zip(execution_type).map(|(label, execution_type)| {
        let execution_type = match execution_type {
            "EXPRESS" => ExecutionType::Express,
            _ => ExecutionType::Standard,
        };
        Box::new(Distributed { label, execution_type, reader, batcher, writer })
    }))
}

fn item_reader(found: &mut Findings, node: &Node<'_>) -> Option<ItemReader> {
    let reader = found.object_field(node, "ItemReader")?;
    found.only(&reader, &[&["Resource", "Parameters", "Arguments", "ReaderConfig"]]);
    found.required(&reader, &["Resource"]);
    let resource = resource(found, &reader);
    let parameters = parameters(found, &reader);
    let (mut config, mut max_items) = (None, None);
    if let Some(fields) = found.object_field(&reader, "ReaderConfig") {
        max_items = max_items_of(found, &fields);
        config = reader_config(found, &fields);
    }
    Some(ItemReader { resource: resource?, parameters, config, max_items })
}

/// `MaxItems`, whose sign is looked at when the items are read, or `MaxItemsPath`.
fn max_items_of(found: &mut Findings, config: &Node<'_>) -> Option<Number> {
    found.number(config, "MaxItems", 0..=ITEMS_MAX)
}

/// The rest of `ReaderConfig`: plain JSON, in JSONata with expressions.
fn reader_config(found: &mut Findings, config: &Node<'_>) -> Option<Template> {
    let rest: Map<String, Value> = config
        .fields
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "MaxItems" | "MaxItemsPath"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let around = Map::from_iter([("ReaderConfig".to_owned(), Value::Object(rest))]);
    let (parent, _) = config.pointer.rsplit_once('/').unwrap_or_default();
    found.template(&Node { fields: &around, pointer: parent.to_owned() }, "ReaderConfig")
}

fn item_batcher(found: &mut Findings, node: &Node<'_>) -> Option<ItemBatcher> {
    const LIMITS: [&str; 4] =
        ["MaxItemsPerBatch", "MaxItemsPerBatchPath", "MaxInputBytesPerBatch", "MaxInputBytesPerBatchPath"];
    let batcher = found.object_field(node, "ItemBatcher")?;
    found.only(&batcher, &[&LIMITS, &["BatchInput"]]);
    if !LIMITS.iter().any(|field| batcher.has(field)) {
        let message =
            "At least one of these fields is required: [MaxItemsPerBatch, MaxInputBytesPerBatch]".to_owned();
        found.schema(batcher.pointer.as_str(), message);
    }
    let max_items = found.number(&batcher, "MaxItemsPerBatch", 1..=COUNT_MAX);
    let max_bytes = found.number(&batcher, "MaxInputBytesPerBatch", 1..=COUNT_MAX);
    let input = found.template(&batcher, "BatchInput");
    Some(ItemBatcher { max_items, max_bytes, input })
}

fn result_writer(found: &mut Findings, node: &Node<'_>) -> Option<ResultWriter> {
    let writer = found.object_field(node, "ResultWriter")?;
    found.only(&writer, &[&["Resource", "Parameters", "Arguments", "WriterConfig"]]);
    if !writer.has("Resource") && !writer.has("WriterConfig") {
        let message = "At least one of these fields is required: [Resource, WriterConfig]";
        found.schema(writer.pointer.as_str(), message);
    }
    let resource = resource(found, &writer);
    if writer.has("Resource") && resource.is_none() {
        return None;
    }
    let parameters = parameters(found, &writer);
    let (mut transformation, mut json_lines) = (None, false);
    if let Some(config) = found.object_field(&writer, "WriterConfig") {
        found.only(&config, &[&["Transformation", "OutputType"]]);
        let named = found.one_of(&config, "Transformation", &["NONE", "COMPACT", "FLATTEN"]);
        transformation = named.map(|name| match name {
            "NONE" => Transformation::None,
            "COMPACT" => Transformation::Compact,
            _ => Transformation::Flatten,
        });
        json_lines = found.one_of(&config, "OutputType", &["JSON", "JSONL"]) == Some("JSONL");
    }
    Some(ResultWriter { resource, parameters, transformation, json_lines })
}

/// The `Resource` of a reader or writer.
fn resource(found: &mut Findings, node: &Node<'_>) -> Option<String> {
    let arn = found.string(node, "Resource")?;
    if arn.starts_with("arn:aws") && arn.splitn(6, ':').count() == 6 {
        return Some(arn.to_owned());
    }
    let message =
        format!("The resource provided {arn} is not recognized. The value is not a valid resource ARN.");
    found.schema(node.at("Resource"), message).help =
        Some("for instance arn:aws:states:::s3:getObject".to_owned());
    None
}

fn percentage(found: &mut Findings, node: &Node<'_>) -> Option<Percentage> {
    const FIELD: &str = "ToleratedFailurePercentage";
    const PATH: &str = "ToleratedFailurePercentagePath";
    if found.has_query(node, FIELD) {
        return found.query(node, FIELD, FIELD).map(Percentage::Query);
    }
    found.at_most_one(node, &[FIELD, PATH]);
    let Some(value) = node.get(FIELD) else { return found.path(node, PATH).map(Percentage::Path) };
    match value.as_f64() {
        None => found.wrong_type(node.at(FIELD), "Float"),
        Some(percentage) if (0.0..=100.0).contains(&percentage) => Some(Percentage::Fixed(percentage)),
        Some(_) => {
            found.schema(node.at(FIELD), "Value must be a number from 0 to 100");
            None
        }
    }
}

/// `Label`, or one that is made from the name of the state.
fn label(parser: &mut Parser, node: &Node<'_>) -> Option<Arc<str>> {
    let found = &mut parser.findings;
    if !node.has("Label") {
        return Some(made_label(&node.pointer).into());
    }
    let label = found.string(node, "Label")?;
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "?*<>{}[]:;,\\|^~$#%&`\"/".contains(c);
    if label.is_empty() || label.chars().count() > LABEL_CHARS_MAX || label.chars().any(forbidden) {
        let message = format!(
            "A label has 1 to {LABEL_CHARS_MAX} characters, no white space and none of ?*<>{{}}[]:;,\\|^~$#%&`\"/"
        );
        found.add(Severity::Error, codes::LABEL, node.at("Label"), message);
        return None;
    }
    let label: Arc<str> = label.into();
    if !parser.labels.insert(Arc::clone(&label)) {
        let message = format!("The label '{label}' appears more than once");
        parser.findings.add(Severity::Error, codes::LABEL, node.at("Label"), message).help =
            Some("labels are unique in the whole machine".to_owned());
        return None;
    }
    Some(label)
}

/// A label in the form of a UUID, as the service makes one; a function of the name of the state, which is the last part
/// of its pointer and unique in the machine.
fn made_label(pointer: &str) -> String {
    let name = pointer.rsplit_once('/').map_or(pointer, |(_, name)| name);
    let hash = Sha256::digest(name);
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
