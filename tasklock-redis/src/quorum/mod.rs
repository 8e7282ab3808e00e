//! Locks in a majority of several servers that know nothing of each other.

mod backend;
mod ballot;
mod config;
mod hints;
mod node;
mod round;
mod step;
mod tally;

pub use self::{backend::QuorumLock, config::QuorumConfig};
