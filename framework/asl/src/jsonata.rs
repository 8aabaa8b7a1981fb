//! JSONata expressions, `{% … %}`.
//!
//! `jsonata-core` does the work and appears nowhere else. What this module adds: an expression is parsed once, it
//! sees `$states` and the variables and nothing of the machine it runs on (time and chance come from [`Data`]), and
//! it has limits of time, depth and length, so that no expression stops the coordinator.

mod ranges;
mod references;

pub use references::{ADDED_FUNCTIONS, FUNCTIONS, References};

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonata_core::{
    ast::AstNode,
    evaluator::{Context, Evaluator, EvaluatorError, EvaluatorOptions},
    parser,
    value::JValue,
};
use serde_json::{Map, Number, Value};
use stagepost_protocol::{Timestamp, error_names};

use crate::{
    eval::{DEPTH_MAX, Data, EvalError},
    intrinsic,
};

/// How long the expressions of one field may take together.
pub const TIME_MAX: Duration = Duration::from_millis(500);
/// How deep an evaluation may go.
const STACK_DEPTH_MAX: usize = 1_000;
/// The longest sequence that an expression may build.
const SEQUENCE_MAX: usize = 250_000;
/// The most elements of `$range`, as in `States.ArrayRange`.
const RANGE_MAX: usize = 1_000;
/// The longest text that `$pad` makes, in characters.
const PAD_MAX: f64 = 1_000_000.0;
/// The most values that a result may hold, whatever its text would be.
const RESULT_VALUES_MAX: usize = 1_000_000;
/// The largest whole number that a 64-bit float tells from its neighbours.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Expr {
    source: Arc<str>,
    ast: Arc<AstNode>,
    reads: Reads,
    variables: Arc<[Box<str>]>,
    references: Arc<References>,
}

/// What of `$states` an expression looks at; too much rather than too little.
#[derive(Debug, Clone, Copy, Default)]
struct Reads {
    input: bool,
    result: bool,
    error_output: bool,
    context: bool,
}

/// The text between `{%` and `%}`, if a string is an expression.
pub fn expression(text: &str) -> Option<&str> {
    Some(text.strip_prefix("{%")?.strip_suffix("%}")?.trim())
}

impl Expr {
    /// Compiles the text between `{%` and `%}`; the error says what is wrong with it, as the service does.
    pub fn parse(source: &str) -> Result<Expr, String> {
        let mut ast = parser::parse(source).map_err(|e| complaint(&e.to_string()))?;
        let references = Arc::new(References::of(&ast));
        ranges::guard(&mut ast);
        let mut variables: Vec<Box<str>> = Vec::new();
        let mut known = HashSet::new();
        let mut reads = Reads::default();
        for (at, _) in source.match_indices('$') {
            let rest = &source[at + 1..];
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let name = &rest[..end];
            if name == "states" {
                reads.add(&rest[end..]);
            } else if !name.is_empty() && known.insert(name) {
                variables.push(name.into());
            }
        }
        let (source, ast, variables) = (source.into(), Arc::new(ast), variables.into());
        Ok(Expr { source, ast, reads, variables, references })
    }

    /// The expression as it was written, without its delimiters.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names of the variables that it may look at, those that it binds itself and functions included.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|name| &**name)
    }

    /// Whether it looks at the context object.
    pub fn reads_context(&self) -> bool {
        self.reads.context
    }

    /// What it looks at.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Its value over a document that is its context (`$`), outside of a state: there is no `$states`, and there are no
    /// variables but its own. `field` names it in the error. Fails with `States.QueryEvaluationError`.
    pub fn apply(
        &self,
        document: &Value,
        field: &str,
        now: Timestamp,
        random: &dyn Fn() -> u64,
    ) -> Result<Value, EvalError> {
        let (null, variables) = (Value::Null, Map::new());
        let data = Data {
            input: &null,
            context: &null,
            variables: &variables,
            result: None,
            error_output: None,
            now,
            random,
        };
        self.evaluate(&Session { root: JValue::from(document.clone()), ..Session::new(&data) }, field)
    }

    /// Its value, for the field that `field` names in the error (`Arguments/Name`). Fails with
    /// `States.QueryEvaluationError`.
    pub(crate) fn evaluate(&self, session: &Session<'_>, field: &str) -> Result<Value, EvalError> {
        let failed = |why: String| {
            query_error(
                field,
                format!("The JSONata expression '{}' specified for the field '{field}' {why}", self.source),
            )
        };
        match session.run(self) {
            Ok(JValue::Undefined) => Err(failed("returned nothing (undefined).".to_owned())),
            Ok(value) => {
                let mut left = RESULT_VALUES_MAX;
                from_jsonata(&value, DEPTH_MAX, &mut left).map_err(|unfit| match unfit {
                    Unfit::Type => failed("returned an unsupported result type.".to_owned()),
                    Unfit::Size => {
                        failed("returned a result that is too large or nested too deep.".to_owned())
                    }
                })
            }
            Err(e) => Err(failed(format!("threw an error during evaluation. {}", message(&e)))),
        }
    }
}

/// The parser's words as the service gives them: without the code in front, and with symbols instead of the names that
/// the parser has for them.
fn complaint(message: &str) -> String {
    const SYMBOLS: &[(&str, &str)] = &[
        ("LeftBracket", "["),
        ("RightBracket", "]"),
        ("LeftBrace", "{"),
        ("RightBrace", "}"),
        ("LeftParen", "("),
        ("RightParen", ")"),
        ("Comma", ","),
        ("Colon", ":"),
        ("Semicolon", ";"),
        ("Dot", "."),
    ];
    let coded = |code: &str| code.len() == 5 && code.starts_with(['S', 'T', 'D', 'U']);
    let text = message.split_once(": ").filter(|(code, _)| coded(code)).map_or(message, |(_, text)| text);
    let words = text.split(' ').map(|word| {
        let (name, comma) = word.strip_suffix(',').map_or((word, ""), |name| (name, ","));
        match SYMBOLS.iter().find(|(known, _)| *known == name) {
            Some((_, symbol)) => format!("\"{symbol}\"{comma}"),
            None => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What went wrong, without what the service leaves out.
fn message(error: &EvaluatorError) -> &str {
    const NO_FUNCTION: &str = "T1006: Attempted to invoke a non-function";
    if error.message().starts_with(NO_FUNCTION) { NO_FUNCTION } else { error.message() }
}

impl Reads {
    /// `rest` is what follows `$states`.
    fn add(&mut self, rest: &str) {
        let field = rest.trim_start().strip_prefix('.').map(str::trim_start);
        let named = |name: &str| {
            field
                .and_then(|f| f.strip_prefix(name))
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        if named("input") {
            self.input = true;
        } else if named("result") {
            self.result = true;
        } else if named("errorOutput") {
            self.error_output = true;
        } else if named("context") {
            self.context = true;
        } else {
            *self = Reads { input: true, result: true, error_output: true, context: true };
        }
    }
}

/// A failure of a query, whose location is a field.
pub fn query_error(location: &str, cause: String) -> EvalError {
    EvalError { error: error_names::QUERY_EVALUATION_ERROR, cause, location: Some(location.to_owned()) }
}

/// A value of another type than a field needs. `source` is its expression.
pub fn unexpected_type(source: &str, field: &str, expected: &str, value: &Value) -> EvalError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    query_error(
        field,
        format!(
            "The JSONata expression '{source}' specified for the field '{field}' returned an unexpected result \
             type. Expected '{expected}', but was '{found}' for value: {value}"
        ),
    )
}

/// What the expressions of one field are evaluated over; converted once, when the first of them asks.
pub(crate) struct Session<'a> {
    data: &'a Data<'a>,
    /// `$`. States have none.
    root: JValue,
    started: Cell<Option<Instant>>,
    input: OnceCell<JValue>,
    result: OnceCell<JValue>,
    error_output: OnceCell<JValue>,
    context: OnceCell<JValue>,
    variables: RefCell<HashMap<Box<str>, JValue>>,
    chance: OnceCell<Rc<Chance>>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(data: &'a Data<'a>) -> Session<'a> {
        Session {
            data,
            root: JValue::Undefined,
            started: Cell::new(None),
            input: OnceCell::new(),
            result: OnceCell::new(),
            error_output: OnceCell::new(),
            context: OnceCell::new(),
            variables: RefCell::new(HashMap::new()),
            chance: OnceCell::new(),
        }
    }

    fn run(&self, expr: &Expr) -> Result<JValue, EvaluatorError> {
        let started = self.started.get().unwrap_or_else(Instant::now);
        self.started.set(Some(started));
        let left = TIME_MAX.saturating_sub(started.elapsed()).as_millis();
        if left == 0 {
            let message = format!("D1012: The expressions of the field took more than {TIME_MAX:?}");
            return Err(EvaluatorError::EvaluationError(message));
        }
        let options = EvaluatorOptions {
            timeout_ms: u64::try_from(left).ok(),
            max_stack_depth: Some(STACK_DEPTH_MAX),
            max_sequence_length: Some(SEQUENCE_MAX),
            ..EvaluatorOptions::default()
        };
        let mut context = Context::new();
        context.bind("states".to_owned(), self.states(expr.reads));
        for name in expr.variables() {
            if let Some(value) = self.variable(name) {
                context.bind(name.to_owned(), value);
            }
        }
        let mut evaluator = Evaluator::with_options(context, options);
        let chance = Rc::clone(self.chance.get_or_init(|| Rc::new(Chance::default())));
        chance.seed_if(expr, self.data.random);
        functions(&mut evaluator, &chance, self.data.now.as_millis())?;
        // None is known, but a panic of code that is not ours must fail a state, not the coordinator. Nothing that the
        // evaluator holds is looked at afterwards.
        catch_unwind(AssertUnwindSafe(|| evaluator.evaluate(&expr.ast, &self.root)))
            .unwrap_or_else(|_| wrong_evaluation())
    }

    fn states(&self, reads: Reads) -> JValue {
        let data = self.data;
        let mut fields = Vec::new();
        let mut add = |wanted: bool, name: &str, cell: &OnceCell<JValue>, value: Option<&Value>| {
            if let Some(value) = value.filter(|_| wanted) {
                let value = cell.get_or_init(|| JValue::from(value.clone()));
                fields.push((name.to_owned(), value.clone()));
            }
        };
        add(reads.input, "input", &self.input, Some(data.input));
        add(reads.result, "result", &self.result, data.result);
        add(reads.error_output, "errorOutput", &self.error_output, data.error_output);
        add(reads.context, "context", &self.context, Some(data.context));
        JValue::object(fields.into_iter().collect())
    }

    fn variable(&self, name: &str) -> Option<JValue> {
        if let Some(value) = self.variables.borrow().get(name) {
            return Some(value.clone());
        }
        let value = JValue::from(self.data.variables.get(name)?.clone());
        self.variables.borrow_mut().insert(name.into(), value.clone());
        Some(value)
    }
}

/// Random numbers from one number that was drawn outside (SplitMix64): the functions outlive the borrow of
/// [`Data::random`].
#[derive(Debug, Default)]
struct Chance(Cell<Option<u64>>);

impl Chance {
    /// Draws nothing for expressions that have no use for it.
    fn seed_if(&self, expr: &Expr, random: &dyn Fn() -> u64) {
        if self.0.get().is_none() && expr.variables().any(|v| ["random", "uuid", "shuffle"].contains(&v)) {
            self.0.set(Some(random()));
        }
    }

    fn next(&self) -> u64 {
        let state = self.0.get().unwrap_or(0).wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(Some(state));
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0.0..1.0`.
    fn fraction(&self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

type Returned = Result<JValue, EvaluatorError>;

fn wrong<T>(function: &str, why: &str) -> Result<T, EvaluatorError> {
    Err(EvaluatorError::EvaluationError(format!("The function ${function} had an error: {why}")))
}

fn wrong_evaluation() -> Returned {
    Err(EvaluatorError::EvaluationError("The expression cannot be evaluated".to_owned()))
}

/// The functions that the service adds to JSONata, and those that it takes away or that would not be pure.
fn functions(evaluator: &mut Evaluator, chance: &Rc<Chance>, now: i64) -> Result<(), EvaluatorError> {
    evaluator.register_fn_override(ranges::BOUND, ranges::bound)?;
    evaluator.register_fn_override("partition", partition)?;
    evaluator.register_fn_override("range", range)?;
    evaluator.register_fn_override("hash", hash)?;
    evaluator.register_fn_override("parse", parse)?;
    evaluator.register_fn_override("eval", |_: &[JValue]| -> Returned {
        wrong("eval", "it is not available; use $parse to read JSON")
    })?;
    let uuids = Rc::clone(chance);
    evaluator.register_fn_override("uuid", move |_: &[JValue]| -> Returned {
        Ok(JValue::from(intrinsic::uuid_of(uuids.next(), uuids.next())))
    })?;
    let numbers = Rc::clone(chance);
    evaluator.register_fn_override("random", move |args: &[JValue]| -> Returned {
        match args.first() {
            None | Some(JValue::Undefined) => Ok(JValue::from_f64(numbers.fraction())),
            Some(JValue::Number(seed)) => {
                Ok(JValue::from_f64(Chance(Cell::new(Some(seed.to_bits()))).fraction()))
            }
            Some(_) => wrong("random", "the seed must be a number"),
        }
    })?;
    let shuffles = Rc::clone(chance);
    evaluator.register_fn_override("shuffle", move |args: &[JValue]| -> Returned {
        let mut items = match args.first() {
            None | Some(JValue::Undefined) => return Ok(JValue::Undefined),
            Some(value) => elements(value),
        };
        for last in (1..items.len()).rev() {
            let other = (shuffles.fraction() * (last + 1) as f64) as usize;
            items.swap(last, other.min(last));
        }
        Ok(JValue::array(items))
    })?;
    evaluator.register_fn_override("millis", move |_: &[JValue]| -> Returned {
        Ok(JValue::from_f64(now as f64))
    })?;
    evaluator.register_fn_override("now", move |args: &[JValue]| formatted(now, args))?;
    evaluator.register_fn_override("pad", pad)
}

fn elements(value: &JValue) -> Vec<JValue> {
    value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
}

fn partition(args: &[JValue]) -> Returned {
    let [items, JValue::Number(size)] = args else {
        return wrong("partition", "it takes an array and the size of a part");
    };
    if matches!(items, JValue::Undefined) {
        return Ok(JValue::Undefined);
    }
    if *size < 1.0 {
        return wrong("partition", "the size must be a positive integer");
    }
    let parts = elements(items).chunks(*size as usize).map(|part| JValue::array(part.to_vec())).collect();
    Ok(JValue::array(parts))
}

fn range(args: &[JValue]) -> Returned {
    let [JValue::Number(first), JValue::Number(last), JValue::Number(step)] = args else {
        return wrong("range", "it takes three numbers: the first, the last and the step");
    };
    if *step == 0.0 {
        return wrong("range", "the step must not be 0");
    }
    let number = |n: usize| first + n as f64 * step;
    let inside = |n: &f64| if *step > 0.0 { n <= last } else { n >= last };
    let items: Vec<JValue> = (0..=RANGE_MAX).map(number).take_while(inside).map(JValue::from_f64).collect();
    if items.len() > RANGE_MAX {
        return wrong("range", &format!("a range has at most {RANGE_MAX} elements"));
    }
    Ok(JValue::array(items))
}

fn hash(args: &[JValue]) -> Returned {
    let [data, JValue::String(algorithm)] = args else {
        return wrong("hash", "it takes the data and the name of an algorithm");
    };
    let text = match data {
        JValue::Undefined => return Ok(JValue::Undefined),
        JValue::String(text) => text.to_string(),
        other => from_jsonata(other, DEPTH_MAX, &mut RESULT_VALUES_MAX.clone())
            .map(|value| value.to_string())
            .or_else(|_| wrong("hash", "a function cannot be hashed"))?,
    };
    match intrinsic::digest(algorithm, &text) {
        Some(hex) => Ok(JValue::from(hex)),
        None => wrong("hash", "the algorithm must be MD5, SHA-1, SHA-256, SHA-384 or SHA-512"),
    }
}

fn parse(args: &[JValue]) -> Returned {
    match args {
        [JValue::Undefined] => Ok(JValue::Undefined),
        [JValue::String(text)] => match serde_json::from_str::<Value>(text) {
            Ok(value) => Ok(JValue::from(value)),
            Err(e) => wrong("parse", &format!("the text is not JSON: {e}")),
        },
        _ => wrong("parse", "it takes one text"),
    }
}

fn pad(args: &[JValue]) -> Returned {
    if args.get(1).and_then(JValue::as_f64).is_some_and(|width| width.abs() > PAD_MAX) {
        return wrong("pad", "the width is too large");
    }
    native("$pad($a, $b, $c)", args)
}

/// `$now`, at a time that is given.
fn formatted(now: i64, args: &[JValue]) -> Returned {
    let mut all = vec![JValue::from_f64(now as f64)];
    all.extend(args.iter().take(2).cloned());
    native("$fromMillis($a, $b, $c)", &all)
}

/// A call of a built-in function, which the functions here may hide, with up to three arguments.
fn native(call: &str, args: &[JValue]) -> Returned {
    let arguments: Vec<&str> = ["$a", "$b", "$c"].into_iter().take(args.len()).collect();
    let name = call.split('(').next().unwrap_or(call);
    let source = format!("{name}({})", arguments.join(", "));
    let ast = parser::parse(&source).map_err(|e| EvaluatorError::EvaluationError(e.to_string()))?;
    let mut context = Context::new();
    for (name, value) in ["a", "b", "c"].into_iter().zip(args) {
        context.bind(name.to_owned(), value.clone());
    }
    Evaluator::with_context(context).evaluate(&ast, &JValue::Undefined)
}

/// Why a value of JSONata's is no JSON.
#[derive(Debug, PartialEq, Eq)]
enum Unfit {
    Type,
    Size,
}

/// Numbers that are whole become integers, as JavaScript writes them.
fn from_jsonata(value: &JValue, depth: usize, left: &mut usize) -> Result<Value, Unfit> {
    *left = left.checked_sub(1).ok_or(Unfit::Size)?;
    Ok(match value {
        JValue::Null => Value::Null,
        JValue::Bool(value) => Value::Bool(*value),
        JValue::Number(number) if number.fract() == 0.0 && number.abs() <= WHOLE_MAX => {
            Value::from(*number as i64)
        }
        JValue::Number(number) => Value::Number(Number::from_f64(*number).ok_or(Unfit::Type)?),
        JValue::String(text) => Value::String(text.to_string()),
        JValue::Array(items) => {
            let depth = depth.checked_sub(1).ok_or(Unfit::Size)?;
            Value::Array(items.iter().map(|v| from_jsonata(v, depth, left)).collect::<Result<_, _>>()?)
        }
        JValue::Object(fields) => {
            let depth = depth.checked_sub(1).ok_or(Unfit::Size)?;
            let mut object = Map::with_capacity(fields.len());
            for (name, value) in fields.iter() {
                if !matches!(value, JValue::Undefined) {
                    object.insert(name.clone(), from_jsonata(value, depth, left)?);
                }
            }
            Value::Object(object)
        }
        JValue::Undefined | JValue::Lambda(_) | JValue::Builtin { .. } | JValue::Regex { .. } => {
            return Err(Unfit::Type);
        }
    })
}

#[cfg(test)]
mod tests;
