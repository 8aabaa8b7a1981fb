//! The `#[activity]` attribute and `derive(ActivityError)`, re-exported and documented by the `stagepost` crate.
//!
//! Each macro is a plain function over `proc_macro2` token streams: parse, validate, expand. All mistakes are
//! reported together, and after a mistake the user's item is still emitted with a dummy implementation, so that
//! nothing else turns red. Expansions name only `::stagepost::private`.

mod activity;
mod derive;
mod function;
mod methods;
mod options;

use proc_macro::TokenStream;

/// Makes an activity of an async function, or of a blocking one; on an impl block, of its methods. See the `stagepost` crate for its options.
#[proc_macro_attribute]
pub fn activity(arguments: TokenStream, item: TokenStream) -> TokenStream {
    activity::expand(arguments.into(), &item.into()).into()
}

/// Implements `ActivityError`: the names that Retry and Catch match. See the `stagepost` crate.
#[proc_macro_derive(ActivityError, attributes(activity_error))]
pub fn derive_activity_error(input: TokenStream) -> TokenStream {
    derive::expand(input.into()).into()
}
