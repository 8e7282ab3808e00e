//! An emulator of DynamoDB, reached by the real SDK: over HTTP, through a proxy that does harm on demand, or without a
//! socket, so that time can be paused.

mod emulator;
mod proxy;

pub use crate::{
    emulator::{Emulator, REGION, TABLE, request},
    proxy::{Fault, Gate, Kind, Proxy},
};
