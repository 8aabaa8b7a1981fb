//! `#[activity]` on an impl block: the methods that have the attribute too become activities, and the type carries
//! the implementation of `Activities`, by which a worker registers a value of it with all of them.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, GenericParam, Generics, ImplItem, Meta, Signature, Token, Type, Visibility};

use crate::activity::unraw;
use crate::function::Function;
use crate::options::Options;

/// An impl block; the bodies of its functions are left unparsed.
struct Block {
    attributes: Vec<Attribute>,
    unsafety: Option<Token![unsafe]>,
    impl_token: Token![impl],
    generics: Generics,
    /// The trait, which there must not be.
    implements: Option<Type>,
    ty: Type,
    items: Vec<Item>,
}

enum Item {
    Function { function: Box<Function>, body: proc_macro2::Group },
    Other(TokenStream),
}

/// Whether an item is an impl block.
pub(crate) fn is_impl(item: &TokenStream) -> bool {
    let head = |input: ParseStream<'_>| {
        input.call(Attribute::parse_outer)?;
        let _: Option<Token![unsafe]> = input.parse()?;
        let found = input.peek(Token![impl]);
        let _rest: TokenStream = input.parse()?;
        Ok(found)
    };
    syn::parse::Parser::parse2(head, item.clone()).unwrap_or(false)
}

impl Parse for Block {
    fn parse(input: ParseStream<'_>) -> syn::Result<Block> {
        let attributes = input.call(Attribute::parse_outer)?;
        let unsafety = input.parse()?;
        let impl_token = input.parse()?;
        let mut generics: Generics = input.parse()?;
        let first: Type = input.parse()?;
        let (implements, ty) = match input.parse::<Option<Token![for]>>()? {
            Some(_) => (Some(first), input.parse()?),
            None => (None, first),
        };
        generics.where_clause = input.parse()?;
        let content;
        syn::braced!(content in input);
        let mut items = Vec::new();
        while !content.is_empty() {
            items.push(content.parse()?);
        }
        Ok(Block { attributes, unsafety, impl_token, generics, implements, ty, items })
    }
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> syn::Result<Item> {
        let ahead = input.fork();
        ahead.call(Attribute::parse_outer)?;
        ahead.parse::<Visibility>()?;
        if ahead.parse::<Signature>().is_err() {
            return Ok(Item::Other(input.parse::<ImplItem>()?.into_token_stream()));
        }
        let function = Function {
            attributes: input.call(Attribute::parse_outer)?,
            visibility: input.parse()?,
            signature: input.parse()?,
        };
        Ok(Item::Function { function: Box::new(function), body: input.parse()? })
    }
}

/// Expands the attribute on an impl block.
pub(crate) fn expand(arguments: &TokenStream, item: &TokenStream) -> TokenStream {
    let mut block: Block = match syn::parse2(item.clone()) {
        Ok(block) => block,
        Err(error) => {
            let error = error.into_compile_error();
            return quote!(#error #item);
        }
    };
    let mut errors = Vec::new();
    if !arguments.is_empty() {
        errors.push(syn::Error::new_spanned(
            arguments,
            "options are those of one activity: write them on its method, as in `#[activity(timeout = \"30s\")]`, and \
             `#[activity]` alone on the impl block",
        ));
    }
    block.check(&mut errors);
    let activities = block.activities(&mut errors);
    let written = block.written();
    let borrows = block.generics.lifetimes().next().is_some();
    let implementation = if block.implements.is_some() || borrows {
        // A trait's block is not the one that activities come from, and a type that borrows cannot have any.
        TokenStream::new()
    } else {
        let activities = if errors.is_empty() { activities } else { Vec::new() };
        block.implementation(&activities)
    };
    let errors = errors.into_iter().map(syn::Error::into_compile_error);
    quote!(#written #(#errors)* #implementation)
}

impl Block {
    fn check(&self, errors: &mut Vec<syn::Error>) {
        if let Some(implements) = &self.implements {
            errors.push(syn::Error::new_spanned(
                implements,
                "activities are a type's own methods: put `#[activity]` on an `impl` block without a trait",
            ));
        }
        for parameter in &self.generics.params {
            if let GenericParam::Lifetime(lifetime) = parameter {
                errors.push(syn::Error::new_spanned(
                    lifetime,
                    "a type with activities owns its data, for it lives as long as the worker: use `String` for \
                     `&str`, `Arc<T>` for `&T`",
                ));
            }
        }
    }

    /// Takes the attributes off the methods and writes a registration of each.
    fn activities(&mut self, errors: &mut Vec<syn::Error>) -> Vec<TokenStream> {
        let mut activities = Vec::new();
        for item in &mut self.items {
            let Item::Function { function, .. } = item else { continue };
            let (ours, others): (Vec<_>, _) =
                std::mem::take(&mut function.attributes).into_iter().partition(is_ours);
            function.attributes = others;
            let mut ours = ours.into_iter();
            let Some(attribute) = ours.next() else { continue };
            for second in ours {
                errors.push(syn::Error::new_spanned(second, "`activity` is given twice"));
            }
            activities.push(activity(function, &attribute, errors));
        }
        if activities.is_empty() && self.implements.is_none() {
            errors.push(syn::Error::new(
                self.impl_token.span(),
                "no method of this impl block is an activity: write `#[activity]` on those that are",
            ));
        }
        activities
    }

    /// The block as it was written, without our attributes.
    fn written(&self) -> TokenStream {
        let Block { attributes, unsafety, impl_token, generics, ty, .. } = self;
        let (parameters, _, _) = generics.split_for_impl();
        let where_clause = &generics.where_clause;
        let implements = self.implements.as_ref().map(|implements| quote!(#implements for));
        let items = self.items.iter().map(|item| match item {
            Item::Function { function, body } => {
                let Function { attributes, visibility, signature } = &**function;
                quote!(#(#attributes)* #visibility #signature #body)
            }
            Item::Other(tokens) => tokens.clone(),
        });
        quote! {
            #(#attributes)* #unsafety #impl_token #parameters #implements #ty #where_clause { #(#items)* }
        }
    }

    fn implementation(&self, activities: &[TokenStream]) -> TokenStream {
        let (parameters, _, where_clause) = self.generics.split_for_impl();
        let cfgs = self.attributes.iter().filter(|a| a.path().is_ident("cfg"));
        let ty = &self.ty;
        // The type's own span: an error about a type that cannot be shared points at it.
        let header = quote_spanned!(ty.span()=> ::stagepost::private::Activities for #ty);
        quote! {
            #(#cfgs)*
            impl #parameters #header #where_clause {
                fn registrations(
                    self: ::stagepost::private::Arc<Self>,
                ) -> ::stagepost::private::Vec<::stagepost::private::Registration> {
                    #[allow(unused_mut)]
                    let mut registrations = ::stagepost::private::Vec::new();
                    #(#activities)*
                    registrations
                }
            }
        }
    }
}

/// `#[activity]`, by whatever path.
fn is_ours(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|last| last.ident == "activity")
}

/// The statement that adds one activity to `registrations`.
fn activity(function: &Function, attribute: &Attribute, errors: &mut Vec<syn::Error>) -> TokenStream {
    let arguments = match &attribute.meta {
        Meta::Path(_) => TokenStream::new(),
        Meta::List(list) => list.tokens.clone(),
        Meta::NameValue(_) => {
            errors.push(syn::Error::new_spanned(
                attribute,
                "expected `#[activity]` or `#[activity(timeout = \"30s\")]`",
            ));
            TokenStream::new()
        }
    };
    let options = Options::parse(arguments, errors);
    let parameters = function.check(&options, errors);
    let receiver = receiver(function, errors);

    let ident = &function.signature.ident;
    let name = options.name.clone().unwrap_or_else(|| unraw(ident));
    let callee = quote_spanned!(ident.span()=> Self::#ident);
    let run = parameters.call(function, &callee, receiver.as_ref(), options.blocking.is_some());
    let requirements = parameters.requirements();
    let option_values = options.expand();
    let cfgs = function.cfgs();
    let share = receiver.map(|_| quote!(let this = ::stagepost::private::Arc::clone(&self);));
    let share_again = share.as_ref().map(|_| quote!(let this = ::stagepost::private::Arc::clone(&this);));
    quote! {
        #(#cfgs)*
        {
            #share
            registrations.push(::stagepost::private::registration(
                #name,
                #option_values,
                { #requirements },
                move |task: ::stagepost::private::Task| -> ::stagepost::private::Run {
                    #share_again
                    #run
                },
            ));
        }
    }
}

/// What the method is called on, written in terms of `this`, an `Arc` of the value; none for a function without
/// `self`.
fn receiver(function: &Function, errors: &mut Vec<syn::Error>) -> Option<TokenStream> {
    let Some(FnArg::Receiver(receiver)) = function.signature.inputs.first() else { return None };
    let mut refuse = || errors.push(syn::Error::new_spanned(receiver, FORMS));
    const FORMS: &str = "a worker runs many attempts on one value: an activity takes `&self` or `self: Arc<Self>`, and \
                         what changes is behind a `Mutex` or an atomic";
    if receiver.colon_token.is_none() {
        if receiver.reference.is_none() || receiver.mutability.is_some() {
            refuse();
        }
        return Some(quote!(&this));
    }
    let spelled = receiver.ty.to_token_stream().to_string().replace(' ', "");
    match spelled.as_str() {
        "&Self" => {}
        spelled if spelled.ends_with("Arc<Self>") && !spelled.starts_with('&') => return Some(quote!(this)),
        _ => refuse(),
    }
    Some(quote!(&this))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(arguments: &TokenStream, item: &TokenStream) -> String {
        expand(arguments, item).to_string()
    }

    #[test]
    fn the_block_stays_as_it_was_written_but_for_the_attributes() {
        let item = quote!(
            impl<T: Gateway> Payments<T>
            where
                T: Send,
            {
                const LIMIT: u64 = 1;
                #[activity(name = "charge")]
                #[must_use]
                pub async fn charge_card(&self, input: u8) -> Result<u8, Failure> { any tokens at all }
                #[cfg(any())]
                #[stagepost::activity]
                async fn refund(self: std::sync::Arc<Self>) -> Result<u8, Failure> {}
                fn helper(&mut self) {}
            }
        );
        assert!(is_impl(&item));
        let text = expanded(&quote!(), &item);
        let written = quote!(
            impl<T: Gateway> Payments<T>
            where
                T: Send,
            {
                const LIMIT: u64 = 1;
                #[must_use]
                pub async fn charge_card(&self, input: u8) -> Result<u8, Failure> { any tokens at all }
                #[cfg(any())]
                async fn refund(self: std::sync::Arc<Self>) -> Result<u8, Failure> {}
                fn helper(&mut self) {}
            }
        );
        assert!(text.starts_with(&written.to_string()), "{text}");
        assert!(!text.contains("compile_error"), "{text}");
        assert_eq!(text.matches("registrations . push").count(), 2, "{text}");
    }

    #[test]
    fn every_mistake_is_reported_and_the_block_is_still_there() {
        let item = quote!(
            impl<'a> Payments<'a> {
                #[activity(surprise)]
                #[activity]
                fn charge(&mut self, a: A, cx: Context) -> Result<u8, Failure> {}
                #[activity]
                async fn refund(self) {}
            }
        );
        let text = expanded(&quote!(timeout = "1s"), &item);
        // Options on the block, the lifetime, the option, the second attribute, not async, the order, twice the
        // receiver, and no result.
        assert_eq!(text.matches("compile_error").count(), 9, "{text}");
        assert!(!text.contains("Activities for"), "{text}");
    }

    #[test]
    fn after_a_mistake_the_type_is_still_one_with_activities() {
        let item = quote!(impl Payments { #[activity] fn charge(self) -> Result<u8, Failure> {} });
        let text = expanded(&quote!(), &item);
        assert_eq!(text.matches("compile_error").count(), 2, "{text}");
        assert!(text.contains("Activities for Payments") && !text.contains("push"), "{text}");
    }

    #[test]
    fn a_block_without_activities_and_one_of_a_trait_are_refused() {
        for (item, wanted) in [
            (quote!(impl Payments { fn f() {} }), "no method of this impl block"),
            (quote!(impl Drop for Payments { fn drop(&mut self) {} }), "without a trait"),
        ] {
            let text = expanded(&quote!(), &item);
            assert!(text.contains(wanted) && text.matches("compile_error").count() == 1, "{text}");
        }
    }
}
