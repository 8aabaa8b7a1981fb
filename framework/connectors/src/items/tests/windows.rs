//! Windows over data sets in memory: one object, listings and manifests; what changes in between; what it costs.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::Mutex,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    super::{
        Chunk, Listed, Listing, Object, Objects, ReadError, ReadRequest, SourceRun, Window, read_window,
    },
    block_on,
};

/// A bucket in memory, which notes what is asked of it.
#[derive(Default)]
struct Bucket {
    objects: Mutex<BTreeMap<String, (Vec<u8>, u32)>>,
    asked: Mutex<Asked>,
}

#[derive(Default, Clone, Copy, Debug)]
struct Asked {
    reads: u64,
    bytes: u64,
}

impl Bucket {
    fn with(objects: &[(&str, &str)]) -> Bucket {
        let bucket = Bucket::default();
        for (key, text) in objects {
            bucket.put(key, text.as_bytes());
        }
        bucket
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        let mut objects = self.objects.lock().unwrap();
        let version = objects.get(key).map_or(1, |(_, version)| version + 1);
        objects.insert(key.to_owned(), (bytes.to_vec(), version));
    }
}

#[async_trait]
impl Objects for Bucket {
    async fn read(
        &self,
        object: &Object,
        offset: u64,
        length: usize,
        _: Option<&str>,
    ) -> Result<Chunk, ReadError> {
        let key = match object {
            Object::S3 { key, .. } => key,
            Object::File { path } => path,
            Object::Http { url } => url,
        };
        let objects = self.objects.lock().unwrap();
        let (bytes, version) = objects.get(key).ok_or_else(|| ReadError::new("there is no such object"))?;
        let from = bytes.len().min(usize::try_from(offset).unwrap());
        let to = bytes.len().min(from + length);
        let mut asked = self.asked.lock().unwrap();
        asked.reads += 1;
        asked.bytes += (to - from) as u64;
        Ok(Chunk {
            bytes: bytes[from..to].to_vec().into(),
            version: version.to_string(),
            last: to == bytes.len(),
        })
    }

    async fn list(&self, listing: &Listing, limit: usize) -> Result<Vec<Listed>, ReadError> {
        let objects = self.objects.lock().unwrap();
        let after = listing.start_after.clone().unwrap_or_default();
        let wanted = |key: &String| key.starts_with(&listing.prefix) && *key > after;
        let listed = objects.iter().filter(|(key, _)| wanted(key)).take(limit);
        let listed = listed.map(|(key, (bytes, _))| Listed {
            key: key.clone(),
            size: bytes.len() as u64,
            item: json!({"Key": key, "Size": bytes.len()}),
        });
        Ok(listed.collect())
    }
}

fn request(resource: &str, config: Value, parameters: Value) -> ReadRequest {
    ReadRequest {
        resource: format!("arn:aws:states:::{resource}"),
        reader_config: config,
        parameters,
        cursor: None,
        limit: 1_000,
        max_bytes: 256 * 1024,
    }
}

fn get(key: &str, config: Value) -> ReadRequest {
    request("s3:getObject", config, json!({"Bucket": "b", "Key": key}))
}

fn read(bucket: &Bucket, request: &ReadRequest) -> Result<Window<String>, ReadError> {
    block_on(read_window(bucket, request))
}

/// All windows, the index of each checked; gives the items and how many windows there were.
fn read_all(bucket: &Bucket, request: &ReadRequest) -> Result<(Vec<Value>, usize), ReadError> {
    let mut request = request.clone();
    let (mut items, mut windows) = (Vec::new(), 0);
    loop {
        let window = read(bucket, &request)?;
        windows += 1;
        assert_eq!(window.first_index, items.len() as u64);
        assert!(window.items.len() <= request.limit);
        assert_eq!(window.sources.iter().map(|run| run.items).sum::<usize>(), window.items.len());
        items.extend(window.items.iter().map(|item| serde_json::from_str::<Value>(item).unwrap()));
        match window.cursor {
            Some(cursor) => request.cursor = Some(cursor),
            None => return Ok((items, windows)),
        }
    }
}

fn rows(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(|n| json!({"id": n.to_string(), "name": format!("row {n}")})).collect()
}

fn csv(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{n},row {n}\n")).collect()
}

fn first_row() -> Value {
    json!({"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW"})
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_object_is_read_in_windows() {
    let array = Value::from(rows(0..25));
    let lines: String = rows(0..25).iter().map(|row| format!("{row}\n")).collect();
    let csv = format!("id,name\n{}", csv(0..25));
    let nested = json!({"a": {"b": array}}).to_string();
    let array = array.to_string();
    let bucket = Bucket::with(&[("csv", &csv), ("json", &array), ("lines", &lines), ("nested", &nested)]);
    bucket.put("csv.gz", &gzip(&csv));
    for (key, config) in [
        ("csv", first_row()),
        ("csv.gz", first_row()),
        ("json", json!({"InputType": "JSON"})),
        ("nested", json!({"InputType": "JSON", "ItemsPointer": "/a/b"})),
        ("lines", json!({"InputType": "JSONL"})),
    ] {
        for (limit, windows) in [(1, 25), (2, 13), (5, 5), (24, 2), (25, 1), (26, 1), (1_000, 1)] {
            let request = ReadRequest { limit, ..get(key, config.clone()) };
            assert_eq!(read_all(&bucket, &request).unwrap(), (rows(0..25), windows), "{key} {limit}");
        }
        // Each item has 25 or 27 bytes, and its source is named once.
        let request = ReadRequest { max_bytes: 200, ..get(key, config) };
        let (items, windows) = read_all(&bucket, &request).unwrap();
        assert_eq!(items, rows(0..25));
        assert!((4..=6).contains(&windows), "{windows}");
    }
}

#[test]
fn windows_tell_names_and_sources() {
    let bucket = Bucket::with(&[("a.json", r#"{"x": 1, "y": [2]}"#)]);
    let window = read(&bucket, &get("a.json", json!({"InputType": "JSON"}))).unwrap();
    assert_eq!(window.items, ["1", "[2]"]);
    assert_eq!(window.keys, Some(vec![Some("x".to_owned()), Some("y".to_owned())]));
    assert_eq!(window.sources, [SourceRun { source: "s3://b/a.json".to_owned(), items: 2 }]);
    let file = request("file:read", json!({"InputType": "JSON"}), json!({"Path": "a.json"}));
    assert_eq!(read(&bucket, &file).unwrap().sources[0].source, "file:a.json");
    bucket.put("https://h/a.json?token=secret", b"[1]");
    let config = json!({"InputType": "JSON"});
    let url = request("http:get", config, json!({"Url": "https://h/a.json?token=secret"}));
    let window = read(&bucket, &url).unwrap();
    assert_eq!((window.keys, window.sources[0].source.as_str()), (None, "https://h/a.json"));
}

#[test]
fn reading_ends_after_max_items() {
    let csv = format!("id,name\n{}", csv(0..10));
    let bucket = Bucket::with(&[("csv", &csv), ("a/1", &csv), ("a/2", &csv)]);
    for (max_items, expected) in [(0, 10_usize), (1, 1), (3, 3), (10, 10), (11, 10), (100_000_001, 10)] {
        let mut config = first_row();
        config["MaxItems"] = max_items.into();
        for limit in [1, 2, 1_000] {
            let request = ReadRequest { limit, ..get("csv", config.clone()) };
            let (items, windows) = read_all(&bucket, &request).unwrap();
            assert_eq!((items.len(), windows), (expected, expected.div_ceil(limit)), "{max_items} {limit}");
        }
    }
    let list = |config: Value| request("s3:listObjectsV2", config, json!({"Bucket": "b", "Prefix": "a/"}));
    assert_eq!(read_all(&bucket, &list(json!({"MaxItems": 1}))).unwrap().0.len(), 1);
    let mut config = first_row();
    config["Transformation"] = "LOAD_AND_FLATTEN".into();
    config["MaxItems"] = 14.into();
    assert_eq!(read_all(&bucket, &list(config)).unwrap().0.len(), 14);
}

#[test]
fn an_item_that_fits_no_window_is_an_error() {
    let lines = format!("1\n\"{}\"\n2\n", "x".repeat(100));
    let bucket = Bucket::with(&[("lines", &lines)]);
    let request = ReadRequest { max_bytes: 101, ..get("lines", json!({"InputType": "JSONL"})) };
    let error = read_all(&bucket, &request).unwrap_err();
    assert_eq!(error.cause(), "item 1 has 102 bytes; at most 101 are accepted");
    let request = ReadRequest { max_bytes: 102, ..request };
    assert_eq!(read_all(&bucket, &request).unwrap().1, 3);
}

#[test]
fn empty_data_sets_have_one_empty_window() {
    let bucket = Bucket::with(&[("json", "[]"), ("empty", "")]);
    for request in [
        get("json", json!({"InputType": "JSON"})),
        get("empty", json!({"InputType": "JSONL"})),
        get("empty", json!({"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a"]})),
        request("s3:listObjectsV2", Value::Null, json!({"Bucket": "b", "Prefix": "none"})),
    ] {
        assert_eq!(read_all(&bucket, &request).unwrap(), (Vec::new(), 1));
    }
}

#[test]
fn a_list_of_objects_is_read_in_windows() {
    let keys: Vec<String> = (0..2_500).map(|n| format!("in/{n:05}")).collect();
    let bucket = Bucket::default();
    for key in &keys {
        bucket.put(key, b"x");
    }
    bucket.put("other", b"x");
    let expected: Vec<Value> = keys.iter().map(|key| json!({"Key": key, "Size": 1})).collect();
    let list = request("s3:listObjectsV2", Value::Null, json!({"Bucket": "b", "Prefix": "in/"}));
    for (limit, windows) in [(7, 358), (1_000, 3), (2_499, 2), (2_500, 1), (5_000, 1)] {
        let request = ReadRequest { limit, ..list.clone() };
        assert_eq!(read_all(&bucket, &request).unwrap(), (expected.clone(), windows), "{limit}");
    }
    let mut after = list;
    after.parameters["StartAfter"] = "in/02497".into();
    let window = read(&bucket, &after).unwrap();
    assert_eq!(window.items.len(), 2);
    assert_eq!(window.sources, [SourceRun { source: "s3://b".to_owned(), items: 2 }]);
}

#[test]
fn listed_objects_are_flattened() {
    let bucket = Bucket::with(&[("in/", ""), ("in/sub/", "")]);
    for n in 0..150 {
        let from = n * 3;
        bucket.put(&format!("in/{n:03}.csv"), format!("id,name\n{}", csv(from..from + 3)).as_bytes());
    }
    let mut config = first_row();
    config["Transformation"] = "LOAD_AND_FLATTEN".into();
    let flatten = request("s3:listObjectsV2", config, json!({"Bucket": "b", "Prefix": "in/"}));
    for (limit, windows) in [(1, 450), (2, 225), (3, 150), (100, 5), (450, 1), (1_000, 1)] {
        let request = ReadRequest { limit, ..flatten.clone() };
        assert_eq!(read_all(&bucket, &request).unwrap(), (rows(0..450), windows), "{limit}");
    }
    let window = read(&bucket, &ReadRequest { limit: 4, ..flatten.clone() }).unwrap();
    let runs: Vec<_> = window.sources.iter().map(|run| (run.source.as_str(), run.items)).collect();
    assert_eq!(runs, [("s3://b/in/000.csv", 3), ("s3://b/in/001.csv", 1)]);
    bucket.put("in/003.csv", b"id,id\n1,2\n");
    assert_eq!(
        read_all(&bucket, &flatten).unwrap_err().cause(),
        "s3://b/in/003.csv: CSV headers cannot contain duplicates."
    );
}

#[test]
fn objects_without_items_do_not_hold_a_window_up_for_ever() {
    let bucket = Bucket::default();
    for n in 0..1_500 {
        bucket.put(&format!("in/{n:05}"), b"[]");
    }
    bucket.put("in/99999", b"[1]");
    let config = json!({"InputType": "JSON", "Transformation": "LOAD_AND_FLATTEN"});
    let flatten = request("s3:listObjectsV2", config, json!({"Bucket": "b", "Prefix": "in/"}));
    let first = read(&bucket, &flatten).unwrap();
    assert!(first.items.is_empty() && first.cursor.is_some());
    assert_eq!(read_all(&bucket, &flatten).unwrap(), (vec![json!(1)], 2));
}

#[test]
fn inventories_are_read_file_by_file() {
    let manifest = json!({
        "sourceBucket": "source",
        "destinationBucket": "arn:aws:s3:::b",
        "version": "2016-11-30",
        "fileFormat": "CSV",
        "fileSchema": "id, name",
        "files": [{"key": "data/1.csv.gz", "size": 1, "MD5checksum": "x"}, {"key": "data/2.csv"}, {"key": "data/3.csv"}],
    });
    let bucket = Bucket::with(&[
        ("manifest.json", &manifest.to_string()),
        ("data/2.csv", "\"3\",\"row 3\"\n"),
        ("data/3.csv", &csv(4..9)),
    ]);
    bucket.put("data/1.csv.gz", &gzip(&csv(0..3)));
    for config in
        [json!({"InputType": "MANIFEST"}), json!({"InputType": "MANIFEST", "ManifestType": "S3_INVENTORY"})]
    {
        for (limit, windows) in [(1, 9), (2, 5), (3, 3), (4, 3), (9, 1)] {
            let request = ReadRequest { limit, ..get("manifest.json", config.clone()) };
            assert_eq!(read_all(&bucket, &request).unwrap(), (rows(0..9), windows), "{limit}");
        }
    }
    let parquet = manifest.to_string().replace("CSV", "Parquet");
    bucket.put("parquet.json", parquet.as_bytes());
    bucket.put("none.json", b"{}");
    for key in ["parquet.json", "none.json"] {
        let error = read(&bucket, &get(key, json!({"InputType": "MANIFEST"}))).unwrap_err();
        assert!(error.cause().starts_with(&format!("s3://b/{key}: ")), "{error}");
    }
}

#[test]
fn athena_manifests_are_read_file_by_file() {
    let lines = |range| rows(range).iter().map(|row| format!("{row}\n")).collect::<String>();
    let bucket = Bucket::with(&[
        ("manifest.csv", "s3://b/out/1\ns3://b/out/2\n\ns3://b/out/3\n"),
        ("out/1", &lines(0..4)),
        ("out/2", ""),
        ("out/3", &lines(4..6)),
        ("bad.csv", "https://b/out/1\n"),
    ]);
    let config = json!({"InputType": "JSONL", "ManifestType": "ATHENA_DATA"});
    for (limit, windows) in [(1, 6), (2, 3), (3, 2), (4, 2), (5, 2), (6, 1)] {
        let request = ReadRequest { limit, ..get("manifest.csv", config.clone()) };
        assert_eq!(read_all(&bucket, &request).unwrap(), (rows(0..6), windows), "{limit}");
    }
    assert!(read(&bucket, &get("bad.csv", config)).unwrap_err().cause().contains("no s3://BUCKET/KEY"));
}

#[test]
fn an_object_that_changes_between_windows_is_an_error() {
    let text = format!("id,name\n{}", csv(0..10));
    let bucket = Bucket::with(&[("csv", &text), ("manifest.csv", "s3://b/csv\ns3://b/csv\n")]);
    let mut athena = first_row();
    athena["ManifestType"] = "ATHENA_DATA".into();
    for (key, config) in [("csv", first_row()), ("manifest.csv", athena)] {
        let mut request = ReadRequest { limit: 4, ..get(key, config) };
        request.cursor = read(&bucket, &request).unwrap().cursor;
        assert!(read(&bucket, &request).is_ok());
        bucket.put(key, text.as_bytes());
        // A manifest is looked at when the next of its objects is wanted.
        let error = loop {
            match read(&bucket, &request) {
                Ok(window) => request.cursor = Some(window.cursor.expect("the change is noticed")),
                Err(error) => break error,
            }
        };
        assert!(error.cause().contains("was changed while the Map Run read it"), "{error}");
    }
}

#[test]
fn what_names_no_data_set_is_an_error() {
    let bucket = Bucket::default();
    let json = || json!({"InputType": "JSON"});
    for (request, words) in [
        (get("none", json()), "no such object"),
        (request("s3:getObject", json(), json!({"Bucket": "b"})), "needs Key"),
        (request("s3:getObject", json(), json!({"Bucket": "b", "Key": 1})), "Key must be a string"),
        (request("s3:getObject", Value::Null, json!({"Bucket": "b", "Key": "k"})), "InputType"),
        (request("s3:getObject", json(), Value::Null), "needs Bucket"),
        (request("s3:listObjectsV2", json(), json!({})), "needs Bucket"),
        (
            request(
                "s3:listObjectsV2",
                json!({"Transformation": "LOAD_AND_FLATTEN"}),
                json!({"Bucket": "b"}),
            ),
            "LOAD_AND_FLATTEN needs InputType",
        ),
        (request("s3:putObject", json(), json!({})), "no item reader"),
        (request("file:read", json(), json!({})), "needs Path"),
        (request("http:get", json(), json!({})), "needs Url"),
        (ReadRequest { limit: 0, ..get("none", json()) }, "limit"),
        (ReadRequest { cursor: Some("{}".to_owned()), ..get("none", json()) }, "cursor"),
        (ReadRequest { cursor: Some("no".to_owned()), ..get("none", json()) }, "cursor"),
    ] {
        let error = read(&bucket, &request).unwrap_err();
        assert!(error.cause().contains(words), "{error}: {words}");
    }
}

/// A window costs the bytes around its items, wherever it is.
#[test]
fn the_cost_of_a_window_does_not_grow_with_the_data_set() {
    let text = format!("id,name\n{}", csv(0..200_000));
    let bucket = Bucket::with(&[("csv", &text)]);
    let request = get("csv", first_row());
    let (items, windows) = read_all(&bucket, &request).unwrap();
    assert_eq!((items.len(), windows), (200_000, 200));
    let asked = *bucket.asked.lock().unwrap();
    assert!(asked.reads <= 2 * 200, "{asked:?}");
    // Shortest ranges are longer than these windows.
    assert!(asked.bytes <= 200 * (64 + 16) * 1024 + 256 * 1024, "{asked:?}");
}

/// Measures: `cargo test -p stagepost-connectors --release items_cost -- --ignored --nocapture`.
#[test]
#[ignore = "prints measurements"]
fn items_cost() {
    for count in [100_000, 1_000_000] {
        let csv_text = format!("id,name\n{}", csv(0..count));
        let array: String =
            format!("[{}]", rows(0..count).iter().map(Value::to_string).collect::<Vec<_>>().join(","));
        let bucket = Bucket::with(&[("csv", &csv_text), ("json", &array)]);
        drop((csv_text, array));
        for (key, config) in [("csv", first_row()), ("json", json!({"InputType": "JSON"}))] {
            // Forgets the peak of preparing.
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            let before = memory_kib("VmRSS:");
            let mut request = get(key, config);
            let (mut items, mut longest, begin) = (0, Duration::ZERO, Instant::now());
            loop {
                let window_begin = Instant::now();
                let window = read(&bucket, &request).unwrap();
                longest = longest.max(window_begin.elapsed());
                items += window.items.len();
                match window.cursor {
                    Some(cursor) => request.cursor = Some(cursor),
                    None => break,
                }
            }
            let took = begin.elapsed();
            println!(
                "{key} {count}: {items} items, {:?} an item, longest window {longest:?}, peak +{} KiB",
                took / u32::try_from(count).unwrap(),
                memory_kib("VmHWM:").saturating_sub(before)
            );
        }
    }
}

/// The resident set of this process (`VmRSS:`), or the largest so far (`VmHWM:`).
fn memory_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
