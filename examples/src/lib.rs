//! The examples are in `examples/`. Here the code in the project's documents is made to run, by `cargo test --doc`.
