//! Reads the arguments of `#[synchronized(…)]`.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Expr, ExprLit, Ident, Lit, LitStr, Path, Token, parenthesized, token};

use crate::ctxt::{Ctxt, did_you_mean};
use crate::function::Names;

/// Everything the attribute said.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) keys: Vec<LitStr>,
    pub(crate) key: Given<Expr>,
    /// Keys of locks of their own, all or none.
    pub(crate) all: Given<Vec<LitStr>>,
    pub(crate) lock: Given<Expr>,
    pub(crate) ttl: Given<Expr>,
    pub(crate) wait: Given<Expr>,
    pub(crate) try_only: Given<()>,
    pub(crate) skip_if_locked: Given<()>,
    pub(crate) shared: Given<()>,
    pub(crate) permits: Given<Expr>,
    pub(crate) reentrant: Given<Expr>,
    pub(crate) scope: Given<Scope>,
    pub(crate) guard: Given<Ident>,
    pub(crate) on_lost: Given<OnLost>,
    pub(crate) on_error: Given<OnError>,
    pub(crate) release: Given<Release>,
    pub(crate) blocking: Given<()>,
    pub(crate) krate: Given<Path>,
}

/// An option that may be given once: its value, and where its name stands.
pub(crate) struct Given<T>(Option<(Span, T)>);

/// Who shares a lock with this function.
pub(crate) enum Scope {
    /// All that say the same name.
    Name(LitStr),
    /// The functions of this module.
    Module,
    /// This function alone.
    Function,
}

/// What happens to a body whose lock is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLost {
    Cancel,
    Finish,
}

/// What the function returns when the lock refuses.
pub(crate) enum OnError {
    Call(Box<Expr>),
    Panic,
}

/// Whether the function waits until the lock is free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    Await,
    Background,
}

/// Every option, and whether it takes a value.
const OPTIONS: [(&str, bool); 17] = [
    ("key", true),
    ("lock", true),
    ("ttl", true),
    ("wait", true),
    ("try_only", false),
    ("skip_if_locked", false),
    ("shared", false),
    ("permits", true),
    ("reentrant", true),
    ("scope", true),
    ("guard", true),
    ("on_lost", true),
    ("on_error", true),
    ("release", true),
    ("blocking", false),
    ("all", false),
    ("crate", true),
];

impl Args {
    /// Reads what can be read and says what can't: one bad argument hides none of the others.
    pub(crate) fn parse(tokens: TokenStream, names: &Names, cx: &mut Ctxt) -> Self {
        let mut args = Self::default();
        let read = |input: ParseStream<'_>| {
            while !input.is_empty() {
                if let Err(error) = args.argument(input, names, cx) {
                    cx.push(error);
                }
                skip_argument(input);
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = read.parse2(tokens) {
            cx.push(error);
        }
        // A key that could not be read is not also a missing one.
        if cx.is_empty() && args.keys.is_empty() && !args.key.is_given() && !args.all.is_given() {
            cx.error(Span::call_site(), missing_key(names));
        }
        args.check(cx);
        args
    }

    /// The path of the crate that everything is reached through.
    pub(crate) fn krate(&self) -> TokenStream {
        self.krate.get().map_or_else(|| quote!(::tasklock), |path| quote!(#path))
    }

    fn argument(&mut self, input: ParseStream<'_>, names: &Names, cx: &mut Ctxt) -> syn::Result<()> {
        if input.peek(LitStr) {
            self.keys.push(input.parse()?);
            return end_of_argument(input, "a key");
        }
        let name = named(input)?;
        let text = name.to_string();
        let Some(&(_, takes_value)) = OPTIONS.iter().find(|(option, _)| *option == text) else {
            return Err(unknown(&name, names));
        };
        read_equals(input, &name, takes_value)?;
        let at = name.span();
        match text.as_str() {
            "key" => self.key.set(at, &text, input.parse()?, cx),
            "all" => self.all.set(at, &text, all(input, at)?, cx),
            "lock" => self.lock.set(at, &text, input.parse()?, cx),
            "ttl" => self.ttl.set(at, &text, duration(input, &text)?, cx),
            "wait" => self.wait.set(at, &text, duration(input, &text)?, cx),
            "try_only" => self.try_only.set(at, &text, (), cx),
            "skip_if_locked" => self.skip_if_locked.set(at, &text, (), cx),
            "shared" => self.shared.set(at, &text, (), cx),
            "permits" => self.permits.set(at, &text, permits(input)?, cx),
            "reentrant" => self.reentrant.set(at, &text, input.parse()?, cx),
            "scope" => self.scope.set(at, &text, scope(input)?, cx),
            "guard" => self.guard.set(at, &text, guard(input, names)?, cx),
            "on_lost" => self.on_lost.set(at, &text, on_lost(input)?, cx),
            "on_error" => self.on_error.set(at, &text, on_error(input)?, cx),
            "release" => self.release.set(at, &text, release(input)?, cx),
            "blocking" => self.blocking.set(at, &text, (), cx),
            _ => self.krate.set(at, &text, input.call(Path::parse_mod_style)?, cx),
        }
        end_of_argument(input, &format!("`{text}`"))
    }

    /// What is right by itself and wrong together.
    fn check(&self, cx: &mut Ctxt) {
        if let (Some(at), Some(_)) = (self.key.at(), self.keys.first()) {
            cx.error(at, "`key` is the whole key and can't be given beside key literals");
        }
        let exclusive = [
            ("wait", self.wait.at(), "try_only", self.try_only.at()),
            ("wait", self.wait.at(), "skip_if_locked", self.skip_if_locked.at()),
            ("try_only", self.try_only.at(), "skip_if_locked", self.skip_if_locked.at()),
        ];
        for (a, a_at, b, b_at) in exclusive {
            if let (Some(_), Some(at)) = (a_at, b_at) {
                cx.error(at, format!("`{b}` never waits and can't be combined with `{a}`"));
            }
        }
        if let (Some(_), Some(at)) = (self.shared.at(), self.permits.at()) {
            cx.error(at, "a lock is either `shared` or has `permits`: readers are not counted");
        }
        if let (Some(at), true) = (self.all.at(), self.key.is_given() || !self.keys.is_empty()) {
            cx.error(at, "`all` names every key and can't be given beside others");
        }
        let alone = [
            ("all", self.all.at(), "shared", self.shared.at()),
            ("all", self.all.at(), "permits", self.permits.at()),
            ("all", self.all.at(), "reentrant", self.reentrant.at()),
            ("all", self.all.at(), "blocking", self.blocking.at()),
            ("reentrant", self.reentrant.at(), "shared", self.shared.at()),
            ("reentrant", self.reentrant.at(), "permits", self.permits.at()),
            ("reentrant", self.reentrant.at(), "blocking", self.blocking.at()),
        ];
        for (a, a_at, b, b_at) in alone {
            if let (Some(_), Some(at)) = (a_at, b_at) {
                cx.error(at, format!("`{b}` can't be combined with `{a}`"));
            }
        }
        if let (Some(OnLost::Cancel), Some(_)) = (self.on_lost.get(), self.blocking.at()) {
            if let Some(at) = self.on_lost.at() {
                cx.error(
                    at,
                    "`on_lost = cancel` can't be combined with `blocking`: \
                     synchronous code can't be stopped from outside",
                );
            }
        }
    }
}

impl<T> Given<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_ref().map(|(_, value)| value)
    }

    pub(crate) fn at(&self) -> Option<Span> {
        self.0.as_ref().map(|(span, _)| *span)
    }

    pub(crate) fn is_given(&self) -> bool {
        self.0.is_some()
    }

    fn set(&mut self, at: Span, name: &str, value: T, cx: &mut Ctxt) {
        if self.is_given() {
            cx.error(at, format!("`{name}` is given twice"));
        } else {
            self.0 = Some((at, value));
        }
    }
}

impl<T> Default for Given<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// The option's name; anything else is a key that is no string literal.
fn named(input: ParseStream<'_>) -> syn::Result<Ident> {
    let start = input.span();
    let expression_follows =
        |input: ParseStream<'_>| input.peek(Token![.]) || input.peek(Token![!]) || input.peek(Token![::]);
    match input.call(Ident::parse_any) {
        Ok(name) if !expression_follows(input) => Ok(name),
        _ => Err(syn::Error::new(
            start,
            "expected a key or an option; a key is a string literal, or `key = …` for an expression",
        )),
    }
}

fn unknown(name: &Ident, names: &Names) -> syn::Error {
    let text = name.unraw().to_string();
    let message = if names.params.iter().any(|param| param.unraw() == text) {
        format!("a key is written in quotes: `\"{text}\"`")
    } else {
        let hint = did_you_mean(&text, OPTIONS.map(|(option, _)| option));
        let hint = if hint.is_empty() {
            let all = OPTIONS.map(|(option, _)| format!("`{option}`"));
            format!(": there is {}", all.join(", "))
        } else {
            hint
        };
        format!("no option is called `{text}`{hint}")
    };
    syn::Error::new(name.span(), message)
}

fn missing_key(names: &Names) -> String {
    let example = names.params.first().map_or_else(|| "param".to_owned(), |param| param.unraw().to_string());
    format!("what is locked? Name a parameter, as in `#[synchronized(\"{example}\")]`, or write `key = …`")
}

/// The keys in `all("from", "to")`.
fn all(input: ParseStream<'_>, at: Span) -> syn::Result<Vec<LitStr>> {
    let example = "`all` takes keys in quotes, as in `all(\"from\", \"to\")`";
    if !input.peek(token::Paren) {
        return Err(syn::Error::new(at, example));
    }
    let content;
    parenthesized!(content in input);
    let start = content.span();
    let keys = Punctuated::<LitStr, Token![,]>::parse_terminated(&content);
    // What is left unread would be an error of its own.
    content.parse::<TokenStream>()?;
    let keys: Vec<_> = keys.map_err(|error| syn::Error::new(error.span(), example))?.into_iter().collect();
    if keys.len() < 2 {
        return Err(syn::Error::new(start, format!("{example}: one alone needs no `all`")));
    }
    Ok(keys)
}

fn read_equals(input: ParseStream<'_>, name: &Ident, takes_value: bool) -> syn::Result<()> {
    let written = input.peek(Token![=]) && !input.peek(Token![==]);
    match (written, takes_value) {
        (true, true) => {
            input.parse::<Token![=]>()?;
            if input.is_empty() || input.peek(Token![,]) {
                return Err(syn::Error::new(name.span(), format!("`{name} =` misses its value")));
            }
            Ok(())
        }
        (true, false) => Err(syn::Error::new(name.span(), format!("`{name}` takes no value"))),
        (false, true) => Err(syn::Error::new(name.span(), format!("`{name}` needs a value: `{name} = …`"))),
        (false, false) => Ok(()),
    }
}

/// An expression for a time; a bare literal can't be one, and the compiler would say so less clearly.
fn duration(input: ParseStream<'_>, option: &str) -> syn::Result<Expr> {
    let value: Expr = input.parse()?;
    if let Expr::Lit(ExprLit { lit, .. }) = &value {
        let seconds = match lit {
            Lit::Int(int) => int.base10_digits().to_owned(),
            _ => "30".to_owned(),
        };
        return Err(syn::Error::new(
            value.span(),
            format!("`{option}` takes a `Duration`, as in `{option} = Duration::from_secs({seconds})`"),
        ));
    }
    Ok(value)
}

/// An expression for a number, of which what can be seen here is checked here.
fn permits(input: ParseStream<'_>) -> syn::Result<Expr> {
    let value: Expr = input.parse()?;
    if let Expr::Lit(ExprLit { lit, .. }) = &value {
        let some = matches!(lit, Lit::Int(int) if int.base10_parse::<u32>().is_ok_and(|permits| permits > 0));
        if !some {
            return Err(syn::Error::new(value.span(), "`permits` takes a number, at least 1, as in `permits = 4`"));
        }
    }
    Ok(value)
}

fn scope(input: ParseStream<'_>) -> syn::Result<Scope> {
    if input.peek(LitStr) {
        let name: LitStr = input.parse()?;
        let text = name.value();
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(syn::Error::new(name.span(), "a scope's name is neither empty nor holds control characters"));
        }
        return Ok(Scope::Name(name));
    }
    match word(input, "scope", &["module", "function"], " or a name in quotes")? {
        0 => Ok(Scope::Module),
        _ => Ok(Scope::Function),
    }
}

fn guard(input: ParseStream<'_>, names: &Names) -> syn::Result<Ident> {
    let Ok(name) = input.parse::<Ident>() else {
        return Err(input.error("`guard` takes the name the body calls its lease by: `guard = lease`"));
    };
    if names.params.contains(&name) {
        return Err(syn::Error::new(name.span(), format!("`guard = {name}` would hide the parameter `{name}`")));
    }
    Ok(name)
}

fn on_lost(input: ParseStream<'_>) -> syn::Result<OnLost> {
    Ok(match word(input, "on_lost", &["cancel", "finish"], "")? {
        0 => OnLost::Cancel,
        _ => OnLost::Finish,
    })
}

fn release(input: ParseStream<'_>) -> syn::Result<Release> {
    Ok(match word(input, "release", &["background", "await"], "")? {
        0 => Release::Background,
        _ => Release::Await,
    })
}

fn on_error(input: ParseStream<'_>) -> syn::Result<OnError> {
    let value: Expr = input.parse()?;
    if let Expr::Path(path) = &value {
        if path.path.is_ident("panic") {
            return Ok(OnError::Panic);
        }
    }
    if let Expr::Macro(call) = &value {
        if call.mac.path.is_ident("panic") {
            return Err(syn::Error::new(value.span(), "write `on_error = panic`, or `on_error = |error| panic!(…)`"));
        }
    }
    Ok(OnError::Call(Box::new(value)))
}

/// The index of one of the `words`.
fn word(input: ParseStream<'_>, option: &str, words: &[&str], or: &str) -> syn::Result<usize> {
    let all: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    let all = all.join(" or ");
    let at = input.span();
    let Ok(written) = input.call(Ident::parse_any) else {
        return Err(syn::Error::new(at, format!("`{option}` takes {all}{or}")));
    };
    words.iter().position(|word| written == word).ok_or_else(|| {
        let hint = did_you_mean(&written.to_string(), words.iter().copied());
        syn::Error::new(at, format!("`{option}` takes {all}{or}{hint}"))
    })
}

fn end_of_argument(input: ParseStream<'_>, what: &str) -> syn::Result<()> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(());
    }
    Err(input.error(format!("expected `,` after {what}")))
}

fn skip_argument(input: ParseStream<'_>) {
    while !input.is_empty() && !input.peek(Token![,]) {
        // A token tree is always there while the input is not empty.
        if input.parse::<TokenTree>().is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
