//! `on_error` runs after the body had the arguments.

use tasklock::synchronized;

#[synchronized("name", on_error = |_| name)]
async fn moved(name: String) -> String {
    name
}

fn main() {}
