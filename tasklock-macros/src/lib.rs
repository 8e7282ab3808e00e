//! [`#[synchronized]`](macro@synchronized) and [`#[derive(LockKey)]`](macro@LockKey).
//!
//! Use them through the `tasklock` crate, which re-exports both: what they write names its items.
//!
//! ```
//! use tasklock::{LockError, Locker, MemoryLock, synchronized};
//!
//! #[synchronized("team")]
//! async fn rebuild_index(team: &str, force: bool) -> Result<usize, LockError> {
//!     // One at a time per team, whichever process asks.
//!     Ok(team.len() + usize::from(force))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), LockError> {
//! tasklock::install_default(Locker::new(MemoryLock::new())?)?;
//! assert_eq!(rebuild_index("acme", true).await?, 5);
//! # Ok(())
//! # }
//! ```

mod attr;
mod ctxt;
mod derive;
mod expand;
mod function;
mod key;

use proc_macro::TokenStream;

/// Runs a function under a lock that its arguments name.
///
/// The key is computed from the arguments, the lock is acquired, and the body runs while it is held. When the call
/// returns, the lock is free again. If the lock is lost meanwhile, the body is dropped where it stands.
///
/// ```text
/// #[synchronized(key, key, …, option, option, …)]
/// ```
///
/// # Keys
///
/// | key | locks | is written |
/// |---|---|---|
/// | `"team"` | by a parameter | `team=acme` |
/// | `"req.doc.id"` | by a field of a parameter | `req.doc.id=7` |
/// | `"self.tenant"` | by a field of `self` | `self.tenant=acme` |
/// | `"team:{team}:{req.id}"` | by a template, `{{` and `}}` being braces | `team:acme:7` |
/// | `"team", "req.id"` | by several, together | `team=acme,req.id=7` |
/// | `key = format!(…)` | by an expression: text, or a `Key` | as it stands |
/// | `all("from", "to")` | by several, each a lock of its own: all of them, or none | `from=a` and `to=b` |
///
/// A parameter is any name that the argument patterns bind: `Path(id): Path<u32>` binds `id`. A value is whatever
/// implements `Display`, or a struct with [`#[derive(LockKey)]`](macro@LockKey), also behind references and smart
/// pointers. Values are percent-escaped, so that two different calls never share a lock by accident; a template whose
/// values need no escaping gives the same key as one written by hand.
///
/// **Functions that name the same parameter share the lock**, in every process that uses the same store: that is what
/// lets `rebuild(team)` and `delete(team)` exclude each other. `scope` sets a function, or a group of them, apart.
///
/// A literal that names no parameter is refused, since every call would share one lock, and so is a template whose
/// values could run into each other. Where one lock for all calls is meant, `key = "nightly"` says so.
///
/// # Options
///
/// | option | meaning | else |
/// |---|---|---|
/// | `lock = expr` | the locker to use; may use arguments and `self`, and moves nothing | the scoped locker, else the installed one |
/// | `ttl = expr` | how long a lease lasts without renewal: a `Duration` or `Ttl` | the locker's |
/// | `wait = expr` | how long to wait: a `Duration` or `Wait` | the locker's |
/// | `try_only` | do not wait: held is an error | |
/// | `skip_if_locked` | do not wait: held is `()`, `None`, or `Ok` of those | |
/// | `shared` | beside others that are `shared`: a read lock | exclusive |
/// | `permits = n` | beside others, as long as fewer than `n`, a `u32`, hold it | exclusive |
/// | `reentrant = owner` | enters the lock again if `owner`, a text or whatever can be displayed, holds it through this locker | exclusive |
/// | `scope = "name"` | share the lock only with functions of this scope | shared by all |
/// | `scope = module` | … with functions of this module | |
/// | `scope = function` | … with no other function (for a method: with none of its name in this module) | |
/// | `guard = name` | binds the `Lease` in the body: `name.fencing_token()`, `name.is_held()`; with `all`, a `Vec` of them by key | `tasklock::current()` |
/// | `on_lost = cancel`, `finish` | what becomes of the body if the lock is lost | the locker's |
/// | `on_error = expr` | called with the `LockError`, gives what the function returns | by the return type |
/// | `on_error = panic` | panics with it | |
/// | `release = background`, `await` | whether the call returns before the store has the lock back | the locker's |
/// | `blocking` | for a function that is not async: blocks its thread | |
/// | `crate = path` | where `tasklock` is, if not at `::tasklock` | |
///
/// `wait`, `try_only` and `skip_if_locked` exclude each other, and so do `shared`, `permits`, `reentrant` and `all`; `blocking`
/// goes with neither `all` nor `reentrant`.
///
/// # What the function returns
///
/// | written | returns | refused |
/// |---|---|---|
/// | no arrow | `Result<(), LockError>` | `Err`, and an event is logged, since results of spawned tasks tend to vanish |
/// | `Result<T, E>`, under any name | the same | `Err(E::from(error))`; `E` must be `From<LockError>` |
/// | anything else | the same | what `on_error` gives; needed |
/// | no arrow and `on_error` | `()` | what `on_error` does |
///
/// *Refused* is whatever kept the body from running to its end: held too long, no locker, a failing store, one without
/// shared locks or permits where they are asked for, an invalid key, or a lock lost on the way. `skip_if_locked` answers *held* alone; the other reasons stay errors.
///
/// # Which functions
///
/// Free functions and methods, with generics, lifetimes and `impl Trait`; async functions in traits, native and by
/// `#[async_trait]`; functions that return a future from a last `async move { … }` or `Box::pin(async move { … })`; with
/// `blocking`, functions that are not async. Bodies keep `?` and `return`, futures stay `Send`, and attributes keep
/// their order. In a trait's implementation the trait gives the return type: a function without an arrow matches
/// `-> Result<(), LockError>` there, and under `#[async_trait]` the arrow must be written.
///
/// Arguments that the body uses are moved into it: `on_error` can use those that are `Copy`, as shared references are.
/// With `blocking`, a body whose lock is lost runs to its end: there is no way to stop it, and `on_lost = cancel` is
/// refused. Under `#[tokio::test]` and `#[tokio::main]`, put this attribute first.
///
/// # Cancel safety
///
/// Dropping the future while it waits leaves nothing behind. Dropping it while the body runs drops the body, and the
/// lock is released in the background.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tasklock::{LockError, LockKey, Locker, MemoryLock, synchronized};
///
/// #[derive(LockKey)]
/// struct Document {
///     #[lock_key]
///     tenant: String,
///     #[lock_key]
///     id: u64,
///     text: String,
/// }
///
/// struct Service {
///     locker: Locker,
/// }
///
/// impl Service {
///     #[synchronized("document", lock = self.locker, wait = Duration::from_secs(5), guard = lease)]
///     async fn save(&self, document: Document) -> Result<String, LockError> {
///         // The store refuses a write under an older token.
///         let _token = lease.fencing_token();
///         drop(document.text);
///         Ok(lease.key().to_string())
///     }
///
///     #[synchronized("job:{name}", lock = self.locker, skip_if_locked)]
///     async fn every_minute(&self, name: &str) {
///         // Whoever comes second skips this round.
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), LockError> {
/// let service = Service { locker: Locker::new(MemoryLock::new())? };
/// let document = Document { tenant: "acme".into(), id: 7, text: String::new() };
/// assert_eq!(service.save(document).await?, "document=(tenant=acme;id=7)");
/// service.every_minute("cleanup").await?;
/// # Ok(())
/// # }
/// ```
#[proc_macro_attribute]
pub fn synchronized(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::synchronized(args.into(), item.into()).into()
}

/// Lets a struct name a lock by its fields.
///
/// | | is written |
/// |---|---|
/// | struct with fields | `(tenant=acme;id=7)` |
/// | tuple struct of several fields | `(0=acme;1=7)` |
/// | tuple struct of one field | that field's value |
/// | enum without data | the variant's name |
///
/// | attribute | meaning |
/// |---|---|
/// | `#[lock_key]` on fields | these are the key; without it, all fields are |
/// | `#[lock_key(skip)]` on fields | all but these |
/// | `#[lock_key(rename = "x")]` on a field or variant | its name in the key |
/// | `#[lock_key(crate = path)]` on the type | where `tasklock` is, if not at `::tasklock` |
///
/// Fields implement `Display` or `LockKey` themselves. The names are part of the key: renaming a field changes the lock,
/// and two versions of a service that run side by side would not exclude each other. `rename` keeps the old name.
///
/// # Examples
///
/// ```
/// use tasklock::LockKey;
///
/// #[derive(LockKey)]
/// struct Upload<T> {
///     tenant: T,
///     #[lock_key(rename = "name")]
///     file_name: String,
///     #[lock_key(skip)]
///     bytes: Vec<u8>,
/// }
/// ```
#[proc_macro_derive(LockKey, attributes(lock_key))]
pub fn derive_lock_key(input: TokenStream) -> TokenStream {
    derive::lock_key(input.into()).into()
}
