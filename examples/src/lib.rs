//! The examples are in `examples/`. Here the code in the project's documents is made to run, by `cargo test --doc`.
//! Pages about a store with a driver are with the tests of that store, which build the driver anyway.

/// Every block of Rust in it is a test; so with the others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/benchmarks.md")]
pub mod benchmarks {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/features.md")]
pub mod features {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/guarantees.md")]
pub mod guarantees {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/local.md")]
pub mod local {}
