//! A way to a broker that can be spoilt.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// What each side says of itself when it has nothing to say.
const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xCE];

/// Passes on what is said, both ways, until told otherwise. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    way: watch::Sender<Way>,
    came: Arc<AtomicUsize>,
    serving: AbortHandle,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Open,
    /// The broker hears heartbeats, and nothing else.
    Deaf,
    /// Connections end, and new ones lead nowhere.
    Cut,
}

impl Proxy {
    /// To the broker at this address.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub async fn to(url: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let own = format!("amqp://{}", listener.local_addr().expect("an address"));
        let broker = url.trim_start_matches("amqp://").to_owned();
        let (way, came) = (watch::channel(Way::Open).0, Arc::new(AtomicUsize::new(0)));
        let serving = tokio::spawn(serve(listener, broker, way.clone(), came.clone())).abort_handle();
        Proxy { url: own, way, came, serving }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lets the broker hear heartbeats only, so that neither side misses the other.
    pub fn deafen(&self) {
        self.way.send_replace(Way::Deaf);
    }

    /// Ends all connections; new ones are made, and lead nowhere.
    pub fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }

    /// How many connections were made so far.
    #[must_use]
    pub fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, broker: String, way: watch::Sender<Way>, came: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        came.fetch_add(1, Ordering::SeqCst);
        connections.spawn(pass(client, broker.clone(), way.subscribe()));
    }
}

async fn pass(client: TcpStream, broker: String, mut way: watch::Receiver<Way>) {
    if *way.borrow() == Way::Cut {
        return std::future::pending().await;
    }
    let Ok(broker) = TcpStream::connect(broker).await else { return };
    let ((mut from_client, mut to_client), (mut from_broker, mut to_broker)) =
        (client.into_split(), broker.into_split());
    let deaf = way.clone();
    let there = async {
        let (mut heard, mut beat) = ([0; 8192], tokio::time::interval(Duration::from_millis(200)));
        loop {
            let is_deaf = *deaf.borrow() == Way::Deaf;
            tokio::select! {
                read = from_client.read(&mut heard) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(_) if is_deaf => {}
                    Ok(len) => to_broker.write_all(&heard[..len]).await.unwrap_or_default(),
                },
                _ = beat.tick(), if is_deaf => to_broker.write_all(&HEARTBEAT).await.unwrap_or_default(),
                () = tokio::time::sleep(Duration::from_millis(100)), if !is_deaf => {}
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = copy(&mut from_broker, &mut to_client) => {}
        _ = way.wait_for(|way| *way == Way::Cut) => {}
    }
}
