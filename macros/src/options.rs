//! The options of `#[activity(…)]`: read one by one, so that every mistake among them is reported.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::{ParseStream, Parser};
use syn::{Ident, LitInt, LitStr, Token};

const ALLOWED: &str = "`name = \"…\"`, `queue = \"…\"`, `timeout = \"30s\"`, `heartbeat = \"10s\"`, `concurrency = 4`, \
                       `idempotent` and `blocking`";
const NAMES: [&str; 7] = ["name", "queue", "timeout", "heartbeat", "concurrency", "idempotent", "blocking"];
/// Longest name of an activity, in characters (CreateActivity).
const NAME_CHARS_MAX: usize = 80;
/// A worker asks its broker for so many deliveries at the most (AMQP's prefetch is 16 bits wide).
const CONCURRENCY_MAX: u64 = 65_535;

/// What the attribute says. Absent: the default of the SDK.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) timeout_millis: Option<u64>,
    pub(crate) heartbeat_millis: Option<u64>,
    pub(crate) concurrency: Option<u64>,
    pub(crate) idempotent: bool,
    pub(crate) blocking: Option<Span>,
}

impl Options {
    /// Reads the arguments; adds what is wrong with them to `errors`.
    pub(crate) fn parse(arguments: TokenStream, errors: &mut Vec<syn::Error>) -> Options {
        let mut options = Options::default();
        let mut seen: Vec<String> = Vec::new();
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                let key: Ident = input.call(syn::ext::IdentExt::parse_any)?;
                let name = key.to_string();
                if seen.contains(&name) {
                    errors.push(syn::Error::new(key.span(), format!("the option `{name}` is given twice")));
                }
                seen.push(name);
                if let Err(error) = options.read(&key, input) {
                    errors.push(error);
                    skip_to_comma(input)?;
                }
                if !input.is_empty() && input.parse::<Token![,]>().is_err() {
                    errors.push(input.error("expected a comma between two options"));
                    skip_to_comma(input)?;
                    let _: Option<Token![,]> = input.parse()?;
                }
            }
            Ok(())
        };
        if let Err(error) = parser.parse2(arguments) {
            errors.push(error);
        }
        options
    }

    fn read(&mut self, key: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
        match key.to_string().as_str() {
            "name" => self.name = Some(activity_name(key, input)?),
            "queue" => self.queue = Some(activity_name(key, input)?),
            "timeout" => self.timeout_millis = Some(duration(key, input)?),
            "heartbeat" => self.heartbeat_millis = Some(duration(key, input)?),
            "concurrency" => self.concurrency = Some(concurrency(key, input)?),
            "idempotent" => {
                flag(key, input)?;
                self.idempotent = true;
            }
            "blocking" => {
                flag(key, input)?;
                self.blocking = Some(key.span());
            }
            other => {
                let near = match nearest(other) {
                    Some(near) => format!("; did you mean `{near}`?"),
                    None => String::new(),
                };
                let message = format!("unknown option `{other}`{near}\nthe options are {ALLOWED}");
                return Err(syn::Error::new(key.span(), message));
            }
        }
        Ok(())
    }

    /// The value of `Activity::OPTIONS`.
    pub(crate) fn expand(&self) -> TokenStream {
        let queue = optional(self.queue.as_ref().map(|queue| quote!(#queue)));
        let timeout = optional(self.timeout_millis.map(millis));
        let heartbeat = optional(self.heartbeat_millis.map(millis));
        let concurrency = optional(self.concurrency.map(|n| {
            let n = n as u16;
            quote!(#n)
        }));
        let (idempotent, blocking) = (self.idempotent, self.blocking.is_some());
        quote! {
            ::stagepost::private::Options {
                queue: #queue,
                timeout: #timeout,
                heartbeat: #heartbeat,
                concurrency: #concurrency,
                idempotent: #idempotent,
                blocking: #blocking,
            }
        }
    }
}

fn optional(value: Option<TokenStream>) -> TokenStream {
    match value {
        Some(value) => quote!(::stagepost::private::Some(#value)),
        None => quote!(::stagepost::private::None),
    }
}

fn millis(millis: u64) -> TokenStream {
    quote!(::stagepost::private::Duration::from_millis(#millis))
}

fn skip_to_comma(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        let _: proc_macro2::TokenTree = input.parse()?;
    }
    Ok(())
}

fn flag(key: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
    if input.peek(Token![=]) {
        return Err(syn::Error::new(key.span(), format!("`{key}` takes no value: write `{key}` alone")));
    }
    Ok(())
}

fn equals(key: &Ident, input: ParseStream<'_>, example: &str) -> syn::Result<()> {
    input
        .parse::<Token![=]>()
        .map(drop)
        .map_err(|_| syn::Error::new(key.span(), format!("`{key}` needs a value: `{key} = {example}`")))
}

fn text(key: &Ident, input: ParseStream<'_>, example: &str) -> syn::Result<LitStr> {
    equals(key, input, example)?;
    input.parse::<LitStr>().map_err(|e| {
        syn::Error::new(e.span(), format!("expected a text in quotes, as in `{key} = {example}`"))
    })
}

/// The rules of CreateActivity for names.
fn activity_name(key: &Ident, input: ParseStream<'_>) -> syn::Result<String> {
    let literal = text(key, input, "\"charge-card\"")?;
    let name = literal.value();
    let refused = |message: String| Err(syn::Error::new(literal.span(), message));
    let chars = name.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX {
        return refused(format!("`{key}` must have 1 to {NAME_CHARS_MAX} characters, this has {chars}"));
    }
    let forbidden = |c: &char| c.is_whitespace() || c.is_control() || "<>{}[]?*\"#%\\^|~`$&,;:/".contains(*c);
    if let Some(c) = name.chars().find(forbidden) {
        return refused(format!("`{key}` must not contain {c:?}: use letters, digits, `-`, `_` and `.`"));
    }
    Ok(name)
}

fn concurrency(key: &Ident, input: ParseStream<'_>) -> syn::Result<u64> {
    equals(key, input, "4")?;
    let wanted =
        format!("`concurrency` must be a whole number from 1 to {CONCURRENCY_MAX}, as in `concurrency = 4`");
    let literal: LitInt = input.parse().map_err(|e: syn::Error| syn::Error::new(e.span(), &wanted))?;
    match literal.base10_parse::<u64>() {
        Ok(n @ 1..=CONCURRENCY_MAX) => Ok(n),
        _ => Err(syn::Error::new(literal.span(), wanted)),
    }
}

fn duration(key: &Ident, input: ParseStream<'_>) -> syn::Result<u64> {
    let literal = text(key, input, "\"30s\"")?;
    parse_duration(&literal.value()).ok_or_else(|| {
        let message = format!(
            "`{}` is not a duration: write a whole number above 0 and a unit, ms, s, m, h or d, as in `{key} = \"30s\"`",
            literal.value()
        );
        syn::Error::new(literal.span(), message)
    })
}

/// Milliseconds of a text such as `30s`.
fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok().filter(|n| *n > 0)?.checked_mul(factor)
}

/// The option that was probably meant: at most two letters away.
fn nearest(word: &str) -> Option<&'static str> {
    NAMES
        .into_iter()
        .map(|name| (distance(word, name), name))
        .filter(|(d, _)| *d <= 2)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("1d", Some(86_400_000)),
            ("0s", None),
            ("30", None),
            ("s", None),
            ("", None),
            ("1.5s", None),
            ("30 s", None),
            ("-1s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(parse_duration(text), millis, "{text}");
        }
    }

    #[test]
    fn every_mistake_among_the_options_is_reported() {
        let mut errors = Vec::new();
        let arguments = quote!(
            timout = "30s",
            heartbeat = "soon",
            concurrency = 0,
            idempotent = true,
            name = "a b",
            blocking,
            blocking
        );
        let options = Options::parse(arguments, &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for wanted in [
            "did you mean `timeout`",
            "`soon` is not a duration",
            "1 to 65535",
            "takes no value",
            "' '",
            "twice",
        ] {
            assert!(texts.iter().any(|text| text.contains(wanted)), "{wanted}: {texts:?}");
        }
        assert_eq!(errors.len(), 6, "{texts:?}");
        assert!(options.blocking.is_some());
    }

    #[test]
    fn the_near_match_is_proposed_and_the_far_one_is_not() {
        assert_eq!(nearest("heartbeats"), Some("heartbeat"));
        assert_eq!(nearest("idempotant"), Some("idempotent"));
        assert_eq!(nearest("retries"), None);
    }
}
