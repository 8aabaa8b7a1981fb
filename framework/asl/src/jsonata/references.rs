//! What an expression looks at, told from its text alone.
//!
//! The service refuses a definition for some of it ("Transforming data with JSONata in Step Functions" of the developer
//! guide): there is no context item, so that a bare name or `$` finds nothing, and `$states.result` and
//! `$states.errorOutput` exist in some fields only.

use std::collections::{HashMap, HashSet};

use jsonata_core::ast::{AstNode, BinaryOp, PathStep, Stage};

/// What an expression looks at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Names, or `$`, that are looked up where there is nothing: outside of every path. In order, each once.
    pub nowhere: Vec<Box<str>>,
    /// `$$` stands in it, outside of every path.
    pub root: bool,
    /// The fields of `$states` that it names, in order, each once.
    pub reserved: Vec<Box<str>>,
    /// The variables that it neither binds itself nor are functions of the language, in order, each once.
    pub variables: Vec<Box<str>>,
}

/// The functions that the service adds to JSONata (developer guide, "JSONata functions provided by Step Functions").
pub const ADDED_FUNCTIONS: &[&str] = &["hash", "parse", "partition", "random", "range", "uuid"];

/// The functions of JSONata 2.0, and those that the service adds.
pub const FUNCTIONS: &[&str] = &[
    "abs",
    "append",
    "assert",
    "average",
    "base64decode",
    "base64encode",
    "boolean",
    "ceil",
    "clone",
    "contains",
    "count",
    "decodeUrl",
    "decodeUrlComponent",
    "distinct",
    "each",
    "encodeUrl",
    "encodeUrlComponent",
    "error",
    "eval",
    "exists",
    "filter",
    "floor",
    "formatBase",
    "formatInteger",
    "formatNumber",
    "fromMillis",
    "hash",
    "join",
    "keys",
    "length",
    "lookup",
    "lowercase",
    "map",
    "match",
    "max",
    "merge",
    "millis",
    "min",
    "not",
    "now",
    "number",
    "pad",
    "parse",
    "parseInteger",
    "partition",
    "power",
    "random",
    "range",
    "reduce",
    "replace",
    "reverse",
    "round",
    "shuffle",
    "sift",
    "single",
    "sort",
    "split",
    "spread",
    "sqrt",
    "string",
    "substring",
    "substringAfter",
    "substringBefore",
    "sum",
    "toMillis",
    "trim",
    "type",
    "uppercase",
    "uuid",
    "zip",
];

/// Whether the context item of a part of an expression is that of the whole, which is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    Nothing,
    Item,
}

/// What is left to do. A list and no recursion: expressions may be nested a thousand levels deep.
enum Step<'a> {
    Visit(&'a AstNode, Around),
    Bind(&'a str),
    /// Forgets the names that were bound since there were so many.
    Leave(usize),
}

#[derive(Default)]
struct Walk<'a> {
    found: References,
    seen: HashSet<(u8, &'a str)>,
    /// The names that are bound, innermost last, and how often each is.
    bound: Vec<&'a str>,
    times: HashMap<&'a str, usize>,
    open: Vec<Step<'a>>,
}

impl References {
    /// Reads them from an expression.
    pub(super) fn of(ast: &AstNode) -> References {
        let mut walk = Walk::default();
        walk.open.push(Step::Visit(ast, Around::Nothing));
        while let Some(step) = walk.open.pop() {
            match step {
                Step::Visit(node, around) => {
                    // What is pushed is done last to first.
                    let from = walk.open.len();
                    walk.visit(node, around);
                    walk.open[from..].reverse();
                }
                Step::Bind(name) => {
                    walk.bound.push(name);
                    *walk.times.entry(name).or_default() += 1;
                }
                Step::Leave(count) => {
                    for name in walk.bound.drain(count..) {
                        walk.times.entry(name).and_modify(|times| *times -= 1);
                    }
                }
            }
        }
        walk.found
    }
}

impl<'a> Walk<'a> {
    fn then(&mut self, node: &'a AstNode, around: Around) {
        self.open.push(Step::Visit(node, around));
    }

    fn all(&mut self, nodes: &'a [AstNode], around: Around) {
        self.open.extend(nodes.iter().map(|node| Step::Visit(node, around)));
    }

    fn pairs(&mut self, pairs: &'a [(AstNode, AstNode)], around: Around) {
        for (key, value) in pairs {
            self.then(key, around);
            self.then(value, around);
        }
    }

    fn leave(&mut self) {
        self.open.push(Step::Leave(self.bound.len()));
    }

    fn visit(&mut self, node: &'a AstNode, around: Around) {
        match node {
            AstNode::Name(name) if around == Around::Nothing => self.nowhere(name),
            AstNode::ParentVariable(_) => self.found.root |= around == Around::Nothing,
            AstNode::Variable(name) => self.variable(name, around),
            AstNode::Path { steps } => self.path(steps, around),
            AstNode::Binary { op: BinaryOp::ColonEqual, lhs, rhs } => self.bind(lhs, rhs, around),
            AstNode::Binary { lhs, rhs, .. } => {
                self.then(lhs, around);
                self.then(rhs, around);
            }
            AstNode::Unary { operand, .. } => self.then(operand, around),
            AstNode::Function { name, args, is_builtin } => {
                match is_builtin {
                    true => self.variable(name, around),
                    false if around == Around::Nothing => self.nowhere(name),
                    false => {}
                }
                self.all(args, around);
            }
            AstNode::Call { procedure, args } => {
                self.then(procedure, around);
                self.all(args, around);
            }
            AstNode::Lambda { params, body, .. } => {
                self.open.extend(params.iter().map(|name| Step::Bind(name)));
                self.then(body, around);
                self.leave();
            }
            AstNode::Array(items) | AstNode::ArrayGroup(items) => self.all(items, around),
            AstNode::Object(pairs) => self.pairs(pairs, around),
            AstNode::ObjectTransform { input, pattern } => {
                self.then(input, around);
                self.pairs(pattern, Around::Item);
            }
            AstNode::Block(items) => {
                self.all(items, around);
                self.leave();
            }
            AstNode::Conditional { condition, then_branch, else_branch } => {
                self.then(condition, around);
                self.then(then_branch, around);
                self.open.extend(else_branch.iter().map(|node| Step::Visit(node, around)));
            }
            AstNode::FunctionApplication(inner) => self.then(inner, around),
            AstNode::Sort { input, terms } => {
                self.then(input, around);
                self.open.extend(terms.iter().map(|(term, _)| Step::Visit(term, Around::Item)));
            }
            AstNode::Transform { location, update, delete } => {
                self.then(location, Around::Item);
                self.then(update, Around::Item);
                self.open.extend(delete.iter().map(|node| Step::Visit(node, Around::Item)));
            }
            _ => {}
        }
    }

    /// Only its first step is looked up in what is around it.
    fn path(&mut self, steps: &'a [PathStep], around: Around) {
        if let [first, second, ..] = steps
            && matches!(&first.node, AstNode::Variable(name) if name == "states")
            && let AstNode::Name(field) = &second.node
            && self.seen.insert((1, field))
        {
            self.found.reserved.push(field.as_str().into());
        }
        let mut around = around;
        for step in steps {
            self.then(&step.node, around);
            around = Around::Item;
            let names = [&step.focus, &step.index_var].into_iter().flatten();
            self.open.extend(names.map(|name| Step::Bind(name)));
            for stage in &step.stages {
                match stage {
                    Stage::Filter(filter) => self.then(filter, Around::Item),
                    Stage::Index(name) => self.open.push(Step::Bind(name)),
                    Stage::KeepArray => {}
                }
            }
        }
        self.leave();
    }

    fn bind(&mut self, name: &'a AstNode, value: &'a AstNode, around: Around) {
        let AstNode::Variable(name) = name else { return self.then(value, around) };
        // A function may call itself by the name that it is about to have.
        let recursive = matches!(value, AstNode::Lambda { .. });
        if recursive {
            self.open.push(Step::Bind(name));
        }
        self.then(value, around);
        if !recursive {
            self.open.push(Step::Bind(name));
        }
    }

    fn nowhere(&mut self, name: &'a str) {
        if self.seen.insert((0, name)) {
            self.found.nowhere.push(name.into());
        }
    }

    /// `$name`; without a name it is the context item.
    fn variable(&mut self, name: &'a str, around: Around) {
        if name.is_empty() {
            if around == Around::Nothing {
                self.nowhere("$");
            }
            return;
        }
        let own = self.times.get(name).is_some_and(|times| *times > 0);
        if name != "states" && !own && !FUNCTIONS.contains(&name) && self.seen.insert((2, name)) {
            self.found.variables.push(name.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonata_core::parser;

    use super::*;

    fn of(source: &str) -> References {
        References::of(&parser::parse(source).unwrap())
    }

    fn names(found: &[Box<str>]) -> Vec<&str> {
        found.iter().map(|name| &**name).collect()
    }

    #[test]
    fn names_outside_of_paths_find_nothing() {
        for (source, expected) in [
            ("a", &["a"][..]),
            ("a.b.c", &["a"]),
            ("$", &["$"]),
            ("$.a", &["$"]),
            ("`a b` & a & a", &["a b", "a"]),
            ("{\"a\": b, c: 1}", &["b", "c"]),
            ("[a, -b]", &["a", "b"]),
            ("a ? b : c", &["a", "b", "c"]),
            ("(a)[0]", &["a"]),
            ("foo(1)", &["foo"]),
            ("$sum(items.price)", &["items"]),
            ("$map($states.input.a, function($x){ b })", &["b"]),
            ("a^(b)", &["a"]),
            ("$states.input.a[b > 3 and $.c]", &[]),
            ("$states.input.{\"a\": b}", &[]),
            ("$states.input{a: $sum(b)}", &[]),
            ("$states.input.(b; $.c)", &[]),
            ("$x^(>price, <name)", &[]),
            ("$x ~> |a|{\"c\": d}, \"e\"|", &[]),
            ("$x[0].(function($i){ b })(1)", &[]),
            ("\"text\" & 1 & true & null", &[]),
        ] {
            assert_eq!(names(&of(source).nowhere), expected, "{source}");
        }
        assert!(of("$$").root && of("$$.a").root && !of("$states.input[$$.a]").root && !of("$").root);
    }

    #[test]
    fn fields_of_states_are_told() {
        for (source, expected) in [
            ("$states", &[][..]),
            ("$states.input", &["input"]),
            ("$states.input & $states.result.a & $states.input.b", &["input", "result"]),
            ("$states.errorOutput[0].Cause", &["errorOutput"]),
            ("$x[y = $states.context.State.Name]", &["context"]),
        ] {
            assert_eq!(names(&of(source).reserved), expected, "{source}");
        }
    }

    #[test]
    fn variables_are_those_of_the_workflow() {
        for (source, expected) in [
            ("$a + $b.c + $a", &["a", "b"][..]),
            ("$sum($prices)", &["prices"]),
            ("$prices ~> $sum ~> $own", &["prices", "own"]),
            ("$own(1)", &["own"]),
            ("($x := 1; $x + $y)", &["y"]),
            ("($x := $x + 1; $x)", &["x"]),
            ("[($x := 1), $x]", &["x"]),
            ("($f := function($n){ $n < 1 ? 1 : $f($n - 1) }; $f(3))", &[]),
            ("$map($items, function($v, $i){ $v * $factor + $i })", &["items", "factor"]),
            ("$items@$l.lines[$l.id = $id]#$n.($n + $m)", &["items", "id", "m"]),
            ("$states.input", &[]),
            ("'$quoted'", &[]),
        ] {
            assert_eq!(names(&of(source).variables), expected, "{source}");
        }
    }

    #[test]
    fn deep_expressions_need_no_stack() {
        let deep = format!("{}$a{}", "(".repeat(400), ")".repeat(400));
        let thread = std::thread::Builder::new().stack_size(64 << 20);
        let found = thread.spawn(move || of(&deep)).unwrap().join().unwrap();
        assert_eq!(names(&found.variables), ["a"]);
    }
}
