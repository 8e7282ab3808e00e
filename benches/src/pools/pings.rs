//! Somebody who notices when the server does not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tasklock::redis::{self, Client};
use tasklock_tests::servers::RedisServer;

use crate::{stats::micros, subject::Failure};

/// Somebody else who wants answers, on a thread and a connection of their own.
pub(super) struct Pings {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<(f64, usize), redis::RedisError>>,
}

impl Pings {
    pub(super) fn start(server: &RedisServer) -> Result<Self, Failure> {
        let mut connection = Client::open(server.url())?.get_connection()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (mut longest, mut count) = (0.0_f64, 0);
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                redis::cmd("PING").query::<String>(&mut connection)?;
                longest = longest.max(micros(asked.elapsed()) / 1000.0);
                count += 1;
                thread::sleep(Duration::from_micros(200));
            }
            Ok((longest, count))
        });
        Ok(Pings { stop, thread })
    }

    /// The longest answer, in milliseconds, and how many there were.
    pub(super) fn stop(self) -> Result<(f64, usize), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "who pings panicked")??)
    }
}
