use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

fn evaluate(call: &str, input: &Value) -> Result<Value, EvalError> {
    let call = Intrinsic::parse(call).unwrap_or_else(|e| panic!("{call}: {e}"));
    let context = json!({ "Execution": { "Input": input } });
    let variables: Map<String, Value> = [("v".to_owned(), json!(3))].into_iter().collect();
    call.evaluate(&Data {
        input,
        context: &context,
        variables: &variables,
        random: &|| u64::MAX,
        result: None,
        error_output: None,
        now: stagepost_protocol::Timestamp::from_millis(0),
    })
}

#[test]
fn computes() {
    let input = json!({
        "n": 5, "f": 1.5, "s": "a,b", "nil": null, "list": [1, 2, 3, 1], "o": { "a": 1, "b": [] }, "json": "{\"x\":1}",
        "template": "Hello {}", "mixed": [1, "1", 1.0, true, null, [], [], { "a": 1, "b": 2 }, { "b": 2, "a": 1 }],
        "odd": { "a,b)": [7] },
    });
    let table = [
        ("States.Array()", json!([])),
        ("States.Array($.n, 'x', 2, null, true, $.o)", json!([5, "x", 2, null, true, { "a": 1, "b": [] }])),
        ("States.ArrayContains($.list, 3)", json!(true)),
        ("States.ArrayContains($.list, '3')", json!(false)),
        ("States.ArrayGetItem($.list, 2)", json!(3)),
        ("States.ArrayGetItem($.list, 1.9)", json!(2)),
        ("States.ArrayLength($.list)", json!(4)),
        ("States.ArrayPartition($.list, 3)", json!([[1, 2, 3], [1]])),
        ("States.ArrayPartition($.list, 2147483647)", json!([[1, 2, 3, 1]])),
        ("States.ArrayPartition($.list, 2.6)", json!([[1, 2], [3, 1]])),
        ("States.ArrayPartition(States.Array(), 2)", json!([])),
        ("States.ArrayRange(1, 9, 2)", json!([1, 3, 5, 7, 9])),
        ("States.ArrayRange(5, 1, -2)", json!([5, 3, 1])),
        ("States.ArrayRange(3, 3, -1)", json!([3])),
        ("States.ArrayRange(5, 1, 1)", json!([])),
        ("States.ArrayRange(1.6, 1.4, 1)", json!([1])),
        ("States.ArrayRange(2147483646, 2147483647, 2147483647)", json!([2147483646])),
        ("States.ArrayLength(States.ArrayRange(1, 1000, 1))", json!(1000)),
        ("States.ArrayUnique($.mixed)", json!([1, "1", 1.0, true, null, [], { "a": 1, "b": 2 }])),
        ("States.Base64Encode('Data to encode')", json!("RGF0YSB0byBlbmNvZGU=")),
        ("States.Base64Decode('RGF0YSB0byBlbmNvZGU=')", json!("Data to encode")),
        ("States.Base64Decode('RGF0YQ')", json!("Data")),
        ("States.Base64Decode('')", json!("")),
        ("States.Format('{}-{}', $.s, $v)", json!("a,b-3")),
        ("States.Format($.template, 'you')", json!("Hello you")),
        (r"States.Format('\{\'{}\'\}\\', $.n)", json!(r"{'5'}\")),
        ("States.Format('{} {} {} {}', $.nil, true, 1.5, $.o)", json!("null true 1.5 {a=1, b=[]}")),
        ("States.Format('{}', $.list)", json!("[1, 2, 3, 1]")),
        ("States.Format('no placeholder')", json!("no placeholder")),
        ("States.Format('a, (b) {}', $.odd['a,b)'][0])", json!("a, (b) 7")),
        ("States.Hash('input data', 'MD5')", json!("812f45842bc6d66ee14572ce20db8e86")),
        ("States.Hash('input data', 'SHA-1')", json!("aaff4a450a104cd177d28d18d74485e8cae074b7")),
        (
            "States.Hash('', 'SHA-256')",
            json!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ),
        (
            "States.JsonMerge($.o, States.StringToJson('{\"b\": {\"c\": 2}}'), false)",
            json!({ "a": 1, "b": { "c": 2 } }),
        ),
        ("States.JsonToString($.o)", json!("{\"a\":1,\"b\":[]}")),
        ("States.JsonToString($.s)", json!("\"a,b\"")),
        ("States.MathAdd($.n, -1)", json!(4)),
        ("States.MathAdd(1.5, 1.51)", json!(4)),
        ("States.MathAdd(-1.5, -1.51)", json!(-3)),
        ("States.MathAdd(-0.5, 0.5)", json!(1)),
        ("States.MathAdd(-2.5, 0)", json!(-2)),
        ("States.MathAdd(-2147483647, -1)", json!(-2147483648_i64)),
        ("States.MathRandom(5, 6)", json!(5)),
        (
            "States.MathRandom(-2147483648, 2147483647)",
            json!(-2147483648_i64 + (u64::MAX % 4294967295) as i64),
        ),
        ("States.StringSplit('This.is+a,test', '.+,')", json!(["This", "is", "a", "test"])),
        ("States.StringSplit(',,a,,b,', ',')", json!(["a", "b"])),
        ("States.StringSplit('', ',')", json!([])),
        ("States.StringSplit('abc', '')", json!(["abc"])),
        ("States.StringToJson($.json)", json!({ "x": 1 })),
        ("States.StringToJson(' ')", json!(null)),
        ("States.StringToJson('-0')", json!(0)),
        ("States.UUID()", json!("ffffffff-ffff-4fff-bfff-ffffffffffff")),
        ("States.ArrayLength($$.Execution.Input.list)", json!(4)),
        ("States.ArrayLength($.list[?(@ > 1)])", json!(2)),
        ("States.ArrayGetItem( States.StringSplit( $.s , ',' ) , States.MathAdd(0,1) )", json!("b")),
    ];
    for (call, expected) in table {
        assert_eq!(evaluate(call, &input), Ok(expected), "{call}");
    }
    let seeded = |seed: i32| evaluate(&format!("States.MathRandom(0, 1000000, {seed})"), &input);
    assert_eq!(seeded(-10), seeded(-10));
    assert_ne!(seeded(1), seeded(2));
}

#[test]
fn refuses_wrong_arguments() {
    let input = json!({ "s": "text", "n": 1, "nil": null, "list": [1], "o": {}, "long": "ä".repeat(10_001), "t": "{" });
    let calls = [
        "States.ArrayContains($.s, 1)",
        "States.ArrayGetItem($.list, 1)",
        "States.ArrayGetItem($.list, -1)",
        "States.ArrayGetItem($.list, '0')",
        "States.ArrayLength($.o)",
        "States.ArrayPartition($.list, 0)",
        "States.ArrayPartition($.list, 0.6)",
        "States.ArrayPartition($.list, -1)",
        "States.ArrayRange(1, 10, 0)",
        "States.ArrayRange(1, 10, 0.49)",
        "States.ArrayRange(1, 1001, 1)",
        "States.ArrayRange(-2147483648, 2147483647, 1)",
        "States.ArrayRange('a', 10, 1)",
        "States.ArrayUnique($.n)",
        "States.Base64Decode('%')",
        "States.Base64Decode($.n)",
        "States.Base64Encode($.long)",
        "States.Format($.n, 1)",
        "States.Format($.t)",
        "States.Hash($.long, 'MD5')",
        "States.Hash('x', 'sha-256')",
        "States.JsonMerge($.o, $.nil, false)",
        "States.JsonMerge($.o, $.o, true)",
        "States.MathAdd('1', 1)",
        "States.MathAdd(null, 1)",
        "States.MathAdd(2147483647, 1)",
        "States.MathAdd(3000000000, 1)",
        "States.MathAdd(1e300, 1)",
        "States.MathRandom(1, 1)",
        "States.MathRandom(10, 5)",
        "States.MathRandom(1, 10, 'seed')",
        "States.StringSplit($.n, ',')",
        "States.StringSplit('a', $.nil)",
        "States.StringToJson('{')",
        "States.StringToJson($.n)",
    ];
    for call in calls {
        let error = evaluate(call, &input).expect_err(call);
        assert_eq!(error.error, error_names::INTRINSIC_FAILURE, "{call}");
        let name = &call[..call.find('(').expect("a call")];
        let start = format!("The function '{call}' had the following error: Invalid arguments in {name}");
        assert!(error.cause.starts_with(&start), "{}", error.cause);
    }
}

#[test]
fn a_missing_path_is_told_with_the_whole_call() {
    let call = "States.Format('{}',  States.ArrayLength($.nope))";
    let error = evaluate(call, &json!({ "other": 1 })).expect_err("missing");
    assert_eq!(error.error, error_names::RUNTIME);
    assert_eq!(
        error.cause,
        format!(
            "The function '{call}' had the following error: The JsonPath argument for the field '$.nope' could not be \
             found in the input '{{\"other\":1}}'"
        )
    );
}

#[test]
fn says_what_is_wrong_with_a_call() {
    let table = [
        ("States.Nope()", "`States.Nope` is not an intrinsic function"),
        ("States.format('x')", "not an intrinsic function"),
        ("States.UUID", "a `(` must follow"),
        ("States.UUID(", "an argument is missing"),
        ("States.UUID($.a", "`)` is missing"),
        ("States.UUID(1)", "takes 0 arguments, not 1"),
        ("States.UUID() x", "unexpected `x`"),
        ("States.Format()", "takes at least 1"),
        ("States.MathRandom(1)", "takes 2 to 3"),
        ("States.ArrayGetItem($.a, )", "an argument is missing"),
        ("States.Format('{} {}', 1)", "do not match the occurrences"),
        ("States.Format('{', 1)", "matching '}' not found"),
        ("States.Format('}')", "matching '{' not found"),
        ("States.Format('x)", "`'` is missing"),
        (r#"States.Format('\"')"#, "no escape"),
        ("States.Array(x)", "neither a path"),
        ("States.Array(-)", "neither a path"),
        ("States.Array(\"x\")", "neither a path"),
        ("States.Array($.a[)", "not a valid path"),
        ("States.Array(1 2)", "neither a path"),
        ("States.Array('a' 'b')", "expected `,` or `)`"),
    ];
    for (call, part) in table {
        let error = Intrinsic::parse(call).expect_err(call);
        assert!(error.contains(part), "{call}: {error}");
    }
    let nested = |n: usize| format!("{}{}", "States.Array(".repeat(n), ")".repeat(n));
    assert!(Intrinsic::parse(&nested(NESTING_MAX)).is_ok());
    assert!(Intrinsic::parse(&nested(NESTING_MAX + 1)).is_err());
    assert!(Intrinsic::parse(&"States.Array(".repeat(100_000)).is_err());
}

#[test]
fn growing_text_is_limited() {
    let call = format!("{}$.s{}", "States.JsonToString(".repeat(10), ")".repeat(10));
    let error = evaluate(&call, &json!({ "s": "\"".repeat(200_000) })).expect_err("too long");
    assert!(error.cause.contains("longer than"), "{}", error.cause);
}

fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("$.a".to_owned()),
        Just("$.list".to_owned()),
        Just("$".to_owned()),
        any::<f64>().prop_map(|n| json!(n).to_string()),
        any::<i32>().prop_map(|n| n.to_string()),
        "[a-z,+ ]{0,5}".prop_map(|text| format!("'{text}'")),
        Just("null".to_owned()),
    ]
}

proptest! {
    #[test]
    fn evaluating_never_panics(function in 0..FUNCTIONS.len(), arguments in prop::collection::vec(argument(), 0..4)) {
        let call = format!("{}({})", FUNCTIONS[function].0, arguments.join(", "));
        if Intrinsic::parse(&call).is_ok() {
            let _ = evaluate(&call, &json!({ "a": "x{}", "list": [1, [2], { "b": null }] }));
        }
    }

    #[test]
    fn parsing_never_panics(text in ".*", calls in "States\\.(Format|Array)\\([$'{}\\\\,.a() ä]{0,20}") {
        let _ = Intrinsic::parse(&text);
        let _ = Intrinsic::parse(&format!("States.Format({text})"));
        let _ = Intrinsic::parse(&calls);
    }

    #[test]
    fn a_quoted_text_comes_back(text in ".*") {
        let quoted = text.replace('\\', "\\\\").replace('\'', "\\'").replace('{', "\\{").replace('}', "\\}");
        prop_assert_eq!(evaluate(&format!("States.Array('{quoted}')"), &json!(null)), Ok(json!([text])));
        prop_assert_eq!(evaluate(&format!("States.Format('{quoted}')"), &json!(null)), Ok(json!(text)));
    }
}
