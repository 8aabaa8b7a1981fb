use serde_json::json;
use stagepost_protocol::Timestamp;

use super::*;
use crate::template::{Reserved, Template};

fn evaluate(source: &Value) -> Result<Value, EvalError> {
    let variables = json!({ "n": 5, "list": [1, 2, 3], "o": { "k": "v" } });
    let context = json!({ "Execution": { "Name": "e" } });
    let input = json!({ "a": 1, "one": [0], "text": "[1, {\"x\": 2}]", "big": 9_007_199_254_740_993_u64 });
    let data = Data {
        input: &input,
        context: &context,
        variables: variables.as_object().unwrap(),
        result: Some(&json!({ "r": true })),
        error_output: None,
        now: Timestamp::from_millis(1_700_000_000_000),
        random: &|| 7,
    };
    let all = Reserved { result: true, error_output: true };
    Template::compile_jsonata(source, "Output", all).expect("valid").evaluate(&data)
}

#[test]
fn expressions_give_json() {
    let table = [
        (json!("{% 1 + 1 %}"), json!(2)),
        (json!("{%$n%}"), json!(5)),
        (json!("{% $n / 2 %}"), json!(2.5)),
        (json!("{% 1.0 %}"), json!(1)),
        (json!("{% $states.input.a + $sum($list) %}"), json!(7)),
        (json!("{% $states.result.r %}"), json!(true)),
        (json!("{% $states.context.Execution.Name %}"), json!("e")),
        (json!("{% $o.k & '!' %}"), json!("v!")),
        (json!("{% null %}"), json!(null)),
        (json!("{% [] %}"), json!([])),
        (json!("{% {'a': $nothing, 'b': [1]} %}"), json!({ "b": [1] })),
        (json!("{% $list[$ > 1] %}"), json!([2, 3])),
        (
            json!({ "x": ["{% $n %}", { "y": "{% 'z' %}" }], "w": "$n" }),
            json!({ "x": [5, { "y": "z" }], "w": "$n" }),
        ),
        (json!(" {% 1 %}"), json!(" {% 1 %}")),
        (json!("{% ( $f := function($x) { $x * 2 }; $f(4) ) %}"), json!(8)),
        (json!("{% $states.input.big %}"), json!(9_007_199_254_740_992_u64)),
        // The service's own functions.
        (json!("{% $partition([1, 2, 3], 2) %}"), json!([[1, 2], [3]])),
        (json!("{% $partition($states.input.one, 1) %}"), json!([[0]])),
        (json!("{% $range(1, 9, 4) %}"), json!([1, 5, 9])),
        (json!("{% $range(1, 0, -1) %}"), json!([1, 0])),
        (json!("{% $hash('a', 'MD5') %}"), json!("0cc175b9c0f1b6a831c399e269772661")),
        (json!("{% $parse($states.input.text) %}"), json!([1, { "x": 2 }])),
        (json!("{% $random(1) = $random(1) %}"), json!(true)),
        (json!("{% $random() < 1 %}"), json!(true)),
        (json!("{% $length($uuid()) %}"), json!(36)),
        (json!("{% $millis() %}"), json!(1_700_000_000_000_i64)),
        (json!("{% $now() %}"), json!("2023-11-14T22:13:20.000Z")),
        (json!("{% $now('[Y]') %}"), json!("2023")),
        (json!("{% $pad('a', 3, '-') %}"), json!("a--")),
        (json!("{% $count($shuffle($list)) %}"), json!(3)),
    ];
    for (source, expected) in table {
        assert_eq!(evaluate(&source), Ok(expected), "{source}");
    }
}

#[test]
fn failures_are_told_in_the_services_words() {
    let table = [
        (
            json!({ "x": { "y": "{% $nothing %}" } }),
            "Output/x/y",
            "The JSONata expression '$nothing' specified for the field 'Output/x/y' returned nothing (undefined).",
        ),
        (
            json!("{% $missing(1) %}"),
            "Output",
            "The JSONata expression '$missing(1)' specified for the field 'Output' threw an error during evaluation. \
             T1006: Attempted to invoke a non-function",
        ),
        (
            json!(["{% function($x) { $x } %}"]),
            "Output[0]",
            "The JSONata expression 'function($x) { $x }' specified for the field 'Output[0]' returned an unsupported \
             result type.",
        ),
    ];
    for (source, location, cause) in table {
        let error = evaluate(&source).expect_err("fails");
        assert_eq!(error.error, "States.QueryEvaluationError");
        assert_eq!((error.location.as_deref(), error.cause.as_str()), (Some(location), cause));
    }
}

#[test]
fn what_is_dangerous_fails_in_time() {
    let started = Instant::now();
    for source in [
        "$eval('1')",
        "($f := function($n) { 1 + $f($n + 1) }; $f(0))",
        "($f := function($n) { $f($n + 1) }; $f(0))",
        "[1..9999999]",
        "$map([1..200000], function($a) { $map([1..200000], function($b) { $a * $b }) })",
        "$pad('', 1e12)",
        "$range(0, 1e9, 1)",
        "$range(0, 1, 0)",
        "$partition([1], 0)",
        "$hash('a', 'CRC')",
        "$parse('{')",
        "1 / 0",
    ] {
        let error = evaluate(&json!(format!("{{% {source} %}}"))).expect_err(source);
        assert_eq!(error.error, "States.QueryEvaluationError", "{source}");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn an_expression_tells_what_it_reads() {
    let expr = |source: &str| Expr::parse(source).unwrap();
    for (source, context) in [
        ("$states.input.context", false),
        ("$states.context.Execution", true),
        ("$states", true),
        ("$states.inputs", true),
        ("$states . result", false),
        ("$statesman", false),
    ] {
        assert_eq!(expr(source).reads_context(), context, "{source}");
    }
    assert_eq!(expr("$a + $b_2.$c($a)").variables().collect::<Vec<_>>(), ["a", "b_2", "c"]);
    assert!(Expr::parse("1 +").is_err());
    assert!(Expr::parse("").is_err());
}

#[test]
fn ranges_have_bounds_that_can_be_counted() {
    for (source, expected) in [
        ("[1..3]", json!([1, 2, 3])),
        ("[3..1]", json!([])),
        ("[$n..7].($ * 2)", json!([10, 12, 14])),
        ("$list[[0..1]]", json!([1, 2])),
        ("($f := function($x) { [1..$x] }; $f(2))", json!([1, 2])),
        (
            "[-9007199254740992..-9007199254740991]",
            json!([-9_007_199_254_740_992_i64, -9_007_199_254_740_991_i64]),
        ),
        ("[1..$nothing]", json!([])),
    ] {
        assert_eq!(evaluate(&json!(format!("{{% {source} %}}"))), Ok(expected), "{source}");
    }
    for source in [
        "[-1e30..1e30]",
        "$sum([7777747777777700000007623005146-8177770000000000000000000000000007777777777..77700017577477777777])",
        "{ 'a': [($n > 1 ? [-1e300..1e300] : 1)] }",
        "$map([1], function($x) { [-1e30..1e30] })",
        "$list^(<[-1e30..1e30])",
        "$list{ $string($): [-1e30..1e30] }",
        "$list[$ in [-1e30..1e30]]",
        "$o ~> |$|{ 'x': [-1e30..1e30] }|",
        "$count([-1e30..1e30]) ~> $string()",
    ] {
        let error = evaluate(&json!(format!("{{% {source} %}}"))).unwrap_err();
        assert!(error.cause.contains("D2014"), "{source}: {}", error.cause);
    }
}
