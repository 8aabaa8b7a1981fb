use proptest::prelude::*;
use serde_json::json;

use super::*;

const NO_RANDOM: &dyn Fn() -> u64 = &|| 0;

fn with_data<T>(input: &Value, test: impl FnOnce(&Data<'_>) -> T) -> T {
    let context = json!({ "Execution": { "Name": "e1", "Input": input } });
    let variables = match json!({ "order": { "id": 7 } }) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    test(&Data {
        input,
        context: &context,
        variables: &variables,
        random: NO_RANDOM,
        result: None,
        error_output: None,
        now: stagepost_protocol::Timestamp::from_millis(0),
    })
}

fn select(path: &str, input: &Value) -> Result<Value, String> {
    let path = Path::parse(path)?;
    with_data(input, |data| path.select(data).map(Cow::into_owned).map_err(|e| e.to_string()))
}

#[test]
fn selects_as_jayway_does() {
    let input = json!({
        "a": { "b-c": 1, "d e": 2, "'": 3, "x": null, "über": 4 },
        "list": [10, 20, 30],
        "rows": [
            { "id": 1, "name": "one", "tags": ["t"], "kind": { "k-v": "A" } },
            { "id": 2, "name": "two", "extra": true },
        ],
        "detail-type": "placed",
        "@timestamp": 5,
    });
    let table = [
        ("$['a']['d e']", json!(2)),
        ("$.a.b-c", json!(1)),
        ("$.a.x", json!(null)),
        ("$.a.über", json!(4)),
        ("$.a['\\'']", json!(3)),
        ("$.detail-type", json!("placed")),
        ("$[\"detail-type\"]", json!("placed")),
        ("$.@timestamp", json!(5)),
        ("$.list[0]", json!(10)),
        ("$.list.[1]", json!(20)),
        ("$.list[-1]", json!(30)),
        ("$.list[1:]", json!([20, 30])),
        ("$.list[:1]", json!([10])),
        ("$.list[-2:]", json!([20, 30])),
        ("$.list[0,2]", json!([10, 30])),
        ("$.list[*]", json!([10, 20, 30])),
        ("$.rows[*].id", json!([1, 2])),
        ("$.rows[*]['id', 'name']", json!([{ "id": 1, "name": "one" }, { "id": 2, "name": "two" }])),
        ("$.rows[0]['id','none']", json!({ "id": 1 })),
        ("$.rows[*].extra", json!([true])),
        ("$.rows[?(@.id == 2)].name", json!(["two"])),
        ("$.rows[?(@.name==two)].id", json!([2])),
        ("$.rows[?(@.kind.k-v=='A')].id", json!([1])),
        ("$.rows.[?(@.id < 2 && @.name == \"one\")].id", json!([1])),
        ("$.rows[?(@.extra)].id", json!([2])),
        ("$.rows[?(!@.extra)].id", json!([1])),
        ("$..id", json!([1, 2])),
        ("$..['id']", json!([1, 2])),
        ("$.nothing[*]", json!([])),
        ("$.nothing.here[1:5].x", json!([])),
        ("$$.Execution.Name", json!("e1")),
        ("$order.id", json!(7)),
    ];
    for (path, expected) in table {
        assert_eq!(select(path, &input), Ok(expected), "{path}");
    }
    assert_eq!(select("$.[0]", &json!([1])), Ok(json!(1)));
    assert_eq!(
        select("$.[*].['bucket', 'key']", &json!([{ "bucket": 1, "key": 2, "x": 3 }])),
        Ok(json!([{ "bucket": 1, "key": 2 }]))
    );
    assert_eq!(select("$[*][*]", &json!([[1], [2, 3]])), Ok(json!([1, 2, 3])));
    // A backslash before anything but a quote or itself is a plain character.
    assert_eq!(select(r#"$['T\""N"']"#, &json!({ "T\\\"\"N\"": 1 })), Ok(json!(1)));
}

#[test]
fn definite_paths_borrow() {
    let input = json!({ "a": [{ "b": 1 }] });
    with_data(&input, |data| {
        for path in ["$", "$$", "$.a", "$.a[0].b", "$$.Execution.Input.a[-1]"] {
            let path = Path::parse(path).expect("valid");
            assert!(matches!(path.select(data), Ok(Cow::Borrowed(_))), "{}", path.source());
            assert!(path.is_definite());
        }
    });
}

#[test]
fn a_definite_path_without_a_match_fails_in_the_services_words() {
    let input = json!({ "a": { "s": "text" }, "list": [1] });
    let table = [
        ("$.none", "Invalid path '$.none' : No results for path: $['none']"),
        ("$.a.none", "Invalid path '$.a.none' : No results for path: $['a']['none']"),
        ("$.none.x", "Invalid path '$.none.x' : Missing property in path $['none']"),
        ("$.list[3]", "Invalid path '$.list[3]' : No results for path: $['list'][3]"),
        ("$.list[-2]", "Invalid path '$.list[-2]' : No results for path: $['list'][-2]"),
        (
            "$.a.s[0]",
            "Invalid path '$.a.s[0]' : Filter: [0] can only be applied to arrays. Current context is: \"text\"",
        ),
        (
            "$.a.s.x",
            "Invalid path '$.a.s.x' : Expected to find an object with property ['x'] in path $['a']['s'] but found 'string'",
        ),
        ("$missing.x", "Invalid path '$missing.x' : The variable '$missing' is not defined"),
    ];
    for (path, cause) in table {
        assert_eq!(select(path, &input), Err(format!("States.Runtime: {cause}")), "{path}");
        with_data(&input, |data| assert!(Path::parse(path).expect("valid").find(data).is_none(), "{path}"));
    }
    with_data(&json!({ "n": 0 }), |data| {
        let path = Path::parse("$.x").expect("valid");
        assert_eq!(
            path.select_for(data, "v.$").expect_err("missing").cause,
            "The JSONPath '$.x' specified for the field 'v.$' could not be found in the input '{\"n\":0}'"
        );
        assert_eq!(
            path.select_items(data).expect_err("missing").cause,
            "Unable to apply step \"x\" to input {\"n\":0}"
        );
        let number = Path::parse("$.n").expect("valid");
        assert_eq!(
            number.select_items(data).expect_err("no array").cause,
            "Reference path \"$.n\" must point to array."
        );
        let of_context = Path::parse("$$").expect("valid");
        assert_eq!(
            of_context.select_items(data).expect_err("no array").cause,
            "Reference path \"$\" must point to array."
        );
    });
}

#[test]
fn says_what_is_wrong_with_a_path() {
    let table = [
        ("", "starts with `$`"),
        ("a.b", "starts with `$`"),
        ("$.", "ends with a dot"),
        ("$.a..", "ends with a dot"),
        ("$.a b", "unexpected ` b`"),
        ("$.a[", "index is missing"),
        ("$.a[0", "`]` is missing"),
        ("$.a[]", "index is missing"),
        ("$.a[b]", "quoted"),
        ("$.a['b]", "' is missing"),
        ("$.list.length()", "`length()` is not supported"),
        ("$.a[(@.length-1)]", "script expressions"),
        ("$.a[?(@.b =~ /x/)]", "`=~` is not supported"),
        ("$.a[?(@.b in ['x'])]", "`in` is not supported"),
        ("$.a[?(@.b == 1]", "`)` is missing"),
        ("$.a[?(@.b == 1)", "no end"),
        ("$.a[99999999999999999999]", "not an array index"),
        ("$.a[9007199254740993]", "too large"),
        ("$..a..b..c", "descents"),
    ];
    for (path, part) in table {
        let error = Path::parse(path).expect_err(path);
        assert!(error.contains(part), "{path}: {error}");
    }
    assert!(Path::parse(&format!("${}", ".a".repeat(STEPS_MAX + 1))).is_err());
    assert!(Path::parse(&format!("$[?{}", "(".repeat(1000))).is_err());
    assert!(Path::parse(&"$[?@[?@".repeat(100)).is_err());
    // Each of these is looked up again for every element: with three of them in each other, for ever.
    for per_element in ["$..[?$..a]", "$.a[?@.b == $.c[*]]", "$[?$[?$[?$.a]]]", "$.a[?@[?$..*]]"] {
        assert!(Path::parse(per_element).is_err(), "{per_element}");
    }
    for one_place in ["$.a[?(@.b == $.c.d)]", "$.a[?@.b[?@.c == 1]]", "$.a[?@..b]"] {
        assert!(Path::parse(one_place).is_ok(), "{one_place}");
    }
}

#[test]
fn assigns() {
    let table = [
        ("$", json!({ "a": 1 }), json!(9)),
        ("$.b", json!({ "a": 1 }), json!({ "a": 1, "b": 9 })),
        ("$.a", json!({ "a": 1 }), json!({ "a": 9 })),
        ("$.b.c.d", json!({ "a": 1 }), json!({ "a": 1, "b": { "c": { "d": 9 } } })),
        ("$.a[1]", json!({ "a": [1, 2] }), json!({ "a": [1, 9] })),
        ("$['a b'].c-d", json!({}), json!({ "a b": { "c-d": 9 } })),
        ("$[0].x", json!([{}]), json!([{ "x": 9 }])),
    ];
    for (path, root, expected) in table {
        assert_eq!(ReferencePath::parse(path).expect(path).assign(root, json!(9)), Ok(expected), "{path}");
    }
    let refused = [
        ("$.a.b", json!({ "a": 1 })),
        ("$.a.b", json!({ "a": null })),
        ("$.a.b", json!({ "a": [1] })),
        ("$.a[1]", json!({ "a": [1] })),
        ("$.a[0]", json!({})),
        ("$.a", json!("text")),
        ("$.a", json!([])),
    ];
    for (path, root) in refused {
        let error = ReferencePath::parse(path).expect(path).assign(root, json!(9)).expect_err(path);
        assert_eq!(error.error, error_names::RESULT_PATH_MATCH_FAILURE, "{path}");
        assert!(error.cause.starts_with("Unable to apply step \""), "{}", error.cause);
    }
    for path in ["$.a[*]", "$..a", "$.a[0:1]", "$.a['b','c']", "$$.a", "$order", "$.a[?(@.b)]", "a"] {
        assert!(ReferencePath::parse(path).is_err(), "{path}");
    }
}

fn any_step() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z_äß-]{1,5}".prop_map(|name| format!(".{name}")),
        "[^'\\\\]{0,6}".prop_map(|name| format!("['{name}']")),
    ]
}

proptest! {
    #[test]
    fn what_is_assigned_is_found(steps in prop::collection::vec(any_step(), 0..6), value in any::<i64>()) {
        let source = format!("${}", steps.concat());
        let root = ReferencePath::parse(&source).expect("valid").assign(json!({}), json!(value)).expect("assigned");
        prop_assert_eq!(select(&source, &root), Ok(json!(value)));
    }

    #[test]
    fn parsing_never_panics(source in "\\$?[$.\\[\\]()?@*,:'\"\\\\a-c0-9=!<>&| ~{}ä-]{0,30}") {
        if let Ok(path) = Path::parse(&source) {
            let input = json!({ "a": [{ "b": 1, "c": [1, 2] }, "a"], "b": { "a": null } });
            with_data(&input, |data| {
                let _ = path.select(data);
                let _ = path.select_items(data);
            });
        }
    }

    #[test]
    fn parsing_never_panics_on_any_text(source in ".*") {
        let _ = Path::parse(&source);
        let _ = Path::parse(&format!("$[?({source})]"));
        let _ = ReferencePath::parse(&source);
    }
}
