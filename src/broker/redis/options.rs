//! Where Redis is, and what a hub keeps there.

use std::fmt;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{Client, ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, TlsCertificates};

use crate::error::{Error, Result};

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
    /// Makes connections.
    pub client: Client,
    /// Where it is, without the password: for messages.
    pub shown: String,
    /// Longest time that a publication may take.
    pub timeout: Duration,
    /// Longest time that connecting may take.
    pub connect_timeout: Duration,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.shown)
    }
}

impl Server {
    /// The server at `url`: `redis://`, `rediss://` (TLS), `unix://`, or the same with Valkey's name.
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
        if !matches!(
            scheme,
            "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix"
        ) {
            // The URL itself may have a password in it.
            return Err(Error::InvalidOption(format!(
                "a broker's URL must begin with redis://, rediss://, valkey://, valkeys:// or unix://, not with \
                 {scheme:?}"
            )));
        }
        let wrong = |error: &redis::RedisError| {
            let detail = error.detail().map_or_else(|| error.to_string(), ToString::to_string);
            Error::InvalidOption(format!("the broker's {scheme}:// URL cannot be used: {detail}"))
        };
        let info = url.into_connection_info().map_err(|error| wrong(&error))?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let shown = shown(&info, scheme);
        let is_tls = matches!(scheme, "rediss" | "valkeys");
        let given = certificates.ca.is_some() || certificates.client.is_some();
        if given && !is_tls {
            return Err(Error::InvalidOption(format!("certificates are for rediss://, not for {scheme}://")));
        }
        let client = if is_tls {
            let client_tls = certificates
                .client
                .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
            Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: certificates.ca })
        } else {
            Client::open(info)
        };
        let client = client.map_err(|error| wrong(&error))?;
        Ok(Self { client, shown, timeout, connect_timeout })
    }
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
    /// [`Error::InvalidOption`] for a prefix or name that is empty or has braces in it, which would change the
    /// hash tag.
    pub fn new(prefix: &str, name: &str) -> Result<Self> {
        for (option, value) in [("prefix", prefix), ("name", name)] {
            if value.is_empty() || value.contains(['{', '}']) {
                return Err(Error::InvalidOption(format!(
                    "{option} must not be empty or have braces in it with a broker, got {value:?}"
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
    /// How many bytes of it a process takes over when it starts.
    pub bytes: usize,
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
