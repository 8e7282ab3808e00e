//! One at a time per tenant, job or document: distributed locks for tokio.

pub use tasklock_core::*;

#[doc(hidden)]
pub use tasklock_core::__private;
