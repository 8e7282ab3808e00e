use tasklock::LockKey;

#[derive(LockKey)]
struct Unit;

#[derive(LockKey)]
struct NoFields {}

#[derive(LockKey)]
struct AllSkipped {
    #[lock_key(skip)]
    id: u8,
}

#[derive(LockKey)]
enum WithData {
    One,
    Two(u8),
    Three { id: u8 },
}

#[derive(LockKey)]
enum Empty {}

#[derive(LockKey)]
enum SameName {
    One,
    #[lock_key(rename = "One")]
    Two,
    #[lock_key(skip)]
    Three,
}

#[derive(LockKey)]
union Union {
    a: u8,
    b: i8,
}

#[derive(LockKey)]
struct Options {
    #[lock_key(renam = "x")]
    misspelt: u8,
    #[lock_key(rename = "a;b")]
    separator: u8,
    #[lock_key(rename = "")]
    empty: u8,
    #[lock_key(crate = x)]
    elsewhere: u8,
}

#[derive(LockKey)]
struct Both {
    #[lock_key]
    #[lock_key(skip)]
    id: u8,
}

#[derive(LockKey)]
struct Mixed {
    #[lock_key]
    chosen: u8,
    #[lock_key(skip)]
    skipped: u8,
    #[lock_key(rename = "x")]
    renamed: u8,
}

#[derive(LockKey)]
struct Clash {
    a: u8,
    #[lock_key(rename = "a")]
    b: u8,
}

#[derive(LockKey)]
#[lock_key(krate = x)]
struct Container {
    id: u8,
}

fn main() {}
