use tasklock::{LockKey, synchronized};

struct Opaque;

struct Holder {
    opaque: Opaque,
}

#[derive(LockKey)]
struct Outer {
    inner: Opaque,
}

#[derive(LockKey)]
struct Newtype(Opaque);

#[synchronized("opaque")]
async fn parameter(opaque: Opaque) {}

#[synchronized("x:{holder.opaque}")]
async fn field(holder: &Holder) {}

#[synchronized("items")]
async fn list(items: Vec<u8>) {}

#[synchronized("value")]
async fn unbounded<T>(value: T) {}

#[synchronized("holder.missing")]
async fn missing_field(holder: &Holder) {}

#[synchronized("id", lock = "redis://localhost")]
async fn locker(id: u8) {}

#[synchronized("id", ttl = seconds)]
async fn ttl(id: u8, seconds: u64) {}

#[synchronized("id", wait = seconds)]
async fn wait(id: u8, seconds: u64) {}

fn main() {}
