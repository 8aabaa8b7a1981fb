//! What the functions compute. Limits and corner cases are those of the developer guide, "Intrinsic functions", and,
//! where the service is known to differ from it, the service's.

use std::{borrow::Cow, collections::HashSet, fmt::Write as _};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Map, Number, Value};
use sha2::Digest as _;

use super::{Call, Function, Piece};

/// The longest text that is encoded, decoded or hashed, in characters.
const TEXT_CHARS_MAX: usize = 10_000;
/// The most elements of a range.
const RANGE_MAX: usize = 1000;
/// The longest text that a function may build, in bytes: nested quoting grows exponentially.
const RESULT_BYTES_MAX: usize = 4 << 20;

/// Base64 as Java decodes it: the padding may be left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Applies the function of a call to the values of its arguments. The error is what the service says after "had the
/// following error: ".
pub(super) fn apply(
    call: &Call,
    arguments: Vec<Cow<'_, Value>>,
    random: &dyn Fn() -> u64,
) -> Result<Value, String> {
    let function = call.function;
    let a = Arguments { function, values: &arguments };
    Ok(match function {
        Function::Array => Value::Array(arguments.into_iter().map(Cow::into_owned).collect()),
        Function::ArrayContains => Value::Bool(a.array(0)?.contains(a.value(1)?)),
        Function::ArrayGetItem => {
            let (items, index) = (a.array(0)?, a.truncated(1)?);
            let item = usize::try_from(index).ok().and_then(|i| items.get(i));
            item.cloned().ok_or_else(|| a.invalid("the index is out of range"))?
        }
        Function::ArrayLength => Value::from(a.array(0)?.len()),
        Function::ArrayPartition => {
            let (items, size) = (a.array(0)?, a.truncated(1)?);
            let size = usize::try_from(size).ok().filter(|n| *n > 0);
            let size = size.ok_or_else(|| a.invalid("the chunk size must be a positive integer"))?;
            items.chunks(size).map(|chunk| Value::Array(chunk.to_vec())).collect()
        }
        Function::ArrayRange => range(&a)?,
        Function::ArrayUnique => {
            let mut seen = HashSet::new();
            a.array(0)?.iter().filter(|item| seen.insert(*item)).cloned().collect()
        }
        Function::Base64Decode => {
            let bytes = BASE64.decode(a.short_text(0)?).map_err(|_| a.invalid("it is not Base64"))?;
            Value::String(String::from_utf8_lossy(&bytes).into_owned())
        }
        Function::Base64Encode => Value::String(BASE64.encode(a.short_text(0)?)),
        Function::Format => Value::String(match &call.template {
            Some(pieces) => format(&a, pieces, &arguments)?,
            None => {
                let pieces = pieces(a.text(0)?).map_err(|e| a.invalid(&e))?;
                check_placeholders(&pieces, arguments.len() - 1).map_err(|e| a.invalid(&e))?;
                format(&a, &pieces, &arguments[1..])?
            }
        }),
        Function::Hash => Value::String(hash(&a)?),
        Function::JsonMerge => merge(&a)?,
        Function::JsonToString => Value::String(limited(&a, a.value(0)?.to_string())?),
        Function::MathAdd => {
            let sum = a.rounded(0)?.checked_add(a.rounded(1)?);
            Value::from(sum.ok_or_else(|| a.invalid("the sum is not in the range of 32-bit integers"))?)
        }
        Function::MathRandom => math_random(&a, random)?,
        Function::StringSplit => {
            let (text, delimiters) = (a.text(0)?, a.text(1)?);
            let parts = text.split(|c| delimiters.contains(c)).filter(|part| !part.is_empty());
            parts.map(Value::from).collect()
        }
        Function::StringToJson => string_to_json(&a)?,
        Function::Uuid => Value::String(uuid(random(), random())),
    })
}

/// The values of the arguments, with the checks of their types.
struct Arguments<'v> {
    function: Function,
    values: &'v [Cow<'v, Value>],
}

impl<'v> Arguments<'v> {
    fn invalid(&self, detail: &str) -> String {
        format!("Invalid arguments in {}: {detail}", self.function.name())
    }

    fn wrong(&self, n: usize, expected: &str) -> String {
        self.invalid(&format!("argument {} must be {expected}", n + 1))
    }

    fn value(&self, n: usize) -> Result<&'v Value, String> {
        self.values.get(n).map(|v| &**v).ok_or_else(|| self.invalid("an argument is missing"))
    }

    fn array(&self, n: usize) -> Result<&'v Vec<Value>, String> {
        self.value(n)?.as_array().ok_or_else(|| self.wrong(n, "an array"))
    }

    fn object(&self, n: usize) -> Result<&'v Map<String, Value>, String> {
        self.value(n)?.as_object().ok_or_else(|| self.wrong(n, "an object"))
    }

    fn text(&self, n: usize) -> Result<&'v str, String> {
        self.value(n)?.as_str().ok_or_else(|| self.wrong(n, "a string"))
    }

    fn short_text(&self, n: usize) -> Result<&'v str, String> {
        let text = self.text(n)?;
        // Four bytes a character at most, so that long texts need not be counted.
        if text.len() > 4 * TEXT_CHARS_MAX || text.chars().count() > TEXT_CHARS_MAX {
            return Err(self.wrong(n, &format!("at most {TEXT_CHARS_MAX} characters long")));
        }
        Ok(text)
    }

    fn number(&self, n: usize) -> Result<f64, String> {
        self.value(n)?.as_f64().ok_or_else(|| self.wrong(n, "a number"))
    }

    /// To the nearest integer, halves upwards, as `States.MathAdd` does it.
    fn rounded(&self, n: usize) -> Result<i32, String> {
        self.integer(n, (self.number(n)? + 0.5).floor())
    }

    /// Towards zero. The guide says that these functions round; the service truncates.
    fn truncated(&self, n: usize) -> Result<i32, String> {
        self.integer(n, self.number(n)?.trunc())
    }

    fn integer(&self, n: usize, value: f64) -> Result<i32, String> {
        if value < f64::from(i32::MIN) || value > f64::from(i32::MAX) {
            return Err(self.wrong(n, "in the range of 32-bit integers"));
        }
        // Checked above; a fraction is gone already.
        Ok(value as i32)
    }
}

fn limited(a: &Arguments<'_>, text: String) -> Result<String, String> {
    if text.len() > RESULT_BYTES_MAX {
        return Err(a.invalid(&format!("the result is longer than {RESULT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn range(a: &Arguments<'_>) -> Result<Value, String> {
    let (first, last, step) = (a.truncated(0)?, a.truncated(1)?, a.truncated(2)?);
    if step == 0 {
        return Err(a.invalid("the step must not be 0"));
    }
    let (first, last, step) = (i64::from(first), i64::from(last), i64::from(step));
    let items: Vec<Value> = (0..=RANGE_MAX as i64)
        .map(|n| first + n * step)
        .take_while(|n| if step > 0 { *n <= last } else { *n >= last })
        .map(Value::from)
        .collect();
    if items.len() > RANGE_MAX {
        return Err(a.invalid(&format!("a range has at most {RANGE_MAX} elements")));
    }
    Ok(Value::Array(items))
}

fn hash(a: &Arguments<'_>) -> Result<String, String> {
    let (text, algorithm) = (a.short_text(0)?, a.text(1)?);
    digest(algorithm, text).ok_or_else(|| a.wrong(1, "MD5, SHA-1, SHA-256, SHA-384 or SHA-512"))
}

/// The digest of a text in hexadecimal; `None` where there is no such algorithm.
pub(crate) fn digest(algorithm: &str, text: &str) -> Option<String> {
    let digest = match algorithm {
        "MD5" => md5::Md5::digest(text).to_vec(),
        "SHA-1" => sha1::Sha1::digest(text).to_vec(),
        "SHA-256" => sha2::Sha256::digest(text).to_vec(),
        "SHA-384" => sha2::Sha384::digest(text).to_vec(),
        "SHA-512" => sha2::Sha512::digest(text).to_vec(),
        _ => return None,
    };
    let mut hex = String::with_capacity(2 * digest.len());
    for byte in digest {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
    }
    Some(hex)
}

fn merge(a: &Arguments<'_>) -> Result<Value, String> {
    let (first, second) = (a.object(0)?, a.object(1)?);
    // The service takes anything else than `true` for a shallow merge.
    if a.value(2)?.as_bool() == Some(true) {
        return Err(a.invalid("deep merging is not supported, argument 3 must be false"));
    }
    let mut merged = first.clone();
    merged.extend(second.iter().map(|(key, value)| (key.clone(), value.clone())));
    Ok(Value::Object(merged))
}

fn math_random(a: &Arguments<'_>, random: &dyn Fn() -> u64) -> Result<Value, String> {
    let (start, end) = (i64::from(a.truncated(0)?), i64::from(a.truncated(1)?));
    if start >= end {
        return Err(a.invalid("the start must be less than the end"));
    }
    let number = match a.values.get(2) {
        // The same seed gives the same number.
        Some(_) => mix(i64::from(a.truncated(2)?).cast_unsigned()),
        None => random(),
    };
    let offset = i64::try_from(number % (end - start).unsigned_abs())
        .map_err(|_| a.invalid("the range is too large"))?;
    Ok(Value::from(start + offset))
}

/// Spreads a seed over all bits (the finalizer of SplitMix64).
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn string_to_json(a: &Arguments<'_>) -> Result<Value, String> {
    let text = a.text(0)?.trim();
    match text {
        // As the service answers.
        "" => Ok(Value::Null),
        // serde_json would make it -0.0.
        "-0" => Ok(Value::from(0)),
        text => serde_json::from_str(text).map_err(|e| a.invalid(&format!("it is not JSON: {e}"))),
    }
}

/// A version 4 UUID of 128 random bits.
/// A random (version 4) UUID of 128 random bits.
pub(crate) fn uuid(high: u64, low: u64) -> String {
    let high = (high & 0xffff_ffff_ffff_0fff) | 0x4000;
    let low = (low & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// Takes a template apart. A backslash makes the next character a plain one; a brace that stands alone is an error.
pub(super) fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut text) = (Vec::new(), String::new());
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.extend(chars.next()),
            '{' if chars.next_if_eq(&'}').is_some() => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Placeholder);
            }
            '{' => return Err("matching '}' not found for '{'; a brace is written `\\{`".to_owned()),
            '}' => return Err("matching '{' not found for '}'; a brace is written `\\}`".to_owned()),
            c => text.push(c),
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

pub(super) fn check_placeholders(pieces: &[Piece], arguments: usize) -> Result<(), String> {
    let placeholders = pieces.iter().filter(|p| **p == Piece::Placeholder).count();
    if placeholders != arguments {
        return Err(format!(
            "number of arguments ({arguments}) do not match the occurrences of {{}} ({placeholders})"
        ));
    }
    Ok(())
}

fn format(a: &Arguments<'_>, pieces: &[Piece], values: &[Cow<'_, Value>]) -> Result<String, String> {
    let mut text = String::new();
    let mut values = values.iter();
    for piece in pieces {
        match piece {
            Piece::Text(literal) => text.push_str(literal),
            Piece::Placeholder => values.next().into_iter().for_each(|v| write_plain(v, &mut text)),
        }
    }
    limited(a, text)
}

/// A value as the service writes it in a text: strings without quotes, objects and arrays as Java prints them.
fn write_plain(value: &Value, text: &mut String) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(b) => text.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => write_number(n, text),
        Value::String(s) => text.push_str(s),
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                text.push_str(if n == 0 { "" } else { ", " });
                write_plain(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (n, (key, value)) in fields.iter().enumerate() {
                text.push_str(if n == 0 { "" } else { ", " });
                text.push_str(key);
                text.push('=');
                write_plain(value, text);
            }
            text.push('}');
        }
    }
}

fn write_number(number: &Number, text: &mut String) {
    write!(text, "{number}").expect("writing to a string cannot fail");
}
