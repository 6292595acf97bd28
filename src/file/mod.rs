//! Files in a directory as a hub's broker: [`StreamBroker`] over a log that all processes of a host share.
//!
//! ```text
//! DIR/NAME/lock                      locked for a batch; notes the newest segment
//! DIR/NAME/<id before the first>.log segments of about an eighth of the history; the newest is never deleted
//! DIR/NAME/boot                      during which boot of the machine the log was written, up to where it is on disk
//! DIR/NAME/life                      which topics have ended, who holds leases
//! DIR/NAME/workers/<epoch>           a worker's subscribers; locked while its process lives
//! DIR/NAME/workers/.claims           locked while a subscriber claims a place among its user's
//! ```
//!
//! | file | |
//! |---|---|
//! | [`place`] | URLs, and where a log may lie |
//! | [`format`] | the bytes of heads and records |
//! | `held` | files that a forked child closes |
//! | `system` | the clock and writes, which tests make fail |
//! | `segment`, `directory` | one file, and all of them |
//! | `boot` | what a machine that stopped may have lost |
//! | `salt` | ids |
//! | [`journal`], `mending`, [`reading`] | the log: its end, appending, trimming; mending; reading |
//! | `watch` | waiting for what is appended |
//! | `workers` | presence |
//! | `life` | topics that ended, and leases |
//! | [`store`], [`log`], `appending`, `inner` | all of that as a store |

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::hub::Hub;
use crate::stream_broker::{Observer, StreamBroker};

mod appending;
mod boot;
mod directory;
mod ends_and_leases;
pub mod format;
mod inner;
pub mod journal;
pub mod log;
mod mending;
mod owned;
pub mod place;
pub mod reading;
mod salt;
pub mod segment;
pub mod store;
pub mod system;
mod watch;
mod workers;

use journal::Settings;
use store::FileStore;

/// Give `hub`, which was made with [`Hub::of_stream`], a log as its broker. Does not wait for it.
///
/// # Errors
/// The system's error when no thread or descriptor is available.
pub fn start(
    hub: &Arc<Hub>,
    settings: Settings,
    timeout: Duration,
    observer: Box<dyn Observer>,
) -> io::Result<Arc<dyn Broker>> {
    let kept = settings.kept;
    let broker = StreamBroker::start(hub, FileStore::new(settings, timeout), kept, observer)?;
    Ok(broker)
}
