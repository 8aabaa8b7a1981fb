//! `#[activity]` on a function: the function stays as it was written, and a type of the same name in the type
//! namespace carries the implementation of `Activity`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::FnArg;

use crate::function::Function;
use crate::methods;
use crate::options::Options;

/// Expands the attribute on whatever item it was put on.
pub(crate) fn expand(arguments: TokenStream, item: &TokenStream) -> TokenStream {
    if methods::is_impl(item) {
        return methods::expand(&arguments, item);
    }
    match syn::parse2::<Function>(item.clone()) {
        Ok(function) => expand_function(arguments, &function, item),
        Err(error) => not_a_function(item, &error),
    }
}

/// Emits the item as it is, beside the error, so that the error stands alone.
fn not_a_function(item: &TokenStream, error: &syn::Error) -> TokenStream {
    let message = format!("`#[activity]` goes on an `async fn` or an `impl` block: {error}");
    let error = syn::Error::new(error.span(), message).into_compile_error();
    quote!(#error #item)
}

fn expand_function(arguments: TokenStream, function: &Function, item: &TokenStream) -> TokenStream {
    let mut errors = Vec::new();
    let options = Options::parse(arguments, &mut errors);
    let parameters = function.check(&options, &mut errors);
    if let Some(FnArg::Receiver(receiver)) = function.signature.inputs.first() {
        errors.push(syn::Error::new_spanned(
            receiver,
            "a method is an activity only in an impl block that has `#[activity]` itself: write it above `impl` too, or \
             make the method a plain function and take what it needs as `State<T>`",
        ));
        // Nothing else can stand beside a method.
        let errors = errors.into_iter().map(syn::Error::into_compile_error);
        return quote!(#item #(#errors)*);
    }

    let ident = &function.signature.ident;
    let visibility = &function.visibility;
    let cfgs: Vec<_> = function.cfgs().collect();
    let name = options.name.clone().unwrap_or_else(|| unraw(ident));
    let option_values = options.expand();
    let (requirements, run) = if errors.is_empty() {
        let callee = quote!(#ident);
        (parameters.requirements(), parameters.call(function, &callee, None, options.blocking.is_some()))
    } else {
        (quote!(::stagepost::private::Vec::new()), quote!(::stagepost::private::dummy()))
    };
    let errors = errors.into_iter().map(syn::Error::into_compile_error);
    let documentation = format!("The activity `{name}`, for `activities![{ident}]`.");
    quote! {
        #item

        #(#errors)*

        #(#cfgs)*
        #[doc = #documentation]
        #[allow(non_camel_case_types)]
        #visibility struct #ident {}

        #(#cfgs)*
        impl ::stagepost::private::Activity for #ident {
            const NAME: &'static str = #name;
            const OPTIONS: ::stagepost::private::Options = #option_values;

            fn requirements() -> ::stagepost::private::Vec<::stagepost::private::Requirement> {
                #requirements
            }

            fn run(task: ::stagepost::private::Task) -> ::stagepost::private::Run {
                #run
            }
        }
    }
}

/// The name without the `r#` of a raw identifier.
pub(crate) fn unraw(ident: &syn::Ident) -> String {
    syn::ext::IdentExt::unraw(ident).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(arguments: TokenStream, item: &TokenStream) -> String {
        expand(arguments, item).to_string()
    }

    #[test]
    fn the_function_stays_as_it_was_written() {
        let item =
            quote!(pub async fn f(cx: Context, input: u8) -> Result<u8, Failure> { any tokens at all });
        let text = expanded(quote!(), &item);
        assert!(text.starts_with(&item.to_string()), "{text}");
        assert!(text.contains("pub struct f { }"), "{text}");
        assert!(!text.contains("compile_error"), "{text}");
    }

    #[test]
    fn after_a_mistake_function_and_dummy_are_still_there() {
        let item = quote!(
            fn f(a: A, b: B, cx: Context) -> Result<u8, Failure> {}
        );
        let text = expanded(quote!(surprise), &item);
        assert_eq!(text.matches("compile_error").count(), 4, "{text}");
        assert!(text.starts_with(&item.to_string()), "{text}");
        assert!(text.contains("impl :: stagepost :: private :: Activity for f"), "{text}");
    }

    #[test]
    fn other_items_are_refused_and_kept() {
        let item = quote!(
            struct S;
        );
        let text = expanded(quote!(), &item);
        assert!(text.contains("compile_error") && text.ends_with("struct S ;"), "{text}");
    }
}
