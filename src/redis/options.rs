//! Where Redis is, and what a hub keeps there.

use std::fmt;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError,
    RedisResult, TlsCertificates,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{Error, Result};
use crate::ids::StreamId;

/// Silence after which the kernel asks whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How long a worker is believed to be there after it was last heard of.
pub const PRESENCE_TTL: Duration = Duration::from_secs(15);

/// Certificates for a connection by TLS, in PEM.
#[derive(Clone, Default)]
pub struct Certificates {
    /// Of who signs the server's; none for those of the system.
    pub ca: Option<Vec<u8>>,
    /// The client's own, and its key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// How to reach Redis.
#[derive(Clone)]
pub struct Server {
    target: Target,
    /// Where it is, without the password: for messages.
    pub shown: String,
    /// Longest time that a publication may take.
    pub timeout: Duration,
    /// Longest time that connecting may take.
    pub connect_timeout: Duration,
}

/// What is asked for a connection.
#[derive(Clone)]
enum Target {
    /// A server, which may be any of a cluster.
    Node { info: ConnectionInfo, certificates: Option<Certificates> },
    /// Sentinels, which know the primary.
    Sentinels { sentinels: Vec<ConnectionInfo>, service: String, node: SentinelNodeConnectionInfo },
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.shown)
    }
}

/// What is wrong with a URL, without the URL: it may have a password in it.
fn unusable(scheme: &str, error: &RedisError) -> Error {
    let detail = error.detail().map_or_else(|| error.to_string(), ToString::to_string);
    Error::InvalidOption(format!("the broker's {scheme}:// URL cannot be used: {detail}"))
}

impl Server {
    /// The server at `url`: `redis://`, `rediss://` (TLS), `unix://`, the same with Valkey's name, or
    /// `redis+sentinel://`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a URL that is none of these. Nothing is connected yet.
    pub fn new(
        url: &str,
        certificates: Certificates,
        timeout: Duration,
        connect_timeout: Duration,
    ) -> Result<Self> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let is_tls = matches!(scheme, "rediss" | "valkeys");
        if (certificates.ca.is_some() || certificates.client.is_some()) && !is_tls {
            return Err(Error::InvalidOption(format!("certificates are for rediss://, not for {scheme}://")));
        }
        if certificates.ca.as_deref().is_some_and(|ca| CertificateDer::from_pem_slice(ca).is_err()) {
            return Err(Error::InvalidOption("ca_certs must be a file with certificates in PEM".into()));
        }
        let (target, shown) = match scheme {
            "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix" => {
                let info = address(scheme, url)?;
                let shown = shown(&info, scheme);
                let target = Target::Node { info, certificates: is_tls.then_some(certificates) };
                (target, shown)
            }
            "redis+sentinel" | "valkey+sentinel" => sentinels(scheme, url)?,
            _ => {
                let given =
                    if scheme.is_empty() { "this has none".into() } else { format!("not {scheme:?}") };
                return Err(Error::InvalidOption(format!(
                    "a broker's URL must have the scheme redis://, rediss://, valkey://, valkeys://, unix:// or \
                     redis+sentinel://, {given}"
                )));
            }
        };
        let server = Self { target, shown, timeout, connect_timeout };
        // What is wrong with certificates is said now.
        if let Target::Node { info, certificates } = &server.target {
            client(info.clone(), certificates.as_ref()).map_err(|error| unusable(scheme, &error))?;
        }
        Ok(server)
    }

    /// What makes connections to where the hub's keys are now: `moved_to` is what a node of a cluster said.
    ///
    /// # Errors
    /// What the sentinels say, or fail to.
    pub async fn client(&self, moved_to: Option<(String, u16)>) -> RedisResult<Client> {
        match &self.target {
            Target::Node { info, certificates } => {
                let info = match moved_to {
                    None => info.clone(),
                    Some((host, port)) => {
                        let addr = at_node(info.addr(), host, port);
                        info.clone().set_addr(addr)
                    }
                };
                client(info, certificates.as_ref())
            }
            Target::Sentinels { sentinels, service, node } => {
                Sentinel::build(sentinels.clone())?.async_master_for(service, Some(node)).await
            }
        }
    }
}

fn tcp_settings() -> TcpSettings {
    // A connection on which little happens must not be forgotten by what is in between.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

/// What a URL says of one server.
fn address(scheme: &str, url: &str) -> Result<ConnectionInfo> {
    let info = url.into_connection_info().map_err(|error| unusable(scheme, &error))?;
    if info.redis_settings().db() < 0 {
        return Err(Error::InvalidOption(format!(
            "the broker's {scheme}:// URL cannot be used: the database's number must not be negative"
        )));
    }
    // What a URL may say of the protocol is for other clients: replies are read as this one writes them.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    Ok(info.set_redis_settings(settings).set_tcp_settings(tcp_settings()))
}

fn client(info: ConnectionInfo, certificates: Option<&Certificates>) -> RedisResult<Client> {
    let Some(Certificates { ca, client }) = certificates.cloned() else { return Client::open(info) };
    // Which cryptography TLS uses is the process's decision, and nobody else's in this library. It fails when it was
    // made before, here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client_tls = client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: ca })
}

/// Another node of a cluster, reached as the first one was.
fn at_node(first: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match first {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// `redis+sentinel://[[user]:password@]host:port[,host:port…]/service[?db=0]`. User and password are those of
/// the servers that the sentinels watch.
fn sentinels(scheme: &str, url: &str) -> Result<(Target, String)> {
    let rule = || {
        Error::InvalidOption(format!(
            "a {scheme}:// URL is {scheme}://[[user]:password@]host:port[,host:port]/service[?db=0]"
        ))
    };
    let rest = url.split_once("://").ok_or_else(rule)?.1;
    let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
    let (hosts, service) = rest.split_once('/').ok_or_else(rule)?;
    let (service, query) = service.split_once('?').unwrap_or((service, ""));
    let db = match query {
        "" => "0",
        query => query.strip_prefix("db=").ok_or_else(rule)?,
    };
    if service.is_empty() || service.contains('/') || hosts.is_empty() {
        return Err(rule());
    }
    let login = if login.is_empty() { String::new() } else { format!("{login}@") };
    let node = address(scheme, &format!("redis://{login}host/{db}"))?.redis_settings().clone();
    let sentinels: Vec<ConnectionInfo> = hosts
        .split(',')
        .map(|host| {
            let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:26379") };
            address(scheme, &format!("redis://{with_port}"))
        })
        .collect::<Result<_>>()?;
    let shown = format!("{scheme}://{hosts}/{service}");
    let node = SentinelNodeConnectionInfo::default()
        .set_redis_connection_info(node)
        .set_tcp_settings(tcp_settings());
    Ok((Target::Sentinels { sentinels, service: service.into(), node }, shown))
}

fn shown(info: &ConnectionInfo, scheme: &str) -> String {
    let user = info.redis_settings().username().map_or_else(String::new, |user| format!("{user}@"));
    format!("{scheme}://{user}{}/{}", info.addr(), info.redis_settings().db())
}

/// The keys of one hub. They share one hash tag, so that in a cluster they are on one node.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The stream.
    pub events: String,
    /// The workers that have subscribers, by when they are believed to be gone.
    pub workers: String,
    /// What the key of a worker's subscribers begins with.
    pub presence: String,
}

impl Keys {
    /// The keys of the hub called `name`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a prefix or name that is empty, has braces in it, which would change the hash
    /// tag, or a control character.
    pub fn new(prefix: &str, name: &str) -> Result<Self> {
        for (option, value) in [("prefix", prefix), ("name", name)] {
            if value.is_empty() || value.contains(|c: char| matches!(c, '{' | '}') || c.is_control()) {
                return Err(Error::InvalidOption(format!(
                    "{option} must not be empty, or have braces or control characters in it, with a broker, got \
                     {value:?}"
                )));
            }
        }
        let tag = format!("{{{prefix}:{name}}}");
        Ok(Self {
            events: format!("{tag}:events"),
            workers: format!("{tag}:workers"),
            presence: format!("{tag}:presence:"),
        })
    }
}

/// What the stream keeps.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// About so many entries, and not fewer.
    pub count: usize,
    /// None older than this.
    pub age: Option<Duration>,
    /// None goes for the number before it has this age.
    pub min_age: Duration,
    /// How many bytes of it a process takes over when it starts.
    pub bytes: usize,
}

impl Kept {
    /// Whether an entry is older than any should be, at a time by Redis's clock in milliseconds. The stream may
    /// have it still: it is trimmed when something is published, and not to the entry.
    #[must_use]
    pub fn is_too_old(&self, id: StreamId, now: u64) -> bool {
        self.age.is_some_and(|age| u128::from(now.saturating_sub(id.ms)) > age.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server> {
        let second = Duration::from_secs(1);
        Server::new(url, Certificates::default(), second, second)
    }

    #[test]
    fn urls() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379/0"),
            ("redis://ann:secret@10.0.0.1:7000/3", "redis://ann@10.0.0.1:7000/3"),
            ("rediss://:secret@localhost", "rediss://localhost:6379/0"),
            ("valkey://localhost", "valkey://localhost:6379/0"),
            ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock/2"),
            ("redis+sentinel://a:secret@one:26379,two/main?db=2", "redis+sentinel://one:26379,two/main"),
        ] {
            assert_eq!(server(url).unwrap().shown, shown);
        }
    }

    #[test]
    fn wrong_urls_do_not_show_their_password() {
        for url in
            ["", "localhost", "http://localhost", "redis+cluster://a:secret@b", "redis://x:secret@h/db"]
        {
            let Err(Error::InvalidOption(text)) = server(url) else { panic!("{url:?} was taken") };
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn keys_share_one_hash_tag() {
        let keys = Keys::new("sse-hub", "default").unwrap();
        assert_eq!(keys.events, "{sse-hub:default}:events");
        assert_eq!(keys.presence, "{sse-hub:default}:presence:");
        assert!(Keys::new("a{b", "c").is_err());
        assert!(Keys::new("a", "").is_err());
    }
}
