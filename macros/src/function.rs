//! A function that is to be an activity: read without its body, checked, and the call of it written.
//! Shared by the two forms of `#[activity]`, on a function and on the methods of an impl block.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, GenericArgument, PathArguments, ReturnType, Signature, Type, Visibility};

use crate::options::Options;

/// A function; its body is left unparsed and is not kept: the item is emitted as it came.
pub(crate) struct Function {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Function> {
        let function = Function {
            attributes: input.call(Attribute::parse_outer)?,
            visibility: input.parse()?,
            signature: input.parse()?,
        };
        let _body: proc_macro2::Group = input.parse()?;
        Ok(function)
    }
}

/// What the parameters of a checked function are.
pub(crate) struct Parameters {
    extractors: Vec<Type>,
    input: Option<Type>,
}

impl Function {
    /// The attributes that decide whether the item exists.
    pub(crate) fn cfgs(&self) -> impl Iterator<Item = &Attribute> {
        self.attributes.iter().filter(|a| a.path().is_ident("cfg"))
    }

    /// Checks everything that can be seen without types, and adds what is wrong to `errors`.
    pub(crate) fn check(&self, options: &Options, errors: &mut Vec<syn::Error>) -> Parameters {
        let signature = &self.signature;
        let mut error = |span: Span, message: &str| errors.push(syn::Error::new(span, message));
        match (signature.asyncness, options.blocking) {
            (None, None) => error(
                signature.fn_token.span(),
                "an activity is an `async fn`; a function that blocks is one with `#[activity(blocking)]`, which runs \
                 it on a thread of its own",
            ),
            (Some(_), Some(span)) => error(
                span,
                "`blocking` is for a plain `fn`, which runs on a thread of its own; an `async fn` needs no `blocking`",
            ),
            _ => {}
        }
        if !signature.generics.params.is_empty() {
            error(
                signature.generics.span(),
                "an activity cannot be generic: a message carries no types, so name the concrete ones",
            );
        }
        if let Some(unsafety) = &signature.unsafety {
            error(unsafety.span(), "an activity cannot be `unsafe`: the worker calls it with any input");
        }
        if let Some(constness) = &signature.constness {
            error(constness.span(), "an activity cannot be `const`");
        }
        if let Some(abi) = &signature.abi {
            error(abi.span(), "an activity cannot have a foreign ABI");
        }
        if let ReturnType::Default = signature.output {
            error(
                signature.ident.span(),
                "an activity returns `Result<output, error>`; one without an output returns \
                 `Result<(), stagepost::Failure>`",
            );
        }
        self.check_parameters(errors)
    }

    fn check_parameters(&self, errors: &mut Vec<syn::Error>) -> Parameters {
        let mut parameters = Parameters { extractors: Vec::new(), input: None };
        for parameter in &self.signature.inputs {
            let FnArg::Typed(parameter) = parameter else { continue };
            let ty = &*parameter.ty;
            if let Some(message) = unowned(ty) {
                errors.push(syn::Error::new_spanned(ty, message));
            }
            if is_extractor(ty) {
                if parameters.input.is_some() {
                    errors.push(syn::Error::new_spanned(
                        ty,
                        "extractors come first and the input last: move this parameter before the input",
                    ));
                }
                parameters.extractors.push(ty.clone());
            } else if parameters.input.is_some() {
                errors.push(syn::Error::new_spanned(
                    parameter,
                    "an activity has one input, its last parameter: put both into one struct that derives \
                     `serde::Deserialize` (`Context` and `State<T>` are not inputs and come first)",
                ));
            } else {
                parameters.input = Some(ty.clone());
            }
        }
        parameters
    }

    /// The types of the result that can be read off the signature: `Result<T, E>` gives `(T, E)`, so that an error
    /// about one of them points at it; an alias is left to the compiler.
    fn result_types(&self) -> Option<(&Type, &Type)> {
        let ReturnType::Type(_, ty) = &self.signature.output else { return None };
        let Type::Path(path) = &**ty else { return None };
        let last = path.path.segments.last().filter(|last| last.ident == "Result")?;
        let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
        let mut types = arguments.args.iter().map(|argument| match argument {
            GenericArgument::Type(ty) => Some(ty),
            _ => None,
        });
        match (types.next(), types.next(), types.next()) {
            (Some(Some(output)), Some(Some(error)), None) => Some((output, error)),
            _ => None,
        }
    }
}

/// `Context` and `State<T>`, by whatever path.
fn is_extractor(ty: &Type) -> bool {
    let path = match ty {
        Type::Path(path) => path,
        // Refused elsewhere, with a better message than that of a second input.
        Type::Reference(reference) => return is_extractor(&reference.elem),
        _ => return false,
    };
    let Some(last) = path.path.segments.last() else { return false };
    match last.ident.to_string().as_str() {
        "Context" => last.arguments.is_none(),
        "State" => matches!(last.arguments, PathArguments::AngleBracketed(_)),
        _ => false,
    }
}

/// Why a parameter of this type cannot be filled, if that shows at first sight.
fn unowned(ty: &Type) -> Option<&'static str> {
    match ty {
        Type::Reference(_) => Some(
            "an activity owns its parameters: take the value (`Context` and `State<T>` are cheap to own), not a \
             reference",
        ),
        Type::ImplTrait(_) => {
            Some("an activity cannot be generic: name the concrete type instead of `impl Trait`")
        }
        ty if borrows(ty.to_token_stream()) => Some(
            "the input of an activity owns its data, for the task's message is gone when it runs: use `String` for \
             `&str`, `Vec<T>` for `&[T]`",
        ),
        _ => None,
    }
}

/// Whether a reference or a lifetime other than `'static` occurs in a type.
fn borrows(tokens: TokenStream) -> bool {
    let mut lifetime = false;
    tokens.into_iter().any(|token| match token {
        TokenTree::Punct(punct) => {
            lifetime = punct.as_char() == '\'';
            punct.as_char() == '&'
        }
        TokenTree::Ident(ident) => std::mem::take(&mut lifetime) && ident != "static",
        TokenTree::Group(group) => borrows(group.stream()),
        TokenTree::Literal(_) => false,
    })
}

impl Parameters {
    /// What the worker checks when it starts: the body of `requirements`.
    pub(crate) fn requirements(&self) -> TokenStream {
        let extractors = self.extractors.iter().map(|ty| {
            quote_spanned!(ty.span()=> <#ty as ::stagepost::private::Extract>::require(&mut requirements);)
        });
        quote! {
            #[allow(unused_mut)]
            let mut requirements = ::stagepost::private::Vec::new();
            #(#extractors)*
            requirements
        }
    }

    /// The body of `run`: takes the parameters out of `task`, calls `callee` with them, after the receiver if there
    /// is one, and encodes what it returns.
    pub(crate) fn call(
        &self,
        function: &Function,
        callee: &TokenStream,
        receiver: Option<&TokenStream>,
        blocking: bool,
    ) -> TokenStream {
        let mut arguments: Vec<TokenStream> = receiver.cloned().into_iter().collect();
        let mut takes = Vec::new();
        for (i, ty) in self.extractors.iter().enumerate() {
            let name = format_ident!("parameter_{}", i);
            takes.push(quote_spanned! {ty.span()=>
                let #name = <#ty as ::stagepost::private::Extract>::extract(&task)?;
            });
            arguments.push(name.into_token_stream());
        }
        if let Some(ty) = &self.input {
            let name = format_ident!("input");
            takes.push(quote_spanned! {ty.span()=>
                let #name = ::stagepost::private::input::<#ty>(&task)?;
            });
            arguments.push(name.into_token_stream());
        }
        // The function's own span: an error about what it returns points at its return type.
        let returned = match &function.signature.output {
            ReturnType::Type(_, ty) => ty.span(),
            ReturnType::Default => function.signature.ident.span(),
        };
        let call = if blocking {
            quote_spanned!(returned=> ::stagepost::private::blocking(move || #callee(#(#arguments),*)).await)
        } else {
            quote!(#callee(#(#arguments),*).await)
        };
        let finish = match function.result_types() {
            // The types' own spans: an error about one of them points at it.
            Some((output, error)) => quote! {
                ::stagepost::private::encode::<#output, #error>(returned)
            },
            None => quote_spanned!(returned=> {
                let returned = ::stagepost::private::ActivityResult::into_result(returned);
                ::stagepost::private::encode(returned)
            }),
        };
        quote! {
            ::stagepost::private::Box::pin(async move {
                #(#takes)*
                let returned = #call;
                #finish
            })
        }
    }
}
