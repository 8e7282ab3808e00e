use super::*;

/// What the function became, without spaces.
fn expand(args: &str, item: &str) -> String {
    let tokens = try_synchronized(args.parse().unwrap(), item.parse().unwrap());
    let tokens = tokens.unwrap_or_else(|error| panic!("{args}: {error}"));
    syn::parse2::<syn::ItemFn>(tokens.clone()).unwrap();
    tokens.to_string().replace(' ', "")
}

/// Every error: its text and what it points at.
fn errors(args: &str, item: &str) -> Vec<(String, String)> {
    let error = try_synchronized(args.parse().unwrap(), item.parse().unwrap()).unwrap_err();
    let shown = |error: syn::Error| (error.to_string(), error.span().source_text().unwrap_or_default());
    error.into_iter().map(shown).collect()
}

fn error(args: &str, item: &str) -> (String, String) {
    let mut errors = errors(args, item);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

#[test]
fn keys_are_borrowed_before_the_body_moves() {
    let code = expand(r#""id", "x:{b.c}", "id""#, "async fn f(id: u8, b: B) -> R { id }");
    let key = r#".param("id",id.as_lock_key()).literal(",").literal("x:").value(b.c.as_lock_key()).param("id",id.as_lock_key()).finish()"#;
    let (key, body) = (code.find(key).unwrap(), code.find("move|_|asyncmove").unwrap());
    assert!(key < body, "{code}");
}

#[test]
fn a_template_before_a_parameter_is_joined_to_it() {
    let code = expand(r#""{id}", "id""#, "async fn f(id: u8) {}");
    assert!(code.contains(r#".value(id.as_lock_key()).literal(",").param("id""#), "{code}");
}

#[test]
fn no_arrow_becomes_a_result() {
    let code = expand(r#""id""#, "async fn f(id: u8) {}");
    assert!(code.contains("asyncfnf(id:u8)->::core::result::Result<(),::tasklock::LockError>"), "{code}");
    assert!(code.contains("log_refused"), "{code}");

    let code = expand(r#""id", on_error = drop"#, "async fn f(id: u8) {}");
    assert!(code.starts_with("asyncfnf(id:u8){"), "{code}");
    assert!(!code.contains("log_refused"), "{code}");
}

#[test]
fn the_return_type_is_fixed_first_in_the_body() {
    let code = expand(r#""id""#, "async fn f(id: u8) -> Result<impl Send, E> { Ok(id) }");
    let edge = "Option::None::<Result<_,E>>{return__tasklock_never;}{Ok(id)}";
    assert!(code.contains(edge), "{code}");
    assert!(code.contains("<Result<_,E>as::tasklock::__private::Outcome>::refused"), "{code}");
}

#[test]
fn options_become_calls() {
    let code = expand(
        r#""id", lock = self.l, ttl = a, wait = b, on_lost = finish, release = background, guard = lease"#,
        "async fn f(&self, id: u8) {}",
    );
    for call in [
        "IntoLocker::into_locker(&(self.l))",
        ".ttl(a).wait(b).on_lost(::tasklock::OnLost::Finish).release_mode(::tasklock::ReleaseMode::Background)",
        "synchronized_with(move|lease|asyncmove",
    ] {
        assert!(code.contains(call), "{call} in {code}");
    }
    let code = expand(r#""id", try_only, on_lost = cancel, release = await"#, "async fn f(id: u8) {}");
    let calls =
        ".wait(::tasklock::Wait::Try).on_lost(::tasklock::OnLost::Cancel).release_mode(::tasklock::ReleaseMode::Await)";
    assert!(code.contains(calls), "{code}");

    let code = expand(r#""id", skip_if_locked"#, "async fn f(id: u8) {}");
    assert!(code.contains("synchronized_if_free_with") && code.contains("Skip>::skipped"), "{code}");

    let code = expand(r#""id", blocking"#, "fn f(id: u8) {}");
    assert!(code.contains(".blocking().synchronized_with(move|_|{") && !code.contains("async"), "{code}");
}

#[test]
fn another_crate_path_is_used_throughout() {
    let code = expand(
        r#""id", "x:{id}", crate = ::a::b, scope = module, try_only, on_lost = finish, release = await"#,
        "async fn f(id: u8) {}",
    );
    assert!(code.contains("::a::b::__private::key_lock"), "{code}");
    assert!(!code.contains("::tasklock"), "{code}");
}

#[test]
fn everything_around_the_body_stays() {
    let head = "#[a] #[b(c)] pub(crate) async unsafe fn f<'a, T: X + 'a>(mut id: &'a T, (b, _): P) -> R where T: Y";
    let code = expand(r#""id""#, &format!("{head} {{ #![allow(x)] body!() }}"));
    let head = head.replace(' ', "");
    assert!(code.starts_with(&format!("{head}{{#![allow(x)]let")), "{code}");
    assert!(code.contains("{body!()}"), "{code}");
}

#[test]
fn boxed_futures_are_locked_inside() {
    let code = expand(
        r#""id""#,
        "fn f<'t>(&'t self, __arg1: P) -> Pin<Box<dyn Future<Output = R> + 't>> {
            Box::pin(async move {
                let __self = self;
                let P(id) = __arg1;
                let __ret: R = { __self.g(id) };
                __ret
            })
        }",
    );
    let order =
        ["Box::pin(asyncmove{letP(id)=__arg1;", "id.as_lock_key()", "move|_|asyncmove", "None::<R>", "let__self=self;"];
    let places: Vec<_> =
        order.iter().map(|part| code.find(part).unwrap_or_else(|| panic!("{part} in {code}"))).collect();
    assert!(places.is_sorted(), "{code}");
}

#[test]
fn async_or_blocking() {
    let (message, at) = error(r#""id""#, "fn f(id: u8) {}");
    assert!(message.contains("needs `blocking`"), "{message}");
    assert_eq!(at, "fn");
    let (message, at) = error(r#""id", blocking"#, "async fn f(id: u8) {}");
    assert!(message.contains("this one is async"), "{message}");
    assert_eq!(at, "blocking");
    let future = "fn f(id: u8) -> impl Future<Output = R> { async move { id } }";
    let (message, _) = error(r#""id", blocking"#, future);
    assert!(message.contains("this one is async"), "{message}");
    let (message, at) = error(r#""id""#, "const fn f(id: u8) -> R { id }");
    assert!(message.contains("`const fn`"), "{message}");
    assert_eq!(at, "const");
}

#[test]
fn types_that_cannot_carry_a_refusal() {
    let (message, at) = error(r#""id""#, "async fn f(id: u8) -> () {}");
    assert!(message.contains("leave `-> ()` out"), "{message}");
    assert_eq!(at, "()");
    let (message, at) = error(r#""id""#, "async fn f(id: u8) -> ! { loop {} }");
    assert!(message.contains("on_error"), "{message}");
    assert_eq!(at, "!");
    let boxed = "fn f(id: u8) -> Pin<Box<dyn Future<Output = ()>>> { Box::pin(async move {}) }";
    assert!(error(r#""id""#, boxed).0.contains("`()` can't say"));
    expand(r#""id", on_error = drop"#, boxed);
}

#[test]
fn all_mistakes_at_once() {
    let found = errors(r#""di", ttl = 5, guard = id"#, "fn f(id: u8) {}");
    let at: Vec<_> = found.iter().map(|(_, at)| at.as_str()).collect();
    assert_eq!(at, ["5", "id", "\"di\"", "fn"], "{found:?}");
}

#[test]
fn a_refused_item_stays() {
    let tokens = synchronized(TokenStream::new(), "struct S;".parse().unwrap()).to_string();
    assert!(tokens.contains("compile_error") && tokens.ends_with("struct S ;"), "{tokens}");
}

#[test]
fn each_of_several_is_a_key_of_its_own() {
    let code = expand(r#"all("a", "x:{b}"), scope = "s", wait = w"#, "async fn f(a: u8, b: u8) {}");
    let a = r#"KeyBuilder::new().scope("s").param("a",a.as_lock_key()).finish()"#;
    let b = r#"KeyBuilder::new().scope("s").literal("x:").value(b.as_lock_key()).finish()"#;
    assert!(code.contains("__private::all_keys(") && code.contains(a) && code.contains(b), "{code}");
    assert!(code.contains(".wait(w)") && !code.contains("key_lock"), "{code}");
}

#[test]
fn an_owner_is_borrowed() {
    let code = expand(r#""a", reentrant = o.name, ttl = t"#, "async fn f(a: u8, o: O) {}");
    assert!(code.contains("__private::reentrant(::tasklock::__private::key_lock("), "{code}");
    assert!(code.contains(".ttl(t),&(o.name))"), "{code}");
}
