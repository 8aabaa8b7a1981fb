//! One row per comparison: a rule, and whether it holds.

use serde_json::json;

use super::*;

/// The data that every row is about.
fn input() -> Value {
    json!({
        "null": null, "true": true, "false": false, "empty": "", "a": "a", "b": "b", "list": ["a"], "object": {},
        "one": 1, "onef": 1.0, "two": 2, "half": 0.5, "neg": -1,
        "big": 9_007_199_254_740_993_u64, "bigger": 9_007_199_254_740_994_u64,
        "day": "2026-11-22T17:00:00Z", "same": "2026-11-22T18:00:00+01:00", "later": "2026-11-22T17:00:00.000001Z",
        "emoji": "\u{1F600}", "private": "\u{E000}"
    })
}

fn compile(rule: Value) -> Rule {
    let mut found = Findings::default();
    let Value::Object(fields) = rule else { panic!("a rule is an object") };
    let rule = Rule::read(&mut found, &Node { fields: &fields, pointer: String::new() });
    assert_eq!(found.finish().1, [], "in {fields:?}");
    rule.unwrap()
}

fn matches(rule: Value) -> Result<bool, EvalError> {
    let data = Data {
        input: &input(),
        context: &json!({"State": {"Name": "a"}}),
        variables: &serde_json::Map::new(),
        random: &|| 0,
        result: None,
        error_output: None,
        now: stagepost_protocol::Timestamp::from_millis(0),
    };
    compile(rule).matches(&data)
}

/// Whether `$.variable OPERATOR operand` holds.
fn holds(variable: &str, operator: &str, operand: &Value) -> bool {
    matches(json!({"Variable": format!("$.{variable}"), operator: operand.clone()})).unwrap()
}

#[test]
fn orders_compare_values_of_their_type() {
    // variable, operand as a field of the input, kind, and how they are ordered; `None`: not comparable
    let rows = [
        ("a", "a", "String", Some(Ordering::Equal)),
        ("a", "b", "String", Some(Ordering::Less)),
        ("b", "a", "String", Some(Ordering::Greater)),
        ("empty", "a", "String", Some(Ordering::Less)),
        ("a", "one", "String", None),
        ("one", "a", "String", None),
        ("list", "a", "String", None),
        ("null", "a", "String", None),
        // By UTF-16 units the surrogates of an emoji stand before the private use area.
        ("emoji", "private", "String", Some(Ordering::Less)),
        ("one", "one", "Numeric", Some(Ordering::Equal)),
        ("one", "onef", "Numeric", Some(Ordering::Equal)),
        ("half", "one", "Numeric", Some(Ordering::Less)),
        ("one", "neg", "Numeric", Some(Ordering::Greater)),
        ("bigger", "big", "Numeric", Some(Ordering::Greater)),
        ("a", "one", "Numeric", None),
        ("true", "one", "Numeric", None),
        ("null", "one", "Numeric", None),
        ("day", "same", "Timestamp", Some(Ordering::Equal)),
        ("day", "later", "Timestamp", Some(Ordering::Less)),
        ("later", "same", "Timestamp", Some(Ordering::Greater)),
        ("a", "day", "Timestamp", None),
        ("one", "day", "Timestamp", None),
    ];
    let orders = [
        ("Equals", [false, true, false]),
        ("LessThan", [true, false, false]),
        ("GreaterThan", [false, false, true]),
        ("LessThanEquals", [true, true, false]),
        ("GreaterThanEquals", [false, true, true]),
    ];
    for (variable, other, kind, ordering) in rows {
        for (order, when) in orders {
            let expected = ordering.is_some_and(|o| when[(o as i8 + 1) as usize]);
            let by_path = holds(variable, &format!("{kind}{order}Path"), &json!(format!("$.{other}")));
            assert_eq!(by_path, expected, "{variable} {kind}{order}Path {other}");
            // A constant has to be of the operator's type already when it is read.
            let constant = &input()[other];
            if constant.is_number() == (kind == "Numeric") {
                let by_constant = holds(variable, &format!("{kind}{order}"), constant);
                assert_eq!(by_constant, expected, "{variable} {kind}{order} {constant}");
            }
        }
    }
}

#[test]
fn booleans_and_types() {
    let rows = [
        ("true", "BooleanEquals", json!(true), true),
        ("false", "BooleanEquals", json!(true), false),
        ("false", "BooleanEquals", json!(false), true),
        ("null", "BooleanEquals", json!(false), false),
        ("true", "BooleanEqualsPath", json!("$.true"), true),
        ("true", "BooleanEqualsPath", json!("$.false"), false),
        ("true", "BooleanEqualsPath", json!("$.one"), false),
        ("null", "IsNull", json!(true), true),
        ("a", "IsNull", json!(true), false),
        ("a", "IsNull", json!(false), true),
        ("a", "IsString", json!(true), true),
        ("one", "IsString", json!(true), false),
        ("half", "IsNumeric", json!(true), true),
        ("a", "IsNumeric", json!(false), true),
        ("true", "IsBoolean", json!(true), true),
        ("null", "IsBoolean", json!(true), false),
        ("day", "IsTimestamp", json!(true), true),
        ("same", "IsTimestamp", json!(true), true),
        ("a", "IsTimestamp", json!(true), false),
        ("one", "IsTimestamp", json!(true), false),
        ("null", "IsPresent", json!(true), true),
        ("nothing", "IsPresent", json!(true), false),
        ("nothing", "IsPresent", json!(false), true),
        ("object.a.b", "IsPresent", json!(false), true),
        ("list[0]", "StringEquals", json!("a"), true),
    ];
    for (variable, operator, operand, expected) in rows {
        assert_eq!(holds(variable, operator, &operand), expected, "{variable} {operator} {operand}");
    }
}

#[test]
fn timestamps_are_rfc_3339_with_capital_letters() {
    for (text, expected) in [
        ("2016-03-14T01:59:00Z", true),
        ("2016-03-14T01:59:00.123456789Z", true),
        ("2016-03-14T01:59:00-05:30", true),
        ("2016-03-14t01:59:00z", false),
        ("2016-03-14T01:59:00z", false),
        ("2016-03-14 01:59:00Z", false),
        ("2016-03-14T01:59Z", false),
        ("2016-03-14T01:59:00", false),
        ("2016-03-14", false),
        ("2016-13-14T01:59:00Z", false),
        ("2016-03-14T01:59:00Z[UTC]", false),
        ("xxxx-xx-xxTxx:xx:xxZ", false),
        ("é016-03-14T01:59:00Z", false),
        ("", false),
    ] {
        assert_eq!(timestamp(text).is_some(), expected, "{text}");
    }
}

#[test]
fn patterns_match_with_wildcards_and_escapes() {
    for (pattern, text, expected) in [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("*", "anything", true),
        ("log-*.txt", "log-2026.txt", true),
        ("log-*.txt", "log-.txt", true),
        ("log-*.txt", "log-2026.csv", false),
        ("a*a", "a", false),
        ("a*a", "aa", true),
        ("*b*c", "abbcc", true),
        ("*b*c*", "acb", false),
        ("*ab*ab*", "abab", true),
        ("*ab*ab*", "aab", false),
        ("**", "x", true),
        (r"\*", "*", true),
        (r"\*", "x", false),
        (r"a\**", "a*b", true),
        (r"a\**", "ab", false),
        (r"\\*", r"\x", true),
        (r"\\*", "x", false),
        (r"C:\dir", r"C:\dir", true),
        (r"end\", r"end\", true),
        ("é*ü", "éüü", true),
    ] {
        assert_eq!(Pattern::compile(pattern).matches(text), expected, "{pattern} over {text}");
    }
    assert!(holds("a", "StringMatches", &json!("*a*")));
    assert!(!holds("one", "StringMatches", &json!("*")));
    // Many wildcards over a long text that nearly matches: no search tree.
    assert!(!Pattern::compile(&"*a".repeat(1_000)).matches(&"a".repeat(999)));
}

#[test]
fn rules_combine() {
    let yes = json!({"Variable": "$.true", "BooleanEquals": true});
    let no = json!({"Variable": "$.true", "BooleanEquals": false});
    let broken = json!({"Variable": "$.nothing", "BooleanEquals": true});
    for (rule, expected) in [
        (json!({"And": [yes, yes]}), true),
        (json!({"And": [yes, no]}), false),
        (json!({"Or": [no, yes]}), true),
        (json!({"Or": [no, no]}), false),
        (json!({"Not": no}), true),
        (json!({"Not": {"And": [yes, {"Or": [no, {"Not": yes}]}]}}), true),
        // What does not matter any more is not looked at: presence is tested this way.
        (json!({"And": [no, broken]}), false),
        (json!({"Or": [yes, broken]}), true),
        (json!({"Comment": "c", "And": [yes], "Next": "T"}), true),
        (json!({"Variable": "$$.State.Name", "StringEqualsPath": "$.a"}), true),
    ] {
        assert_eq!(matches(rule.clone()), Ok(expected), "{rule}");
    }
    assert!(matches(json!({"And": [yes, broken]})).is_err());
}

#[test]
fn a_path_that_finds_nothing_fails_in_the_services_words() {
    let expected = EvalError::runtime(
        "Invalid path '$.nothing': The choice state's condition path references an invalid value.",
    );
    for rule in [
        json!({"Variable": "$.nothing", "IsNull": true}),
        json!({"Variable": "$.nothing", "StringEquals": "a"}),
        json!({"Variable": "$.a", "StringEqualsPath": "$.nothing"}),
        json!({"Not": {"Variable": "$.nothing", "IsString": true}}),
    ] {
        assert_eq!(matches(rule.clone()), Err(expected.clone()), "{rule}");
    }
}

#[test]
fn the_list_of_operators_is_what_is_read() {
    for name in OPERATORS {
        assert!(Operator::named(name).is_some_and(|(_, path)| !path), "{name}");
    }
    // A name that is near to each.
    assert!(OPERATORS.iter().all(|name| Operator::named(&format!("{name}s")).is_none()));
}
