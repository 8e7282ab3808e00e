//! What an address says.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use url::Url;

/// What an address is the address of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Server,
    Socket,
    Sentinel,
    Cluster,
}

impl Kind {
    /// And whether it is spoken to by TLS.
    pub(crate) fn of(scheme: &str) -> Option<(Self, bool)> {
        let (base, kind) = match scheme.split_once('-') {
            None => (scheme, Kind::Server),
            Some((base, "sentinel")) => (base, Kind::Sentinel),
            Some((base, "cluster")) => (base, Kind::Cluster),
            Some(_) => return None,
        };
        match base {
            "redis" | "valkey" => Some((kind, false)),
            "rediss" | "valkeys" => Some((kind, true)),
            "unix" | "redis+unix" | "valkey+unix" if kind == Kind::Server => Some((Kind::Socket, false)),
            _ => None,
        }
    }
}

/// Several hosts that are spoken to alike.
#[derive(Clone)]
pub(crate) struct Hosts {
    /// As one server, with whatever host.
    pub(crate) like: Url,
    /// `host:port`.
    pub(crate) all: Vec<String>,
}

impl Hosts {
    pub(crate) fn parse(url: &Url, others: &[String], port: u16) -> Result<Self, String> {
        let mut like = url.clone();
        like.set_query(None);
        let base = url.scheme().split_once('-').map_or(url.scheme(), |(base, _)| base).to_owned();
        like.set_scheme(&base).map_err(|()| format!("`{base}` is no scheme"))?;
        tcp(&like)?;
        let host = url.host_str().unwrap_or_default();
        let mut all = vec![format!("{host}:{}", url.port().unwrap_or(port))];
        for other in others {
            // Read as the first one was.
            let parsed = Url::parse(&format!("redis://{other}")).ok();
            let parsed = parsed.filter(|url| url.path().is_empty() && url.username().is_empty());
            let host = parsed.as_ref().and_then(Url::host_str).filter(|host| !host.is_empty());
            let (Some(host), Some(parsed)) = (host, &parsed) else {
                return Err(format!("`{other}` is no host; write `host:port`, and one user for all of them"));
            };
            all.push(format!("{host}:{}", parsed.port().unwrap_or(port)));
        }
        Ok(Hosts { like, all })
    }

    /// How to connect to the one at this `host:port`.
    pub(crate) fn at(&self, address: &str) -> Result<ConnectionInfo, String> {
        let wrong = || format!("`{address}` is no address of a server");
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.contains(':') && !host.starts_with('[');
        let host = if bare { format!("[{host}]") } else { host.to_owned() };
        let mut url = self.like.clone();
        url.set_host(Some(&host)).map_err(|_| wrong())?;
        url.set_port(Some(port.parse().map_err(|_| wrong())?)).map_err(|()| wrong())?;
        tcp(&url)
    }

    pub(crate) fn by_tls(&self) -> bool {
        matches!(self.like.scheme(), "rediss" | "valkeys")
    }
}

pub(crate) fn tcp(url: &Url) -> Result<ConnectionInfo, String> {
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host".to_owned());
    }
    let path = url.path().strip_prefix('/').unwrap_or_default();
    if !path.is_empty() {
        database(path)?;
    }
    let mut bare = url.clone();
    bare.set_query(None);
    bare.into_connection_info().map_err(|e| e.to_string())
}

pub(crate) fn socket(url: &Url) -> Result<ConnectionInfo, String> {
    let path = url.to_file_path().map_err(|()| "names no socket; write `redis+unix:///path/to/socket`".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or password before the path; write `?user=…&pass=…`".to_owned());
    }
    ConnectionAddr::Unix(path).into_connection_info().map_err(|e| e.to_string())
}

pub(crate) fn database(text: &str) -> Result<i64, String> {
    let wrong = |_| match text.contains('@') {
        // It may be the rest of a password.
        true => "names no database: its number comes after the host and a slash".to_owned(),
        false => format!("`{text}` is not the number of a database: 0 or more"),
    };
    text.parse::<u32>().map(i64::from).map_err(wrong)
}

/// An address without user, password and parameters.
pub(crate) fn shown(url: &Url, others: &[String]) -> String {
    let mut shown = format!("{}:", url.scheme());
    if let Some(host) = url.host_str() {
        shown.push_str("//");
        shown.push_str(host);
        if let Some(port) = url.port() {
            shown.push_str(&format!(":{port}"));
        }
    }
    // With an `@` it is no path and no host, but the end of a user and a password that were written wrongly.
    for other in others.iter().filter(|other| !other.contains('@')) {
        shown.push(',');
        shown.push_str(other);
    }
    if url.path().contains('@') { shown + "…" } else { shown + url.path() }
}
