//! The scripts, joined from their parts: what comes later uses what is before it.

/// Puts each group of parts within the one before. For every local that a function uses Lua goes through all that are used
/// so where it is made, but has those from further out at once: one after the other, the parts take twice as long to begin.
macro_rules! nested {
    ([$($part:literal),+]) => { concat!($(include_str!($part)),+) };
    ([$($part:literal),+] $($within:tt)+) => {
        concat!($(include_str!($part)),+, "\nreturn (function()\n", nested!($($within)+), "\nend)()\n")
    };
}

/// Steps on locks.
pub(crate) const LOCK: &str = nested!(
    ["tokens.lua", "lock.lua"]
    ["holders.lua", "quiet.lua"]
    ["line.lua"]
    ["queue.lua"]
    ["values.lua", "steps.lua"]
);

/// Steps on pools: they share what they begin with, and the line, with those on locks.
pub(crate) const POOL: &str = nested!(["tokens.lua"]["line.lua"]["pool.lua"]);

/// Steps at one node of a quorum.
pub(crate) const QUORUM: &str = include_str!("quorum.lua");
