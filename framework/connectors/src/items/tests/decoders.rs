//! The decoders: what the formats mean, that neither chunks nor windows change it, and hostile data.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{
    CSV_HEADER_BYTES_MAX, Csv, Format, ITEM_BYTES_MAX, Item, POINTER_BYTES_MAX,
    decode::{Next, ObjectReader, Place},
    decode_all,
    error::ReadError,
};

fn first_row() -> Format {
    Format::Csv(Csv { delimiter: b',', headers: None })
}

fn given(headers: &[&str]) -> Format {
    Format::Csv(Csv { delimiter: b',', headers: Some(headers.iter().map(|h| (*h).to_owned()).collect()) })
}

fn document(pointer: &[&str]) -> Format {
    Format::Json { pointer: pointer.iter().map(|s| (*s).to_owned()).collect() }
}

fn values(format: &Format, bytes: impl AsRef<[u8]>) -> Value {
    let items = decode_all(format, bytes.as_ref()).unwrap();
    items.iter().map(|item| serde_json::from_str::<Value>(&item.value).unwrap()).collect()
}

fn cause(format: &Format, bytes: impl AsRef<[u8]>) -> String {
    decode_all(format, bytes.as_ref()).unwrap_err().cause().to_owned()
}

/// Reads `bytes` in chunks of the given sizes (again and again), and makes a new reader from the place after each
/// `window` items.
fn decode_in_pieces(
    format: &Format,
    bytes: &[u8],
    chunks: &[usize],
    window: usize,
) -> Result<Vec<Item>, ReadError> {
    let mut sizes = chunks.iter().copied().cycle();
    let mut items = Vec::new();
    let mut place = Place::START;
    loop {
        let mut reader = ObjectReader::new(format, &place);
        let mut in_window = 0;
        loop {
            match reader.next()? {
                Next::Item(item) => {
                    items.push(item);
                    in_window += 1;
                    if in_window == window {
                        // As through a cursor.
                        let text = serde_json::to_string(&reader.place(reader.mark())).unwrap();
                        place = serde_json::from_str(&text).unwrap();
                        break;
                    }
                }
                Next::More => {
                    let from = usize::try_from(reader.received()).unwrap();
                    let to = bytes.len().min(from + sizes.next().unwrap());
                    reader.push(&bytes[from..to], to == bytes.len());
                }
                Next::End => return Ok(items),
            }
        }
    }
}

#[test]
fn rows_become_objects_of_strings() {
    let two = [("a", "b"), ("c", "d")].map(|(x, y)| json!({"x": x, "y": y})).to_vec();
    let two = Value::Array(two);
    for text in [
        "x,y\na,b\nc,d\n",
        "x,y\na,b\nc,d",
        "x,y\r\na,b\r\nc,d\r\n",
        "x,y\ra,b\rc,d",
        "\u{feff}x,y\na,b\nc,d",
    ] {
        assert_eq!(values(&first_row(), text), two, "{text:?}");
    }
    for (text, expected) in [
        // Quoted fields.
        ("\"a,b\",c\n", json!([{"x": "a,b", "y": "c"}])),
        ("\"a\nb\",\"c\r\nd\"\n", json!([{"x": "a\nb", "y": "c\r\nd"}])),
        ("\"say \"\"hi\"\"\",\"\"\n", json!([{"x": "say \"hi\"", "y": ""}])),
        ("\"\"\"a\"\"\",\"\"\"\"\n", json!([{"x": "\"a\"", "y": "\""}])),
        ("  \"a,b\",c\n", json!([{"x": "a,b", "y": "c"}])),
        ("5\" pipe,b\"\"c\n", json!([{"x": "5\" pipe", "y": "b\"c"}])),
        // Escapes outside and inside quotation marks; other backslashes go.
        ("a\\,b,c\n", json!([{"x": "a,b", "y": "c"}])),
        ("C:\\\\Program Files\\\\app.exe,65\n", json!([{"x": "C:\\Program Files\\app.exe", "y": "65"}])),
        ("\"a\\\"b\",c\\d\n", json!([{"x": "a\"b", "y": "cd"}])),
        ("a,b\\", json!([{"x": "a", "y": "b"}])),
        // Ragged rows.
        ("a\n", json!([{"x": "a", "y": ""}])),
        ("a,b,c,d\n", json!([{"x": "a", "y": "b"}])),
        (",,,\n", json!([{"x": "", "y": ""}])),
        ("   \n", json!([{"x": "   ", "y": ""}])),
        ("a,b\n\nc,d\n", json!([{"x": "a", "y": "b"}, {"x": "", "y": ""}, {"x": "c", "y": "d"}])),
        // Nothing is a number, a truth value or nothing.
        ("1,true\nnull,\n", json!([{"x": "1", "y": "true"}, {"x": "null", "y": ""}])),
        ("é,\u{1}\u{1f600}\n", json!([{"x": "é", "y": "\u{1}\u{1f600}"}])),
        ("", json!([])),
    ] {
        assert_eq!(values(&given(&["x", "y"]), text), expected, "{text:?}");
    }
    assert_eq!(values(&first_row(), "0,True,{}\na,b\n"), json!([{"0": "a", "True": "b", "{}": ""}]));
    assert_eq!(values(&first_row(), "x,\na,b,c\n"), json!([{"x": "a", "": "b"}]));
    for (delimiter, text) in [(b'|', "a|b,c"), (b';', "a;b,c"), (b' ', "a b,c"), (b'\t', "a\tb,c")] {
        let format = Format::Csv(Csv { delimiter, headers: Some(vec!["x".to_owned(), "y".to_owned()]) });
        assert_eq!(values(&format, text), json!([{"x": "a", "y": "b,c"}]));
    }
}

#[test]
fn headers_are_checked() {
    assert_eq!(cause(&first_row(), "a,b,a\n1,2,3\n"), "CSV headers cannot contain duplicates.");
    assert_eq!(cause(&first_row(), "a,,\n1,2,3\n"), "CSV headers cannot contain duplicates.");
    assert!(cause(&first_row(), "a,b\n").contains("only CSV headers"));
    assert!(cause(&first_row(), "a,b").contains("only CSV headers"));
    assert!(cause(&first_row(), "").contains("empty"));
    let longest = "h".repeat(CSV_HEADER_BYTES_MAX);
    assert_eq!(decode_all(&first_row(), format!("{longest}\r\n1\n").as_bytes()).unwrap().len(), 1);
    assert!(cause(&first_row(), format!("{longest}h\n1\n")).contains("10240"));
    assert!(cause(&first_row(), "h".repeat(1 << 20)).contains("10240"));
}

#[test]
fn documents_give_their_elements_or_fields() {
    let array = r#" [ {"a": 1, "b" : [ 1, 2 ]} , "x,]" , 3.50 , -1e3, null, true, [], {} , "\"" ] "#;
    let expected = json!([{"a": 1, "b": [1, 2]}, "x,]", 3.5, -1e3, null, true, [], {}, "\""]);
    assert_eq!(values(&document(&[]), array), expected);
    assert_eq!(values(&document(&[]), format!("\u{feff}{array}")), expected);
    assert_eq!(values(&document(&[]), "[]"), json!([]));
    assert_eq!(values(&document(&[]), "{}\n"), json!([]));
    assert_eq!(values(&document(&[]), "[[[\"deep\"]]]"), json!([[["deep"]]]));
    let fields = decode_all(&document(&[]), br#"{"k\u0031": {"x": 1}, "k2": [2]}"#).unwrap();
    let fields: Vec<_> = fields.into_iter().map(|item| (item.key.unwrap(), item.value)).collect();
    assert_eq!(fields, [("k1".to_owned(), r#"{"x":1}"#.to_owned()), ("k2".to_owned(), "[2]".to_owned())]);
}

#[test]
fn a_pointer_names_what_is_read() {
    let text = r#"{"skip": {"data": [9]}, "data": [0, {"a/b": [1, 2], "~": {"k": 3}}], "end": "#;
    assert_eq!(values(&document(&["data", "1", "a/b"]), text), json!([1, 2]));
    assert_eq!(values(&document(&["data", "1", "~"]), text), json!([3]));
    assert_eq!(values(&document(&["skip", "data"]), text), json!([9]));
    for pointer in [&["none"][..], &["data", "2"], &["data", "01"], &["skip", "data", "0", "x"]] {
        assert!(
            cause(&document(pointer), r#"{"skip": {"data": [9]}, "data": [0, 1]}"#).contains("ItemsPointer"),
            "{pointer:?}"
        );
    }
    let late = format!(r#"{{"x": "{}", "data": [1]}}"#, "x".repeat(POINTER_BYTES_MAX));
    let pieces = decode_in_pieces(&document(&["data"]), late.as_bytes(), &[1 << 20], 10);
    assert!(pieces.unwrap_err().cause().contains("begin after"));
}

#[test]
fn lines_are_documents() {
    let expected = json!([{"a": 1}, [2], "three", null]);
    for text in [
        "{\"a\":1}\n[2]\n\"three\"\nnull",
        "\n {\"a\": 1} \r\n\r\n[2]\n\"three\"\nnull\n\n",
        "\u{feff}{\"a\":1}\n[2]\n\"three\"\nnull",
    ] {
        assert_eq!(values(&Format::JsonLines, text), expected, "{text:?}");
    }
    assert_eq!(values(&Format::JsonLines, ""), json!([]));
    assert!(cause(&Format::JsonLines, "1\n2\n{\"a\":\n").starts_with("item 2: "));
}

#[test]
fn what_is_not_json_is_an_error() {
    for text in ["1", "\"text\"", "null", "true"] {
        assert_eq!(cause(&document(&[]), format!("{text} ")), "Attempting to map over non-iterable node.");
    }
    for text in [
        "",
        " ",
        "[",
        "[1",
        "[1,",
        "[1,2",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "[\"a",
        "[{\"a\":1]",
        "[1 2]",
        "[,1]",
        "[1,]",
        "[1,,2]",
        "{1:2}",
        "{\"a\" 1}",
        "[NaN]",
        "[Infinity]",
        "[+1]",
        "[01]",
        "['a']",
        "[1] x",
        "[1][2]",
        "[tru]",
        "[1}",
        "[\"\u{1}\"]",
        "[\"\\ud800\"]",
        "[\"\\x\"]",
        "[1e999]",
        "<html>",
        "{\"a\":1,}",
        "[}",
    ] {
        assert!(decode_all(&document(&[]), text.as_bytes()).is_err(), "{text}");
    }
    for line in ["NaN", "{", "1 2", "{'a':1}", "[1,]", "\"\\ud800\"", "1e999", "<html>"] {
        assert!(decode_all(&Format::JsonLines, line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn a_field_that_stands_twice_counts_once() {
    assert_eq!(values(&document(&[]), r#"[{"a": 1, "a": 2}]"#), json!([{"a": 2}]));
    // As fields of the data set, each is an item.
    assert_eq!(values(&document(&[]), r#"{"a": 1, "a": 2}"#), json!([1, 2]));
}

#[test]
fn text_that_is_not_utf_8_is_an_error() {
    let invalid: &[u8] = b"a,\xff\xfe\n";
    assert!(cause(&given(&["x", "y"]), invalid).contains("row 1: the text is not valid UTF-8"));
    assert!(cause(&first_row(), b"\xff\n1\n").contains("UTF-8"));
    assert!(decode_all(&document(&[]), b"[\"\xff\"]").is_err());
    assert!(decode_all(&Format::JsonLines, b"\"\xff\"").is_err());
    // UTF-16 with its mark.
    assert!(decode_all(&document(&[]), b"\xff\xfe[\0]\0").is_err());
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |depth: usize| format!("[{}{}]", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(decode_all(&document(&[]), nested(127).as_bytes()).unwrap().len(), 1);
    for depth in [128, 129, 100_000] {
        assert!(decode_all(&document(&[]), nested(depth).as_bytes()).is_err(), "{depth}");
        assert!(decode_all(&Format::JsonLines, nested(depth).as_bytes()).is_err(), "{depth}");
    }
    assert!(decode_all(&document(&[]), "[".repeat(1_000_000).as_bytes()).is_err());
    assert!(decode_all(&document(&[]), "{\"a\":".repeat(1_000_000).as_bytes()).is_err());
    assert!(decode_all(&document(&["a"]), "{\"a\":".repeat(1_000_000).as_bytes()).is_err());
}

/// Feeds `byte` without end after `head`; gives the error and how many bytes it took.
fn endless(format: &Format, head: &str, byte: u8) -> (String, usize) {
    const CHUNK: usize = 1 << 20;
    let chunk = vec![byte; CHUNK];
    let mut reader = ObjectReader::new(format, &Place::START);
    reader.push(head.as_bytes(), false);
    let mut taken = head.len();
    loop {
        match reader.next() {
            Ok(Next::Item(_)) => {}
            Ok(Next::More) => {
                assert!(taken < 200 << 20, "bounded");
                reader.push(&chunk, false);
                taken += CHUNK;
            }
            Ok(Next::End) => panic!("there is no end"),
            Err(error) => return (error.cause().to_owned(), taken),
        }
    }
}

#[test]
fn an_endless_item_ends_in_an_error() {
    for (format, head, byte) in [
        (given(&["x"]), "", b'x'),
        (given(&["x"]), "\"", b'"'),
        (given(&["x"]), "", b','),
        (first_row(), "", b'x'),
        (document(&[]), "[\"", b'x'),
        (document(&[]), "[", b'1'),
        (document(&[]), "", b' '),
        (Format::JsonLines, "\"", b'x'),
    ] {
        let (cause, taken) = endless(&format, head, byte);
        assert!(taken <= POINTER_BYTES_MAX + (2 << 20), "{format:?} {head} {byte}: {taken} bytes, {cause}");
    }
}

#[test]
fn the_longest_item_is_read_and_one_byte_more_is_not() {
    let line = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    let chunks = [1 << 20];
    let longest = line(ITEM_BYTES_MAX - 1) + "\n1\n";
    let items = decode_in_pieces(&Format::JsonLines, longest.as_bytes(), &chunks, 1).unwrap();
    assert_eq!(items.len(), 2);
    let longer = line(ITEM_BYTES_MAX) + "\n1\n";
    let error = decode_in_pieces(&Format::JsonLines, longer.as_bytes(), &chunks, 1).unwrap_err();
    assert!(error.cause().contains("longer than 8388608 bytes"), "{error}");
    // The same at once: the limit does not depend on how the bytes arrive.
    assert_eq!(decode_all(&Format::JsonLines, longer.as_bytes()).unwrap_err(), error);
}

/// Texts in which what matters to the decoders is frequent.
fn texts(alphabet: &'static [&'static str], pieces: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(alphabet), 0..pieces).prop_map(|parts| parts.concat())
}

const CSV_PARTS: &[&str] =
    &["a", "é", "\"", "\"\"", ",", "\n", "\r", "\r\n", "\\", " ", "\t", "b,c\n", "\"x\ny\",", "\u{feff}"];
const JSON_PARTS: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"a\"",
    "\"b\"",
    "1",
    "-2.5",
    "true",
    " ",
    "\n",
    "\\",
    "\"",
    "[1,2]",
    "{\"a\":[1]}",
    "\"é\\\"\"",
    "\u{feff}",
];

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<i16>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        "[a\"\\\\é,\\]}\n ]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ab\"é]{0,3}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn formats() -> impl Strategy<Value = Format> {
    prop_oneof![
        Just(first_row()),
        Just(given(&["x", "y"])),
        Just(document(&[])),
        Just(document(&["a"])),
        Just(document(&["a", "0"])),
        Just(Format::JsonLines),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However the bytes are cut and wherever a reader takes over, the items and the error are those of the whole.
    #[test]
    fn neither_chunks_nor_windows_change_the_items(
        format in formats(),
        text in prop_oneof![texts(CSV_PARTS, 40), texts(JSON_PARTS, 40)],
        chunks in prop::collection::vec(1_usize..9, 1..6),
        window in 1_usize..5,
    ) {
        let whole = decode_all(&format, text.as_bytes());
        let pieces = decode_in_pieces(&format, text.as_bytes(), &chunks, window);
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => prop_assert_eq!(whole, pieces),
            (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert!(false, "{whole:?} {pieces:?}"),
        }
    }

    /// What is written as an array, an object or lines is read as it was, whatever its blanks.
    #[test]
    fn documents_are_read_as_they_were_written(
        items in prop::collection::vec(json_values(), 0..12),
        pretty in any::<bool>(),
        chunks in prop::collection::vec(1_usize..40, 1..6),
        window in 1_usize..5,
    ) {
        let write = |value: &Value| if pretty { format!("{value:#}") } else { value.to_string() };
        let array = Value::Array(items.clone());
        let nested = json!({"skip": items, "a": array});
        let named: serde_json::Map<String, Value> =
            items.iter().enumerate().map(|(n, item)| (format!("k{n}"), item.clone())).collect();
        let lines: String = items.iter().map(|item| format!("{item}\n")).collect();
        for (format, text) in [
            (document(&[]), write(&array)),
            (document(&["a"]), write(&nested)),
            (document(&[]), write(&Value::Object(named))),
            (Format::JsonLines, lines),
        ] {
            let read = decode_in_pieces(&format, text.as_bytes(), &chunks, window).unwrap();
            let read: Vec<Value> = read.iter().map(|item| serde_json::from_str(&item.value).unwrap()).collect();
            prop_assert_eq!(&read, &items);
        }
    }

    /// Rows that are quoted by the rules are read as they were.
    #[test]
    fn rows_are_read_as_they_were_written(
        rows in prop::collection::vec(prop::collection::vec("[a\",\r\né ]{0,5}", 2), 1..8),
        chunks in prop::collection::vec(1_usize..40, 1..6),
        window in 1_usize..5,
    ) {
        let quote = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
        let text: String = rows.iter().map(|row| format!("{},{}\r\n", quote(&row[0]), quote(&row[1]))).collect();
        let read = decode_in_pieces(&given(&["x", "y"]), text.as_bytes(), &chunks, window).unwrap();
        let read: Vec<Value> = read.iter().map(|item| serde_json::from_str(&item.value).unwrap()).collect();
        let expected: Vec<Value> = rows.iter().map(|row| json!({"x": row[0], "y": row[1]})).collect();
        prop_assert_eq!(read, expected);
    }

    /// No bytes make a decoder panic, and the items it gives are JSON.
    #[test]
    fn no_bytes_make_a_decoder_panic(format in formats(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(items) = decode_all(&format, &bytes) {
            for item in items {
                prop_assert!(serde_json::from_str::<Value>(&item.value).is_ok());
            }
        }
    }
}
