//! Ordinary requests beside the streams.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use crate::http::Response;
use crate::socket::{self, Epoll};

/// One request on a connection of its own, answered whenever the server gets to it.
#[derive(Debug)]
pub struct Exchange {
    fd: OwnedFd,
    token: u64,
    request: Vec<u8>,
    response: Response,
    body: Vec<u8>,
    closed: bool,
    failed: Option<String>,
}

impl Exchange {
    /// Connects; the request goes out once that is through.
    pub fn start(
        epoll: &Epoll,
        token: u64,
        target: SocketAddrV4,
        method: &str,
        path: &str,
    ) -> io::Result<Self> {
        let fd = socket::connect(Ipv4Addr::LOCALHOST, target, None)?;
        epoll.await_connect(&fd, token)?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        Ok(Self {
            fd,
            token,
            request: request.into_bytes(),
            response: Response::default(),
            body: Vec::new(),
            closed: false,
            failed: None,
        })
    }

    /// Goes on after readiness.
    pub fn on_ready(&mut self, epoll: &Epoll, writable: bool, buffer: &mut [u8]) {
        if let Err(error) = self.advance(epoll, writable, buffer) {
            self.failed = Some(error);
        }
    }

    fn advance(&mut self, epoll: &Epoll, writable: bool, buffer: &mut [u8]) -> Result<(), String> {
        if writable && !self.request.is_empty() {
            socket::connected(&self.fd)
                .and_then(|()| socket::send(&self.fd, &std::mem::take(&mut self.request)))
                .and_then(|()| epoll.await_input(&self.fd, self.token))
                .map_err(|error| error.to_string())?;
            return Ok(());
        }
        match socket::receive(&self.fd, buffer) {
            Ok(0) if self.response.ends_with_connection() => self.closed = true,
            Ok(0) => return Err("closed without an answer".into()),
            Ok(count) => {
                let Self { response, body, .. } = self;
                response
                    .feed(&buffer[..count], |part| body.extend_from_slice(part))
                    .map_err(|error| format!("{error:?}"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// The body once it is complete, or why there is none.
    pub fn outcome(&self) -> Option<Result<&[u8], String>> {
        if let Some(failed) = &self.failed {
            return Some(Err(failed.clone()));
        }
        if !self.response.done() && !self.closed {
            return None;
        }
        Some(match self.response.status {
            200..=299 => Ok(&self.body),
            status => Err(format!("status {status}: {}", String::from_utf8_lossy(&self.body))),
        })
    }
}
