//! `on_error` runs after the body had the arguments.

use tasklock::{LockKey, synchronized};

#[derive(LockKey)]
struct Name {
    id: u8,
}

#[synchronized("name", on_error = |_| name)]
async fn moved(name: Name) -> Name {
    name
}

fn main() {}
