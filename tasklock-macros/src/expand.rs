//! Writes the function anew: compute the key, take the lock, run the body under it.
//!
//! ```text
//! async fn f(id: u32) -> R {
//!     let lock = key_lock(locker(), KeyBuilder::new().param("id", &id).finish());   // borrows the arguments
//!     let held = lock.synchronized_with(move |lease| async move { body }).await;    // moves them into the body
//!     held.unwrap_or_else(<R as Outcome>::refused)
//! }
//! ```

use proc_macro2::{Group, Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{LitStr, ReturnType, Type};

use crate::attr::{Args, OnError, OnLost, Release, Scope};
use crate::ctxt::Ctxt;
use crate::function::{Function, FutureFn, Kind, erase_impl_trait};
use crate::key::{Key, Piece};

/// The function with its lock, or the function as it was with everything that is wrong.
pub(crate) fn synchronized(args: TokenStream, item: TokenStream) -> TokenStream {
    match try_synchronized(args, item.clone()) {
        Ok(function) => function,
        // The item stays, so that what uses it raises no second wave of errors.
        Err(errors) => {
            let errors = errors.into_compile_error();
            quote!(#errors #[allow(unused)] #item)
        }
    }
}

fn try_synchronized(args: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let function: Function = syn::parse2(item)?;
    let names = function.names();
    let mut cx = Ctxt::default();
    let args = Args::parse(args, &names, &mut cx);
    let mut parse = |literals: &[LitStr]| -> Vec<Key> {
        literals.iter().filter_map(|literal| Key::parse(literal, &names, &mut cx)).collect()
    };
    let keys = parse(&args.keys);
    let all = args.all.get().map(|literals| parse(literals));
    let answer = Answer::of(&function);
    check(&function, &args, &answer, &mut cx);
    cx.finish()?;
    let expansion = Expansion {
        krate: args.krate(),
        lock: Ident::new("__tasklock_lock", Span::mixed_site()),
        name: function.sig.ident.unraw().to_string(),
        args,
        keys,
        all,
        answer,
    };
    Ok(expansion.function(function))
}

/// What the body gives and the function returns.
struct Answer {
    /// As far as it can be written inside the body.
    ty: Option<Type>,
    /// Where to say that it can't carry a refusal.
    span: Span,
    /// The user wrote no arrow.
    silent: bool,
}

struct Expansion {
    krate: TokenStream,
    /// The variable that holds the lock.
    lock: Ident,
    name: String,
    args: Args,
    keys: Vec<Key>,
    /// Keys of locks of their own.
    all: Option<Vec<Key>>,
    answer: Answer,
}

impl Answer {
    fn of(function: &Function) -> Self {
        let written = match (&function.kind, &function.sig.output) {
            (Kind::Future(future), output) => {
                return Self { ty: future.output.as_ref().map(erase_impl_trait), span: output.span(), silent: false };
            }
            (_, ReturnType::Default) => None,
            (_, ReturnType::Type(_, ty)) => Some(ty),
        };
        Self {
            ty: Some(written.map_or_else(|| syn::parse_quote!(()), |ty| erase_impl_trait(ty))),
            span: written.map_or_else(|| function.sig.ident.span(), |ty| ty.span()),
            silent: written.is_none(),
        }
    }

    fn is_unit(&self) -> bool {
        matches!(&self.ty, Some(Type::Tuple(tuple)) if tuple.elems.is_empty())
    }

    /// The type in an expression; `_` where only the compiler knows it.
    fn tokens(&self) -> TokenStream {
        self.ty.as_ref().map_or_else(|| quote!(_), ToTokens::to_token_stream)
    }
}

/// What the function and its attribute make of each other.
fn check(function: &Function, args: &Args, answer: &Answer, cx: &mut Ctxt) {
    let sig = &function.sig;
    if let Some(constness) = &sig.constness {
        cx.error(constness.span, "a `const fn` can't take a lock");
    }
    match (&function.kind, args.blocking.at()) {
        (Kind::Sync(_), None) if sig.constness.is_none() => cx.error(
            sig.fn_token.span,
            "`#[synchronized]` takes an `async fn`; a synchronous one needs `blocking`, \
             and blocks its thread",
        ),
        (Kind::Async(_) | Kind::Future(_), Some(at)) => {
            cx.error(at, "`blocking` is for synchronous functions; this one is async")
        }
        _ => {}
    }
    if !args.on_error.is_given() && !answer.silent {
        if answer.is_unit() {
            cx.error(
                answer.span,
                "`()` can't say that the lock was refused: return a `Result`, leave `-> ()` out \
                 (the function then returns `Result<(), LockError>`), or add `on_error = …`",
            );
        } else if matches!(answer.ty, Some(Type::Never(_))) {
            cx.error(answer.span, "`!` can't say that the lock was refused: add `on_error = …`");
        }
    }
}

impl Expansion {
    fn function(&self, function: Function) -> TokenStream {
        let Function { attrs, vis, mut sig, inner_attrs, kind } = function;
        if self.answer.silent && !self.args.on_error.is_given() {
            let krate = &self.krate;
            sig.output = syn::parse_quote_spanned! {sig.ident.span()=>
                -> ::core::result::Result<(), #krate::LockError>
            };
        }
        let body = match kind {
            Kind::Async(body) => self.locked(&body, true),
            Kind::Sync(body) => self.locked(&body, false),
            Kind::Future(future) => self.future(&future),
        };
        quote! {
            #(#attrs)*
            #vis #sig {
                #(#inner_attrs)*
                #body
            }
        }
    }

    fn future(&self, function: &FutureFn) -> TokenStream {
        let FutureFn { before, boxed, future, arguments, body, .. } = function;
        let attrs = &future.attrs;
        let async_token = &future.async_token;
        let capture = &future.capture;
        let locked = self.locked(body, true);
        let block = quote!(#(#attrs)* #async_token #capture { #(#arguments)* #locked });
        let last = boxed.as_ref().map_or_else(|| block.clone(), |pin| quote!(#pin(#block)));
        quote!(#(#before)* #last)
    }

    /// Takes the lock, runs the body, turns a refusal into the function's answer.
    fn locked(&self, body: &Group, is_async: bool) -> TokenStream {
        let lock = &self.lock;
        let take = self.take_lock();
        let edge = self.return_edge();
        let lease = self.args.guard.get().map_or_else(|| quote!(_), |name| quote!(#name));
        let method = if self.args.skip_if_locked.is_given() {
            quote!(synchronized_if_free_with)
        } else {
            quote!(synchronized_with)
        };
        let held = if is_async {
            quote!(#lock.#method(move |#lease| async move { #edge #body }).await)
        } else {
            quote!(#lock.blocking().#method(move |#lease| { #edge #body }))
        };
        let answer = self.answer(&self.skipped(&held));
        quote!(#take #answer)
    }

    fn take_lock(&self) -> TokenStream {
        let Self { krate, lock, args, .. } = self;
        let locker = args.lock.get().map_or_else(
            || quote!(#krate::__private::locker()),
            // By reference, so that `lock = self.locker` moves nothing.
            |lock| {
                let span = Span::mixed_site().located_at(lock.span());
                let reference = quote_spanned!(span=> &(#lock));
                quote!(#krate::__private::IntoLocker::into_locker(#reference))
            },
        );
        let target = match &self.all {
            Some(keys) => {
                let keys = keys.iter().map(|key| self.built(std::slice::from_ref(key)));
                quote!(all_keys(#locker, [#(#keys),*]))
            }
            None => {
                let key = self.key();
                quote!(key_lock(#locker, #key))
            }
        };
        let ttl = args.ttl.get().map(|ttl| quote!(.ttl(#ttl)));
        let wait = args.wait.get().map(|wait| quote!(.wait(#wait)));
        let try_only = args.try_only.get().map(|()| quote!(.wait(#krate::Wait::Try)));
        let shared = args.shared.get().map(|()| quote!(.shared()));
        let permits = args.permits.get().map(|permits| quote!(.permits(#permits)));
        let on_lost = args.on_lost.get().map(|on_lost| match on_lost {
            OnLost::Cancel => quote!(.on_lost(#krate::OnLost::Cancel)),
            OnLost::Finish => quote!(.on_lost(#krate::OnLost::Finish)),
        });
        let release = args.release.get().map(|release| match release {
            Release::Await => quote!(.release_mode(#krate::ReleaseMode::Await)),
            Release::Background => quote!(.release_mode(#krate::ReleaseMode::Background)),
        });
        let taken = quote! {
            #krate::__private::#target
                #shared #permits #ttl #wait #try_only #on_lost #release
        };
        match args.reentrant.get() {
            Some(owner) => {
                let span = Span::mixed_site().located_at(owner.span());
                // By reference, so that `reentrant = self.name` moves nothing.
                quote_spanned!(span=> let #lock = #krate::__private::reentrant(#taken, &(#owner));)
            }
            None => quote!(let #lock = #taken;),
        }
    }

    /// An expression of type `Result<Key, InvalidKey>` that borrows the arguments.
    fn key(&self) -> TokenStream {
        let krate = &self.krate;
        let scope = self.scope();
        if let Some(key) = self.args.key.get() {
            let span = Span::mixed_site().located_at(key.span());
            let key = quote_spanned!(span=> #krate::IntoKey::into_key(#key));
            return match scope {
                None => key,
                Some(scope) => quote! {
                    ::core::result::Result::and_then(#key, |__tasklock_key| {
                        #krate::__private::KeyBuilder::new()
                            #scope
                            .literal(__tasklock_key.name())
                            .finish()
                    })
                },
            };
        }
        self.built(&self.keys)
    }

    /// The same of these literals.
    fn built(&self, keys: &[Key]) -> TokenStream {
        let (krate, scope, parts) = (&self.krate, self.scope(), key_parts(keys));
        quote! {
            {
                use #krate::__private::AsLockKey as _;
                #krate::__private::KeyBuilder::new() #scope #parts .finish()
            }
        }
    }

    fn scope(&self) -> Option<TokenStream> {
        let name = &self.name;
        self.args.scope.get().map(|scope| match scope {
            Scope::Name(name) => quote!(.scope(#name)),
            Scope::Module => quote!(.scope(::core::module_path!())),
            Scope::Function => {
                quote!(.scope(::core::concat!(::core::module_path!(), "::", #name)))
            }
        })
    }

    /// A `return` that never runs, first in the body: the body's type is then the one in the signature from the
    /// start, and a mismatch is reported on the user's line.
    fn return_edge(&self) -> TokenStream {
        if matches!(self.answer.ty, Some(Type::Never(_))) {
            return TokenStream::new();
        }
        let ty = self.answer.tokens();
        let span = Span::mixed_site().located_at(self.answer.span);
        quote_spanned! {span=>
            if let ::core::option::Option::Some(__tasklock_never) =
                ::core::option::Option::None::<#ty>
            {
                return __tasklock_never;
            }
        }
    }

    /// `skip_if_locked`: a lock that somebody else holds is an answer of its own, and no error.
    fn skipped(&self, held: &TokenStream) -> TokenStream {
        if !self.args.skip_if_locked.is_given() {
            return held.clone();
        }
        let krate = &self.krate;
        let ty = self.answer.tokens();
        let skipped = quote_spanned!(self.answer.span=> <#ty as #krate::__private::Skip>::skipped);
        quote! {
            ::core::result::Result::map(#held, |__tasklock_held| {
                ::core::option::Option::unwrap_or_else(__tasklock_held, || #skipped())
            })
        }
    }

    fn answer(&self, held: &TokenStream) -> TokenStream {
        let krate = &self.krate;
        let name = &self.name;
        let function = quote!(::core::concat!(::core::module_path!(), "::", #name));
        let refused = match self.args.on_error.get() {
            Some(OnError::Call(call)) => call.to_token_stream(),
            Some(OnError::Panic) => quote! {
                |__tasklock_error| #krate::__private::panic_refused(#function, __tasklock_error)
            },
            None if self.answer.silent => {
                return quote! {
                    ::core::result::Result::inspect_err(#held, |__tasklock_error| {
                        #krate::__private::log_refused(#function, __tasklock_error);
                    })
                };
            }
            None => {
                let ty = self.answer.tokens();
                let refused = quote_spanned!(self.answer.span=> <#ty as #krate::__private::Outcome>::refused);
                // A closure, because the compiler complains about a bare path twice.
                quote!(|__tasklock_error| #refused(__tasklock_error))
            }
        };
        quote!(::core::result::Result::unwrap_or_else(#held, #refused))
    }
}

/// The calls that add the keys to the `KeyBuilder`, joined by commas: a value never holds one.
fn key_parts(keys: &[Key]) -> TokenStream {
    let mut parts = TokenStream::new();
    let mut params = false;
    for (index, key) in keys.iter().enumerate() {
        // The builder itself puts a comma between parameters.
        let joined = matches!(key, Key::Param(_)) && params;
        if index > 0 && !joined {
            parts.extend(quote!(.literal(",")));
        }
        match key {
            Key::Param(access) => {
                params = true;
                let name = &access.text;
                let value = access.value();
                parts.extend(quote!(.param(#name, #value)));
            }
            Key::Template(pieces) => parts.extend(pieces.iter().map(|piece| match piece {
                Piece::Text(text) => quote!(.literal(#text)),
                Piece::Value(access) => {
                    let value = access.value();
                    quote!(.value(#value))
                }
            })),
        }
    }
    parts
}

#[cfg(test)]
mod tests;
