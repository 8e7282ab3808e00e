//! What the processes write to: two counters, of which one is fenced.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use rustix::process::Signal;

use super::worker;
use crate::servers::PATIENCE;

/// Two counters behind a socket, in the test's own process. One refuses whoever has an older token than the last reader,
/// the other takes every write.
///
/// It sees who is between its read and its write, and can stop or kill it just there.
#[derive(Clone, Debug)]
pub struct Store {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    totals: Totals,
    /// The highest token that has read. A read must raise it, not only a write: else a late write could still come
    /// between the next holder's read and its write, and be overwritten.
    fence: u64,
    /// Who has read, and under which token, in order.
    reads: Vec<(u32, u64)>,
    /// Whose writes were refused.
    refused: Vec<(u32, u64)>,
    /// What is to happen to whom at its next read.
    orders: HashMap<u32, Signal>,
    /// Under which token it happened.
    carried_out: HashMap<u32, u64>,
}

/// What the counters stand at, and what they were given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// The fenced counter.
    pub fenced: u64,
    /// How often it was added to. It stands at that if no update was lost.
    pub fenced_writes: u64,
    /// How many writes it refused.
    pub refused: u64,
    /// The counter that takes every write.
    pub open: u64,
    /// How often it was added to.
    pub open_writes: u64,
}

impl Store {
    /// Opens one, for as long as this process lives.
    ///
    /// # Panics
    ///
    /// If there is no port for it.
    #[must_use]
    pub fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let store = Store { address, shared: Arc::default() };
        let serving = store.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream));
            }
        });
        store
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// What it holds.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.state().totals
    }

    /// Stops the process between its next read and the write that follows; the token it read under.
    ///
    /// # Panics
    ///
    /// If it never reads.
    #[must_use]
    pub fn stop_after_read(&self, pid: u32) -> u64 {
        self.at_next_read(pid, Signal::STOP)
    }

    /// Kills the process between its next read and the write that follows; the token it read under.
    ///
    /// # Panics
    ///
    /// If it never reads.
    #[must_use]
    pub fn kill_after_read(&self, pid: u32) -> u64 {
        self.at_next_read(pid, Signal::KILL)
    }

    /// Waits until any of these processes reads under a token above this one; which one, and its token.
    ///
    /// # Panics
    ///
    /// If none ever does.
    pub fn next_read(&self, of: &[u32], above: u64) -> (u32, u64) {
        self.until("nobody reads", |state| {
            state.reads.iter().copied().find(|(pid, token)| of.contains(pid) && *token > above)
        })
    }

    /// Waits until this process was refused a write under this token.
    ///
    /// # Panics
    ///
    /// If it never is.
    pub fn until_refused(&self, pid: u32, token: u64) {
        self.until("nothing is refused", |state| state.refused.contains(&(pid, token)).then_some(()));
    }

    /// Waits until the fenced counter was added to so often.
    ///
    /// # Panics
    ///
    /// If it never is.
    pub fn until_written(&self, times: u64) {
        self.until("nobody writes", |state| (state.totals.fenced_writes >= times).then_some(()));
    }

    /// The tokens read under, in the order of the reads.
    #[must_use]
    pub fn tokens(&self) -> Vec<u64> {
        self.state().reads.iter().map(|(_, token)| *token).collect()
    }

    fn at_next_read(&self, pid: u32, signal: Signal) -> u64 {
        self.state().orders.insert(pid, signal);
        self.until("the process does not read", |state| state.carried_out.remove(&pid))
    }

    fn until<T>(&self, what: &str, so: impl Fn(&mut State) -> Option<T>) -> T {
        let start = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(found) = so(&mut state) {
                return found;
            }
            let left = PATIENCE.checked_sub(start.elapsed()).unwrap_or_else(|| panic!("{what}: {:?}", state.totals));
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One task of a process, until it hangs up: first its process id, then requests.
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).expect("a setting");
        let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines().map_while(Result::ok);
        let Some(pid) = lines.next().and_then(|line| line.parse().ok()) else { return };
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |i: usize| words.get(i).and_then(|word| word.parse().ok()).expect("a number");
            let answer = match words[0] {
                "read" => self.read(pid, number(1)),
                "write" => self.write(pid, number(1), number(2), number(3)).to_owned(),
                other => panic!("the store knows no {other}"),
            };
            if stream.write_all(format!("{answer}\n").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn read(&self, pid: u32, token: u64) -> String {
        let mut state = self.state();
        state.fence = state.fence.max(token);
        state.reads.push((pid, token));
        match state.orders.remove(&pid) {
            Some(Signal::STOP) => worker::stop(pid),
            Some(signal) => worker::signal(pid, signal),
            None => return self.read_out(state),
        }
        // The answer arrives at a process that is stopped already.
        state.carried_out.insert(pid, token);
        self.read_out(state)
    }

    fn read_out(&self, state: MutexGuard<'_, State>) -> String {
        self.shared.changed.notify_all();
        format!("{} {}", state.totals.fenced, state.totals.open)
    }

    fn write(&self, pid: u32, token: u64, fenced: u64, open: u64) -> &'static str {
        let mut state = self.state();
        state.totals.open = open;
        state.totals.open_writes += 1;
        let taken = token >= state.fence;
        if taken {
            state.totals.fenced = fenced;
            state.totals.fenced_writes += 1;
        } else {
            state.totals.refused += 1;
            state.refused.push((pid, token));
        }
        self.shared.changed.notify_all();
        if taken { "taken" } else { "refused" }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
