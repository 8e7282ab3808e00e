use tasklock::{LockError, synchronized};

struct Req {
    id: u32,
}

#[synchronized("tema")]
async fn misspelt(team: &str) {}

#[synchronized("document")]
async fn unknown(team: &str, req: &Req) {}

#[synchronized("team:acme")]
async fn constant(team: &str) {}

#[synchronized("team:{tema}")]
async fn misspelt_in_braces(team: &str) {}

#[synchronized("{team}{req.id}")]
async fn adjacent(team: &str, req: &Req) {}

#[synchronized("{team}-{req.id}")]
async fn weak_separator(team: &str, req: &Req) {}

#[synchronized("{{team}}")]
async fn no_placeholder(team: &str) {}

#[synchronized("x:{team")]
async fn unclosed(team: &str) {}

#[synchronized("x:{team:?}")]
async fn format_options(team: &str) {}

#[synchronized("req.id()")]
async fn method_call(req: &Req) {}

#[synchronized("team\n")]
async fn control_character(team: &str) {}

#[synchronized("self.id")]
async fn no_receiver(id: u8) {}

#[synchronized("id")]
async fn no_parameters() {}

#[synchronized(team)]
async fn unquoted(team: &str) {}

#[synchronized]
async fn bare(team: &str) {}

#[synchronized("")]
async fn empty(team: &str) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
