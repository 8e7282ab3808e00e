//! The examples are in `examples/`. Here the code in the project's documents is made to run, by `cargo test --doc`.

/// Every block of Rust in it is a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
