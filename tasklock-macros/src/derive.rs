//! `#[derive(LockKey)]`: which fields of a value name its lock.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Data, DataEnum, DataStruct, DeriveInput, Fields, Ident, Index, LitStr, Member, Path, Type};

use crate::ctxt::{Ctxt, did_you_mean};

pub(crate) fn lock_key(input: TokenStream) -> TokenStream {
    try_lock_key(input).unwrap_or_else(syn::Error::into_compile_error)
}

fn try_lock_key(input: TokenStream) -> syn::Result<TokenStream> {
    let input: DeriveInput = syn::parse2(input)?;
    let mut cx = Ctxt::default();
    let krate = container_crate(&input.attrs, &mut cx);
    let written = match &input.data {
        Data::Struct(data) => of_struct(&input.ident, data, &krate, &mut cx),
        Data::Enum(data) => of_enum(&input.ident, data, &mut cx),
        Data::Union(data) => {
            cx.error(data.union_token.span, "a union can't name a lock: which field holds is not known");
            Written::default()
        }
    };
    cx.finish()?;

    let Written { body, types } = written;
    let mut generics = input.generics;
    let bounded: Vec<_> = types.iter().filter(|ty| mentions_parameter(ty, &generics)).cloned().collect();
    if !bounded.is_empty() {
        let clause = generics.make_where_clause();
        for ty in bounded {
            clause.predicates.push(syn::parse_quote!(#ty: #krate::LockKey));
        }
    }
    let ident = &input.ident;
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #krate::LockKey for #ident #ty_generics #where_clause {
            fn write_key(&self, __tasklock_out: &mut #krate::KeyWriter<'_>) {
                use #krate::__private::AsLockKey as _;
                #body
            }
        }
    })
}

/// The body of `write_key`, and the types of what it writes.
#[derive(Default)]
struct Written {
    body: TokenStream,
    types: Vec<Type>,
}

/// A field and what its attributes say.
struct Field<'a> {
    member: Member,
    ty: &'a Type,
    span: Span,
    options: Options,
}

/// `#[lock_key]`, `#[lock_key(skip)]`, `#[lock_key(rename = "x")]`
#[derive(Default)]
struct Options {
    chosen: Option<Span>,
    skip: Option<Span>,
    rename: Option<LitStr>,
}

fn of_struct(ident: &Ident, data: &DataStruct, krate: &TokenStream, cx: &mut Ctxt) -> Written {
    let all: Vec<Field<'_>> = data
        .fields
        .iter()
        .enumerate()
        .map(|(index, field)| Field {
            member: match &field.ident {
                Some(ident) => Member::Named(ident.clone()),
                None => {
                    Member::Unnamed(Index { index: u32::try_from(index).unwrap_or(u32::MAX), span: field.ty.span() })
                }
            },
            ty: &field.ty,
            span: field.ident.as_ref().map_or_else(|| field.ty.span(), Ident::span),
            options: field_options(&field.attrs, cx),
        })
        .collect();
    // Not the field's own: the two may come from different macros.
    let this = Ident::new("self", Span::call_site());
    let newtype = all.len() == 1 && matches!(data.fields, Fields::Unnamed(_));
    let fields = chosen(all, cx);
    if fields.is_empty() && cx.is_empty() {
        cx.error(
            ident.span(),
            format!("no field of `{ident}` is part of the key, so all its values would share one lock"),
        );
    }
    check_names(&fields, cx);

    let body = fields
        .iter()
        .map(|field| {
            let member = &field.member;
            let value = quote_spanned!(field.span=> #this.#member.as_lock_key());
            if newtype && field.options.rename.is_none() {
                // Nothing to tell apart: the value stands for the whole.
                return quote!(#krate::LockKey::write_key(#value, __tasklock_out););
            }
            let name = field.name();
            quote!(__tasklock_out.field(#name, #value);)
        })
        .collect();
    let types = fields.into_iter().map(|field| referent(field.ty).clone()).collect();
    Written { body, types }
}

/// An enum without data: the variant's name.
fn of_enum(ident: &Ident, data: &DataEnum, cx: &mut Ctxt) -> Written {
    if data.variants.is_empty() {
        cx.error(ident.span(), format!("`{ident}` has no values to name a lock"));
    }
    let mut seen: Vec<String> = Vec::new();
    let arms = data.variants.iter().map(|variant| {
        if !matches!(variant.fields, Fields::Unit) {
            cx.error(
                variant.ident.span(),
                "`LockKey` is derived for structs and for enums without data; \
                 implement it, or `Display`, by hand",
            );
        }
        let options = field_options(&variant.attrs, cx);
        if let Some(at) = options.skip.or(options.chosen) {
            cx.error(at, "a variant can only be renamed");
        }
        let name = options.rename.as_ref().map_or_else(|| variant.ident.unraw().to_string(), LitStr::value);
        if seen.contains(&name) {
            cx.error(variant.ident.span(), format!("two variants are called `{name}` and would share a lock"));
        }
        seen.push(name.clone());
        let variant = &variant.ident;
        quote!(Self::#variant => #name,)
    });
    let arms: TokenStream = arms.collect();
    Written { body: quote!(__tasklock_out.value(match self { #arms });), types: Vec::new() }
}

impl Field<'_> {
    fn name(&self) -> String {
        match (&self.options.rename, &self.member) {
            (Some(name), _) => name.value(),
            (None, Member::Named(ident)) => ident.unraw().to_string(),
            (None, Member::Unnamed(index)) => index.index.to_string(),
        }
    }
}

/// The fields marked `#[lock_key]`; where none is, all that are not skipped.
fn chosen<'a>(fields: Vec<Field<'a>>, cx: &mut Ctxt) -> Vec<Field<'a>> {
    let choose = fields.iter().any(|field| field.options.chosen.is_some());
    for field in &fields {
        let Options { chosen, skip, rename } = &field.options;
        if let (Some(skip), true) = (skip, choose) {
            cx.error(*skip, "fields are either chosen by `#[lock_key]` or left out by `skip`, not both");
        }
        if let (Some(rename), true) = (rename, skip.is_some() || choose && chosen.is_none()) {
            cx.error(rename.span(), "renamed, but not part of the key: add `#[lock_key]` to the field");
        }
    }
    fields
        .into_iter()
        .filter(|field| match choose {
            true => field.options.chosen.is_some(),
            false => field.options.skip.is_none(),
        })
        .collect()
}

fn check_names(fields: &[Field<'_>], cx: &mut Ctxt) {
    for (index, field) in fields.iter().enumerate() {
        let name = field.name();
        if fields[..index].iter().any(|before| before.name() == name) {
            let span = field.options.rename.as_ref().map_or(field.span, LitStr::span);
            cx.error(span, format!("two fields of the key are called `{name}`"));
        }
    }
}

fn field_options(attrs: &[Attribute], cx: &mut Ctxt) -> Options {
    let mut options = Options::default();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("lock_key")) {
        if matches!(attr.meta, syn::Meta::Path(_)) {
            options.chosen = Some(attr.span());
            continue;
        }
        let parsed = attr.parse_nested_meta(|meta| {
            let at = meta.path.span();
            if meta.path.is_ident("skip") {
                options.skip = Some(at);
                return Ok(());
            }
            if meta.path.is_ident("rename") {
                let name: LitStr = meta.value()?.parse()?;
                check_rename(&name)?;
                options.rename = Some(name);
                return Ok(());
            }
            Err(unknown(&meta.path, &["skip", "rename"]))
        });
        if let Err(error) = parsed {
            cx.push(error);
        }
    }
    if let (Some(at), Some(_)) = (options.skip, options.chosen) {
        cx.error(at, "the field is both chosen and skipped");
        options.skip = None;
    }
    options
}

/// A field's name is written as it stands, so it must not hold what separates fields.
fn check_rename(name: &LitStr) -> syn::Result<()> {
    let text = name.value();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~@".contains(c) || c > '\u{9f}';
    if text.is_empty() || !text.chars().all(plain) {
        return Err(syn::Error::new(name.span(), "a name in a key is made of letters, digits and `-_.~@`"));
    }
    Ok(())
}

fn container_crate(attrs: &[Attribute], cx: &mut Ctxt) -> TokenStream {
    let mut krate = quote!(::tasklock);
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("lock_key")) {
        let parsed = attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("crate") {
                let path = meta.value()?.call(Path::parse_mod_style)?;
                krate = quote!(#path);
                return Ok(());
            }
            Err(unknown(&meta.path, &["crate"]))
        });
        if let Err(error) = parsed {
            cx.push(error);
        }
    }
    krate
}

fn unknown(path: &Path, known: &[&str]) -> syn::Error {
    let written = path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>().join("::");
    let hint = did_you_mean(&written, known.iter().copied());
    let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    let hint = if hint.is_empty() { format!(": there is {}", known.join(" and ")) } else { hint };
    syn::Error::new(path.span(), format!("`lock_key` knows no `{written}` here{hint}"))
}

/// `T` of `&T`: what the method lookup in the body finds.
fn referent(ty: &Type) -> &Type {
    match ty {
        Type::Reference(reference) => referent(&reference.elem),
        Type::Paren(inner) => referent(&inner.elem),
        Type::Group(inner) => referent(&inner.elem),
        ty => ty,
    }
}

fn mentions_parameter(ty: &Type, generics: &syn::Generics) -> bool {
    struct Search<'a> {
        generics: &'a syn::Generics,
        found: bool,
    }
    impl Visit<'_> for Search<'_> {
        fn visit_path(&mut self, path: &Path) {
            let first = path.segments.first();
            self.found |= first.is_some_and(|first| {
                let mut parameters = self.generics.type_params();
                parameters.any(|parameter| parameter.ident == first.ident)
            });
            visit::visit_path(self, path);
        }
    }
    let mut search = Search { generics, found: false };
    search.visit_type(ty);
    search.found
}

#[cfg(test)]
mod tests;
