//! What a definition says about its data set: `ItemReader.ReaderConfig` after its expressions were evaluated.
//!
//! See the developer guide, [ItemReader](https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html).

use serde_json::Value;

use super::{ITEMS_MAX, error::ReadError};

/// What the objects of a data set hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// Rows of fields; each row is an object of strings.
    Csv(Csv),
    /// One JSON document, whose array or object holds the items.
    Json {
        /// The segments of the JSON Pointer (RFC 6901) to that array or object; none is the document itself.
        pointer: Vec<String>,
    },
    /// One JSON document a line.
    JsonLines,
}

/// How rows become objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csv {
    /// The byte between two fields.
    pub delimiter: u8,
    /// The fields' names; `None`: the first row holds them.
    pub headers: Option<Vec<String>>,
}

/// What the object that `Key` names is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manifest {
    /// It holds the items.
    None,
    /// It is an S3 inventory's `manifest.json`, which lists CSV files.
    S3Inventory,
    /// It is the manifest of an Athena `UNLOAD`: the URIs of data files, one a line.
    Athena,
}

/// An evaluated `ReaderConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderConfig {
    /// What the objects hold. `None` where there is nothing to decode: a listing, or an inventory, whose manifest
    /// says it.
    pub format: Option<Format>,
    /// What the named object is.
    pub manifest: Manifest,
    /// `Transformation` is `LOAD_AND_FLATTEN`: the listed objects' items, not the list.
    pub flatten: bool,
    /// Reading ends after this many items. At most [`ITEMS_MAX`], which is also the default.
    pub items_max: u64,
}

impl ReaderConfig {
    /// Reads the evaluated field; `Null` is an empty one. Fields of other input types are ignored.
    pub fn parse(config: &Value) -> Result<ReaderConfig, ReadError> {
        if !matches!(config, Value::Null | Value::Object(_)) {
            return Err(ReadError::new("field ReaderConfig must be an object"));
        }
        let items_max = items_max(&config["MaxItems"])?;
        let flatten = match text(config, "Transformation")? {
            None | Some("NONE") => false,
            Some("LOAD_AND_FLATTEN") => true,
            Some(other) => return Err(unknown("Transformation", other, "NONE or LOAD_AND_FLATTEN")),
        };
        let input_type = text(config, "InputType")?;
        let manifest = match (text(config, "ManifestType")?, input_type) {
            (Some("ATHENA_DATA"), _) => Manifest::Athena,
            (Some("S3_INVENTORY"), _) | (None, Some("MANIFEST")) => Manifest::S3Inventory,
            (None, _) => Manifest::None,
            (Some(other), _) => return Err(unknown("ManifestType", other, "ATHENA_DATA or S3_INVENTORY")),
        };
        let format = match input_type {
            None => None,
            Some("MANIFEST") if manifest == Manifest::S3Inventory => None,
            Some("CSV") => Some(Format::Csv(csv(config)?)),
            Some("JSON") => Some(Format::Json { pointer: pointer(config)? }),
            Some("JSONL") => Some(Format::JsonLines),
            Some("PARQUET") => {
                return Err(ReadError::new(
                    "InputType PARQUET is not supported: convert the data set to JSONL or CSV",
                ));
            }
            Some(other) => return Err(unknown("InputType", other, "CSV, JSON, JSONL or MANIFEST")),
        };
        if manifest == Manifest::Athena && format.is_none() {
            return Err(ReadError::new("ManifestType ATHENA_DATA needs InputType CSV or JSONL"));
        }
        Ok(ReaderConfig { format, manifest, flatten, items_max })
    }
}

fn text<'a>(config: &'a Value, field: &str) -> Result<Option<&'a str>, ReadError> {
    match config.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ReadError::new(format!("field {field} must be a string"))),
    }
}

fn unknown(field: &str, value: &str, known: &str) -> ReadError {
    ReadError::new(format!("field {field} is '{}', not {known}", super::error::excerpt(value)))
}

/// Zero and nothing mean all, as on AWS; an expression may give a whole number as a float.
fn items_max(value: &Value) -> Result<u64, ReadError> {
    let number = match value {
        Value::Null => return Ok(ITEMS_MAX),
        Value::Number(number) => number.as_f64().unwrap_or(-1.0),
        _ => return Err(ReadError::new("field MaxItems must be a number")),
    };
    if number < 0.0 {
        return Err(ReadError::new("field MaxItems must be positive"));
    }
    if number.fract() != 0.0 {
        return Err(ReadError::new("field MaxItems must be a whole number"));
    }
    if number == 0.0 || number >= ITEMS_MAX as f64 { Ok(ITEMS_MAX) } else { Ok(number as u64) }
}

fn csv(config: &Value) -> Result<Csv, ReadError> {
    let delimiter = match text(config, "CSVDelimiter")? {
        None | Some("COMMA") => b',',
        Some("PIPE") => b'|',
        Some("SEMICOLON") => b';',
        Some("SPACE") => b' ',
        Some("TAB") => b'\t',
        Some(other) => {
            return Err(unknown("CSVDelimiter", other, "COMMA, PIPE, SEMICOLON, SPACE or TAB"));
        }
    };
    let headers = match text(config, "CSVHeaderLocation")? {
        Some("FIRST_ROW") => None,
        Some("GIVEN") => Some(given_headers(&config["CSVHeaders"])?),
        Some(other) => return Err(unknown("CSVHeaderLocation", other, "FIRST_ROW or GIVEN")),
        None => return Err(ReadError::new("InputType CSV needs CSVHeaderLocation, FIRST_ROW or GIVEN")),
    };
    Ok(Csv { delimiter, headers })
}

fn given_headers(value: &Value) -> Result<Vec<String>, ReadError> {
    let names = || ReadError::new("CSVHeaderLocation GIVEN needs CSVHeaders, an array of strings");
    let list = value.as_array().ok_or_else(names)?;
    let headers: Vec<String> =
        list.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(names)?;
    super::csv::check_headers(&headers)?;
    Ok(headers)
}

/// RFC 6901: `/` before each segment, `~1` for a slash and `~0` for a tilde within one.
fn pointer(config: &Value) -> Result<Vec<String>, ReadError> {
    let Some(pointer) = text(config, "ItemsPointer")?.filter(|pointer| !pointer.is_empty()) else {
        return Ok(Vec::new());
    };
    let Some(path) = pointer.strip_prefix('/') else {
        return Err(ReadError::new("field ItemsPointer must be a JSON Pointer such as /data/items"));
    };
    Ok(path.split('/').map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_input_type_is_read() {
        let parse = |config: Value| ReaderConfig::parse(&config).unwrap();
        let empty =
            ReaderConfig { format: None, manifest: Manifest::None, flatten: false, items_max: ITEMS_MAX };
        assert_eq!(parse(Value::Null), empty);
        assert_eq!(parse(json!({"InputType": "JSONL"})).format, Some(Format::JsonLines));
        assert_eq!(
            parse(json!({"InputType": "JSON", "ItemsPointer": "/a~1b/0/~0"})).format,
            Some(Format::Json { pointer: vec!["a/b".into(), "0".into(), "~".into()] })
        );
        assert_eq!(
            parse(json!({"InputType": "JSON", "ItemsPointer": ""})).format,
            Some(Format::Json { pointer: vec![] })
        );
        for (name, delimiter) in
            [("COMMA", b','), ("PIPE", b'|'), ("SEMICOLON", b';'), ("SPACE", b' '), ("TAB", b'\t')]
        {
            let config = json!({"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW", "CSVDelimiter": name});
            assert_eq!(parse(config).format, Some(Format::Csv(Csv { delimiter, headers: None })));
        }
        let given = json!({"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a", ""]});
        assert_eq!(
            parse(given).format,
            Some(Format::Csv(Csv { delimiter: b',', headers: Some(vec!["a".into(), String::new()]) }))
        );
        assert_eq!(parse(json!({"InputType": "MANIFEST"})).manifest, Manifest::S3Inventory);
        assert_eq!(
            parse(json!({"InputType": "MANIFEST", "ManifestType": "S3_INVENTORY"})).manifest,
            Manifest::S3Inventory
        );
        let athena = parse(json!({"InputType": "JSONL", "ManifestType": "ATHENA_DATA"}));
        assert_eq!((athena.manifest, athena.format), (Manifest::Athena, Some(Format::JsonLines)));
        assert!(parse(json!({"InputType": "JSONL", "Transformation": "LOAD_AND_FLATTEN"})).flatten);
    }

    #[test]
    fn zero_items_are_all_and_the_most_is_a_hundred_million() {
        let max = |value: Value| ReaderConfig::parse(&json!({ "MaxItems": value })).map(|c| c.items_max);
        for (value, expected) in [
            (json!(null), ITEMS_MAX),
            (json!(0), ITEMS_MAX),
            (json!(2), 2),
            (json!(2.0), 2),
            (json!(100_000_000), ITEMS_MAX),
            (json!(100_000_001), ITEMS_MAX),
            (json!(1e300), ITEMS_MAX),
        ] {
            assert_eq!(max(value.clone()).unwrap(), expected, "{value}");
        }
        assert_eq!(max(json!(-1)).unwrap_err().cause(), "field MaxItems must be positive");
        assert!(max(json!(1.5)).is_err());
        assert!(max(json!("2")).is_err());
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for config in [
            json!([]),
            json!({"InputType": "XML"}),
            json!({"InputType": 1}),
            json!({"InputType": "PARQUET"}),
            json!({"InputType": "CSV"}),
            json!({"InputType": "CSV", "CSVHeaderLocation": "LAST_ROW"}),
            json!({"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW", "CSVDelimiter": ","}),
            json!({"InputType": "CSV", "CSVHeaderLocation": "GIVEN"}),
            json!({"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": []}),
            json!({"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a", 1]}),
            json!({"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a", "a"]}),
            json!({"InputType": "JSON", "ItemsPointer": "a"}),
            json!({"ManifestType": "GLUE"}),
            json!({"ManifestType": "ATHENA_DATA"}),
            json!({"Transformation": "FLATTEN"}),
        ] {
            assert!(ReaderConfig::parse(&config).is_err(), "{config}");
        }
        let duplicates = json!({"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a", "a"]});
        assert_eq!(
            ReaderConfig::parse(&duplicates).unwrap_err().cause(),
            "CSV headers cannot contain duplicates."
        );
    }
}
