//! Keeps `[a..b]` within numbers of which the evaluator can count how many lie between them: it computes in 64 bits,
//! where the range from the smallest to the largest number has no elements at all and is then built for ever.

use jsonata_core::{
    ast::{AstNode, BinaryOp, Stage},
    evaluator::EvaluatorError,
    value::JValue,
};

/// The function around each bound. Not a name that an expression could hold.
pub(super) const BOUND: &str = "..";
/// Beyond this, numbers that are whole have gaps between them.
const BOUND_MAX: f64 = 9_007_199_254_740_992.0;

/// Puts every bound of a range through [`BOUND`]. Goes through the tree without recursion, as deep as it may be.
pub(super) fn guard(root: &mut AstNode) {
    let mut nodes = vec![root];
    while let Some(node) = nodes.pop() {
        match node {
            AstNode::Binary { op, lhs, rhs } => {
                for side in [lhs, rhs] {
                    if *op == BinaryOp::Range {
                        let bound = std::mem::replace(&mut **side, AstNode::Null);
                        **side =
                            AstNode::Function { name: BOUND.to_owned(), args: vec![bound], is_builtin: true };
                        if let AstNode::Function { args, .. } = &mut **side {
                            nodes.extend(args);
                        }
                    } else {
                        nodes.push(side);
                    }
                }
            }
            AstNode::Path { steps } => {
                for step in steps {
                    nodes.push(&mut step.node);
                    nodes.extend(step.stages.iter_mut().filter_map(|stage| match stage {
                        Stage::Filter(filter) => Some(&mut **filter),
                        Stage::KeepArray | Stage::Index(_) => None,
                    }));
                }
            }
            AstNode::Unary { operand: inner, .. }
            | AstNode::Lambda { body: inner, .. }
            | AstNode::FunctionApplication(inner) => nodes.push(inner),
            AstNode::Function { args: items, .. }
            | AstNode::Array(items)
            | AstNode::ArrayGroup(items)
            | AstNode::Block(items) => nodes.extend(items),
            AstNode::Call { procedure, args } => {
                nodes.push(procedure);
                nodes.extend(args);
            }
            AstNode::Object(pairs) => nodes.extend(pairs.iter_mut().flat_map(|(k, v)| [k, v])),
            AstNode::ObjectTransform { input, pattern } => {
                nodes.push(input);
                nodes.extend(pattern.iter_mut().flat_map(|(k, v)| [k, v]));
            }
            AstNode::Conditional { condition, then_branch, else_branch } => {
                nodes.extend([&mut **condition, &mut **then_branch]);
                nodes.extend(else_branch.as_deref_mut());
            }
            AstNode::Sort { input, terms } => {
                nodes.push(input);
                nodes.extend(terms.iter_mut().map(|(term, _)| term));
            }
            AstNode::Transform { location, update, delete } => {
                nodes.extend([&mut **location, &mut **update]);
                nodes.extend(delete.as_deref_mut());
            }
            AstNode::String(_)
            | AstNode::Name(_)
            | AstNode::Number(_)
            | AstNode::Boolean(_)
            | AstNode::Null
            | AstNode::Undefined
            | AstNode::Placeholder
            | AstNode::Regex { .. }
            | AstNode::Variable(_)
            | AstNode::ParentVariable(_)
            | AstNode::Wildcard
            | AstNode::Descendant
            | AstNode::Parent(_) => {}
        }
    }
}

/// [`BOUND`]: gives its argument back, unless it is a number too far out.
pub(super) fn bound(args: &[JValue]) -> Result<JValue, EvaluatorError> {
    match args.first() {
        Some(JValue::Number(n)) if n.abs() > BOUND_MAX => Err(EvaluatorError::EvaluationError(
            "D2014: Range operator results in too many elements (> 10,000,000)".to_owned(),
        )),
        Some(value) => Ok(value.clone()),
        None => Ok(JValue::Undefined),
    }
}
