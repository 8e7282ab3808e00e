use tasklock::synchronized;

#[synchronized("id", tll = limit())]
async fn misspelt(id: u8) {}

#[synchronized("id", timeout = limit())]
async fn unknown(id: u8) {}

#[synchronized("id", ttl = limit(), ttl = limit())]
async fn twice(id: u8) {}

#[synchronized("id", scope = "a", scope = module)]
async fn two_scopes(id: u8) {}

#[synchronized("id", ttl = 30)]
async fn number(id: u8) {}

#[synchronized("id", wait = "5s")]
async fn text(id: u8) {}

#[synchronized("id", wait = limit(), try_only)]
async fn wait_and_try(id: u8) {}

#[synchronized("id", wait = limit(), skip_if_locked)]
async fn wait_and_skip(id: u8) {}

#[synchronized("id", try_only, skip_if_locked)]
async fn try_and_skip(id: u8) {}

#[synchronized("id", key = "x")]
async fn two_kinds_of_key(id: u8) {}

#[synchronized("id", on_lost = cancel, blocking)]
fn cancel_blocking(id: u8) {}

#[synchronized("id", on_lost = abort)]
async fn unknown_word(id: u8) {}

#[synchronized("id", blocking = true)]
fn flag_with_value(id: u8) {}

#[synchronized("id", guard = id)]
async fn hiding(id: u8) {}

// Every mistake is told at once.
#[synchronized("di", tll = limit(), try_only, wait = 5)]
fn all_of_them(id: u8) -> u8 {
    id
}

fn main() {}
