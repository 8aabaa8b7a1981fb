//! Words for people.

/// What a piece of text says, for colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Worth a look.
    Note,
    /// Matters less.
    Dim,
    /// Matters more.
    Strong,
}

/// Colours a piece of text, or leaves it as it is: [`plain`].
pub type Paint<'p> = &'p dyn Fn(Tone, &str) -> String;

/// No colours.
pub fn plain(_: Tone, text: &str) -> String {
    text.to_owned()
}

/// A duration in its two largest units, for instance `2 d 4 h`, `1 min 30 s`, `250 ms`.
pub fn duration(millis: i64) -> String {
    const UNITS: [(i64, &str); 5] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    let mut left = millis.max(0);
    let mut parts = Vec::new();
    for (unit, name) in UNITS {
        let count = left / unit;
        left %= unit;
        if count > 0 {
            parts.push(format!("{count} {name}"));
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// `1 state`, `2 states`.
pub(crate) fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
