use super::*;
use crate::function::Function;
use proc_macro2::TokenStream;
use quote::ToTokens;

const FUNCTION: &str = "async fn f(&self, team: &str, id: u32) {}";

fn parse(args: &str) -> Result<Args, Vec<(String, String)>> {
    let names = syn::parse_str::<Function>(FUNCTION).unwrap().names();
    let mut cx = Ctxt::default();
    let args = Args::parse(args.parse::<TokenStream>().unwrap(), &names, &mut cx);
    cx.finish().map_err(|errors| {
        let text = |error: syn::Error| {
            let at = error.span().source_text().unwrap_or_default();
            (error.to_string(), at)
        };
        errors.into_iter().map(text).collect::<Vec<_>>()
    })?;
    Ok(args)
}

fn ok(args: &str) -> Args {
    parse(args).unwrap_or_else(|errors| panic!("{args}: {errors:?}"))
}

fn errors(args: &str) -> Vec<(String, String)> {
    parse(args).map(|_| ()).unwrap_err()
}

/// The only error: its text and what it points at.
fn error(args: &str) -> (String, String) {
    let mut errors = errors(args);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

fn shown(expr: &Given<Expr>) -> String {
    expr.get().unwrap().to_token_stream().to_string()
}

#[test]
fn keys_then_options() {
    let args = ok(r#""team", "id", ttl = Duration::from_secs(5), wait = limit(a, b), lock = self.locker"#);
    let keys: Vec<_> = args.keys.iter().map(LitStr::value).collect();
    assert_eq!(keys, ["team", "id"]);
    assert_eq!(shown(&args.ttl), "Duration :: from_secs (5)");
    assert_eq!(shown(&args.wait), "limit (a , b)");
    assert_eq!(shown(&args.lock), "self . locker");
    assert!(!args.try_only.is_given());
    assert_eq!(args.krate().to_string(), ":: tasklock");
}

#[test]
fn a_comma_may_end_the_list() {
    assert_eq!(ok(r#""team","#).keys.len(), 1);
    assert!(ok(r#""team", blocking,"#).blocking.is_given());
}

#[test]
fn every_option() {
    assert_eq!(shown(&ok(r#"key = format!("{}", id)"#).key), r#"format ! ("{}" , id)"#);
    assert!(ok(r#""id", try_only"#).try_only.is_given());
    assert!(ok(r#""id", skip_if_locked"#).skip_if_locked.is_given());
    assert!(ok(r#""id", blocking"#).blocking.is_given());
    assert_eq!(ok(r#""id", guard = lease"#).guard.get().unwrap(), "lease");
    let crate_path = ok(r#""id", crate = ::a::b"#).krate().to_string();
    assert_eq!(crate_path, ":: a :: b");

    let on_lost = |args| ok(args).on_lost.get().copied().unwrap();
    assert_eq!(on_lost(r#""id", on_lost = cancel"#), OnLost::Cancel);
    assert_eq!(on_lost(r#""id", on_lost = finish"#), OnLost::Finish);

    let release = |args| ok(args).release.get().copied().unwrap();
    assert_eq!(release(r#""id", release = await"#), Release::Await);
    assert_eq!(release(r#""id", release = background"#), Release::Background);

    let scope = |args| match ok(args).scope.get().unwrap() {
        Scope::Name(name) => name.value(),
        Scope::Module => "<module>".to_owned(),
        Scope::Function => "<function>".to_owned(),
    };
    assert_eq!(scope(r#""id", scope = "billing""#), "billing");
    assert_eq!(scope(r#""id", scope = module"#), "<module>");
    assert_eq!(scope(r#""id", scope = function"#), "<function>");

    let on_error = |args| match ok(args).on_error.get().unwrap() {
        OnError::Panic => "<panic>".to_owned(),
        OnError::Call(call) => call.to_token_stream().to_string(),
    };
    assert_eq!(on_error(r#""id", on_error = panic"#), "<panic>");
    assert_eq!(on_error(r#""id", on_error = |_| None"#), "| _ | None");
}

#[test]
fn a_key_is_needed() {
    let (message, _) = error("");
    assert!(message.contains(r#"`#[synchronized("team")]`"#), "{message}");
    let (message, _) = error("ttl = limit()");
    assert!(message.starts_with("what is locked?"), "{message}");
}

#[test]
fn a_key_is_a_string() {
    assert_eq!(error("team"), (r#"a key is written in quotes: `"team"`"#.into(), "team".into()));
    for args in ["b\"team\"", "1", "format!(\"x\")", "(team)", "a::b", "team.id"] {
        let (message, _) = error(args);
        assert!(message.starts_with("expected a key or an option"), "{args}: {message}");
    }
    let (message, at) = error(r#""team".len()"#);
    assert_eq!(message, "expected `,` after a key");
    assert_eq!(at, ".");
}

#[test]
fn unknown_options() {
    assert_eq!(error(r#""id", tll = x"#), ("no option is called `tll`, did you mean `ttl`?".into(), "tll".into()));
    let (message, _) = error(r#""id", skip_if_lock"#);
    assert!(message.ends_with("did you mean `skip_if_locked`?"), "{message}");
    let (message, _) = error(r#""id", timeout = x"#);
    assert!(message.contains(": there is `key`, `lock`, `ttl`"), "{message}");
}

#[test]
fn each_option_once() {
    for option in [
        "lock = a",
        "ttl = a",
        "wait = a",
        "try_only",
        "skip_if_locked",
        "scope = module",
        "guard = a",
        "on_lost = finish",
        "on_error = a",
        "release = background",
        "blocking",
        "crate = a",
    ] {
        let name = option.split(' ').next().unwrap();
        assert_eq!(error(&format!("\"id\", {option}, {option}")), (format!("`{name}` is given twice"), name.into()),);
    }
    let (message, _) = error("key = a, key = b");
    assert_eq!(message, "`key` is given twice");
}

#[test]
fn values_where_they_belong() {
    let message = |args: &str| error(args).0;
    assert_eq!(message(r#""id", ttl"#), "`ttl` needs a value: `ttl = …`");
    assert_eq!(message(r#""id", ttl(5)"#), "`ttl` needs a value: `ttl = …`");
    assert_eq!(message(r#""id", ttl ="#), "`ttl =` misses its value");
    assert_eq!(message(r#""id", ttl =, blocking"#), "`ttl =` misses its value");
    assert_eq!(message(r#""id", blocking = true"#), "`blocking` takes no value");
    assert_eq!(message(r#""id", blocking(1)"#), "expected `,` after `blocking`");
    assert_eq!(message(r#""id", ttl = a b"#), "expected `,` after `ttl`");
}

#[test]
fn times_are_durations() {
    assert_eq!(
        error(r#""id", ttl = 5"#),
        ("`ttl` takes a `Duration`, as in `ttl = Duration::from_secs(5)`".into(), "5".into())
    );
    let (message, at) = error(r#""id", wait = "5s""#);
    assert!(message.starts_with("`wait` takes a `Duration`"), "{message}");
    assert_eq!(at, r#""5s""#);
}

#[test]
fn words_of_an_option() {
    assert_eq!(
        error(r#""id", on_lost = finsh"#),
        ("`on_lost` takes `cancel` or `finish`, did you mean `finish`?".into(), "finsh".into())
    );
    let message = |args: &str| error(args).0;
    assert_eq!(message(r#""id", release = blocking"#), "`release` takes `background` or `await`");
    assert_eq!(message(r#""id", scope = 5"#), "`scope` takes `module` or `function` or a name in quotes");
    assert!(message(r#""id", scope = """#).starts_with("a scope's name"));
    assert!(message(r#""id", guard = "lease""#).starts_with("`guard` takes the name"));
    assert_eq!(message(r#""id", guard = team"#), "`guard = team` would hide the parameter `team`");
    assert!(message(r#""id", on_error = panic!()"#).contains("`on_error = panic`"));
}

#[test]
fn options_that_contradict() {
    assert_eq!(
        error(r#""id", try_only, wait = x"#),
        ("`try_only` never waits and can't be combined with `wait`".into(), "try_only".into())
    );
    let message = |args: &str| error(args).0;
    assert_eq!(
        message(r#""id", wait = x, skip_if_locked"#),
        "`skip_if_locked` never waits and can't be combined with `wait`"
    );
    assert_eq!(
        message(r#""id", try_only, skip_if_locked"#),
        "`skip_if_locked` never waits and can't be combined with `try_only`"
    );
    assert!(message(r#""id", key = x"#).starts_with("`key` is the whole key"));
    assert!(message(r#""id", blocking, on_lost = cancel"#).contains("`blocking`"));
    assert!(parse(r#""id", blocking, on_lost = finish"#).is_ok());
}

#[test]
fn one_error_hides_no_other() {
    let found = errors(r#"team, tll = a < b, ttl = 5, try_only, wait = x"#);
    let at: Vec<_> = found.iter().map(|(_, at)| at.as_str()).collect();
    assert_eq!(at, ["team", "tll", "5", "try_only"], "{found:?}");
}

#[test]
fn modes() {
    let shared = ok(r#""team", shared"#);
    assert!(shared.shared.is_given() && !shared.permits.is_given());
    assert_eq!(shown(&ok(r#""team", permits = self.slots"#).permits), "self . slots");
    assert_eq!(shown(&ok(r#""team", permits = 4"#).permits), "4");
    let (text, at) = error(r#""team", shared, permits = 4"#);
    assert!(text.contains("either `shared` or has `permits`"), "{text}");
    assert_eq!(at, "permits");
    for wrong in ["0", "\"4\"", "4.0", "5_000_000_000"] {
        let (text, at) = error(&format!(r#""team", permits = {wrong}"#));
        assert!(text.contains("at least 1"), "{text}");
        assert_eq!(at, wrong);
    }
    assert_eq!(error(r#""team", shared = true"#).0, "`shared` takes no value");
    assert_eq!(error(r#""team", permits"#).0, "`permits` needs a value: `permits = …`");
}

#[test]
fn several_locks() {
    let all = ok(r#"all("from", "to.id",), ttl = t"#);
    let keys: Vec<_> = all.all.get().unwrap().iter().map(syn::LitStr::value).collect();
    assert_eq!(keys, ["from", "to.id"]);
    for wrong in ["all", "all = x", "all(from, to)", r#"all("from" "to")"#] {
        let (text, _) = error(wrong);
        assert!(text.contains("`all`"), "{wrong}: {text}");
    }
    for few in ["all()", r#"all("from")"#] {
        assert!(error(few).0.contains("one alone needs no `all`"), "{few}");
    }
    assert_eq!(error(r#"all("a", "b"), all("a", "b")"#).0, "`all` is given twice");
    for other in [r#""team""#, "key = x"] {
        let (text, at) = error(&format!(r#"all("team", "team"), {other}"#));
        assert!(text.contains("can't be given beside others"), "{text}");
        assert_eq!(at, "all");
    }
    for other in ["shared", "permits = 2", "reentrant = x", "blocking"] {
        let (text, _) = error(&format!(r#"all("team", "team"), {other}"#));
        assert!(text.contains("can't be combined with `all`"), "{text}");
    }
}

#[test]
fn re_entry() {
    assert_eq!(shown(&ok(r#""team", reentrant = self.name"#).reentrant), "self . name");
    assert_eq!(error(r#""team", reentrant"#).0, "`reentrant` needs a value: `reentrant = …`");
    for other in ["shared", "permits = 2", "blocking"] {
        let (text, _) = error(&format!(r#""team", reentrant = x, {other}"#));
        assert_eq!(text, format!("`{}` can't be combined with `reentrant`", other.split(' ').next().unwrap()));
    }
}
