//! The function under the attribute: what it is, what its arguments are called, where its future is.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream, Parser};
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, Block, Expr, ExprAsync, FnArg, GenericArgument, Ident, Pat, PatIdent, PathArguments, ReturnType,
    Signature, Stmt, Token, Type, TypePath, Visibility,
};

/// A function whose body is kept as the tokens the user wrote.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) inner_attrs: Vec<Attribute>,
    pub(crate) kind: Kind,
}

/// How the function runs its body.
pub(crate) enum Kind {
    /// `async fn`
    Async(Group),
    /// A function that returns a future it builds in its last expression.
    Future(Box<FutureFn>),
    /// A function that runs its body when it is called.
    Sync(Group),
}

/// `fn f() -> Pin<Box<dyn Future<…>>> { before; Box::pin(async move { … }) }`, as `#[async_trait]` leaves it, or
/// `fn f() -> impl Future<…> { before; async move { … } }`.
pub(crate) struct FutureFn {
    pub(crate) before: Vec<Stmt>,
    /// `Box::pin` where it was written.
    pub(crate) boxed: Option<Expr>,
    pub(crate) future: ExprAsync,
    /// `let Path(id) = __arg1;`, `let id = id;`: the arguments as `#[async_trait]` binds them in the future.
    pub(crate) arguments: Vec<Stmt>,
    pub(crate) body: Group,
    /// What the future gives, where the signature says so.
    pub(crate) output: Option<Type>,
}

/// What a key may start with.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) params: Vec<Ident>,
    pub(crate) receiver: Option<Span>,
}

impl Function {
    pub(crate) fn names(&self) -> Names {
        let mut names = Names::of(&self.sig);
        if let Kind::Future(future) = &self.kind {
            for statement in &future.arguments {
                if let Stmt::Local(local) = statement {
                    names.collect(&local.pat);
                }
            }
        }
        names
    }
}

impl Names {
    fn of(sig: &Signature) -> Self {
        let mut names = Self::default();
        for input in &sig.inputs {
            match input {
                FnArg::Receiver(receiver) => names.receiver = Some(receiver.self_token.span),
                FnArg::Typed(argument) => names.collect(&argument.pat),
            }
        }
        names
    }

    fn collect(&mut self, pattern: &Pat) {
        struct Bound<'a>(&'a mut Vec<Ident>);
        impl Visit<'_> for Bound<'_> {
            fn visit_pat_ident(&mut self, pattern: &PatIdent) {
                self.0.push(pattern.ident.clone());
                visit::visit_pat_ident(self, pattern);
            }
        }
        Bound(&mut self.params).visit_pat(pattern);
    }
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let start = input.cursor();
        let refuse = |message: &str| Err(syn::Error::new(start.span(), message));

        let vis: Visibility = input.parse()?;
        if input.peek(Token![impl]) || input.peek(Token![trait]) {
            return refuse("`#[synchronized]` goes on a function: put it on the methods in this block");
        }
        let is_function = input.peek(Token![fn]) || input.peek(Token![async]) || input.peek(Token![unsafe]);
        let sig: Signature = match input.parse() {
            Ok(sig) => sig,
            Err(error) if is_function => return Err(error),
            Err(_) => return refuse("`#[synchronized]` goes on a function"),
        };
        if input.peek(Token![;]) {
            return Err(syn::Error::new(
                sig.ident.span(),
                "there is no body to lock here: put `#[synchronized]` on the implementation",
            ));
        }

        let (inner_attrs, body) = split_inner_attrs(input.parse()?)?;
        let kind = if sig.asyncness.is_some() {
            Kind::Async(body)
        } else if let Some(future) = FutureFn::recognise(&body, &sig) {
            Kind::Future(Box::new(future))
        } else {
            Kind::Sync(body)
        };
        Ok(Self { attrs, vis, sig, inner_attrs, kind })
    }
}

impl FutureFn {
    fn recognise(body: &Group, sig: &Signature) -> Option<Self> {
        let ReturnType::Type(_, output) = &sig.output else {
            return None;
        };
        let mut block: Block = syn::parse2(body.to_token_stream()).ok()?;
        let Some(Stmt::Expr(last, None)) = block.stmts.pop() else {
            return None;
        };
        let (boxed, mut future) = match last {
            Expr::Async(future) => (None, future),
            Expr::Call(mut call) if is_box_pin(&call.func) && call.args.len() == 1 => match call.args.pop()? {
                Expr::Async(future) => (Some(*call.func), future),
                _ => return None,
            },
            _ => return None,
        };
        let names = Names::of(sig);
        let mut arguments = take_arguments(&mut future.block, &names);
        if let Some(inner) = instrumented(&mut future.block) {
            arguments.extend(take_arguments(inner, &names));
        }
        let statements = std::mem::take(&mut future.block.stmts).into_iter();
        let body = braced(statements.map(ToTokens::into_token_stream).collect(), future.block.brace_token.span.join());
        Some(Self { before: block.stmts, boxed, arguments, body, future, output: future_output(output) })
    }
}

/// The return type as it may be written inside the body, where `impl Trait` has no name.
pub(crate) fn erase_impl_trait(ty: &Type) -> Type {
    struct Erase;
    impl VisitMut for Erase {
        fn visit_type_mut(&mut self, ty: &mut Type) {
            if let Type::ImplTrait(anonymous) = ty {
                let underscore = Token![_](anonymous.impl_token.span);
                *ty = Type::Infer(syn::TypeInfer { attrs: Vec::new(), underscore_token: underscore });
            } else {
                visit_mut::visit_type_mut(self, ty);
            }
        }
    }
    let mut ty = ty.clone();
    Erase.visit_type_mut(&mut ty);
    ty
}

/// Inner attributes must stay first in the function, in front of what is put before the body.
fn split_inner_attrs(body: Group) -> syn::Result<(Vec<Attribute>, Group)> {
    if body.delimiter() != Delimiter::Brace {
        return Err(syn::Error::new(body.span(), "expected the body of the function"));
    }
    let split = |input: ParseStream<'_>| {
        let attrs = input.call(Attribute::parse_inner)?;
        Ok((attrs, input.parse::<TokenStream>()?))
    };
    let (attrs, rest) = split.parse2(body.stream())?;
    Ok((attrs, braced(rest, body.span())))
}

/// The body becomes a block within a block. Its braces count as the macro's, lest they be called needless.
fn braced(stream: TokenStream, span: Span) -> Group {
    let mut group = Group::new(Delimiter::Brace, stream);
    group.set_span(Span::mixed_site().located_at(span));
    group
}

fn is_box_pin(function: &Expr) -> bool {
    let Expr::Path(function) = function else {
        return false;
    };
    let names: Vec<_> = function.path.segments.iter().map(|s| s.ident.to_string()).collect();
    names.ends_with(&["Box".to_owned(), "pin".to_owned()])
}

/// Takes the bindings out of the block: the key is computed outside, and needs their names.
fn take_arguments(block: &mut Block, names: &Names) -> Vec<Stmt> {
    let statements = std::mem::take(&mut block.stmts).into_iter();
    let (arguments, rest) = statements.partition(|statement| rebinds_argument(statement, names));
    block.stmts = rest;
    arguments
}

/// The block that `#[tracing::instrument]` wrapped, if it came first.
fn instrumented(block: &mut Block) -> Option<&mut Block> {
    let future = block.stmts.iter_mut().find_map(|statement| match statement {
        Stmt::Local(local) => {
            let traced = matches!(&local.pat, Pat::Ident(name) if name.ident == "__tracing_instrument_future");
            let init = local.init.as_mut().filter(|_| traced)?;
            Some(&mut *init.expr)
        }
        _ => None,
    })?;
    let Expr::Async(future) = future else {
        return None;
    };
    // With `err` or `ret` it is `async move { match async move { … }.await { … } }`.
    let nested = matches!(
        future.block.stmts.as_slice(),
        [Stmt::Expr(Expr::Match(matched), None)]
            if matches!(&*matched.expr, Expr::Await(waited) if matches!(&*waited.base, Expr::Async(_)))
    );
    if !nested {
        return Some(&mut future.block);
    }
    let Some(Stmt::Expr(Expr::Match(matched), None)) = future.block.stmts.first_mut() else {
        return None;
    };
    let Expr::Await(waited) = &mut *matched.expr else {
        return None;
    };
    match &mut *waited.base {
        Expr::Async(inner) => Some(&mut inner.block),
        _ => None,
    }
}

/// `let Path(id) = __arg1;`, `let Path(id) = { let __arg1 = __arg1; __arg1 };`, or `let id = id;`
fn rebinds_argument(statement: &Stmt, names: &Names) -> bool {
    let Stmt::Local(local) = statement else {
        return false;
    };
    let Some(init) = &local.init else {
        return false;
    };
    let value = match &*init.expr {
        Expr::Block(block) => match block.block.stmts.last() {
            Some(Stmt::Expr(value, None)) => value,
            _ => return false,
        },
        value => value,
    };
    let Expr::Path(value) = value else {
        return false;
    };
    let Some(argument) = value.path.get_ident() else {
        return false;
    };
    let same = matches!(&local.pat, Pat::Ident(name) if name.ident == *argument);
    names.params.contains(argument) && (same || argument.to_string().starts_with("__arg"))
}

/// `T` of `… Future<Output = T> …`, or of `BoxFuture<'_, T>`.
fn future_output(ty: &Type) -> Option<Type> {
    #[derive(Default)]
    struct Find(Option<Type>);
    impl Visit<'_> for Find {
        fn visit_assoc_type(&mut self, assoc: &syn::AssocType) {
            if self.0.is_none() && assoc.ident == "Output" {
                self.0 = Some(assoc.ty.clone());
            }
        }

        fn visit_type_path(&mut self, ty: &TypePath) {
            let last = ty.path.segments.last();
            if let Some(last) = last.filter(|s| s.ident.to_string().ends_with("BoxFuture")) {
                if let PathArguments::AngleBracketed(arguments) = &last.arguments {
                    if let Some(GenericArgument::Type(output)) = arguments.args.last() {
                        self.0.get_or_insert_with(|| output.clone());
                    }
                }
            }
            visit::visit_type_path(self, ty);
        }
    }
    let mut find = Find::default();
    find.visit_type(ty);
    find.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_str(source: &str) -> syn::Result<Function> {
        syn::parse_str(source)
    }

    fn names(source: &str) -> Vec<String> {
        let names = parse_str(source).unwrap().names();
        names.params.iter().map(ToString::to_string).collect()
    }

    fn refusal(source: &str) -> (String, String) {
        let error = parse_str(source).map(|_| ()).unwrap_err();
        let at = error.span().source_text().unwrap_or_default();
        (error.to_string(), at)
    }

    #[test]
    fn finds_every_name_an_argument_binds() {
        assert_eq!(
            names("async fn f(&self, mut a: u8, Path(b): Path<u8>, (c, d): (u8, u8), e @ 1..=9: u8) {}"),
            ["a", "b", "c", "d", "e"],
        );
        assert_eq!(names("async fn f(Req { id, team: t, .. }: Req, [g, ..]: [u8; 3], _: u8) {}"), ["id", "t", "g"],);
    }

    #[test]
    fn keeps_the_receiver_apart() {
        let with = parse_str("async fn f(self: &Arc<Self>) {}").unwrap();
        let without = parse_str("async fn f() {}").unwrap();
        assert!(with.names().receiver.is_some());
        assert!(without.names().receiver.is_none());
    }

    #[test]
    fn tells_futures_from_plain_bodies() {
        let kind = |source| match parse_str(source).unwrap().kind {
            Kind::Async(_) => "async".to_owned(),
            Kind::Sync(_) => "sync".to_owned(),
            Kind::Future(f) => {
                let output = f.output.map_or("?".to_owned(), |ty| ty.to_token_stream().to_string().replace(' ', ""));
                let wrap = if f.boxed.is_some() { "boxed" } else { "bare" };
                format!("{wrap} {output}")
            }
        };
        assert_eq!(kind("async fn f() { 1 }"), "async");
        assert_eq!(kind("fn f() -> u8 { 1 }"), "sync");
        assert_eq!(kind("fn f() -> u8 { Box::pin(async move { 1 }) ; 2 }"), "sync");
        assert_eq!(
            kind("fn f() -> Pin<Box<dyn Future<Output = Result<u8, E>> + Send>> { Box::pin(async move { Ok(1) }) }"),
            "boxed Result<u8,E>",
        );
        assert_eq!(
            kind("fn f(&self) -> BoxFuture<'_, u8> { let x = 1; ::std::boxed::Box::pin(async move { x }) }"),
            "boxed u8",
        );
        assert_eq!(kind("fn f() -> impl Future<Output = u8> + Send { async move { 1 } }"), "bare u8",);
        assert_eq!(kind("fn f() -> Alias { Box::pin(async move { 1 }) }"), "boxed ?");
    }

    #[test]
    fn sees_patterns_that_async_trait_moved() {
        let source = "fn f<'a>(&'a self, __arg1: Path<u8>, b: u8) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
            Box::pin(async move {
                let __self = self;
                let Path(id) = { let __arg1 = __arg1; __arg1 };
                let b = b;
                let own = 1;
                let own = own;
                let _: () = { drop((id, b)); };
            })
        }";
        assert_eq!(names(source), ["__arg1", "b", "id", "b"]);
    }

    #[test]
    fn keeps_inner_attributes_for_the_function() {
        let function = parse_str("async fn f() { #![allow(unused)] let x = 1; }").unwrap();
        assert_eq!(function.inner_attrs.len(), 1);
    }

    #[test]
    fn refuses_what_is_no_function() {
        let (message, at) = refusal("pub struct S;");
        assert_eq!(message, "`#[synchronized]` goes on a function");
        assert_eq!(at, "pub");
        let (message, _) = refusal("impl S { async fn f() {} }");
        assert!(message.ends_with("put it on the methods in this block"));
        let (message, at) = refusal("async fn f(&self);");
        assert!(message.starts_with("there is no body to lock here"), "{message}");
        assert_eq!(at, "f");
    }

    #[test]
    fn erases_anonymous_types_only() {
        let ty: Type = syn::parse_str("Result<impl Iterator<Item = u8>, E>").unwrap();
        let erased = erase_impl_trait(&ty).to_token_stream().to_string();
        assert_eq!(erased, "Result < _ , E >");
    }
}
