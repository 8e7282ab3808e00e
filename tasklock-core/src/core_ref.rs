//! A locker's core, as lockers and guards hold it.

use std::{ops::Deref, sync::Arc};

use crate::{
    shards::{Padded, of_this_thread},
    shared::Core,
};

/// A share in a [`Core`], which ends with the last of them.
///
/// Every guard has one. Threads that lock and unlock at the same time would all count theirs in one place, so there are
/// several places, and each thread counts in its own.
#[derive(Clone)]
pub(crate) struct CoreRef(Arc<Count>);

struct Count {
    core: Arc<Core>,
}

/// All places of a locker.
pub(crate) struct CoreRefs(Box<[Padded<CoreRef>]>);

const PLACES: usize = 16;

impl CoreRefs {
    pub(crate) fn new(core: Core) -> Self {
        let core = Arc::new(core);
        CoreRefs((0..PLACES).map(|_| Padded(CoreRef(Arc::new(Count { core: core.clone() })))).collect())
    }

    /// That of the calling thread.
    pub(crate) fn mine(&self) -> &CoreRef {
        &self.0[of_this_thread() % PLACES].0
    }
}

impl Deref for CoreRef {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.0.core
    }
}
