//! Names and ARNs in requests.

use stagepost_protocol::{ActivityArn, ExecutionArn, MapRunArn, StateMachineArn};

use crate::wire::{ApiError, Code};

/// Longest name of an activity in bytes: queues are named after activities, and RabbitMQ's names have 255 bytes.
const ACTIVITY_NAME_BYTES_MAX: usize = 180;

/// Checks the characters of a name (CreateStateMachine, "name"). Its length is a constraint of the model.
pub(super) fn name(name: &str) -> Result<(), ApiError> {
    let forbidden = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{fffe}' | '\u{ffff}')
            || "<>{}[]?*\"#%\\^|~`$&,;:/".contains(c)
    };
    if name.is_empty() || name.contains(forbidden) {
        return Err(ApiError::about(Code::InvalidName, name));
    }
    Ok(())
}

/// Checks the name of an activity.
pub(super) fn activity_name(text: &str) -> Result<(), ApiError> {
    name(text)?;
    if text.len() > ACTIVITY_NAME_BYTES_MAX {
        let message = format!("{text} (more than {ACTIVITY_NAME_BYTES_MAX} bytes)");
        return Err(ApiError::about(Code::InvalidName, message));
    }
    Ok(())
}

/// Any ARN, of any service: a role, a KMS key.
pub(super) fn any_arn(text: &str) -> Result<(), ApiError> {
    if text.starts_with("arn:") && text.splitn(6, ':').count() == 6 {
        return Ok(());
    }
    Err(invalid(text, ""))
}

/// The ARN of a state machine; what stands after its name (a version, an alias or a label) is the second part.
pub(super) fn state_machine(text: &str) -> Result<(StateMachineArn, Option<&str>), ApiError> {
    let qualifier = text.match_indices([':', '/']).find(|(i, _)| text[..*i].matches(':').count() == 6);
    let (unqualified, qualifier) = match qualifier {
        Some((i, _)) => (&text[..i], Some(&text[i + 1..])),
        None => (text, None),
    };
    match StateMachineArn::parse(unqualified) {
        Ok(arn) if qualifier != Some("") && storable(text) => Ok((arn, qualifier)),
        _ => Err(invalid(text, "stateMachine")),
    }
}

/// The ARN of an execution that is kept: not an Express execution.
pub(crate) fn execution(text: &str) -> Result<ExecutionArn, ApiError> {
    let arn = ExecutionArn::parse(text).ok().filter(|arn| storable(text) && !arn.is_express());
    arn.ok_or_else(|| invalid(text, "execution"))
}

pub(super) fn map_run(text: &str) -> Result<MapRunArn, ApiError> {
    let arn = MapRunArn::parse(text).ok().filter(|_| storable(text));
    arn.ok_or_else(|| invalid(text, "mapRun"))
}

pub(super) fn activity(text: &str) -> Result<ActivityArn, ApiError> {
    let arn = ActivityArn::parse(text).ok().filter(|_| storable(text));
    arn.ok_or_else(|| invalid(text, "activity"))
}

/// No name holds control characters, and PostgreSQL refuses to look for a NUL.
fn storable(text: &str) -> bool {
    !text.contains(char::is_control)
}

fn invalid(text: &str, expected: &str) -> ApiError {
    let parts: Vec<&str> = text.splitn(7, ':').collect();
    let what = if parts[0] != "arn" || parts.len() < 6 {
        format!("Invalid ARN prefix: {text}")
    } else if parts[2] != "states" && !expected.is_empty() {
        format!("Invalid ARN service: {text}")
    } else if parts[5] != expected && !expected.is_empty() {
        format!("Resource type not valid in this context: {}", parts[5])
    } else {
        format!("Invalid ARN: {text}")
    };
    ApiError::about(Code::InvalidArn, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_brackets_wildcards_or_control_characters() {
        for good in ["a", "activity.name.v2", "ACTIVITY_NAME_ABC", "a-b", "ä", "(x)", "a@b", "a'b", "a!b+=c"]
        {
            assert!(name(good).is_ok(), "{good}");
        }
        for c in " <>{}[]?*\"#%\\^|~`$&,;:/\u{0}\u{1f}\u{7f}\u{9f}\u{ffff}\t\n".chars() {
            let bad = format!("activity{c}name");
            let error = name(&bad).unwrap_err();
            assert_eq!((error.code, error.message), (Code::InvalidName, format!("Invalid Name: '{bad}'")));
        }
        assert!(name("").is_err());
        assert!(activity_name(&"ä".repeat(80)).is_ok());
        assert!(activity_name(&"語".repeat(80)).is_err());
    }

    #[test]
    fn arns_are_read_and_complaints_are_the_services() {
        let base = "arn:aws:states:us-east-1:000000000000";
        let text = format!("{base}:stateMachine:a");
        let (arn, qualifier) = state_machine(&text).unwrap();
        assert_eq!((arn.name.as_str(), qualifier), ("a", None));
        for (text, expected) in [("a:1", "1"), ("a:PROD", "PROD"), ("a/label", "label")] {
            let text = format!("{base}:stateMachine:{text}");
            let (arn, qualifier) = state_machine(&text).unwrap();
            assert_eq!((arn.name.as_str(), qualifier), ("a", Some(expected)));
        }
        for (result, expected) in [
            (state_machine("bad").err(), "Invalid ARN prefix: bad".to_owned()),
            (state_machine("arn:nonsense").err(), "Invalid ARN prefix: arn:nonsense".to_owned()),
            (
                execution(&format!("{base}:stateMachine:a")).err(),
                "Resource type not valid in this context: stateMachine".to_owned(),
            ),
            (
                execution(&format!("{base}:express:a:b:c")).err(),
                "Resource type not valid in this context: express".to_owned(),
            ),
            (
                state_machine(&format!("{base}:stateMachine:a:")).err(),
                format!("Invalid ARN: {base}:stateMachine:a:"),
            ),
            (
                activity("arn:aws:sqs:us-east-1:0:activity:a").err(),
                "Invalid ARN service: arn:aws:sqs:us-east-1:0:activity:a".to_owned(),
            ),
            (activity(&format!("{base}:activity:a\0")).err(), format!("Invalid ARN: {base}:activity:a\0")),
            (any_arn("not-an-arn").err(), "Invalid ARN prefix: not-an-arn".to_owned()),
        ] {
            let error = result.unwrap();
            assert_eq!((error.code, error.message), (Code::InvalidArn, format!("Invalid Arn: '{expected}'")));
        }
        assert!(any_arn("arn:aws:iam::000000000000:role/r").is_ok());
    }
}
