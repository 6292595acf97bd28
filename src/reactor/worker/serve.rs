//! Writing to clients, one after the other, as much as each socket takes.

use std::time::Instant;

use super::{SLICE, Worker};
use crate::identity::CloseReason;
use crate::reactor::connection::{Phase, Written};
use crate::subscriber::Taken;

/// Clients served between two polls.
const BATCH: usize = 256;

impl Worker {
    pub(super) fn serve_schedule(&mut self) {
        let start = Instant::now();
        for served in 1..=BATCH {
            let Some(token) = self.schedule.pop_front() else { return self.coalesced.clear() };
            self.before_drain = self.before_drain.saturating_sub(1);
            if let Some(connection) = self.connections.get_mut(token) {
                connection.is_scheduled = false;
                self.serve(token);
                self.await_room(token);
            }
            if self.before_drain == 0
                && let Some(published) = self.published.take()
            {
                self.hub.written(published);
            }
            // Reading the clock costs as much as 1/50 of a write.
            if served % 16 == 0 && start.elapsed() >= SLICE {
                return;
            }
        }
    }

    /// Poll a socket that is full for room, too, from now on. Most never are.
    fn await_room(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.awaits_room() {
            // It fails without memory: then the stall check finds that the client takes nothing.
            let _ = self.shared.sockets.await_room(connection.fd());
        }
    }

    fn serve(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if matches!(connection.phase, Phase::Lingering) {
            return;
        }
        match connection.flush(&mut self.coalesced) {
            Ok(Written::All) => {}
            Ok(Written::Blocked) => return,
            Err(_) => return self.close(token, &CloseReason::Client),
        }
        if matches!(connection.phase, Phase::Ending(_)) {
            return self.linger(token);
        }
        // A first visit that finds more than the last entries has found a page of a replay, or the end; the second
        // finds what follows. Anything beyond that waits for the next round.
        for _ in 0..2 {
            self.out.clear();
            let found = self.hub.take_last(&self.reader, connection.subscriber(), &mut self.out);
            match found {
                Taken::Nothing => return,
                Taken::Some | Taken::Last => {
                    match (connection.write(&mut self.out, &mut self.coalesced), found) {
                        (Ok(Written::All), Taken::Last) => return,
                        (Ok(Written::All), _) => {}
                        (Ok(Written::Blocked), Taken::Last) => {
                            return self.reader.write_blocked(&connection.identity, self.hub.clock.now());
                        }
                        (Ok(Written::Blocked), _) => return,
                        (Err(_), _) => return self.close(token, &CloseReason::Client),
                    }
                }
                Taken::Gap => {
                    let identity = connection.identity.clone();
                    if self.hub.close(&self.reader, &identity, CloseReason::Gap).is_some() {
                        self.listener.closed(&identity, &CloseReason::Gap);
                    }
                    break;
                }
                Taken::Finished => {
                    let identity = connection.identity.clone();
                    if let Some((reason, _)) = self.hub.close_finished(&self.reader, &identity) {
                        self.listener.closed(&identity, &reason);
                    }
                }
                Taken::End => {
                    let reason = connection.identity.closed.get();
                    connection.phase = if reason.is_some_and(CloseReason::breaks_body) {
                        Phase::BREAKING
                    } else {
                        Phase::Ending(0)
                    };
                    break;
                }
            }
        }
        self.schedule(token);
    }
}
