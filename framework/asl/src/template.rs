//! Payload templates, in both languages: JSON in which a field `name.$` holds a path or an intrinsic function
//! (`Parameters`, `ResultSelector`, `ItemSelector`, `Assign`), or in which a string `{% … %}` is a JSONata expression
//! (`Arguments`, `Output`, `Items` and all other computed fields).

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    eval::{Budget, Data, EvalError, check_depth},
    intrinsic::Intrinsic,
    jsonata::{Expr, References, Session, expression, unexpected_type},
    path::Path,
};

/// Most errors that are reported for one template: each carries its whole pointer, and a hostile template could hold
/// tens of thousands below a field whose name is as long as the document allows.
const ERRORS_MAX: usize = 100;

/// Which parts of `$states` there are for a field, beside `input` and `context`, which there always are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reserved {
    /// `$states.result`: what the state's work gave.
    pub result: bool,
    /// `$states.errorOutput`: what was caught.
    pub error_output: bool,
}

/// What is wrong with an expression of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read.
    Invalid(String),
    /// It can be read, but asks for what there is not.
    Unsupported(String),
}

/// A compiled payload template.
#[derive(Debug, Clone)]
pub struct Template {
    source: Arc<Value>,
    root: Arc<Node>,
    /// How many paths are in it.
    places: usize,
    /// Its strings are JSONata.
    jsonata: bool,
}

#[derive(Debug)]
enum Node {
    /// As it stands: nothing in it is computed.
    Literal(Value),
    Object(Vec<(String, Node)>),
    Array(Vec<Node>),
    Path {
        /// The name with its `.$`, for the message.
        field: String,
        path: Path,
    },
    Intrinsic(Intrinsic),
    Jsonata {
        /// Where it stands in the state, as the service names it: `Arguments/Name`.
        field: Box<str>,
        expr: Expr,
    },
}

impl Template {
    /// Compiles a template. The errors are pairs of a JSON pointer within the template, to the field that is wrong,
    /// and a sentence fragment.
    pub fn compile(source: &Value) -> Result<Template, Vec<(String, String)>> {
        let mut errors = Vec::new();
        let root = compile(source, &mut String::new(), &mut errors);
        if errors.is_empty() {
            let mut paths = Vec::new();
            root.paths(&mut paths);
            let places = paths.len();
            Ok(Template { source: Arc::new(source.clone()), root: Arc::new(root), places, jsonata: false })
        } else {
            Err(errors)
        }
    }

    /// Compiles JSON with JSONata in its strings, for the field that `field` names in errors. The errors are pairs of
    /// a JSON pointer within the template and what is wrong there.
    pub fn compile_jsonata(
        source: &Value,
        field: &str,
        reserved: Reserved,
    ) -> Result<Template, Vec<(String, Fault)>> {
        let mut compiler =
            JsonataCompiler { field: field.to_owned(), pointer: String::new(), reserved, errors: Vec::new() };
        let root = compiler.compile(source);
        let errors = compiler.errors;
        if errors.is_empty() {
            Ok(Template { source: Arc::new(source.clone()), root: Arc::new(root), places: 0, jsonata: true })
        } else {
            Err(errors)
        }
    }

    /// The names of the fields of an object, as they come out: of an `Assign`, the variables.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let fields = self.source.as_object();
        fields.into_iter().flat_map(|fields| fields.keys()).map(|key| match key.strip_suffix(".$") {
            Some(name) if !self.jsonata => name,
            _ => key,
        })
    }

    /// Whether its strings are JSONata.
    pub fn is_jsonata(&self) -> bool {
        self.jsonata
    }

    /// Whether a JSONata expression in it looks at the context object.
    pub fn reads_context(&self) -> bool {
        let mut exprs = Vec::new();
        self.root.exprs(&mut exprs);
        exprs.iter().any(|expr| expr.reads_context())
    }

    /// The names of the variables that it may look at.
    pub fn variables(&self) -> Vec<&str> {
        let (mut paths, mut exprs) = (Vec::new(), Vec::new());
        self.root.paths(&mut paths);
        self.root.exprs(&mut exprs);
        let of_paths = paths.into_iter().filter_map(Path::variable);
        of_paths.chain(exprs.into_iter().flat_map(Expr::variables)).collect()
    }

    /// The names of the workflow's variables that it refers to.
    pub fn references(&self) -> Vec<&str> {
        let (mut paths, mut exprs) = (Vec::new(), Vec::new());
        self.root.paths(&mut paths);
        self.root.exprs(&mut exprs);
        let of_paths = paths.into_iter().filter_map(Path::variable);
        let of_exprs = exprs.into_iter().flat_map(|expr| expr.references().variables.iter());
        of_paths.chain(of_exprs.map(|name| &**name)).collect()
    }

    /// That a value which it gave is of a type, by its JSON name: JSONata expressions say otherwise in the service's
    /// words. `None` where it is.
    pub fn unexpected(&self, expected: &str, field: &str, value: &Value) -> Option<EvalError> {
        let fits = match expected {
            "array" => value.is_array(),
            "boolean" => value.is_boolean(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            _ => value.is_object(),
        };
        let source = match &*self.root {
            Node::Jsonata { expr, .. } => expr.source().to_owned(),
            _ => self.source.to_string(),
        };
        (!fits).then(|| unexpected_type(&source, field, expected, value))
    }

    /// The template as it was written.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The paths in it, those in arguments of intrinsic functions included.
    pub fn paths(&self) -> Vec<&Path> {
        let mut paths = Vec::new();
        self.root.paths(&mut paths);
        paths
    }

    /// Fills it in. A path that finds nothing fails as [`Path::select_for`], a function as [`Intrinsic::evaluate`].
    pub fn evaluate(&self, data: &Data<'_>) -> Result<Value, EvalError> {
        match &*self.root {
            Node::Literal(value) => Ok(value.clone()),
            node => {
                check_depth(node.evaluate(data, &Budget::for_places(self.places), &Session::new(data))?)
            }
        }
    }
}

impl Node {
    fn evaluate(&self, data: &Data<'_>, budget: &Budget, session: &Session<'_>) -> Result<Value, EvalError> {
        Ok(match self {
            Node::Literal(value) => value.clone(),
            Node::Path { field, path } => {
                let value = path.select_for(data, field)?;
                budget.charge(&value)?;
                value.into_owned()
            }
            Node::Intrinsic(call) => call.evaluate_within(data, budget)?,
            Node::Jsonata { field, expr } => expr.evaluate(session, field)?,
            Node::Array(items) => Value::Array(
                items.iter().map(|n| n.evaluate(data, budget, session)).collect::<Result<_, _>>()?,
            ),
            Node::Object(fields) => {
                let mut object = Map::with_capacity(fields.len());
                for (name, node) in fields {
                    object.insert(name.clone(), node.evaluate(data, budget, session)?);
                }
                Value::Object(object)
            }
        })
    }

    fn paths<'n>(&'n self, paths: &mut Vec<&'n Path>) {
        match self {
            Node::Literal(_) | Node::Jsonata { .. } => {}
            Node::Path { path, .. } => paths.push(path),
            Node::Intrinsic(call) => paths.extend(call.paths()),
            Node::Array(items) => items.iter().for_each(|n| n.paths(paths)),
            Node::Object(fields) => fields.iter().for_each(|(_, n)| n.paths(paths)),
        }
    }

    fn exprs<'n>(&'n self, exprs: &mut Vec<&'n Expr>) {
        match self {
            Node::Literal(_) | Node::Path { .. } | Node::Intrinsic(_) => {}
            Node::Jsonata { expr, .. } => exprs.push(expr),
            Node::Array(items) => items.iter().for_each(|n| n.exprs(exprs)),
            Node::Object(fields) => fields.iter().for_each(|(_, n)| n.exprs(exprs)),
        }
    }
}

/// `pointer` is the place of `source`; it is left as it was found.
fn compile(source: &Value, pointer: &mut String, errors: &mut Vec<(String, String)>) -> Node {
    let mut inner =
        |key: &str, pointer: &mut String, make: &mut dyn FnMut(&mut String, &mut Vec<_>) -> Node| {
            let len = pointer.len();
            pointer.push('/');
            pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            let node = make(pointer, errors);
            pointer.truncate(len);
            node
        };
    match source {
        Value::Object(fields) => {
            let mut nodes = Vec::with_capacity(fields.len());
            for (key, value) in fields {
                let node = inner(key, pointer, &mut |pointer, errors| match key.strip_suffix(".$") {
                    Some(name) => computed(key, name, value, fields, pointer, errors),
                    None => compile(value, pointer, errors),
                });
                nodes.push((key.strip_suffix(".$").unwrap_or(key).to_owned(), node));
            }
            let literal = nodes.iter().all(|(_, n)| matches!(n, Node::Literal(_)));
            if literal { Node::Literal(source.clone()) } else { Node::Object(nodes) }
        }
        Value::Array(items) => {
            let mut nodes = Vec::with_capacity(items.len());
            for (n, item) in items.iter().enumerate() {
                nodes.push(inner(&n.to_string(), pointer, &mut |pointer, errors| {
                    compile(item, pointer, errors)
                }));
            }
            let literal = nodes.iter().all(|n| matches!(n, Node::Literal(_)));
            if literal { Node::Literal(source.clone()) } else { Node::Array(nodes) }
        }
        other => Node::Literal(other.clone()),
    }
}

/// Compiles JSON with JSONata in its strings.
struct JsonataCompiler {
    /// Where it is, as the service names it: `Arguments/Names[0]`.
    field: String,
    /// The same as a JSON pointer within the template.
    pointer: String,
    reserved: Reserved,
    errors: Vec<(String, Fault)>,
}

impl JsonataCompiler {
    fn compile(&mut self, source: &Value) -> Node {
        match source {
            Value::Object(fields) => {
                let mut nodes = Vec::with_capacity(fields.len());
                for (key, value) in fields {
                    nodes.push((key.clone(), self.inner(key, &format!("/{key}"), value)));
                }
                let literal = nodes.iter().all(|(_, n)| matches!(n, Node::Literal(_)));
                if literal { Node::Literal(source.clone()) } else { Node::Object(nodes) }
            }
            Value::Array(items) => {
                let mut nodes = Vec::with_capacity(items.len());
                for (n, item) in items.iter().enumerate() {
                    nodes.push(self.inner(&n.to_string(), &format!("[{n}]"), item));
                }
                let literal = nodes.iter().all(|n| matches!(n, Node::Literal(_)));
                if literal { Node::Literal(source.clone()) } else { Node::Array(nodes) }
            }
            Value::String(text) => match expression(text).map(Expr::parse) {
                None => Node::Literal(source.clone()),
                Some(Ok(expr)) => {
                    self.check(expr.references());
                    Node::Jsonata { field: self.field.as_str().into(), expr }
                }
                Some(Err(why)) => {
                    self.report(Fault::Invalid(why));
                    Node::Literal(Value::Null)
                }
            },
            other => Node::Literal(other.clone()),
        }
    }

    fn inner(&mut self, key: &str, shown: &str, value: &Value) -> Node {
        let (field_len, pointer_len) = (self.field.len(), self.pointer.len());
        self.field.push_str(shown);
        self.pointer.push('/');
        self.pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
        let node = self.compile(value);
        self.field.truncate(field_len);
        self.pointer.truncate(pointer_len);
        node
    }

    fn report(&mut self, fault: Fault) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push((self.pointer.clone(), fault));
        }
    }

    /// What the service refuses of an expression that can be read.
    fn check(&mut self, references: &References) {
        for name in &references.nowhere {
            self.report(Fault::Unsupported(format!(
                "Reference to '{name}' at the top level is not supported."
            )));
        }
        if references.root {
            self.report(Fault::Unsupported("Reference to '$$' is not supported.".to_owned()));
        }
        for field in &references.reserved {
            let there = match &**field {
                "input" | "context" => true,
                "result" => self.reserved.result,
                "errorOutput" => self.reserved.error_output,
                _ => false,
            };
            if !there {
                self.report(Fault::Unsupported(format!("Field '$states.{field}' does not exist.")));
            }
        }
    }
}

/// A field whose name ends in `.$`.
fn computed(
    key: &str,
    name: &str,
    value: &Value,
    siblings: &Map<String, Value>,
    pointer: &str,
    errors: &mut Vec<(String, String)>,
) -> Node {
    let compiled = match value.as_str() {
        _ if siblings.contains_key(name) => {
            Err(format!("the field '{name}' is given twice, as '{name}' and as '{key}'"))
        }
        None => Err("it must be a string that holds a path or an intrinsic function".to_owned()),
        Some(text) if text.starts_with('$') => {
            Path::parse(text).map(|path| Node::Path { field: key.to_owned(), path })
        }
        Some(text) if text.starts_with("States.") => Intrinsic::parse(text).map(Node::Intrinsic),
        Some(_) => Err("it must start with `$` or `States.`".to_owned()),
    };
    compiled.unwrap_or_else(|fragment| {
        if errors.len() < ERRORS_MAX {
            errors.push((pointer.to_owned(), fragment));
        }
        Node::Literal(Value::Null)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(template: &Value, input: &Value) -> Result<Value, EvalError> {
        let variables = Map::new();
        let context = json!({ "Task": { "Token": "t" } });
        let data = Data {
            input,
            context: &context,
            variables: &variables,
            random: &|| 0,
            result: None,
            error_output: None,
            now: stagepost_protocol::Timestamp::from_millis(0),
        };
        Template::compile(template).expect("valid").evaluate(&data)
    }

    #[test]
    fn fills_in() {
        let input = json!({ "a": 1, "b": { "c": [1, 2] } });
        let table = [
            (json!({ "x.$": "$.a" }), json!({ "x": 1 })),
            (json!({ "x": "$.a" }), json!({ "x": "$.a" })),
            (json!({ "x.$": "$" }), json!({ "x": input })),
            (json!({ "x.$": "$$.Task.Token" }), json!({ "x": "t" })),
            (json!({ "x": { "y.$": "$.b.c[1]", "z": [] } }), json!({ "x": { "y": 2, "z": [] } })),
            (
                json!({ "x": [{ "y.$": "$.a" }, "$.a", ["y.$"]] }),
                json!({ "x": [{ "y": 1 }, "$.a", ["y.$"]] }),
            ),
            (json!({ "x.$": "$.b.c[*]" }), json!({ "x": [1, 2] })),
            (json!({ "x.$": "States.ArrayLength($.b.c)" }), json!({ "x": 2 })),
            (json!("text"), json!("text")),
            (json!({}), json!({})),
            (json!({ ".$": "$.a" }), json!({ "": 1 })),
        ];
        for (template, expected) in table {
            assert_eq!(evaluate(&template, &input), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_missing_path_is_told_with_its_field() {
        let error =
            evaluate(&json!({ "p": { "value.$": "$.no" } }), &json!({ "n": 0 })).expect_err("missing");
        assert_eq!(error.error, "States.Runtime");
        assert_eq!(
            error.cause,
            "The JSONPath '$.no' specified for the field 'value.$' could not be found in the input '{\"n\":0}'"
        );
    }

    #[test]
    fn reports_everything_that_is_wrong() {
        let template = json!({
            "a.$": 1, "b": [{ "c/d.$": "x" }], "e.$": "$.f[", "g.$": "States.Nope()", "h": 1, "h.$": "$.a",
        });
        let errors = Template::compile(&template).expect_err("invalid");
        let pointers: Vec<&str> = errors.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(pointers, ["/a.$", "/b/0/c~1d.$", "/e.$", "/g.$", "/h.$"]);
    }

    #[test]
    fn what_is_copied_is_limited() {
        let fields: Map<String, Value> = (0..200).map(|n| (format!("f{n}.$"), json!("$"))).collect();
        let error = evaluate(&Value::Object(fields), &json!("x".repeat(256 << 10))).expect_err("too much");
        assert_eq!(error.error, "States.DataLimitExceeded");
    }
}
