use tasklock::synchronized;

#[synchronized("id", shared, permits = 4)]
async fn shared_and_counted(id: u8) {}

#[synchronized("id", permits = 0)]
async fn no_permits(id: u8) {}

#[synchronized(all(from, to))]
async fn unquoted(from: u8, to: u8) {}

#[synchronized(all("from"))]
async fn one_alone(from: u8) {}

#[synchronized(all("from", "too"))]
async fn misspelt(from: u8, to: u8) {}

#[synchronized("from", all("from", "to"))]
async fn two_kinds_of_key(from: u8, to: u8) {}

#[synchronized(all("from", "to"), shared)]
async fn readers_of_several(from: u8, to: u8) {}

#[synchronized(all("from", "to"), blocking)]
fn several_blocking(from: u8, to: u8) {}

#[synchronized("id", reentrant)]
async fn whose(id: u8) {}

#[synchronized("id", reentrant = "me", shared)]
async fn readers_are_not_counted(id: u8) {}

fn main() {}
