//! `derive(ActivityError)`: the name of each variant, for Retry and Catch. The cause is the `Display` text.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DeriveInput, Fields, Ident, LitStr, Variant};

use crate::activity::unraw;

/// Longest name of an error, in characters (the API's limit).
const NAME_CHARS_MAX: usize = 256;

/// What an `#[activity_error(…)]` says.
enum Said {
    /// The name itself.
    Name(String),
    /// The only field says it.
    Transparent(proc_macro2::Span),
}

/// Expands the derive.
pub(crate) fn expand(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut errors = Vec::new();
    let body = match &input.data {
        Data::Enum(data) => of_enum(&input, data.variants.iter(), &mut errors),
        Data::Struct(data) => of_struct(&input, &data.fields, &mut errors),
        Data::Union(data) => {
            let message = "`ActivityError` can be derived for structs and enums, not for unions";
            errors.push(syn::Error::new_spanned(data.union_token, message));
            quote!(::stagepost::private::Cow::Borrowed(""))
        }
    };
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let errors = errors.into_iter().map(syn::Error::into_compile_error);
    quote! {
        #(#errors)*

        impl #impl_generics ::stagepost::private::ActivityError for #ident #type_generics #where_clause {
            fn name(&self) -> ::stagepost::private::Cow<'_, ::stagepost::private::str> {
                #body
            }
        }
    }
}

fn of_enum<'a>(
    input: &DeriveInput,
    variants: impl Iterator<Item = &'a Variant>,
    errors: &mut Vec<syn::Error>,
) -> TokenStream {
    let whole = match said(&input.attrs, errors) {
        Some(Said::Transparent(span)) => {
            errors.push(syn::Error::new(
                span,
                "`transparent` goes on a variant with one field, not on the enum",
            ));
            None
        }
        Some(Said::Name(name)) => Some(name),
        None => None,
    };
    let arms: Vec<TokenStream> = variants
        .map(|variant| {
            let ident = &variant.ident;
            let default = || whole.clone().unwrap_or_else(|| default_name(&input.ident, ident));
            match said(&variant.attrs, errors) {
                Some(Said::Transparent(span)) => match only_field(&variant.fields, span, errors) {
                    Some(member) => {
                        quote!(Self::#ident { #member: inner } => ::stagepost::private::ActivityError::name(inner),)
                    }
                    None => quote!(Self::#ident { .. } => ::stagepost::private::Cow::Borrowed(""),),
                },
                Some(Said::Name(name)) => arm(ident, &name),
                None => arm(ident, &default()),
            }
        })
        .collect();
    if arms.is_empty() {
        return quote!(match *self {});
    }
    quote!(match self { #(#arms)* })
}

fn of_struct(input: &DeriveInput, fields: &Fields, errors: &mut Vec<syn::Error>) -> TokenStream {
    match said(&input.attrs, errors) {
        Some(Said::Transparent(span)) => match only_field(fields, span, errors) {
            Some(member) => quote!(::stagepost::private::ActivityError::name(&self.#member)),
            None => quote!(::stagepost::private::Cow::Borrowed("")),
        },
        Some(Said::Name(name)) => quote!(::stagepost::private::Cow::Borrowed(#name)),
        None => {
            let name = unraw(&input.ident);
            quote!(::stagepost::private::Cow::Borrowed(#name))
        }
    }
}

fn default_name(ty: &Ident, variant: &Ident) -> String {
    format!("{}.{}", unraw(ty), unraw(variant))
}

fn arm(variant: &Ident, name: &str) -> TokenStream {
    quote!(Self::#variant { .. } => ::stagepost::private::Cow::Borrowed(#name),)
}

fn only_field(fields: &Fields, span: proc_macro2::Span, errors: &mut Vec<syn::Error>) -> Option<syn::Member> {
    let mut members = fields.members();
    let only = members.next().filter(|_| fields.len() == 1);
    if only.is_none() {
        errors.push(syn::Error::new(
            span,
            "`transparent` needs exactly one field, whose type is an `ActivityError`",
        ));
    }
    only
}

/// Reads the attribute; a second one is an error.
fn said(attributes: &[Attribute], errors: &mut Vec<syn::Error>) -> Option<Said> {
    let mut found = None;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("activity_error")) {
        if found.is_some() {
            errors.push(syn::Error::new_spanned(attribute, "`activity_error` is given twice"));
            continue;
        }
        match read(attribute) {
            Ok(said) => found = Some(said),
            Err(error) => errors.push(error),
        }
    }
    found
}

fn read(attribute: &Attribute) -> syn::Result<Said> {
    const EXPECTED: &str =
        "expected `#[activity_error(\"Payments.CardDeclined\")]` or `#[activity_error(transparent)]`";
    let expected = |_| syn::Error::new_spanned(attribute, EXPECTED);
    if let Ok(ident) = attribute.parse_args::<Ident>() {
        if ident == "transparent" {
            return Ok(Said::Transparent(ident.span()));
        }
        return Err(syn::Error::new_spanned(ident, EXPECTED));
    }
    let literal: LitStr = attribute.parse_args().map_err(expected)?;
    match refusal(&literal.value()) {
        Some(message) => Err(syn::Error::new(literal.span(), message)),
        None => Ok(Said::Name(literal.value())),
    }
}

/// Why a text cannot be the name of an error.
fn refusal(name: &str) -> Option<String> {
    let chars = name.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX {
        return Some(format!("the name of an error has 1 to {NAME_CHARS_MAX} characters, this has {chars}"));
    }
    if name.starts_with("States.") {
        return Some(
            "names that begin with `States.` are reserved by the States Language: choose another".into(),
        );
    }
    name.chars().any(char::is_control).then(|| "the name of an error has no control characters".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_attribute_else_from_type_and_variant() {
        let text = expand(quote! {
            enum ChargeError {
                #[activity_error("Payments.CardDeclined")]
                Declined { reason: String },
                Unreachable(std::io::Error),
                #[activity_error(transparent)]
                Other(Failure),
            }
        })
        .to_string();
        for wanted in
            ["\"Payments.CardDeclined\"", "\"ChargeError.Unreachable\"", "ActivityError :: name (inner)"]
        {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn the_enum_can_name_all_its_variants_and_a_struct_itself() {
        let text = expand(quote!(
            #[activity_error("Stock")]
            enum E {
                A,
                #[activity_error("B")]
                B,
            }
        ))
        .to_string();
        assert!(text.contains("\"Stock\"") && text.contains("\"B\""), "{text}");
        assert!(
            expand(quote!(
                struct OutOfStock;
            ))
            .to_string()
            .contains("\"OutOfStock\"")
        );
    }

    #[test]
    fn every_mistake_is_reported_and_the_impl_is_still_there() {
        let text = expand(quote! {
            #[activity_error(transparent)]
            enum E {
                #[activity_error("States.Timeout")] A,
                #[activity_error("")] B,
                #[activity_error(name = "x")] C,
                #[activity_error(transparent)] D,
                #[activity_error("x")] #[activity_error("y")] F,
            }
        })
        .to_string();
        assert_eq!(text.matches("compile_error").count(), 6, "{text}");
        assert!(text.contains("ActivityError for E"), "{text}");
    }
}
