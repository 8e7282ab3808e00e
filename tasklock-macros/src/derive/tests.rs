use super::*;

fn derive(item: &str) -> String {
    let tokens = try_lock_key(item.parse().unwrap()).unwrap_or_else(|error| panic!("{item}: {error}"));
    syn::parse2::<syn::ItemImpl>(tokens.clone()).unwrap();
    tokens.to_string().replace(' ', "")
}

fn errors(item: &str) -> Vec<(String, String)> {
    let error = try_lock_key(item.parse().unwrap()).unwrap_err();
    let shown = |error: syn::Error| (error.to_string(), error.span().source_text().unwrap_or_default());
    error.into_iter().map(shown).collect()
}

fn error(item: &str) -> (String, String) {
    let mut errors = errors(item);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

/// The names of the fields that are written.
fn fields(item: &str) -> Vec<String> {
    let code = derive(item);
    let written = code.split("__tasklock_out.field(\"").skip(1);
    written.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn which_fields() {
    assert_eq!(fields("struct S { a: u8, r#type: u8 }"), ["a", "type"]);
    assert_eq!(fields("struct S { #[lock_key] a: u8, b: u8, #[lock_key] c: u8 }"), ["a", "c"]);
    assert_eq!(fields("struct S { #[lock_key(skip)] a: u8, b: u8 }"), ["b"]);
    assert_eq!(fields(r#"struct S { #[lock_key(rename = "x")] a: u8, b: u8 }"#), ["x", "b"]);
    assert_eq!(fields(r#"struct S { #[lock_key] #[lock_key(rename = "x")] a: u8, b: u8 }"#), ["x"]);
    assert_eq!(fields("struct S(u8, u8);"), ["0", "1"]);
    assert_eq!(fields("struct S(#[lock_key(skip)] u8, u8);"), ["1"]);
    assert_eq!(fields(r#"struct S(#[lock_key(rename = "x")] u8);"#), ["x"]);
    assert!(derive("struct S(u8);").contains("LockKey::write_key(self.0.as_lock_key(),__tasklock_out);"));
}

#[test]
fn bounds_on_what_is_written() {
    let clause = |item: &str| {
        let code = derive(item);
        let head = code.split('{').next().unwrap();
        head.split_once("where").map_or_else(String::new, |(_, clause)| clause.to_owned())
    };
    assert_eq!(clause("struct S { a: u8 }"), "");
    assert_eq!(clause("struct S<T> { a: T }"), "T:::tasklock::LockKey");
    assert_eq!(clause("struct S<'a, T: ?Sized> { a: &'a &'a T }"), "T:::tasklock::LockKey");
    assert_eq!(clause("struct S<T> { a: u8, #[lock_key(skip)] b: T }"), "");
    assert_eq!(clause("struct S<T> { a: Vec<T> }"), "Vec<T>:::tasklock::LockKey");
    assert_eq!(clause("struct S<T: X> { a: T::Id }"), "T::Id:::tasklock::LockKey");
    assert_eq!(clause("struct S<T> where T: X { a: T }"), "T:X,T:::tasklock::LockKey");
}

#[test]
fn the_crate_may_be_elsewhere() {
    let code = derive("#[lock_key(crate = a::b)] struct S<T>(T, u8);");
    assert!(code.contains("impl<T>a::b::LockKeyforS<T>whereT:a::b::LockKey"), "{code}");
    assert!(!code.contains("::tasklock"), "{code}");
}

#[test]
fn enums_by_variant() {
    let code = derive(r#"enum E { One, #[lock_key(rename = "zwei")] Two }"#);
    assert!(code.contains(r#"matchself{Self::One=>"One",Self::Two=>"zwei",}"#), "{code}");
    assert!(error("enum E { One(u8) }").0.contains("enums without data"));
    assert!(error("enum E {}").0.contains("no values"));
    assert!(error(r#"enum E { One, #[lock_key(rename = "One")] Two }"#).0.contains("two variants"));
    assert_eq!(error("enum E { #[lock_key(skip)] One }"), ("a variant can only be renamed".into(), "skip".into()));
    assert!(error("union U { a: u8 }").0.contains("union"));
}

#[test]
fn never_one_lock_for_all() {
    for item in ["struct S;", "struct S {}", "struct S();", "struct S { #[lock_key(skip)] a: u8 }"] {
        let (message, at) = error(item);
        assert!(message.contains("share one lock"), "{item}: {message}");
        assert_eq!(at, "S");
    }
}

#[test]
fn attributes_that_make_no_sense() {
    let (message, at) = error("struct S { #[lock_key(skipp)] a: u8 }");
    assert_eq!(message, "`lock_key` knows no `skipp` here, did you mean `skip`?");
    assert_eq!(at, "skipp");
    assert!(error("#[lock_key(skip)] struct S { a: u8 }").0.contains("there is `crate`"));
    assert!(error("struct S { #[lock_key(skip)] #[lock_key] a: u8 }").0.contains("both chosen and skipped"));
    assert!(error("struct S { #[lock_key] a: u8, #[lock_key(skip)] b: u8 }").0.contains("not both"));
    let renamed = error(r#"struct S { #[lock_key] a: u8, #[lock_key(rename = "x")] b: u8 }"#);
    assert_eq!(renamed.1, "\"x\"");
    assert!(error(r#"struct S { a: u8, #[lock_key(rename = "a")] b: u8 }"#).0.contains("two fields"));
    for name in ["", "a=b", "a;b", "(", "a b", "%41"] {
        assert!(error(&format!("struct S {{ #[lock_key(rename = {name:?})] a: u8 }}")).0.contains("letters, digits"));
    }
}

#[test]
fn all_mistakes_at_once() {
    let found = errors("#[lock_key(x)] struct S { #[lock_key(y)] a: u8, #[lock_key(z)] b: u8 }");
    assert_eq!(found.len(), 3, "{found:?}");
}
