//! The address of Redis, and a hub's keys there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{
    ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    RedisError, RedisResult,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinSet;

use super::connection::{Address, Connection, Tls};
use crate::error::{Error, Result};

/// The port of a sentinel.
const SENTINEL_PORT: u16 = 26379;

/// Certificates for a connection over TLS, in PEM.
#[derive(Clone, Default)]
pub struct Certificates {
    /// The authority that signs the server's certificate; `None` for the system's authorities.
    pub ca: Option<Vec<u8>>,
    /// The client's own, and its key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// How to reach Redis.
#[derive(Clone)]
pub struct Server {
    target: Target,
    login: RedisConnectionInfo,
    /// Its address without the password, for messages.
    pub shown: String,
    /// Longest time that a publication may take.
    pub timeout: Duration,
    /// Longest time that connecting may take.
    pub connect_timeout: Duration,
}

/// What a connection leads to.
#[derive(Clone)]
enum Target {
    /// A server, which may be any of a cluster.
    Node(Address),
    /// Sentinels, which know the primary of a service.
    Sentinels { sentinels: Vec<Address>, service: String, tls: Option<Tls> },
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.shown)
    }
}

/// An error about a URL, without the URL itself, which may contain a password.
fn unusable(scheme: &str, detail: impl fmt::Display) -> Error {
    Error::InvalidOption(format!("the broker's {scheme}:// URL cannot be used: {detail}"))
}

impl Server {
    /// The server at `url`: `redis://`, `unix://` or `redis+sentinel://`; with TLS `rediss://` or
    /// `rediss+sentinel://`; the same with Valkey's name.
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
        let is_tls = matches!(scheme, "rediss" | "valkeys" | "rediss+sentinel" | "valkeys+sentinel");
        if (certificates.ca.is_some() || certificates.client.is_some()) && !is_tls {
            return Err(Error::InvalidOption(format!("certificates are for rediss://, not for {scheme}://")));
        }
        let tls = is_tls.then(|| tls(scheme, certificates)).transpose()?;
        let (target, login, shown) = match scheme {
            "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix" => {
                let info = parse(scheme, url)?;
                let shown = shown(&info, scheme);
                (Target::Node(address(&info, tls)?), info.redis_settings().clone(), shown)
            }
            "redis+sentinel" | "rediss+sentinel" | "valkey+sentinel" | "valkeys+sentinel" => {
                sentinels(scheme, url, tls.as_ref())?
            }
            _ => {
                let given =
                    if scheme.is_empty() { "this has none".into() } else { format!("not {scheme:?}") };
                return Err(Error::InvalidOption(format!(
                    "a broker's URL must have the scheme redis://, rediss://, valkey://, valkeys://, unix://, \
                     redis+sentinel:// or rediss+sentinel://, {given}"
                )));
            }
        };
        Ok(Self { target, login, shown, timeout, connect_timeout })
    }

    /// Connect to the server that has the hub's keys. `moved_to` is the node that a cluster has redirected to. The
    /// caller bounds the time.
    ///
    /// # Errors
    /// The error of the server or of the sentinels.
    pub async fn connect(&self, moved_to: Option<(String, u16)>) -> RedisResult<Connection> {
        match (&self.target, moved_to) {
            (Target::Node(Address::Tcp { tls, .. }), Some((host, port))) => {
                // Another node of the cluster, reached as the first one was.
                Connection::open(&Address::Tcp { host, port, tls: tls.clone() }, &self.login).await
            }
            (Target::Node(address), _) => Connection::open(address, &self.login).await,
            (Target::Sentinels { sentinels, service, tls }, _) => {
                let (host, port) = primary(sentinels, service).await?;
                let address = Address::Tcp { host, port, tls: tls.clone() };
                let mut connection = Connection::open(&address, &self.login).await?;
                let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(&mut *connection).await?;
                if role.first() != Some(&redis::Value::BulkString(b"master".into())) {
                    return Err(unknown("the server that the sentinels name is no primary"));
                }
                Ok(connection)
            }
        }
    }
}

fn unknown(text: &'static str) -> RedisError {
    (ErrorKind::Io, text).into()
}

/// The primary of a service, as the first sentinel that answers names it.
async fn primary(sentinels: &[Address], service: &str) -> RedisResult<(String, u16)> {
    let mut answers = JoinSet::new();
    for sentinel in sentinels {
        let (sentinel, service) = (sentinel.clone(), service.to_owned());
        answers.spawn(async move {
            let mut connection = Connection::open(&sentinel, &RedisConnectionInfo::default()).await?;
            let mut command = redis::cmd("SENTINEL");
            command.arg("get-master-addr-by-name").arg(service);
            let found: Option<(String, u16)> = command.query_async(&mut *connection).await?;
            found.ok_or_else(|| unknown("the sentinels do not know this service"))
        });
    }
    let mut failed = unknown("no sentinel is known");
    while let Some(answer) = answers.join_next().await {
        match answer {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => failed = error,
            Err(_) => {}
        }
    }
    Err(failed)
}

/// The part of a URL that describes one server.
fn parse(scheme: &str, url: &str) -> Result<ConnectionInfo> {
    // The library that parses it is built without TLS, and refuses these schemes.
    let plain = match url.split_once("://") {
        Some(("rediss" | "valkeys", rest)) => &format!("redis://{rest}"),
        _ => url,
    };
    let info = plain.into_connection_info().map_err(|error: RedisError| {
        let detail = error.detail().map_or_else(|| error.to_string(), ToString::to_string);
        unusable(scheme, detail)
    })?;
    if info.redis_settings().db() < 0 {
        return Err(unusable(scheme, "the database's number must not be negative"));
    }
    // The URL's parser escapes what a host's name has not, and no resolver takes an escape for a character.
    if let ConnectionAddr::Tcp(host, _) = info.addr()
        && host.contains('%')
    {
        let rule = "must be plain ASCII without escapes (%): a name in another alphabet is written in \
                    Punycode, as xn--…";
        return Err(unusable(scheme, format_args!("the host {host} {rule}")));
    }
    // A protocol version in the URL is for other clients: this one always uses its own.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    Ok(info.set_redis_settings(settings))
}

fn address(info: &ConnectionInfo, tls: Option<Tls>) -> Result<Address> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Address::Tcp { host: host.clone(), port: *port, tls }),
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => Ok(Address::Unix(path.clone())),
        _ => Err(Error::InvalidOption("this machine cannot connect to such a broker's URL".into())),
    }
}

/// The TLS connector. Errors in certificates are raised here, not while connecting.
fn tls(scheme: &str, certificates: Certificates) -> Result<Tls> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = certificates.ca {
        let authorities = CertificateDer::pem_slice_iter(&ca).flatten();
        if roots.add_parsable_certificates(authorities).0 == 0 {
            return Err(Error::InvalidOption("ca_certs must be a file with certificates in PEM".into()));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(scheme, error))?
        .with_root_certificates(roots);
    let config = match certificates.client {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(&chain).collect::<std::result::Result<_, _>>();
            let chain = chain.map_err(|error| unusable(scheme, error))?;
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| unusable(scheme, error))?;
            config.with_client_auth_cert(chain, key).map_err(|error| unusable(scheme, error))?
        }
    };
    Ok(Tls(Arc::new(config)))
}

/// `redis+sentinel://[[user]:password@]host:port[,host:port…]/service[?db=0]`. User and password are those of
/// the servers that the sentinels watch; TLS is for all of them.
fn sentinels(scheme: &str, url: &str, tls: Option<&Tls>) -> Result<(Target, RedisConnectionInfo, String)> {
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
    let node = parse(scheme, &format!("redis://{login}host/{db}"))?.redis_settings().clone();
    let sentinels = hosts.split(',').map(|host| {
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:{SENTINEL_PORT}") };
        address(&parse(scheme, &format!("redis://{with_port}"))?, tls.cloned())
    });
    let sentinels = sentinels.collect::<Result<_>>()?;
    let shown = format!("{scheme}://{hosts}/{service}");
    Ok((Target::Sentinels { sentinels, service: service.into(), tls: tls.cloned() }, node, shown))
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
    /// The copy of the stream that was written to last.
    pub copy: String,
    /// The workers that have subscribers, sorted by when they expire.
    pub workers: String,
    /// The prefix of the key of a worker's subscribers.
    pub presence: String,
    /// The topics that have ended, by when their names are free.
    pub ended: String,
    /// How each of them did.
    pub endings: String,
    /// The prefix of the key of a lease.
    pub lease: String,
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
            copy: format!("{tag}:copy"),
            workers: format!("{tag}:workers"),
            presence: format!("{tag}:presence:"),
            ended: format!("{tag}:ended"),
            endings: format!("{tag}:endings"),
            lease: format!("{tag}:lease:"),
        })
    }

    /// The key of a lease.
    #[must_use]
    pub fn lease_of(&self, name: &str) -> String {
        format!("{}{name}", self.lease)
    }

    /// The key of a worker's subscribers.
    #[must_use]
    pub fn presence_of(&self, worker: &str) -> String {
        format!("{}{worker}", self.presence)
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
            ("rediss+sentinel://one/main", "rediss+sentinel://one/main"),
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
