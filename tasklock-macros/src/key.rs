//! The grammar of a key: `"param"`, `"param.field.sub"`, `"self.field"`, `"team:{team}:{req.id}"`.
//!
//! Whatever would lock too much without saying so is refused here: a literal that names no parameter (every call would
//! share one lock), and a template whose values could run into each other (two keys would share one lock).

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::ext::IdentExt;
use syn::parse::Parser;
use syn::{Ident, Index, LitStr, Member};

use crate::ctxt::{Ctxt, did_you_mean};
use crate::function::Names;

/// One key literal, checked.
pub(crate) enum Key {
    /// `"req.id"`: written `req.id=value`.
    Param(Access),
    /// `"team:{team}"`: written as it stands, values escaped.
    Template(Vec<Piece>),
}

/// A part of a template.
pub(crate) enum Piece {
    Text(String),
    Value(Access),
}

/// A place reached from a parameter or `self`.
pub(crate) struct Access {
    /// As the user wrote it.
    pub(crate) text: String,
    span: Span,
    root: Ident,
    fields: Vec<Member>,
}

impl Key {
    /// Says what is wrong with the literal, and gives nothing, if it is no key.
    pub(crate) fn parse(literal: &LitStr, names: &Names, cx: &mut Ctxt) -> Option<Self> {
        let text = literal.value();
        let parsed = if text.is_empty() {
            Err("an empty key: name a parameter, as in \"param\" or \"team:{param}\"".to_owned())
        } else if text.chars().any(char::is_control) {
            Err("a key cannot hold control characters".to_owned())
        } else if text.contains(['{', '}']) {
            template(&text, literal.span(), names).map(Self::Template)
        } else {
            Access::parse(&text, literal.span(), names).map(Self::Param).map_err(|fault| fault.in_literal(&text))
        };
        parsed.map_err(|message| cx.error(literal.span(), message)).ok()
    }
}

impl Access {
    fn parse(text: &str, span: Span, names: &Names) -> Result<Self, Fault> {
        let mut segments = text.split('.');
        let first = segments.next().unwrap_or_default();
        // The binding's own hygiene, so that the name resolves where the parameter was written; the literal's place,
        // so that errors point at the key.
        let root = if first == "self" {
            let receiver = names.receiver.ok_or(Fault::NoReceiver)?;
            Ident::new("self", span.resolved_at(receiver))
        } else {
            // The last one: it is what the name means where the key is computed.
            let mut bound = names.params.iter().rev();
            let Some(param) = bound.find(|param| param.unraw() == first) else {
                return Err(Fault::unknown(text, first, names));
            };
            let mut root = param.clone();
            root.set_span(span.resolved_at(param.span()));
            root
        };
        let fields = segments
            .map(|field| member(field, span).ok_or_else(|| Fault::NotAField(field.to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), span, root, fields })
    }

    /// The place as an expression.
    fn place(&self) -> TokenStream {
        let Self { root, fields, .. } = self;
        quote_spanned!(self.span=> #root #(.#fields)*)
    }

    /// A reference to the value, as the `KeyBuilder` takes it. `AsLockKey` must be in scope.
    pub(crate) fn value(&self) -> TokenStream {
        let place = self.place();
        quote_spanned!(self.span=> #place.as_lock_key())
    }
}

/// Why a path is no path.
enum Fault {
    NoReceiver,
    Unknown { name: String, hint: String },
    NotAPath { hint: String },
    NotAField(String),
}

impl Fault {
    fn unknown(text: &str, first: &str, names: &Names) -> Self {
        let mut candidates: Vec<String> = names.params.iter().map(|p| p.unraw().to_string()).collect();
        if names.receiver.is_some() {
            candidates.push("self".to_owned());
        }
        let hint = did_you_mean(first, candidates.iter().map(String::as_str));
        if text.split('.').all(is_name) {
            let hint = if hint.is_empty() { listed(&candidates) } else { hint };
            Self::Unknown { name: first.to_owned(), hint }
        } else {
            Self::NotAPath { hint }
        }
    }

    /// The message for a literal without braces.
    fn in_literal(self, text: &str) -> String {
        match self {
            Self::NotAPath { hint } => format!(
                "\"{text}\" names no parameter, so every call would share one lock{hint}; \
                 put a parameter in braces, as in \"team:{{team}}\", \
                 or write `key = \"{text}\"` if one lock for all calls is meant"
            ),
            fault => fault.in_template(text),
        }
    }

    /// The message for a placeholder.
    fn in_template(self, text: &str) -> String {
        match self {
            Self::NoReceiver => {
                format!("\"{text}\" needs `self`, which this function does not take")
            }
            Self::Unknown { name, hint } => format!("no parameter is called `{name}`{hint}"),
            Self::NotAPath { hint } => {
                format!(
                    "`{{{text}}}` is not a parameter or a field of one{hint}; \
                     for anything else write `key = …`"
                )
            }
            Self::NotAField(field) if field.is_empty() => {
                format!("a field's name is missing in `{text}`")
            }
            Self::NotAField(field) => format!(
                "`{field}` is not a field: a key names parameters and their fields, \
                 for anything else write `key = …`"
            ),
        }
    }
}

/// Splits a template and refuses one that could give two different calls the same key.
fn template(text: &str, span: Span, names: &Names) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.next_if_eq(&c).is_some() => literal.push(c),
            '}' => return Err("a `}` without its `{`; write `}}` for the character".to_owned()),
            '{' => {
                let mut placeholder = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some('{') | None => {
                            return Err("a `{` without its `}`; write `{{` for the character".to_owned());
                        }
                        Some(c) => placeholder.push(c),
                    }
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Value(value(&placeholder, span, names)?));
            }
            c => literal.push(c),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    check_separators(&pieces)?;
    Ok(pieces)
}

fn value(placeholder: &str, span: Span, names: &Names) -> Result<Access, String> {
    if placeholder.is_empty() {
        return Err("`{}` names no parameter".to_owned());
    }
    if let Some((name, _)) = placeholder.split_once(':') {
        return Err(format!(
            "`{{{placeholder}}}`: a key knows no format options, write `{{{name}}}` or `key = format!(…)`"
        ));
    }
    Access::parse(placeholder, span, names).map_err(|fault| fault.in_template(placeholder))
}

/// Values must not be able to run into each other: `{a}{b}` gives `1`, `23` and `12`, `3` the same key.
fn check_separators(pieces: &[Piece]) -> Result<(), String> {
    if !pieces.iter().any(|piece| matches!(piece, Piece::Value(_))) {
        return Err("no parameter in braces, so every call would share one lock; \
             write `key = …` if that is meant"
            .to_owned());
    }
    for window in pieces.windows(3) {
        if let [Piece::Value(a), Piece::Text(text), Piece::Value(b)] = window {
            if text.chars().all(value_may_hold) {
                return Err(format!(
                    "\"{text}\" may be part of a value, so `{{{}}}` and `{{{}}}` could run into each other; \
                     separate them by `:`, `/` or another character that values escape",
                    a.text, b.text,
                ));
            }
        }
    }
    for window in pieces.windows(2) {
        if let [Piece::Value(a), Piece::Value(b)] = window {
            return Err(format!(
                "`{{{}}}{{{}}}` run into each other; separate them, as in `{{{}}}:{{{}}}`",
                a.text, b.text, a.text, b.text,
            ));
        }
    }
    Ok(())
}

/// Whether a value can contain the character, be it as itself or as part of an escape.
fn value_may_hold(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.~@%".contains(c) || c > '\u{9f}'
}

fn is_name(text: &str) -> bool {
    member(text, Span::call_site()).is_some()
}

fn member(text: &str, span: Span) -> Option<Member> {
    if let Ok(index) = text.parse::<u32>() {
        return (index.to_string() == text).then_some(Member::Unnamed(Index { index, span }));
    }
    let ident = Ident::parse_any.parse_str(text).ok()?;
    // The lexer skips spaces and comments, a field's name has none.
    if ident != text || matches!(text, "_" | "self" | "Self" | "super" | "crate") {
        return None;
    }
    let keyword = syn::parse_str::<Ident>(text).is_err();
    Some(Member::Named(if keyword {
        Ident::new_raw(text, span)
    } else {
        let mut ident = ident;
        ident.set_span(span);
        ident
    }))
}

fn listed(candidates: &[String]) -> String {
    if candidates.is_empty() {
        return "; the function takes none".to_owned();
    }
    let names: Vec<_> = candidates.iter().map(|name| format!("`{name}`")).collect();
    format!(": there is {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::Function;

    const FUNCTION: &str = "async fn f(&self, team: &str, req: &Req, pair: (u8, u8), r#type: u8) {}";

    fn parse_in(function: &str, literal: &str) -> Result<String, String> {
        let names = syn::parse_str::<Function>(function).unwrap().names();
        let literal = LitStr::new(literal, Span::call_site());
        let mut cx = Ctxt::default();
        let key = Key::parse(&literal, &names, &mut cx);
        cx.finish().map_err(|error| error.to_string())?;
        let access = |access: &Access| access.place().to_string().replace(' ', "");
        Ok(match key.unwrap() {
            Key::Param(a) => format!("{}={}", a.text, access(&a)),
            Key::Template(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => format!("{text:?}"),
                    Piece::Value(a) => format!("<{}>", access(a)),
                })
                .collect(),
        })
    }

    fn parse(literal: &str) -> Result<String, String> {
        parse_in(FUNCTION, literal)
    }

    fn refusal(literal: &str) -> String {
        parse(literal).unwrap_err()
    }

    #[test]
    fn params_and_their_fields() {
        assert_eq!(parse("team").unwrap(), "team=team");
        assert_eq!(parse("req.doc.id").unwrap(), "req.doc.id=req.doc.id");
        assert_eq!(parse("pair.1").unwrap(), "pair.1=pair.1");
        assert_eq!(parse("self.tenant").unwrap(), "self.tenant=self.tenant");
        assert_eq!(parse("type").unwrap(), "type=r#type");
        assert_eq!(parse("req.type").unwrap(), "req.type=req.r#type");
    }

    #[test]
    fn templates() {
        assert_eq!(parse("{team}").unwrap(), "<team>");
        assert_eq!(parse("team:{team}:{req.id}").unwrap(), r#""team:"<team>":"<req.id>"#);
        assert_eq!(parse("{{{team}}}").unwrap(), r#""{"<team>"}""#);
        assert_eq!(parse("{team}/x{pair.0}").unwrap(), r#"<team>"/x"<pair.0>"#);
    }

    #[test]
    fn a_literal_must_name_a_parameter() {
        assert_eq!(refusal("tema"), "no parameter is called `tema`, did you mean `team`?");
        assert_eq!(refusal("tema.id"), "no parameter is called `tema`, did you mean `team`?");
        assert_eq!(
            refusal("document"),
            "no parameter is called `document`: there is `team`, `req`, `pair`, `type`, `self`"
        );
        assert_eq!(
            parse_in("async fn f() {}", "id").unwrap_err(),
            "no parameter is called `id`; the function takes none"
        );
        for constant in ["team:acme", "my key", "team-1", "team ", "-", "1 2"] {
            let message = refusal(constant);
            assert!(message.contains("every call would share one lock"), "{message}");
        }
        assert!(refusal("team ").contains("did you mean `team`?"));
        assert!(refusal("").starts_with("an empty key"));
    }

    #[test]
    fn self_needs_a_receiver() {
        for literal in ["self.id", "x:{self.id}", "self"] {
            let message = parse_in("async fn f(id: u8) {}", literal).unwrap_err();
            assert!(message.contains("needs `self`"), "{message}");
        }
    }

    #[test]
    fn only_fields_follow_a_dot() {
        assert!(refusal("req.id()").starts_with("`id()` is not a field"));
        assert!(refusal("req.").starts_with("a field's name is missing"));
        assert!(refusal("req..id").starts_with("a field's name is missing"));
        assert!(refusal("req. id").starts_with("` id` is not a field"));
        assert!(refusal("req.self").starts_with("`self` is not a field"));
        assert!(refusal("pair.01").starts_with("`01` is not a field"));
        assert!(refusal("x:{req.id()}").starts_with("`id()` is not a field"));
    }

    #[test]
    fn placeholders_must_be_complete() {
        assert!(refusal("x:{team").starts_with("a `{` without its `}`"));
        assert!(refusal("x:{te{am}").starts_with("a `{` without its `}`"));
        assert!(refusal("x:team}").starts_with("a `}` without its `{`"));
        assert!(refusal("x:{}").starts_with("`{}` names no parameter"));
        assert!(refusal("x:{team:?}").contains("write `{team}`"));
        assert!(refusal("x:{tema}").ends_with("did you mean `team`?"));
        assert!(refusal("x:{team + 1}").contains("not a parameter or a field of one"));
    }

    #[test]
    fn a_template_without_a_value_is_a_constant() {
        for constant in ["{{team}}", "x:{{", "}}"] {
            assert!(refusal(constant).contains("every call would share one lock"));
        }
    }

    #[test]
    fn values_must_not_run_into_each_other() {
        assert_eq!(
            refusal("{team}{req.id}"),
            "`{team}{req.id}` run into each other; separate them, as in `{team}:{req.id}`"
        );
        for separator in ["-", "_", ".", "~", "@", "%", "x", "ü", "-and-", "%3A"] {
            let message = refusal(&format!("{{team}}{separator}{{req.id}}"));
            assert!(message.contains("may be part of a value"), "{message}");
        }
        for separator in [":", "/", " ", ",", "{{", "-:-", "#"] {
            let template = format!("{{team}}{separator}{{req.id}}");
            assert!(parse(&template).is_ok(), "{template}");
        }
    }

    #[test]
    fn control_characters_are_refused() {
        for literal in ["team\n", "x\u{7f}:{team}", "x:{team}\u{85}"] {
            assert!(refusal(literal).contains("control characters"));
        }
    }
}
