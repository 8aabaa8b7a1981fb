//! Recorded histories and the lines that they become.

use serde_json::{Value, json};

use super::*;

/// A recorded history: a line is `ID PREVIOUS MILLIS TYPE [DETAIL=TEXT]…`.
fn history(recorded: &str) -> Vec<HistoryEvent> {
    recorded.trim().lines().map(event).collect()
}

fn event(line: &str) -> HistoryEvent {
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_else(|| panic!("a word is missing: {line}"));
    let mut number = || word().parse::<i64>().unwrap();
    let (id, previous_id, at) = (number() as u64, number() as u64, number());
    let kind = word().to_owned();
    let detail = |text: &str| {
        let (name, text) = text.split_once('=').unwrap();
        let value =
            if name == "index" { text.parse::<u64>().unwrap().into() } else { json!(text.replace('_', " ")) };
        (name.to_owned(), value)
    };
    let details = words.map(detail).collect::<serde_json::Map<String, Value>>();
    HistoryEvent { id, previous_id, at: Timestamp::from_millis(at), kind, details }
}

fn shown(events: &[HistoryEvent], batch: usize) -> String {
    let mut steps = Steps::new(Style::plain());
    events.chunks(batch).map(|events| steps.show(events)).collect()
}

/// A retry, a nested Parallel that is cut short, a catch, an abort.
const PARALLEL: &str = "
1 0 0 ExecutionStarted
2 0 0 ParallelStateEntered name=Both
3 2 0 ParallelStateStarted
4 3 0 TaskStateEntered name=Charge
5 4 0 ActivityScheduled
6 3 0 ParallelStateEntered name=Inner
7 6 0 ParallelStateStarted
8 7 0 WaitStateEntered name=Hold
9 5 3 ActivityStarted
10 9 11 ActivityFailed error=Payments.Declined cause=card_42
11 10 1013 ActivityScheduled
12 11 1015 ActivityStarted
13 12 1022 ActivityTimedOut
14 13 1022 TaskStateAborted
15 13 1022 WaitStateAborted
16 13 1022 ParallelStateAborted
17 13 1022 ParallelStateFailed
18 17 1022 ParallelStateExited name=Both
19 18 1022 TaskStateEntered name=Refund
20 19 1022 ActivityScheduled
21 20 1030 ActivityStarted
22 21 1040 ActivitySucceeded
23 22 1040 TaskStateExited name=Refund
24 23 1040 WaitStateEntered name=Hold2
25 0 4002 ExecutionAborted error=Told
";

/// Branches of which the shorter one ends first, a Map with a failed iteration, a catch.
const MAP: &str = "
1 0 0 ExecutionStarted
2 0 0 PassStateEntered name=Prepare
3 2 0 PassStateExited name=Prepare
4 3 0 ParallelStateEntered name=Both
5 4 0 ParallelStateStarted
6 5 0 WaitStateEntered name=Hold
7 5 0 PassStateEntered name=Quick
8 7 0 PassStateExited name=Quick
9 8 0 PassStateEntered name=Quick2
10 9 0 PassStateExited name=Quick2
11 6 1001 WaitStateExited name=Hold
12 11 1001 ParallelStateSucceeded
13 11 1001 ParallelStateExited name=Both
14 13 1001 MapStateEntered name=Each
15 14 1001 MapStateStarted
16 15 1001 MapIterationStarted name=Each index=0
17 15 1001 MapIterationStarted name=Each index=1
18 16 1001 PassStateEntered name=Good
19 18 1001 PassStateExited name=Good
20 19 1001 MapIterationSucceeded name=Each index=0
21 17 1001 FailStateEntered name=Bad
22 21 1001 MapIterationFailed name=Each index=1
23 21 1001 MapStateFailed
24 23 1001 MapStateExited name=Each
25 24 1001 WaitStateEntered name=Caught
26 25 62003 WaitStateExited name=Caught
27 26 62003 SucceedStateEntered name=Done
28 27 62003 SucceedStateExited name=Done
29 28 62003 ExecutionSucceeded
";

#[test]
fn retries_aborted_branches_and_catches_are_shown() {
    let expected = "
   0.000s  ◷ Both
   0.000s    ◷ Inner
   0.011s    ✗ Charge  attempt 1  Payments.Declined: card 42
   1.022s    ✗ Charge  attempt 2  States.Timeout
   1.022s      ⊘ Hold  1.0s
   1.022s    ⊘ Inner  1.0s
   1.022s    ✗ Charge  1.0s
   1.022s  ✗ Both  1.0s  caught
   1.040s  ✓ Refund  18ms
   4.002s  ⊘ Hold2  3.0s
";
    // All at once: nothing is open between the batches, so nothing but what forks is announced.
    assert_eq!(shown(&history(PARALLEL), 100), expected[1..]);
}

#[test]
fn what_a_run_waits_for_is_announced_once() {
    let shown = shown(&history(PARALLEL), 1);
    for line in ["◷ Both", "◷ Charge", "◷ Inner", "◷ Hold", "◷ Refund", "◷ Hold2"] {
        assert_eq!(shown.lines().filter(|l| l.ends_with(line)).count(), 1, "{line}:\n{shown}");
    }
    assert!(shown.contains("   0.000s      ◷ Hold\n"), "{shown}");
}

#[test]
fn branches_and_iterations_are_indented() {
    let expected = "
   0.000s  ✓ Prepare  0ms
   0.000s  ◷ Both
   0.000s    ✓ Quick  0ms
   0.000s    ✓ Quick2  0ms
   1.001s    ✓ Hold  1.0s
   1.001s  ✓ Both  1.0s
   1.001s  ◷ Each
   1.001s    [0] ✓ Good  0ms
   1.001s    [1] ✗ Bad  0ms
   1.001s  ✗ Each  0ms  caught
  62.003s  ✓ Caught  1m01s
  62.003s  ✓ Done  0ms
";
    assert_eq!(shown(&history(MAP), 100), expected[1..]);
}

#[test]
fn of_many_iterations_the_first_are_shown() {
    let mut recorded =
        "1 0 0 ExecutionStarted\n2 0 0 MapStateEntered name=M\n3 2 0 MapStateStarted\n".to_owned();
    for index in 0..100 {
        let id = 4 + 4 * index;
        recorded += &format!(
            "{id} 3 0 MapIterationStarted name=M index={index}\n{} {id} 0 PassStateEntered name=P\n\
             {} {} 0 PassStateExited name=P\n{} {} 0 MapIterationSucceeded name=M index={index}\n",
            id + 1,
            id + 2,
            id + 1,
            id + 3,
            id + 2
        );
    }
    let shown = shown(&history(&recorded), 7);
    assert_eq!(shown.matches("✓ P").count(), 20, "{shown}");
    assert_eq!(shown.matches("… further items are not shown").count(), 1, "{shown}");
}

#[test]
fn a_history_without_sense_is_shown_without_a_panic() {
    // Events of a newer server, references to events that never were, ends of what never began.
    let odd = "
1 0 0 ExecutionStarted
2 7 5 ParallelStateSucceeded
3 9 5 TaskStateExited name=Never
4 1 5 MapIterationFailed name=Never index=3
5 1 5 SomethingNewStarted
6 1 5 ActivityFailed error=E
7 1 5 TaskStateEntered
8 0 4 ExecutionFailed
";
    assert_eq!(shown(&history(odd), 100), "   0.004s  ✗ ?  0ms\n");
}

#[test]
fn errors_stay_on_one_line_and_steer_no_terminal() {
    assert_eq!(shortened("a\nb\u{1b}[31mc"), "a b[31mc");
    assert_eq!(shortened(&"x".repeat(500)).chars().count(), ERROR_CHARS_MAX + 1);
}

#[test]
fn durations_are_readable() {
    for (text, expected) in
        [(-5, "0ms"), (999, "999ms"), (1_500, "1.5s"), (61_000, "1m01s"), (3_660_000, "1h01m")]
    {
        assert_eq!(millis(text), expected);
    }
}

#[test]
fn colours_are_a_matter_of_style() {
    assert_eq!(Style::plain().red("x"), "x");
    assert_eq!(Style::colour().red("x"), "\u{1b}[31mx\u{1b}[0m");
    let mut steps = Steps::new(Style::colour());
    assert!(steps.show(&history(MAP)).contains("\u{1b}[32m✓\u{1b}[0m Prepare"));
}
