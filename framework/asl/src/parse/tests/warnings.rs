//! What is said of definitions that are correct.

use super::*;

/// A machine of one Task state that calls a service, and a state for its catchers.
fn call(resource: &str, fields: &str) -> String {
    machine(&format!(
        r#""S": {{"Type": "Task", "Resource": "arn:aws:states:::{resource}", {fields} "End": true}}"#
    ))
}

#[test]
fn tasks_that_wait_for_people_have_limits_and_hand_their_token_out() {
    let token = r#""Parameters": {"MessageBody": {"Token.$": "$$.Task.Token"}, "QueueUrl": "q"},"#;
    let wait = "sqs:sendMessage.waitForTaskToken";
    let approval = "stagepost:requestApproval.waitForTaskToken";
    check(&[
        (call(wait, &format!(r#"{token} "TimeoutSeconds": 60,"#)), &[]),
        (call(wait, &format!(r#"{token} "HeartbeatSecondsPath": "$.h","#)), &[]),
        (call(wait, r#""TimeoutSeconds": 60, "Parameters": {"All.$": "States.JsonToString($$)"},"#), &[]),
        (call(wait, token), &["NO_TIMEOUT /States/S: This task waits for an answer that may never come"]),
        (
            call(wait, r#""TimeoutSeconds": 60, "Parameters": {"MessageBody": "please"},"#),
            &["NO_TASK_TOKEN /States/S: Nobody is told the token"],
        ),
        (call("sqs:sendMessage", r#""Parameters": {"MessageBody": "please"},"#), &[]),
        // An approval is answered by its id.
        (call(approval, r#""TimeoutSeconds": 60, "Parameters": {"Title": "Pay?"},"#), &[]),
        (call(approval, r#""Parameters": {"Title": "Pay?"},"#), &["NO_TIMEOUT /States/S: "]),
    ]);
}

#[test]
fn tasks_that_wait_for_a_signal_name_it_and_have_a_limit() {
    let wait = |fields: &str| call("stagepost:waitForSignal", fields);
    let limit = r#""TimeoutSeconds": 9,"#;
    check(&[
        (wait(&format!(r#"{limit} "Parameters": {{"Name": "approved"}},"#)), &[]),
        (wait(&format!(r#"{limit} "Parameters": {{"Name.$": "$.signal"}},"#)), &[]),
        (
            wait(&format!(
                r#"{limit} "QueryLanguage": "JSONata", "Arguments": {{"Name": "{{% $states.input.signal %}}"}},"#
            )),
            &[],
        ),
        (wait(r#""Parameters": {"Name": "approved"},"#), &["NO_TIMEOUT /States/S: This task waits"]),
        (wait(limit), &["SCHEMA_VALIDATION_FAILED /States/S: These fields are required: [Parameters]"]),
        (
            wait(&format!(r#"{limit} "Parameters": {{"Name": 1}},"#)),
            &["SCHEMA_VALIDATION_FAILED /States/S/Parameters/Name: Expected value of type String"],
        ),
        (
            wait(&format!(r#"{limit} "Parameters": {{"Name": ""}},"#)),
            &["SCHEMA_VALIDATION_FAILED /States/S/Parameters/Name: a signal's name has 1 to 256 characters"],
        ),
        (
            wait(&format!(r#"{limit} "Parameters": {{"Name": "a", "Id": "b"}},"#)),
            &["SCHEMA_VALIDATION_FAILED /States/S/Parameters: Field 'Id' is not supported"],
        ),
        (
            wait(&format!(r#"{limit} "HeartbeatSeconds": 3, "Parameters": {{"Name": "a"}},"#)),
            &["SCHEMA_VALIDATION_FAILED /States/S/HeartbeatSeconds: A task that waits for a signal"],
        ),
    ]);
}

#[test]
fn rules_for_errors_that_never_come() {
    let lambda = "lambda:invoke";
    check(&[
        (
            call(
                lambda,
                r#""Retry": [{"ErrorEquals": ["States.TimeOut", "Own.Error", "States.Http.StatusCode.500"]}],"#,
            ),
            &["UNKNOWN_ERROR /States/S/Retry/0/ErrorEquals/0: 'States.TimeOut' is no error of the language"],
        ),
        (
            call(lambda, r#""Retry": [{"ErrorEquals": ["A", "B"]}, {"ErrorEquals": ["C", "B"]}],"#),
            &["UNREACHABLE_RULE /States/S/Retry/1/ErrorEquals/1: An earlier rule has 'B' already"],
        ),
        // What the machine itself raises is no mistake.
        (
            machine(
                r#""S": {"Type": "Parallel", "End": true, "Catch": [{"ErrorEquals": ["States.Own"], "Next": "T"}],
                    "Branches": [{"StartAt": "F", "States": {"F": {"Type": "Fail", "Error": "States.Own"}}}]},
                   "T": {"Type": "Succeed"}"#,
            ),
            &[],
        ),
        // Retriers and catchers are two lists.
        (
            machine(
                r#""S": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true,
                    "Retry": [{"ErrorEquals": ["A"]}], "Catch": [{"ErrorEquals": ["A"], "Next": "T"}]},
                   "T": {"Type": "Succeed"}"#,
            ),
            &[],
        ),
    ]);
    let (_, warnings) = parse(&call(lambda, r#""Retry": [{"ErrorEquals": ["States.TimeOut"]}],"#)).unwrap();
    assert_eq!(warnings[0].help.as_deref(), Some("did you mean 'States.Timeout'?"));
}

#[test]
fn values_that_look_like_paths() {
    check(&[
        (
            state(r#""Type": "Fail", "Error": "$.error", "Cause": "States.Format('{}', $.a)""#),
            &[
                "NO_PATH /States/S/Error: The value of 'Error' looks like a path but is not evaluated",
                "NO_PATH /States/S/Cause: ",
            ],
        ),
        (
            rule(r#""Variable": "$.a", "StringEquals": "$.b""#),
            &["NO_PATH /States/S/Choices/0/StringEquals: "],
        ),
        (rule(r#""Variable": "$.a", "StringEquals": "$5""#), &[]),
        (
            machine(
                r#""S": {"Type": "Choice", "Choices": [{"Variable": "$.x", "IsNull": true, "Next": "T"}]},
                   "T": {"Type": "Succeed"}"#,
            ),
            &["MISSING_DEFAULT /States/S: "],
        ),
    ]);
}

/// A Pass state that assigns, and one that looks.
fn assigns(name: &str, next: &str) -> String {
    format!(r#""Set{name}": {{"Type": "Pass", "Assign": {{"{name}": 1}}, "Next": "{next}"}}"#)
}

fn looks(state: &str, name: &str, next: &str) -> String {
    format!(r#""{state}": {{"Type": "Pass", "Parameters": {{"v.$": "${name}"}}, {next}}}"#)
}

#[test]
fn variables_are_looked_up_along_the_ways_to_a_state() {
    let machine = |start: &str, states: &[String]| {
        format!(r#"{{"StartAt": "{start}", "States": {{{}}}}}"#, states.join(","))
    };
    let end = r#""End": true"#;
    let part = |states: &[String], start: &str, mode: &str| {
        format!(
            r#""M": {{"Type": "Map", "End": true, "ItemProcessor": {{"ProcessorConfig": {{"Mode": "{mode}"}},
                "StartAt": "{start}", "States": {{{}}}}}}}"#,
            states.join(",")
        )
    };
    let unseen = |state: &str| {
        format!("UNASSIGNED_VARIABLE {state}: The variable '$x' is not assigned on any way to this state")
    };
    for (definition, expected) in [
        (machine("Setx", &[assigns("x", "L"), looks("L", "x", end)]), None),
        // Too late.
        (
            machine(
                "L",
                &[
                    looks("L", "x", r#""Next": "Setx""#),
                    assigns("x", "E"),
                    r#""E": {"Type": "Succeed"}"#.to_owned(),
                ],
            ),
            Some("/States/L"),
        ),
        // A loop comes by again.
        (
            machine(
                "L",
                &[
                    looks("L", "x", r#""Next": "C""#),
                    r#""C": {"Type": "Choice", "Default": "E", "Choices": [
                        {"Variable": "$.a", "IsNull": true, "Next": "Setx"}]}"#
                        .to_owned(),
                    assigns("x", "L"),
                    r#""E": {"Type": "Succeed"}"#.to_owned(),
                ],
            ),
            None,
        ),
        // From around an inline Map, but not from around a distributed one; never out of it.
        (machine("Setx", &[assigns("x", "M"), part(&[looks("L", "x", end)], "L", "INLINE")]), None),
        (
            machine(
                "M",
                &[
                    part(&[assigns("x", "I"), looks("I", "x", end)], "Setx", "INLINE")
                        .replace(r#""Type": "Map", "End": true"#, r#""Type": "Map", "Next": "L""#),
                    looks("L", "x", end),
                ],
            ),
            Some("/States/L"),
        ),
    ] {
        let found = found(&definition);
        assert_eq!(found, expected.map(unseen).into_iter().collect::<Vec<_>>(), "{definition}");
    }
}

#[test]
fn what_no_way_leads_to_is_found_in_bounded_time() {
    // Each state assigns a variable and looks at that of another.
    let count = 2_000;
    let states: Vec<String> = (0..count)
        .map(|i| {
            let next =
                if i + 1 == count { r#""End": true"#.to_owned() } else { format!(r#""Next": "s{}""#, i + 1) };
            let other = (i * 7919) % count;
            format!(r#""s{i}": {{"Type": "Pass", "Assign": {{"v{i}": 1, "w{i}.$": "$v{other}"}}, {next}}}"#)
        })
        .collect();
    let text = format!(r#"{{"StartAt": "s0", "States": {{{}}}}}"#, states.join(","));
    let started = std::time::Instant::now();
    assert!(parse(&text).is_ok());
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}
