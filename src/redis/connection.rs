//! Connections to Redis over sockets of our own: the client library exposes no descriptor, and a forked child
//! must close its copies.

use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisResult};
use rustls::pki_types::ServerName;
#[cfg(unix)]
use socket2::SockAddr;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsConnector;

#[cfg(unix)]
use crate::descriptors::{NoFork, disown, no_fork, open_owned};

/// Silence after which the kernel probes the connection.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where a server listens.
#[derive(Clone)]
pub enum Address {
    /// A host's port; with TLS when there is a connector.
    Tcp { host: String, port: u16, tls: Option<Tls> },
    /// A Unix socket.
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

/// What a connection over TLS needs.
#[derive(Clone)]
pub struct Tls(pub Arc<rustls::ClientConfig>);

/// A connection. It is shared by its clones; the last one closes the socket.
#[derive(Clone)]
pub struct Connection {
    inner: MultiplexedConnection,
    _driver: Arc<Driver>,
}

/// The task that reads and writes the socket.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Deref for Connection {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.inner
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.inner
    }
}

impl Connection {
    /// Connect, and authenticate. Commands have no time limit.
    pub async fn open(address: &Address, login: &RedisConnectionInfo) -> RedisResult<Self> {
        match address {
            Address::Tcp { host, port, tls: None } => Self::over(connect(host, *port).await?, login).await,
            Address::Tcp { host, port, tls: Some(tls) } => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let socket = connect(host, *port).await?;
                Self::over(TlsConnector::from(tls.0.clone()).connect(name, socket).await?, login).await
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let address = SockAddr::unix(path)?;
                let socket =
                    Tracked::open(|| tokio::net::UnixStream::from_std(connecting(&address)?.into()))?;
                socket.0.writable().await?;
                socket.0.take_error()?.map_or(Ok(()), Err)?;
                Self::over(socket, login).await
            }
        }
    }

    async fn over<S>(socket: S, login: &RedisConnectionInfo) -> RedisResult<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (inner, driver) = MultiplexedConnection::new_with_config(login, socket, config).await?;
        let driver = Arc::new(Driver(tokio::spawn(driver).abort_handle()));
        Ok(Self { inner, _driver: driver })
    }
}

/// Connect to the address of `host` that answers first.
async fn connect(host: &str, port: u16) -> io::Result<Tracked<TcpStream>> {
    let mut attempts = JoinSet::new();
    for address in tokio::net::lookup_host((host, port)).await? {
        attempts.spawn(async move {
            let socket = connect_to(address).await?;
            socket.0.set_nodelay(true)?;
            // Middleboxes must not drop a quiet connection.
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
            SockRef::from(&socket.0).set_tcp_keepalive(&keepalive)?;
            Ok(socket)
        });
    }
    let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => failed = error,
            Err(error) => failed = io::Error::other(error),
        }
    }
    Err(failed)
}

#[cfg(unix)]
async fn connect_to(address: SocketAddr) -> io::Result<Tracked<TcpStream>> {
    let socket = Tracked::open(|| TcpStream::from_std(connecting(&address.into())?.into()))?;
    socket.0.writable().await?;
    socket.0.take_error()?.map_or(Ok(socket), Err)
}

#[cfg(not(unix))]
async fn connect_to(address: SocketAddr) -> io::Result<Tracked<TcpStream>> {
    Ok(Tracked(TcpStream::connect(address).await?))
}

/// A socket that connects: once it is writable, it has connected or has an error.
#[cfg(unix)]
fn connecting(address: &SockAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(address.domain(), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// A socket that a forked child closes.
struct Tracked<S: Socket>(S, #[cfg(unix)] Option<NoFork>);

#[cfg(unix)]
use std::os::fd::AsRawFd as Socket;
#[cfg(not(unix))]
use std::os::windows::io::AsRawSocket as Socket;

#[cfg(unix)]
impl<S: Socket> Tracked<S> {
    /// Open it, which may not wait.
    fn open(open: impl FnOnce() -> io::Result<S>) -> io::Result<Self> {
        Ok(Self(open_owned(open)?, None))
    }
}

impl<S: Socket> Drop for Tracked<S> {
    fn drop(&mut self) {
        // Before the socket is closed: from then on its number may be another's.
        #[cfg(unix)]
        {
            self.1 = Some(no_fork());
            disown(self.0.as_raw_fd());
        }
    }
}

impl<S: Socket + AsyncRead + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: Socket + AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
