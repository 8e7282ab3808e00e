//! Between the SDK and the emulator: counts requests, and does to them what happens to requests.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What a request is for, as its body shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Takes a lock.
    Acquire,
    /// Renews one.
    Renew,
    /// Gives one back.
    Release,
    /// Forbids a nonce.
    Withdraw,
    /// Looks at one, consistently.
    Read,
    /// Looks whether the table is there.
    Check,
    /// Takes several.
    Many,
    /// Looks at the table.
    Describe,
    /// Anything else.
    Other,
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is answered with this status and error, and not carried out.
    Answer(u16, &'static str),
    /// It is carried out, and answered with this status and error.
    AnswerAfter(u16, &'static str),
    /// The connection breaks before it arrives.
    Reset,
    /// It is carried out, and the connection breaks before the answer.
    LoseReply,
    /// It is carried out, and the connection breaks in the middle of the answer.
    Truncate,
    /// It arrives when the gate is opened.
    HoldRequest(Gate),
    /// It is carried out, and its answer arrives when the gate is opened.
    HoldReply(Gate),
    /// It arrives twice; the second answer is the one that comes back.
    Twice,
}

/// Holds what comes until it is opened.
#[derive(Clone)]
pub struct Gate {
    arrived: Arc<watch::Sender<usize>>,
    open: Arc<watch::Sender<bool>>,
    passed: Arc<watch::Sender<usize>>,
}

impl Default for Gate {
    fn default() -> Self {
        let count = || Arc::new(watch::channel(0).0);
        Gate { arrived: count(), open: Arc::new(watch::channel(false).0), passed: count() }
    }
}

impl Gate {
    /// Completes once something stands before the gate.
    ///
    /// # Panics
    ///
    /// Never.
    pub async fn arrived(&self) {
        let _ = self.arrived.subscribe().wait_for(|count| *count > 0).await.expect("the sender is here");
    }

    /// Lets everything through, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Completes once the emulator has answered what was held.
    ///
    /// # Panics
    ///
    /// Never.
    pub async fn carried_out(&self) {
        let _ = self.passed.subscribe().wait_for(|count| *count > 0).await.expect("the sender is here");
    }

    async fn pass(&self) {
        self.arrived.send_modify(|count| *count += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("open", &*self.open.borrow()).finish_non_exhaustive()
    }
}

/// The proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: SocketAddr,
    board: Arc<Mutex<Board>>,
}

#[derive(Debug, Default)]
struct Board {
    rules: Vec<Rule>,
    seen: Vec<Kind>,
}

#[derive(Debug)]
struct Rule {
    kind: Kind,
    contains: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Proxy {
    /// In front of this address, in the runtime it is called in.
    pub(crate) async fn start(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Proxy { address: listener.local_addr().expect("an address"), board: Arc::default() };
        tokio::spawn({
            let proxy = proxy.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let proxy = proxy.clone();
                    tokio::spawn(async move {
                        // A connection that ends is what many a fault is about.
                        let _ = proxy.serve(client, behind).await;
                    });
                }
            }
        });
        proxy
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// This happens to the next request of this kind.
    pub fn next(&self, kind: Kind, fault: Fault) {
        self.add(kind, "", 0, 1, fault);
    }

    /// This happens to one request of this kind, after so many others.
    pub fn after(&self, kind: Kind, skip: usize, fault: Fault) {
        self.add(kind, "", skip, 1, fault);
    }

    /// This happens to every request of this kind whose body has this text.
    pub fn always(&self, kind: Kind, contains: &str, fault: Fault) {
        self.add(kind, contains, 0, usize::MAX, fault);
    }

    /// Nothing happens any more.
    pub fn clear(&self) {
        self.board().rules.clear();
    }

    /// Forgets the requests counted so far.
    pub fn reset_counts(&self) {
        self.board().seen.clear();
    }

    /// The requests that came, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Kind> {
        self.board().seen.clone()
    }

    /// How many requests of this kind came.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.board().seen.iter().filter(|seen| **seen == kind).count()
    }

    fn add(&self, kind: Kind, contains: &str, skip: usize, times: usize, fault: Fault) {
        let contains = contains.to_owned();
        self.board().rules.push(Rule { kind, contains, skip, times, fault });
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, and says what is to happen to it.
    fn meet(&self, kind: Kind, body: &str) -> Option<Fault> {
        let mut board = self.board();
        board.seen.push(kind);
        for rule in board.rules.iter_mut().filter(|rule| rule.kind == kind && body.contains(&rule.contains)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 {
                rule.times -= 1;
                return Some(rule.fault.clone());
            }
        }
        None
    }

    async fn serve(&self, mut client: TcpStream, behind: SocketAddr) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut server = TcpStream::connect(behind).await?;
        server.set_nodelay(true)?;
        let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
        while let Some(request) = message(&mut client, &mut from_client).await? {
            let text = String::from_utf8_lossy(&request).into_owned();
            let mut held = None;
            match self.meet(kind_of(&text), &text) {
                Some(Fault::Reset) => return Ok(()),
                Some(Fault::Answer(status, code)) => {
                    client.write_all(&refusal(status, code)).await?;
                    continue;
                }
                Some(Fault::HoldRequest(gate)) => {
                    // Whoever waits for it may be gone by then. It still arrives.
                    gate.pass().await;
                    held = Some(gate);
                }
                Some(Fault::Twice) => {
                    server.write_all(&request).await?;
                    message(&mut server, &mut from_server).await?;
                }
                Some(fault) => {
                    server.write_all(&request).await?;
                    let Some(reply) = message(&mut server, &mut from_server).await? else { return Ok(()) };
                    match fault {
                        Fault::LoseReply => return Ok(()),
                        Fault::Truncate => {
                            client.write_all(&reply[..reply.len() - 10]).await?;
                            return Ok(());
                        }
                        Fault::AnswerAfter(status, code) => client.write_all(&refusal(status, code)).await?,
                        Fault::HoldReply(gate) => {
                            gate.pass().await;
                            client.write_all(&reply).await?;
                        }
                        _ => client.write_all(&reply).await?,
                    }
                    continue;
                }
                None => {}
            }
            server.write_all(&request).await?;
            let Some(reply) = message(&mut server, &mut from_server).await? else { return Ok(()) };
            if let Some(gate) = held {
                gate.passed.send_modify(|count| *count += 1);
            }
            client.write_all(&reply).await?;
        }
        Ok(())
    }
}

/// One HTTP message, head and body, as it came; none if the connection has ended.
async fn message(stream: &mut TcpStream, rest: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
            let whole = end + 4 + length;
            if rest.len() >= whole {
                return Ok(Some(rest.drain(..whole).collect()));
            }
        }
        let mut part = [0; 8192];
        match stream.read(&mut part).await? {
            0 => return Ok(None),
            n => rest.extend_from_slice(&part[..n]),
        }
    }
}

fn refusal(status: u16, code: &str) -> Vec<u8> {
    let body = format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"injected"}}"#);
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Injected\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

fn kind_of(request: &str) -> Kind {
    let has = |part: &str| request.contains(part);
    match () {
        () if has("DynamoDB_20120810.TransactWriteItems") => Kind::Many,
        () if has("DynamoDB_20120810.GetItem") && has(r#""ConsistentRead":true"#) => Kind::Read,
        () if has("DynamoDB_20120810.GetItem") => Kind::Check,
        () if has("DynamoDB_20120810.DescribeTable") => Kind::Describe,
        () if !has("DynamoDB_20120810.UpdateItem") => Kind::Other,
        () if has(":period") => Kind::Withdraw,
        () if has("SET own = :me") => Kind::Acquire,
        () if has("SET hb = hb + :one") => Kind::Renew,
        () if has("REMOVE own") => Kind::Release,
        () => Kind::Other,
    }
}
