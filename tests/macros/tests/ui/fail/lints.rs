//! The compiler sees the body as the user wrote it, and the result of a function that had no arrow.

#![deny(warnings)]

use tasklock::{LockError, synchronized};

#[synchronized("id")]
async fn silent(id: u32) {}

#[synchronized("id")]
async fn body(id: u32, unused: u32) -> Result<u32, LockError> {
    let mut steady = 1;
    let nothing = 2;
    silent(steady).await;
    return Ok(id);
    drop(id);
}

#[synchronized("id")]
fn future(id: u32) -> impl Future<Output = Result<u32, LockError>> {
    let before = 1;
    async move {
        let nothing = 2;
        Ok(id)
    }
}

fn main() {
    let _ = body(1, 2);
    drop(future(1));
}
