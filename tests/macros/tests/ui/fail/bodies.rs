//! Mistakes in the body are reported where they are.

use tasklock::{LockError, synchronized};

#[synchronized("id")]
async fn wrong_tail(id: u32) -> Result<u32, LockError> {
    Ok("text")
}

#[synchronized("id")]
async fn wrong_return(id: u32) -> Result<u32, LockError> {
    if id == 0 {
        return Ok(());
    }
    Ok(id)
}

#[synchronized("id")]
async fn no_tail(id: u32) -> Result<u32, LockError> {
    id.to_string();
}

#[synchronized("id")]
async fn value_for_nothing(id: u32) {
    id
}

#[synchronized("id", blocking)]
fn blocking_tail(id: u32) -> Result<u32, LockError> {
    id
}

#[synchronized("id")]
async fn unused_variable(id: u32) -> Result<u32, LockError> {
    let unknown = missing;
    Ok(id)
}

fn main() {}
