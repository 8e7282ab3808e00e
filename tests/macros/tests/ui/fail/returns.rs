use tasklock::{LockError, synchronized};

struct Unrelated;

type Alias = Option<u32>;

#[synchronized("id")]
async fn number(id: u32) -> u32 {
    id
}

#[synchronized("id")]
async fn aliased(id: u32) -> Alias {
    Some(id)
}

#[synchronized("id")]
async fn unrelated_error(id: u32) -> Result<u32, Unrelated> {
    Ok(id)
}

#[synchronized("id", skip_if_locked)]
async fn no_skip(id: u32) -> Result<u32, LockError> {
    Ok(id)
}

#[synchronized("id", on_error = |_| "text")]
async fn other_type(id: u32) -> u32 {
    id
}

fn main() {}
