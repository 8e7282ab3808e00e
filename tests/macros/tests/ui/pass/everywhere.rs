//! Compiles, and needs nothing in scope but the attribute.

#![deny(warnings)]

use tasklock::synchronized;

mod errors {
    #[derive(Debug)]
    pub struct Error;
    impl From<tasklock::LockError> for Error {
        fn from(_: tasklock::LockError) -> Self {
            Self
        }
    }
    pub type Result<T> = core::result::Result<T, Error>;
}

#[synchronized("id")]
pub async fn silent(id: u8) {}

#[synchronized("id")]
pub async fn aliased(id: u8) -> errors::Result<u8> {
    Ok(id)
}

#[synchronized("a", "b:{c}", "c", scope = function, try_only)]
pub async fn several(a: u8, c: &str) -> errors::Result<impl Iterator<Item = char>> {
    Ok(c.chars().take(usize::from(a)))
}

#[synchronized("id", on_error = panic)]
pub async fn never(id: u8) -> ! {
    loop {
        tokio::task::yield_now().await;
    }
}

#[tasklock::synchronized("more", blocking, on_error = panic)]
pub unsafe extern "C" fn foreign(id: *const u8, more: u8) -> u8
where
    for<'a> &'a u8: Copy,
{
    // SAFETY: the caller's promise.
    more + unsafe { *id }
}

fn main() {
    fn assert_send(_: impl Send) {}
    assert_send(silent(1));
    assert_send(aliased(1));
    assert_send(several(1, "x"));
}
