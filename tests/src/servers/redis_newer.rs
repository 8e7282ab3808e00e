//! A server as others would understand it: newer, or older, than the one that is installed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

use super::RedisServer;

const SET_IFEQ: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[2] then return false end \
    if ARGV[3] then return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3]) end \
    return redis.call('SET', KEYS[1], ARGV[1])";
const DELETE_IFEQ: &str =
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])";

/// Which commands that compare a value a server has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Knows {
    /// None of them: Redis before 8.4, Valkey before 8.1.
    Nothing,
    /// `SET … IFEQ`: Valkey 8.1.
    SetIfEqual,
    /// That, and `DELIFEQ`: Valkey 9.
    DelIfEqual,
    /// That, and `DELEX … IFEQ`: Redis 8.4.
    DelEx,
}

/// In front of a real server: what it knows goes there as a script that does the same, what it does not know as something
/// that no server knows, and everything else as it is.
#[derive(Debug)]
pub struct RedisOfVersion {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl RedisOfVersion {
    /// One in front of this server.
    ///
    /// # Panics
    ///
    /// If there is no port for it.
    pub async fn start(server: &RedisServer, knows: Knows) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::default());
        let (to, all) = (server.port(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                let ((from_client, mut to_client), (mut from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                tokio::spawn(pass(from_client, to_server, knows, Arc::clone(&all)));
            }
        });
        RedisOfVersion { port, seen, task }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it was asked to do to locks and values since the last time: the commands.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for RedisOfVersion {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(from: OwnedReadHalf, mut to: OwnedWriteHalf, knows: Knows, seen: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut from = BufReader::new(from);
    loop {
        let words = read(&mut from).await?;
        let text: Vec<String> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let name = text[0].to_ascii_uppercase();
        let compares = text.iter().any(|word| word == "IFEQ");
        if ["SET", "DELIFEQ", "DELEX", "EVAL", "EVALSHA"].contains(&name.as_str()) {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        }
        let mut sent: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        match name.as_str() {
            "SET" if compares && knows == Knows::Nothing => sent[3] = b"IFNOBODYKNOWS",
            "SET" if compares => {
                sent = vec![b"EVAL", SET_IFEQ.as_bytes(), b"1", &words[1], &words[2], &words[4]];
                sent.extend(words.get(6).map(Vec::as_slice));
            }
            "DELIFEQ" if knows == Knows::DelIfEqual => {
                sent = vec![b"EVAL", DELETE_IFEQ.as_bytes(), b"1", &words[1], &words[2]];
            }
            "DELEX" if knows == Knows::DelEx => {
                sent = vec![b"EVAL", DELETE_IFEQ.as_bytes(), b"1", &words[1], &words[3]];
            }
            "DELIFEQ" | "DELEX" => sent[0] = b"DELNOBODYKNOWS",
            _ => {}
        }
        let mut bytes = format!("*{}\r\n", sent.len()).into_bytes();
        for word in sent {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        to.write_all(&bytes).await.ok()?;
    }
}

/// A request: an array of texts.
async fn read(from: &mut BufReader<OwnedReadHalf>) -> Option<Vec<Vec<u8>>> {
    let mut words = vec![Vec::new(); number(from).await?];
    for word in &mut words {
        word.resize(number(from).await? + 2, 0);
        from.read_exact(word).await.ok()?;
        word.truncate(word.len() - 2);
    }
    Some(words)
}

async fn number(from: &mut BufReader<OwnedReadHalf>) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).await.ok()?;
    line.trim_end().get(1..)?.parse().ok()
}
