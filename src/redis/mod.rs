//! Redis Streams as a hub's broker: [`StreamBroker`] over a stream, the hub's log, in Redis or Valkey.
//!
//! | file | |
//! |---|---|
//! | [`options`] | URLs, certificates and keys |
//! | `connection` | sockets, TLS |
//! | `link` | the shared connection, and what errors of Redis's mean |
//! | `store`, `log`, `append` | the log and the presence table as commands |
//! | `inner` | what these share |
//! | `copies` | which server's copy of the data answers |
//! | `scripts` | what Redis itself runs |
//! | `reply` | entries out of replies |

use std::io;
use std::sync::Arc;

use crate::broker::Broker;
use crate::hub::Hub;
use crate::stream_broker::{Kept, Observer, StreamBroker};

mod append;
mod connection;
mod copies;
mod inner;
mod link;
mod log;
pub mod options;
#[doc(hidden)] // public for its fuzz target
pub mod reply;
mod scripts;
mod store;

use options::{Keys, Server};
use store::RedisStore;

/// Connect `hub`, which was made with [`Hub::of_stream`], and give it its broker. Does not wait for the connection.
///
/// # Errors
/// What the system says when it has no thread or descriptor to give.
pub fn start(
    hub: &Arc<Hub>,
    server: Server,
    keys: Keys,
    kept: Kept,
    min_replicas: u32,
    observer: Box<dyn Observer>,
) -> io::Result<Arc<dyn Broker>> {
    let broker = StreamBroker::start(hub, RedisStore::new(server, keys, kept, min_replicas), kept, observer)?;
    Ok(broker)
}
